"""Flow maps: a network that jumps from any time to any other, trained to agree with its own velocity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from .._errors import ConfigError
from .._typing import Batch, Network
from ..processes import Process
from .base import Objective, stratified_times

__all__ = ["FlowMapMatching", "flow_map", "flow_map_residual"]

Kind = Literal["lagrangian", "eulerian", "mean_flow", "semigroup"]
KINDS = ("lagrangian", "eulerian", "mean_flow", "semigroup")


def flow_map(
    process: Process, network: Network, start: Tensor, end: Tensor, x: Tensor, cond: Tensor | None = None
) -> Tensor:
    r"""One jump, :math:`X_{s,t}(x) = \exp_x\bigl((\lambda_t - \lambda_s)\,F_{s,t}(x)\bigr)`, in the process's clock.

    Args:
        process: a process with a clock.
        network: two-time network ``(s, x, cond, t) -> F``.
        start: times s, ``(*batch,)``.
        end: times t, ``(*batch,)``.
        x: points at time s.
        cond: condition.
    """
    jump = (process.clock(end) - process.clock(start)) * network(start, x, cond, end)
    return process.manifold.exp(x, jump)


class FlowMapMatching(Objective):
    r"""Trains the velocity on the diagonal, and the jumps to agree with it: self-distillation.

    The network :math:`F_{s,t}(x)` gives the flow map :math:`X_{s,t}(x) = \exp_x((\lambda_t - \lambda_s) F_{s,t}(x))`
    from time s to time t, with the clock :math:`\lambda` of the process. On the diagonal :math:`v_s = F_{s,s}` is the
    velocity, trained by the regression of the process (flow matching, denoising score matching) or on a teacher. Off it
    one of the characterisations of the flow map is imposed:

    - ``lagrangian``: :math:`\partial_{\lambda_t} X_{s,t}(x) = v_t(X_{s,t}(x))`; one forward-mode product in time.
    - ``eulerian``: :math:`\partial_{\lambda_s} X_{s,t}(x) + dX_{s,t}[v_s(x)] = 0`; one product in time and space.
    - ``mean_flow``: the same residual :math:`r`, turned into the regression target :math:`F + \mathrm{PT}_{X \to x}\,r`
      without gradient: on flat space it is :math:`v + (\lambda_t - \lambda_s)\,dF/d\lambda_s`. No second derivatives.
    - ``semigroup``: :math:`X_{s,t} = X_{u,t} \circ X_{s,u}` for u between; no derivatives.

    Every one of them has the flow map of v as its only solution; the right-hand sides are constants for the gradient.
    Derivatives are taken, and their squares averaged, in the time t of the process: the error of an end point is at
    most the integral of the residual over t. In units of the clock, whose rate falls by orders of magnitude towards
    the data on a logarithmic path, training failed: the MMD of one step stayed at 4.3 times its floor on the places of
    earthquakes, where this form reaches 1.2 in fewer steps.

    Source: Boffi, Albergo and Vanden-Eijnden, *Flow map matching*, 2024, arXiv:2406.07507, and *How to build a
    consistency model*, 2025, arXiv:2505.18825; Geng et al., *Mean flows for one-step generative modeling*, 2025,
    arXiv:2505.13447; on manifolds Davis et al., *Generalised flow maps*, 2025, arXiv:2510.21608; Woo et al.,
    *Riemannian MeanFlow*, 2026, arXiv:2602.07744.

    Args:
        process: a process with a target and a clock: a path process, Brownian motion, products of these.
        kind: which characterisation.
        pair_fraction: share of the batch on which it is imposed; the diagonal is trained on all of it.
        one_step: share of the pairs that belong to one-step sampling; the times of the others are uniform on the
            triangle. A Lagrangian equation is integrated along the end time, so that these start at 1; an Eulerian one
            along the start time: these end at 0; a semigroup joins the halves of the jump from 1 to 0.
        weight: of the jumps against the diagonal.

    Raises:
        CapabilityError: if the process has no clock.
        ConfigError: for an unknown kind or shares out of range.
    """

    def __init__(
        self,
        process: Process,
        kind: Kind = "lagrangian",
        pair_fraction: float = 0.5,
        one_step: float = 0.25,
        weight: float = 1.0,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
        if not 0 < pair_fraction <= 1 or not 0 <= one_step <= 1 or not weight > 0:
            raise ConfigError(
                "FlowMapMatching needs 0 < pair_fraction <= 1, 0 <= one_step <= 1 and weight > 0; got "
                f"{pair_fraction}, {one_step}, {weight}."
            )
        if not process.has_target:
            raise ConfigError(
                f"FlowMapMatching needs a process with a closed-form target; {type(process).__name__} is simulated."
            )
        process.clock(torch.ones(()))  # raises where there is none
        self.process = process
        self.kind: Kind = kind
        self.pair_fraction, self.one_step, self.weight = pair_fraction, one_step, weight
        self._teacher: Network | None = None

    def with_teacher(self, teacher: Network) -> FlowMapMatching:
        """The same objective, whose diagonal is regressed on a frozen network in the units of the process."""
        copy = FlowMapMatching(self.process, self.kind, self.pair_fraction, self.one_step, self.weight)
        copy._teacher = teacher
        return copy

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        process, manifold = self.process, self.process.manifold
        n = len(batch.x)
        path = process.sample(batch.x, stratified_times(batch.x, n, generator), generator)
        target = path.target
        if self._teacher is not None:
            with torch.no_grad():
                target = self._teacher(path.t, path.x_t, batch.cond)
        assert target is not None
        error = network(path.t, path.x_t, batch.cond) - target
        diagonal = (path.weight * manifold.inner(path.x_t, error, error)).mean()

        rows = slice(0, max(1, round(self.pair_fraction * n)))  # batches come in random order
        x0, cond = batch.x[rows], None if batch.cond is None else batch.cond[rows]
        start, end = self._times(x0, generator)
        pairs = process.sample(x0, start, generator)
        middle = end + (start - end) * torch.rand(start.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        residual = flow_map_residual(
            self.kind, process, network, start, end, pairs.x_t, cond, middle, self._teacher or network
        )
        return diagonal + self.weight * residual.mean()

    def _times(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Start and end of the jumps, from noise towards data."""
        u, v, w, share = torch.rand(4, len(x), generator=generator, dtype=x.dtype, device=x.device)
        start, end = torch.maximum(u, v), torch.minimum(u, v)
        whole = share < self.one_step
        lagrangian, eulerian = self.kind == "lagrangian", self.kind in ("eulerian", "mean_flow")
        start = torch.where(whole, w if eulerian else 1.0, start)
        return start, torch.where(whole, w if lagrangian else 0.0, end)


def flow_map_residual(
    kind: Kind,
    process: Process,
    network: Network,
    start: Tensor,
    end: Tensor,
    x: Tensor,
    cond: Tensor | None,
    middle: Tensor,
    velocity: Network,
) -> Tensor:
    """Squared defect of a network as a flow map, ``(*batch,)``: the losses of :class:`FlowMapMatching`.

    Args:
        kind: which characterisation.
        process: gives the manifold and the clock.
        network: two-time network.
        start: times s, ``(*batch,)``.
        end: times t.
        x: points at time s.
        cond: condition.
        middle: times between, for the semigroup.
        velocity: network of the velocity, a constant for the gradient.
    """
    manifold = process.manifold

    def jump(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return flow_map(process, network, s, t, y, cond)

    def constant(t: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return velocity(t, y.detach(), cond)

    if kind == "semigroup":
        with torch.no_grad():
            goal = jump(middle, end, jump(start, middle, x))
        size = (process.clock(end) - process.clock(start)).flatten(end.dim())[..., 0].abs()
        return (manifold.dist(jump(start, end, x), goal) / size.clamp(min=1e-3)).square()
    if kind == "lagrangian":
        y, dy = _jvp(lambda t: jump(start, t, x), (end,), (torch.ones_like(end),))
        error = dy - _rate(process, end) * constant(end, y)
        return manifold.inner(y.detach(), error, error)
    rate = _rate(process, start)
    v = constant(start, x)
    if kind == "eulerian":
        y, dy = _jvp(lambda s, z: jump(s, end, z), (start, x), (torch.ones_like(start), rate * v))
        return manifold.inner(y.detach(), dy, dy)
    with torch.no_grad():
        y, dy = _jvp(lambda s, z: jump(s, end, z), (start, x), (torch.ones_like(start), rate * v))
        goal = manifold.transport(y, x, manifold.to_tangent(y, dy / rate))
    output = network(start, x, cond, end)
    error = rate * (output - (output.detach() + goal))
    return manifold.inner(x, error, error)


def _rate(process: Process, t: Tensor) -> Tensor:
    """Derivative of the clock; broadcasts against points."""
    return _jvp(process.clock, (t,), (torch.ones_like(t),))[1]


def _jvp(function: Callable[..., Tensor], at: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Value and forward-mode product; contiguous, as forward mode refuses expanded tensors."""
    result = torch.func.jvp(function, tuple(a.contiguous() for a in at), tuple(a.contiguous() for a in along))
    return result[0], result[1]
