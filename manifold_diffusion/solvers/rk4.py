"""The classical Runge-Kutta scheme."""

from __future__ import annotations

from dataclasses import dataclass

from ._runge_kutta import RungeKutta, Tableau

__all__ = ["GeodesicRK4"]


@dataclass(frozen=True)
class GeodesicRK4(RungeKutta):
    """The classical Runge-Kutta scheme. Order 4, four stages, no error estimate.

    The charts are those of :class:`~manifold_diffusion.solvers.RungeKutta`.

    Args:
        chart: "ambient" (combine and project) or "normal" (normal coordinates of the base point).

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import ConstantSteps, integrate
        >>> decay = ODETerm(lambda t, x: -x)
        >>> integrate(decay, Euclidean(1), torch.ones(1), 0.0, 1.0, GeodesicRK4(), ConstantSteps(1)).x
        tensor([0.3750])
    """

    order = 4
    n_stages = 4
    tableau = Tableau(
        a=((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
        c=(1 / 2, 1 / 2, 1.0),
    )
