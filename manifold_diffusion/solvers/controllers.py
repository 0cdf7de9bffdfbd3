"""Step-size controllers: who decides how far the next step goes."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold
from .base import Step

__all__ = ["AdaptiveSteps", "ConstantSteps", "GridSteps", "PlannedSteps", "Proposal", "StepController"]


@dataclass(frozen=True)
class Proposal:
    """What a controller decided.

    Attributes:
        accept: whether the step just taken is kept (True in the first proposal).
        t_next: where the next attempt ends.
        index: number of accepted steps so far.
        n_attempts: number of steps tried so far.
        last_error: normalised error of the last accepted step, for the proportional part of the controller.
        plan: all times, if they are known before the integration.
    """

    accept: bool
    t_next: float
    index: int = 0
    n_attempts: int = 0
    last_error: float = 1.0
    plan: tuple[float, ...] = ()


class StepController(ABC):
    """Chooses the step sizes of one integration from ``t0`` to ``t1``, in either direction; the batch shares them.

    Attributes:
        needs_error_estimate: whether it works only with solvers that have ``has_error_estimate``.
    """

    needs_error_estimate: ClassVar[bool] = False

    @abstractmethod
    def init(self, t0: float, t1: float) -> Proposal:
        """Where the first step ends."""

    @abstractmethod
    def adapt(
        self,
        proposal: Proposal,
        manifold: Manifold,
        x: Tensor,
        step: Step,
        span: tuple[float, float],
        t: float,
        order: int,
    ) -> Proposal:
        """Judge a step and choose the next.

        Args:
            proposal: the proposal that led to this step.
            manifold: where ``x`` lives.
            x: points before the step.
            step: what the solver returned.
            span: ``(t0, t1)`` of the whole integration.
            t: time before the step.
            order: order of the solver.

        Raises:
            NumericsError: the tolerance can't be met.
        """


class PlannedSteps(StepController):
    """Steps whose times are known before the integration; a plan adds :meth:`times`. Every step is accepted."""

    @abstractmethod
    def times(self, t0: float, t1: float) -> list[float]:
        """The ends of the steps from ``t0`` to ``t1``, both included."""

    def init(self, t0: float, t1: float) -> Proposal:
        plan = tuple(self._checked(t0, t1))
        return Proposal(True, plan[1], plan=plan)

    def adapt(
        self,
        proposal: Proposal,
        manifold: Manifold,
        x: Tensor,
        step: Step,
        span: tuple[float, float],
        t: float,
        order: int,
    ) -> Proposal:
        index, plan = proposal.index + 1, proposal.plan
        return Proposal(True, plan[min(index + 1, len(plan) - 1)], index, index, plan=plan)

    def _checked(self, t0: float, t1: float) -> list[float]:
        times = self.times(t0, t1)
        if t0 != t1 and not all((b - a) * (t1 - t0) > 0 for a, b in itertools.pairwise(times)):
            raise ConfigError(
                f"{self} does not run from t0={t0} to t1={t1}: its times are {times}. They must be finite and strictly "
                "monotone."
            )
        return times


@dataclass(frozen=True)
class ConstantSteps(PlannedSteps):
    """``n`` steps of equal size in t, uniform from ``t0`` to ``t1``.

    Args:
        n: number of steps, at least 1.

    Example:
        >>> ConstantSteps(4).init(1.0, 0.0).t_next
        0.75
    """

    n: int

    def __post_init__(self) -> None:
        check_count(self)

    def times(self, t0: float, t1: float) -> list[float]:
        return [t1 if i == self.n else t0 + (t1 - t0) * i / self.n for i in range(self.n + 1)]


@dataclass(frozen=True)
class GridSteps(PlannedSteps):
    """Steps that end at given times.

    Args:
        grid: the times, from the start to the end of the integration, both included; rising or falling.

    Raises:
        ConfigError: for fewer than two times or times that are not strictly monotone; when the integration starts,
            if it is not over this interval.

    Example:
        >>> GridSteps((1.0, 0.6, 0.3, 0.0)).init(1.0, 0.0).t_next
        0.6
    """

    grid: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(float(t) for t in self.grid))
        if len(self.grid) < 2:
            raise ConfigError(f"GridSteps needs at least two times, a start and an end; got {self.grid}.")
        self._checked(self.grid[0], self.grid[-1])
        if self.grid[0] == self.grid[-1]:
            raise ConfigError(f"GridSteps needs an end that differs from the start; got {self.grid}.")

    def times(self, t0: float, t1: float) -> list[float]:
        if (t0, t1) != (self.grid[0], self.grid[-1]):
            raise ConfigError(
                f"{self} covers t = {self.grid[0]} to {self.grid[-1]}; the integration runs from {t0} to {t1}. "
                f"Integrate from {self.grid[0]} to {self.grid[-1]}, or make another grid."
            )
        return list(self.grid)


def check_count(steps: Any) -> None:
    """Raise :class:`ConfigError` unless ``steps.n`` is an integer >= 1."""
    name, n = type(steps).__name__, steps.n
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"{name}(n) needs an integer n >= 1; got {n!r}. For example n=50.")


@dataclass(frozen=True)
class AdaptiveSteps(StepController):
    r"""Step sizes that keep the estimated local error at the tolerance, by a proportional-integral controller.

    A step with error estimate E (a tangent vector at x) and displacement D is accepted when the norm over the batch of
    :math:`|E|_x / (\mathrm{atol} + \mathrm{rtol}\,|D|_x)` is at most 1. Both lengths are in the metric, so the choice
    of steps is invariant under isometries: ``atol`` is a geodesic distance per step, ``rtol`` a fraction of the
    distance that the step travels. The next step is h times :math:`s\, e_n^{-0.7/p}\, e_{n-1}^{0.4/p}` with safety s
    and p the order of the solver.

    One step size is shared by the batch, so that an evaluation of the network serves all points. ``norm="max"`` bounds
    the error of every point, whatever its neighbours; ``norm="rms"`` bounds the root mean square over the batch, takes
    fewer steps, and lets single points err more.

    Reference:
        Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, 1993, section II.4; Gustafsson,
        *Control theoretic techniques for stepsize selection in explicit Runge-Kutta methods*, 1991.

    Args:
        rtol: error allowed per distance travelled, >= 0.
        atol: error allowed per step, > 0.
        norm: "max" or "rms".
        first_step: first step as a fraction of the interval.
        min_step: smallest step as a fraction of the interval; below it :class:`NumericsError` is raised.
        max_steps: most attempts.
        safety: factor s.
        min_factor: a step shrinks at most by this factor.
        max_factor: a step grows at most by this factor.

    Example:
        >>> AdaptiveSteps(rtol=1e-6).atol
        1e-05
    """

    rtol: float = 1e-4
    atol: float = 1e-5
    norm: Literal["max", "rms"] = "max"
    first_step: float = 0.05
    min_step: float = 1e-7
    max_steps: int = 10_000
    safety: float = 0.9
    min_factor: float = 0.2
    max_factor: float = 5.0

    needs_error_estimate = True

    def __post_init__(self) -> None:
        if not (0 <= self.rtol < math.inf and 0 < self.atol < math.inf):
            raise ConfigError(f"AdaptiveSteps needs rtol >= 0 and atol > 0; got rtol={self.rtol}, atol={self.atol}.")
        if self.norm not in ("max", "rms"):
            raise ConfigError(f'AdaptiveSteps(norm=...) must be "max" or "rms"; got {self.norm!r}.')
        if not 0 < self.min_step <= self.first_step <= 1:
            raise ConfigError(
                "AdaptiveSteps needs 0 < min_step <= first_step <= 1, fractions of the interval; "
                f"got min_step={self.min_step}, first_step={self.first_step}."
            )
        if self.max_steps < 1 or not 0 < self.min_factor < self.safety <= 1 < self.max_factor:
            raise ConfigError(
                "AdaptiveSteps needs max_steps >= 1 and 0 < min_factor < safety <= 1 < max_factor; got "
                f"max_steps={self.max_steps}, min_factor={self.min_factor}, safety={self.safety}, "
                f"max_factor={self.max_factor}."
            )

    def init(self, t0: float, t1: float) -> Proposal:
        return Proposal(True, _advance(t0, self.first_step * (t1 - t0), t1))

    def error(self, manifold: Manifold, x: Tensor, step: Step) -> float:
        """Normalised error of a step; at most 1 when it meets the tolerance."""
        if step.error is None or step.displacement is None or step.error.numel() == 0:
            return 0.0
        ratio = manifold.norm(x, step.error) / (self.atol + self.rtol * manifold.norm(x, step.displacement))
        worst = ratio.amax() if self.norm == "max" else ratio.square().mean().sqrt()
        # The norm of a manifold need not carry NaN through; one look at the device for both questions.
        return float(torch.where(step.error.isfinite().all(), worst, math.inf))

    def adapt(
        self,
        proposal: Proposal,
        manifold: Manifold,
        x: Tensor,
        step: Step,
        span: tuple[float, float],
        t: float,
        order: int,
    ) -> Proposal:
        h, error = proposal.t_next - t, self.error(manifold, x, step)
        attempts = proposal.n_attempts + 1
        if error <= 1:
            known = max(error, 1e-10)
            factor = self.safety * known ** (-0.7 / order) * proposal.last_error ** (0.4 / order)
            # Right after a rejection the step must not grow at once.
            limit = 1.0 if not proposal.accept else self.max_factor
            h *= min(limit, max(self.min_factor, factor))
            after = Proposal(
                True, _advance(proposal.t_next, h, span[1]), proposal.index + 1, attempts, max(known, 1e-4)
            )
        else:
            factor = self.safety * error ** (-1 / order) if math.isfinite(error) else 0.0
            h *= max(self.min_factor, factor)
            after = Proposal(False, _advance(t, h, span[1]), proposal.index, attempts, proposal.last_error)
            if abs(h) < self.min_step * abs(span[1] - span[0]):
                raise NumericsError(_too_small(manifold, step, t, h, error))
        if attempts >= self.max_steps and after.t_next != span[1]:
            raise NumericsError(
                f"AdaptiveSteps reached t = {t:.6g} of [{span[0]:.6g}, {span[1]:.6g}] "
                f"after max_steps={self.max_steps} attempts. "
                "Loosen rtol and atol, integrate in float64, or raise max_steps."
            )
        return after


def _advance(t: float, h: float, t1: float) -> float:
    """``t + h``, moved to ``t1`` when it would end beyond or just before it."""
    remaining = t1 - t
    return t1 if abs(h) >= 0.99 * abs(remaining) else t + h


def _too_small(manifold: Manifold, step: Step, t: float, h: float, error: float) -> str:
    if math.isfinite(error):
        return (
            f"The step size fell to {abs(h):.1e} at t = {t:.6g} and the local error is still {error:.1e} times the "
            "tolerance. The velocity jumps there, or rounding is larger than the tolerance: loosen rtol and atol, or "
            "integrate in float64."
        )
    bad = ~step.x.isfinite().flatten(len(manifold.batch_shape(step.x))).all(-1)
    return (
        f"The velocity is not finite just after t = {t:.6g}: {int(bad.sum())} of {bad.numel()} points became NaN or "
        f"infinite, however small the step ({abs(h):.1e}). Check the field there, or end the integration before it."
    )
