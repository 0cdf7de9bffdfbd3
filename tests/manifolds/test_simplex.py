"""The simplex of Fisher and Rao: its chart, its faces, its billiard, and reflected Brownian motion on it."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import Simplex, WithBoundary, divergence, gradient
from manifold_diffusion.metrics import HeatGram, KernelDensity
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import Ternary, plot, views
from manifold_diffusion.processes import BrownianMotion, Uniform, default_schedule

from .draws import seeded

F32, F64 = torch.float32, torch.float64


def weights(k: int, n: int, seed: int = 0) -> Tensor:
    return Simplex(k).random_uniform(n, generator=seeded(seed), dtype=F64)


# ---------------------------------------------------------------------- geometry


def test_k_counts_categories() -> None:
    m = Simplex(3)
    assert (m.k, m.dim, m.point_shape) == (3, 2, (3,))
    assert Simplex(2).volume == pytest.approx(math.pi) and m.volume == pytest.approx(2 * math.pi)
    for k in (1, 0, -2):
        with pytest.raises(ConfigError, match="integer k >= 2"):
            Simplex(k)


def test_the_chart_is_an_isometry_onto_the_sphere_of_radius_two() -> None:
    m, p = Simplex(4), weights(4, 50)
    v = m.random_tangent(p, generator=seeded(1))
    s, w = torch.func.jvp(m.to_sphere, (p,), (v,))
    torch.testing.assert_close(s.norm(dim=-1), torch.full((50,), 2.0, dtype=F64))
    torch.testing.assert_close(w.square().sum(-1), m.inner(p, v, v))
    for scale in (1.0, -3.0):  # any radius, any orthant
        torch.testing.assert_close(m.from_sphere(scale * s), p)


def test_geomstats_agrees() -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.information_geometry.categorical import CategoricalDistributions

    m, metric = Simplex(4), CategoricalDistributions(dim=3).metric
    x, y = (0.3 * weights(4, 16, s) + 0.7 / 4 for s in (1, 2))
    v = 0.3 * m.random_tangent(x, generator=seeded(3))
    gx, gy, gv = (gs.array(a.numpy()) for a in (x, y, v))
    pairs = {
        "exp": (m.exp(x, v), metric.exp(tangent_vec=gv, base_point=gx)),
        "log": (m.log(x, y), metric.log(point=gy, base_point=gx)),
        "dist": (m.dist(x, y), metric.dist(point_a=gx, point_b=gy)),
    }
    for name, (ours, theirs) in pairs.items():
        error = (ours - torch.as_tensor(gs.to_numpy(theirs))).abs().max() / ours.abs().max()
        assert error <= 1e-10, f"{name}: {error:.1e}"


@pytest.mark.parametrize("dtype", [F64, F32])
def test_distances_near_faces_and_vertices_are_right(dtype: torch.dtype) -> None:
    rows = [
        ([1 - 3e-30, 2e-30, 1e-30], [1 - 2e-30, 1e-30, 1e-30]),
        ([0.5, 0.5 - 1e-20, 1e-20], [0.5, 0.5 - 9e-20, 9e-20]),
        ([1.0, 0.0, 0.0], [0.0, 0.5, 0.5]),
        ([0.5 + 2e-6, 0.3, 0.2 - 2e-6], [0.5, 0.3, 0.2]),
    ]
    p, q = (torch.tensor([r[i] for r in rows], dtype=dtype) for i in (0, 1))
    with mp.workdps(60):
        exact = []
        for a, b in zip(p.double().tolist(), q.double().tolist(), strict=True):
            y, z = ([mp.sqrt(mp.mpf(e)) for e in side] for side in (a, b))
            chord = mp.sqrt(sum((i - j) ** 2 for i, j in zip(y, z, strict=True)))
            exact.append(float(4 * mp.atan2(chord, mp.sqrt(sum((i + j) ** 2 for i, j in zip(y, z, strict=True))))))
    got = Simplex(3).dist(p, q).double()
    torch.testing.assert_close(got, torch.tensor(exact, dtype=F64), rtol=1e-13 if dtype == F64 else 1e-5, atol=0)


@pytest.mark.parametrize("dtype", [F64, F32])
def test_log_inverts_exp_down_to_the_floor(dtype: torch.dtype) -> None:
    m = Simplex(4)
    x = m.project(
        torch.tensor([[1, 1e-30, 1e-12, 1e-3], [1e-30, 1e-30, 1, 1], [0, 0, 1, 0], [3, 2, 1, 0]], dtype=dtype)
    )
    inward = m.random_tangent(x, generator=seeded()).abs()
    v = 0.4 * m.to_tangent(x, inward)
    y = m.exp(x, v)
    # From a vertex all directions of positive entries lead inside.
    error = m.norm(x, m.log(x, y) - v)
    assert float(error.max()) < (1e-12 if dtype == F64 else 1e-5)
    torch.testing.assert_close(m.dist(x, y), m.norm(x, v))


@pytest.mark.parametrize("dtype", [F64, F32])
def test_everything_is_finite_on_faces(dtype: torch.dtype) -> None:
    m, eye = Simplex(3), torch.eye(3, dtype=dtype)
    corners = torch.cat([eye, eye[:1], (eye + eye.roll(1, 0)) / 2, torch.full((1, 3), 1 / 3, dtype=dtype)])
    x = corners.unsqueeze(1).expand(8, 8, 3).reshape(-1, 3).clone().requires_grad_()
    y = corners.unsqueeze(0).expand(8, 8, 3).reshape(-1, 3).clone().requires_grad_()
    v = m.random_tangent(x.detach(), generator=seeded()).requires_grad_()
    outputs = {
        "dist": m.dist(x, y),
        "log": m.log(x, y),
        "exp": m.exp(x, v),
        "norm": m.norm(x, v),
        "transport": m.transport(x, y, v),
        "embed": m.embed(x),
        "frame": m.from_frame(x, v),
        "distance": m.boundary_distance(x),
    }
    for name, out in outputs.items():
        grads = torch.autograd.grad(out.sum(), (x, y, v), allow_unused=True, retain_graph=True)
        assert all(bool(torch.isfinite(a).all()) for a in (out, *grads) if a is not None), name


def test_projection_of_a_tangent_vector_keeps_its_small_entries() -> None:
    m = Simplex(3)
    x = torch.tensor([0.7, 0.3, 1e-20])
    v = torch.tensor([0.3, -0.3 + 3e-8, 1e-10])
    assert float(m.to_tangent(x, v)[2]) == pytest.approx(1e-10)  # its unit of length is sqrt(1e-20)


def test_exp_is_the_billiard() -> None:
    # Simplex(2) is an interval of length pi: a triangle wave.
    m, p = Simplex(2), torch.tensor([0.3, 0.7], dtype=F64)

    def place(x: Tensor) -> float:
        return 2 * math.atan2(math.sqrt(float(x[0])), math.sqrt(float(x[1])))

    v = m.tangent_basis(p)[0]
    v = v * v[0].sign()
    for length in (0.1, 3.0, 7.0, -20.0):
        turned = (place(p) + length) % (2 * math.pi)
        expected = min(turned, 2 * math.pi - turned)
        assert place(m.exp(p, length * v)) == pytest.approx(expected, abs=1e-12)
    wide, x = Simplex(6), weights(6, 200)
    end = wide.reflect(x, 9 * wide.random_tangent(x, generator=seeded(4)))
    wide.check_point(end)
    assert bool(wide.inside(end).all())


def test_boundary_distance_grows_at_unit_rate_along_the_normal() -> None:
    m, x = Simplex(4), weights(4, 100)
    assert isinstance(m, WithBoundary)
    n = m.inward_normal(x)
    torch.testing.assert_close(m.norm(x, n), torch.ones(100, dtype=F64))
    _, rate = torch.func.jvp(m.boundary_distance, (x,), (n,))
    torch.testing.assert_close(rate, torch.ones(100, dtype=F64))
    centre = Simplex(3).origin(dtype=F64)
    face = torch.tensor([0.5, 0.5, 0.0], dtype=F64)
    assert float(Simplex(3).boundary_distance(centre)) == pytest.approx(float(Simplex(3).dist(centre, face)))


def test_fields_of_networks_do_not_cross_faces() -> None:
    m = Simplex(4)
    x = m.project(torch.tensor([[1e-20, 0.3, 0.4, 0.3], [0.0, 1e-16, 0.5, 0.5]], dtype=F64))
    v = m.from_frame(x, torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=F64).expand(2, 4))
    flow = m.inner(x, v, m.inward_normal(x))
    assert float(flow.abs().max()) < 1e-8
    assert float(m.norm(x, v).min()) > 0.1


def test_bad_weights_are_named_by_row_and_amount() -> None:
    p = weights(3, 5)
    p[2] = torch.tensor([0.5, 0.4, 0.3], dtype=F64)
    with pytest.raises(
        ManifoldError, match=r"max\(\|sum\(p\) - 1\|, -min\(p\)\) = 2\.0e-01 > 1e-09.*first at row 2, 1"
    ):
        Simplex(3).check_point(p)
    p[2] = torch.tensor([1.1, 0.2, -0.3], dtype=F64)
    with pytest.raises(ManifoldError, match=r"= 3\.0e-01 > 1e-09.*first at row 2.*Simplex\(3\)\.project"):
        Simplex(3).check_point(p)
    Simplex(3).check_point(Simplex(3).project(p))


# ---------------------------------------------------------------------- heat kernel

TIMES = (1e-6, 1e-4, 1e-2, 0.1, 0.5, 2.0, 8.0)


def test_two_categories_agree_with_the_images_of_an_interval() -> None:
    m, K = Simplex(2), heat_kernel(Simplex(2))
    p0 = torch.tensor([0.2, 0.8], dtype=F64)
    a0 = 2 * mp.asin(mp.sqrt(mp.mpf(float(p0[0]))))
    for tau in TIMES:
        for z in (-2.0, 0.5, 4.0):
            a = min(max(float(a0) + z * math.sqrt(tau), 1e-3), math.pi - 1e-3)
            p = torch.tensor([math.sin(a / 2) ** 2, math.cos(a / 2) ** 2], dtype=F64)
            with mp.workdps(40):
                angle = 2 * mp.atan2(mp.sqrt(mp.mpf(float(p[0]))), mp.sqrt(mp.mpf(float(p[1]))))

                def density(b: mp.mpf, t: float = tau) -> mp.mpf:
                    images = [sign * a0 + 2 * mp.pi * j for sign in (1, -1) for j in range(-8, 9)]
                    return sum(mp.exp(-((b - c) ** 2) / (2 * t)) for c in images) / mp.sqrt(2 * mp.pi * t)

                log_p, slope = float(mp.log(density(angle))), float(mp.diff(lambda b: mp.log(density(b)), angle))
            assert float(K.log_prob(p, p0, tau)) == pytest.approx(log_p, rel=1e-7, abs=1e-6 / math.sqrt(tau) * 1e-4)
            score = K.score(p, p0, tau)
            unit = p.prod().sqrt() * torch.tensor([1.0, -1.0], dtype=F64)  # d p / d a
            assert float(m.inner(p, score, unit)) == pytest.approx(slope, rel=1e-6, abs=1e-7 / math.sqrt(tau))


def test_four_categories_agree_with_the_closed_form_of_the_three_sphere() -> None:
    m, K = Simplex(4), heat_kernel(Simplex(4))
    p0 = torch.tensor([0.4, 0.3, 0.25, 0.05], dtype=F64)
    with mp.workdps(50):
        y0 = [mp.sqrt(mp.mpf(e)) for e in p0.tolist()]
        signs = torch.cartesian_prod(*[torch.tensor([1, -1])] * 4).tolist()

        def log_density(y: list[mp.mpf], tau: float) -> mp.mpf:
            t, total = mp.mpf(tau) / 4, mp.mpf(0)
            for sign in signs:
                r = mp.acos(sum(s * a * b for s, a, b in zip(sign, y, y0, strict=True)))
                wrapped = sum((r + 2 * mp.pi * j) * mp.exp(-((r + 2 * mp.pi * j) ** 2) / (2 * t)) for j in range(-4, 5))
                total += (2 * mp.pi * t) ** mp.mpf(-1.5) * mp.exp(t / 2) * wrapped / mp.sin(r)
            return mp.log(total / 8)

        for tau in TIMES:
            v = 1.3 * math.sqrt(tau) * m.random_tangent(p0, generator=seeded(1))
            p = m.exp(p0, v)
            y = [mp.sqrt(mp.mpf(e)) for e in p.tolist()]
            norm = mp.sqrt(sum(e * e for e in y))
            y = [e / norm for e in y]
            assert float(K.log_prob(p, p0, tau)) == pytest.approx(float(log_density(y, tau)), rel=1e-6, abs=1e-8)
            single = heat_kernel(m).log_prob(p.float(), p0.float(), tau)
            blur = 4e-7 / math.sqrt(tau)  # float32 points
            assert float(single) == pytest.approx(float(log_density(y, tau)), rel=1e-4, abs=1e-5 + blur)
            # The slope along a unit direction: y moves along a great circle, half as fast.
            e = m.tangent_basis(p)[0]
            w = [mp.mpf(float(a)) / b for a, b in zip(e.tolist(), y, strict=True)]

            def along(h: mp.mpf, y: list[mp.mpf] = y, w: list[mp.mpf] = w) -> list[mp.mpf]:
                return [mp.cos(h / 2) * a + mp.sin(h / 2) * b for a, b in zip(y, w, strict=True)]

            h = mp.mpf(10) ** -12
            slope = float((log_density(along(h), tau) - log_density(along(-h), tau)) / (2 * h))
            assert float(m.inner(p, K.score(p, p0, tau), e)) == pytest.approx(
                slope, rel=1e-6, abs=1e-6 * float(m.norm(p, K.score(p, p0, tau)))
            )


def test_three_categories_agree_with_the_neumann_series_of_the_octant() -> None:
    # Harmonics that are even in all three coordinates: l and m even, cos(m phi). A harmonic of norm 1 on the unit
    # sphere has square 4/8 on the octant of radius 2, hence the factor 2.
    p, p0 = weights(3, 6, 1), weights(3, 1, 2)

    def harmonic(a: Tensor, level: int, order: int) -> np.ndarray:
        x, y, z = a.sqrt().numpy().T
        return sph_harm_y(level, order, np.arccos(z), np.arctan2(y, x)).real * (1 if order == 0 else math.sqrt(2))

    for tau in (0.2, 1.0, 4.0):
        total = np.zeros(6)
        for level in range(0, 60, 2):
            for order in range(0, level + 1, 2):
                damped = 2 * math.exp(-level * (level + 1) * tau / 8)
                total += damped * harmonic(p, level, order) * harmonic(p0, level, order)
        np.testing.assert_allclose(heat_kernel(Simplex(3)).log_prob(p, p0, tau).exp(), total, rtol=1e-7)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_density_integrates_to_one_and_has_its_score_as_gradient(k: int) -> None:
    m, K = Simplex(k), heat_kernel(Simplex(k))
    p0, p = weights(k, 1)[0], weights(k, 20_000, 1)
    density = K.log_prob(p, p0, 0.8).exp() * m.volume
    assert abs(float(density.mean()) - 1) < 5 * float(density.std()) / math.sqrt(len(p))
    q = m.exp(p0.expand(8, k), 0.5 * m.random_tangent(p0.expand(8, k), generator=seeded(2)))
    for tau in (0.05, 0.8):
        slope = gradient(m, lambda x, t=tau: K.log_prob(x, p0, t), q)
        gap = m.norm(q, K.score(q, p0, tau) - slope)
        assert float((gap / (1 + m.norm(q, slope))).max()) < 1e-6


def test_density_solves_the_heat_equation() -> None:
    m, K = Simplex(4), heat_kernel(Simplex(4))
    p0, p = weights(4, 1)[0], 0.8 * weights(4, 8, 1) + 0.05
    _, laplacian = divergence(m, lambda x: K.score(x, p0, 0.4) * K.log_prob(x, p0, 0.4).exp().unsqueeze(-1), p)
    h = 1e-4
    rate = (K.log_prob(p, p0, 0.4 + h).exp() - K.log_prob(p, p0, 0.4 - h).exp()) / (2 * h)
    torch.testing.assert_close(laplacian / 2, rate, rtol=1e-4, atol=1e-5)


def test_pairs_and_weighted_scores_agree_with_single_ones() -> None:
    K, x, c = heat_kernel(Simplex(3)), weights(3, 7, 1), weights(3, 5, 2)
    tau, w = torch.tensor([0.02, 0.3, 1.0, 0.1, 2.0], dtype=F64), torch.rand(7, 5, generator=seeded(), dtype=F64)
    single = K.log_prob(x.unsqueeze(1), c, tau)
    torch.testing.assert_close(K.pairwise_log_prob(x, c, tau), single, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(single.mT, K.log_prob(c.unsqueeze(1), x, tau.unsqueeze(1)), rtol=1e-8, atol=1e-8)
    scores = (w.unsqueeze(-1) * K.score(x.unsqueeze(1), c, tau)).sum(1)
    torch.testing.assert_close(K.weighted_score(x, c, tau, w), scores, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(torch.vmap(K.log_prob)(x[:5], c, tau), single[:5].diagonal())


@pytest.mark.parametrize("k", [3, 20])
def test_sampled_means_are_exact(k: int) -> None:
    # p_i - 1/k is an eigenfunction, of eigenvalue k/2; the mean of the target follows by parts.
    m, n, tau = Simplex(k), 100_000, 2 / k
    p0 = m.project(torch.arange(k, dtype=F64) ** 3)  # a zero among the entries
    draw = heat_kernel(m).sample_with_score(p0.expand(n, k), tau, seeded(5))
    m.check_point(draw.x)
    mean = 1 / k + (p0 - 1 / k) * math.exp(-k * tau / 4)

    def z(values: Tensor, expected: Tensor) -> float:
        return float(((values.mean(0) - expected).abs() / values.std(0) * math.sqrt(n)).max())

    assert z(draw.x, mean) < 5
    assert z(draw.score, k / 2 * (mean - 1 / k)) < 5
    wrong = 1 / k + (p0 - 1 / k) * math.exp(-k * 1.05 * tau / 4)
    assert z(draw.x, wrong) > 5


def test_target_of_a_sample_is_unbiased() -> None:
    m, K, n = Simplex(3), heat_kernel(Simplex(3)), 50_000
    p0 = torch.tensor([0.02, 0.08, 0.9], dtype=F64).expand(n, 3)
    draw = K.sample_with_score(p0, 0.3, seeded(6))
    m.check_tangent(draw.x, draw.score)
    exact = K.score(draw.x, p0, 0.3)
    tests = torch.stack([draw.x.prod(-1), draw.x[:, 0], draw.x[:, 1].square(), torch.ones(n, dtype=F64)], -1)
    gap = ((draw.score - exact).unsqueeze(-1) * tests.unsqueeze(1)).reshape(n, -1)
    assert float((gap.mean(0).abs() / gap.std(0) * math.sqrt(n)).max()) < 5
    biased = ((1.1 * draw.score - exact).unsqueeze(-1) * tests.unsqueeze(1)).reshape(n, -1)
    assert float((biased.mean(0).abs() / biased.std(0) * math.sqrt(n)).max()) > 5


def test_law_becomes_uniform_and_is_finite_everywhere() -> None:
    m, K = Simplex(3), heat_kernel(Simplex(3))
    corners = torch.cat([torch.eye(3), torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])])
    for dtype in (F32, F64):
        x, x0 = (a.to(dtype) for a in (corners.unsqueeze(1), corners.unsqueeze(0)))
        for tau in (1e-6, 1e-2, 1.0, 60.0):
            assert bool(torch.isfinite(K.log_prob(x, x0, tau)).all() & torch.isfinite(K.score(x, x0, tau)).all())
        torch.testing.assert_close(K.log_prob(x, x0, 60.0), torch.full((5, 5), -math.log(m.volume), dtype=dtype))


def test_large_simplices_refuse_the_sum_and_nothing_else() -> None:
    K, p = heat_kernel(Simplex(13)), weights(13, 4)
    with pytest.raises(CapabilityError, match=r"2\^13 images.*Simplex\(12\).*sample_with_score"):
        K.log_prob(p, p, 0.1)
    Simplex(13).check_tangent(p, K.sample_with_score(p, 0.1, seeded()).score)
    twelve = weights(12, 3)
    assert bool(torch.isfinite(heat_kernel(Simplex(12)).score(twelve, twelve.roll(1, 0), 0.1)).all())


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize("k", [2, 3, 20])
def test_a_model_trains_samples_inside_and_has_a_likelihood(k: int) -> None:
    m = Simplex(k)
    counts = torch.poisson(torch.full((256, k), 1.5), generator=seeded()) + torch.eye(k)[0]
    data = m.project(counts / counts.sum(-1, keepdim=True))  # many zeros
    process = BrownianMotion(m, default_schedule(m, 1e-4))
    assert isinstance(process.prior, Uniform) and process.schedule.tau_max < 60 / k
    model = RiemannianDiffusion(m, process, TangentMLP(process, width=32, n_frequencies=16))
    model.fit(data, max_steps=20, progress=False)
    for method in ("ode", "sde"):
        x = model.sample(100, method=method, steps=20, generator=seeded())
        m.check_point(x)
        assert bool(m.inside(x).all())
    assert bool(torch.isfinite(model.log_prob(data[:10], tolerance=1e-2)).all())


def test_kernel_densities_and_two_sample_kernels_work() -> None:
    m, p = Simplex(3), weights(3, 200).float()
    density = KernelDensity.fit(m, p[:150], p[150:])
    assert bool(torch.isfinite(density.log_prob(p[150:])).all())
    torch.testing.assert_close(HeatGram(m)(p[:5], p[:5]), HeatGram(m)(p[:5], p[:5]).mT)


def test_ternary_pictures_keep_proportions(tmp_path: Path) -> None:
    m, view = Simplex(3), Ternary()
    p = weights(3, 100)
    x, y = view.plane(p).T
    height = math.sqrt(3) / 2
    np.testing.assert_allclose(np.stack([1 - x - y / height / 2, x - y / height / 2, y / height], -1), p, atol=1e-12)
    assert [type(v).__name__ for v in views(m)] == ["Ternary"] and len(views(Simplex(5))) == 4
    density = KernelDensity.fit(m, p[:80], p[80:])
    plot(m, p, log_prob=density.log_prob, path=tmp_path / "ternary.png", resolution=40)
    assert (tmp_path / "ternary.png").stat().st_size > 5000
