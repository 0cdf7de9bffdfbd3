"""Batched algebra of small matrices: each entry is one contiguous array.

A product of 3 x 3 or 4 x 4 matrices is a few fused multiplications of long arrays, several times faster on a CPU than
a batched matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cross", "matrices", "planes", "polar_step", "times"]


def planes(x: Tensor) -> Tensor:
    """``(*batch, n, n) -> (n, n, *batch)``, contiguous."""
    return x.movedim((-2, -1), (0, 1)).contiguous()


def matrices(a: Tensor) -> Tensor:
    """Inverse of :func:`planes`."""
    return a.movedim((0, 1), (-2, -1)).contiguous()


def times(a: Tensor, b: Tensor) -> Tensor:
    """Product of matrices stored as planes."""
    total = a[:, 0].unsqueeze(1) * b[0]
    for k in range(1, a.shape[1]):
        total = torch.addcmul(total, a[:, k].unsqueeze(1), b[k])
    return total


def polar_step(a: Tensor) -> Tensor:
    """One Newton step towards the orthogonal polar factor, which undoes rounding over the steps of a walk."""
    return torch.add(1.5 * a, times(a, times(a.transpose(0, 1), a)), alpha=-0.5)


def cross(a: Tensor, b: Tensor, axis: int = 0) -> Tensor:
    """Cross product over an axis; of the rows of planes, with ``axis=1``."""
    a0, a1, a2 = a.unbind(axis)
    b0, b1, b2 = b.unbind(axis)
    return torch.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis)
