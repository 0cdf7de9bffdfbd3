"""A multistep scheme whose weights and times are learned for one model and one number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold
from ..processes import ODETerm
from .base import Solver, Step
from .clocks import Clock, check_clock
from .controllers import AdaptiveSteps, ConstantSteps, GridSteps, PlannedSteps
from .dormand_prince import DormandPrince
from .integrate import integrate
from .multistep import History, adams_bashforth, clock_at, combine

__all__ = ["LearnedMultistep", "MultistepFit", "fit_multistep"]


class LearnedMultistep(nn.Module, Solver[ODETerm]):
    r"""Geodesic multistep scheme with weights and times of its own; :func:`fit_multistep` learns them.

    .. math:: x_{i+1} = \exp_{x_i}\Big(h_i \sum_{j \le \min(i, m-1)} W_{ij}\, u_{i-j}\Big),
        \qquad u_i = v(t_i, x_i) / \dot s(t_i), \quad h_i = s(t_{i+1}) - s(t_i)

    Past velocities are carried to :math:`x_i` by parallel transport. The rows of W need not sum to one. The times are
    :math:`t_i = t_0 + (t_n - t_0) \sum_{j < i} \mathrm{softmax}(\theta)_j`: they stay ordered and the ends are fixed. A
    new one gives what :class:`GeodesicMultistep` of order 2 gives at these times, to the last bit.

    It is a module: W and :math:`\theta` are its parameters (in double precision: they are few), so that a model with
    it as an attribute is saved and loaded with it. It is a solver that knows its times: integrate with
    ``solver=learned, controller=learned.controller()``. It costs one evaluation a step. On Euclidean space it is the
    scheme of DyWeight without its scaling of the network's time.

    Args:
        grid: the times before learning, from the start (noise) to the end, both included: one step less than times.
        history: number m of velocities that a step may use, 1 to 4.
        clock: the variable in which steps are measured; None for the time itself.

    Raises:
        ConfigError: for a grid that is not monotone, or a history out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import LearnedMultistep, integrate
        >>> learned = LearnedMultistep((0.0, 0.5, 1.0), history=2)
        >>> decay = ODETerm(lambda t, x: -x)
        >>> integrate(decay, Euclidean(1), torch.ones(1), 0.0, 1.0, learned, learned.controller()).x
        tensor([0.3750])

    Reference:
        *DyWeight: dynamic gradient weighting for few-step diffusion sampling*, 2026, arXiv:2603.11607; Tong et al.,
        *Learning to discretize denoising diffusion ODEs*, 2024, arXiv:2405.15506.
    """

    order = 2
    n_stages = 1
    term_type = ODETerm

    def __init__(self, grid: Sequence[float], history: int = 3, clock: Clock | None = None) -> None:
        super().__init__()
        self.grid = GridSteps(grid).grid
        if isinstance(history, bool) or not isinstance(history, int) or not 1 <= history <= 4:
            raise ConfigError(f"LearnedMultistep(history=...) must be 1, 2, 3 or 4; got {history!r}.")
        if clock is not None:
            check_clock(clock, "LearnedMultistep")
        self.history, self.clock = history, clock
        steps = torch.tensor(self.grid, dtype=torch.float64).diff()
        self.log_steps = nn.Parameter((steps / steps.sum()).log())
        weights = torch.zeros(len(steps), history, dtype=torch.float64)
        nodes = [clock_at(clock, t)[0] for t in self.controller().grid]
        for i, end in enumerate(nodes[1:]):
            row = adams_bashforth(nodes[max(0, i + 1 - min(history, 2)) : i + 1][::-1], end)
            weights[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        self.weights = nn.Parameter(weights)

    def extra_repr(self) -> str:
        return f"steps={len(self.weights)}, history={self.history}, clock={self.clock}"

    def times(self) -> Tensor:
        """The times of the steps, ``(n + 1,)``, in double precision on the CPU; gradients flow to the parameters."""
        start, end = self.grid[0], self.grid[-1]
        # On the CPU wherever the module is: these are the driver's times too, and must be the same at every call.
        inner = start + (end - start) * self.log_steps.cpu().double().softmax(0).cumsum(0)[:-1]
        return torch.cat([inner.new_tensor([start]), inner, inner.new_tensor([end])])

    def controller(self) -> GridSteps:
        """The steps that this scheme was made for."""
        return GridSteps(self.times().tolist())

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
        times = self.times()
        i = int((times[:-1] - t).abs().argmin())
        here, step = times[i], times[i + 1] - times[i]
        if (here.item(), step.item()) != (t, h):
            raise ConfigError(
                f"LearnedMultistep has no step from t = {t} to {t + h}: its times are {times.tolist()}. Use its own "
                "steps: integrate(..., solver=learned, controller=learned.controller())."
            )
        # The operations are those of GeodesicMultistep, on scalar tensors: gradients reach the times.
        s, end, factor = here, here + step, 1.0
        if self.clock is not None:
            s, end, factor = self.clock.s(s), self.clock.s(end), 1 / self.clock.rate(s)
        u = factor * term.velocity(here.to(x).expand(manifold.batch_shape(x)), x)
        history = History.extended(state, manifold, x, s.item(), u, self.history)
        row = (end - s) * self.weights[i, : len(history.nodes)].cpu().double()
        return Step(manifold.move(x, combine(row, history.velocities)), history)


@dataclass(frozen=True)
class MultistepFit:
    """Result of :func:`fit_multistep`.

    Attributes:
        solver: the learned scheme.
        error: root mean square geodesic distance of its end points to the teacher's, on the training noise.
        initial_error: the same before learning, that of :class:`GeodesicMultistep` of order 2.
        n_trials: integrations that were tried.
    """

    solver: LearnedMultistep
    error: float
    initial_error: float
    n_trials: int


def fit_multistep(
    term: ODETerm,
    manifold: Manifold,
    x_1: Tensor,
    steps: int | PlannedSteps = 4,
    *,
    teacher: Tensor | None = None,
    t0: float = 1.0,
    t1: float = 0.0,
    history: int = 3,
    clock: Clock | None = None,
    learn_times: bool = True,
    max_iterations: int = 100,
    progress: bool = False,
) -> MultistepFit:
    r"""Learn the weights and times of a multistep scheme from a fine solution of the same equation.

    .. math:: \min_{W, \theta} \frac1n \sum_k d\big(x^{W,\theta}_{t_1}(x_1^k),\, x_{t_1}(x_1^k)\big)^2

    The few parameters are found by L-BFGS with a strong Wolfe line search; gradients are taken through the whole
    integration, to the parameters of the scheme only: the model behind ``term`` stays as it is. That takes about 100
    integrations. Nothing is random: the result is a function of ``x_1``.

    The scheme is as good as the training noise is typical: judge it on other noise. 256 points for some ten parameters
    have been enough.

    Args:
        term: the flow; its velocity must be differentiable in t and x.
        manifold: where the points live.
        x_1: points at ``t0``, samples of the prior, ``(n, *point_shape)``.
        steps: number of steps, equal in t before learning, or a plan such as ``ClockSteps(4, clock)``.
        teacher: end points of ``x_1``, ``(n, *point_shape)``; default: those of :class:`DormandPrince` with
            :class:`AdaptiveSteps`.
        t0: time of ``x_1``.
        t1: final time.
        history: number of velocities that a step may use, 1 to 4.
        clock: the variable in which steps are measured; None for the time itself.
        learn_times: whether the inner times are learned too.
        max_iterations: of L-BFGS.
        progress: show a progress bar.

    Raises:
        ConfigError: for arguments that don't fit.
        ManifoldError: if ``x_1`` or ``teacher`` are not on the manifold.
        NumericsError: if a point, the loss or a gradient is not finite.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import fit_multistep
        >>> grow = ODETerm(lambda t, x: x)
        >>> x_1 = torch.linspace(1.0, 2.0, 5, dtype=torch.float64).unsqueeze(-1)
        >>> fit = fit_multistep(grow, Euclidean(1), x_1, steps=2)
        >>> fit.initial_error > 1e-3, fit.error < 1e-3
        (True, True)

    Reference:
        *DyWeight: dynamic gradient weighting for few-step diffusion sampling*, 2026, arXiv:2603.11607; Frankel et al.,
        *S4S: solving for a diffusion model solver*, 2025, arXiv:2502.17423.
    """
    plan = ConstantSteps(steps) if isinstance(steps, int) else steps
    if not isinstance(plan, PlannedSteps):
        raise ConfigError(f"steps must be a number or a plan such as ConstantSteps(4); got {steps!r}.")
    if max_iterations < 1:
        raise ConfigError(f"fit_multistep needs max_iterations >= 1; got {max_iterations}.")
    manifold.check_point(x_1, "x_1")
    if x_1.numel() == 0:
        raise ConfigError("fit_multistep needs points to learn from; x_1 has none.")
    if teacher is None:
        teacher = integrate(term, manifold, x_1, t0, t1, DormandPrince(), AdaptiveSteps()).x
    goal: Tensor = teacher
    manifold.check_point(goal, "teacher")
    if goal.shape != x_1.shape:
        raise ConfigError(f"teacher has shape {tuple(goal.shape)}, x_1 {tuple(x_1.shape)}: give one end per point.")
    learned = LearnedMultistep(plan.times(float(t0), float(t1)), history, clock)
    parameters = [learned.weights, learned.log_steps] if learn_times else [learned.weights]

    def loss() -> Tensor:
        end = integrate(term, manifold, x_1, t0, t1, learned, learned.controller(), differentiable=True).x
        return manifold.dist(end, goal).double().square().mean()

    losses = _minimise(loss, parameters, max_iterations, progress)
    with torch.no_grad():
        final = float(loss())
    return MultistepFit(learned, math.sqrt(final), math.sqrt(losses[0]), len(losses))


def _minimise(
    loss: Callable[[], Tensor], parameters: list[nn.Parameter], max_iterations: int, progress: bool
) -> list[float]:
    """Run L-BFGS; the losses of all trials."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=max_iterations, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )
    losses: list[float] = []
    from tqdm.auto import tqdm

    with tqdm(desc="fit_multistep", unit=" trials", disable=not progress) as bar, torch.enable_grad():

        def closure() -> Tensor:
            value = loss()
            # Not backward(): it would leave gradients in the parameters of the model behind the term.
            gradients = torch.autograd.grad(value, parameters)
            if not all(bool(g.isfinite().all()) for g in (value, *gradients)):
                raise NumericsError(
                    f"The loss of fit_multistep or its gradient is not finite at trial {len(losses) + 1} (loss "
                    f"{float(value.detach()):.3g}). Is the velocity differentiable in t and x? If it is, start from "
                    "more steps or use float64."
                )
            for p, g in zip(parameters, gradients, strict=True):
                p.grad = g
            losses.append(float(value.detach()))
            bar.update()
            bar.set_postfix_str(f"rms distance {math.sqrt(losses[-1]):.3g}", refresh=False)
            return value.detach()

        optimiser.step(closure)  # pyright: ignore[reportArgumentType]
    optimiser.zero_grad(set_to_none=True)
    return losses
