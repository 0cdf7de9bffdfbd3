"""Reflected Brownian motion on the simplex: sign images on the sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import CapabilityError
from ..manifolds import Simplex, Sphere
from ._images import SignImages
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel

__all__ = ["SimplexKernel"]

_LARGEST = 12
"""Categories up to which the 2^k images are summed."""


@heat_kernel.register(Simplex)
class SimplexKernel(HeatKernel):
    r"""The heat kernel of the simplex with reflection at the faces (Neumann), by images on the sphere.

    With :math:`y = \sqrt p` and the kernel k of the unit sphere :math:`S^{k-1}`,

    .. math::
        p_\tau(p \mid p_0) = 2^{-(k-1)} \sum_{\sigma \in \{\pm1\}^k} k_{\tau/4}(y \mid \sigma y_0).

    Sampling is exact for every k: a sample of the sphere, squared. Density and score sum :math:`2^k` terms, up to k =
    12. :meth:`sample_with_score` needs no sum: its score is that of the path *before* it is folded, an unbiased
    target whose mean given the sample is :meth:`score` exactly. Regression on it (denoising score matching) has the
    same minimiser, for every k; its variance is larger only within :math:`\sqrt\tau` of a face.

    Args:
        manifold: a ``Simplex(k)``.
    """

    exact_targets = False

    def __init__(self, manifold: Simplex) -> None:
        self.manifold = manifold
        self._sphere = heat_kernel(Sphere(manifold.k - 1))
        self._log_scale = manifold.dim * math.log(2)
        self.terms_per_pair = 2**manifold.k
        self._sum = None
        if manifold.k <= _LARGEST:
            signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * manifold.k)
            self._sum = SignImages(self._sphere, signs)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        root = self.manifold.to_sphere(x0) / 2
        return self._sphere.sample(root, brownian_time(tau, x0) / 4, generator).square()

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        """A sample, and an unbiased target: that of the unfolded path, whose mean given the sample is the score."""
        root = self.manifold.to_sphere(x0) / 2
        draw = self._sphere.sample_with_score(root, brownian_time(tau, x0) / 4, generator)
        return KernelSample(draw.x.square(), draw.x * draw.score / 2)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        y, y0 = self.manifold.to_sphere(x) / 2, self.manifold.to_sphere(x0) / 2
        return self._images.log_prob(y, y0, brownian_time(tau, x) / 4) - self._log_scale

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        y, y0 = self.manifold.to_sphere(x) / 2, self.manifold.to_sphere(x0) / 2
        return self._push(y, self._images.score(y, y0, brownian_time(tau, x) / 4))

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        y, y0 = self.manifold.to_sphere(x) / 2, self.manifold.to_sphere(centres) / 2
        return self._images.pairwise_log_prob(y, y0, tau / 4) - self._log_scale

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        y, y0 = self.manifold.to_sphere(x) / 2, self.manifold.to_sphere(centres) / 2
        return self._push(y, self._images.weighted_score(y, y0, tau / 4, weights))

    @staticmethod
    def _push(y: Tensor, score: Tensor) -> Tensor:
        """A gradient of the unit sphere as one of the simplex: half as long in s = 2 y, and dp = y ds."""
        return y * score / 2

    @property
    def _images(self) -> SignImages:
        if self._sum is None:
            raise CapabilityError(
                f"The density on {self.manifold} is a sum of 2^{self.manifold.k} images: it is evaluated up to "
                f"Simplex({_LARGEST}). Samples and training targets (sample_with_score) are exact for any k, and the "
                "likelihood of a trained model needs no sum."
            )
        return self._sum
