"""One family of spaces through curvature zero: geometry, gradients in the curvature, heat kernels."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import ConfigError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import (
    ConstantCurvature,
    Euclidean,
    Hyperboloid,
    NoncompactSymmetric,
    Spectral,
    Sphere,
    Torus,
    curved_dist,
    curved_exp,
    curved_inner,
    curved_log,
    curved_normal,
    curved_point,
    curved_transport,
    geodesic_symmetry,
)
from manifold_diffusion.plotting import plot
from manifold_diffusion.processes import default_schedule

from .draws import seeded

F32, F64 = torch.float32, torch.float64
KAPPAS = [-2.0, -0.3, 0.0, 0.4, 1.5]
kappas = pytest.mark.parametrize("kappa", KAPPAS)


def normals(n: int, count: int, seed: int, spread: float = 0.6) -> Tensor:
    return spread * torch.randn(count, n, generator=seeded(seed), dtype=F64)


# ---------------------------------------------------------------------- geometry


@kappas
def test_it_is_the_space_of_unit_curvature_scaled(kappa: float) -> None:
    m = ConstantCurvature(3, kappa)
    unit, c = m.unit, m.stretch
    v, w = (normals(3, 64, s, 0.4) for s in (1, 2))
    x, y = curved_point(kappa, v), curved_point(kappa, w)
    u, v = (0.5 * m.random_tangent(x, generator=seeded(s)) for s in (3, 4))
    a, b, du, dv = m.to_unit(x), m.to_unit(y), m.vector_to_unit(x, u), m.vector_to_unit(x, v)
    unit.check_point(a)
    unit.check_tangent(a, du)
    pairs = {
        "origin": (m.to_unit(m.origin(dtype=F64)), unit.origin(dtype=F64)),
        "back": (m.from_unit(a), x),
        "vector back": (m.vector_from_unit(x, du), u),
        "inner": (m.inner(x, u, v), unit.inner(a, du, dv) / c**2),
        "dist": (m.dist(x, y), unit.dist(a, b) / c),
        "exp": (m.to_unit(m.exp(x, v)), unit.exp(a, dv)),
        "log": (m.vector_to_unit(x, m.log(x, y)), unit.log(a, b)),
        "transport": (m.vector_to_unit(y, m.transport(x, y, u)), unit.transport(a, b, du)),
        "log_det_exp": (m.log_det_exp(x, v), unit.log_det_exp(a, dv)),
        "normal": (curved_normal(kappa, x), normals(3, 64, 1, 0.4)),
    }
    for name, (got, expected) in pairs.items():
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11, msg=name)


def law_of_cosines(kappa: float, v: list[float], w: list[float]) -> float:
    """Distance of two points given by normal coordinates at the origin, in 120 digits."""
    with mp.workdps(120):
        k = mp.mpf(kappa)
        a, b = (mp.sqrt(sum(mp.mpf(t) ** 2 for t in p)) for p in (v, w))
        dot = sum(mp.mpf(s) * mp.mpf(t) for s, t in zip(v, w, strict=True))
        if k == 0:
            return float(mp.sqrt(a**2 + b**2 - 2 * dot))
        r = mp.sqrt(k)
        cosine = mp.cos(r * a) * mp.cos(r * b) + mp.sin(r * a) * mp.sin(r * b) * dot / (a * b)
        return float(mp.re(mp.acos(cosine) / r))


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0])
def test_distances_are_right_at_any_curvature(size: float) -> None:
    v, w = [0.9 * size, -0.3 * size], [-0.2 * size, 0.8 * size]
    tv, tw = torch.tensor(v, dtype=F64), torch.tensor(w, dtype=F64)
    grid = [0.0] + [s * 10.0**e for s in (-1, 1) for e in (-30, -16, -12, -8, -4, -2, -1, 0)]
    for kappa in grid:
        got = float(curved_dist(kappa, curved_point(kappa, tv), curved_point(kappa, tw)))
        assert got == pytest.approx(law_of_cosines(kappa, v, w), rel=1e-13)


def test_geometry_is_continuous_through_zero() -> None:
    v, w = normals(3, 32, 1), normals(3, 32, 2)

    def all_of(kappa: float) -> dict[str, Tensor]:
        x, y = curved_point(kappa, v), curved_point(kappa, w)
        u = curved_log(kappa, x, y)
        return {
            "dist": curved_dist(kappa, x, y), "log": u, "exp": curved_exp(kappa, x, 0.5 * u),
            "transport": curved_transport(kappa, x, y, u), "inner": curved_inner(kappa, x, u, u),
        }  # fmt: skip

    flat = all_of(0.0)
    torch.testing.assert_close(flat["dist"], (v - w).norm(dim=-1))
    for kappa in (-1e-11, 1e-11):
        for name, value in all_of(kappa).items():
            torch.testing.assert_close(value, flat[name], rtol=0, atol=1e-9, msg=name)


# ---------------------------------------------------------------------- gradients in the curvature


def _pair(k: Tensor | float, v: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return curved_point(k, v), curved_point(k, w)


def _middle(k: Tensor | float, v: Tensor, w: Tensor) -> Tensor:
    x, y = _pair(k, v, w)
    return curved_normal(k, curved_exp(k, x, curved_log(k, x, y) / 2))


def _carried(k: Tensor | float, v: Tensor, w: Tensor) -> Tensor:
    x, y = _pair(k, v, w)
    outwards = curved_transport(k, torch.zeros_like(x), x, torch.nn.functional.pad(v, (1, 0)))
    return curved_transport(k, x, y, outwards)


FUNCTIONS = {
    "dist": lambda k, v, w: curved_dist(k, *_pair(k, v, w)),
    "log": lambda k, v, w: curved_log(k, *_pair(k, v, w)),
    "middle": _middle,
    "transport": _carried,
}


RARE = pytest.mark.slow  # either sign and zero are tested in each run


@pytest.mark.parametrize("kappa", [-1.3, pytest.param(-1e-9, marks=RARE), 0.0, pytest.param(1e-3, marks=RARE), 1.1])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_in_the_curvature(name: str, kappa: float) -> None:
    v, w = (a.requires_grad_() for a in (normals(2, 2, 1), normals(2, 2, 2)))
    k = torch.tensor(kappa, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(FUNCTIONS[name], (k, v, w), check_forward_ad=True, fast_mode=True)
    if kappa in (0.0, 1.1):
        assert torch.autograd.gradgradcheck(FUNCTIONS[name], (k, v, w), fast_mode=True, atol=1e-4)


def test_slope_of_the_distance_at_zero_is_the_known_one() -> None:
    # d^2 = |v - w|^2 - (kappa / 3) (|v|^2 |w|^2 - (v.w)^2) + O(kappa^2)
    v, w = normals(3, 16, 1), normals(3, 16, 2)
    k = torch.zeros(16, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(FUNCTIONS["dist"](k, v, w).sum(), k)
    area = v.square().sum(-1) * w.square().sum(-1) - (v * w).sum(-1).square()
    torch.testing.assert_close(slope, -area / (6 * (v - w).norm(dim=-1)), rtol=1e-10, atol=1e-12)


def test_one_curvature_per_point() -> None:
    k = torch.tensor(KAPPAS, dtype=F64)
    v, w = normals(2, 5, 1), normals(2, 5, 2)
    for function in FUNCTIONS.values():
        loop = torch.stack([function(kappa, v[i], w[i]) for i, kappa in enumerate(KAPPAS)])
        torch.testing.assert_close(function(k, v, w), loop, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.vmap(function)(k, v, w), loop, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("kappa", [-1.0, 0.0, 1.0])
def test_gradients_are_finite_at_singular_points(kappa: float, dtype: torch.dtype) -> None:
    far = [math.pi, math.pi - 1e-7, 20.0] if kappa > 0 else [20.0, 10.0]
    v = torch.tensor([[r, 0.0] for r in (0.0, 1.0, *far)], dtype=dtype)
    k = torch.full((len(v) ** 2,), kappa, dtype=dtype, requires_grad=True)
    left, right = (a.clone().requires_grad_() for a in (v.repeat(len(v), 1), v.repeat_interleave(len(v), 0)))
    x, y = curved_point(k, left), curved_point(k, right)
    for value in (curved_dist(k, x, y), curved_log(k, x, y), curved_transport(k, x, y, curved_log(k, x, y))):
        grads = torch.autograd.grad(value.sum(), (k, left, right), retain_graph=True)
        assert all(bool(torch.isfinite(t).all()) for t in (value, *grads))


# ---------------------------------------------------------------------- heat kernel


def on_geodesic(m: ConstantCurvature, r: Tensor) -> tuple[Tensor, Tensor]:
    v = torch.zeros(*r.shape, m.n, dtype=F64)
    v[..., 0] = r
    return curved_point(m.kappa, v), m.origin(dtype=F64).expand(*r.shape, m.n + 1)


def three_dimensions(kappa: float, r: Tensor, tau: float) -> Tensor:
    """Closed form for n = 3: images on the sphere, one term elsewhere."""
    c = math.sqrt(abs(kappa))
    images = range(-6, 7) if kappa > 0 else [0]
    total = torch.zeros_like(r)
    for k in images:
        s = r + 2 * math.pi * k / c if kappa else r
        size = s * c / (c * r).sin() if kappa > 0 else s * c / (c * r).sinh() if kappa < 0 else torch.ones_like(r)
        total = total + size * (-s.square() / (2 * tau)).exp()
    return total.log() - 1.5 * math.log(2 * math.pi * tau) + kappa * tau / 2


@pytest.mark.parametrize("kappa", [-3.0, -0.4, -1e-3, 0.0, 1e-3, 0.4, 3.0])
def test_kernel_is_its_closed_form_in_three_dimensions(kappa: float) -> None:
    m = ConstantCurvature(3, kappa)
    r = torch.tensor([1e-3, 0.2, 0.7, 1.5], dtype=F64)
    x, x0 = on_geodesic(m, r)
    for tau in (0.03, 0.4, 2.0):
        expected = three_dimensions(kappa, r, tau)
        got = heat_kernel(m).log_prob(x, x0, tau)
        assert float(((got - expected).abs() / (1 + expected.abs())).max()) < 1e-8
        single = heat_kernel(m).log_prob(x.float(), x0.float(), tau)
        assert float(((single - expected).abs() / (1 + expected.abs())).max()) < 1e-4


def test_one_dimension_is_a_line_or_a_circle() -> None:
    r, tau = torch.tensor([0.01, 0.5, 1.9], dtype=F64), 0.3
    for kappa in (-2.0, 0.0):
        x, x0 = on_geodesic(ConstantCurvature(1, kappa), r)
        flat = heat_kernel(Euclidean(1)).log_prob(r[:, None], torch.zeros(3, 1, dtype=F64), tau)
        torch.testing.assert_close(heat_kernel(ConstantCurvature(1, kappa)).log_prob(x, x0, tau), flat)
    for t in (1e-4, 0.3, 4.0):
        m = ConstantCurvature(1, 2.0)
        x, x0 = on_geodesic(m, r)
        circle = Torus(1, periods=2 * math.pi / math.sqrt(2.0))
        expected = heat_kernel(circle).log_prob(circle.project(r[:, None]), torch.zeros(3, 1, dtype=F64), t)
        torch.testing.assert_close(heat_kernel(m).log_prob(x, x0, t), expected)


@pytest.mark.parametrize("n", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_log_density_is_continuous_through_zero(n: int) -> None:
    r = torch.linspace(0.01, 2.0, 20, dtype=F64)
    tau = 0.5
    x, x0 = on_geodesic(ConstantCurvature(n, 0.0), r)
    flat = heat_kernel(ConstantCurvature(n, 0.0)).log_prob(x, x0, tau)
    torch.testing.assert_close(flat, -r.square() / (2 * tau) - n / 2 * torch.full_like(r, 2 * math.pi * tau).log())
    for size, bound in ((1e-3, 1e-2), (1e-6, 1e-5), (1e-10, 2e-9)):
        for kappa in (-size, size):
            m = ConstantCurvature(n, kappa)
            x, x0 = on_geodesic(m, r)
            assert float((heat_kernel(m).log_prob(x, x0, tau) - flat).abs().max()) < bound
            score = heat_kernel(m).score(x, x0, tau)
            torch.testing.assert_close(score[:, 1], -r / tau, rtol=bound + 1e-7, atol=bound)


@kappas
@pytest.mark.parametrize("tau", [1e-3, 0.5])
def test_kernel_has_mass_one_in_two_dimensions(kappa: float, tau: float) -> None:
    m = ConstantCurvature(2, kappa)
    top = min(12 * math.sqrt(tau) + 4 * tau, m.injectivity_radius)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    r = torch.as_tensor((nodes + 1) / 2 * top)
    c = m.stretch
    circumference = 2 * math.pi * ((c * r).sin() / c if kappa > 0 else (c * r).sinh() / c if kappa < 0 else r)
    p = heat_kernel(m).log_prob(*on_geodesic(m, r), tau).exp()
    assert float((p * circumference * torch.as_tensor(weights) * top / 2).sum()) == pytest.approx(1, abs=1e-7)


@kappas
def test_score_is_the_gradient_and_samples_carry_it(kappa: float) -> None:
    for n in (1, 2, 5):
        m = ConstantCurvature(n, kappa)
        k = heat_kernel(m)
        x0 = curved_point(kappa, normals(n, 40, 1))
        tau = torch.logspace(-3, 0, 40, dtype=F64)
        s = k.sample_with_score(x0, tau, seeded(2))
        m.check_point(s.x)
        m.check_tangent(s.x, s.score)
        torch.testing.assert_close(s.score, k.score(s.x, x0, tau), rtol=1e-5, atol=1e-5)
        v = m.random_tangent(s.x, generator=seeded(3))
        zero, one = torch.zeros(40, dtype=F64), torch.ones(40, dtype=F64)
        slope = torch.func.jvp(lambda t: k.log_prob(m.exp(s.x, t.unsqueeze(-1) * v), x0, tau), (zero,), (one,))[1]  # noqa: B023
        torch.testing.assert_close(slope, m.inner(s.x, s.score, v), rtol=1e-5, atol=1e-4)
        expected = torch.stack([k.log_prob(s.x, c.expand_as(s.x), 0.2) for c in x0[:3]], 1)
        torch.testing.assert_close(k.pairwise_log_prob(s.x, x0[:3], torch.full((3,), 0.2, dtype=F64)), expected)
        weights = torch.rand(40, 3, generator=seeded(4), dtype=F64)
        total = k.weighted_score(s.x, x0[:3], torch.full((3,), 0.2, dtype=F64), weights)
        by_hand = sum(weights[:, i, None] * k.score(s.x, x0[i].expand_as(s.x), 0.2) for i in range(3))
        torch.testing.assert_close(total, by_hand, rtol=1e-6, atol=1e-6)


@kappas
def test_samples_have_the_exact_moment(kappa: float) -> None:
    # E x_0 = exp(-n kappa tau / 2), and E |x|^2 = n tau in flat space
    m, tau, count = ConstantCurvature(2, kappa), 0.4, 200_000
    x = heat_kernel(m).sample(m.origin(dtype=F64).expand(count, 3), tau, seeded(5))
    value = 1 - kappa * x[:, 0] if kappa else x[:, 1:].square().sum(-1)
    error = float(value.std()) / count**0.5

    def z(t: float) -> float:
        return abs(float(value.mean()) - (math.exp(-kappa * t) if kappa else 2 * t)) / error

    assert z(tau) <= 5 < z(1.1 * tau)


# ---------------------------------------------------------------------- the rest of the library


def test_capabilities_follow_the_sign() -> None:
    kinds = {k: ConstantCurvature(2, k) for k in (-1.0, 0.0, 1.0)}
    assert isinstance(kinds[1.0], Spectral) and not isinstance(kinds[1.0], NoncompactSymmetric)
    assert isinstance(kinds[-1.0], NoncompactSymmetric) and not isinstance(kinds[-1.0], Spectral)
    assert not isinstance(kinds[0.0], Spectral | NoncompactSymmetric)
    assert [m.unit for m in kinds.values()] == [Hyperboloid(2), Euclidean(2), Sphere(2)]
    sphere = ConstantCurvature(2, 0.25)
    assert sphere.volume == pytest.approx(4 * math.pi * 4) and sphere.injectivity_radius == pytest.approx(2 * math.pi)
    assert default_schedule(sphere).tau_max == pytest.approx(4 * default_schedule(Sphere(2)).tau_max)
    assert default_schedule(ConstantCurvature(2, -4.0)).tau_max == default_schedule(Hyperboloid(2)).tau_max / 4


@kappas
def test_symmetry_turns_around(kappa: float) -> None:
    m = ConstantCurvature(3, kappa)
    x, y = (curved_point(kappa, normals(3, 16, s, 0.3)) for s in (1, 2))
    v = m.random_tangent(y, generator=seeded(3))
    symmetry = geodesic_symmetry(m)
    assert symmetry is not None
    image, turned = symmetry(x, y, v)
    torch.testing.assert_close(image, m.exp(x, -m.log(x, y)))
    torch.testing.assert_close(m.norm(image, turned), m.norm(y, v))


@pytest.mark.parametrize(
    "kappa", [-0.5, pytest.param(0.0, marks=pytest.mark.slow), pytest.param(0.5, marks=pytest.mark.slow)]
)
def test_model_trains_and_has_a_picture(kappa: float, tmp_path: Path) -> None:
    m = ConstantCurvature(2, kappa)
    data = heat_kernel(m).sample(m.origin().expand(128, 3), 0.2, seeded(1))
    model = RiemannianDiffusion(m)
    model.fit(data, max_steps=20, batch_size=64, progress=False)
    assert bool(torch.isfinite(model.log_prob(data[:4])).all())
    plot(m, samples=data, path=tmp_path / "picture.png", resolution=16)
    assert from_config(to_config(m)) == m


@pytest.mark.parametrize(("n", "kappa"), [(0, 1.0), (2, math.inf), (2, math.nan)])
def test_impossible_spaces_are_refused(n: int, kappa: float) -> None:
    with pytest.raises(ConfigError, match=r"finite curvature|integer n >= 1"):
        ConstantCurvature(n, kappa)
