"""Sums over cells: the derivatives of the kernel, the tree, and values within proven bounds of the full scan."""

from __future__ import annotations

import math
import time

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import CapabilityError, ConfigError, NumericsError
from manifold_diffusion.heat_kernels import NoisedData, heat_kernel
from manifold_diffusion.heat_kernels.noised._cell_jets import CellJets
from manifold_diffusion.heat_kernels.noised._cell_tree import build_tree
from manifold_diffusion.heat_kernels.noised._cells import CellSums
from manifold_diffusion.heat_kernels.noised._zonal_jet import ZonalJet, angle_squared, zonal_jet
from manifold_diffusion.manifolds import SO3, Manifold, Sphere, Torus, gradient

from .points import F64, generator

ROUND = [Sphere(2), Sphere(3), SO3()]
round_spaces = pytest.mark.parametrize("M", ROUND, ids=repr)


def clustered(M: Manifold, n: int, seed: int = 0, spread: float = 0.3) -> Tensor:
    """Five clusters, and a tenth of the points anywhere."""
    g = generator(seed)
    centres = M.random_uniform(5, generator=g, dtype=F64)
    start = centres[torch.randint(5, (n,), generator=g)]
    x = M.exp(start, spread * M.random_tangent(start, generator=g))
    x[: n // 10] = M.random_uniform(n // 10, generator=g, dtype=F64)
    return x


def weights(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=generator(seed), dtype=F64).square() + 1e-3


# ------------------------------------------------------------------ the kernel as a function of the inner product


def derivative(n: int, m: int, theta: float, tau: float) -> float:
    """Logarithm of the m-th derivative in cos(theta), by the eigenfunction series in 50 digits."""
    with mpmath.workdps(50):
        total, u = mpmath.mpf(0), mpmath.cos(mpmath.mpf(theta))
        k = mpmath.mpf(n + 2 * m - 1) / 2
        last, now = mpmath.mpf(0), mpmath.mpf(1)  # Gegenbauer polynomials
        for level in range(int(14 / math.sqrt(tau))):
            total += (level + k) / k * now * mpmath.exp(-mpmath.mpf(tau) * level * (level + 2 * k) / 2)
            last, now = now, (2 * u * (level + k) * now - (level + 2 * k - 1) * last) / (level + 1)
        volume = 2 * mpmath.pi ** (k + 1) / mpmath.gamma(k + 1)
        factor = (2 * mpmath.pi) ** m * mpmath.exp(-mpmath.mpf(tau) * m * (n + m - 1) / 2)
        return float(mpmath.log(factor * total / volume))


@pytest.mark.parametrize("n", [2, 3])
def test_derivatives_of_the_kernel(n: int) -> None:
    jet = zonal_jet(n, 12)
    for tau in (0.03, 0.1):
        t, theta = torch.tensor([tau], dtype=F64), torch.tensor([1e-3, 0.4, 1.2], dtype=F64)
        square, log_ratio = angle_squared(2 * (theta / 2).sin().square())
        found = jet.log_derivatives(square, log_ratio, t, 12)
        torch.testing.assert_close(found, jet.log_derivatives(square, log_ratio, t.expand(3), 12), rtol=0, atol=1e-12)
        bound = jet.log_majorant(square, log_ratio, t)
        for m in (0, 1, 11):
            exact = torch.tensor([derivative(n, m, float(a), tau) for a in theta], dtype=F64)
            torch.testing.assert_close(found[m], exact, rtol=0, atol=2e-10)
            excess = bound + m * (log_ratio - t.log()) - exact
            if m > 0 or n > 2:
                assert bool((excess > -1e-12).all())
            assert float(excess.min()) < 24 * tau  # and it is tight
        assert float(found[0].max()) <= float((square * 0 + bound + tau * (jet.high - n * (n - 1) / 12)).max())


@pytest.mark.parametrize("n", [2, 3])
def test_kernel_at_small_times(n: int) -> None:
    M, jet = Sphere(n), ZonalJet(n, 2)
    x, y = M.random_uniform(50, generator=generator(0), dtype=F64), M.origin(F64).expand(50, n + 1)
    for tau in (1e-6, 1e-4, 0.02):
        near = M.exp(y, tau**0.5 * M.random_tangent(y, generator=generator(1)))
        for point in (near, torch.where(((x - y).square().sum(1) < 2.5).unsqueeze(1), x, near)):
            versine = (point - y).square().sum(1) / 2
            square, log_ratio = angle_squared(versine)
            value, slope = jet.log_derivatives(square, log_ratio, torch.tensor([tau], dtype=F64), 2)
            exact = heat_kernel(M).log_prob(point, y, tau)
            torch.testing.assert_close(value, exact, rtol=1e-9, atol=1e-9)
            pull = M.norm(point, heat_kernel(M).score(point, y, tau)) / (versine * (2 - versine)).sqrt()
            torch.testing.assert_close((slope - value).exp(), pull, rtol=1e-7, atol=0)


def test_angle_is_smooth_at_the_source() -> None:
    v = torch.tensor([0.0, 1e-20, 1e-3, 0.0499, 0.0501, 1.2], dtype=F64, requires_grad=True)
    square, log_ratio = angle_squared(v)
    theta = 2 * (v.detach()[1:] / 2).sqrt().asin()
    torch.testing.assert_close(square[1:], theta.square(), rtol=1e-14, atol=0)
    torch.testing.assert_close(log_ratio[2:], (theta / theta.sin()).log()[1:], rtol=1e-12, atol=1e-15)
    one, two = torch.autograd.grad(square.sum() + log_ratio.sum(), v, create_graph=True)[0], None
    torch.testing.assert_close(one[0].item(), 2 + 1 / 3)
    two = torch.autograd.grad(one.sum(), v)[0]
    assert bool(two.isfinite().all())


# ------------------------------------------------------------------ the tree


@pytest.mark.parametrize("n", [2, 3])
def test_cells_are_a_hierarchy_of_partitions(n: int) -> None:
    M = Sphere(n)
    y = torch.cat([clustered(M, 2000), clustered(M, 500, 1, 1e-4), M.origin(F64).expand(60, n + 1)]).numpy()
    tree = build_tree(y, 16)
    assert np.array_equal(tree.points[tree.place], y)
    leaf = tree.children == 0
    assert tree.count[leaf].sum() == len(y) and tree.count[leaf].max() == 60
    assert (tree.count[leaf] <= 16).sum() >= leaf.sum() - 1  # all but the one of equal points
    for cell in np.flatnonzero(~leaf):
        own = slice(tree.first[cell], tree.first[cell] + tree.children[cell])
        assert (tree.parent[own] == cell).all() and tree.children[cell] > 1
        assert tree.start[own][0] == tree.start[cell] and tree.count[own].sum() == tree.count[cell]
        assert (np.diff(tree.start[own]) == tree.count[own][:-1]).all()
    w = np.random.default_rng(0).random((len(y), 2))
    sums, path = tree.sums(w), tree.path(np.array([3, 700]))
    for cell in range(0, len(leaf), 7):
        inside = slice(tree.start[cell], tree.start[cell] + tree.count[cell])
        np.testing.assert_allclose(sums[cell], w[inside].sum(0), rtol=1e-12)
        depth = ((tree.points[inside] - tree.centre[cell]) ** 2).sum(1).max() / 2
        assert abs(depth - tree.depth[cell]) < 1e-15
        assert (cell in path) == any(inside.start <= place < inside.stop for place in (3, 700))
    w[3] = 0
    np.testing.assert_allclose(tree.sums(w, path, sums), tree.sums(w), rtol=1e-12)


@pytest.mark.parametrize(("n", "degree"), [(2, 10), (3, 6)])
def test_moments_of_cells_are_sums_over_their_points(n: int, degree: int) -> None:
    M, jets, g = Sphere(n), CellJets(n, degree), generator(0)
    start, count = np.array([5, 20000, 40, 80, 10]), np.array([1, 9001, 33, 14, 13])
    y, w = M.random_uniform(30000, generator=g, dtype=F64), torch.rand(30000, generator=g, dtype=F64)
    c = M.random_uniform(5, generator=g, dtype=F64)
    for cell, moments in enumerate(jets.moments(y, w, c, start, count)):
        points = np.arange(start[cell], start[cell] + count[cell])
        alone = jets.moments(y, w, c[[cell]].expand(len(points), -1), points, np.ones_like(points))
        torch.testing.assert_close(moments, alone.sum(0), rtol=1e-11, atol=1e-12 * float(alone.abs().sum()))


@pytest.mark.parametrize("size", [1, 30])
@pytest.mark.parametrize(("n", "degree"), [(2, 10), (2, 3), (3, 6)])
def test_one_cell_is_within_its_bound(n: int, degree: int, size: int) -> None:
    M, jets, g = Sphere(n), CellJets(n, degree), generator(0)
    K, tightest = heat_kernel(M), 0.0
    for tau in (1e-5, 1e-3, 0.02):
        t = torch.tensor([tau], dtype=F64)
        for width in (0.1, 0.5, 1.0):
            c = M.random_uniform(40, generator=g, dtype=F64)
            centres = c.repeat_interleave(size, 0)
            v = M.random_tangent(centres, generator=g)
            v = v / M.norm(centres, v).unsqueeze(1) * torch.rand(len(v), 1, generator=g, dtype=F64).sqrt()
            y, w = M.exp(centres, width * tau**0.5 * v), torch.rand(len(v), generator=g, dtype=F64)
            u = M.random_tangent(c, generator=g)
            r = torch.linspace(1e-3, 6, 40, dtype=F64) * tau**0.5
            x = M.exp(c, u / M.norm(c, u).unsqueeze(1) * r.unsqueeze(1))
            moments = jets.moments(y, w, c, np.arange(0, 40 * size, size), np.full(40, size))
            unit = K.log_prob(x, c, tau)
            value, slope = jets.sums(x, c, moments, t, unit, True)
            assert slope is not None
            y, w = y.reshape(40, size, -1), w.reshape(40, size)
            terms = (K.log_prob(x.unsqueeze(1), y, tau) - unit.unsqueeze(1)).exp() * w
            exact = (terms.unsqueeze(2) * K.score(x.unsqueeze(1), y, tau)).sum(1)
            versine = (y - c.unsqueeze(1)).square().sum(2) / 2
            depth = versine.amax(1)
            log_ratio = (r / r.sin()).log()
            majorant = jets.kernel.log_majorant(r.square(), log_ratio, t)
            rest = jets.log_rest(r, log_ratio, majorant, t, (depth * (2 - depth)).sqrt(), depth)
            share = versine * (2 - versine) / (depth * (2 - depth)).unsqueeze(1)
            mass = (w * share ** ((degree + 1) / 2)).sum(1)
            size_ = terms.sum(1) * 1e-10  # of the radial tables that it is compared with
            error = (value - terms.sum(1)).abs()
            bound = (rest[0] - unit).exp() * mass
            assert bool((error <= bound + size_).all())
            slope_error = M.norm(x, M.to_tangent(x, slope) - exact) * tau**0.5
            slope_bound = (rest[1] - unit).exp() * mass * tau**0.5
            assert bool((slope_error <= slope_bound + 20 * size_).all())
            tightest = max(tightest, float((error / (bound + size_)).max()))
    assert tightest > 1 / 15  # moments that were wrong by that much would break it


# ------------------------------------------------------------------ the evaluator


@round_spaces
def test_cells_agree_with_the_gradient_of_the_log_mixture(M: Manifold) -> None:
    data = NoisedData(M, clustered(M, 600), weights(600))
    share = data.weights / data.weights.sum()
    for tau in (1e-4, 3e-3, 0.02):
        x = data.sample(8, tau, generator(3))

        def log_mixture(y: Tensor, tau: float = tau) -> Tensor:
            return torch.logsumexp(heat_kernel(M).log_prob(y.unsqueeze(1), data.points, tau) + share.log(), 1)

        value = data.evaluate(x, tau, evaluator="cells", rtol=1e-9)
        assert bool((value.evaluator == 3).all())
        torch.testing.assert_close(value.log_prob, log_mixture(x), rtol=0, atol=1e-8)
        assert float((M.norm(x, value.score - gradient(M, log_mixture, x)) * tau**0.5).max()) < 1e-8


@round_spaces
def test_error_is_within_its_bound_in_every_trial(M: Manifold) -> None:
    inexact = expanded = 0
    g = generator(5)
    for trial in range(10):
        n = int(10 ** (2 + 2 * torch.rand(1, generator=g)))
        points = M.random_uniform(n, generator=g, dtype=F64) if trial % 3 == 0 else clustered(M, n, trial, 0.1)
        data = NoisedData(M, points, weights(n, trial) if trial % 2 else None)
        top = -0.7 if M == SO3() else -1.6
        shared = 10.0 ** (top - (4 - M.dim) * float(torch.rand(1, generator=g)))
        own = 10.0 ** (-5 + 3.4 * torch.rand(24, generator=g, dtype=F64))
        tau = own if trial % 2 else torch.full((24,), shared, dtype=F64)
        x = torch.cat(
            [data.kernel.sample(data.choose(20, g), tau[:20], g), M.random_uniform(4, generator=g, dtype=F64)]
        )
        full = data.evaluate(x, tau, evaluator="full")
        unit = torch.maximum(M.norm(x, full.score), tau.rsqrt())
        for rtol in (0.3, 1e-3):
            value = data.evaluate(x, tau, evaluator="cells", rtol=rtol)
            error, score_error = (value.log_prob - full.log_prob).abs(), M.norm(x, value.score - full.score)
            assert bool((error <= value.log_prob_error + full.log_prob_error).all())
            assert bool((score_error <= value.score_error + full.score_error).all())
            assert float(value.log_prob_error[value.evaluator == 3].max()) <= 1.01 * rtol + 1e-6
            assert float((value.score_error / unit)[value.evaluator == 3].max()) <= 1.5 * rtol + 1e-5
            inexact += int((error > 1e-8).sum())
        assert data._evaluators.cells is not None
        expanded += data._evaluators.cells._used
    assert inexact > 20 and expanded > 100


def test_wrong_moments_break_the_bound() -> None:
    M, tau = Sphere(2), 0.01
    data = NoisedData(M, clustered(M, 20_000))
    x = data.sample(50, tau, generator(0))
    full = data.evaluate(x, tau, evaluator="full")
    assert bool((data.evaluate(x, tau, evaluator="cells").evaluator == 3).all())
    cells = data._evaluators.cells
    assert cells is not None
    cells._moments *= 1.01
    value = data.evaluate(x, tau, evaluator="cells")
    broken = (value.log_prob - full.log_prob).abs() > value.log_prob_error
    assert float(broken.double().mean()) > 0.5


def test_cost_does_not_grow_with_the_number_of_points() -> None:
    M, tau, g = Sphere(2), torch.full((32,), 0.03, dtype=F64), generator(0)
    work = []
    for n in (40_000, 160_000):
        points = M.random_uniform(n, generator=g, dtype=F64)
        cells = CellSums(M, points, torch.ones(n, dtype=F64))
        choice = cells._choose(M.random_uniform(32, generator=g, dtype=F64), tau, 1e-3, torch.full((32,), math.inf))
        work.append(len(choice.cells[0]) + len(choice.places[0]) / 9)
    assert work[1] < 1.2 * work[0] < 32 * 1200


@pytest.mark.parametrize("M", [Sphere(2), SO3()], ids=repr)
def test_points_are_added_and_removed(M: Manifold) -> None:
    points, w = clustered(M, 4000), weights(4000)
    data = NoisedData(M, points[:3900], w[:3900])
    tau = 10.0 ** torch.linspace(-4, -2, 24, dtype=F64)
    x = data.kernel.sample(data.choose(24, generator(0)), tau, generator(1))

    def same(rows: Tensor) -> None:
        fresh = NoisedData(M, points[rows], w[rows])
        assert torch.equal(data.points, fresh.points)
        one, two = (d.evaluate(x, tau, evaluator="cells", rtol=1e-8) for d in (data, fresh))
        assert bool((one.evaluator == 3).all())
        torch.testing.assert_close(one.log_prob, two.log_prob, rtol=0, atol=2e-8)
        assert float((M.norm(x, one.score - two.score) * tau.sqrt()).max()) < 2e-8

    rows = torch.arange(3900)
    same(rows)
    cells = data._evaluators.cells
    assert cells is not None
    tree = cells.tree
    near = torch.linalg.vector_norm((points[:3900] - x[12]).flatten(1), dim=1).argsort()[:20]
    data.remove(near)
    rows = rows[~torch.isin(rows, near)]
    same(rows)
    data.add(points[3900:3930], w[3900:3930])
    rows = torch.cat([rows, torch.arange(3900, 3930)])
    same(rows)
    data.remove(torch.tensor([7, -1, -5]))
    rows = rows[[i for i in range(len(rows)) if i not in (7, len(rows) - 1, len(rows) - 5)]]
    same(rows)
    assert cells.tree is tree
    data.add(points[3930:], w[3930:])
    rows = torch.cat([rows, torch.arange(3930, 4000)])
    same(rows)
    assert cells.tree is not tree
    data.remove(torch.arange(5, len(data)))
    same(rows[:5])


def test_a_missing_point_is_seen() -> None:
    M, tau = Sphere(2), 1e-3
    points = clustered(M, 2000)
    data = NoisedData(M, points)
    x = data.sample(10, tau, generator(0))
    before = data.log_prob(x, tau, evaluator="cells", rtol=1e-6)
    near = (points - x[0]).square().sum(1).argmin()
    data.remove(near.reshape(1))
    assert float((data.log_prob(x, tau, evaluator="cells", rtol=1e-6) - before).abs()[0]) > 1e-3


@round_spaces
def test_single_precision(M: Manifold) -> None:
    points = clustered(M, 3000).float()
    points = M.project(points)
    exact, single = NoisedData(M, M.project(points.double())), NoisedData(M, points)
    for tau in (1e-3, 0.02):
        x = single.sample(20, tau, generator(1))
        value = single.evaluate(x, tau, evaluator="cells")
        full = exact.evaluate(M.project(x.double()), tau, evaluator="full")
        assert value.log_prob.dtype == value.score.dtype == torch.float32
        torch.testing.assert_close(value.log_prob.double(), full.log_prob, rtol=0, atol=1e-3)
        assert float((M.norm(x, value.score.double() - full.score) * tau**0.5).max()) < 2e-3


@round_spaces
def test_derivatives(M: Manifold) -> None:
    data, tau = NoisedData(M, clustered(M, 2000), weights(2000)), 0.01
    x, v = data.sample(4, tau, generator(0)), torch.randn(4, *M.point_shape, dtype=F64, generator=generator(1))

    def transposed(evaluator: str) -> Tensor:
        _, pull = torch.func.vjp(lambda y: data.score(y, tau, evaluator=evaluator, rtol=1e-6), x)
        return M.to_tangent(x, torch.vmap(pull)(v.expand(2, *v.shape))[0][1])

    torch.testing.assert_close(transposed("cells"), transposed("full"), rtol=1e-3, atol=1e-3 / tau)
    slope = gradient(M, lambda y: data.log_prob(y, tau, evaluator="cells", rtol=1e-6), x)
    torch.testing.assert_close(slope, data.score(x, tau, evaluator="full"), rtol=1e-4, atol=1e-3)


def test_queries_at_data_points_and_far_from_all() -> None:
    M = Sphere(2)
    origin = M.origin(F64).expand(200, 3)
    data = NoisedData(M, M.exp(origin, 0.1 * M.random_tangent(origin, generator=generator(0))))
    y = torch.cat([data.points[:3], -data.points[:3]]).requires_grad_()
    for tau in (1e-3, 0.02):
        value, full = (data.evaluate(y, tau, evaluator=e) for e in ("cells", "full"))
        assert value.evaluator.tolist() == [3, 3, 3, 0, 0, 0]  # beyond the angles of the expansion all are scanned
        torch.testing.assert_close(value.log_prob, full.log_prob, rtol=0, atol=1e-3)
        torch.testing.assert_close(value.score, full.score, rtol=1e-3, atol=1e-3 / tau**0.5)
        (slope,) = torch.autograd.grad(value.score[:3].sum(), y)
        assert bool(slope.isfinite().all())
    late = data.evaluate(y, 0.5, evaluator="cells")
    assert late.evaluator.tolist() == [0] * 6
    cells = data._evaluators.cells
    assert cells is not None
    tau = torch.full((6,), 0.01, dtype=F64)
    found, left = cells.evaluate(y, tau, 1e-3, torch.full((6,), 1.0, dtype=F64), True)
    assert found == [] and len(left) == 6  # a budget that is too small


def test_bad_use_is_refused() -> None:
    data = NoisedData(Torus(2), Torus(2).random_uniform(20, generator=generator(0)))
    with pytest.raises(CapabilityError, match=r"Sphere\(2\), Sphere\(3\), SO3"):
        data.score(torch.zeros(1, 2), 0.1, evaluator="cells")
    with pytest.raises(CapabilityError, match="evaluator='full'"):
        NoisedData(Sphere(5), torch.eye(6)).score(torch.eye(6), 0.1, evaluator="cells")
    with pytest.raises(ConfigError, match=r"torch\.as_tensor"):
        NoisedData(Sphere(2), np.eye(3)).score(torch.eye(3, dtype=F64), 0.01, evaluator="cells")
    with pytest.raises(NumericsError, match="below the rounding"):
        NoisedData(Sphere(2), torch.eye(3)).score(torch.eye(3), 0.01, evaluator="cells", rtol=1e-9)


@pytest.mark.slow
def test_fifty_times_faster_than_the_scan_of_a_million_points() -> None:
    M = Sphere(2)
    data = NoisedData(M, clustered(M, 1_000_000))
    for tau in (1e-6, 1e-4, 3e-3, 0.1):
        x = data.sample(256, tau, generator(0))
        took = {}
        for _ in range(3):
            start = time.process_time()
            value = data.evaluate(x, tau)
            took["auto"] = min(took.get("auto", math.inf), (time.process_time() - start) / 256)
        start = time.process_time()
        full = data.evaluate(x[:24], tau, evaluator="full")
        took["full"] = (time.process_time() - start) / 24
        error = M.norm(x[:24], value.score[:24] - full.score) / M.norm(x[:24], full.score).clamp_min(tau**-0.5)
        assert float(error.max()) <= 1e-3
        assert took["full"] >= 50 * took["auto"], (tau, took)
