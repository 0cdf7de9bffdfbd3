"""Brownian motion on spaces of constant curvature: that of curvature 1, 0 or -1, scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import ConstantCurvature
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel

__all__ = ["ConstantCurvatureKernel"]


@heat_kernel.register(ConstantCurvature)
class ConstantCurvatureKernel(HeatKernel):
    r"""The heat kernel of curvature :math:`\kappa`, as exact as that of the unit sphere or hyperbolic space.

    Lengths scale by :math:`c = \sqrt{|\kappa|}` and times by :math:`c^2`,

    .. math:: \log p_\tau(x \mid x_0) = \log p^{\pm1}_{c^2\tau}(c x \mid c x_0) + n \log c,

    and the kernel of Euclidean space stands at :math:`\kappa = 0`, the limit from both sides.

    Args:
        manifold: a ``ConstantCurvature(n, kappa)``.
    """

    def __init__(self, manifold: ConstantCurvature) -> None:
        self.manifold = manifold
        self.unit = heat_kernel(manifold.unit)
        self._rate = manifold.stretch**2
        self._log_density = manifold.n * math.log(manifold.stretch)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        m = self.manifold
        return m.from_unit(self.unit.sample(m.to_unit(x0), self._rate * brownian_time(tau, x0), generator))

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        m = self.manifold
        return self.unit.log_prob(m.to_unit(x), m.to_unit(x0), self._rate * brownian_time(tau, x)) + self._log_density

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        m = self.manifold
        # The gradient in a metric divided by c^2 is c^2 times the vector.
        unit = self.unit.score(m.to_unit(x), m.to_unit(x0), self._rate * brownian_time(tau, x))
        return self._rate * m.vector_from_unit(x, unit)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        m = self.manifold
        draw = self.unit.sample_with_score(m.to_unit(x0), self._rate * brownian_time(tau, x0), generator)
        x = m.from_unit(draw.x)
        return KernelSample(x, self._rate * m.vector_from_unit(x, draw.score))

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        m = self.manifold
        return self.unit.pairwise_log_prob(m.to_unit(x), m.to_unit(centres), self._rate * tau) + self._log_density

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        m = self.manifold
        unit = self.unit.weighted_score(m.to_unit(x), m.to_unit(centres), self._rate * tau, weights)
        return self._rate * m.vector_from_unit(x, unit)
