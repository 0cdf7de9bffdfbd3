"""The embedded pair of Dormand and Prince."""

from __future__ import annotations

from dataclasses import dataclass

from ._runge_kutta import RungeKutta, Tableau

__all__ = ["DormandPrince"]

_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)


@dataclass(frozen=True)
class DormandPrince(RungeKutta):
    """The Dormand-Prince 5(4) pair. Order 5, seven stages of which a step computes six, error estimate of order 4.

    The last stage of a step is the first of the next one (FSAL). The charts are those of
    :class:`~manifold_diffusion.solvers.RungeKutta`. It is the scheme for
    :class:`~manifold_diffusion.solvers.AdaptiveSteps`, and takes :class:`~manifold_diffusion.solvers.ConstantSteps`
    too.

    Reference:
        Dormand and Prince, *A family of embedded Runge-Kutta formulae*, 1980.

    Args:
        chart: "ambient" (combine and project) or "normal" (normal coordinates of the base point).

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import AdaptiveSteps, integrate
        >>> decay = ODETerm(lambda t, x: -x)
        >>> solution = integrate(decay, Euclidean(1), torch.ones(1), 0.0, 1.0, DormandPrince(), AdaptiveSteps())
        >>> solution.x
        tensor([0.3679])
    """

    order = 5
    n_stages = 6
    has_error_estimate = True
    tableau = Tableau(
        a=(
            (1 / 5,),
            (3 / 40, 9 / 40),
            (44 / 45, -56 / 15, 32 / 9),
            (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
            (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
            _B,
        ),
        b=(*_B, 0.0),
        c=(1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
        b_error=(
            35 / 384 - 5179 / 57600,
            0.0,
            500 / 1113 - 7571 / 16695,
            125 / 192 - 393 / 640,
            -2187 / 6784 + 92097 / 339200,
            11 / 84 - 187 / 2100,
            -1 / 40,
        ),
        fsal=True,
    )
