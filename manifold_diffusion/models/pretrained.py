"""Saving a model to a folder that can be shared, and reading it back without unpickling anything."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from .._config import from_config, to_config
from .._errors import CheckpointError, ConfigError
from .._files import write_bytes
from .._version import __version__
from ..manifolds import Manifold

__all__ = ["PretrainedModel", "description", "load_model", "save_model"]

_FORMAT = 1


def save_model(
    model: nn.Module, folder: str | os.PathLike[str], card: str, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``README.md``.

    Everything is written to a folder inside the target first and moved into place at the end. A full disk leaves an
    older model as it was; a process that is killed between two moves leaves a folder whose checksums don't fit, never
    half a model that loads.

    Raises:
        CheckpointError: if the folder can't be written.
        ConfigError: if a part can't be described by its constructor's arguments.
    """
    from safetensors.torch import save

    folder = Path(folder)
    weights = save({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()})
    config: dict[str, Any] = {
        "format": _FORMAT,
        "model": to_config(model),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        config["config_sha256"] = _config_digest(config)
        config["versions"] = {
            "manifold_diffusion": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        config["metadata"] = dict(metadata or {})
        text = json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ConfigError(
            f"The model can't be saved to {folder}: {error}. Metadata must be numbers, strings, lists and dictionaries."
        ) from error
    contents = {"model.safetensors": weights, "README.md": card.encode(), "config.json": text.encode()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-", ignore_cleanup_errors=True) as staging:
            for name, content in contents.items():
                write_bytes(Path(staging, name), content)
            _move_all(Path(staging), folder, list(contents))
    except OSError as error:
        raise CheckpointError(
            f"The model can't be saved to {folder}: {error}. A model that was there before is unchanged. Free some "
            "space or choose another folder."
        ) from error


def _move_all(staging: Path, folder: Path, names: Sequence[str]) -> None:
    """Move files into a folder: all of them or, when a move fails, none."""
    replaced: list[str] = []
    try:
        for name in names:
            if (folder / name).exists():
                shutil.copy2(folder / name, staging / f"old-{name}")
        for name in names:
            os.replace(staging / name, folder / name)
            replaced.append(name)
    except OSError:
        for name in replaced:
            if (staging / f"old-{name}").exists():
                os.replace(staging / f"old-{name}", folder / name)
            else:
                (folder / name).unlink()
        raise


def _config_digest(config: Mapping[str, Any]) -> str:
    """Checksum of what decides how the model is built; versions and metadata may be edited."""
    content = {key: config[key] for key in ("format", "model", "sha256")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_model(
    folder: str | os.PathLike[str], trusted: Sequence[str] = (), device: torch.device | str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Model and configuration of a folder written by :func:`save_model`.

    Raises:
        CheckpointError: for a missing, truncated or altered file, or weights that don't fit the configuration.
        ConfigError: for a configuration that names classes outside the trusted packages.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = _local(folder)
    config_path, weights_path = folder / "config.json", folder / "model.safetensors"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        weights = weights_path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{folder} is not a saved model: {error}. Expected config.json and model.safetensors."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{config_path} is not valid JSON: {error}. It is truncated or altered; get a fresh copy."
        ) from error
    if not isinstance(config, dict) or not {"format", "model", "sha256"} <= set(config):
        raise CheckpointError(
            f"{config_path} lacks the keys format, model, sha256: it is not a saved model of this library."
        )
    if config["format"] != _FORMAT:
        raise CheckpointError(
            f"{folder} has format {config['format']}; this version reads format {_FORMAT}. Upgrade manifold_diffusion."
        )
    digest = hashlib.sha256(weights).hexdigest()
    if digest != config["sha256"]:
        raise CheckpointError(
            f"{weights_path} is truncated or altered: sha256 {digest[:12]}..., config.json says "
            f"{str(config['sha256'])[:12]}.... Get a fresh copy."
        )
    altered = (
        f"{config_path} was altered: its model does not have the checksum config_sha256. Get a fresh copy; to change a "
        "model, change it in Python and save it."
    )
    fresh = _config_digest(config) == config.get("config_sha256")
    try:
        model = from_config(config["model"], trusted)
    except ConfigError as error:  # an unknown key or class tells more than a checksum
        raise error if fresh else CheckpointError(f"{altered} It can't be built: {error}") from error
    if not fresh:
        raise CheckpointError(altered)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"The configuration of {folder} describes a {type(model).__name__}, not a model.")
    try:
        # Assigned, not copied, so that a model in double precision comes back in double precision.
        model.load_state_dict(load(weights), assign=True)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{weights_path} can't be read: {error}.") from error
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


def description(model: PretrainedModel, *parts: Any) -> Any:
    """What a run must agree with to be resumed: the configuration, or names of the parts where one has none."""
    try:
        return to_config(model)
    except ConfigError:
        return [repr(model.manifold), *[part if isinstance(part, str) else type(part).__name__ for part in parts]]


class PretrainedModel(nn.Module):
    """A model that is saved to a folder that can be shared, and read back; the concrete models say what is in its card.

    Attributes:
        manifold: where points live.
        metadata: what the model card says of data and metrics; saved with the model.
    """

    manifold: Manifold
    metadata: dict[str, Any]

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and device of the network: its first floating-point parameter, or buffer."""
        network = getattr(self, "network", self)
        tensors = (tensor for part in (network.parameters(), network.buffers()) for tensor in part)
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(()))

    def _card(self) -> str:
        """Markdown of the model card."""
        raise NotImplementedError

    def save_pretrained(self, folder: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
        """Write ``config.json``, ``model.safetensors`` and a model card ``README.md``.

        Args:
            folder: made if it does not exist.
            metadata: facts about data and metrics, added to :attr:`metadata`.

        Raises:
            CheckpointError: if the folder can't be written; what was in it stays.
            ConfigError: if a part can't be described by its constructor's arguments.
        """
        known, self.metadata = self.metadata, {**self.metadata, **(metadata or {})}
        try:
            save_model(self, folder, self._card(), self.metadata)
        except BaseException:
            self.metadata = known
            raise

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, trusted: Sequence[str] = (), device: torch.device | str = "cpu"
    ) -> Self:
        """Model of a folder written by :meth:`save_pretrained`, or of a Hugging Face Hub repository.

        Nothing is unpickled.

        Args:
            folder: path, or ``owner/name``.
            trusted: packages, besides this one, whose classes the configuration may name.
            device: where to put the model.

        Raises:
            CheckpointError: if a file is missing, truncated or altered, or holds another kind of model.
            ConfigError: if the configuration names classes that are not trusted.
        """
        with torch.inference_mode(False):  # it may be used outside later
            model, config = load_model(folder, trusted, device)
        if not isinstance(model, cls):
            raise CheckpointError(f"{folder} holds a {type(model).__name__}, not a {cls.__name__}.")
        metadata = config.get("metadata", {})
        if not isinstance(metadata, Mapping):
            raise CheckpointError(f"metadata in config.json of {folder} must be an object; got {metadata!r}.")
        model.metadata = dict(metadata)
        return model
