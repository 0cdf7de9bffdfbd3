"""Generative modelling of data that lives on a manifold.

Names are imported on first use, so that ``import manifold_diffusion`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._errors import (
    CapabilityError,
    CheckpointError,
    ConfigError,
    DataError,
    ManifoldDiffusionError,
    ManifoldError,
    NumericsError,
)
from ._version import __version__

if TYPE_CHECKING:
    from ._typing import Batch
    from .models import (
        AnalyticDiffusion,
        AutoregressiveKernelDensity,
        FlowMap,
        FlowMapLanguageModel,
        LearnedKernelDensity,
        RiemannianDiffusion,
        RiemannianFlow,
        SchrodingerBridge,
    )

__all__ = [
    "AnalyticDiffusion",
    "AutoregressiveKernelDensity",
    "Batch",
    "CapabilityError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FlowMap",
    "FlowMapLanguageModel",
    "LearnedKernelDensity",
    "ManifoldDiffusionError",
    "ManifoldError",
    "NumericsError",
    "RiemannianDiffusion",
    "RiemannianFlow",
    "SchrodingerBridge",
    "__version__",
]

_LATER = {
    "Batch": "._typing",
    "AnalyticDiffusion": ".models",
    "FlowMap": ".models",
    "FlowMapLanguageModel": ".models",
    "AutoregressiveKernelDensity": ".models",
    "LearnedKernelDensity": ".models",
    "RiemannianDiffusion": ".models",
    "RiemannianFlow": ".models",
    "SchrodingerBridge": ".models",
}

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
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name], __name__), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_SUBPACKAGES])
