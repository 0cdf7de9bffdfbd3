"""Brownian motion on a manifold that is isometric to another one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Pullback
from .base import HeatKernel, KernelSample, heat_kernel

__all__ = ["PullbackKernel"]


@heat_kernel.register(Pullback)
class PullbackKernel(HeatKernel):
    r"""The law of the model, seen through the chart.

    The chart is an isometry, so that densities are equal, :math:`p_\tau(x \mid x_0) = p^N_\tau(\varphi(x) \mid
    \varphi(x_0))`, and scores correspond. With a Euclidean model the law is a Gaussian of the chart.

    Args:
        manifold: a :class:`~manifold_diffusion.manifolds.Pullback` of a manifold that has a heat kernel.

    Attributes:
        model: kernel of the model.
    """

    def __init__(self, manifold: Pullback) -> None:
        self.manifold = manifold
        self.model = heat_kernel(manifold.model)

    def _chart(self, x: Tensor) -> Tensor:
        return self.manifold.chart(x.double())

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        x = self.manifold.point(self.model.sample(self._chart(x0), tau, generator))
        return self.manifold.project(x.to(x0.dtype))  # to the precision of its dtype

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return self.model.log_prob(self._chart(x), self._chart(x0), tau).to(x.dtype)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        score = self.model.score(self._chart(x), self._chart(x0), tau)
        return self.manifold.push(x.double(), score).to(x.dtype)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        drawn = self.model.sample_with_score(self._chart(x0), tau, generator)
        x = self.manifold.point(drawn.x)
        return KernelSample(x.to(x0.dtype), self.manifold.push(x, drawn.score).to(x0.dtype))

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self.model.pairwise_log_prob(self._chart(x), self._chart(centres), tau.double()).to(x.dtype)

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        mean = self.model.weighted_score(self._chart(x), self._chart(centres), tau.double(), weights.double())
        return self.manifold.push(x.double(), mean).to(x.dtype)
