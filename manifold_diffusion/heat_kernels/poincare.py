"""Brownian motion on hyperbolic space in the Poincaré ball."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from ..manifolds import Hyperboloid, PoincareBall
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel, in_chunks
from .hyperboloid import HyperboloidKernel

__all__ = ["PoincareBallKernel"]


@heat_kernel.register(PoincareBall)
class PoincareBallKernel(HeatKernel):
    r"""The heat kernel of :math:`H^n` in the ball: the radial law of the hyperboloid, exact and from the same tables.

    A function of the distance, of time and of the logarithm that points to the source needs no chart:
    :math:`\nabla_x \log p = P(r, \tau) \log_x(x_0)` with the same P. The ball holds points up to a distance of 15
    (float32) or 35 (float64) from the origin; farther samples stay at its edge.

    Args:
        manifold: a ``PoincareBall(n)``.
    """

    def __init__(self, manifold: PoincareBall) -> None:
        self.manifold = manifold
        self._radial = cast(HyperboloidKernel, heat_kernel(Hyperboloid(manifold.n))).radial

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        return self._radial.log_prob(self.manifold.dist(x, x0), brownian_time(tau, x, self._radial.tau_end))

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        t = brownian_time(tau, x, self._radial.tau_end)
        return self._radial.pull(self.manifold.dist(x, x0), t).unsqueeze(-1) * self.manifold.log(x, x0)

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self._radial.pairwise_log_prob(self.manifold.dist(x.unsqueeze(1), centres), tau)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        def draw(x0: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
            q = torch.linalg.vector_norm(xi, dim=-1, keepdim=True).clamp_min(1e-30)
            r, pull = (a.unsqueeze(-1) for a in self._radial.step(q.squeeze(-1), tau))
            velocity = self.manifold.from_frame(x0, r * xi / q)
            x = self.manifold.exp(x0, velocity)
            # The geodesic's velocity at x, reversed, times the pull.
            return x, -pull * self.manifold.transport(x0, x, velocity)

        return in_chunks(draw, x0, brownian_time(tau, x0, self._radial.tau_end), tuple(x0.shape[:-1]))
