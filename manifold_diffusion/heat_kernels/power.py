"""Brownian motion on a power: the copies' motions side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Power
from .base import HeatKernel, KernelSample, heat_kernel

__all__ = ["PowerKernel"]


@heat_kernel.register(Power)
class PowerKernel(HeatKernel):
    r"""The law of ``k`` independent Brownian motions, one per copy, as exact as the kernel of the manifold.

    .. math:: \log p_\tau(x \mid x_0) = \sum_{i=1}^k \log p_\tau(x_i \mid x_{0,i})

    The copies are a batch axis of the manifold's kernel: one call for all of them.

    Args:
        manifold: a ``Power(M, k)`` of a manifold that has a heat kernel.

    Attributes:
        copy: the kernel of ``M``.
    """

    def __init__(self, manifold: Power) -> None:
        self.manifold = manifold
        self.copy = heat_kernel(manifold.manifold)

    @staticmethod
    def _per_copy(tau: Tensor | float) -> Tensor | float:
        return tau.unsqueeze(-1) if isinstance(tau, Tensor) else tau

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.copy.sample(x0, self._per_copy(tau), generator)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return self.copy.log_prob(x, x0, self._per_copy(tau)).sum(-1)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return self.copy.score(x, x0, self._per_copy(tau))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        return self.copy.sample_with_score(x0, self._per_copy(tau), generator)
