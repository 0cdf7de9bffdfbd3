"""Heat kernels of positive definite and correlation matrices: references, identities, samples, training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.heat_kernels._spd_law import _log_integral, _rule, spd3_correction
from manifold_diffusion.heat_kernels._spd_tables import radial_law
from manifold_diffusion.manifolds import SPD, Correlation, Euclidean, Hyperboloid, Manifold, Pullback, divergence
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import Langevin, LogSchedule, default_process
from manifold_diffusion.testing import check_manifold

from .points import generator

F64 = torch.float64
MANIFOLDS = [SPD(1), SPD(2), SPD(3), SPD(3, "log_euclidean"), SPD(3, "log_cholesky"), Correlation(2), Correlation(3)]
every = pytest.mark.parametrize("M", MANIFOLDS, ids=repr)


def points(M: Manifold, n: int, seed: int = 0, spread: float = 0.8) -> Tensor:
    origin = M.origin(dtype=F64).expand(n, *M.point_shape)
    return M.exp(origin, spread * M.random_tangent(origin, generator(seed)))


# ---------------------------------------------------------------------- the law of SPD(3)


def radial_points(tau: float, n: int = 72) -> tuple[Tensor, np.ndarray]:
    """H of sum zero, ascending, and weights that integrate invariant functions of matrices of determinant 1."""
    top = 9 * math.sqrt(tau) + 1.5 * tau
    nodes, weights = np.polynomial.legendre.leggauss(n)
    g, w = (nodes + 1) / 2 * top, weights * top / 2
    x, y = np.meshgrid(g, g, indexing="ij")
    mehta = (2 * math.pi) ** 1.5 * math.gamma(2) * math.gamma(2.5) / math.gamma(1.5) ** 2
    area = 6 * (2 * math.pi) ** 3 / mehta * 8 * np.sinh(x / 2) * np.sinh(y / 2) * np.sinh((x + y) / 2) / math.sqrt(3)
    h = torch.tensor(np.stack([-(x + 2 * y) / 3, (y - x) / 3, (2 * x + y) / 3], -1)).reshape(-1, 3)
    return h, (area * w[:, None] * w).reshape(-1)


@pytest.mark.parametrize("tau", [*(pytest.param(tau, marks=pytest.mark.slow) for tau in (1e-3, 0.3, 2.0)), 8.0, 20.0])
def test_total_mass_and_mean_of_three_by_three_matrices(tau):
    h, weights = radial_points(tau)
    log_p = radial_law(3).log_prob(h, torch.tensor(tau, dtype=F64))
    p = (log_p + 0.5 * math.log(2 * math.pi * tau)).exp().numpy() * weights  # without the determinant's Gaussian
    assert p.sum() == pytest.approx(1, abs=1e-7)
    trace = h.exp().sum(-1).numpy()
    assert (p * trace).sum() * math.exp(tau / 6) == pytest.approx(3 * math.exp(tau), rel=2e-7)


def test_peak_agrees_with_the_plancherel_formula():
    # p(x0 | x0) is the integral over the dual of exp(-tau (|k|^2 + 1/2) / 2) |c(k)|^-2, in which
    # |c|^-2 is the product of a tanh(pi a), a = k_i - k_j, for the root (H_i - H_j) / 2 of multiplicity one.
    def ratio(tau: float) -> float:
        def f(y: float, x: float) -> float:
            roots = [x, y, x + y]
            size = (x * x + y * y + x * y) * 2 / 3
            return math.exp(-tau * (size + 0.5) / 2) * math.prod(a * math.tanh(math.pi * a) for a in roots)

        end = 10 / math.sqrt(tau)
        return integrate.dblquad(f, 0, end, 0, end, epsabs=0, epsrel=1e-9)[0] / math.sqrt(tau)  # trace: Gaussian

    eye = torch.eye(3, dtype=F64)
    taus = [0.05, 0.5, 2.0, 6.0]
    ours = [float(heat_kernel(SPD(3)).log_prob(eye, eye, t)) for t in taus]
    theirs = [math.log(ratio(t)) for t in taus]
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), atol=1e-7)


def test_short_times_know_the_scalar_curvature():
    # p(x0 | x0) = (2 pi tau)^(-d/2) (1 + tau R / 12 + ..), R = -n (n - 1) (n + 2) / 8
    zero = np.zeros(1)
    assert spd3_correction(zero, zero, np.array([1e-3]))[0] == pytest.approx(-30 / 8 / 12, abs=1e-5)


def test_the_table_is_the_quadrature():
    rng = np.random.default_rng(0)
    tau = np.exp(rng.uniform(math.log(1e-3), math.log(30.0), 200))
    x, y = rng.uniform(0, 1, (2, 200)) ** 2 * (1 + 10 * np.sqrt(tau))
    h = torch.tensor(np.stack([-(x + 2 * y) / 3, (y - x) / 3, (2 * x + y) / 3], -1))
    ours = radial_law(3).log_prob(h, torch.tensor(tau))
    pairs = sum(np.log(np.sinh(g / 2) / (g / 2)) for g in (x, y, x + y))
    leading = -(h**2).sum(-1).numpy() / (2 * tau) - 3 * np.log(2 * math.pi * tau) - pairs / 2
    np.testing.assert_allclose(ours.numpy(), leading + tau * spd3_correction(x, y, tau), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize(
    ("tau", "error"), [(0.01, 1e-9), (0.5, 1e-9), (6.0, 4e-9), (12.0, 4e-9), (20.0, 6e-8), (30.0, 2e-6)]
)
def test_the_law_of_three_by_three_matrices_is_converged(tau, error):
    x, y = np.array([0.0, 1.0, 0.5, 4.0, 20.0, 40.0]), np.array([1e-6, 2.0, 8.0, 4.0, 30.0, 1.0])
    h = np.stack([-(x + 2 * y) / 3, (y - x) / 3, (2 * x + y) / 3], -1)
    integral = _log_integral(h, np.full(6, tau), _rule(44, 0.22, 9.6, 0.35))
    flat = -(h**2).sum(-1) / (2 * tau) - 3 * math.log(2 * math.pi * tau)
    expected = flat + integral + 1.5 * math.log(4 / (math.pi * tau)) - tau / 4
    ours = radial_law(3).log_prob(torch.tensor(h), torch.tensor(tau, dtype=F64)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=error)


def test_two_by_two_matrices_have_the_law_of_a_line_and_a_plane():
    x, x0, tau = points(SPD(2), 32, 1), points(SPD(2), 32, 2), 0.7

    def plane(a: Tensor) -> tuple[Tensor, Tensor]:
        det = torch.det(a)
        a = a / det.sqrt()[:, None, None]
        entries = [(a[:, 0, 0] + a[:, 1, 1]) / 2, (a[:, 0, 0] - a[:, 1, 1]) / 2, a[:, 0, 1]]
        return det.log() / math.sqrt(2), torch.stack(entries, -1)

    (s, p), (s0, p0) = plane(x), plane(x0)
    expected = heat_kernel(Hyperboloid(2)).log_prob(p, p0, tau / 2) - math.log(2)
    expected = expected - (s - s0) ** 2 / (2 * tau) - 0.5 * math.log(2 * math.pi * tau)
    torch.testing.assert_close(heat_kernel(SPD(2)).log_prob(x, x0, tau), expected, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------- identities


@pytest.mark.parametrize("tau", [1e-4, 0.1, 2.0])
@every
def test_score_is_the_gradient_and_solves_the_heat_equation(M, tau):
    K, x0 = heat_kernel(M), points(M, 8)
    x, v = K.sample(x0, tau, generator(1)), M.random_tangent(x0, generator(2))
    v = M.transport(x0, x, v)
    zero, one = torch.zeros(8, dtype=F64), torch.ones(8, dtype=F64)
    slope = torch.func.jvp(lambda t: K.log_prob(M.exp(x, M.per_point(t) * v), x0, tau), (zero,), (one,))[1]
    score = K.score(x, x0, tau)
    M.check_tangent(x, score)
    torch.testing.assert_close(slope, M.inner(x, score, v), rtol=1e-7, atol=1e-9 * float(M.norm(x, score).max()))
    _, laplacian = divergence(M, lambda p: K.score(p, x0, tau), x)
    squared, h = M.inner(x, score, score), 1e-4 * tau
    time = (K.log_prob(x, x0, tau + h) - K.log_prob(x, x0, tau - h)) / (2 * h)
    assert ((time - (laplacian + squared) / 2).abs() / (laplacian.abs() + squared)).max() < 1e-6


@pytest.mark.parametrize("M", [SPD(2), pytest.param(SPD(3), marks=pytest.mark.slow)], ids=repr)
def test_derivatives_are_right_where_eigenvalues_repeat(M):
    K, x0 = heat_kernel(M), torch.eye(M.n, dtype=F64).repeat(2, 1, 1)
    x = torch.stack([torch.eye(M.n, dtype=F64), 1.5 * torch.eye(M.n, dtype=F64)]).requires_grad_()
    torch.autograd.gradcheck(lambda a: K.log_prob(a, x0, 0.3), x, fast_mode=True)
    # A wide step: the table's error of 1e-8 turns with the eigenvectors.
    torch.autograd.gradgradcheck(lambda a: K.log_prob(a, x0, 0.3), x, fast_mode=True, eps=1e-3, atol=1e-4)
    torch.autograd.gradcheck(lambda a: K.score(a, x0, 0.3), x, fast_mode=True, eps=1e-3, atol=1e-4)


@every
def test_float32_agrees_with_float64_at_the_same_points(M):
    K, x0 = heat_kernel(M), points(M, 64).float()
    for tau in (1e-3, 0.1, 0.5):
        drawn = K.sample_with_score(x0, tau, generator(1))
        x, y, y0 = drawn.x, drawn.x.double(), x0.double()
        truth, score = K.log_prob(y, y0, tau), K.score(y, y0, tau)
        assert ((K.log_prob(x, x0, tau).double() - truth).abs() / (1 + truth.abs())).max() < 1e-5
        size = M.norm(y, score)
        assert (M.norm(y, M.to_tangent(y, K.score(x, x0, tau).double() - score)) / size).max() < 1e-4


@every
def test_pairs_and_mixtures_agree_with_one_at_a_time(M):
    K, x, centres = heat_kernel(M), points(M, 5, 1), points(M, 4, 2)
    tau = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    rows = torch.stack([K.log_prob(x, c.expand_as(x), float(t)) for c, t in zip(centres, tau, strict=True)], 1)
    torch.testing.assert_close(K.pairwise_log_prob(x, centres, tau), rows)
    mixture = HeatKernelMixture(M, centres, 0.2)
    v = M.random_tangent(x, generator(3))
    slope = torch.func.jvp(mixture.log_prob, (x,), (v,))[1]
    torch.testing.assert_close(M.inner(x, mixture.score(x), v), slope, rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------------- samples


@pytest.mark.parametrize("n", [1, 2, 3])
def test_mean_of_affine_samples(n):
    M, tau = SPD(n), 0.5
    x0 = points(M, 1).expand(100_000, n, n)
    x = heat_kernel(M).sample(x0, tau, generator(1))
    lower = torch.linalg.inv(torch.linalg.cholesky(x0[0]))
    centred = (lower @ x @ lower.mT).flatten(1)
    error = centred.std(0) / len(x) ** 0.5
    eye = torch.eye(n, dtype=F64).flatten()
    assert ((centred.mean(0) - math.exp((n + 1) * tau / 4) * eye).abs() / error).max() < 5
    assert ((centred.mean(0) - math.exp((n + 1) * 1.1 * tau / 4) * eye).abs() / error).max() > 5


def test_samples_of_two_by_two_matrices_follow_the_hyperbolic_law():
    tau, x0 = 0.8, torch.eye(2, dtype=F64)
    x = heat_kernel(SPD(2)).sample(x0.expand(50_000, 2, 2), tau, generator(2))
    values = torch.linalg.eigvalsh(x)
    r = ((values[:, 1] / values[:, 0]).log() / 2).numpy()
    grid = np.linspace(1e-6, 12, 4001)
    origin = Hyperboloid(2).origin(dtype=F64)
    at = torch.tensor(np.stack([np.cosh(grid), np.sinh(grid), 0 * grid], -1))

    def cdf(time: float):
        p = heat_kernel(Hyperboloid(2)).log_prob(at, origin, time).exp().numpy() * 2 * math.pi * np.sinh(grid)
        total = np.concatenate([[0.0], integrate.cumulative_simpson(p, x=grid)])
        return lambda q: np.interp(q, grid, total)

    assert stats.kstest(r, cdf(tau / 2)).pvalue > 1e-3
    assert stats.kstest(r, cdf(1.05 * tau / 2)).pvalue < 1e-5


def test_squared_distance_and_gap_of_three_by_three_samples():
    tau = 0.8
    h, weights = radial_points(tau)
    log_p = radial_law(3).log_prob(h, torch.tensor(tau, dtype=F64)) + 0.5 * math.log(2 * math.pi * tau)
    p, eye = log_p.exp().numpy() * weights, torch.eye(3, dtype=F64)
    x = heat_kernel(SPD(3)).sample(eye.expand(100_000, 3, 3), tau, generator(3))
    logs = torch.linalg.eigvalsh(x).log()
    logs = logs - logs.mean(-1, keepdim=True)
    for f in (lambda a: a.square().sum(-1), lambda a: a[:, 0] * a[:, 1] * a[:, 2], lambda a: a.amax(-1)):
        draws, expected = f(logs), float((torch.tensor(p) * f(h)).sum())
        assert float((draws.mean() - expected).abs() / (draws.std() / len(draws) ** 0.5)) < 5


@every
def test_integration_by_parts_against_the_kernel(M):
    # E[div v + <v, score>] = 0: samples, score, metric and divergence agree on the volume.
    K, x0 = heat_kernel(M), points(M, 1).expand(4000, *M.point_shape)
    drawn = K.sample_with_score(x0, 0.4, generator(4))
    size = M.embed(x0[:1]).shape[-1]
    w = torch.randn(size, M.frame_dim, generator=generator(5), dtype=F64)

    def field(x: Tensor) -> Tensor:
        return M.log(x, x0) + M.from_frame(x, (M.embed(x) @ w + 0.3).sin())

    value, div = divergence(M, field, drawn.x)
    along = M.inner(drawn.x, value, drawn.score)
    for scale, within in ((1.0, True), (1.2, False)):
        terms = div + scale * along
        assert (float(terms.mean().abs() / (terms.std() / len(terms) ** 0.5)) < 5) == within


# ---------------------------------------------------------------------- use


class PositiveNumbers(Pullback):
    """A user's manifold: d(x, y) = |log x - log y|."""

    def __init__(self):
        super().__init__(Euclidean(1), (1,))

    def chart(self, x: Tensor) -> Tensor:
        return x.log()

    def point(self, z: Tensor) -> Tensor:
        return z.exp()

    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        return v / x

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        return w * x

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return x.abs()


def test_a_pullback_of_ones_own_obeys_the_laws_and_has_a_kernel():
    M = PositiveNumbers()
    check_manifold(M, dtypes=[F64], laws=["exp_log_inverse", "basis_is_orthonormal", "laplacian_is_geodesic"])
    x = torch.tensor([[0.5], [1.0], [3.0]], dtype=F64)
    law = stats.lognorm(math.sqrt(0.3), scale=2.0)
    expected = law.logpdf(x[:, 0].numpy()) + np.log(x[:, 0].numpy())  # the volume is dx / x
    ours = heat_kernel(M).log_prob(x, torch.tensor([2.0], dtype=F64), 0.3)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_what_has_no_kernel_says_what_would_do():
    with pytest.raises(CapabilityError, match=r"SPD\(4\) has no heat kernel.*SPD\(4, 'log_euclidean'\).*Langevin"):
        heat_kernel(SPD(4))
    assert isinstance(default_process(SPD(4)), Langevin)
    with pytest.raises(ConfigError, match=r"beyond the range of this kernel, \(0, 30\]"):
        heat_kernel(SPD(3)).sample(torch.eye(3), 31.0)


@pytest.mark.parametrize(
    "M",
    [
        pytest.param(SPD(3), marks=pytest.mark.slow),
        SPD(3, "log_cholesky"),
        pytest.param(Correlation(3), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_a_model_trains_samples_and_has_a_likelihood(M):
    x = points(M, 128, 1, 0.4).float()
    model = RiemannianDiffusion(M)
    model.network = TangentMLP(model.process, width=16, n_frequencies=8)
    result = model.fit(x, max_steps=60, batch_size=128, log_every=1, progress=False)
    losses = [row.train_loss for row in result.history if row.train_loss is not None]
    assert sum(losses[-20:]) < sum(losses[:20])
    M.check_point(model.sample(8, generator=generator(), steps=5))
    assert bool(torch.isfinite(model.log_prob(x[:4], tolerance=1e-2)).all())
    assert from_config(to_config(M)) == M


@pytest.mark.filterwarnings("ignore:The noised data")  # a coarse walk, for speed
@pytest.mark.parametrize(
    "metric",
    [
        pytest.param("affine", marks=pytest.mark.slow),
        pytest.param("log_euclidean", marks=pytest.mark.slow),
        "log_cholesky",
    ],
)
def test_langevin_trains_by_implicit_score_matching(metric):
    M = SPD(3, metric)
    x = points(M, 64, 1, 0.3).float()
    process = Langevin(M, LogSchedule(1e-2, 3.0), sigma=0.5, n_steps=12)
    model = RiemannianDiffusion(M, process, TangentMLP(process, width=16, n_frequencies=8))
    model.fit(x, max_steps=5, batch_size=16, progress=False)
    assert bool(torch.isfinite(model.log_prob(x[:2], tolerance=1e-1)).all())
