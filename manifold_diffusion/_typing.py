"""Types shared by all layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch", "Network", "VectorField"]

VectorField = Callable[[Tensor], Tensor]
"""A map from points to tangent vectors."""

Network = Callable[..., Tensor]
"""A map ``(t, x, cond=None) -> tangent vector at x``; usually an ``nn.Module``."""


class Batch(NamedTuple):
    """Points of a data set, with an optional condition per point.

    Attributes:
        x: points, ``(batch, *point_shape)``.
        cond: condition, ``(batch, cond_dim)``, or None.
    """

    x: Tensor
    cond: Tensor | None = None
