"""Reflected Brownian motion where mirrors fold a manifold onto the domain: half-spaces, hemispheres, boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import Box, HalfSpace, Hemisphere
from ._images import SignImages
from .base import HeatKernel, brownian_time, heat_kernel
from .torus import wrap_angle, wrapped_log_prob, wrapped_score

__all__ = ["BoxKernel", "MirrorKernel"]


@heat_kernel.register(HalfSpace)
@heat_kernel.register(Hemisphere)
class MirrorKernel(HeatKernel):
    r"""The reflected (Neumann) heat kernel of half of a manifold, by one image.

    With the ambient kernel k and the mirror image :math:`x_0^*` of the source,

    .. math::
        p_\tau(x \mid x_0) = k_\tau(x \mid x_0) + k_\tau(x \mid x_0^*).

    A sample is an ambient sample, mirrored to the inside. All is as accurate as the ambient kernel.

    Args:
        manifold: a ``HalfSpace(n)`` or ``Hemisphere(n)``.
    """

    def __init__(self, manifold: HalfSpace | Hemisphere) -> None:
        self.manifold = manifold
        signs = torch.ones(2, *manifold.point_shape)
        signs[1, 0] = -1
        self._images = SignImages(heat_kernel(manifold.ambient), signs)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        x = self._images.kernel.sample(x0, tau, generator)
        return torch.cat([x[..., :1].abs(), x[..., 1:]], -1)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return self._images.log_prob(x, x0, brownian_time(tau, x))

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return self._images.score(x, x0, brownian_time(tau, x))

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self._images.pairwise_log_prob(x, centres, tau)

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        return self._images.weighted_score(x, centres, tau, weights)


@heat_kernel.register(Box)
class BoxKernel(HeatKernel):
    r"""The reflected (Neumann) heat kernel of a box: a product of kernels of intervals.

    An interval of length L is a circle of length 2 L folded in two. With :math:`\theta = \pi (x - l)/L` and the wrapped
    normal density w of an angle,

    .. math::
        p_\tau(x \mid x_0) = \frac\pi L \left(w(\theta - \theta_0) + w(\theta + \theta_0)\right)
        \quad\text{at the time}\quad \pi^2\tau/L^2,

    where w is a sum of images for short times and a cosine series for long ones, each to the precision of the dtype.

    Args:
        manifold: a ``Box(lower, upper)``.
    """

    def __init__(self, manifold: Box) -> None:
        self.manifold = manifold

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return self.manifold.reflect(x0, brownian_time(tau, x0).sqrt().unsqueeze(-1) * xi)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        near, far, t, unit = self._angles(x, x0, tau)
        total = torch.logaddexp(wrapped_log_prob(near, t), wrapped_log_prob(far, t))
        return (total + unit.log()).sum(-1)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        near, far, t, unit = self._angles(x, x0, tau)
        share = torch.sigmoid(wrapped_log_prob(near, t) - wrapped_log_prob(far, t))
        return unit * (share * wrapped_score(near, t) + (1 - share) * wrapped_score(far, t))

    def _angles(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Differences to the source and to its mirror image as angles, the time of the circle, angle per length."""
        low, high = self.manifold.bounds(x)
        unit = math.pi / (high - low)
        near, far = unit * (x - x0), unit * ((x - low) + (x0 - low))
        return wrap_angle(near), wrap_angle(far), brownian_time(tau, x).unsqueeze(-1) * unit.square(), unit
