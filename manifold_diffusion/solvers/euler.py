"""The geodesic Euler scheme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..manifolds import Manifold
from ..processes import ODETerm
from .base import Solver, Step, expand_time

__all__ = ["GeodesicEuler"]


@dataclass(frozen=True)
class GeodesicEuler(Solver[ODETerm]):
    r"""Geodesic Euler, :math:`x' = \exp_x(h\, v(t, x))`. Order 1, one stage, no error estimate.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import ConstantSteps, integrate
        >>> decay = ODETerm(lambda t, x: -x)
        >>> integrate(decay, Euclidean(1), torch.ones(1), 0.0, 1.0, GeodesicEuler(), ConstantSteps(2)).x
        tensor([0.2500])
    """

    order = 1
    n_stages = 1
    term_type = ODETerm

    def step(
        self,
        term: ODETerm,
        manifold: Manifold,
        t: float,
        h: float,
        x: Tensor,
        state: Any = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        return Step(manifold.move(x, h * term.velocity(expand_time(manifold, t, x), x)))
