"""The driver: joins a term, a solver and a step-size controller."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold
from ..processes import ODETerm, SDETerm
from .base import Solver, Term
from .controllers import StepController

__all__ = ["Callback", "Solution", "check_combination", "integrate"]

Callback = Callable[[float, Tensor], None]

# An accelerator is asked this seldom whether its points are finite: each question waits for its queue to drain.
_SYNC_EVERY = 32


@dataclass(frozen=True)
class Solution:
    """Result of :func:`integrate`.

    Attributes:
        x: points at the final time, ``(*batch, *point_shape)``.
        t: the final time.
        trajectory: points after every accepted step, the start included, ``(n_accepted + 1, *batch, *point_shape)``,
            or None.
        times: the times of these points, ``(n_accepted + 1,)``, float64 on the CPU.
        n_evaluations: evaluations of the velocity or drift.
        n_accepted: accepted steps.
        n_rejected: rejected steps.
    """

    x: Tensor
    t: float
    trajectory: Tensor | None
    times: Tensor
    n_evaluations: int
    n_accepted: int
    n_rejected: int


def integrate(
    term: Term,
    manifold: Manifold,
    x: Tensor,
    t0: float,
    t1: float,
    solver: Solver[Any],
    controller: StepController,
    generator: torch.Generator | None = None,
    return_trajectory: bool = False,
    progress: bool = False,
    callback: Callback | None = None,
    differentiable: bool = False,
) -> Solution:
    r"""Integrate an ordinary or stochastic differential equation on a manifold, forwards or backwards in time.

    :math:`dX = b(t, X)\,dt + g(t, X)\,dB` (or g = 0) with :math:`X_{t_0} = x`. Memory doesn't depend on the number of
    steps, unless the trajectory or gradients are asked for. The same seed gives the same result.

    Args:
        term: the equation; its functions get t as a tensor ``(*batch,)``.
        manifold: where ``x`` lives.
        x: starting points, ``(*batch, *point_shape)``; any batch shape, no points included.
        t0: time of the starting points.
        t1: final time; smaller than ``t0`` to go backwards.
        solver: scheme of one step.
        controller: chooser of the step sizes.
        generator: source of randomness of a stochastic scheme.
        return_trajectory: keep the points of every accepted step.
        progress: show a progress bar over time.
        callback: called as ``callback(t, x)`` after every accepted step.
        differentiable: record the operations, so that gradients flow from the result to ``x`` and to the term's
            parameters.

    Raises:
        ConfigError: the term, the solver and the controller don't go together, or a time is not finite.
        ManifoldError: ``x`` are not points of the manifold.
        NumericsError: a point stopped being finite (the message says when), or a tolerance can't be met.

    Example:
        A rotation of the sphere by a quarter of a turn.

        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import AdaptiveSteps, DormandPrince, integrate
        >>> axis = torch.tensor([0.0, 0.0, torch.pi / 2])
        >>> turn = ODETerm(lambda t, x: torch.linalg.cross(axis.expand_as(x), x))
        >>> x = torch.tensor([[1.0, 0.0, 0.0]])
        >>> integrate(turn, Sphere(2), x, 0.0, 1.0, DormandPrince(), AdaptiveSteps()).x.round(decimals=4).abs()
        tensor([[0., 1., 0.]])
    """
    check_combination(term, solver, controller)
    t0, t1 = float(t0), float(t1)
    if not (math.isfinite(t0) and math.isfinite(t1)):
        raise ConfigError(f"integrate needs finite times; got t0={t0}, t1={t1}.")
    manifold.check_point(x, "x")
    counted = _Counter()
    term = counted.wrap(term)
    finite = _FiniteCheck(manifold, x)
    t, times, points, rejected = t0, [t0], [x] if return_trajectory else [], 0
    with contextlib.nullcontext() if differentiable else torch.no_grad(), _progress_bar(progress, t0, t1) as report:
        proposal = controller.init(t0, t1)
        state = solver.init(term, manifold, t, x) if t0 != t1 else None
        while t != t1:
            step = solver.step(term, manifold, t, proposal.t_next - t, x, state, generator)
            end, proposal = proposal.t_next, controller.adapt(proposal, manifold, x, step, (t0, t1), t, solver.order)
            if not proposal.accept:
                rejected += 1
                continue
            x, t, state = step.x, end, step.state
            finite(t, x)
            times.append(t)
            if return_trajectory:
                points.append(x)
            if callback is not None:
                callback(t, x)
            report(t)
        finite.finish(x)
    trajectory = torch.stack(points) if return_trajectory else None
    return Solution(x, t, trajectory, torch.tensor(times, dtype=torch.float64), counted.n, len(times) - 1, rejected)


def check_combination(term: Term, solver: Solver[Any], controller: StepController) -> None:
    """Raise :class:`ConfigError`, with the corrected call, if the three would not reach the solution together."""
    if not isinstance(term, (ODETerm, SDETerm)):
        raise ConfigError(
            f"term must be an ODETerm or an SDETerm; got {type(term).__name__}. Wrap a function: ODETerm(velocity)."
        )
    if not isinstance(solver, Solver):
        raise ConfigError(f"solver must be a Solver; got {solver!r}. For example solver=GeodesicRK4().")
    if not isinstance(controller, StepController):
        raise ConfigError(
            f"controller must be a StepController; got {controller!r}. For example controller=ConstantSteps(50)."
        )
    name, stochastic = type(solver).__name__, isinstance(term, SDETerm)
    if not isinstance(term, solver.term_type):
        if stochastic:
            raise ConfigError(
                f"{name} solves ordinary differential equations and would drop the noise of an SDETerm. Use "
                "integrate(term, ..., solver=GeodesicEulerMaruyama(), controller=ConstantSteps(n)), "
                "or the process's flow, an ODETerm."
            )
        raise ConfigError(
            f"{name} solves stochastic equations; got an ODETerm. "
            "Use integrate(term, ..., solver=GeodesicEuler(), controller=ConstantSteps(n))."
        )
    if controller.needs_error_estimate and not solver.has_error_estimate:
        why, fix = f"{name} has none", f"solver={name}(), controller=ConstantSteps(n)"
        if stochastic:
            why += ", and accepting steps by their noise would bias the law"
        else:
            fix = f"solver=DormandPrince(), controller={controller!r}) or integrate(term, ..., {fix}"
        raise ConfigError(
            f"{type(controller).__name__} needs an error estimate: {why}. Use integrate(term, ..., {fix})."
        )


class _Counter:
    """Counts the evaluations of a term."""

    def __init__(self) -> None:
        self.n = 0

    def wrap(self, term: Term) -> Term:
        field = term.velocity if isinstance(term, ODETerm) else term.drift

        def counted(t: Tensor, x: Tensor) -> Tensor:
            self.n += 1
            return field(t, x)

        return ODETerm(counted) if isinstance(term, ODETerm) else SDETerm(counted, term.diffusion)


class _FiniteCheck:
    """Raises when points stop being finite: at once on a CPU, some steps later on an accelerator.

    The time in the message is that of the first bad step in both cases: the accelerator keeps its number without being
    asked.
    """

    def __init__(self, manifold: Manifold, x: Tensor) -> None:
        self.manifold = manifold
        self.lazy = x.device.type != "cpu"
        self.pending: list[float] = []
        self.n_finite = torch.zeros((), dtype=torch.int64, device=x.device)

    def __call__(self, t: float, x: Tensor) -> None:
        good = x.isfinite().all()
        self.pending.append(t)
        if not self.lazy:
            if not good:
                self._fail(self.pending[-1], x)
            self.pending.clear()
            return
        # Counts the finite steps before the first bad one.
        self.n_finite += good & (self.n_finite == len(self.pending) - 1)
        if len(self.pending) >= _SYNC_EVERY:
            self.finish(x)

    def finish(self, x: Tensor) -> None:
        if not self.pending:
            return
        n = int(self.n_finite)
        if n < len(self.pending):
            self._fail(self.pending[n], x)
        self.pending.clear()
        self.n_finite.zero_()

    def _fail(self, t: float, x: Tensor) -> None:
        bad = ~x.isfinite().flatten(len(self.manifold.batch_shape(x))).all(-1)
        raise NumericsError(
            f"{int(bad.sum())} of {bad.numel()} points became NaN or infinite in the step that ended at t = {t:.6g}. "
            "The velocity is not finite or too large there: check the network and the data, take more steps, or use "
            "float64."
        )


@contextlib.contextmanager
def _progress_bar(show: bool, t0: float, t1: float):
    """A function of time that moves a progress bar; does nothing unless ``show``."""
    if not show or t0 == t1:
        yield lambda t: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=100, desc="integrate", bar_format="{l_bar}{bar}| {postfix} [{elapsed}<{remaining}]") as bar:

        def report(t: float) -> None:
            bar.set_postfix_str(f"t = {t:.4f}", refresh=False)
            bar.update(round(100 * (t - t0) / (t1 - t0), 2) - bar.n)

        yield report
