r"""Sums over mirror images: the heat kernel of a domain that mirrors fold out of a larger manifold.

The reflected kernel at x is the sum of the larger manifold's kernel over the images :math:`\sigma x_0` of the source
under the group that the mirrors generate; here every :math:`\sigma` flips the signs of some ambient entries. Its terms
are positive, so that nothing cancels in the density.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import HeatKernel

__all__ = ["SignImages"]

_ROWS = 1 << 18
"""Images times points that are evaluated together."""


class SignImages:
    """Image sums of a heat kernel whose points are vectors.

    Args:
        kernel: heat kernel of the larger manifold.
        signs: one row of +1 and -1 per image, ``(m, n)``.
    """

    def __init__(self, kernel: HeatKernel, signs: Tensor) -> None:
        self.kernel, self.signs = kernel, signs

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor) -> Tensor:
        """Log density, ``(*batch,)``; the arguments broadcast."""
        batch = torch.broadcast_shapes(x.shape[:-1], x0.shape[:-1], tau.shape)
        parts = [torch.logsumexp(self._terms(x, x0, tau, signs), 0) for signs in self._blocks(x, batch)]
        return parts[0] if len(parts) == 1 else torch.logsumexp(torch.stack(parts), 0)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor) -> Tensor:
        """Gradient of :meth:`log_prob` on the larger manifold: the mean of the images' scores by their densities."""
        batch = torch.broadcast_shapes(x.shape[:-1], x0.shape[:-1], tau.shape)
        blocks = self._blocks(x, batch)
        if len(blocks) == 1:
            weights = torch.softmax(self._terms(x, x0, tau, blocks[0]), 0)
            return (weights.unsqueeze(-1) * self.kernel.score(x, self._sources(x, x0, tau, blocks[0]), tau)).sum(0)
        log_total = self.log_prob(x, x0, tau)
        total = torch.zeros(*batch, x.shape[-1], dtype=x.dtype, device=x.device)
        for signs in blocks:
            weights = (self._terms(x, x0, tau, signs) - log_total).exp()
            total = total + (weights.unsqueeze(-1) * self.kernel.score(x, self._sources(x, x0, tau, signs), tau)).sum(0)
        return total

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        """Log density of every pair, ``(queries, centres)``."""
        total = self.kernel.pairwise_log_prob(x, centres, tau)
        for signs in self.signs[1:].to(centres):
            total = torch.logaddexp(total, self.kernel.pairwise_log_prob(x, signs * centres, tau))
        return total

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        """Sum over the centres of ``weights`` times the score, ``(queries, n)``."""
        log_total = self.pairwise_log_prob(x, centres, tau)
        total = torch.zeros_like(x)
        for signs in self.signs.to(centres):
            share = (self.kernel.pairwise_log_prob(x, signs * centres, tau) - log_total).exp()
            total = total + self.kernel.weighted_score(x, signs * centres, tau, weights * share)
        return total

    def _blocks(self, x: Tensor, batch: tuple[int, ...]) -> tuple[Tensor, ...]:
        rows = max(1, _ROWS // max(1, torch.Size(batch).numel()))
        return self.signs.to(x).split(rows)

    def _sources(self, x: Tensor, x0: Tensor, tau: Tensor, signs: Tensor) -> Tensor:
        axes = max(x.dim() - 1, x0.dim() - 1, tau.dim())
        return signs.reshape(len(signs), *(1,) * axes, signs.shape[-1]) * x0

    def _terms(self, x: Tensor, x0: Tensor, tau: Tensor, signs: Tensor) -> Tensor:
        return self.kernel.log_prob(x, self._sources(x, x0, tau, signs), tau)
