"""Real and complex projective spaces and their heat kernels."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import (
    SO3,
    ComplexProjective,
    Manifold,
    RealProjective,
    Sphere,
    Torus,
    geodesic_symmetry,
)

from .draws import seeded

F32, F64 = torch.float32, torch.float64
SPACES = [RealProjective(1), RealProjective(3), ComplexProjective(1), ComplexProjective(3)]
spaces = pytest.mark.parametrize("M", SPACES, ids=repr)


def uniform(M: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return M.random_uniform(n, generator=seeded(seed), dtype=dtype)  # pyright: ignore[reportAttributeAccessIssue]


def other_representative(M: Manifold, x: Tensor, seed: int = 9) -> Tensor:
    """The same points in other words: another sign, other phases."""
    if isinstance(M, RealProjective):
        return -x
    angle = 2 * math.pi * torch.rand(len(x), generator=seeded(seed), dtype=F64)
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    return torch.stack([c * x[..., 0] - s * x[..., 1], c * x[..., 1] + s * x[..., 0]], -1).to(x.dtype)


def at_distance(M: Manifold, r: list[float] | Tensor, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    r = torch.as_tensor(r, dtype=F64)
    x0 = M.origin(dtype=F64).expand(len(r), *M.point_shape)
    x = M.exp(x0, M.per_point(r) * M.tangent_basis(x0)[:, -1])
    return x.to(dtype), x0.to(dtype)


def hopf(z: Tensor) -> Tensor:
    """CP^1 to the unit sphere: it doubles distances."""
    (a, b), (c, d) = z[..., 0, :].unbind(-1), z[..., 1, :].unbind(-1)
    return torch.stack([2 * (a * c + b * d), 2 * (a * d - b * c), a * a + b * b - c * c - d * d], -1)


# ---------------------------------------------------------------------- geometry


@spaces
def test_nothing_depends_on_the_representative(M):
    x, y = uniform(M, 50, 1), uniform(M, 50, 2)
    v, p, q = M.random_tangent(x, seeded(3)), other_representative(M, x), other_representative(M, y, 5)
    torch.testing.assert_close(M.dist(p, q), M.dist(x, y), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(M.log(x, q), M.log(x, y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(M.embed(p), M.embed(x), rtol=1e-13, atol=1e-13)
    assert M.dist(x, p).max() < 1e-15
    # A vector at the other representative is the same one if its end point is; so for transport and fields.
    a = torch.randn(50, M.frame_dim, generator=seeded(4), dtype=F64)
    pairs = {
        "log": (x, M.log(x, y), p, M.log(p, y)),
        "transport": (y, M.transport(x, y, v), q, M.transport(x, q, v)),
        "from_frame": (x, M.from_frame(x, a), p, M.from_frame(p, a)),
    }
    for name, (x1, v1, x2, v2) in pairs.items():
        gap = (M.embed(M.exp(x1, 0.1 * v1)) - M.embed(M.exp(x2, 0.1 * v2))).abs().max()
        assert gap < 1e-13, name


@spaces
def test_embedding_is_isometric_with_chords_sin_d(M):
    x, y = uniform(M, 200, 1), uniform(M, 200, 2)
    torch.testing.assert_close((M.embed(x) - M.embed(y)).norm(dim=-1), M.dist(x, y).sin(), rtol=1e-12, atol=1e-12)


def test_rp3_is_the_rotation_group_with_half_of_the_angle():
    q, p = uniform(RealProjective(3), 100, 1), uniform(RealProjective(3), 100, 2)
    R, S = (rotation_of(a) for a in (q, p))
    torch.testing.assert_close(2 * RealProjective(3).dist(q, p), SO3().dist(R, S), rtol=1e-12, atol=1e-12)
    assert 8 * RealProjective(3).volume == pytest.approx(SO3().volume)


def rotation_of(q: Tensor) -> Tensor:
    """Rotation of a quaternion, scalar part first."""
    w, u = q[..., :1, None], SO3.hat(q[..., 1:])
    return torch.eye(3, dtype=q.dtype) + 2 * w * u + 2 * u @ u


def test_cp1_is_the_sphere_of_radius_one_half():
    M, z, w = ComplexProjective(1), uniform(ComplexProjective(1), 100, 1), uniform(ComplexProjective(1), 100, 2)
    torch.testing.assert_close(2 * M.dist(z, w), Sphere(2).dist(hopf(z), hopf(w)), rtol=1e-12, atol=1e-12)
    _, pushed = torch.func.jvp(hopf, (z,), (M.log(z, w),))
    torch.testing.assert_close(pushed, Sphere(2).log(hopf(z), hopf(w)), rtol=1e-11, atol=1e-11)
    v = M.random_tangent(z, seeded(3))
    there, back = M.transport(z, w, v), M.transport(w, z, M.transport(z, w, v))
    _, moved = torch.func.jvp(hopf, (w,), (there,))
    _, start = torch.func.jvp(hopf, (z,), (v,))
    torch.testing.assert_close(moved, Sphere(2).transport(hopf(z), hopf(w), start), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back, v, rtol=1e-12, atol=1e-12)


def test_curvature_of_cp2_is_4_in_complex_planes_and_1_in_real_ones():
    # A circle of small radius r has the circumference 2 pi (r - K r^3 / 6): K from the volume distortion in the plane.
    M, r = ComplexProjective(2), 1e-2
    x = M.origin(dtype=F64)
    e = M.tangent_basis(x)
    for other, curvature in ((e[2], 4.0), (e[1], 1.0)):  # e[2] = i e[0]
        _, image = torch.func.jvp(lambda w: M.exp(x, w), (r * e[0],), (other,))
        length = M.norm(M.exp(x, r * e[0]), M.to_tangent(M.exp(x, r * e[0]), image))
        assert float(6 * (1 - length) / r**2) == pytest.approx(curvature, rel=1e-3)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@spaces
def test_orthogonal_representatives_have_a_deterministic_finite_log(M, dtype):
    x = M.origin(dtype=dtype).expand(M.dim, *M.point_shape)
    y = M.tangent_basis(M.origin(dtype=dtype))  # orthogonal to x: the cut locus
    v = M.log(x, y)
    torch.testing.assert_close(v, math.pi / 2 * y)
    torch.testing.assert_close(M.dist(x, y), torch.full((M.dim,), math.pi / 2, dtype=dtype))
    p, q = x.clone().requires_grad_(), y.clone().requires_grad_()
    for out in (M.dist(p, q), M.log(p, q), M.transport(p, q, M.to_tangent(p, q))):
        assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(out.sum(), (p, q), retain_graph=True))


@spaces
def test_geodesic_symmetry_turns_geodesics_around(M):
    symmetry = geodesic_symmetry(M)
    x, y = uniform(M, 40, 1), uniform(M, 40, 2)
    v = M.random_tangent(y, seeded(3))
    image, turned = symmetry(x, y, v)
    torch.testing.assert_close(M.embed(image), M.embed(M.exp(x, -M.log(x, y))), rtol=1e-11, atol=1e-11)
    _, embedded = torch.func.jvp(M.embed, (image,), (turned,))
    expected = torch.func.jvp(lambda p: M.embed(symmetry(x, p, v)[0]), (y,), (v,))[1]
    torch.testing.assert_close(embedded, expected, rtol=1e-11, atol=1e-11)
    K = heat_kernel(M)
    torch.testing.assert_close(symmetry(x, y, K.score(y, x, 0.3))[1], K.score(image, x, 0.3), rtol=1e-7, atol=1e-9)


def test_bad_input():
    for cls in (RealProjective, ComplexProjective):
        with pytest.raises(ConfigError, match="needs an integer n >= 1; got 0"):
            cls(0)
    with pytest.raises(ManifoldError, match=r"not on ComplexProjective\(1\).*row 1"):
        ComplexProjective(1).check_point(torch.tensor([[[1.0, 0], [0, 0]], [[1.0, 0], [0, 0.5]]]))
    with pytest.raises(ManifoldError, match="not tangent"):  # vertical: along the phase
        x = ComplexProjective(1).origin()
        ComplexProjective(1).check_tangent(x, torch.stack([-x[..., 1], x[..., 0]], -1))


# ---------------------------------------------------------------------- heat kernels


@pytest.mark.parametrize("tau", [1e-5, 0.01, 0.06, 0.3, 1.0])
def test_rp3_agrees_with_the_rotation_group(tau):
    r = torch.linspace(0.02, 1.0, 9, dtype=F64) * min(math.pi / 2, 8 * math.sqrt(tau))
    x, x0 = at_distance(RealProjective(3), r)
    K, L = heat_kernel(RealProjective(3)), heat_kernel(SO3())
    expected = L.log_prob(rotation_of(x), rotation_of(x0), 4 * tau) + 3 * math.log(2)
    torch.testing.assert_close(K.log_prob(x, x0, tau), expected, rtol=1e-7, atol=1e-7)
    size = RealProjective(3).norm(x, K.score(x, x0, tau))
    angle = SO3().norm(rotation_of(x), L.score(rotation_of(x), rotation_of(x0), 4 * tau))
    torch.testing.assert_close(size, 2 * angle, rtol=1e-6, atol=1e-6 * float(size.max()))


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.0074, 0.0076, 0.2, 1.5])
def test_cp1_agrees_with_the_sphere(tau):
    M, S = heat_kernel(ComplexProjective(1)), heat_kernel(Sphere(2))
    z, z0 = at_distance(ComplexProjective(1), torch.linspace(0, 1, 12, dtype=F64) * min(1.57, 11 * math.sqrt(tau)))
    x, x0 = hopf(z), hopf(z0)
    torch.testing.assert_close(
        M.log_prob(z, z0, tau), S.log_prob(x, x0, 4 * tau) + 2 * math.log(2), rtol=1e-8, atol=1e-8
    )
    # The sphere's score is the image of the score: d hopf doubles a vector, its adjoint doubles a gradient.
    _, pushed = torch.func.jvp(hopf, (z,), (M.score(z, z0, tau),))
    torch.testing.assert_close(pushed / 4, S.score(x, x0, 4 * tau), rtol=1e-8, atol=1e-8 * float(pushed.abs().max()))


def projective_series(n: int, r: float, tau: float) -> tuple[float, float]:
    """Log density and radial score on CP^n by the Jacobi series of mpmath in 80 digits."""
    with mp.workdps(80):
        t, x = mp.mpf(tau), mp.cos(2 * mp.mpf(r))
        total, slope, level = mp.mpf(0), mp.mpf(0), 0
        while True:
            w = mp.mpf(2 * level + n) / n * mp.binomial(level + n - 1, level) * mp.e ** (-2 * level * (level + n) * t)
            if level and w * mp.binomial(level + n - 1, level) < mp.mpf(10) ** -75:
                break
            total += w * mp.jacobi(level, n - 1, 0, x)
            slope += w * mp.mpf(level + n) / 2 * mp.jacobi(level - 1, n, 1, x) if level else 0
            level += 1
        volume = mp.pi**n / mp.factorial(n)
        return float(mp.log(total / volume)), float(-2 * mp.sin(2 * mp.mpf(r)) * slope / total)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_cpn_agrees_with_multiprecision_series(n):
    M = ComplexProjective(n)
    for tau in (0.03, 0.1, 0.6):
        for r in (0.1, 0.7, 1.2, 1.5):
            log_p, score = projective_series(n, r, tau)
            for dtype, tolerance in ((F64, 1e-8), (F32, 2e-5)):
                x, x0 = at_distance(M, [r], dtype)
                K = heat_kernel(M)
                assert float(K.log_prob(x, x0, tau)) == pytest.approx(log_p, abs=tolerance * (1 + abs(log_p)))
                s = K.score(x, x0, tau)
                radial = -M.inner(x, s, M.log(x, x0)) / M.dist(x, x0)
                assert float(radial) == pytest.approx(score, rel=10 * tolerance, abs=tolerance)


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("tau", [1e-6, 1e-4, 0.004, 0.0074, 0.02])
def test_cpn_is_the_integral_of_the_sphere_over_the_fibre(n, tau):
    M, K, nodes = ComplexProjective(n), heat_kernel(Sphere(2 * n + 1)), np.polynomial.legendre.leggauss(300)
    for r in (0.0, 0.5 * math.sqrt(tau), 4 * math.sqrt(tau), min(1.4, 9 * math.sqrt(tau))):
        z, z0 = at_distance(M, [r])
        # Phases up to where the sphere's law has fallen by exp(-60).
        far = math.cos(min(math.pi, math.sqrt(r * r + 120 * tau))) / math.cos(r)
        top = math.acos(far) if far > -1 else math.pi
        phi, weight = (torch.tensor(a * top / 2) for a in (nodes[0] + 1, nodes[1]))
        c, s = phi.cos()[:, None], phi.sin()[:, None]
        turned = torch.stack([c * z0[..., 0] - s * z0[..., 1], c * z0[..., 1] + s * z0[..., 0]], -1)
        log_p = (K.log_prob(z.flatten(1), turned.flatten(1), tau) + (2 * weight).log()).logsumexp(0)
        assert float(heat_kernel(M).log_prob(z, z0, tau)) == pytest.approx(float(log_p), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("tau", [1e-5, 0.02, 0.5])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_mass_moment_and_semigroup_of_cpn(n, tau):
    M, (nodes, weights) = ComplexProjective(n), np.polynomial.legendre.leggauss(400)
    r = torch.tensor((nodes + 1) / 2 * min(math.pi / 2, 12 * math.sqrt(n * tau)))
    area = 2 * math.pi**n / math.factorial(n - 1) * r.sin() ** (2 * n - 1) * r.cos()
    w = torch.tensor(weights) * r[-1] / (nodes[-1] + 1) * area
    x, x0 = at_distance(M, r)
    K = heat_kernel(M)
    p = K.log_prob(x, x0, tau).exp()
    assert float((p * w).sum()) == pytest.approx(1, abs=1e-8)
    overlap = (1 + n * math.exp(-2 * (n + 1) * tau)) / (n + 1)
    assert float((p * r.cos() ** 2 * w).sum()) == pytest.approx(overlap, rel=1e-8)
    # p_2tau(x0 | x0) is the integral of p_tau^2.
    assert float((p * p * w).sum().log()) == pytest.approx(float(K.log_prob(x0[:1], x0[:1], 2 * tau)), abs=1e-7)


@pytest.mark.parametrize("tau", [0.002, 0.1, 0.4])
def test_heat_equation_on_cp3(tau):
    K, n = heat_kernel(ComplexProjective(3)), 3
    r = torch.linspace(0.3, 2.0, 9, dtype=F64) * min(0.6, 2 * math.sqrt(tau))
    s, h = 2e-3 * math.sqrt(tau), 1e-3 * tau

    def log_p(r: Tensor, t: float = tau) -> Tensor:
        return K.log_prob(*at_distance(ComplexProjective(3), r), t)

    here, plus, minus = log_p(r), log_p(r + s), log_p(r - s)
    first, second = (plus - minus) / (2 * s), (plus - 2 * here + minus) / s**2
    drift = ((2 * n - 1) / r.tan() - r.tan()) * first
    time = (log_p(r, tau + h) - log_p(r, tau - h)) / (2 * h)
    error = (time - (second + first**2 + drift) / 2).abs() / (second.abs() + first**2 + drift.abs())
    assert float(error.max()) < 3e-5


@pytest.mark.parametrize("tau", [1e-4, 0.05, 0.6])
@spaces
def test_score_is_the_gradient_of_log_prob_and_batched_forms_agree(M, tau):
    K, x0 = heat_kernel(M), uniform(M, 12, 1)
    x = K.sample(x0, tau, seeded(2))
    v = M.random_tangent(x, seeded(3))
    zero = torch.zeros(12, dtype=F64)
    slope = torch.func.jvp(lambda t: K.log_prob(M.exp(x, M.per_point(t) * v), x0, tau), (zero,), (zero + 1,))[1]
    score = K.score(x, x0, tau)
    M.check_tangent(x, score)
    size = float(M.norm(x, score).max())
    torch.testing.assert_close(slope, M.inner(x, score, v), rtol=1e-6, atol=1e-6 * size)
    times = torch.full((12,), tau, dtype=F64)
    loop = torch.stack([K.log_prob(x[i].expand_as(x0), x0, tau) for i in range(12)])
    torch.testing.assert_close(K.pairwise_log_prob(x, x0, times), loop, rtol=1e-7, atol=1e-7)
    mixture = HeatKernelMixture(M, x0, tau)
    field = torch.func.jvp(lambda t: mixture.log_prob(M.exp(x, M.per_point(t) * v)), (zero,), (zero + 1,))[1]
    torch.testing.assert_close(M.inner(x, mixture.score(x), v), field, rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@pytest.mark.parametrize("M", [RealProjective(2), ComplexProjective(1), ComplexProjective(3)], ids=repr)
def test_samples_follow_the_law_and_come_with_its_score(M, dtype):
    tau, n = 0.25, 200_000
    x0 = M.origin(dtype=dtype).expand(n, *M.point_shape)
    draw = heat_kernel(M).sample_with_score(x0, tau, seeded(4))
    M.check_point(draw.x)
    overlap = M.dist(draw.x, x0).double().cos().square()
    gap, k = float(M.eigenvalues(2)[1]), float(overlap.new_tensor(M.n + 1))
    expected = (1 + (k - 1) * math.exp(-gap * tau / 2)) / k
    error = float(overlap.std()) / math.sqrt(n)
    assert abs(float(overlap.mean()) - expected) < 5 * error
    wrong = (1 + (k - 1) * math.exp(-1.03 * gap * tau / 2)) / k
    assert abs(float(overlap.mean()) - wrong) > 5 * error
    exact = heat_kernel(M).score(draw.x, x0, tau)
    assert float(M.norm(draw.x, draw.score - exact).max()) < (2e-3 if dtype == F32 else 1e-7)


def test_samples_of_cp2_agree_with_the_sphere_above():
    M, n, tau = ComplexProjective(2), 50_000, 0.1
    x0 = M.origin(dtype=F64).expand(n, 3, 2)
    above = heat_kernel(Sphere(5)).sample(x0.flatten(1), tau, seeded(5)).reshape(n, 3, 2)
    below = heat_kernel(M).sample(x0, tau, seeded(6))
    assert stats.ks_2samp(M.dist(above, x0).numpy(), M.dist(below, x0).numpy()).pvalue > 1e-3
    late = heat_kernel(M).sample(x0, 1.05 * tau, seeded(6))
    assert stats.ks_2samp(M.dist(above, x0).numpy(), M.dist(late, x0).numpy()).pvalue < 1e-5


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@spaces
def test_kernels_are_finite_everywhere_and_become_uniform(M, dtype):
    x, x0 = at_distance(M, [0.0, 1e-8, 1e-3, 0.5, 1.5, math.pi / 2 - 1e-5, math.pi / 2], dtype)
    K, y = heat_kernel(M), x.clone().requires_grad_()
    for tau in (1e-6, 1e-3, 0.1, 1.0, 40.0):
        log_p, score = K.log_prob(y, x0, tau), K.score(y, x0, tau)
        (gradient,) = torch.autograd.grad(log_p.sum() + score.sum(), y)
        assert all(bool(torch.isfinite(a).all()) for a in (log_p, score, gradient))
    uniform_log_p = torch.full((7,), -math.log(M.volume), dtype=dtype)
    torch.testing.assert_close(K.log_prob(x, x0, 40.0), uniform_log_p, rtol=1e-5, atol=1e-5)


def test_score_vanishes_at_the_cut_locus():
    for M in (RealProjective(3), ComplexProjective(2)):
        x, x0 = at_distance(M, [math.pi / 2])
        assert float(M.norm(x, heat_kernel(M).score(x, x0, 0.3))) < 1e-9


def test_rp1_is_a_circle_of_length_pi():
    angle = torch.linspace(0.05, 1.5, 7, dtype=F64)
    x, x0 = at_distance(RealProjective(1), angle)
    a = 2 * angle[:, None]
    expected = heat_kernel(Torus(1)).log_prob(a, torch.zeros_like(a), 4 * 0.2) + math.log(2)
    torch.testing.assert_close(heat_kernel(RealProjective(1)).log_prob(x, x0, 0.2), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("M", [RealProjective(2), ComplexProjective(2)], ids=repr)
def test_a_model_trains_and_its_likelihood_does_not_see_the_representative(M, tmp_path):
    x0 = M.origin().expand(256, *M.point_shape)
    data = other_representative(M, heat_kernel(M).sample(x0, 0.05, seeded(1)))
    model = RiemannianDiffusion(M)
    model.fit(data, max_steps=20, batch_size=64, out_dir=tmp_path / "run")
    a = model.log_prob(data[:4], tolerance=1e-4)
    b = model.log_prob(other_representative(M, data[:4], 8), tolerance=1e-4)
    assert torch.isfinite(a).all()
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
