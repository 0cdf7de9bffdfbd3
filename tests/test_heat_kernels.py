"""Heat kernels against references that share nothing with their tables: series, closed forms, quadrature, laws."""

from __future__ import annotations

import math
import warnings

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import integrate, stats

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernel, HeatKernelMixture, _cache, heat_kernel
from manifold_diffusion.heat_kernels._compact_tables import CompactTables
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus

F64 = torch.float64
MANIFOLDS = [
    Sphere(1), Sphere(2), Sphere(3), Sphere(9), SO3(), Torus(1), Torus(3), Euclidean(2),
    Hyperboloid(2), Hyperboloid(3), Hyperboloid(4),
    Product(Sphere(2), Euclidean(2), weights=[2.0, 1.0]),
]  # fmt: skip
RADIAL = [Sphere(2), Sphere(3), Sphere(9), SO3(), Hyperboloid(2), Hyperboloid(3), Hyperboloid(4)]
names = pytest.mark.parametrize("M", MANIFOLDS, ids=repr)
radial = pytest.mark.parametrize("M", RADIAL, ids=repr)


@pytest.fixture(scope="session", autouse=True)
def table_cache(tmp_path_factory):
    """Tables are built by the tests themselves, not read from whatever an earlier version left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_geodesic(
    M: Manifold, r: torch.Tensor | list[float], dtype: torch.dtype = F64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Origin and points at distances r from it."""
    r = torch.as_tensor(r, dtype=F64)
    x0 = M.origin(dtype=F64)
    v = M.tangent_basis(x0)[0]
    x = M.exp(x0.expand(*r.shape, *x0.shape), r.reshape(*r.shape, *(1,) * len(M.point_shape)) * v)
    return x.to(dtype), x0.to(dtype).expand(x.shape)


# ---------------------------------------------------------------------- references


def sphere_series(n: int, r: float, tau: float, drop: float) -> tuple[float, float]:
    """Log density and its derivative in r from the Gegenbauer series in multi-precision floats."""
    with mp.workdps(int((drop + 60) / 2.3) + 40 + n // 2):
        t, x = mp.mpf(tau), mp.cos(mp.mpf(r))
        volume = 2 * mp.pi ** (mp.mpf(n + 1) / 2) / mp.gamma(mp.mpf(n + 1) / 2)
        a, b, da, db = mp.mpf(1), x, mp.mpf(0), mp.mpf(1)
        count, total, slope, level = mp.mpf(1), mp.mpf(1), mp.mpf(0), 1
        peak = mp.mpf(1)
        while True:
            count = (
                count * (2 * level + n - 1) * (level + n - 2) / (level * (2 * level + n - 3))
                if level > 1
                else mp.mpf(n + 1)
            )
            w = count * mp.e ** (-level * (level + n - 1) * t / 2)
            total, slope, peak = total + w * b, slope + w * db, max(peak, w)
            if w < mp.e ** (-drop - 50) and w < peak:
                break
            k = level
            a, b, da, db = (
                b,
                ((2 * k + n - 1) * x * b - k * a) / (k + n - 1),
                db,
                ((2 * k + n - 1) * (b + x * db) - k * da) / (k + n - 1),
            )
            level += 1
        return float(mp.log(total / volume)), float(-mp.sin(mp.mpf(r)) * slope / total)


def rotation_series(w: float, tau: float) -> tuple[float, float]:
    """The same for SO(3), from its characters."""
    with mp.workdps(120):
        t, angle = mp.mpf(tau), mp.mpf(w)

        def density(a: mp.mpf) -> mp.mpf:
            levels = int(mp.sqrt(600 / t)) + 10
            total, chi = mp.mpf(0), mp.mpf(0)
            for level in range(levels):
                chi += 1 if level == 0 else 2 * mp.cos(level * a)
                total += (2 * level + 1) * mp.e ** (-level * (level + 1) * t / 2) * chi
            return total / (8 * mp.pi**2)

        h = mp.mpf(10) ** -30
        p = density(angle)
        return float(mp.log(p)), float((density(angle + h) - density(angle - h)) / (2 * h * p))


def hyperbolic_plane(r: float, tau: float) -> float:
    """Log density on H^2 from McKean's integral, by tanh-sinh quadrature."""
    with mp.workdps(30):
        t, r_ = mp.mpf(tau), mp.mpf(r)

        def f(x: mp.mpf) -> mp.mpf:
            s = r_ + x * x
            return (
                s
                * mp.e ** (-(s * s - r_ * r_) / (2 * t))
                / mp.sqrt(2 * mp.sinh((s + r_) / 2) * mp.sinh(x * x / 2))
                * 2
                * x
            )

        scale = mp.sqrt(t / (r_ + mp.sqrt(t)))
        value = mp.quad(f, [0, scale / 2, scale, 2 * scale, 4 * scale, 8 * scale, 16 * scale])
        return float(
            mp.log(mp.sqrt(2) * mp.e ** (-t / 8) * (2 * mp.pi * t) ** mp.mpf(-1.5) * value) - r_ * r_ / (2 * t)
        )


def check_against(M: Manifold, r: float, tau: float, log_p: float, score: float, double: float, single: float) -> None:
    for dtype, tolerance in ((F64, double), (torch.float32, single)):
        x, x0 = on_geodesic(M, [r], dtype)
        K = heat_kernel(M)
        # The reference is at radius r; rounding of the point moves it by eps, which the slope turns into an error of
        # its own.
        blur = 4 * torch.finfo(dtype).eps * (1 + abs(score))
        got = float(K.log_prob(x, x0, tau)[0])
        assert abs(got - log_p) <= tolerance * (1 + abs(log_p)) + blur, (M, r, tau, dtype, got, log_p)
        v = K.score(x, x0, tau)
        radial_score = float(-(M.inner(x, v, M.log(x, x0)) / M.dist(x, x0))[0])
        relative = (
            4
            * torch.finfo(dtype).eps
            * (1 / r + 1 / max(math.pi - r, 1e-3) if not isinstance(M, Hyperboloid) else 1 / r)
        )
        assert abs(radial_score / score - 1) <= tolerance + relative, (M, r, tau, dtype, radial_score, score)


@pytest.mark.parametrize("n", [2, 3, 9, 127])
def test_sphere_agrees_with_multiprecision_series(n):
    for tau in (
        3e-4,
        0.4 / n,
        2.4 / n if n > 83 else 0.0299,
        2.6 / n if n > 83 else 0.0301,
        0.25 if n < 20 else 5 / n,
        4 / n,
    ):
        centre = math.acos(math.exp(-n * tau / 2))
        for z in (-2.0, 0.0, 3.0, 7.0):
            r = centre + z * math.sqrt(tau) / (1 if n < 20 else 1.4)
            if not 0.05 * math.sqrt(tau) < r < math.pi - 0.01:
                continue
            log_p, score = sphere_series(n, r, tau, min(r * r / (2 * tau) + n, 400.0))
            check_against(Sphere(n), r, tau, log_p, score, 2e-9, 2e-6)


def test_sphere_2_at_the_smallest_time():
    for z in (0.3, 1.5, 6.0):
        r, tau = z * 1e-3, 1e-6
        log_p, score = sphere_series(2, r, tau, z * z / 2)
        check_against(Sphere(2), r, tau, log_p, score, 2e-9, 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("n", [511])
def test_large_sphere_agrees_with_multiprecision_series(n):
    for tau in (1e-4, 2e-3, 0.0048, 0.005, 0.02):
        centre = math.acos(math.exp(-n * tau / 2))
        for z in (-4.0, 0.0, 4.0, 8.0):
            r = centre + z * math.sqrt(tau) / 1.4
            log_p, score = sphere_series(n, r, tau, min(r * r / (2 * tau) + n, 900.0))
            check_against(Sphere(n), r, tau, log_p, score, 2e-7, 2e-6)


def test_rotation_group_agrees_with_multiprecision_characters():
    for tau in (0.02, 0.24, 0.26, 1.0, 4.0):
        for r in (0.05, 0.5, 1.5, 2.5, 3.1):
            if r * r / (2 * tau) < 80:
                check_against(SO3(), r, tau, *rotation_series(r, tau), 5e-9, 5e-6)


def test_sphere_3_is_its_closed_form_at_short_times():
    x, x0 = on_geodesic(Sphere(3), [1e-3, 0.1, 1.0, 2.2])
    r = torch.tensor([1e-3, 0.1, 1.0, 2.2], dtype=F64)
    for tau in (1e-6, 1e-3, 0.02):
        expected = -1.5 * math.log(2 * math.pi * tau) + tau / 2 + (r / r.sin()).log() - r**2 / (2 * tau)
        torch.testing.assert_close(heat_kernel(Sphere(3)).log_prob(x, x0, tau), expected, rtol=1e-9, atol=1e-8)


def test_hyperbolic_3_is_its_closed_form():
    r = torch.tensor([1e-3, 0.1, 1.0, 5.0, 20.0], dtype=F64)
    x, x0 = on_geodesic(Hyperboloid(3), r)
    K = heat_kernel(Hyperboloid(3))
    for tau in (1e-6, 1e-3, 0.3, 10.0, 100.0):
        expected = -1.5 * math.log(2 * math.pi * tau) - tau / 2 + (r / r.sinh()).log() - r**2 / (2 * tau)
        torch.testing.assert_close(K.log_prob(x, x0, tau), expected, rtol=1e-9, atol=1e-8)
        slope = 1 / r - 1 / r.tanh() - r / tau
        torch.testing.assert_close(Hyperboloid(3).norm(x, K.score(x, x0, tau)), -slope, rtol=1e-7, atol=0)


def test_hyperbolic_plane_agrees_with_mckean():
    for tau in (1e-4, 0.05, 1.0, 30.0):
        for r in (0.5 * math.sqrt(tau), 3 * math.sqrt(tau)):
            log_p = hyperbolic_plane(r, tau)
            h = 1e-4 * math.sqrt(tau)
            score = (hyperbolic_plane(r + h, tau) - hyperbolic_plane(r - h, tau)) / (2 * h)
            x, x0 = on_geodesic(Hyperboloid(2), [r])
            K = heat_kernel(Hyperboloid(2))
            assert abs(float(K.log_prob(x, x0, tau)) - log_p) < 1e-8 * (1 + abs(log_p))
            assert abs(float(Hyperboloid(2).norm(x, K.score(x, x0, tau))) / -score - 1) < 1e-6


def test_hyperbolic_5_by_differentiating_dimension_3():
    n, r = 3, mp.mpf("1.3")
    for tau in (0.01, 0.7):
        t = mp.mpf(tau)

        def p3(s, t=t):
            return (2 * mp.pi * t) ** mp.mpf(-1.5) * s / mp.sinh(s) * mp.e ** (-t / 2 - s * s / (2 * t))

        p5 = -(mp.e ** (-n * t / 2)) / (2 * mp.pi * mp.sinh(r)) * mp.diff(p3, r)
        x, x0 = on_geodesic(Hyperboloid(5), [1.3])
        assert abs(float(heat_kernel(Hyperboloid(5)).log_prob(x, x0, tau)) - float(mp.log(p5))) < 1e-8


# ---------------------------------------------------------------------- identities


def area(M: Manifold, r: np.ndarray) -> np.ndarray:
    """Area of the geodesic sphere of radius r."""
    if isinstance(M, SO3):
        return 16 * np.pi * np.sin(r / 2) ** 2
    unit = 2 * math.pi ** (M.dim / 2) / math.gamma(M.dim / 2)
    return unit * (np.sin(r) if isinstance(M, Sphere) else np.sinh(r)) ** (M.dim - 1)


@pytest.mark.parametrize("tau", [1e-5, 0.02, 0.5, 3.0])
@radial
def test_total_mass_and_first_moment(M, tau):
    hyperbolic = isinstance(M, Hyperboloid)
    end = (M.dim - 1) * tau / 2 + M.dim * tau + math.sqrt(tau) * (math.sqrt(M.dim) + 9) if hyperbolic else math.pi
    top = (
        min(end, (M.dim * tau if hyperbolic else 0) + math.sqrt(tau) * (math.sqrt(M.dim) + 9))
        if not hyperbolic
        else end
    )
    nodes, weights = np.polynomial.legendre.leggauss(300)
    r, w = (nodes + 1) / 2 * top, weights * top / 2
    x, x0 = on_geodesic(M, r)
    p = heat_kernel(M).log_prob(x, x0, tau).exp().numpy() * area(M, r) * w
    assert abs(p.sum() - 1) < 1e-7
    if isinstance(M, SO3):
        assert abs((p * (1 + 2 * np.cos(r))).sum() - 3 * math.exp(-tau)) < 3e-7
    else:
        moment, rate = (np.cosh(r), M.dim / 2) if hyperbolic else (np.cos(r), -M.dim / 2)
        assert abs((p * moment).sum() / math.exp(rate * tau) - 1) < 1e-6 / min(1, math.exp(rate * tau))


@pytest.mark.parametrize("tau", [0.003, 0.3, 1.5])
@radial
def test_heat_equation(M, tau):
    r = torch.linspace(0.3, 2.0, 12, dtype=F64) * min(1.0, 4 * math.sqrt(tau))
    K, h = heat_kernel(M), 1e-3 * tau

    def log_p(r: torch.Tensor, t: float | torch.Tensor = tau) -> torch.Tensor:
        return K.log_prob(*on_geodesic(M, r), t)

    s = 2e-3 * math.sqrt(tau)
    here, plus, minus = log_p(r), log_p(r + s), log_p(r - s)
    first, second = (plus - minus) / (2 * s), (plus - 2 * here + minus) / s**2
    time = (log_p(r, tau + h) - log_p(r, tau - h)) / (2 * h)
    cot = 1 / r.tan() if isinstance(M, Sphere) else 1 / r.tanh() if isinstance(M, Hyperboloid) else 0.5 / (r / 2).tan()
    laplacian = second + first**2 + (M.dim - 1) * cot * first
    size = second.abs() + first**2 + (M.dim - 1) * (cot * first).abs()
    assert float(((time - laplacian / 2).abs() / size).max()) < 3e-5


def test_semigroup_on_the_sphere():
    K, M = heat_kernel(Sphere(2)), Sphere(2)
    z, w = np.polynomial.legendre.leggauss(120)
    phi = np.arange(240) * 2 * math.pi / 240
    zz, pp = (torch.tensor(a, dtype=F64) for a in np.meshgrid(z, phi, indexing="ij"))
    s = (1 - zz**2).sqrt()
    nodes = torch.stack([s * pp.cos(), s * pp.sin(), zz], -1)
    weight = torch.tensor(w, dtype=F64)[:, None] * 2 * math.pi / 240
    x = M.origin(dtype=F64)
    y = torch.tensor([math.sin(1.2), 0.0, math.cos(1.2)], dtype=F64)
    both = ((K.log_prob(nodes, x, 0.1) + K.log_prob(nodes, y, 0.25)).exp() * weight).sum()
    assert abs(float(both.log() - K.log_prob(y, x, 0.35))) < 1e-7


@pytest.mark.parametrize("tau", [1e-4, 0.1, 2.0])
@names
def test_score_is_the_gradient_of_log_prob(M, tau):
    K, g = heat_kernel(M), generator(1)
    x0 = M.exp(
        M.origin(dtype=F64).expand(20, *M.point_shape),
        M.random_tangent(M.origin(dtype=F64).expand(20, *M.point_shape), g) * 0.5,
    )
    x = K.sample(x0, tau, g)
    v = M.random_tangent(x, g)
    zero = torch.zeros(20, dtype=F64)
    one = torch.ones(20, dtype=F64)

    def along(t: torch.Tensor) -> torch.Tensor:
        return K.log_prob(M.exp(x, t.reshape(-1, *(1,) * len(M.point_shape)) * v), x0, tau)

    _, slope = torch.func.jvp(along, (zero,), (one,))
    score = K.score(x, x0, tau)
    M.check_tangent(x, score)
    torch.testing.assert_close(slope, M.inner(x, score, v), rtol=1e-6, atol=1e-6 * float(M.norm(x, score).max()))


def test_geometric_kernels_agrees():
    gk = pytest.importorskip("geometric_kernels.spaces")
    from geometric_kernels.kernels import MaternGeometricKernel

    tau = 0.6
    for space, M in ((gk.Hypersphere(2), Sphere(2)), (gk.Hypersphere(3), Sphere(3)), (gk.SpecialOrthogonal(3), SO3())):
        kernel = MaternGeometricKernel(space, num=15, normalize=True)
        params = kernel.init_params()
        x, x0 = on_geodesic(M, [1e-9, 0.4, 1.0, 1.8])
        # Its squared exponential of lengthscale k weighs eigenvalue e by exp(-k^2 e / 2): Brownian time k^2. Its
        # scale is free.
        params["lengthscale"], params["nu"] = np.array([math.sqrt(tau)]), np.array([np.inf])
        k = kernel.K(params, x0[:1].numpy(), x.numpy())[0]
        log_p = heat_kernel(M).log_prob(x, x0, tau).numpy()
        np.testing.assert_allclose(np.log(k / k[0]), log_p - log_p[0], atol=1e-6)


# ---------------------------------------------------------------------- sampling


def sphere_cdf(theta: np.ndarray, tau: float) -> np.ndarray:
    """P(angle <= theta) on S^2 from the Legendre series."""
    legendre = [np.ones_like(theta), np.cos(theta)]
    for k in range(1, 400):
        legendre.append(((2 * k + 1) * np.cos(theta) * legendre[k] - k * legendre[k - 1]) / (k + 1))
    out = 1 - np.cos(theta)
    for k in range(1, 399):
        out = out + math.exp(-k * (k + 1) * tau / 2) * (legendre[k - 1] - legendre[k + 1])
    return out / 2


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("tau", [0.01, 0.4, 2.0])
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


# ---------------------------------------------------------------------- robustness


@pytest.mark.parametrize(
    "tau", [0.0, -1.0, math.nan, math.inf, torch.tensor([0.1, -0.1]), torch.tensor([0.1, math.nan])]
)
def test_bad_times_raise(tau):
    x0 = Sphere(2).origin().expand(2, 3)
    for call in (lambda K: K.sample(x0, tau), lambda K: K.log_prob(x0, x0, tau), lambda K: K.score(x0, x0, tau)):
        with pytest.raises(ConfigError, match="positive and finite"):
            call(heat_kernel(Sphere(2)))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@names
def test_everything_is_finite_at_all_radii_and_times(M, dtype):
    far = (
        20.0
        if isinstance(M, Hyperboloid) and dtype == F64
        else 8.0
        if isinstance(M, Hyperboloid | Euclidean)
        else math.pi
    )
    r = [0.0, 1e-8, 1e-3, 0.5, 2.0, 3.0, min(far, math.pi - 1e-4), far]
    x, x0 = on_geodesic(M, r, dtype)
    for tau in (1e-6, 1e-3, 0.1, 1.0, 30.0):
        y = x.clone().requires_grad_()
        log_p, score = heat_kernel(M).log_prob(y, x0, tau), heat_kernel(M).score(y, x0, tau)
        (gradient,) = torch.autograd.grad(log_p.sum() + score.sum(), y)
        assert all(bool(torch.isfinite(a).all()) for a in (log_p, score, gradient)), (M, tau)


def test_far_tail_points_to_the_source_with_the_leading_slope():
    x, x0 = on_geodesic(Sphere(2), [2.0])
    for tau in (1e-6, 1e-3):
        assert abs(float(Sphere(2).norm(x, heat_kernel(Sphere(2)).score(x, x0, tau))) * tau / 2.0 - 1) < 0.01


def test_law_becomes_uniform_on_compact_manifolds():
    for M in (Sphere(2), Sphere(9), SO3(), Torus(2)):
        x, x0 = on_geodesic(M, [0.1, 1.0, 3.0])
        torch.testing.assert_close(
            heat_kernel(M).log_prob(x, x0, 60.0), torch.full((3,), -math.log(M.volume), dtype=F64), rtol=1e-9, atol=1e-9
        )


def test_vmap_and_broadcasting_agree_with_a_loop():
    for M in (Sphere(2), SO3(), Hyperboloid(2)):
        K = heat_kernel(M)
        x, x0 = on_geodesic(M, [0.2, 0.9, 1.7])
        tau = torch.tensor([0.1, 0.5, 1.0], dtype=F64)
        loop = torch.stack([K.log_prob(x[i], x0[i], float(tau[i])) for i in range(3)])
        torch.testing.assert_close(K.log_prob(x, x0, tau), loop)
        torch.testing.assert_close(torch.func.vmap(K.log_prob)(x, x0, tau), loop)
        assert K.score(x[:, None], x0[None], tau).shape == (3, 3, *M.point_shape)


# ---------------------------------------------------------------------- dispatch, product, mixture


def test_kernels_are_found_cached_and_registered():
    assert heat_kernel(Sphere(2)) is heat_kernel(Sphere(2))

    class Line(Euclidean.__base__):
        def __init__(self):
            super().__init__(1, (1,))

        inner = Euclidean.inner
        to_tangent = Euclidean.to_tangent
        project = Euclidean.project
        exp = Euclidean.exp
        log = Euclidean.log

    with pytest.raises(CapabilityError, match="Sphere"):
        heat_kernel(Line())

    @heat_kernel.register(Line)
    class LineKernel(HeatKernel):
        def __init__(self, manifold):
            self.manifold = manifold

        def sample(self, x0, tau, generator=None):
            return heat_kernel(Euclidean(1)).sample(x0, tau, generator)

        def log_prob(self, x, x0, tau):
            return heat_kernel(Euclidean(1)).log_prob(x, x0, tau)

        def score(self, x, x0, tau):
            return heat_kernel(Euclidean(1)).score(x, x0, tau)

    sample = heat_kernel(Line()).sample_with_score(torch.zeros(3, 1), 0.5, generator())
    torch.testing.assert_close(sample.score, -sample.x / 0.5)


def test_product_is_the_product_of_its_factors():
    M = Product(Sphere(2), SO3(), weights=[2.0, 0.5])
    K, A, B = heat_kernel(M), heat_kernel(Sphere(2)), heat_kernel(SO3())
    x0 = M.origin(dtype=F64).expand(6, 12)
    x = K.sample(x0, 0.4, generator(8))
    (a, b), (a0, b0) = M.split(x), M.split(x0)
    expected = A.log_prob(a, a0, 0.2) + B.log_prob(b, b0, 0.8) - math.log(2.0) - 1.5 * math.log(0.5)
    torch.testing.assert_close(K.log_prob(x, x0, 0.4), expected)
    torch.testing.assert_close(K.score(x, x0, 0.4), M.join(A.score(a, a0, 0.2) / 2, B.score(b, b0, 0.8) / 0.5))
    per_factor = K.log_prob(x, x0, (0.4, torch.full((6,), 0.1, dtype=F64)))
    torch.testing.assert_close(
        per_factor - A.log_prob(a, a0, 0.2) - B.log_prob(b, b0, 0.2),
        expected - A.log_prob(a, a0, 0.2) - B.log_prob(b, b0, 0.8),
    )


@pytest.mark.parametrize(
    "M", [Sphere(2), SO3(), Torus(2), Hyperboloid(3), Euclidean(2), Product(Sphere(2), Torus(1))], ids=repr
)
def test_mixture_is_the_sum_over_centres(M):
    g = generator(9)
    c = heat_kernel(M).sample(M.origin(dtype=F64).expand(700, *M.point_shape), 1.0, g)
    tau = torch.rand(700, generator=g, dtype=F64) * 0.1 + 0.01
    w = torch.rand(700, generator=g, dtype=F64)
    x, K = c[:5], heat_kernel(M)
    w0 = 0.1 if hasattr(M, "volume") else 0.0
    P = HeatKernelMixture(M, c, tau, w, uniform_weight=w0)
    for extra in (0.0, 0.3, torch.linspace(0.0, 0.5, 5, dtype=F64)):
        t = tau + (extra[:, None] if isinstance(extra, torch.Tensor) else extra)
        pairs = K.log_prob(x[:, None], c, t) + (w / w.sum() * (1 - w0)).log()
        parts = torch.cat([pairs, torch.full((5, 1), math.log(w0 / M.volume), dtype=F64)], 1) if w0 else pairs
        torch.testing.assert_close(P.log_prob(x, extra), parts.logsumexp(1), rtol=1e-8, atol=1e-8)
        share = parts.softmax(1)[:, :700].reshape(5, 700, *(1,) * len(M.point_shape))
        torch.testing.assert_close(P.score(x, extra), (share * K.score(x[:, None], c, t)).sum(1), rtol=1e-6, atol=1e-6)
    assert P.sample(30, 0.2, generator(1)).shape == (30, *M.point_shape)


def test_mixture_score_has_derivatives():
    M = Sphere(2)
    P = HeatKernelMixture(M, torch.eye(3, dtype=F64), 0.2)
    x = M.project(torch.tensor([[0.5, 0.4, 0.7]], dtype=F64))
    v = M.to_tangent(x, torch.tensor([[0.3, -1.0, 0.2]], dtype=F64))
    _, forward = torch.func.jvp(P.score, (x,), (v,))
    h = 1e-5
    torch.testing.assert_close(forward, (P.score(x + h * v) - P.score(x - h * v)) / (2 * h), rtol=1e-5, atol=1e-6)


def test_mixture_rejects_bad_arguments():
    c = torch.eye(3)
    with pytest.raises(ConfigError, match="uniform_weight"):
        HeatKernelMixture(Sphere(2), c, 0.1, uniform_weight=1.5)
    with pytest.raises(CapabilityError, match="uniform"):
        HeatKernelMixture(Euclidean(3), c, 0.1, uniform_weight=0.5)
    with pytest.raises(ConfigError, match="weights"):
        HeatKernelMixture(Sphere(2), c, 0.1, weights=torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ConfigError, match="one time or one per centre"):
        HeatKernelMixture(Sphere(2), c, torch.tensor([0.1, 0.2]))


# ---------------------------------------------------------------------- the disk cache


def build() -> dict[str, np.ndarray]:
    return {"a": np.arange(6.0).reshape(2, 3)}


def test_cache_keeps_and_repairs(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path / "tables"))
    _cache.cached_arrays("t", {"v": 1}, build)
    (file,) = (tmp_path / "tables").iterdir()

    def never() -> dict[str, np.ndarray]:
        raise AssertionError("built again")

    np.testing.assert_array_equal(_cache.cached_arrays("t", {"v": 1}, never)["a"], build()["a"])
    content = bytearray(file.read_bytes())
    for damaged in (content[: len(content) // 2], b"", bytes(content[:200]) + b"\x01" * 40 + bytes(content[240:])):
        file.write_bytes(damaged)
        monkeypatch.setattr(_cache, "_warned", False)
        with pytest.warns(RuntimeWarning, match="damaged"):
            np.testing.assert_array_equal(_cache.cached_arrays("t", {"v": 1}, build)["a"], build()["a"])
        np.testing.assert_array_equal(_cache.cached_arrays("t", {"v": 1}, never)["a"], build()["a"])


def test_cache_that_cannot_be_written_warns_once(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(blocker / "tables"))
    monkeypatch.setattr(_cache, "_warned", False)
    with pytest.warns(RuntimeWarning, match="MANIFOLD_DIFFUSION_CACHE"):
        np.testing.assert_array_equal(_cache.cached_arrays("t", {}, build)["a"], build()["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _cache.cached_arrays("t", {}, build)


def test_full_disk_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(_cache, "_warned", False)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_cache.np, "savez", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        np.testing.assert_array_equal(_cache.cached_arrays("t", {}, build)["a"], build()["a"])
    assert list(tmp_path.iterdir()) == []


def test_xdg_cache_home(monkeypatch, tmp_path):
    monkeypatch.delenv("MANIFOLD_DIFFUSION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _cache.cache_directory() == tmp_path / "manifold_diffusion"


def test_a_table_from_disk_equals_a_built_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path))
    from manifold_diffusion.heat_kernels._compact_law import RotationLaw

    first, second = CompactTables(RotationLaw(), "so3"), CompactTables(RotationLaw(), "so3")
    a, b = first.arrays(), second.arrays()
    assert len(list(tmp_path.iterdir())) == 1
    assert all(np.array_equal(a[k], b[k]) for k in a)
