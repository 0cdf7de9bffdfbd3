"""Heun's scheme."""

from __future__ import annotations

from dataclasses import dataclass

from ._runge_kutta import RungeKutta, Tableau

__all__ = ["GeodesicHeun"]


@dataclass(frozen=True)
class GeodesicHeun(RungeKutta):
    """Heun's scheme (explicit trapezoid). Order 2, two stages, no error estimate.

    The charts are those of :class:`~manifold_diffusion.solvers.RungeKutta`.

    Args:
        chart: "ambient" (combine and project) or "normal" (normal coordinates of the base point).

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import ConstantSteps, integrate
        >>> decay = ODETerm(lambda t, x: -x)
        >>> integrate(decay, Euclidean(1), torch.ones(1), 0.0, 1.0, GeodesicHeun(), ConstantSteps(1)).x
        tensor([0.5000])
    """

    order = 2
    n_stages = 2
    tableau = Tableau(a=((1.0,),), b=(0.5, 0.5), c=(1.0,))
