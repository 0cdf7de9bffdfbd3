"""Heun's scheme."""

from __future__ import annotations

from dataclasses import dataclass

from ._runge_kutta import RungeKutta, Tableau

__all__ = ["GeodesicHeun"]


@dataclass(frozen=True)
class GeodesicHeun(RungeKutta):
    """Heun's scheme (explicit trapezoid). Order 2, two stages, error estimate of order 1.

    Its embedded method is Euler: :class:`~manifold_diffusion.solvers.AdaptiveSteps` bounds the error of an Euler step
    and keeps the Heun step, whose error is smaller. That is for loose tolerances; at tight ones
    :class:`~manifold_diffusion.solvers.DormandPrince` takes fewer evaluations. The charts are those of
    :class:`~manifold_diffusion.solvers.RungeKutta`.

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
    has_error_estimate = True
    tableau = Tableau(a=((1.0,),), b=(0.5, 0.5), c=(1.0,), b_error=(-0.5, 0.5))
