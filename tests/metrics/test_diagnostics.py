"""Diagnostics against laws on which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture, NoisedData, heat_kernel
from manifold_diffusion.manifolds import SO3, SPD, Euclidean, Hyperboloid, Power, Product, Torus
from manifold_diffusion.metrics import (
    Estimate,
    NGramModel,
    NoiseProfile,
    chi_square_from_uniform,
    effective_sample_size,
    intrinsic_dimension,
    mixing,
    total_variation_from_uniform,
    unigram_entropy,
)

from .points import S2, cloud, generator

# ---------------------------------------------------------------------- intrinsic dimension


def circle(n, dtype=torch.float64):
    a = torch.arange(n, dtype=dtype) * (2 * math.pi / n)
    return torch.stack([a.cos(), a.sin(), torch.zeros_like(a)], -1)


def dimension_of(law, x, tau):
    return intrinsic_dimension(law.manifold, lambda p: law.score(p, tau), x, tau)


def circle_dimension(tau):
    """Of the uniform law on a great circle of S^2, at its points, by its Legendre series."""
    level = np.arange(0, 4000)
    value = np.zeros(len(level))  # P_l(0)^2
    value[0::2] = np.cumprod(np.concatenate([[1.0], ((level[2::2] - 1) / level[2::2]) ** 2]))
    rate = level * (level + 1) / 2
    terms = (2 * level + 1) * value * np.exp(-rate * tau)
    return 2 - 2 * tau * (rate * terms).sum() / terms.sum()


@pytest.mark.parametrize("tau", [3e-4, 1e-2, 0.3, 2.0, 10.0])
def test_dimension_of_a_great_circle_is_that_of_its_series(tau):
    law = HeatKernelMixture(S2, circle(1500), 0.0)
    found = dimension_of(law, circle(1500)[:2], tau)
    assert torch.allclose(found, torch.full_like(found, circle_dimension(tau)), atol=2e-5)


def test_dimension_of_a_great_circle_from_points_to_sphere():
    law = HeatKernelMixture(S2, circle(1000), 0.0)
    found = [float(dimension_of(law, circle(1000)[:4], tau).mean()) for tau in (1e-7, 1e-3, 12.0)]
    assert found == pytest.approx([0, 1, 2], abs=1e-3)


@pytest.mark.parametrize("manifold", [S2, Torus(3), SO3(), Hyperboloid(2), Euclidean(4)], ids=repr)
def test_dimension_is_zero_at_a_point_mass_and_grows_away_from_it(manifold):
    """d = n + tau (div s + |s|^2) is 0 at the mass, and r^2 / tau at the distance r from it, for little noise."""
    x0 = cloud(manifold, 1)
    law, r = HeatKernelMixture(manifold, x0, 0.0), 0.01
    assert float(dimension_of(law, x0, 1e-4)) == pytest.approx(0, abs=2e-3)
    aside = manifold.exp(x0, r * manifold.tangent_basis(x0)[:, 0])
    assert float(dimension_of(law, aside, 1e-4)) == pytest.approx(r**2 / 1e-4, abs=2e-3)


def test_dimension_in_flat_space_is_that_of_a_flat_normal_law():
    """Data N(0, diag(1, 1, 0)): d = 3 + sum_i [(x_i^2 / v_i^2 - 1 / v_i) tau], v = variances + tau."""
    x = torch.randn(6, 3, generator=generator(), dtype=torch.float64) * torch.tensor([1.0, 1.0, 0.0])
    for tau in (1e-4, 0.3):
        v = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64) + tau
        exact = 3 + tau * (x.square() / v.square() - 1 / v).sum(1)
        found = intrinsic_dimension(Euclidean(3), lambda p, v=v: -p / v, x, tau)
        assert torch.allclose(found, exact, atol=1e-9)
        assert tau > 0.1 or float((found - 2).abs().max()) < 1e-3


def test_dimension_is_that_of_the_manifold_for_a_density_and_on_average_over_noised_points():
    law = HeatKernelMixture(S2, cloud(S2, 5), 0.2)
    assert float((dimension_of(law, cloud(S2, 50, 1), 1e-5) - 2).abs().max()) < 1e-3
    points = NoisedData(S2, circle(40))
    mean = Estimate.mean(dimension_of(points, points.sample(4000, 0.05, generator()), 0.05))
    assert abs(mean.value - 2) < 5 * mean.standard_error
    at_data = Estimate.mean(dimension_of(points, circle(40), 0.05))
    assert at_data.value < 2 - 20 * mean.standard_error  # at data points it says something else


def test_dimension_in_float32():
    law = HeatKernelMixture(S2, circle(1000, torch.float32), 0.0)
    found = dimension_of(law, circle(1000, torch.float32)[:4], 1e-3)
    assert found.dtype == torch.float32 and float((found - 1).abs().max()) < 2e-2
    with pytest.raises(ConfigError, match="tau"):
        dimension_of(law, circle(4), 0.0)


# ---------------------------------------------------------------------- effective sample size


def test_effective_sample_size_against_brute_force_and_at_both_ends():
    data, x = cloud(S2, 30), cloud(S2, 7, 1)
    w = torch.rand(30, generator=generator(), dtype=torch.float64)
    p = w * heat_kernel(S2).log_prob(x[:, None], data, 0.05).exp()
    share = p / p.sum(1, keepdim=True)
    assert torch.allclose(effective_sample_size(S2, data, x, 0.05, w), 1 / share.square().sum(1), rtol=1e-8)
    assert torch.allclose(effective_sample_size(S2, data, data, 1e-8), torch.ones(30, dtype=torch.float64))
    assert torch.allclose(effective_sample_size(S2, data, x, 30.0), torch.full((7,), 30.0, dtype=torch.float64))


@pytest.mark.parametrize("tau", [0.02, 0.3])
def test_effective_sample_size_of_uniform_data_counts_points_within_reach(tau):
    """n / (V p_{2 tau}(x, x)), by the semigroup property, with the error of sums over n random points."""
    n = 20_000
    data = S2.random_uniform(n, generator=generator(), dtype=torch.float64)
    x = S2.random_uniform(40, generator=generator(1), dtype=torch.float64)
    p = heat_kernel(S2).log_prob(x[:1], x[:1], 2 * tau).exp()
    expected = n / float(4 * math.pi * p)
    found = Estimate.mean(effective_sample_size(S2, data, x, tau) / expected)
    assert abs(found.value - 1) < 5 * max(found.standard_error, 1 / expected)
    assert abs(found.value * 1.1 - 1) > 5 * max(found.standard_error, 1 / expected)


def test_effective_sample_size_refuses_bad_input():
    with pytest.raises(DataError, match="weight"):
        effective_sample_size(S2, cloud(S2, 3), cloud(S2, 3), 0.1, torch.ones(2))
    with pytest.raises(ConfigError, match="tau"):
        effective_sample_size(S2, cloud(S2, 3), cloud(S2, 3), math.inf)


# ---------------------------------------------------------------------- profiles


def test_profile_of_noise_levels():
    profile = NoiseProfile(torch.tensor([0.01, 0.1, 1.0]), torch.tensor([[1.0, 3.0], [2.0, 2.0], [9.0, 11.0]]))
    assert profile.median.tolist() == [2, 2, 10] and profile.mean(0) == Estimate(2.0, 1.0)
    assert profile.crossing(6.0) == pytest.approx(10**-0.5) and profile.crossing(20.0) is None
    with pytest.raises(ConfigError, match="ascend"):
        NoiseProfile(torch.tensor([1.0, 0.1]), torch.ones(2, 1))
    with pytest.raises(ConfigError, match="shape"):
        NoiseProfile(torch.tensor([1.0]), torch.ones(2, 1))
    with pytest.raises(NumericsError, match="point 1"):
        NoiseProfile(torch.tensor([1.0]), torch.tensor([[0.0, math.nan]]))


# ---------------------------------------------------------------------- mixing


@pytest.mark.parametrize(
    "manifold", [S2, Torus(6), SO3(), Product(S2, Torus(1), weights=[3, 0.5]), Power(S2, 2)], ids=repr
)
@pytest.mark.parametrize("tau", [0.4, 2.0])
def test_chi_square_is_the_density_at_the_start_at_twice_the_time(manifold, tau):
    x = cloud(manifold, 1)
    density = manifold.volume * float(heat_kernel(manifold).log_prob(x, x, 2 * tau).exp())
    assert chi_square_from_uniform(manifold, tau) == pytest.approx(density - 1, abs=1e-7 * density)


@pytest.mark.parametrize("tau", [0.3, 1.5])
def test_total_variation_against_quadrature(tau):
    nodes, weights = np.polynomial.legendre.leggauss(400)
    c = torch.as_tensor(nodes)
    x = torch.stack([(1 - c**2).sqrt(), torch.zeros_like(c), c], -1)
    p = heat_kernel(S2).log_prob(x, S2.origin(torch.float64), tau).exp()
    exact = float((2 * math.pi * p - 0.5).abs() @ torch.as_tensor(weights)) / 2
    found = total_variation_from_uniform(S2, tau, 6000)
    assert abs(found.value - exact) < 5 * found.standard_error
    assert abs(total_variation_from_uniform(S2, 1.4 * tau, 6000).value - exact) > 5 * found.standard_error
    assert exact < math.sqrt(chi_square_from_uniform(S2, tau)) / 2


def test_mixing_of_the_circle_in_closed_form():
    """TV tends to (1/2) (2/pi) 2 exp(-tau/2), chi-square to 2 exp(-tau): both at a level of 1 % up to 1e-4."""
    found = mixing(Torus(1), 0.01)
    assert found.gap == pytest.approx(0.5) and found.relaxation_time == pytest.approx(2.0)
    assert found.chi_square_time == pytest.approx(math.log(2 / (2 * 0.01) ** 2), rel=1e-6)
    exact = 2 * math.log(2 / (math.pi * 0.01))
    assert abs(found.time.value - exact) < 5 * found.time.standard_error < 0.2
    assert found.time.value < found.chi_square_time


def test_mixing_scales_with_the_metric_and_grows_with_the_dimension():
    small, large = (mixing(M, n=4000) for M in (Torus(2), Torus(2, periods=6 * math.pi)))
    assert large.gap == pytest.approx(small.gap / 9) and large.time.value == pytest.approx(9 * small.time.value)
    assert mixing(Torus(5), n=4000).time.value > small.time.value + 5 * small.time.standard_error


def test_total_variation_of_a_product_against_its_heat_kernel():
    manifold = Product(S2, Torus(2), weights=[2.0, 1.0])
    x = manifold.random_uniform(20_000, generator=generator(5), dtype=torch.float64)
    p = heat_kernel(manifold).log_prob(x, manifold.origin(torch.float64), 1.0).exp() * manifold.volume
    other, found = Estimate.mean((p - 1).abs() / 2), total_variation_from_uniform(manifold, 1.0)
    error = math.hypot(other.standard_error, found.standard_error)
    assert (
        abs(found.value - other.value)
        < 5 * error
        < abs(total_variation_from_uniform(manifold, 1.3).value - other.value)
    )


def test_mixing_refuses_what_it_does_not_know():
    with pytest.raises(CapabilityError, match="spectrum"):
        mixing(Product(S2, SPD(2)))
    with pytest.raises(ConfigError, match="level"):
        mixing(S2, 0.7)
    with pytest.raises(ConfigError, match="raise tau"):
        chi_square_from_uniform(S2, 1e-9)


# ---------------------------------------------------------------------- n-grams


def test_sequences_shorter_than_the_order_leave_all_to_shorter_contexts():
    text, queries = torch.tensor([[0, 1]]), torch.tensor([[0, 1, 2, 0]])
    p = NGramModel(3, order=4).fit(text).log_prob(queries)
    torch.testing.assert_close(p, NGramModel(3, order=2).fit(text).log_prob(queries), rtol=0, atol=0)
    nothing = NGramModel(3, order=4).fit(torch.zeros(1, 0, dtype=torch.int64)).log_prob(queries)
    torch.testing.assert_close(nothing.exp(), torch.full((1, 4), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("token", [-1, 5])
def test_entropy_refuses_tokens_outside_the_vocabulary(token):
    with pytest.raises(DataError, match=r"tokens must lie in \[0, 3\)"):
        unigram_entropy(torch.tensor([[0, token]]), 3)
