"""Learning the flow map of token sequences: what a two-time denoiser has to satisfy, and the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from .._typing import Batch, Network
from ..processes import TokenPath
from .base import Objective, stratified_times

__all__ = ["TokenFlowMap", "eulerian_target", "lagrangian_target", "semigroup_target"]

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A map ``(t, to, x) ->`` points of the simplex at every position."""


def semigroup_target(process: TokenPath, delta: Denoiser, x: Tensor, t: Tensor, via: Tensor, to: Tensor) -> Tensor:
    r"""Two-time denoiser of two maps in a row, :math:`X_{u,s} \circ X_{t,u}`.

    .. math::

        \delta_{t,s}(x) = c\, \delta_{t,u}(x) + (1 - c)\, \delta_{u,s}(X_{t,u}(x)), \qquad
        c = \frac{s\,(t - u)}{u\,(t - s)}

    Args:
        process: the path.
        delta: two-time denoiser.
        x: points at the times ``t``.
        t: times of the points, ``(*batch,)``.
        via: times u, ``s <= u <= t`` and positive.
        to: times s.

    Returns:
        Points of the simplex, ``(*batch, L, K)``.
    """
    first = delta(t, via, x)
    second = delta(via, to, process.move(x, t, via, first))
    apart = t > to  # at s = t the two denoisers are the same
    c = torch.where(apart, to * (t - via) / torch.where(apart, via * (t - to), 1.0), 1.0)
    c = process.manifold.per_point(c)
    return c * first + (1 - c) * second


def lagrangian_target(
    process: TokenPath, delta: Denoiser, denoiser: Denoiser, x: Tensor, t: Tensor, to: Tensor
) -> Tensor:
    r"""What :math:`\partial_s X_{t,s}(x) = v_s(X_{t,s}(x))` says of the two-time denoiser.

    .. math:: \delta_{t,s}(x) = D_s(X_{t,s}(x)) + \frac{s\,(t - s)}{t}\, \partial_s \delta_{t,s}(x)

    Args:
        process: the path.
        delta: two-time denoiser, differentiable in forward mode.
        denoiser: denoiser of the teacher, evaluated at ``to = t``.
        x: points at the times ``t``.
        t: times of the points, ``(*batch,)``.
        to: times s.

    Returns:
        ``(*batch, L, K)``; sums to 1 at each position, but may leave the simplex where ``delta`` is not a solution.
    """
    here, rate = torch.func.jvp(lambda s: delta(t, s, x), (to,), (torch.ones_like(to),))[:2]
    there = denoiser(to, to, process.move(x, t, to, here))
    return there + process.manifold.per_point(to * (1 - to / t)) * rate


def eulerian_target(
    process: TokenPath, delta: Denoiser, denoiser: Denoiser, x: Tensor, t: Tensor, to: Tensor
) -> Tensor:
    r"""What :math:`\frac{d}{dt} X_{t,s}(x_t) = 0` along the flow says of the two-time denoiser.

    .. math::

        \delta_{t,s} = c\, D_t + (1 - c) \Bigl(\delta_{t,s} - t\, \frac{d}{dt}\delta_{t,s}(x_t)\Bigr), \qquad
        c = \frac{s}{t}, \quad \frac{d}{dt} = \partial_t + \nabla_x \cdot v_t

    This is the equation of the paper, :math:`\delta = D_t + \frac{t-s}{s}(\dots)`, times c: the same solutions, and
    finite at s = 0.

    Args:
        process: the path.
        delta: two-time denoiser, differentiable in forward mode.
        denoiser: denoiser of the teacher, evaluated at ``to = t``.
        x: points at the times ``t``.
        t: times of the points, ``(*batch,)``.
        to: times s.

    Returns:
        ``(*batch, L, K)``; sums to 1 at each position, but may leave the simplex where ``delta`` is not a solution.
    """
    clean = denoiser(t, t, x)
    velocity = (x - clean) / process.manifold.per_point(t)
    here, rate = torch.func.jvp(lambda a, b: delta(a, to, b), (t, x), (torch.ones_like(t), velocity))[:2]
    c = process.manifold.per_point(to / t)
    return c * clean + (1 - c) * (here - process.manifold.per_point(t) * rate)


class TokenFlowMap(Objective, nn.Module):
    r"""Divergence of a two-time denoiser from what its own flow map, or a teacher, says it should be.

    .. math::

        E\,\frac1L \sum_i \mathrm{KL}\bigl(\mathrm{target}_{t,s}(x_t)_i \,\|\, \delta_{t,s}(x_t)_i\bigr)
        + \lambda\, E\,\frac1L \sum_i \mathrm{KL}\bigl(D_t(x_t)_i \,\|\, \delta_{t,t}(x_t)_i\bigr)

    Targets are held fixed in the gradient, set to zero where negative and normalised (at a solution they are laws).
    With a ``teacher`` its denoiser is D (distillation); without one the diagonal term is the cross entropy of the data,
    and D in the targets the network's own diagonal (self-distillation). Times are uniform in the decoding error. Of
    these rules the paper finds ``"semigroup"`` best.

    Args:
        process: the path of the sequences.
        rule: ``"semigroup"``, ``"lagrangian"`` or ``"eulerian"``.
        teacher: a trained denoiser; None for self-distillation. It gets no gradient. A module is a part of this one, to
            follow the network to its device.
        diagonal: weight of the second term.

    Raises:
        ConfigError: for an unknown rule or a negative weight.

    Example:
        >>> import torch
        >>> from manifold_diffusion import Batch
        >>> from manifold_diffusion.networks import TokenTransformer
        >>> from manifold_diffusion.processes import TokenPath
        >>> path = TokenPath(4, 2)
        >>> objective = TokenFlowMap(path, "lagrangian")
        >>> objective.loss(TokenTransformer(path, width=16), Batch(torch.tensor([[0, 3], [2, 1]]))).isfinite()
        tensor(True)

    References:
        One-step Language Modeling via Continuous Denoising, 2026, arXiv:2602.16813; How to build a consistency model:
        Learning flow maps via self-distillation, 2025, arXiv:2505.18825.
    """

    process: TokenPath

    def __init__(
        self,
        process: TokenPath,
        rule: Literal["semigroup", "lagrangian", "eulerian"] = "semigroup",
        teacher: Network | None = None,
        diagonal: float = 1.0,
    ) -> None:
        if rule not in ("semigroup", "lagrangian", "eulerian"):
            raise ConfigError(f"rule must be 'semigroup', 'lagrangian' or 'eulerian'; got {rule!r}.")
        if not diagonal >= 0:
            raise ConfigError(f"diagonal, the weight of the second term, must be at least 0; got {diagonal}.")
        super().__init__()
        object.__setattr__(self, "process", process)  # not a submodule: it belongs to the model
        self.rule, self.teacher, self.diagonal = rule, teacher, diagonal

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        process, x0, cond = self.process, self.process.points(batch.x), batch.cond
        n = len(x0)
        pair = torch.stack([1 - stratified_times(x0, n, generator), self._uniform(x0, n, generator)])
        late, early = pair.amax(0), pair.amin(0)
        errors = torch.stack([late, early.lerp(late, self._uniform(x0, n, generator)), early])
        t, via, to = process.decoding_clock.time(errors).unbind()
        x = process.sample(x0, t, generator).x_t

        def delta(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
            return network(a, y, cond, to=b).softmax(-1)

        def denoiser(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
            return (network if self.teacher is None else self.teacher)(a, y, cond).softmax(-1)

        with torch.no_grad():
            if self.rule == "semigroup":
                target = semigroup_target(process, delta, x, t, via, to)
            else:
                rule = lagrangian_target if self.rule == "lagrangian" else eulerian_target
                target = rule(process, delta, denoiser, x, t, to).clamp(min=0)
                target = target / target.sum(-1, keepdim=True)
        loss = _divergence(target, network(t, x, cond, to=to))
        if self.diagonal == 0:
            return loss
        t = process.decoding_clock.time(1 - stratified_times(x0, n, generator))
        x = process.sample(x0, t, generator).x_t
        with torch.no_grad():
            clean = x0 if self.teacher is None else denoiser(t, t, x)
        return loss + self.diagonal * _divergence(clean, network(t, x, cond, to=t))

    @staticmethod
    def _uniform(x: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
        """In (0, 1]: a map never starts at t = 0."""
        return 1 - torch.rand(n, generator=generator, dtype=x.dtype, device=x.device)


def _divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || softmax(logits)), a mean over positions; of a one-hot target it is the cross entropy."""
    entropy = torch.special.xlogy(target, target).sum(-1)
    return (entropy - (target * logits.log_softmax(-1)).sum(-1)).mean()
