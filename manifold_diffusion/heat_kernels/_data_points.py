"""Checks of the arguments of noised data: weights, errors, and what is to be removed or merged."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import ConfigError, DataError

__all__ = ["are_weights", "checked_rtol", "checked_weights", "kept_rows", "merged"]


def are_weights(w: Tensor, n: int) -> bool:
    """Whether ``w`` are n finite numbers >= 0 that are not all zero."""
    return w.shape == (n,) and bool((torch.isfinite(w) & (w >= 0)).all()) and bool((w > 0).any())


def checked_weights(weights: Tensor | None, n: int) -> Tensor:
    """Weights of ``n`` points in float64, 1 each by default.

    Raises:
        DataError: if they are negative, not finite, all zero, or not ``n``.
    """
    if n == 0 or weights is None:
        return torch.ones(n, dtype=torch.float64)
    w = torch.as_tensor(weights).detach().cpu().double()
    if not are_weights(w, n):
        raise DataError(
            f"weights must be one finite number >= 0 per point ({n}), not all zero; got shape {tuple(w.shape)}. "
            "Drop the rows with bad weights first."
        )
    return w


def checked_rtol(rtol: float) -> float:
    """A relative error in (0, 1)."""
    if not 0 < rtol < 1:
        raise ConfigError(f"rtol, a relative error, must be in (0, 1); got {rtol}.")
    return float(rtol)


def kept_rows(which: Tensor, n: int) -> Tensor:
    """Mask of the rows that stay when those of an index or mask go.

    Raises:
        DataError: if an index is out of range, or a mask has another length.
    """
    which = torch.as_tensor(which).cpu()
    if which.dtype == torch.bool:
        bad = which.shape != (n,)
    else:
        bad = bool(((which < -n) | (which >= n)).any())
    if bad:
        raise DataError(f"which must be a mask of {n} entries, or indices below {n}; got {tuple(which.shape)}.")
    kept = torch.ones(n, dtype=torch.bool)
    kept[which] = False
    return kept


def merged(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct points in the order of their first occurrence, with the sums of their weights."""
    unique, inverse = torch.unique(points.flatten(1), dim=0, return_inverse=True)
    inverse, index = inverse.cpu(), torch.arange(len(points))
    first = torch.full((len(unique),), len(points)).scatter_reduce(0, inverse, index, "amin")
    total = torch.zeros(len(unique), dtype=torch.float64).index_add(0, inverse, weights)
    order = first.argsort()
    return points[first[order].to(points.device)], total[order]
