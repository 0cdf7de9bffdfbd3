"""Saving a model to a folder that can be shared, and reading it back without unpickling anything."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._config import from_config, to_config
from .._errors import CheckpointError, ConfigError
from .._version import __version__

__all__ = ["load_model", "save_model"]

_FORMAT = 1


def save_model(model: nn.Module, folder: str | os.PathLike[str], card: str, metadata: Mapping[str, Any] | None = None) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``.

    Everything is written beside the target and moved into place at the end, the configuration (which holds the checksum of the weights) last: a full disk
    or an interruption leaves an older model in the folder as it was or makes the folder fail its checksum, never half a model that loads.

    Raises:
        CheckpointError: if the folder can't be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    weights = save({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()})
    config = {
        "format": _FORMAT,
        "model": to_config(model),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "versions": {"manifold_diffusion": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "metadata": dict(metadata or {}),
    }
    text = json.dumps(config, indent=2, allow_nan=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as staging:
            for name, content in (("model.safetensors", weights), ("README.md", card.encode()), ("config.json", text.encode())):
                with open(Path(staging, name), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for name in ("model.safetensors", "README.md", "config.json"):
                os.replace(Path(staging, name), folder / name)
    except OSError as error:
        raise CheckpointError(f"The model can't be saved to {folder}: {error}. What was there before is unchanged unless this says otherwise.") from error


def load_model(folder: str | os.PathLike[str], trusted: Sequence[str] = (), device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Model and configuration of a folder written by :func:`save_model`.

    Raises:
        CheckpointError: for a missing, truncated or altered file, or weights that don't fit the configuration.
        ConfigError: for a configuration that names classes outside the trusted packages.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = _local(folder)
    try:
        config = json.loads(Path(folder, "config.json").read_text())
        weights = Path(folder, "model.safetensors").read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} is not a saved model: {error}. Expected config.json and model.safetensors.") from error
    except ValueError as error:
        raise CheckpointError(f"{Path(folder, 'config.json')} is not valid JSON: {error}. It is truncated or altered; get a fresh copy.") from error
    if not isinstance(config, dict) or not {"format", "model", "sha256"} <= set(config):
        raise CheckpointError(f"{Path(folder, 'config.json')} lacks the keys format, model, sha256: it is not a saved model of this library.")
    if config["format"] != _FORMAT:
        raise CheckpointError(f"{folder} has format {config['format']}; this version reads format {_FORMAT}. Upgrade manifold_diffusion.")
    digest = hashlib.sha256(weights).hexdigest()
    if digest != config["sha256"]:
        raise CheckpointError(
            f"{Path(folder, 'model.safetensors')} is truncated or altered: sha256 {digest[:12]}..., config.json says {str(config['sha256'])[:12]}.... Get a fresh copy."
        )
    try:
        state = load(weights)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{Path(folder, 'model.safetensors')} can't be read: {error}.") from error
    model = from_config(config["model"], trusted)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"The configuration of {folder} describes a {type(model).__name__}, not a model.")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"The weights of {folder} don't fit its configuration: {error}") from error
    return model.to(device).eval(), config


def _local(folder: str | os.PathLike[str]) -> Path:
    """The folder itself, or the local copy of a Hugging Face Hub repository ``owner/name``."""
    path = Path(folder)
    if path.exists():
        return path
    parts = str(folder).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", ".."):
        raise CheckpointError(f"There is no folder {folder}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(folder), allow_patterns=["config.json", "model.safetensors", "README.md"]))
    except Exception as error:  # the hub client raises many kinds; all mean that there is no model to be had
        raise CheckpointError(f"There is no folder {folder}, and the Hugging Face Hub gave none: {error}") from error
