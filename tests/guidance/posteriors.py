"""Laws on the sphere and the torus whose posteriors are known by quadrature, and their exact networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Sphere, Torus
from manifold_diffusion.processes import BrownianMotion, LogSchedule, Process

TAU_MIN = 0.02


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Posterior:
    """A law, a likelihood, and the posterior at time 0 on a grid of quadrature."""

    process: Process
    law: HeatKernelMixture
    log_likelihood: Callable[[Tensor], Tensor]
    width: float
    points: Tensor
    prior: Tensor

    def network(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        tau = TAU_MIN * torch.exp(t * math.log(self.process.schedule.tau_max / TAU_MIN))
        return self.process.scale(t) * self.law.score(x, tau)

    @property
    def evidence(self) -> float:
        return float((self.prior * self.log_likelihood(self.points).exp()).sum())

    @property
    def weights(self) -> Tensor:
        """Posterior mass of the nodes."""
        weights = self.prior * self.log_likelihood(self.points).exp()
        return weights / weights.sum()

    def mean(self, features: Callable[[Tensor], Tensor]) -> Tensor:
        return self.weights @ features(self.points)

    def chi_square(self, x: Tensor, cells: Callable[[Tensor], Tensor]) -> float:
        """Pearson's statistic of independent points over cells, in its standard deviations above its mean."""
        mass = torch.bincount(cells(self.points), self.weights, minlength=16)
        counts = torch.bincount(cells(x), minlength=16)
        large = mass > 0.02
        expected = len(x) * torch.cat([mass[large], 1 - mass[large].sum(0, keepdim=True)])
        found = torch.cat([counts[large], len(x) - counts[large].sum(0, keepdim=True)])
        statistic, freedom = float(((found - expected).square() / expected).sum()), len(expected) - 1
        return (statistic - freedom) / math.sqrt(2 * freedom)


def sphere(kappa: float = 8.0, dtype: torch.dtype = torch.float64) -> Posterior:
    """Four heat kernels on S^2, seen through exp(kappa (a.x - 1))."""
    M = Sphere(2)
    centres = M.project(torch.tensor([[1, 0, 0], [0, 1, 0.3], [-0.5, -0.6, 0.6], [0, 0, -1]], dtype=dtype))
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=dtype)
    law = HeatKernelMixture(M, centres, torch.tensor([0.1, 0.05, 0.2, 0.1], dtype=dtype), weights)
    a = M.project(torch.tensor([0.3, 0.2, 1.0], dtype=dtype))
    nodes, w = (torch.tensor(v, dtype=dtype) for v in leggauss(60))
    phi = torch.arange(120, dtype=dtype) * (2 * math.pi / 120)
    z, phi = nodes.unsqueeze(1).expand(60, 120), phi.expand(60, 120)
    points = torch.stack([(1 - z**2).sqrt() * phi.cos(), (1 - z**2).sqrt() * phi.sin(), z], -1).reshape(-1, 3)
    prior = law.log_prob(points, TAU_MIN).exp() * (w * 2 * math.pi / 120).repeat_interleave(120)
    process = BrownianMotion(M, LogSchedule(TAU_MIN, 7.0))
    return Posterior(process, law, lambda x: kappa * ((x * a).sum(-1) - 1), 1 / kappa, points, prior)


def torus(kappa: float = 6.0, dtype: torch.dtype = torch.float64) -> Posterior:
    """Four heat kernels on T^2, the difference of whose angles is seen through a von Mises law."""
    M = Torus(2)
    centres = torch.tensor([[-1, -2], [0.5, 1], [1.5, -0.5], [2.8, 2.5]], dtype=dtype)
    weights = torch.tensor([0.3, 0.3, 0.2, 0.2], dtype=dtype)
    law = HeatKernelMixture(M, centres, torch.tensor([0.3, 0.2, 0.4, 0.3], dtype=dtype), weights)
    grid = torch.arange(120, dtype=dtype) * (2 * math.pi / 120) - math.pi
    points = torch.cartesian_prod(grid, grid)
    prior = law.log_prob(points, TAU_MIN).exp() * (2 * math.pi / 120) ** 2
    process = BrownianMotion(M, LogSchedule(TAU_MIN, 14.0))
    return Posterior(
        process, law, lambda x: kappa * ((x[..., 0] - x[..., 1] - 0.5).cos() - 1), 0.5 / kappa, points, prior
    )


def moments(x: Tensor) -> Tensor:
    """First and second moments of ambient points."""
    i, j = torch.triu_indices(3, 3)
    return torch.cat([x, x[..., i] * x[..., j]], -1)


def caps(x: Tensor) -> Tensor:
    """Which of sixteen directions a point of the sphere is closest to."""
    return (x @ Sphere(2).random_uniform(16, generator=seeded(7), dtype=x.dtype).mT).argmax(-1)


def squares(x: Tensor) -> Tensor:
    """Which square of ninety degrees two angles are in."""
    return ((x + math.pi) * (2 / math.pi)).floor().clamp(0, 3).long() @ torch.tensor([4, 1])


def waves(x: Tensor) -> Tensor:
    """Fourier modes of two angles."""
    both = torch.stack([x[..., 0] + x[..., 1], x[..., 0] - x[..., 1]], -1)
    return torch.cat([x.cos(), x.sin(), both.cos(), both.sin()], -1)


def z_scores(values: Tensor, expected: Tensor | float) -> Tensor:
    """Distances of the means of rows from their expectation, in standard errors."""
    return ((values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values)))).abs()
