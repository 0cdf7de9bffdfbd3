"""Noised data in closed form: the evaluators agree within the errors that they prove, and data can be forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import Evaluator, NoisedData, heat_kernel
from manifold_diffusion.heat_kernels.noised._data_points import DataPoints
from manifold_diffusion.heat_kernels.noised._retrieval import retrieval
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus, gradient

from .points import F64, generator, on_geodesic, spread

MANIFOLDS = [Sphere(2), Sphere(3), Torus(2), SO3(), Hyperboloid(2), Euclidean(2)]
SPECTRAL = [Sphere(2), Sphere(3), Torus(1, periods=3.0), Torus(2), Torus(3, periods=[3.0, 5.0, 7.0]), SO3()]


def weighted(M: Manifold, n: int = 400, seed: int = 0) -> NoisedData:
    return NoisedData(M, spread(M, n, seed), torch.rand(n, generator=generator(seed + 1), dtype=F64) + 0.1)


@pytest.mark.parametrize("M", MANIFOLDS, ids=repr)
def test_derivatives_in_time_are_those_of_differences(M: Manifold) -> None:
    data, tau, h = weighted(M, 60), torch.tensor([0.1, 0.3, 0.3, 0.8, 1.2], dtype=F64), 1e-4
    x, one = data.sample(5, tau, generator(3)), torch.ones_like(tau)
    for method in (data.log_prob, data.score):

        def f(t: Tensor, method: Callable[..., Tensor] = method, evaluator: Evaluator = "auto") -> Tensor:
            return method(x, t, evaluator=evaluator)

        full = partial(f, evaluator="full")
        difference = (8 * (full(tau + h) - full(tau - h)) - full(tau + 2 * h) + full(tau - 2 * h)) / (12 * h)
        forward = torch.func.jvp(f, (tau,), (one,))[1]
        torch.testing.assert_close(forward, difference, rtol=1e-5, atol=1e-5)
        times = tau.clone().requires_grad_()
        (reverse,) = torch.autograd.grad(f(times).sum(), times)
        torch.testing.assert_close(reverse, forward.flatten(1).sum(1) if forward.dim() > 1 else forward)
    for evaluator in ("golden", "spectral", "cells"):
        with pytest.raises(CapabilityError, match="not differentiable in tau"):
            data.log_prob(x, tau.clone().requires_grad_(), evaluator=evaluator)
    with pytest.raises(CapabilityError, match="vmap"):
        torch.func.vmap(lambda y: data.log_prob(y, 0.5))(x)


@pytest.mark.parametrize("M", MANIFOLDS, ids=repr)
def test_full_scan_is_the_log_mixture_and_its_gradient(M: Manifold) -> None:
    data = weighted(M, 60)
    weights = data.weights / data.weights.sum()
    for tau in (0.05, 1.0):
        x = data.sample(5, tau, generator(3))

        def log_mixture(y: Tensor, tau: float = tau) -> Tensor:
            return torch.logsumexp(heat_kernel(M).log_prob(y.unsqueeze(1), data.points, tau) + weights.log(), 1)

        value = data.evaluate(x, tau, evaluator="full")
        torch.testing.assert_close(value.log_prob, log_mixture(x), rtol=1e-8, atol=1e-8)
        # The derivative of a tabulated density is that of its interpolation: 1e-8 in units of the noise.
        error = M.norm(x, value.score - gradient(M, log_mixture, x)) * tau**0.5
        assert float(error.max()) < 1e-8


@pytest.mark.parametrize("M", [*MANIFOLDS, Torus(3, periods=[3.0, 5.0, 7.0])], ids=repr)
def test_golden_error_is_within_its_bound_in_every_trial(M: Manifold) -> None:
    truncated = 0
    for seed in range(2):
        data = weighted(M, 1000, seed)
        for tau in (1e-4, 3e-3, 0.03, 0.3):
            x = torch.cat([data.sample(8, tau, generator(seed)), spread(M, 4, seed + 50)])
            full = data.evaluate(x, tau, evaluator="full")
            for rtol in (0.3, 1e-3):
                value = data.evaluate(x, tau, evaluator="golden", rtol=rtol)
                error = (value.log_prob - full.log_prob).abs()
                score_error = M.norm(x, value.score - full.score)
                assert bool((error <= value.log_prob_error).all())
                assert bool((score_error <= value.score_error).all())
                assert float(value.log_prob_error.max()) <= 1.001 * rtol
                unit = torch.maximum(M.norm(x, full.score), torch.tensor(tau, dtype=F64).rsqrt())
                assert float((value.score_error / unit).max()) <= 1.01 * rtol
                truncated += int((error > 1e-9).sum())
    assert truncated > 10  # otherwise the bounds would have been tried on sums over all points only


def test_a_fixed_number_of_neighbours_does_not_keep_the_bound() -> None:
    M, tau = Sphere(2), 0.03
    data = weighted(M, 1500)
    x = data.sample(20, tau, generator(1))
    full = data.evaluate(x, tau, evaluator="full")
    data.evaluate(x, tau, evaluator="golden")
    golden = data._evaluators.golden
    assert golden is not None
    w = data.weights / data.weights.sum()
    value, excess, _ = golden._sum(x, torch.full((20,), tau, dtype=F64), data.points, w, 32, 1e-3, True)
    assert float((value.log_prob - full.log_prob).abs().min()) > 1e-3
    assert float(excess.min()) > 1 and bool((value.log_prob_error >= (value.log_prob - full.log_prob).abs()).all())


@pytest.mark.parametrize("M", [Sphere(2), Sphere(3), SO3(), Hyperboloid(2), Euclidean(3)], ids=repr)
def test_bounds_of_a_radial_kernel(M: Manifold) -> None:
    R, K = retrieval(M), heat_kernel(M)
    x, x0 = on_geodesic(M, torch.linspace(0.02, 3.1, 60, dtype=F64))
    tightest = float("inf")
    for tau in (0.02, 0.1, 0.5, 2.0):
        t = torch.full((60,), tau, dtype=F64)
        log_p = K.log_prob(x, x0, t)
        assert float(log_p.diff().max()) < 0  # decreasing
        torch.testing.assert_close(R.log_bound(M.dist(x, x0), t), log_p, rtol=1e-7, atol=1e-7)
        slope = M.norm(x, K.score(x, x0, t))
        below = log_p < R.log_peak(t / 2) - 0.5
        bound = R.slope(log_p, torch.zeros_like(t), t)
        assert bool((slope <= bound)[below].all())
        tightest = min(tightest, float((bound / slope)[below].min()))
    assert tightest < 2  # twice as steep a kernel would break the bound


def test_bound_of_a_product_of_wrapped_laws() -> None:
    M = Torus(3, periods=[2.0, 3.0, 5.0])
    R, x = retrieval(M), Torus(3, periods=[2.0, 3.0, 5.0]).random_uniform(4000, generator=generator(0), dtype=F64)
    r = M.dist(x, torch.zeros(3, dtype=F64))
    for tau in (0.01, 0.1, 0.5, 3.0):
        log_p = heat_kernel(M).log_prob(x, torch.zeros(3, dtype=F64), tau)
        bound = R.log_bound(r, torch.full_like(r, tau))
        assert bool((log_p <= bound + 1e-12).all())
        assert not bool((log_p <= bound - (0.4 * r.square() / tau).clamp_max(1)).all())


@pytest.mark.parametrize("M", SPECTRAL, ids=repr)
def test_series_is_the_full_scan(M: Manifold) -> None:
    data = weighted(M)
    times = {Sphere(3): 0.2, SO3(): 0.4}.get(M, 0.1 if M.dim < 3 else 1.0)
    tau = times * torch.logspace(0, 1, 16, dtype=F64)
    x = data.sample(16, 0.3, generator(5))
    full = data.evaluate(x, tau, evaluator="full")
    value = data.evaluate(x, tau, evaluator="spectral", rtol=1e-8)
    assert float(value.log_prob_error.max()) < 1e-8
    assert float((value.log_prob - full.log_prob).abs().max()) < 1e-8
    assert float((M.norm(x, value.score - full.score) * tau.sqrt()).max()) < 1e-8
    coarse = data.evaluate(x, tau, evaluator="spectral", rtol=0.05)  # a low degree: the bound is that of its tail
    error, score_error = (coarse.log_prob - full.log_prob).abs(), M.norm(x, coarse.score - full.score)
    assert bool((error <= coarse.log_prob_error + 1e-8).all())
    assert bool((score_error <= coarse.score_error + 1e-8 / tau.sqrt()).all())
    assert float(error.max()) > 1e-9 and float(coarse.log_prob_error.max()) <= 0.05


def test_series_says_where_it_knows_nothing() -> None:
    M = Sphere(2)
    data = NoisedData(M, M.origin(F64).expand(1, 3))
    far = -M.origin(F64).expand(1, 3)
    value = data.evaluate(torch.cat([data.points, far]), 0.02, evaluator="spectral")
    assert float(value.log_prob_error[0]) < 1e-3
    assert value.log_prob_error[1] == value.score_error[1] == torch.inf
    assert bool(value.log_prob[1].isnan()) and bool(value.score[1].isnan().all())
    with pytest.raises(NumericsError, match="evaluator='auto' or 'full'"):
        data.log_prob(far, 0.02, evaluator="spectral")
    spectrum = data._evaluators.spectrum
    assert spectrum is not None
    built = spectrum.degree
    early = data.evaluate(data.points, 1e-5, evaluator="spectral")  # refused at no cost
    assert early.log_prob_error == torch.inf and bool(early.score.isnan().all()) and spectrum.degree == built
    torch.testing.assert_close(data.log_prob(far, 0.02), data.log_prob(far, 0.02, evaluator="full"))


@pytest.mark.parametrize("evaluator", ["full", "golden", "spectral", "cells"])
@pytest.mark.parametrize("M", [Sphere(2), Sphere(3), SO3()], ids=repr)
def test_what_is_kept_of_a_first_use_in_inference_mode_has_derivatives(M: Manifold, evaluator: str) -> None:
    data, tau = weighted(M), 0.3 if evaluator == "spectral" else 0.01
    x = data.points[:5].clone().requires_grad_()
    with torch.inference_mode():
        data.score(data.points[:5], tau, evaluator=evaluator)
    (slope,) = torch.autograd.grad(data.score(x, tau, evaluator=evaluator).sum(), x)
    assert bool(slope.isfinite().all())


def test_auto_meets_its_goal_with_all_four() -> None:
    M = Sphere(2)
    data = NoisedData(M, spread(M, 8000))
    tau = torch.logspace(-5, 0.5, 40, dtype=F64)
    x = torch.stack([data.sample(1, float(t), generator(i))[0] for i, t in enumerate(tau)])
    used = set()
    for some in (slice(-1, None), slice(4), slice(40)):  # what is computed first is so once it is worth it
        used |= set(data.evaluate(x[some], tau[some]).evaluator.tolist())
        value, full = data.evaluate(x, tau), data.evaluate(x, tau, evaluator="full")
        used |= set(value.evaluator.tolist())
        assert bool(((value.log_prob - full.log_prob).abs() <= value.log_prob_error + full.log_prob_error).all())
        assert float(value.log_prob_error.max()) <= 1e-3
        assert float((M.norm(x, value.score - full.score) * tau.sqrt()).max()) <= 1e-3
    assert used == {0, 1, 2, 3}


def test_a_goal_below_rounding_is_refused() -> None:
    data = NoisedData(Sphere(2), spread(Sphere(2), 50, dtype=torch.float32))
    with pytest.raises(NumericsError, match="float64"):
        data.score(data.sample(3, 0.1, generator(0)), 0.1, rtol=1e-9)
    # Far from the data a density of exp(-5000) has no more than three digits in float32; it is no reason to stop.
    data = NoisedData(Sphere(2), torch.eye(3)[:1])
    assert bool(data.score(-data.points, 1e-3).isfinite().all())
    assert float(data.evaluate(-data.points, 1e-3).log_prob_error) > 1e-3


@pytest.mark.parametrize("evaluator", ["full", "golden", "spectral", "auto"])
def test_single_precision(evaluator: str) -> None:
    M, tau = Sphere(2), 0.1
    exact, single = (NoisedData(M, spread(M, 500, dtype=d)) for d in (F64, torch.float32))
    x = single.sample(20, tau, generator(1))
    value = single.evaluate(x, tau, evaluator=evaluator)
    full = exact.evaluate(M.project(x.double()), tau, evaluator="full")
    assert value.log_prob.dtype == value.score.dtype == torch.float32
    torch.testing.assert_close(value.log_prob.double(), full.log_prob, rtol=0, atol=1e-4)
    torch.testing.assert_close(value.score.double(), full.score, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("M", "evaluator"),
    [
        *((Sphere(2), e) for e in ("golden", "spectral", "auto")),
        *((M, "spectral") for M in (Torus(2), SO3(), Sphere(3))),
    ],
    ids=str,
)
def test_scores_have_derivatives(M: Manifold, evaluator: str) -> None:
    tau = 0.3 if M == SO3() else 0.1
    data = weighted(M, 1000)
    x = data.sample(4, tau, generator(0))
    v = torch.randn(4, *M.point_shape, dtype=F64, generator=generator(1))

    def transposed(evaluator: str) -> Tensor:
        _, pull = torch.func.vjp(lambda y: data.score(y, tau, evaluator=evaluator, rtol=1e-5), x)
        return M.to_tangent(x, torch.vmap(pull)(v.expand(2, *v.shape))[0][1])

    torch.testing.assert_close(transposed(evaluator), transposed("full"), rtol=1e-4, atol=1e-4)
    slope = gradient(M, lambda y: data.log_prob(y, tau, evaluator=evaluator, rtol=1e-6), x)
    torch.testing.assert_close(slope, data.score(x, tau, evaluator="full"), rtol=1e-4, atol=1e-4)


def test_batches_and_times_broadcast() -> None:
    data = weighted(Torus(2), 50)
    x, tau = data.sample(6, 0.2, generator(0)).reshape(2, 3, 2), torch.tensor([[0.1, 0.2, 0.3]], dtype=F64)
    value = data.evaluate(x, tau)
    assert value.log_prob.shape == value.score_error.shape == (2, 3) and value.score.shape == (2, 3, 2)
    torch.testing.assert_close(value.log_prob[1, 2], data.log_prob(x[1, 2], 0.3))
    assert data.score(x[:0, 0], 0.1).shape == (0, 2)


@pytest.mark.slow
def test_golden_subset_is_twenty_times_faster_at_small_noise() -> None:
    M, tau = Sphere(2), 1e-5
    data = NoisedData(M, spread(M, 100_000))
    x = data.sample(256, tau, generator(0))
    data.evaluate(x, tau, evaluator="golden")
    took = {}
    for evaluator in ("full", "golden"):
        times = []
        for _ in range(2):
            start = time.process_time()
            value = data.evaluate(x, tau, evaluator=evaluator)
            times.append(time.process_time() - start)
        took[evaluator] = min(times), value
    scores = [value.score for _, value in took.values()]
    assert float((M.norm(x, scores[0] - scores[1]) / M.norm(x, scores[0]).clamp_min(tau**-0.5)).max()) <= 1e-3
    assert took["full"][0] >= 20 * took["golden"][0]


# ------------------------------------------------------------------ the data


def same(a: NoisedData, b: NoisedData) -> None:
    """Equal to rounding with every evaluator that the manifold has, at times that suit it."""
    for evaluator, tau in (("full", 0.1), ("golden", 1e-3), ("golden", 0.3), ("spectral", 0.3)):
        x = b.sample(8, tau, generator(7))
        one, two = (d.evaluate(x, tau, evaluator=evaluator, rtol=1e-8) for d in (a, b))
        torch.testing.assert_close(one.log_prob, two.log_prob, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.score * tau**0.5, two.score * tau**0.5, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("M", [Sphere(2), Torus(2)], ids=repr)
def test_a_removed_point_was_never_there(M: Manifold) -> None:
    points, w = spread(M, 700), torch.rand(700, generator=generator(2), dtype=F64) + 0.1
    fresh = NoisedData(M, points[:600], w[:600])
    data = NoisedData(M, points[:600], w[:600])
    same(data, fresh)  # everything that is kept is built
    data.add(points[600:], w[600:])
    same(data, NoisedData(M, points, w))
    data.remove(torch.arange(650, 700))
    data.remove(torch.arange(650) >= 600)
    assert len(data) == 600 and torch.equal(data.points, points[:600])
    same(data, fresh)
    data.remove(torch.tensor([0, 5, -1]))
    rest = torch.ones(600, dtype=torch.bool)
    rest[torch.tensor([0, 5, 599])] = False
    same(data, NoisedData(M, points[:600][rest], w[:600][rest]))
    data.remove(torch.arange(5, 590))
    some = torch.cat([torch.arange(5), torch.arange(590, 597)])
    same(data, NoisedData(M, points[:600][rest][some], w[:600][rest][some]))


def test_one_changed_point_is_seen() -> None:
    M = Sphere(2)
    with pytest.raises(AssertionError):
        same(NoisedData(M, spread(M, 600)), NoisedData(M, spread(M, 600)[1:]))


def test_duplicates_are_counted_and_merged() -> None:
    M = Sphere(2)
    points = spread(M, 100)
    data = NoisedData(M, torch.cat([points, points[:30], points[:10]]))
    merged = NoisedData(M, torch.cat([points, points[:30], points[:10]]), merge_duplicates=True)
    assert data.n_duplicates == 40 and merged.n_duplicates == 0
    assert torch.equal(merged.points, points) and merged.weights[[5, 15, 50]].tolist() == [3.0, 2.0, 1.0]
    same(data, merged)


@pytest.mark.parametrize("M", MANIFOLDS, ids=repr)
def test_one_point_is_its_heat_kernel(M: Manifold) -> None:
    point = spread(M, 1)
    data = NoisedData(M, point, torch.tensor([3.0]))
    x = data.sample(5, 0.2, generator(0))
    torch.testing.assert_close(data.log_prob(x, 0.2), heat_kernel(M).log_prob(x, point, 0.2), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(data.score(x, 0.2), heat_kernel(M).score(x, point, 0.2), rtol=1e-7, atol=1e-7)
    golden = data.evaluate(x, 0.2, evaluator="golden")
    torch.testing.assert_close(golden.log_prob, data.log_prob(x, 0.2), rtol=1e-9, atol=1e-9)


def test_memory_maps_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    M = Sphere(2)
    points = M.project(spread(M, 1000, dtype=torch.float32))
    file = np.memmap(tmp_path / "points", dtype=np.float32, mode="w+", shape=(1000, 3))
    file[:] = points.numpy()
    data = NoisedData(M, np.memmap(tmp_path / "points", dtype=np.float32, mode="r", shape=(1000, 3)), block=64)
    x = M.project(spread(M, 8, 9))
    held = NoisedData(M, points).evaluate(x, 0.3, evaluator="full")
    seen, read = [], DataPoints.read

    def watched(self: DataPoints, part: slice) -> Tensor:
        seen.append(part.stop - part.start)
        return read(self, part)

    monkeypatch.setattr(DataPoints, "read", watched)
    for evaluator in ("full", "spectral", "auto"):
        value = data.evaluate(x, 0.3, evaluator=evaluator)
        torch.testing.assert_close(value.log_prob, held.log_prob, rtol=1e-3, atol=0)
        torch.testing.assert_close(value.score, held.score, rtol=0, atol=1e-3)
    assert len(seen) >= 32 and max(seen) <= 64
    assert data.sample(5, 0.1, generator(0)).shape == (5, 3)
    for use in (lambda: data.log_prob(x, 0.3, evaluator="golden"), lambda: data.remove(torch.tensor([0]))):
        with pytest.raises(ConfigError, match=r"torch\.as_tensor"):
            use()


def test_samples_have_the_law() -> None:
    # E[x . x_i] = exp(-tau) about the point that each comes from.
    M, tau, n = Sphere(2), 0.3, 10_000
    data = NoisedData(M, torch.eye(3, dtype=F64), torch.tensor([0.2, 0.3, 0.5]))

    def z(tau: float, weights: Tensor) -> float:
        x = data.sample(n, tau, generator(0))
        mean = weights * torch.exp(torch.tensor(-0.3, dtype=F64))
        return float(((x.mean(0) - mean) / (x.std(0) / n**0.5)).abs().max())

    assert z(tau, torch.tensor([0.2, 0.3, 0.5], dtype=F64)) < 5
    assert z(0.2, torch.tensor([0.2, 0.3, 0.5], dtype=F64)) > 5
    assert z(tau, torch.tensor([0.3, 0.2, 0.5], dtype=F64)) > 5


def test_bad_data_are_refused() -> None:
    M, points = Sphere(2), spread(Sphere(2), 4)
    with pytest.raises(DataError, match="n >= 1"):
        NoisedData(M, points[:0])
    with pytest.raises(DataError, match="tensor or a NumPy array"):
        NoisedData(M, points.tolist())  # pyright: ignore[reportArgumentType]
    with pytest.raises(ManifoldError, match="project"):
        NoisedData(M, points * 1.1)
    with pytest.raises(ManifoldError, match="NaN"):
        NoisedData(M, points * torch.tensor([1.0, torch.nan, 1.0]))
    for bad in ([1.0, -1.0, 1.0, 1.0], [0.0] * 4, [1.0, torch.nan, 1.0, 1.0], [1.0]):
        with pytest.raises(DataError, match="weights"):
            NoisedData(M, points, torch.tensor(bad))
    data = NoisedData(M, points)
    with pytest.raises(DataError, match="at least one"):
        data.remove(torch.arange(4))
    with pytest.raises(DataError, match="below 4"):
        data.remove(torch.tensor([4]))
    with pytest.raises(ManifoldError):
        data.add(points * 2)
    with pytest.raises(ConfigError, match="tau"):
        data.score(points, 0.0)
    with pytest.raises(ConfigError, match="rtol"):
        NoisedData(M, points, rtol=0.0)
    with pytest.raises(ConfigError, match="evaluator"):
        data.score(points, 0.1, evaluator="best")  # pyright: ignore[reportArgumentType]


def test_missing_evaluators_name_the_fix() -> None:
    M = Product(Sphere(2), Torus(1))
    data = NoisedData(M, spread(M, 20))
    x = data.sample(3, 0.1, generator(0))
    assert data.evaluate(x, 0.1).evaluator.tolist() == [0, 0, 0]
    for evaluator in ("golden", "spectral", "cells"):
        with pytest.raises(CapabilityError, match="evaluator='full'"):
            data.score(x, 0.1, evaluator=evaluator)
