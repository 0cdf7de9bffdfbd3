"""The README of a saved model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._version import __version__

__all__ = ["model_card"]


def model_card(model: Any, metadata: Mapping[str, Any]) -> str:
    """Markdown with what the model is, its data and metrics, and how to sample it."""
    parameters = sum(p.numel() for p in model.network.parameters())
    schedule = getattr(model.process, "schedule", getattr(model.process, "path", "one per factor"))
    lines = [
        "---",
        "library_name: manifold_diffusion",
        f"tags: [{model.title.lower().replace(' ', '-')}, generative-model]",
        "---",
        "",
        f"# {model.title} on {model.manifold}",
        "",
        f"- process: `{type(model.process).__name__}`, schedule `{schedule}`",
        f"- network: `{type(model.network).__name__}`, {parameters:,} parameters",
        f"- objective: `{type(model.objective).__name__}`",
        f"- written by manifold_diffusion {__version__}",
        "",
        "Densities are in nats with respect to the Riemannian volume; the data are seen at the resolution of the least",
        "noise of the schedule.",
        "",
        "## Data and metrics",
        "",
        *([f"- {key}: {_text(value)}" for key, value in metadata.items()] or ["Not recorded."]),
        "",
        "## Use",
        "",
        "```python",
        f"from manifold_diffusion.models import {type(model).__name__}",
        "",
        f'model = {type(model).__name__}.from_pretrained("path/to/this/folder")',
        "x = model.sample(1000)",
        "log_p = model.log_prob(x)",
        "```",
        "",
        "```bash",
        "manifold-diffusion sample path/to/this/folder --n 1000 --out samples.npz",
        "```",
        "",
    ]
    return "\n".join(lines)


def _text(value: Any) -> str:
    """A fact in words: of a mapping what is set."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    return str(value)
