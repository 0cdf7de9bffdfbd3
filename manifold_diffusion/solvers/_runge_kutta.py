"""Explicit Runge-Kutta steps on a manifold: one implementation, a tableau per scheme."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._errors import ConfigError
from ..manifolds import Manifold
from ..processes import ODETerm
from .base import Solver, Step, expand_time

__all__ = ["RungeKutta", "Tableau"]

Chart = Literal["ambient", "normal"]


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method.

    Attributes:
        a: rows of stages 2, 3, ...: weights of the slopes before it.
        b: weights of the step.
        c: times of stages 2, 3, ..., as fractions of the step.
        b_error: ``b`` minus the weights of the embedded method, or None.
        fsal: first same as last: the last row of ``a`` is ``b``, so the last slope is the first one of the next step.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    b_error: tuple[float, ...] | None = None
    fsal: bool = False


@dataclass(frozen=True)
class RungeKutta(Solver[ODETerm]):
    r"""Explicit Runge-Kutta step in a chart of the manifold around the step's base point; a scheme adds a tableau.

    ``chart="ambient"`` combines the stage velocities as ambient vectors and projects: :math:`y_i = \pi(x + h \sum_j
    a_{ij} v_j)`. The field :math:`v \circ \pi` is smooth around the manifold and its flow stays on it, so the
    classical order holds, and the last projection removes a defect of the size of the local error. Nothing but
    ``project`` is needed.

    ``chart="normal"`` solves in normal coordinates (Munthe-Kaas): :math:`y_i = \exp_x(h \sum_j a_{ij} F_j)` with the
    slopes pulled back, :math:`F_i = \mathrm{d}(\log_x)_{y_i}\, v_i`. It depends on the metric only, never leaves an
    open set such as the cone of positive-definite matrices, and costs a derivative of ``log`` per stage: 0.6 to 5 ms
    for 1,000 points on one core, where a projection takes 0.02 ms on a sphere and 2.7 ms on SO(3). Its error at equal
    steps is 0.7 (sphere) to 0.2 (hyperbolic plane) times the other's.

    Reference:
        Munthe-Kaas, *High order Runge-Kutta methods on manifolds*, 1999; Hairer, Lubich and Wanner, *Geometric
        Numerical Integration*, 2006, section IV.4 (projection methods) and IV.8.

    Args:
        chart: "ambient" or "normal".
    """

    chart: Chart = "ambient"

    tableau: ClassVar[Tableau]
    term_type = ODETerm

    def __post_init__(self) -> None:
        if self.chart not in ("ambient", "normal"):
            raise ConfigError(f'{type(self).__name__}(chart=...) must be "ambient" or "normal"; got {self.chart!r}.')

    def init(self, term: ODETerm, manifold: Manifold, t: float, x: Tensor) -> Tensor | None:
        return term.velocity(expand_time(manifold, t, x), x) if self.tableau.fsal else None

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
        tableau, normal = self.tableau, self.chart == "normal"

        def move(displacement: Tensor) -> Tensor:
            return manifold.move(x, displacement) if normal else manifold.project(x + displacement)

        v = term.velocity(expand_time(manifold, t, x), x) if state is None else state
        slopes, y, displacement = [v], x, v
        for row, c in zip(tableau.a, tableau.c, strict=True):
            displacement = _combine(h, row, slopes)
            y = move(displacement)
            v = term.velocity(expand_time(manifold, t + c * h, x), y)
            slopes.append(_pull_back(manifold, x, y, v) if normal else v)
        if not tableau.fsal:
            displacement = _combine(h, tableau.b, slopes)
            y = move(displacement)
        error = None
        if tableau.b_error is not None:
            error = _combine(h, tableau.b_error, slopes)
            if not normal:
                error, displacement = manifold.to_tangent(x, error), manifold.to_tangent(x, displacement)
        return Step(y, v if tableau.fsal else None, error, displacement if error is not None else None)


def _pull_back(manifold: Manifold, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Differential of ``log_x`` at ``y`` applied to ``v``: the transpose of the transpose, faster than forward mode."""
    u, transposed, *_ = torch.func.vjp(lambda z: manifold.log(x, z), y)
    return torch.func.vjp(lambda w: transposed(w)[0], torch.zeros_like(u))[1](v)[0]


def _combine(h: float, weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """``h * sum_i weights[i] * slopes[i]``; zero weights are skipped."""
    terms = [(h * w, s) for w, s in zip(weights, slopes, strict=False) if w != 0.0]
    total = terms[0][0] * terms[0][1]
    for w, s in terms[1:]:
        total = torch.add(total, s, alpha=w)
    return total
