"""Euclidean space."""

from __future__ import annotations

import torch
from torch import Tensor

from .._safe import safe_norm
from .base import Manifold, check_size

__all__ = ["Euclidean"]


class Euclidean(Manifold):
    r"""Euclidean space :math:`\mathbb{R}^n` with the standard metric.

    :math:`\exp_x(v) = x + v`, :math:`\log_x(y) = y - x`; parallel transport is the identity.

    Args:
        n: dimension, at least 1.

    Example:
        >>> import torch
        >>> M = Euclidean(2)
        >>> M.dist(torch.zeros(2), torch.tensor([3.0, 4.0]))
        tensor(5.)
    """

    isometric = True

    def __init__(self, n: int) -> None:
        check_size("Euclidean(n)", n=n)
        super().__init__(n, (n,), n)
        self.n = n

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return x

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_norm(y - x)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def tangent_basis(self, x: Tensor) -> Tensor:
        return torch.eye(self.n, dtype=x.dtype, device=x.device).expand(*x.shape, self.n)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(self.n, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.zeros(v.shape[:-1], dtype=v.dtype, device=v.device)
