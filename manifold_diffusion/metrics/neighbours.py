"""Nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Manifold

__all__ = ["nearest_others", "without_own"]


def nearest_others(manifold: Manifold, x: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` nearest other points of each point, in the embedding, ``(n, k)``."""
    from scipy.spatial import KDTree

    e = manifold.embed(x).cpu().numpy()
    _, nearest = KDTree(e).query(e, k=k + 1)
    return without_own(torch.as_tensor(nearest, device=x.device), torch.arange(len(x), device=x.device))


def without_own(index: Tensor, own: Tensor) -> Tensor:
    """Neighbours ``(n, k + 1)``, nearest first, without the point ``own`` ``(n,)`` itself: ``(n, k)``."""
    itself = index == own.unsqueeze(1)  # not first among repeats
    itself[:, -1] |= ~itself.any(1)
    return index[~itself].reshape(len(index), -1)
