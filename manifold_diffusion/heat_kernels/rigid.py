"""Brownian motion of rigid frames: rotations and translations side by side."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import SE3, SE3N, SO3
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel

__all__ = ["RigidKernel"]


@heat_kernel.register(SE3)
@heat_kernel.register(SE3N)
class RigidKernel(HeatKernel):
    r"""The product of the heat kernels of SO(3) and of the Gaussians :math:`N(p_0, \tau I)`, one pair per pose.

    With a zero mean of the translations (``SE3N(n, centred=True)``) the Gaussian is that of the subspace, of dimension
    :math:`3n - 3`: its density is with respect to the volume of the subspace, its score lies in it.

    Args:
        manifold: ``SE3()`` or ``SE3N(n, centred)``.
    """

    def __init__(self, manifold: SE3 | SE3N) -> None:
        self.manifold = manifold
        self._rotations = heat_kernel(SO3())
        many = isinstance(manifold, SE3N)
        self._axes = 1 if many else 0
        self._centred = many and manifold.centred
        self._flat_dim = 3 * ((manifold.n_residues if many else 1) - (1 if self._centred else 0))

    def _time(self, tau: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """Brownian time per chain, and per pose."""
        time = brownian_time(tau, like)
        return time, time.unsqueeze(-1) if self._axes else time

    def _noise(self, p: Tensor, generator: torch.Generator | None) -> Tensor:
        xi = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
        return xi - xi.mean(-2, keepdim=True) if self._centred else xi

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        _, time = self._time(tau, x0)
        r, p = self.manifold.split(x0)
        turned = self._rotations.sample(r, time, generator)
        return self.manifold.join(turned, p + time.unsqueeze(-1).sqrt() * self._noise(p, generator))

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        time, each = self._time(tau, x)
        (r, p), (r0, p0) = self.manifold.split(x), self.manifold.split(x0)
        turns, shift = self._rotations.log_prob(r, r0, each), (p - p0).square().sum(-1)
        if self._axes:
            turns, shift = turns.sum(-1), shift.sum(-1)
        return turns - shift / (2 * time) - self._flat_dim / 2 * (2 * math.pi * time).log()

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        _, time = self._time(tau, x)
        (r, p), (r0, p0) = self.manifold.split(x), self.manifold.split(x0)
        return self.manifold.join(self._rotations.score(r, r0, time), (p0 - p) / time.unsqueeze(-1))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        _, time = self._time(tau, x0)
        r, p = self.manifold.split(x0)
        draw = self._rotations.sample_with_score(r, time, generator)
        noise, scale = self._noise(p, generator), time.unsqueeze(-1).sqrt()
        join = self.manifold.join
        return KernelSample(join(draw.x, p + scale * noise), join(draw.score, -noise / scale))
