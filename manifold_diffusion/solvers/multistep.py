"""Geodesic Adams-Bashforth schemes: one evaluation a step, past velocities carried along by parallel transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError
from ..manifolds import Manifold
from ..processes import ODETerm
from .base import Solver, Step, expand_time
from .clocks import Clock, check_clock

__all__ = ["GeodesicMultistep", "History", "adams_bashforth", "combine"]


@dataclass(frozen=True)
class History:
    """What a multistep scheme remembers.

    Attributes:
        x: the points at which the vectors are tangent, those before the last step.
        nodes: clock of each past velocity, newest first.
        velocities: past velocities per unit of the clock, transported to ``x``, ``(k, *batch, *point_shape)``.
    """

    x: Tensor
    nodes: tuple[float, ...]
    velocities: Tensor

    def carried(self, manifold: Manifold, x: Tensor, keep: int) -> Tensor:
        """The newest ``keep`` velocities, transported to the points ``x`` that the last step reached."""
        old = self.velocities[:keep]
        return manifold.transport(self.x.expand_as(old), x.expand_as(old), old)

    @staticmethod
    def extended(history: History | None, manifold: Manifold, x: Tensor, s: float, u: Tensor, length: int) -> History:
        """The history at ``x`` with the velocity ``u`` at clock ``s`` in front, of at most ``length`` velocities."""
        if history is None or length == 1:
            return History(x, (s,), u.unsqueeze(0))
        past = history.carried(manifold, x, length - 1)
        return History(x, (s, *history.nodes[: length - 1]), torch.cat([u.unsqueeze(0), past]))


@dataclass(frozen=True)
class GeodesicMultistep(Solver[ODETerm]):
    r"""Geodesic Adams-Bashforth scheme. Order 1, 2 or 3, one evaluation a step, no error estimate.

    .. math:: x_{i+1} = \exp_{x_i}\Big(h_i \sum_{j<p} w_{ij}\, u_{i-j}\Big), \qquad u_i = v(t_i, x_i) / \dot s(t_i).

    The past velocities :math:`u_{i-j}` are carried to :math:`x_i` by parallel transport along the steps, :math:`h_i` is
    the step in the clock s (the time itself by default), and the weights integrate the polynomial through the nodes,
    whatever their spacing: :math:`\sum_j w_{ij} r_j^k = 1/(k+1)` with :math:`r_j = (s_{i-j} - s_i)/h_i`, which is 3/2,
    -1/2 for two equal steps.

    **Order on a curved space.** In normal coordinates at a point of the solution its first three derivatives are the
    covariant ones, and transport along chords instead of the curve differs by the curvature times an area, O(h^3). So
    the schemes up to order 3 keep their order, as tests on curved spaces measure; the fourth derivative has a term with
    the curvature, and order 4 is not offered.

    **Start.** The first steps are those of lower order: an Euler step for order 2; for order 3 a Heun step (two
    evaluations, the second slope transported back) and a step of order 2. Their local errors are O(h^p), which keeps
    the order. So n steps take n evaluations, or n + 1 at order 3.

    **Exponential integrators.** With ``clock=NoiseClock(schedule)`` the probability flow of Brownian motion is
    :math:`dx/d\sigma = -\sigma\nabla\log p`. Order 1 is then the geodesic DDIM, order 2 the geodesic form of the
    two-step formula of DEIS; on Euclidean space they are these formulas.

    Reference:
        Hairer, Norsett and Wanner, *Solving Ordinary Differential Equations I*, 1993, section III.5; Zhang and Chen,
        *Fast sampling of diffusion models with exponential integrator*, 2022, arXiv:2204.13902.

    Args:
        order: 1, 2 or 3.
        clock: the variable in which steps are measured; None for the time itself.

    Raises:
        ConfigError: for another order.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import ODETerm
        >>> from manifold_diffusion.solvers import ConstantSteps, GeodesicMultistep, integrate
        >>> decay = ODETerm(lambda t, x: -x)
        >>> solution = integrate(decay, Euclidean(1), torch.ones(1), 0.0, 1.0, GeodesicMultistep(), ConstantSteps(2))
        >>> solution.x, solution.n_evaluations  # 1/2 - (3/2 1/2 - 1/2) / 2
        (tensor([0.3750]), 2)
    """

    order: int = 2  # pyright: ignore[reportIncompatibleVariableOverride]
    clock: Clock | None = None

    n_stages = 1
    term_type = ODETerm

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ConfigError(
                f"GeodesicMultistep(order=...) must be 1, 2 or 3; got {self.order!r}. Of order 4: GeodesicRK4()."
            )
        if self.clock is not None:
            check_clock(self.clock, "GeodesicMultistep")

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
        s, factor = clock_at(self.clock, t)
        end, end_factor = clock_at(self.clock, t + h)
        u = factor * term.velocity(expand_time(manifold, t, x), x)
        history = History.extended(state, manifold, x, s, u, self.order)
        if self.order == 3 and state is None:
            y = manifold.move(x, (end - s) * u)
            last = end_factor * term.velocity(expand_time(manifold, t + h, x), y)
            return Step(manifold.move(x, (end - s) / 2 * (u + manifold.transport(y, x, last))), history)
        weights = [(end - s) * w for w in adams_bashforth(history.nodes, end)]
        return Step(manifold.move(x, combine(weights, history.velocities)), history)


def clock_at(clock: Clock | None, t: float) -> tuple[float, float]:
    """Clock at time t, and the factor dt / ds that turns a velocity into one per unit of the clock."""
    if clock is None:
        return t, 1.0
    time = torch.tensor(t, dtype=torch.float64)
    return float(clock.s(time)), float(1 / clock.rate(time))


def adams_bashforth(nodes: Sequence[float], end: float) -> list[float]:
    """Weights that integrate the polynomial through at most three nodes from the first to ``end``, per unit of it.

    Example:
        >>> adams_bashforth([2.0, 1.0], 3.0)
        [1.5, -0.5]
    """
    first = nodes[0]
    r = [(s - first) / (end - first) for s in nodes]
    if len(r) == 1:
        return [1.0]
    if len(r) == 2:
        last = 1 / (2 * r[1])
        return [1 - last, last]
    middle = (1 / 3 - r[2] / 2) / (r[1] * (r[1] - r[2]))
    last = (1 / 3 - r[1] / 2) / (r[2] * (r[2] - r[1]))
    return [1 - middle - last, middle, last]


def combine(weights: Sequence[float] | Tensor, velocities: Tensor) -> Tensor:
    """``sum_j weights[j] * velocities[j]``, one after the other, so that floats and scalar tensors give equal bits."""
    total = weights[0] * velocities[0]
    for w, u in zip(weights[1:], velocities[1:], strict=True):
        total = total + w * u
    return total
