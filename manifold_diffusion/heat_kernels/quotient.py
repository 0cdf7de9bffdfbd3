"""Brownian motion on a quotient by a finite group: the images of the motion above."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..manifolds import Compact, Quotient
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel

__all__ = ["ImageKernel"]


class ImageKernel(HeatKernel):
    r"""The sum over the images of the starting point of the heat kernel above.

    .. math::
        p_\tau(x \mid x_0) = \sum_{g \in G} p^M_\tau(x \mid g x_0), \qquad
        \nabla \log p_\tau = \sum_g w_g \nabla \log p^M_\tau(x \mid g x_0), \quad
        w_g \propto p^M_\tau(x \mid g x_0)

    It is as exact as the kernel above, and costs as many of its evaluations as the group has elements. A sample is one
    from above.

    Args:
        manifold: the quotient.
        above: heat kernel of the manifold above.
        images: all images of points, ``(*batch, *point_shape) -> (order, *batch, *point_shape)``.
    """

    def __init__(self, manifold: Compact, above: HeatKernel, images: Callable[[Tensor], Tensor]) -> None:
        self.manifold, self._above, self._images = manifold, above, images

    def _sources(self, x: Tensor, x0: Tensor, tau: Tensor) -> Tensor:
        """Images of the starting points, with the batch shape of all arguments."""
        batch = torch.broadcast_shapes(self.manifold.batch_shape(x), self.manifold.batch_shape(x0), tau.shape)
        return self._images(x0.expand(*batch, *self.manifold.point_shape))

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self._above.sample(x0, tau, generator)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        t = brownian_time(tau, x)
        return self._above.log_prob(x, self._sources(x, x0, t), t).logsumexp(0)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        t = brownian_time(tau, x)
        sources = self._sources(x, x0, t)
        weights = self._above.log_prob(x, sources, t).softmax(0)
        return (self.manifold.per_point(weights) * self._above.score(x, sources, t)).sum(0)

    def _pairs(self, x: Tensor, centres: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All images of the centres in one row, a time for each, and the log density of every pair."""
        images = self._images(centres)
        times = tau if len(tau) == 1 else tau.repeat(len(images))
        log_p = self._above.pairwise_log_prob(x, images.flatten(0, 1), times)
        return images.flatten(0, 1), times, log_p.unflatten(1, (len(images), len(centres)))

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self._pairs(x, centres, tau)[2].logsumexp(1)

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        images, times, log_p = self._pairs(x, centres, tau)
        shares = weights.unsqueeze(1) * log_p.softmax(1)
        return self._above.weighted_score(x, images, times, shares.flatten(1))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        t = brownian_time(tau, x0)
        x = self._above.sample(x0, t, generator)
        return KernelSample(x, self.score(x, x0, t))


@heat_kernel.register(Quotient)
def _quotient_kernel(manifold: Quotient) -> HeatKernel:
    return ImageKernel(manifold, heat_kernel(manifold.base), manifold.images)
