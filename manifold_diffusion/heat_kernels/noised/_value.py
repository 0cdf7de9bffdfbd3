"""What the evaluators of noised data return, and what they share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._tensors import untracked
from ...manifolds import Manifold

__all__ = [
    "TABLE",
    "NoisedValue",
    "assemble",
    "from_sum",
    "met",
    "missing",
    "pick",
    "plain",
    "rounding",
]


TABLE = 1e-9
"""Relative error of the tabulated kernels, in units of 1 + |log p|."""


@dataclass(frozen=True)
class NoisedValue:
    r"""Log density and score of noised data, with bounds of their errors.

    Attributes:
        log_prob: nats, ``(*batch,)``.
        score: tangent vectors at the queries, ``(*batch, *point_shape)``; None if not asked for.
        log_prob_error: bound of the error of ``log_prob``, which is the relative error of the density; infinite, with
            the value NaN, where the evaluator can't tell the density from zero.
        score_error: bound of the length of the error of ``score``; None if not asked for.
        evaluator: index into ``("full", "golden", "spectral", "cells")`` of what was used, ``(*batch,)``.
    """

    log_prob: Tensor
    score: Tensor | None
    log_prob_error: Tensor
    score_error: Tensor | None
    evaluator: Tensor


def plain(x: Tensor) -> Tensor:
    """The values of a tensor, without derivatives, also of one that ``torch.func`` differentiates."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    layer = x
    for layer in _layers(x):
        if functorch.is_batchedtensor(layer):
            break
    with untracked():
        return layer.detach()


def _layers(x: Tensor) -> Iterator[Tensor]:
    """A tensor, and what the transforms of ``torch.func`` around it have wrapped: also constants that are new there."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    yield x
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
        yield x


def is_batched(x: Tensor) -> bool:
    """Whether ``torch.func.vmap`` runs over a tensor."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    return any(map(functorch.is_batchedtensor, _layers(x)))


def is_tracked(x: Tensor) -> bool:
    """Whether derivatives of a tensor are asked for, by a graph or by ``torch.func``."""
    graph, tangent = torch.is_grad_enabled(), torch.autograd.forward_ad.unpack_dual
    return any((graph and layer.requires_grad) or tangent(layer).tangent is not None for layer in _layers(x))


def from_sum(
    manifold: Manifold,
    x: Tensor,
    p: Tensor,
    error: Tensor,
    slope: Tensor | None,
    slope_error: Tensor,
    log_unit: Tensor | float,
    evaluator: int,
) -> NoisedValue:
    """What is known from a density and its gradient, in units of ``exp(log_unit)``, and bounds of their errors.

    Where the bound is above the density nothing is known: values are NaN, bounds infinite.
    """
    known = plain(p) > error
    safe = torch.where(known, p, 1.0)
    share = torch.where(known, error / plain(safe), 0.0)
    log_p = torch.where(known, safe.log() + log_unit, math.nan).to(x.dtype)
    log_error = torch.where(known, -torch.log1p(-share), math.inf)
    score, bound = None, None
    if slope is not None:
        length = manifold.norm(plain(x).double(), plain(slope)) / plain(safe)
        bound = torch.where(known, (slope_error / plain(safe) + length * share) / (1 - share), math.inf)
        score = torch.where(manifold.per_point(known), slope / manifold.per_point(safe), math.nan).to(x.dtype)
    kind = torch.full((len(x),), evaluator, dtype=torch.long, device=x.device)
    return NoisedValue(log_p, score, log_error, bound, kind)


def rounding(manifold: Manifold, x: Tensor, value: NoisedValue, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Allowance for rounding and for radial tables, of the log density and of the score.

    Kernels divide squares of positions, which are known to a rounding, by the time. Where the value is not known the
    allowance is zero.
    """
    log_p = torch.nan_to_num(plain(value.log_prob).double(), nan=0.0)
    tau = tau.to(log_p)
    unit = 16 * torch.finfo(x.dtype).eps + TABLE
    relative = unit * (1 + log_p.abs()) + 16 * torch.finfo(torch.float64).eps / tau
    length = torch.zeros_like(relative)
    if value.score is not None:
        length = manifold.norm(plain(x).double(), torch.nan_to_num(plain(value.score).double(), nan=0.0))
    return relative, 4 * relative * (length + (manifold.dim / tau).sqrt())


def met(manifold: Manifold, x: Tensor, value: NoisedValue, tau: Tensor, rtol: float) -> Tensor:
    """Whether the errors are below ``rtol``: of the density, and of the score over the larger of it and 1/sqrt(tau)."""
    done = value.log_prob_error <= rtol
    if value.score is not None and value.score_error is not None:
        length = manifold.norm(x.double(), plain(value.score).double())
        done = done & (value.score_error <= rtol * torch.maximum(length, tau.to(length).rsqrt()))
    return done.cpu()


def pick(value: NoisedValue, index: Tensor) -> NoisedValue:
    """Some rows of a record."""
    rows: dict[str, Any] = {k: None if v is None else v[index.to(v.device)] for k, v in vars(value).items()}
    return NoisedValue(**rows)


def assemble(pieces: list[tuple[Tensor, NoisedValue]]) -> NoisedValue:
    """One record in the order of the queries, from parts with the indices of their queries."""
    order = torch.cat([i for i, _ in pieces]).argsort()
    joined = {}
    for name in vars(pieces[0][1]):
        parts = [getattr(v, name) for _, v in pieces]
        joined[name] = None if parts[0] is None else torch.cat(parts)[order.to(parts[0].device)]
    return NoisedValue(**joined)


def missing(indices: Tensor, pieces: list[tuple[Tensor, NoisedValue]]) -> Tensor:
    """The indices that no piece has."""
    return indices[~torch.isin(indices, torch.cat([i for i, _ in pieces]))] if pieces else indices
