"""Pinned Brownian motion, and the exact reverse of a mixture."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel, pinned, sample_pinned
from manifold_diffusion.manifolds import SPD, Circle, Euclidean, Power, Product, Sphere, Torus

SPACES = [
    Euclidean(3),
    Torus(2),
    Torus(2, periods=[1.0, 5.0]),
    Circle(),
    Sphere(1),
    Sphere(2),
    Sphere(5),
    Power(Sphere(2), 2),
    Product(Sphere(2), Torus(1), weights=[2.0, 0.5]),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def z_score(values: torch.Tensor) -> float:
    return abs(float(values.mean() / (values.std() / math.sqrt(len(values)))))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("manifold", SPACES, ids=repr)
def test_a_motion_pinned_at_its_own_end_is_free(manifold, dtype):
    """x_1 from the kernel, then the point between: its law is the kernel at the earlier time."""
    n, kernel = 4000, heat_kernel(manifold)
    x0 = manifold.origin(dtype).expand(n, *manifold.point_shape)
    times = torch.tensor([0.5, 0.3], dtype=dtype)
    x1 = kernel.sample(x0, float(times.sum()), seeded())
    x = sample_pinned(manifold, x0, x1, times[0], times[1], seeded(1))
    manifold.check_point(x, "x")
    free = kernel.sample(x0, 0.5, seeded(2))
    wrong = sample_pinned(manifold, x0, x1, times[1], times[0], seeded(1))

    def gap(y):
        return max(z_score((kernel.log_prob(y, x0, a) - kernel.log_prob(free, x0, a)).double()) for a in (0.5, 1.0))

    assert gap(x) < 5 < gap(wrong)


def ring_law(r: float, tau0: float, tau1: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masses of cells of S^2 under the pinned law between two points at distance r, by the midpoint rule."""
    fine = 240
    z = (torch.arange(fine, dtype=torch.float64) + 0.5) * (2 / fine) - 1
    phi = (torch.arange(fine, dtype=torch.float64) + 0.5) * (2 * math.pi / fine) - math.pi
    z, phi = torch.meshgrid(z, phi, indexing="ij")
    rho = (1 - z * z).sqrt()
    x = torch.stack([rho * phi.cos(), rho * phi.sin(), z], -1)
    ends = torch.tensor([[math.cos(r / 2), s * math.sin(r / 2), 0.0] for s in (-1, 1)], dtype=torch.float64)
    kernel = heat_kernel(Sphere(2))
    log_p = kernel.log_prob(x, ends[0], tau0) + kernel.log_prob(x, ends[1], tau1)
    mass = (log_p - log_p.logsumexp((0, 1))).exp()
    return ends, mass.reshape(8, 30, 12, 20).sum((1, 3)), log_p


def cells(x: torch.Tensor) -> torch.Tensor:
    row = ((x[:, 2] + 1) / 2 * 8).long().clamp(0, 7)
    column = ((torch.atan2(x[:, 1], x[:, 0]) + math.pi) / (2 * math.pi) * 12).long().clamp(0, 11)
    return torch.bincount(row * 12 + column, minlength=96).double().reshape(8, 12)


def excess(counts: torch.Tensor, mass: torch.Tensor) -> float:
    """Chi-square in standard deviations, cells of few expected counts put together."""
    n, rare = counts.sum(), counts.sum() * mass < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = n * torch.cat([mass[~rare], mass[rare].sum()[None] + 1e-3])
    freedom = len(expected) - 1
    return float((((observed - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("r, tau0, tau1", [(0.3, 0.2, 0.4), (2.0, 0.1, 0.3), (3.1, 0.3, 0.3), (math.pi, 0.5, 0.2)])
def test_the_law_between_two_points_of_the_sphere(r, tau0, tau1):
    """Counts in cells against quadrature, between near points and nearly antipodal ones, where the law is a ring."""
    ends, mass, _ = ring_law(r, tau0, tau1)
    x0, x1 = (e.expand(20000, 3) for e in ends)
    assert excess(cells(sample_pinned(Sphere(2), x0, x1, tau0, tau1, seeded())), mass) < 5
    assert excess(cells(sample_pinned(Sphere(2), x0, x1, 1.2 * tau0, tau1, seeded())), mass) > 5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_proposals_are_accepted_often_and_never_beyond_their_bound(monkeypatch, dtype):
    """At least 0.44 of them up to a distance of 2.5, whatever the times: the cost is bounded."""
    seen = []

    def all_at_once(propose, x0, what, generator):
        seen.append(propose(torch.arange(len(x0)))[1])
        return x0

    monkeypatch.setattr(pinned, "_reject", all_at_once)
    n, angle = 500, torch.tensor([0.0, 0.5, 1.5, 2.5], dtype=dtype).repeat_interleave(500)
    x0 = torch.eye(3, dtype=dtype)[0].expand(4 * n, 3)
    x1 = torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)
    for total, part in itertools.product((1e-3, 0.1, 1.0, 7.0), (0.1, 0.5, 0.9)):
        sample_pinned(Sphere(2), x0, x1, total * part, total * (1 - part), seeded())
        log_accept = seen.pop()
        assert float(log_accept.max()) < (1e-8 if dtype == torch.float64 else 1e-3)
        assert float(log_accept.exp().reshape(4, n).mean(1).min()) > 0.4


@pytest.mark.parametrize("n", [2, 4, 8, 20])
def test_the_tangent_bounds_the_density(n):
    """log p is concave in the cosine of the distance at every time: what makes the rejection exact."""
    angle = torch.linspace(1e-3, 3.1414, 2000, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
    north = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for tau in torch.logspace(-4, 1, 30, dtype=torch.float64):
        slope = heat_kernel(Sphere(n))._radial.pull((x + north).square().sum(-1) / 2, tau.expand(2000))
        assert bool((slope.diff() >= -1e-12 * slope[1:].abs()).all())


@pytest.mark.parametrize("uniform_weight", [0.0, 0.3])
@pytest.mark.parametrize("manifold", [Sphere(2), Torus(1)], ids=repr)
def test_the_reverse_of_a_mixture_keeps_its_law(manifold, uniform_weight):
    n, g = 20000, seeded(5)
    centres = manifold.random_uniform(3, generator=g, dtype=torch.float64)
    law = HeatKernelMixture(
        manifold, centres, torch.tensor([0.05, 0.1, 0.2]), torch.tensor([0.2, 0.3, 0.5]), uniform_weight
    )
    late, early = torch.linspace(0.3, 0.5, n), torch.linspace(0.0, 0.1, n)
    x = law.sample_reverse(law.sample(n, late, seeded()), late, early, seeded(1))
    fresh, biased = law.sample(n, early, seeded(2)), law.sample(n, early + 0.3, seeded(3))

    def gap(y):
        """In three test functions: the densities of the components."""
        features = [law.kernel.log_prob(a, c, 0.3).exp() for c in centres for a in (y, fresh)]
        return max(z_score(a - b) for a, b in zip(features[::2], features[1::2], strict=True))

    assert gap(x) < 5 < gap(biased)
    assert torch.equal(law.sample_reverse(x, 0.2, 0.2, seeded()), x)


def test_bad_input_says_what_to_do():
    x = SPD(3).origin().expand(2, 3, 3)
    with pytest.raises(CapabilityError, match="no exact draw"):
        sample_pinned(SPD(3), x, x, 0.1, 0.1)
    law = HeatKernelMixture(Sphere(2), torch.eye(3), 0.1)
    with pytest.raises(ConfigError, match="0 <= tau0 <= tau"):
        law.sample_reverse(torch.eye(3), 0.1, 0.2)
    assert sample_pinned(Torus(2), torch.empty(0, 2), torch.empty(0, 2), 0.1, 0.1).shape == (0, 2)
    assert law.sample_reverse(torch.empty(0, 3), 0.2, 0.1).shape == (0, 3)
