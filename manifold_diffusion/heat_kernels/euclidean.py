"""Brownian motion on Euclidean space: the Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import Euclidean
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel

__all__ = ["EuclideanKernel"]


@heat_kernel.register(Euclidean)
class EuclideanKernel(HeatKernel):
    r"""The normal law :math:`N(x_0, \tau I)`.

    Args:
        manifold: a ``Euclidean(n)``.
    """

    def __init__(self, manifold: Euclidean) -> None:
        self.manifold = manifold

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        t = brownian_time(tau, x)
        return -(x - x0).square().sum(-1) / (2 * t) - self.manifold.dim / 2 * (t.log() + math.log(2 * math.pi))

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return (x0 - x) / brownian_time(tau, x).unsqueeze(-1)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        s = brownian_time(tau, x0).sqrt().unsqueeze(-1)
        return KernelSample(x0 + s * xi, -xi / s)
