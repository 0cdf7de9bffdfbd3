"""Brownian motion on the sphere."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Sphere
from ._compact_tables import sphere_tables
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel, in_chunks
from .torus import wrap_angle, wrapped_log_prob, wrapped_score

__all__ = ["CircleKernel", "SphereKernel"]


def _towards(x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Tangent vector at ``x`` of length sin r that points to ``x0``, and 1 + cos r, both without cancellation."""
    difference = x0 - x
    vector = difference + difference.square().sum(-1, keepdim=True) / 2 * x
    return vector, (x0 + x).square().sum(-1) / 2


def _versine(x: Tensor, centres: Tensor) -> Tensor:
    """1 - cos r of every pair, ``(queries, centres)``; the product is in float64: short times divide its error."""
    a, b = x.double(), centres.double()
    pairs = torch.addmm(b.square().sum(-1), a, b.mT, beta=0.5, alpha=-1)
    return (pairs + a.square().sum(-1, keepdim=True) / 2).to(x.dtype).clamp(0, 2)


class SphereKernel(HeatKernel):
    r"""The heat kernel of :math:`S^n`, n from 2 to 511 and more.

    Its radial law is summed to machine precision (short-time expansion to all relevant orders below tau = min(0.03,
    2.5/n), eigenfunction series in integers of hundreds of bits above) and tabulated; a score is one look-up times the
    projection of ``x0``.

    .. math::
        E[x \cdot x_0] = e^{-n\tau/2}

    Args:
        manifold: a ``Sphere(n)`` with n >= 2.
    """

    def __init__(self, manifold: Sphere) -> None:
        self.manifold = manifold
        self._radial = sphere_tables(manifold.n)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        versine = (x - x0).square().sum(-1) / 2
        return self._radial.log_prob(versine, (x + x0).square().sum(-1) / 2, brownian_time(tau, x))

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        vector, coversine = _towards(x, x0)
        return self._radial.pull(coversine, brownian_time(tau, x)).unsqueeze(-1) * vector

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self._radial.pairwise_log_prob(_versine(x, centres), tau)

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        versine = _versine(x, centres)
        pull = (weights * self._radial.pairwise_pull(versine, tau)).double()
        # sum_k pull_k (c_k - cos(r_k) x)
        mean = pull @ centres.double() - (pull * (1 - versine)).sum(-1, keepdim=True) * x
        return self.manifold.to_tangent(x, mean.to(x.dtype))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        def draw(x0: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
            xi = torch.addcmul(xi, (xi * x0).sum(-1, keepdim=True), x0, value=-1)
            q = torch.linalg.vector_norm(xi, dim=-1).clamp_min(1e-30)
            r, cos, pull = self._radial.step(q, tau)
            sin = r.sin()
            along = sin / q
            x = torch.addcmul(cos.unsqueeze(-1) * x0, along.unsqueeze(-1), xi)
            # The vector of length sin r that points back is x0 - cos(r) x = sin(r) (sin(r) x0 - cos(r) xi / q).
            score = (pull * sin).unsqueeze(-1) * torch.addcmul(
                sin.unsqueeze(-1) * x0, (cos / q).unsqueeze(-1), xi, value=-1
            )
            return x, score

        return in_chunks(draw, x0, brownian_time(tau, x0), tuple(x0.shape[:-1]))


class CircleKernel(HeatKernel):
    r"""The heat kernel of the circle as unit vectors: the wrapped normal law of the angle.

    Args:
        manifold: ``Sphere(1)``.
    """

    def __init__(self, manifold: Sphere) -> None:
        self.manifold = manifold

    @staticmethod
    def _angle(x: Tensor, x0: Tensor) -> Tensor:
        d = x - x0
        sin = x0[..., 0] * d[..., 1] - x0[..., 1] * d[..., 0]
        return torch.atan2(sin, 1 - d.square().sum(-1) / 2)

    @staticmethod
    def _normal(x: Tensor) -> Tensor:
        return torch.stack([-x[..., 1], x[..., 0]], -1)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return wrapped_log_prob(self._angle(x, x0), brownian_time(tau, x))

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return wrapped_score(self._angle(x, x0), brownian_time(tau, x)).unsqueeze(-1) * self._normal(x)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        t = brownian_time(tau, x0)
        angle = t.sqrt() * torch.randn(x0.shape[:-1], generator=generator, dtype=x0.dtype, device=x0.device)
        x = angle.cos().unsqueeze(-1) * x0 + angle.sin().unsqueeze(-1) * self._normal(x0)
        return KernelSample(x, wrapped_score(wrap_angle(angle), t).unsqueeze(-1) * self._normal(x))


@heat_kernel.register(Sphere)
def _sphere_kernel(manifold: Sphere) -> HeatKernel:
    return CircleKernel(manifold) if manifold.n == 1 else SphereKernel(manifold)
