"""Brownian motion on a product: the factors' motions side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..manifolds import Product
from .base import HeatKernel, KernelSample, heat_kernel

__all__ = ["ProductKernel"]


@heat_kernel.register(Product)
class ProductKernel(HeatKernel):
    r"""The product law.

    With the metric :math:`g = \sum_i w_i g_i` factor i moves for the Brownian time :math:`\tau_i = \tau / w_i`; its
    density gains :math:`w_i^{-d_i/2}` and its score :math:`1/w_i`.

    A process with a noise level per factor passes ``tau`` as a tuple with one entry (float or ``(*batch,)``) per
    factor.

    Args:
        manifold: a ``Product(...)`` whose factors all have a heat kernel.

    Attributes:
        factors: the factors' kernels.
    """

    def __init__(self, manifold: Product) -> None:
        self.manifold = manifold
        self.factors = tuple(heat_kernel(f) for f in manifold.factors)
        self._log_weight = sum(f.dim / 2 * math.log(w) for f, w in zip(manifold.factors, manifold.weights, strict=True))

    def _times(self, tau: Tensor | float | Sequence[Tensor | float]) -> list[Tensor | float]:
        taus: list[Tensor | float] = [tau] * len(self.factors) if isinstance(tau, Tensor | float | int) else list(tau)
        return [t if w == 1 else t / w for t, w in zip(taus, self.manifold.weights, strict=True)]

    def sample(
        self, x0: Tensor, tau: Tensor | float | Sequence[Tensor | float], generator: torch.Generator | None = None
    ) -> Tensor:
        parts = zip(self.factors, self.manifold.split(x0), self._times(tau), strict=True)
        return self.manifold.join(*[k.sample(p, t, generator) for k, p, t in parts])

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float | Sequence[Tensor | float]) -> Tensor:
        parts = zip(self.factors, self.manifold.split(x), self.manifold.split(x0), self._times(tau), strict=True)
        total = sum((k.log_prob(p, p0, t) for k, p, p0, t in parts), torch.zeros((), dtype=x.dtype, device=x.device))
        return total - self._log_weight

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float | Sequence[Tensor | float]) -> Tensor:
        parts = zip(self.factors, self.manifold.split(x), self.manifold.split(x0), self._times(tau), strict=True)
        return self._join_scores([k.score(p, p0, t) for k, p, p0, t in parts])

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float | Sequence[Tensor | float], generator: torch.Generator | None = None
    ) -> KernelSample:
        parts = zip(self.factors, self.manifold.split(x0), self._times(tau), strict=True)
        samples = [k.sample_with_score(p, t, generator) for k, p, t in parts]
        return KernelSample(self.manifold.join(*[s.x for s in samples]), self._join_scores([s.score for s in samples]))

    def _join_scores(self, scores: list[Tensor]) -> Tensor:
        return self.manifold.join(*[s if w == 1 else s / w for s, w in zip(scores, self.manifold.weights, strict=True)])
