"""Weights of mixtures of known densities, by expectation maximisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import TypeVar

import torch
from torch import Tensor

from .._errors import DataError
from ..manifolds import Compact, Manifold
from .estimate import Estimate, nll

__all__ = ["em_weights", "fit_mixture", "log_mixture", "log_uniform", "stacked_weights"]

Kind = TypeVar("Kind")


def em_weights(log_components: Tensor, max_iterations: int = 2000, tolerance: float = 1e-8) -> tuple[Tensor, Tensor]:
    r"""Weights of a mixture of known components by expectation maximisation.

    :math:`w_j \leftarrow \frac1n \sum_i w_j p_j(x_i) / \sum_l w_l p_l(x_i)`.

    Args:
        log_components: log densities of the components at the points, ``(n, n_components)``.
        max_iterations: at most so many steps.
        tolerance: stop when the mean log-likelihood grows by less.

    Returns:
        Weights ``(n_components,)``, from equal ones, and the mean log-likelihood before each step, which never falls.
    """
    k = log_components.shape[1]
    weights = log_components.new_full((k,), 1 / k)
    trace = []
    for _ in range(max_iterations):
        joint = log_components + weights.log()
        log_p = torch.logsumexp(joint, 1, keepdim=True)
        trace.append(log_p.mean())
        if len(trace) > 1 and trace[-1] - trace[-2] < tolerance:
            break
        weights = (joint - log_p).exp().mean(0)
    return weights, torch.stack(trace)


def fit_mixture(
    manifold: Manifold, kinds: Sequence[Kind], matrix: Tensor
) -> tuple[tuple[Kind, ...], tuple[float, ...], float, Estimate]:
    """Mixture of kernel densities of several kinds and the uniform law, where there is one, by EM.

    Args:
        manifold: the manifold.
        kinds: what tells the densities apart.
        matrix: their log densities at validation points, ``(n, n_kinds)``.

    Returns:
        The kinds with a weight above 1e-6, at least one; their weights; that of the uniform law; the negative
        log-likelihood.
    """
    uniform = log_uniform(manifold)
    if uniform is not None:
        matrix = torch.cat([matrix, torch.full_like(matrix[:, :1], uniform)], 1)
    weights, _ = em_weights(matrix)
    kept = weights > 1e-6
    kept[0] |= not bool(kept[: len(kinds)].any())  # a mixture has a kernel
    weights = torch.where(kept, weights.clamp_min(1e-6), torch.zeros_like(weights))
    weights = weights / weights.sum()
    value = nll(torch.logsumexp(matrix + weights.log(), 1))
    used = [(kind, float(w)) for kind, w in zip(kinds, weights, strict=False) if w > 0]
    uniform_weight = float(weights[-1]) if uniform is not None else 0.0
    return tuple(kind for kind, _ in used), tuple(w for _, w in used), uniform_weight, value


def log_mixture(manifold: Manifold, matrix: Tensor, weights: Sequence[float], uniform_weight: float) -> Tensor:
    """Log density of such a mixture from those of its parts, ``(n, n_kinds) -> (n,)``, float64."""
    uniform, weights = log_uniform(manifold), list(weights)
    if uniform is not None and uniform_weight > 0:
        matrix = torch.cat([matrix, torch.full_like(matrix[:, :1], uniform)], 1)
        weights.append(uniform_weight)
    return torch.logsumexp(matrix + torch.tensor(weights, dtype=torch.float64, device=matrix.device).log(), 1)


def stacked_weights(log_probs: Tensor) -> tuple[tuple[float, ...], Estimate]:
    r"""Weights of a mixture of densities by expectation maximisation, from their values at validation points.

    It maximises :math:`\sum_i \log \sum_j w_j\, p_j(x_i)`, which has no other maxima.

    Args:
        log_probs: log densities of the members, ``(n, n_members)``.

    Returns:
        The weights, of sum one, and the negative log-likelihood of the mixture.

    Raises:
        DataError: if a member's density is NaN or infinite at a point, or all vanish at one.

    Example:
        >>> import torch
        >>> weights, _ = stacked_weights(torch.tensor([[0.0, -3.0], [-1.0, -5.0], [-4.0, 0.0]]))
        >>> [round(w, 2) for w in weights]
        [0.67, 0.33]
    """
    matrix = log_probs.double()
    bad = torch.isnan(matrix).any(0) | (matrix == math.inf).any(0)
    if bool(bad.any()):
        raise DataError(f"Member {int(bad.nonzero()[0])} has no finite density at all validation points.")
    lost = (matrix == -math.inf).all(1)
    if bool(lost.any()):
        raise DataError(
            f"All members vanish at {int(lost.sum())} validation points, first at row {int(lost.nonzero()[0])}. "
            "Add one that does not, such as a kernel density with a uniform part."
        )
    weights, _ = em_weights(matrix)
    value = nll(torch.logsumexp(matrix + weights.log(), 1))
    return tuple((weights / weights.sum()).tolist()), value


@singledispatch
def log_uniform(manifold: Manifold) -> float | None:
    """Log density of the uniform law, None where there is none."""
    return None


@log_uniform.register
def _(manifold: Compact) -> float | None:
    return -manifold.log_volume
