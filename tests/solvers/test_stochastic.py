"""Stochastic equations: seeds, weak order, and laws that are known."""

from __future__ import annotations

import math

import torch

from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.processes import SDETerm
from manifold_diffusion.solvers import ConstantSteps, GeodesicEulerMaruyama, integrate
from manifold_diffusion.testing import convergence_slope

from .flows import GROWTH, LOW, NORTH, brownian_time, mixture, seeded, z_score


def brownian() -> SDETerm:
    return SDETerm(lambda t, x: torch.zeros_like(x), lambda t, x: x.new_ones(()))


def test_same_seed_same_path():
    M, x = Sphere(2), NORTH.expand(50, 3)
    runs = [
        integrate(brownian(), M, x, 0.0, 1.0, GeodesicEulerMaruyama(), ConstantSteps(10), generator=seeded(s)).x
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_euler_maruyama_converges_with_weak_order_one():
    """Brownian motion of S^2 to time 1: E[x.y] = exp(-1)."""
    M, n = Sphere(2), 400_000
    x = NORTH.float().expand(n, 3)
    counts, errors = (2, 4, 8), []
    for steps in counts:
        end = (
            integrate(
                brownian(), M, x, 0.0, 1.0, GeodesicEulerMaruyama(), ConstantSteps(steps), generator=seeded(steps)
            )
            .x[:, 2]
            .double()
        )
        errors.append(abs(float(end.mean()) - math.exp(-1)))
        assert errors[-1] > 5 * float(end.std()) / math.sqrt(n)  # the bias is measured, not the noise
    assert abs(convergence_slope(errors, [1 / n for n in counts]).order - 1) <= 0.25


def test_langevin_dynamics_reaches_its_stationary_law():
    """dX = (kappa/2) grad(e.x) dt + dB has the von Mises-Fisher law, E[e.x] = coth kappa - 1/kappa."""
    M, kappa = Sphere(2), 2.0
    x = M.random_uniform(4000, generator=seeded(), dtype=torch.float32)
    means = {}
    for noise in (1.0, 0.8):
        term = SDETerm(
            lambda t, x: kappa / 2 * M.to_tangent(x, NORTH.float().expand_as(x)),
            lambda t, x, noise=noise: x.new_full((), noise),
        )
        end = integrate(term, M, x, 0.0, 5.0, GeodesicEulerMaruyama(), ConstantSteps(250), generator=seeded(1)).x
        means[noise] = z_score(end[:, 2], 1 / math.tanh(kappa) - 1 / kappa)
    assert means[1.0] <= 5 < means[0.8]


def test_reverse_equation_with_the_exact_score_reproduces_the_data():
    """Backwards from the uniform law at tau = 7 the walk ends at the mixture, whose mean is known."""
    M = Sphere(2)
    law = mixture(M, torch.float32)
    mean = math.exp(-0.1 - LOW) * (law.weights[:, None] * law.centres).sum(0)
    x, z = M.random_uniform(1000, generator=seeded()), {}
    for scale in (1.0, 0.5):
        term = SDETerm(
            lambda t, x, scale=scale: -scale * GROWTH * brownian_time(t)[:, None] * law.score(x, brownian_time(t)),
            lambda t, x: (GROWTH * brownian_time(t)).sqrt()[:, None],
        )
        end = integrate(term, M, x, 1.0, 0.0, GeodesicEulerMaruyama(), ConstantSteps(150), generator=seeded(1)).x
        z[scale] = max(z_score(end[:, i], float(mean[i])) for i in range(3))
    assert z[1.0] <= 5 < z[0.5]
