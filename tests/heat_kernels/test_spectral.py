"""The eigenfunction series: orthonormal functions, moments in two ways, bounds of what is left out."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion.heat_kernels import NoisedData, heat_kernel
from manifold_diffusion.heat_kernels.noised._harmonics import harmonics
from manifold_diffusion.manifolds import SO3, Manifold, Sphere, Torus

from .points import F64, generator, spread


@pytest.mark.parametrize("M", [Sphere(2), SO3()], ids=repr)
def test_harmonics_are_orthonormal_up_to_the_highest_degree(M: Manifold) -> None:
    # The addition theorem at one point: sum_s f_ls^2 = d_l / V, also at the poles.
    H, degree = harmonics(M), harmonics(M).max_degree
    x = torch.cat([M.origin(F64).expand(1, *M.point_shape), spread(M, 3)])
    if M == Sphere(2):
        x = torch.cat([x, torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=F64)])
    for y in x:
        (one,) = (y.expand(1, *M.point_shape),)
        moments = H.direct_moments(one, torch.ones(1, dtype=F64), degree)
        value, slope = H.evaluate(one, torch.tensor([1e-6], dtype=F64), moments, degree)
        level = torch.arange(degree + 1, dtype=F64)
        sizes = 2 * level + 1 if M == Sphere(2) else (2 * level + 1).square()
        expected = (sizes * (-level * (level + 1) * 5e-7).exp()).sum() / M.volume
        assert float((value / expected - 1).abs()) < 1e-12
        assert float(M.norm(one, slope) / expected) < 1e-10


def test_series_on_the_sphere_does_not_depend_on_the_number_of_queries() -> None:
    M = Sphere(2)
    H, x = harmonics(M), M.random_uniform(700, generator=generator(0), dtype=F64)
    degree, w = H.max_degree, torch.rand(5, generator=generator(1), dtype=F64)
    moments = H.direct_moments(x[:5], w, degree)
    parts = [H.direct_moments(x[i : i + 1], w[i : i + 1], degree)[0] for i in range(5)]
    torch.testing.assert_close(moments[0], torch.stack(parts).sum(0), rtol=0, atol=1e-12)
    tau = torch.full((700,), 5e-3, dtype=F64)
    values, slopes = H.evaluate(x, tau, moments, degree)
    for rows, times in ((slice(0, 3), tau[:3]), (slice(0, 200), tau[:1]), (slice(0, 700), tau[:1])):
        value, slope = H.evaluate(x[rows], times, moments, degree)
        torch.testing.assert_close(value, values[rows], rtol=1e-12, atol=1e-11)
        torch.testing.assert_close(slope, slopes[rows], rtol=1e-12, atol=1e-9)


FOURIER = [
    (Sphere(2), 256),
    (Torus(1), 256),
    (Torus(2, periods=[3.0, 7.0]), 60),
    (Torus(3), 9),
    (SO3(), 24),
    (Sphere(3), 24),
]


@pytest.mark.parametrize(("M", "degree"), FOURIER, ids=str)
def test_fourier_sums_give_the_moments(M: Manifold, degree: int) -> None:
    H, x, w = harmonics(M), spread(M, 200), torch.rand(200, generator=generator(1), dtype=F64) / 100
    x = torch.cat([x, M.origin(F64).unsqueeze(0)])  # a pole of some coordinates
    w = torch.cat([w, torch.ones(1, dtype=F64)])
    direct, fourier = (H.direct_moments(x, w, degree), H.fourier_moments(x, w, degree))
    for a, b in zip(direct, fourier, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 if M == Sphere(2) else 1e-13)
    assert float((direct[-1] - H.fourier_moments(x, w.flip(0), degree)[-1]).abs().max()) > 1e-3


@pytest.mark.parametrize(("M", "degree"), FOURIER, ids=str)
def test_the_cheaper_moments_are_taken(M: Manifold, degree: int) -> None:
    H = harmonics(M)
    costs = [H.moments_cost(degree, n) for n in (1, 10**6)]
    assert costs[0] == pytest.approx(H.moment_cost * H.n_modes(degree))  # directly
    assert costs[1] < 0.5 * 10**6 * costs[0]


AMPLITUDES = [Sphere(2), Sphere(3), Sphere(4), Torus(1), Torus(2, periods=[3.0, 7.0]), Torus(3), SO3()]


@pytest.mark.parametrize("M", AMPLITUDES, ids=str)
def test_what_a_degree_leaves_out_is_within_its_bound_in_every_trial(M: Manifold) -> None:
    H, shares = harmonics(M), []
    most = min(16, H.max_degree)
    for seed in range(3):
        x, w = spread(M, 300, seed), torch.rand(300, generator=generator(seed), dtype=F64) / 150
        moments = H.moments(x, w, most)
        bounds = H.amplitudes(moments)
        assert len(bounds.value) == most + 1
        for tau in (1e-4, 0.01, 0.3):
            t = torch.tensor([tau], dtype=F64)
            value, slope = H.evaluate(x[:50], t, moments, most)
            damping = (-bounds.eigenvalue * tau / 2).exp()
            for degree in range(most):
                less, less_slope = H.evaluate(x[:50], t, moments, degree)
                rest, rest_slope = ((a * damping)[degree + 1 :].sum() for a in (bounds.value, bounds.slope))
                assert float((value - less).abs().max()) <= float(rest) + 1e-12
                assert float(M.norm(x[:50], slope - less_slope).max()) <= float(rest_slope) + 1e-10
                shares.append(float((value - less).abs().max()) / max(float(rest), 1e-10))
    assert max(shares) > 0.2  # bounds that are never near are no good


def test_many_smooth_data_need_few_degrees() -> None:
    M, tau = Sphere(2), 2.0**-8
    data = NoisedData(M, spread(M, 200_000))
    x = data.sample(20, tau, generator(1))
    value, full = (data.evaluate(x, tau, evaluator=e, rtol=1e-3) for e in ("spectral", "full"))
    assert bool(((value.log_prob - full.log_prob).abs() <= value.log_prob_error + 1e-8).all())
    spectrum = data._evaluators.spectrum
    bound = spectrum._bound(1e-3)
    assert spectrum._least(-8, bound) < 0.8 * spectrum._degree(-8, bound)
    data.add(M.origin(F64).unsqueeze(0), torch.tensor([1e4], dtype=F64))  # a lone heavy point needs more of them
    assert spectrum._least(-8, bound) > 0.9 * spectrum._degree(-8, bound)


@pytest.mark.parametrize("M", [Sphere(2), Sphere(3), Sphere(4), Torus(1), Torus(2), SO3()], ids=str)
def test_short_times_take_no_memory_for_a_series_that_they_rule_out(M):
    H, times = harmonics(M), torch.tensor([1e-30, 1e-12], dtype=F64)
    assert H.degree_for(1e-30, 1e-3) is None and H.degree_for(1e-12, 1e-3) is None
    tail = H.tail(times, H.max_degree)
    assert bool((tail.value > tail.peak).all())
    x = spread(M, 64)
    noised = NoisedData(M, x)
    for tau in times.tolist():
        assert bool(noised.log_prob(x[:3], tau).isfinite().all())
    peak = heat_kernel(M).log_prob(x[:3], x[:3], 1e-12) - math.log(64)
    torch.testing.assert_close(noised.log_prob(x[:3], 1e-12), peak, rtol=0, atol=1e-2)


def test_first_queries_at_long_times_make_no_cells() -> None:
    data = NoisedData(Sphere(2), spread(Sphere(2), 100_000))
    for tau, evaluator in ((0.1, 2), (1e-4, 3)):
        value = data.evaluate(data.sample(64, tau, generator(1)), tau)
        assert bool((value.evaluator == evaluator).all())
        assert (data._evaluators.cells is None) == (evaluator == 2)
