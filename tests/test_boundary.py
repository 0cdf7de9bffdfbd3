"""Domains with boundary: billiards, reflected heat kernels and random walks, and models that stay inside."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.special import eval_legendre
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import (
    SO3,
    Ball,
    Box,
    Domain,
    Euclidean,
    HalfSpace,
    Hemisphere,
    Manifold,
    Polytope,
    Product,
    Restricted,
    Sphere,
    divergence,
    gradient,
)
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, Langevin, LogSchedule, default_schedule
from manifold_diffusion.processes.walk import geodesic_random_walk
from manifold_diffusion.testing import check_manifold

F32, F64 = torch.float32, torch.float64
TRIANGLE = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.0, 0.0, 2.0])


class Cap:
    """Points of the sphere higher than a height."""

    def __init__(self, height: float) -> None:
        self.height = height

    def __call__(self, x: Tensor) -> Tensor:
        return x[..., -1] - self.height


CAP = Restricted(Sphere(2), Cap(0.2))
DOMAINS = [HalfSpace(2), Hemisphere(2), Box([0.0, -1.0], [1.0, 2.0]), Ball(3), TRIANGLE, CAP]
domains = pytest.mark.parametrize("m", DOMAINS, ids=lambda m: type(m).__name__)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inner_points(m: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    origin = m.origin(dtype=dtype).expand(n, *m.point_shape)
    return m.move(origin, m.random_tangent(origin, generator=seeded(seed)))


# ---------------------------------------------------------------------- geometry


@domains
@pytest.mark.parametrize("dtype", [F64, F32])
def test_reflected_steps_stay_inside_and_short_ones_are_geodesics(m: Domain, dtype: torch.dtype) -> None:
    x = inner_points(m, 500, dtype=dtype)
    v = 3 * m.random_tangent(x, generator=seeded(1))
    end = m.move(x, v)
    m.check_point(end)
    assert bool(m.inside(end).all()) and not bool(m.inside(m.exp(x, v)).all())
    room = m.values(x).squeeze(-1) if isinstance(m, Restricted) else m.boundary_distance(x)
    short = m.per_point(0.4 * room / m.norm(x, v)) * v
    torch.testing.assert_close(m.reflect(x, short), m.exp(x, short))


@pytest.mark.parametrize(
    ("closed", "inequality"),
    [
        (HalfSpace(2), lambda x: x[..., 0]),
        (Hemisphere(2), lambda x: x[..., 0]),
        (Ball(2, 1.5), lambda x: 2.25 - x.square().sum(-1)),
        (TRIANGLE, [lambda x: x[..., 0], lambda x: x[..., 1], lambda x: 2 - x[..., 0] - 2 * x[..., 1]]),
    ],
    ids=lambda a: type(a).__name__,
)
def test_closed_billiards_agree_with_bisection(closed: Domain, inequality: object) -> None:
    other = Restricted(closed.ambient, inequality, start=closed.origin())  # pyright: ignore[reportArgumentType]
    x = inner_points(closed, 60)
    v = closed.random_tangent(x, generator=seeded(2))
    torch.testing.assert_close(closed.reflect(x, v), other.reflect(x, v), rtol=0, atol=1e-9)
    near = x[closed.boundary_distance(x) < 0.2]
    torch.testing.assert_close(closed.inward_normal(near), other.inward_normal(near))


def test_boxes_agree_with_the_polytope_of_their_faces() -> None:
    box, eye = Box([0.0, -1.0], [1.0, 2.0]), torch.eye(2)
    faces = Polytope(torch.cat([eye, -eye]), torch.tensor([1.0, 2.0, 0.0, 1.0]))
    x = inner_points(box, 200)
    v = 5 * box.random_tangent(x, generator=seeded(3))
    torch.testing.assert_close(box.reflect(x, v), faces.reflect(x, v))
    torch.testing.assert_close(box.boundary_distance(x), faces.boundary_distance(x))
    assert faces.volume == pytest.approx(box.volume)
    a = torch.randn(200, 2, generator=seeded(4), dtype=F64)
    faces.layer = box.layer
    torch.testing.assert_close(box.from_frame(x, a), faces.from_frame(x, a))


@pytest.mark.parametrize("dtype", [F64, F32])
def test_ball_follows_any_number_of_chords(dtype: torch.dtype) -> None:
    # An equilateral triangle inscribed in the circle is a closed billiard path; a tangent start runs along the circle.
    m, side = Ball(2), math.sqrt(3.0)
    x, e = torch.tensor([0.0, -0.5], dtype=dtype), torch.tensor([1.0, 0.0], dtype=dtype)
    for turns in (1, 7, 100):
        torch.testing.assert_close(m.reflect(x, 3 * turns * side * e), x, rtol=0, atol=1e-4 if dtype == F32 else 1e-11)
    edge = torch.tensor([0.0, -1.0], dtype=dtype)
    torch.testing.assert_close(
        m.reflect(edge, e), torch.tensor([math.sin(1), -math.cos(1)], dtype=dtype), rtol=0, atol=1e-5
    )
    zero = torch.zeros(2, dtype=dtype)
    torch.testing.assert_close(m.reflect(zero, 3.5 * e), -0.5 * e)
    torch.testing.assert_close(m.reflect(x, zero), x)


@domains
def test_billiards_run_backwards(m: Domain) -> None:
    """Reflected geodesics are reversible: Brownian steps have the uniform law as their exact stationary law."""
    if m in (HalfSpace(2), CAP):
        return
    x = m.random_uniform(40_000, generator=seeded(5), dtype=F64)  # pyright: ignore[reportAttributeAccessIssue]
    y = m.move(x, 0.7 * m.random_tangent(x, generator=seeded(6)))
    other = m.random_uniform(40_000, generator=seeded(7), dtype=F64)  # pyright: ignore[reportAttributeAccessIssue]
    features = lambda p: torch.cat([p, p.square(), m.boundary_distance(p).unsqueeze(-1)], -1)  # noqa: E731
    gap, spread = features(y).mean(0) - features(other).mean(0), features(y).std(0) * math.sqrt(2 / 40_000)
    assert float((gap.abs() / spread).max()) < 5
    stuck = m.project(m.exp(x, 0.7 * m.random_tangent(x, generator=seeded(6))))
    if isinstance(m, Ball | Polytope):  # elsewhere projecting is reflecting
        assert float(((features(stuck).mean(0) - features(other).mean(0)).abs() / spread).max()) > 5


@domains
def test_normals_and_projections(m: Domain) -> None:
    x = inner_points(m, 200)
    depth = m.boundary_distance(x)
    close = x[depth < 0.2]
    n = m.inward_normal(close)
    torch.testing.assert_close(m.norm(close, n), torch.ones(len(close), dtype=F64))
    step = torch.full((len(close),), 1e-3, dtype=F64)
    gain = m.boundary_distance(m.exp(close, m.per_point(step) * n)) - m.boundary_distance(close)
    torch.testing.assert_close(gain, step, rtol=0.3 if m == CAP else 1e-3, atol=1e-5)
    out = m.exp(close, -m.per_point(m.boundary_distance(close) + 0.01) * n)
    assert not bool(m.inside(out).any())
    back = m.project(out)
    m.check_point(back)
    assert bool(m.inside(back).all())
    torch.testing.assert_close(m.project(x), x)


@domains
def test_fields_of_networks_are_tangent_to_the_boundary(m: Domain) -> None:
    x = inner_points(m, 400)
    x = x[m.boundary_distance(x) < 0.1]
    if m != CAP:
        x = m.exp(x, -m.per_point(m.boundary_distance(x)) * m.inward_normal(x))
    else:
        x = m.project(m.exp(x, -m.per_point(2 * m.boundary_distance(x)) * m.inward_normal(x)))
    a = torch.randn(len(x), m.frame_dim, generator=seeded(1), dtype=F64)
    v, free = m.from_frame(x, a), m.ambient.from_frame(x, a)
    normal = m.inward_normal(x)
    leak = m.inner(x, v, normal).abs()
    assert float((leak - 2 * (m.boundary_distance(x).abs() / m.layer + 1e-6) * m.norm(x, free)).max()) < 1e-6
    assert float(m.norm(x, v).mean()) > 0.3


def test_volumes_and_uniform_laws() -> None:
    simplex = Polytope(torch.cat([-torch.eye(3), torch.ones(1, 3)]), torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert simplex.volume == pytest.approx(1 / 6) and len(simplex.vertices) == 4
    x = simplex.random_uniform(50_000, generator=seeded(), dtype=F64)
    assert float(((x.mean(0) - 0.25).abs() / x.std(0) * 50_000**0.5).max()) < 5
    ball = Ball(5, 2.0)
    square = ball.random_uniform(50_000, generator=seeded(), dtype=F64).square().sum(-1)
    assert abs(float(square.mean()) - 4 * 5 / 7) < 5 * float(square.std()) / 50_000**0.5
    assert ball.volume == pytest.approx(8 * math.pi**2 / 15 * 32)
    assert Hemisphere(2).volume == pytest.approx(2 * math.pi)
    assert isinstance(CAP.volume, float) and abs(CAP.volume - 2 * math.pi * 0.8) < 5 * CAP.volume_error < 0.1
    known = Restricted(Sphere(2), Cap(0.2), exact_volume=1.6 * math.pi)
    assert (known.volume, known.volume_error) == (1.6 * math.pi, 0.0)


def test_restricted_domains_obey_the_laws() -> None:
    named = ["points_stay_on_the_manifold", "project_is_idempotent", "vectors_are_tangent", "frame_is_onto"]
    check_manifold(CAP, laws=[*named, "divergence_theorem", "isometries_commute"], dtypes=[F64])
    disc = Restricted(Euclidean(2), [lambda x: 1 - x.square().sum(-1), lambda x: x[..., 0] + 0.5])
    check_manifold(disc, laws=[*named, "exp_log_inverse"])


# ---------------------------------------------------------------------- bad input


def test_points_outside_are_named_by_row_and_amount() -> None:
    for m, bad, amount in (
        (HalfSpace(2), -0.5, "5.0e-01"),
        (Ball(2), 1.25, "2.8e-01"),
        (Box([0.0, 0.0], [1.0, 1.0]), 3.0, "2.0e"),
    ):
        x = m.origin(dtype=F64).repeat(4, 1)
        x[3] = torch.tensor([bad, 0.0], dtype=F64)
        with pytest.raises(
            ManifoldError, match=rf"is not on .* = {amount[:4].replace('.', '[.]')}.*first at row 3, 1 of 4"
        ):
            m.check_point(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: HalfSpace(0), "n >= 1"),
        (lambda: Hemisphere(0), "n >= 1"),
        (lambda: Ball(2, -1.0), "positive radius"),
        (lambda: Box([0.0, 1.0], [1.0, 1.0]), "below its upper"),
        (lambda: Box([0.0], [1.0, 2.0]), "as many"),
        (lambda: Polytope([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0]), "unbounded"),
        (lambda: Polytope([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [1.0, -2.0, 1.0, 1.0]), "no inside"),
        (lambda: Polytope([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], [1.0, -1.0, 1.0, 1.0]), "no inside"),
        (lambda: Polytope([[1.0], [-1.0]], [1.0, 1.0]), r"Box\(\[l\], \[u\]\)"),
        (lambda: Polytope([[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]), "no zero row"),
        (lambda: Restricted(Sphere(2), []), "functions of its points"),
        (lambda: Restricted(Euclidean(2), lambda x: -1 - x.square().sum(-1)), "start=point"),
    ],
)
def test_impossible_domains_are_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()  # pyright: ignore[reportCallIssue]


def test_a_step_that_does_not_end_is_an_error() -> None:
    x, v = torch.tensor([0.25, 0.25]), torch.tensor([400.0, 7.0])
    with pytest.raises(NumericsError, match=r"100 reflections.*shorter steps"):
        TRIANGLE.reflect(x, v)


def test_configurations() -> None:
    for m in DOMAINS[:5]:
        assert from_config(to_config(m)) == m
    assert from_config(to_config(CAP), trusted=(__name__.split(".")[0], "tests")).inequalities[0].height == 0.2
    with pytest.raises(ConfigError, match=r"<lambda> can't be written.*class with __call__"):
        to_config(Restricted(Sphere(2), lambda x: x[..., 0]))


def test_parts_that_would_cross_the_boundary_are_refused() -> None:
    with pytest.raises(CapabilityError, match=r"has a boundary.*BrownianMotion"):
        Langevin(HalfSpace(2))
    for m in (Ball(2), TRIANGLE, CAP):
        with pytest.raises(CapabilityError, match=r"no heat kernel.*n_steps=100.*ImplicitScoreMatching"):
            BrownianMotion(m)


# ---------------------------------------------------------------------- heat kernels

KERNELS = [HalfSpace(2), Hemisphere(2), Hemisphere(3), Box([0.0, -1.0], [1.0, 2.0])]
kernels = pytest.mark.parametrize("m", KERNELS, ids=repr)


def test_hemisphere_agrees_with_its_legendre_series() -> None:
    K, x, x0 = (
        heat_kernel(Hemisphere(2)),
        *Hemisphere(2).random_uniform(12, generator=seeded(), dtype=F64).split([11, 1]),
    )
    mirror = torch.tensor([-1.0, 1.0, 1.0], dtype=F64)
    for tau in (0.1, 0.5, 3.0):
        p = np.zeros(11)
        for level in range(80):
            weight = (2 * level + 1) / (4 * math.pi) * math.exp(-level * (level + 1) * tau / 2)
            for source in (x0, mirror * x0):
                p += weight * eval_legendre(level, (x * source).sum(-1).numpy())
        np.testing.assert_allclose(K.log_prob(x, x0, tau).exp(), p, rtol=1e-6, atol=1e-12)


def test_intervals_agree_with_forty_digits() -> None:
    m, x0 = Box([-1.0], [2.0]), 0.3
    for tau in (1e-6, 1e-3, 0.1, 0.5, 1.0, 1.2, 5.0, 30.0):
        for x in (max(-1 + 1e-6, x0 - 2.5 * math.sqrt(tau)), min(2 - 1e-6, x0 + 0.7 * math.sqrt(tau))):
            with mp.workdps(40):

                def density(y: mp.mpf, t: float = tau) -> mp.mpf:
                    images = [s + 6 * j for j in range(-12, 13) for s in (mp.mpf(x0), -2 - mp.mpf(x0))]
                    return sum(mp.exp(-((y - s) ** 2) / (2 * t)) for s in images) / mp.sqrt(2 * mp.pi * t)

                log_p = float(mp.log(density(mp.mpf(x))))
                slope = float(mp.diff(lambda y: mp.log(density(y)), mp.mpf(x)))
            for dtype, tolerance in ((F64, 1e-9), (F32, 1e-4)):
                point, source = torch.tensor([x], dtype=dtype), torch.tensor([x0], dtype=dtype)
                blur = 4 * torch.finfo(dtype).eps / tau * (1 + math.sqrt(tau)) * 3
                K = heat_kernel(m)
                assert float(K.log_prob(point, source, tau)) == pytest.approx(
                    log_p, rel=tolerance, abs=tolerance + blur
                )
                assert float(K.score(point, source, tau)) == pytest.approx(slope, rel=tolerance, abs=tolerance + blur)


@kernels
def test_kernels_are_neumann_symmetric_and_have_their_score_as_gradient(m: Domain) -> None:
    K, x, x0 = heat_kernel(m), inner_points(m, 50), inner_points(m, 50, 1)
    for tau in (0.02, 0.4):
        torch.testing.assert_close(K.log_prob(x, x0, tau), K.log_prob(x0, x, tau), rtol=1e-8, atol=1e-8)
        slope = gradient(m, lambda p, t=tau: K.log_prob(p, x0, t), x)
        torch.testing.assert_close(K.score(x, x0, tau), slope, rtol=1e-5, atol=1e-5)
        edge = m.exp(x, -m.per_point(m.boundary_distance(x)) * m.inward_normal(x))
        flow = m.inner(edge, K.score(edge, x0, tau), m.inward_normal(edge))
        assert float((flow.abs() / (1 + m.norm(edge, K.score(edge, x0, tau)))).max()) < 1e-7
    h, tau = 1e-4, 0.4
    _, laplacian = divergence(m, lambda p: K.score(p, x0, tau) * K.log_prob(p, x0, tau).exp().unsqueeze(-1), x)
    rate = (K.log_prob(x, x0, tau + h).exp() - K.log_prob(x, x0, tau - h).exp()) / (2 * h)
    torch.testing.assert_close(laplacian / 2, rate, rtol=1e-3, atol=1e-5)


@kernels
def test_samples_follow_the_kernel(m: Domain) -> None:
    """Integral of p f = mean of f: importance weights from a wider kernel, also the total mass and the semigroup."""
    K, n = heat_kernel(m), 100_000
    x0 = inner_points(m, 1)[0].expand(n, *m.point_shape)
    wide = K.sample(x0, 0.6, seeded(1))
    ratio = (K.log_prob(wide, x0, 0.3) - K.log_prob(wide, x0, 0.6)).exp()
    two = K.sample(K.sample(x0, 0.1, seeded(2)), 0.2, seeded(3))
    features = lambda x: torch.stack([torch.ones(n, dtype=F64), x[:, 0], x[:, 1], x[:, 0] * x[:, 1].square()], -1)  # noqa: E731
    integral = features(wide) * ratio.unsqueeze(-1)

    def z(x: Tensor) -> float:
        error = (integral.var(0) + features(x).var(0)).sqrt() / math.sqrt(n)
        return float(((integral.mean(0) - features(x).mean(0)).abs() / error).max())

    for sample in (K.sample(x0, 0.3, seeded(4)), two):
        assert bool(m.inside(sample).all()) and z(sample) < 5
    assert z(K.sample(x0, 0.4, seeded(5))) > 5


@kernels
def test_pairs_agree_with_single_ones(m: Domain) -> None:
    K, x, c = heat_kernel(m), inner_points(m, 6), inner_points(m, 4, 1)
    tau, w = torch.tensor([0.05, 0.3, 1.0, 0.1], dtype=F64), torch.rand(6, 4, generator=seeded(), dtype=F64)
    torch.testing.assert_close(K.pairwise_log_prob(x, c, tau), K.log_prob(x.unsqueeze(1), c, tau), rtol=1e-8, atol=1e-8)
    scores = (w.unsqueeze(-1) * K.score(x.unsqueeze(1), c, tau)).sum(1)
    torch.testing.assert_close(K.weighted_score(x, c, tau, w), scores, rtol=1e-6, atol=1e-6)


def test_walk_in_a_ball_agrees_with_its_series() -> None:
    # Radial Neumann eigenfunctions sin(mu r) / r with tan mu = mu: E |x|^2 after time 0.3 from the centre.
    exact, n = 0.555943825635447, 100_000
    walk = lambda steps: geodesic_random_walk(  # noqa: E731
        Ball(3), torch.zeros(n, 3), torch.full((n,), 0.3), steps, generator=seeded(8)
    )
    square = walk(16).double().square().sum(-1)
    assert abs(float(square.mean()) - exact) < 5 * float(square.std()) / math.sqrt(n) + 4e-4
    coarse = walk(1).double().square().sum(-1)
    assert abs(float(coarse.mean()) - exact) > 20 * float(coarse.std()) / math.sqrt(n)


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize(
    "m", [HalfSpace(2), Hemisphere(2), Box([0.0, 0.0], [1.0, 1.0]), Product(Hemisphere(2), SO3())], ids=repr
)
def test_denoising_models_train_and_sample_inside(m: Manifold) -> None:
    process = BrownianMotion(m, default_schedule(m, 1e-3), n_centres=16)
    model = RiemannianDiffusion(m, process, TangentMLP(process, width=32, n_frequencies=16))
    data = inner_points(m, 200, dtype=F32)
    model.fit(data, max_steps=20, progress=False)
    for method in ("ode", "sde"):
        m.check_point(model.sample(200, method=method, steps=10, generator=seeded()))
    assert bool(torch.isfinite(model.log_prob(data[:10], tolerance=1e-2)).all())


@pytest.mark.parametrize("m", [Ball(2), TRIANGLE, CAP], ids=lambda m: type(m).__name__)
def test_simulated_models_train_and_sample_inside(m: Domain) -> None:
    schedule = LogSchedule(1e-2, 2.0)
    process = BrownianMotion(m, schedule, n_steps=8)
    model = RiemannianDiffusion(m, process, TangentMLP(process, width=16, n_frequencies=8))
    data = inner_points(m, 100, dtype=F32)
    model.fit(data, max_steps=8, batch_size=64, progress=False)
    for method in ("ode", "sde"):
        m.check_point(model.sample(50, method=method, steps=5, generator=seeded()))
    assert bool(torch.isfinite(model.log_prob(data[:5], tolerance=5e-2)).all())


@pytest.mark.parametrize("m", [Hemisphere(2), Box([0.0, 0.0], [1.0, 1.0])], ids=repr)
def test_implicit_score_matching_has_no_boundary_term(m: Domain) -> None:
    """E[<score, g> + div g] = 0 for the fields of networks, and not for others."""
    K, n = heat_kernel(m), 20_000
    x0 = m.project(torch.tensor([0.1, *[0.5] * (m.point_shape[0] - 1)], dtype=F64)).expand(n, *m.point_shape)
    x = K.sample(x0, 0.2, seeded(1))
    w = torch.randn(m.embed(x0[0]).shape[-1], m.frame_dim, generator=seeded(2), dtype=F64)

    def z(frame: object) -> float:
        value, div = divergence(m, lambda p: frame(p, (m.embed(p) @ w + 1).sin() + 1), x)  # pyright: ignore[reportCallIssue]
        terms = m.inner(x, K.score(x, x0, 0.2), value) + div
        return float(terms.mean().abs() / terms.std() * math.sqrt(n))

    assert z(m.from_frame) < 5
    assert z(m.ambient.from_frame) > 5
