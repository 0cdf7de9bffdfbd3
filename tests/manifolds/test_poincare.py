"""The Poincaré ball: the hyperboloid seen in another chart, its boundary, its kernel and its picture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import (
    Euclidean,
    Hyperboloid,
    LorentzModel,
    PoincareBall,
    divergence,
    geodesic_symmetry,
)
from manifold_diffusion.plotting import PoincareDisk, plot, views

from .draws import seeded

F32, F64 = torch.float32, torch.float64
DIMENSIONS = pytest.mark.parametrize("n", [1, 2, 5])


def points(n: int, count: int, seed: int, spread: float = 1.0) -> Tensor:
    """Points of the hyperboloid, float64."""
    h = Hyperboloid(n)
    o = h.origin(dtype=F64).expand(count, n + 1)
    return h.exp(o, spread * h.random_tangent(o, generator=seeded(seed)))


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


# ---------------------------------------------------------------------- one space, two charts


@DIMENSIONS
def test_charts_are_isometric(n: int) -> None:
    ball, h = PoincareBall(n), Hyperboloid(n)
    a, b = points(n, 64, 1), points(n, 64, 2)
    x, y = ball.from_hyperboloid(a), ball.from_hyperboloid(b)
    u, v = (h.random_tangent(a, generator=seeded(s)) for s in (3, 4))
    pu, pv = ball.vector_from_hyperboloid(a, u), ball.vector_from_hyperboloid(a, v)
    pairs = {
        "points": (ball.to_hyperboloid(x), a),
        "vectors": (ball.vector_to_hyperboloid(x, pu), u),
        "inner": (ball.inner(x, pu, pv), h.inner(a, u, v)),
        "dist": (ball.dist(x, y), h.dist(a, b)),
        "exp": (ball.to_hyperboloid(ball.exp(x, pv)), h.exp(a, v)),
        "log": (ball.vector_to_hyperboloid(x, ball.log(x, y)), h.log(a, b)),
        "transport": (ball.vector_to_hyperboloid(y, ball.transport(x, y, pu)), h.transport(a, b, u)),
        "coordinates": (ball.coordinates(x), h.coordinates(a)),
        "from_frame": (ball.vector_to_hyperboloid(x, ball.from_frame(x, y)), h.from_frame(a, y)),
    }
    for name, (got, expected) in pairs.items():
        assert relative(got, expected) <= 1e-11, name
    push = torch.func.jvp(ball.to_hyperboloid, (x,), (pu,))[1]
    assert relative(ball.vector_to_hyperboloid(x, pu), push) <= 1e-11
    pull = torch.func.jvp(ball.from_hyperboloid, (a,), (u,))[1]
    assert relative(pu, pull) <= 1e-11


def test_vectors_far_away_change_charts_without_cancellation() -> None:
    ball, h = PoincareBall(3), Hyperboloid(3)
    directions = torch.nn.functional.normalize(torch.randn(20, 4, generator=seeded(1), dtype=F64)[:, 1:], dim=-1)
    far = 15 * torch.nn.functional.pad(directions, (1, 0))
    a = h.exp(h.origin(dtype=F64).expand(20, 4), far)
    u = h.random_tangent(a, generator=seeded(2))
    x = ball.from_hyperboloid(a)
    torch.testing.assert_close(ball.norm(x, ball.vector_from_hyperboloid(a, u)), h.norm(a, u), rtol=1e-8, atol=0)


def test_geomstats_agrees() -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.poincare_ball import PoincareBall as GPoincareBall

    m, space = PoincareBall(3), GPoincareBall(3)
    x, y = (m.from_hyperboloid(points(3, 32, s)) for s in (1, 2))
    v = 0.5 * m.random_tangent(x, generator=seeded(3))
    gx, gy, gv = (gs.array(a.numpy()) for a in (x, y, v))
    pairs = {
        "dist": (m.dist(x, y), space.metric.dist(point_a=gx, point_b=gy)),
        "exp": (m.exp(x, v), space.metric.exp(tangent_vec=gv, base_point=gx)),
        "log": (m.log(x, y), space.metric.log(point=gy, base_point=gx)),
        "norm": (m.norm(x, v), space.metric.norm(gv, base_point=gx)),
    }
    for name, (ours, theirs) in pairs.items():
        assert relative(ours, torch.as_tensor(gs.to_numpy(theirs))) <= 1e-10, name


def test_geodesics_of_the_disk_are_circles_at_right_angles_to_the_boundary() -> None:
    m = PoincareBall(2)
    x, y = torch.tensor([0.6, 0.1], dtype=F64), torch.tensor([-0.2, 0.7], dtype=F64)
    z = m.geodesic(x.expand(9, 2), y.expand(9, 2), torch.linspace(-0.5, 1.5, 9, dtype=F64))
    # |z|^2 - 2 c.z + 1 = 0 for a circle of centre c at right angles to the unit circle.
    c = torch.linalg.solve(2 * torch.stack([x, y]), 1 + torch.stack([x, y]).square().sum(-1))
    assert float((z.square().sum(-1) - 2 * z @ c + 1).abs().max()) < 1e-12


# ---------------------------------------------------------------------- the boundary


@pytest.mark.parametrize("radius", [0.0, 1.0, 5.0, 10.0, 20.0])
@pytest.mark.parametrize("length", [1e-5, 1e-2, 1.0, 10.0])
def test_geometry_holds_at_any_distance_that_float64_resolves(radius: float, length: float) -> None:
    m, n = PoincareBall(3), 200
    o = m.origin(dtype=F64).expand(n, 3)
    unit = torch.nn.functional.normalize(torch.randn(2, n, 3, generator=seeded(1), dtype=F64), dim=-1)
    x = m.exp(o, radius / 2 * unit[0])
    torch.testing.assert_close(m.dist(o, x), torch.full((n,), radius, dtype=F64), rtol=1e-8, atol=1e-12)
    v = m.from_frame(x, length * unit[1])
    y = m.exp(x, v)
    resolution = 4e-16 * math.exp(radius) * (1 + math.exp(length))  # of the points, as a distance
    assert float((m.dist(x, y) - length).abs().max()) <= 1e-10 * length + resolution
    assert float(m.norm(x, m.log(x, y) - v).max()) <= 1e-10 * length + 20 * resolution
    back = m.transport(y, x, m.transport(x, y, v))
    assert float(m.norm(x, back - v).max()) <= length * (1e-10 + 20 * resolution)


@pytest.mark.parametrize(("radius", "bound"), [(1.0, 1e-6), (4.0, 2e-5), (8.0, 1e-3), (12.0, 5e-2), (15.0, 0.5)])
def test_float32_points_are_as_good_as_their_rounding(radius: float, bound: float) -> None:
    m, n = PoincareBall(2), 500
    o = m.origin(dtype=F32).expand(n, 2)
    unit = torch.nn.functional.normalize(torch.randn(n, 2, generator=seeded(1)), dim=-1)
    x = m.exp(o, radius / 2 * unit)
    assert float((m.dist(o, x) - radius).abs().max()) <= bound
    y = x.roll(1, 0)
    torch.testing.assert_close(m.dist(x, y).double(), m.dist(x.double(), y.double()), rtol=2e-6, atol=0)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_gradients_are_finite_at_the_origin_and_at_the_edge(dtype: torch.dtype) -> None:
    m = PoincareBall(2)
    edge = m.project(torch.tensor([[1.0, 0.0], [-3.0, 4.0], [0.0, -1.0]], dtype=dtype))
    assert bool((edge.norm(dim=-1) < 1).all())
    m.check_point(edge)
    corners = torch.cat([torch.zeros(1, 2, dtype=dtype), edge, 0.5 * edge])
    x, y = (a.reshape(-1, 2).clone().requires_grad_() for a in (corners.repeat(7, 1), corners.repeat_interleave(7, 0)))
    v = m.from_frame(x, torch.ones_like(x)).detach().requires_grad_()
    for name, value in {
        "dist": m.dist(x, y), "log": m.log(x, y), "exp": m.exp(x, v), "zero": m.exp(x, 0 * v), "norm": m.norm(x, v),
        "transport": m.transport(x, y, v), "coordinates": m.coordinates(x), "volume": m.log_det_exp(x, v),
    }.items():  # fmt: skip
        grads = torch.autograd.grad(value.sum(), [x, y, v], allow_unused=True)
        tensors = [value, *(g for g in grads if g is not None)]
        assert all(bool(torch.isfinite(a).all()) for a in tensors), name


def test_long_steps_stop_at_the_edge() -> None:
    for dtype, farthest in ((F32, 15.0), (F64, 35.0)):
        m = PoincareBall(2)
        x = m.exp(m.origin(dtype=dtype), torch.tensor([60.0, 0.0], dtype=dtype))
        m.check_point(x)
        assert farthest < float(m.dist(m.origin(dtype=dtype), x)) < farthest + 1


# ---------------------------------------------------------------------- metric


@DIMENSIONS
def test_closed_forms_are_those_of_the_metric(n: int) -> None:
    m = PoincareBall(n)
    x = m.from_hyperboloid(points(n, 8, 1))
    v = m.random_tangent(x, generator=seeded(2))
    base = super(PoincareBall, m)
    torch.testing.assert_close(m.divergence_correction(x, v), base.divergence_correction(x, v))
    torch.testing.assert_close(m.log_det_exp(x, v), base.log_det_exp(x, v))
    torch.testing.assert_close(m.transport(x, m.exp(x, v), v), base.transport(x, m.exp(x, v), v), rtol=1e-7, atol=1e-8)


def test_divergence_is_that_of_the_hyperboloid() -> None:
    m, h = PoincareBall(3), Hyperboloid(3)
    a = points(3, 8, 1)
    w = torch.randn(4, 4, generator=seeded(2), dtype=F64)

    def field(p: Tensor) -> Tensor:
        return h.to_tangent(p, (p @ w).sin())

    def seen(x: Tensor) -> Tensor:
        p = m.to_hyperboloid(x)
        return m.vector_from_hyperboloid(p, field(p))

    torch.testing.assert_close(divergence(m, seen, m.from_hyperboloid(a))[1], divergence(h, field, a)[1])


def test_symmetry_turns_geodesics_around() -> None:
    m = PoincareBall(3)
    x, y = (m.from_hyperboloid(points(3, 16, s)) for s in (1, 2))
    v = m.random_tangent(y, generator=seeded(3))
    symmetry = geodesic_symmetry(m)
    assert symmetry is not None
    image, turned = symmetry(x, y, v)
    push = torch.func.jvp(lambda p: symmetry(x, p, v)[0], (y,), (v,))[1]
    torch.testing.assert_close(m.dist(x, image), m.dist(x, y))
    torch.testing.assert_close(turned, push)


# ---------------------------------------------------------------------- heat kernel


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_kernel_is_that_of_the_hyperboloid(n: int) -> None:
    m, h = PoincareBall(n), Hyperboloid(n)
    k, reference = heat_kernel(m), heat_kernel(h)
    a, b = points(n, 64, 1), points(n, 64, 2, 0.5)
    x, y = m.from_hyperboloid(a), m.from_hyperboloid(b)
    for tau in (1e-4, 0.1, 2.0, 30.0):
        torch.testing.assert_close(k.log_prob(x, y, tau), reference.log_prob(a, b, tau), rtol=1e-9, atol=1e-9)
        score = m.vector_to_hyperboloid(x, k.score(x, y, tau))
        torch.testing.assert_close(score, reference.score(a, b, tau), rtol=1e-8, atol=1e-8)
        single = k.log_prob(x.float(), y.float(), tau).double()
        exact = k.log_prob(x.float().double(), y.float().double(), tau)
        assert float(((single - exact).abs() / (1 + exact.abs())).max()) < 1e-4
        s = k.sample_with_score(y, min(tau, 2.0), seeded(3))
        torch.testing.assert_close(s.score, k.score(s.x, y, min(tau, 2.0)), rtol=1e-5, atol=1e-7)
    times = torch.linspace(0.1, 1, 3, dtype=F64)
    expected = torch.stack([k.log_prob(x, c.expand_as(x), t) for c, t in zip(y[:3], times, strict=True)], 1)
    torch.testing.assert_close(k.pairwise_log_prob(x, y[:3], times), expected)


def test_the_line_is_gaussian() -> None:
    m, flat = Hyperboloid(1), heat_kernel(Euclidean(1))
    r, r0 = torch.randn(2, 50, 1, generator=seeded(1), dtype=F64)
    x, x0 = (torch.cat([a.cosh(), a.sinh()], -1) for a in (r, r0))
    k = heat_kernel(m)
    torch.testing.assert_close(k.log_prob(x, x0, 0.3), flat.log_prob(r, r0, 0.3))
    torch.testing.assert_close(k.score(x, x0, 0.3)[:, 1:], flat.score(r, r0, 0.3) * r.cosh())
    assert k.sample_with_score(x0, 0.3, seeded(2)).x.shape == x.shape


@pytest.mark.parametrize("n", [1, 2, 3])
def test_samples_have_the_exact_moment(n: int) -> None:
    m, tau, count = PoincareBall(n), 0.5, 200_000
    x0 = m.project(torch.full((n,), 0.3, dtype=F64))
    x = heat_kernel(m).sample(x0.expand(count, n), tau, seeded(4))
    cosh = m.dist(x, x0).cosh()
    error = float(cosh.std()) / count**0.5

    def z(t: float) -> float:
        return abs(float(cosh.mean()) - math.exp(n * t / 2)) / error

    assert z(tau) <= 5 < z(1.1 * tau)


# ---------------------------------------------------------------------- the rest of the library


def test_model_trains_and_has_a_picture(tmp_path: Path) -> None:
    m = PoincareBall(2)
    data = heat_kernel(m).sample(torch.tensor([0.4, 0.2]).expand(256, 2), 0.1, seeded(1))
    model = RiemannianDiffusion(m)
    model.fit(data, max_steps=20, batch_size=64, progress=False)
    assert bool(torch.isfinite(model.log_prob(data[:4])).all())
    m.check_point(model.sample(20, generator=seeded(2)))
    (view,) = views(m)
    assert view == PoincareDisk(2, ball=True)
    a = Hyperboloid(2).exp(Hyperboloid(2).origin(), torch.tensor([0.0, 0.3, 0.4]))
    assert abs(view.plane(m.from_hyperboloid(a)[None]) - PoincareDisk(2).plane(a[None])).max() < 1e-6
    plot(m, samples=data, log_prob=model.log_prob, path=tmp_path / "disk.png", resolution=16)
    for n in (1, 3):
        ball = PoincareBall(n)
        samples = heat_kernel(ball).sample(ball.origin().expand(60, n), 0.5, seeded(3))
        plot(ball, samples=samples, path=tmp_path / f"ball-{n}.png")


def test_names_and_configuration() -> None:
    assert LorentzModel is Hyperboloid
    assert from_config(to_config(PoincareBall(3))) == PoincareBall(3) != Hyperboloid(3)
    lorentz = {"class_path": "manifold_diffusion.manifolds.LorentzModel", "init_args": {"n": 2}}
    assert from_config(lorentz) == Hyperboloid(2)


@pytest.mark.parametrize("length", [1.0, 1.5])
def test_points_outside_are_refused(length: float) -> None:
    x = torch.tensor([[0.1, 0.2], [0.0, length]])
    with pytest.raises(ManifoldError, match=r"\|x\|, which is not below 1, = 1\..*first at row 1"):
        PoincareBall(2).check_point(x)
    with pytest.raises(ConfigError, match="n >= 1"):
        PoincareBall(0)
