"""Known factors of a product: conditional laws and marginal densities that quadrature knows."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import Euclidean, Hemisphere, Product, Sphere, Torus
from manifold_diffusion.processes import BrownianMotion, Langevin, LogSchedule, ProductProcess
from manifold_diffusion.solvers import inpaint

from .posteriors import TAU_MIN, seeded, torus, z_scores


def product_case(weights=None):
    """Angles that depend on each other, as a product of two circles; the conditional law by quadrature."""
    parts = [BrownianMotion(Torus(1), LogSchedule(TAU_MIN, 14.0)) for _ in range(2)]
    process, case = ProductProcess(*parts, weights=weights), torus()

    def network(t, x, cond=None):
        return parts[0].scale(t) * case.law.score(x, parts[0].schedule.tau(t))  # in units of each factor's noise

    known = torch.tensor([1.0], dtype=torch.float64)
    angle = torch.arange(240, dtype=torch.float64) * (2 * math.pi / 240) - math.pi
    density = case.law.log_prob(torch.stack([known.expand(240), angle], -1), TAU_MIN).exp()
    moments = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], -1)
    return process, network, known, density @ moments / density.sum(), float(density.sum() * 2 * math.pi / 240)


@pytest.mark.parametrize("weights", [None, pytest.param([4.0, 0.5], marks=pytest.mark.slow)], ids=["plain", "weighted"])
def test_inpainting_has_the_conditional_law_and_the_marginal_density(weights):
    process, network, known, exact, marginal = product_case(weights)

    def features(y):
        return torch.cat([y.cos(), y.sin(), (2 * y).cos(), (2 * y).sin()], -1)

    result = inpaint(process, network, [known, None], 250, 8, steps=40, generator=seeded())
    assert (result.x[..., 0] == 1).all()
    assert z_scores(features(result.draw(seeded(1))[:, 1:]), exact).max() <= 5
    evidence = result.log_evidence.exp()
    assert z_scores(evidence, marginal) <= 5 < z_scores(evidence, 1.4 * marginal)
    alone = inpaint(process, network, [known, None], 1500, 1, steps=40, generator=seeded())
    assert z_scores(features(alone.draw(seeded(1))[:, 1:]), exact).max() > 5


def test_inpainting_of_points_in_their_own_shapes():
    """A direction with a translation that follows it; Ornstein-Uhlenbeck and Brownian parts, one value per chain."""
    sphere, line = BrownianMotion(Sphere(2), LogSchedule(1e-2, 7.0)), Langevin(Euclidean(1), LogSchedule(1e-2, 12.0))
    process = ProductProcess(sphere, line)
    M, spread = process.manifold, 0.05
    centres = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    places = torch.tensor([2.0, -2.0])

    kernel = heat_kernel(Sphere(2))

    def network(t, x, cond=None):
        direction, place = M.split(x)
        tau, m = sphere.schedule.tau(t) + spread, line._mean_factor(t).unsqueeze(-1)
        var = line._variance(t).unsqueeze(-1) + m * m * spread
        pulls = [(m * p - place) / var for p in places]
        log_p = [kernel.log_prob(direction, c, tau) for c in centres]
        log_p = [a - (b * b * var / 2)[..., 0] for a, b in zip(log_p, pulls, strict=True)]
        share = torch.stack(log_p).softmax(0).unsqueeze(-1)
        turns = share * torch.stack([kernel.score(direction, c, tau) for c in centres])
        return M.join(sphere.scale(t) * turns.sum(0), line.scale(t) * (share * torch.stack(pulls)).sum(0))

    values = torch.tensor([[2.2], [-1.8], [-2.0]])
    result = inpaint(process, network, [None, values], 3, 64, steps=20, generator=seeded())
    direction, place = M.split(result.draw(seeded()))
    assert torch.equal(place, values)
    assert torch.equal(direction[:, 2].sign(), torch.tensor([1.0, -1.0, -1.0]))


def test_inpainting_refuses_what_it_cannot_do():
    process, network, known, _, _ = product_case()
    for values, match in (([known], "one entry per factor"), ([None, None], "at least"), ([known, known], "at least")):
        with pytest.raises(ConfigError, match=match):
            inpaint(process, network, values, 2)
    with pytest.raises(ConfigError, match="one per chain"):
        inpaint(process, network, [known.expand(3, 1), None], 2)
    with pytest.raises(ConfigError, match="steps >= 2"):
        inpaint(process, network, [known, None], 2, steps=1)
    with pytest.raises(ManifoldError, match=r"known\[0\]"):
        inpaint(process, network, [known + 9, None], 2)
    with pytest.raises(CapabilityError, match="ProductProcess"):
        inpaint(BrownianMotion(Product(Torus(1), Torus(1))), network, [known, None], 2)
    half = ProductProcess(BrownianMotion(Hemisphere(2)), BrownianMotion(Torus(1)))
    with pytest.raises(CapabilityError, match="boundary"):
        inpaint(half, network, [torch.tensor([0.0, 0.0, 1.0]), None], 2)
