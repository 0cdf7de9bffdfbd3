"""The README of a saved model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from .._version import __version__

__all__ = ["model_card", "n_parameters"]


def model_card(
    title: str, kind: str, facts: Sequence[str], example: Sequence[str], metadata: Mapping[str, Any], note: str = ""
) -> str:
    """Markdown with what a model is, its data and metrics, and how to use it.

    Args:
        title: heading, such as ``Riemannian diffusion on Sphere(2)``.
        kind: name of the class, which reads the folder.
        facts: one line each about the parts.
        example: lines of Python after the model is loaded.
        metadata: of the model.
        note: a paragraph after the facts.
    """
    tag = title.partition(" on ")[0].partition(":")[0].lower().replace(" ", "-")
    lines = [
        "---",
        "library_name: manifold_diffusion",
        f"tags: [{tag}, generative-model]",
        "---",
        "",
        f"# {title}",
        "",
        *[f"- {fact}" for fact in facts],
        f"- written by manifold_diffusion {__version__}",
        "",
        *([note, ""] if note else []),
        "## Data and metrics",
        "",
        *([f"- {key}: {_text(value)}" for key, value in metadata.items()] or ["Not recorded."]),
        "",
        "## Use",
        "",
        "```python",
        f"from manifold_diffusion.models import {kind}",
        "",
        f'model = {kind}.from_pretrained("path/to/this/folder")',
        *example,
        "```",
        "",
    ]
    return "\n".join(lines)


def n_parameters(module: nn.Module) -> str:
    """How many parameters a network has, in words."""
    return f"{sum(p.numel() for p in module.parameters()):,} parameters"


def _text(value: Any) -> str:
    """A fact in words: of a mapping what is set."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None)
    return str(value)
