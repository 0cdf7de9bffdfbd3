"""Samples of a heat kernel follow its law, and come with its score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SO3, Hyperboloid, Sphere

from .points import F64, area, generator, names, on_geodesic


def sphere_cdf(theta: np.ndarray, tau: float) -> np.ndarray:
    """P(angle <= theta) on S^2 from the Legendre series."""
    legendre = [np.ones_like(theta), np.cos(theta)]
    for k in range(1, 400):
        legendre.append(((2 * k + 1) * np.cos(theta) * legendre[k] - k * legendre[k - 1]) / (k + 1))
    out = 1 - np.cos(theta)
    for k in range(1, 399):
        out = out + math.exp(-k * (k + 1) * tau / 2) * (legendre[k - 1] - legendre[k + 1])
    return out / 2


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(F64, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("tau", [0.01, pytest.param(0.4, marks=pytest.mark.slow), 2.0])
def test_a_million_samples_on_the_sphere_follow_the_law(tau, dtype):
    x0 = Sphere(2).origin(dtype=dtype)
    x = heat_kernel(Sphere(2)).sample(x0.expand(1_000_000, 3), tau, generator(2))
    angle = Sphere(2).dist(x, x0).double().numpy()
    grid = np.linspace(0, math.pi, 8001)
    right, wrong = sphere_cdf(grid, tau), sphere_cdf(grid, 1.05 * tau)
    assert stats.kstest(angle, lambda t: np.interp(t, grid, right)).pvalue > 1e-3
    assert stats.kstest(angle, lambda t: np.interp(t, grid, wrong)).pvalue < 1e-6


@pytest.mark.parametrize("M", [Sphere(9), SO3(), Hyperboloid(2), Hyperboloid(4)], ids=repr)
def test_sampled_radii_follow_the_law(M):
    tau = 0.6
    x0 = M.origin(dtype=torch.float32)
    x = heat_kernel(M).sample(x0.expand(200_000, *M.point_shape), tau, generator(3))
    r = M.dist(x, x0).double().numpy()
    grid = np.linspace(1e-6, math.pi if not isinstance(M, Hyperboloid) else 15.0, 4001)
    nodes, origin = on_geodesic(M, grid)

    def cdf(t: float):
        density = heat_kernel(M).log_prob(nodes, origin, t).exp().numpy() * area(M, grid)
        total = np.concatenate([[0.0], integrate.cumulative_simpson(density, x=grid)])
        return lambda q: np.interp(q, grid, total)

    assert stats.kstest(r, cdf(tau)).pvalue > 1e-3
    assert stats.kstest(r, cdf(1.02 * tau)).pvalue < 1e-5


def test_directions_are_isotropic():
    x0 = Sphere(2).origin(dtype=F64)
    x = heat_kernel(Sphere(2)).sample(x0.expand(100_000, 3), 0.5, generator(4))
    angle = np.arctan2(x[:, 1].numpy(), x[:, 0].numpy())
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@names
def test_score_of_a_sample_is_the_kernels_score_there(M, dtype):
    K, g = heat_kernel(M), generator(5)
    x0 = M.exp(
        M.origin(dtype=dtype).expand(5000, *M.point_shape),
        M.random_tangent(M.origin(dtype=dtype).expand(5000, *M.point_shape), g) * 0.5,
    )
    tau = torch.logspace(-3, 0.3, 5000, dtype=dtype)
    s = K.sample_with_score(x0, tau, g)
    M.check_point(s.x)
    M.check_tangent(s.x, s.score)
    exact = K.score(s.x, x0, tau)
    size = M.norm(s.x, exact)
    # The score of a rounded point: rounding moves x by eps (times the hyperbolic angle's magnification), the score by
    # eps / tau.
    stretch = s.x[..., 0].square() * x0[..., 0].square() if isinstance(M, Hyperboloid) else 1.0
    allowed = 1e-4 * size + 30 * torch.finfo(dtype).eps * (1 + 1 / tau) * stretch
    assert bool((M.norm(s.x, s.score - exact) <= allowed).all())


def test_same_seed_same_sample_and_global_generator_untouched():
    K, x0 = heat_kernel(Sphere(2)), Sphere(2).origin().expand(4, 3)
    state = torch.get_rng_state()
    a, b = K.sample(x0, 0.3, generator(7)), K.sample(x0, 0.3, generator(7))
    assert torch.equal(a, b) and torch.equal(state, torch.get_rng_state())
