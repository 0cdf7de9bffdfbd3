"""Generative modelling of data that lives on a manifold.

Names are imported on first use, so that ``import manifold_diffusion`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .models import AnalyticDiffusion, FlowMap, RiemannianDiffusion, RiemannianFlow

__all__ = ["AnalyticDiffusion", "FlowMap", "RiemannianDiffusion", "RiemannianFlow", "__version__"]

_MODELS = ("AnalyticDiffusion", "FlowMap", "RiemannianDiffusion", "RiemannianFlow")

_SUBPACKAGES = (
    "data",
    "heat_kernels",
    "manifolds",
    "metrics",
    "models",
    "networks",
    "objectives",
    "plotting",
    "processes",
    "solvers",
    "testing",
    "training",
)


def __getattr__(name: str) -> Any:
    if name in _MODELS:
        return getattr(importlib.import_module(".models", __name__), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_SUBPACKAGES])
