"""Brownian motion on projective spaces."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import ComplexProjective, RealProjective, Sphere
from ..manifolds.projective import hermitian, times
from ._compact_tables import CompactTables
from ._projective_law import ProjectiveLaw
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel, in_chunks
from .quotient import ImageKernel

__all__ = ["ComplexProjectiveKernel"]


@heat_kernel.register(RealProjective)
def _real_projective_kernel(manifold: RealProjective) -> HeatKernel:
    """Two images on the sphere."""
    return ImageKernel(manifold, heat_kernel(Sphere(manifold.n)), _antipodes)


def _antipodes(x: Tensor) -> Tensor:
    return torch.stack([x, -x])


@heat_kernel.register(ComplexProjective)
class ComplexProjectiveKernel(HeatKernel):
    r"""The heat kernel of :math:`\mathbb{CP}^n` with the Fubini-Study metric.

    .. math::
        p_\tau(z \mid z_0) = \frac{n!}{\pi^n} \sum_l \frac{2l + n}{n} \binom{l + n - 1}{l} e^{-2l(l+n)\tau}\,
        P_l^{(n-1, 0)}(2 |\langle z_0, z\rangle|^2 - 1) = \int_0^{2\pi} p^{S^{2n+1}}_\tau(z \mid e^{i\phi} z_0)\, d\phi

    Its radial law is summed to machine precision (a short-time expansion, above tau = min(0.0075, 0.3/n) the series in
    integers of hundreds of bits) and tabulated. A score is one look-up times the horizontal part of
    :math:`\langle z_0, z\rangle z_0`, finite and right at the cut locus.

    .. math::
        E |\langle z_0, z\rangle|^2 = \frac{1 + n\, e^{-2(n+1)\tau}}{n + 1}

    Args:
        manifold: a ``ComplexProjective(n)``.
    """

    # The tables hold the law of the angle 2d, whose Brownian time is 4 tau.

    def __init__(self, manifold: ComplexProjective) -> None:
        self.manifold = manifold
        self._radial = CompactTables(ProjectiveLaw(manifold.n), f"complex-projective-{manifold.n}")
        self._log_scale = manifold.dim * math.log(2)

    def _horizontal(self, x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The horizontal part of ``x0`` at ``x``, of length sin d, without cancellation; and <x0, x>."""
        return self.manifold.to_tangent(x, x0 - x), hermitian(x0, x)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        vector, product = self._horizontal(x, x0)
        versine, coversine = 2 * vector.square().sum((-2, -1)), 2 * product.square().sum(-1)
        return self._radial.log_prob(versine, coversine, 4 * brownian_time(tau, x)) + self._log_scale

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        vector, product = self._horizontal(x, x0)
        pull = self._radial.pull(2 * product.square().sum(-1), 4 * brownian_time(tau, x))
        # <x0, x> times the horizontal part of x0 is half of the vector of length sin 2d that points to the source.
        return 4 * self.manifold.per_point(pull) * times(product, vector)

    def _versine(self, x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """1 - cos 2d of every pair and the parts of <x, c>, in float64: short times divide the error."""
        a, b = x.double(), centres.double()
        real = torch.einsum("qkc,pkc->qp", a, b)
        imaginary = a[..., 0] @ b[..., 1].mT - a[..., 1] @ b[..., 0].mT
        versine = a.square().sum((-2, -1))[:, None] * b.square().sum((-2, -1)) - real.square() - imaginary.square()
        return (2 * versine).to(x.dtype).clamp(0, 2), real, imaginary

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self._radial.pairwise_log_prob(self._versine(x, centres)[0], 4 * tau) + self._log_scale

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        versine, real, imaginary = self._versine(x, centres)
        pull = (4 * weights * self._radial.pairwise_pull(versine, 4 * tau)).double()
        # Horizontal part of sum_k pull_k <c_k, x> c_k, and <c, x> is the conjugate of <x, c>.
        along, across = pull * real, -pull * imaginary
        re, im = centres[..., 0].double(), centres[..., 1].double()
        mean = torch.stack([along @ re - across @ im, along @ im + across @ re], -1)
        mean = mean - (pull * (1 - versine / 2)).sum(-1)[:, None, None] * x.double()
        return self.manifold.to_tangent(x, mean.to(x.dtype))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        def draw(x0: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            xi = self.manifold.random_tangent(x0, generator=generator)
            q = torch.linalg.vector_norm(xi.flatten(-2), dim=-1).clamp_min(1e-30)
            double, _, pull = self._radial.step(q, 4 * tau)
            r, xi = double / 2, xi / self.manifold.per_point(q)
            cos, sin = self.manifold.per_point(r.cos()), self.manifold.per_point(r.sin())
            # Half of sin 2d times the unit vector that points back, sin x0 - cos xi.
            score = 4 * self.manifold.per_point(pull) * sin * cos * (sin * x0 - cos * xi)
            return cos * x0 + sin * xi, score

        return in_chunks(draw, x0, brownian_time(tau, x0), tuple(x0.shape[:-2]))
