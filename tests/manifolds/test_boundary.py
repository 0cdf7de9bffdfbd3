"""Domains with boundary: billiards, normals, projections, uniform laws and bad input."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError, NumericsError
from manifold_diffusion.manifolds import (
    Ball,
    Box,
    Domain,
    Euclidean,
    HalfSpace,
    Hemisphere,
    Polytope,
    Restricted,
    Sphere,
)
from manifold_diffusion.processes import BrownianMotion, Langevin
from manifold_diffusion.testing import check_manifold

from .draws import points, seeded

F32, F64 = torch.float32, torch.float64
TRIANGLE = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.0, 0.0, 2.0])


class Cap:
    """Points of the sphere higher than a height."""

    def __init__(self, height: float) -> None:
        self.height = height

    def __call__(self, x: Tensor) -> Tensor:
        return x[..., -1] - self.height


class Outside:
    """Points of the plane outside of a disc."""

    def __call__(self, x: Tensor) -> Tensor:
        return x.square().sum(-1) - 0.25


CAP = Restricted(Sphere(2), Cap(0.2))
HOLED = Restricted(Box([-1.0, -1.0], [1.0, 1.0]), Outside(), start=[0.75, 0.0])
DOMAINS = [HalfSpace(2), Hemisphere(2), Box([0.0, -1.0], [1.0, 2.0]), Ball(3), TRIANGLE, CAP]
domains = pytest.mark.parametrize("m", DOMAINS, ids=lambda m: type(m).__name__)


# ---------------------------------------------------------------------- geometry


@domains
@pytest.mark.parametrize("dtype", [F64, F32])
def test_reflected_steps_stay_inside_and_short_ones_are_geodesics(m: Domain, dtype: torch.dtype) -> None:
    x = points(m, 500, dtype=dtype)
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
    x = points(closed, 60)
    v = closed.random_tangent(x, generator=seeded(2))
    torch.testing.assert_close(closed.reflect(x, v), other.reflect(x, v), rtol=0, atol=1e-9)
    near = x[closed.boundary_distance(x) < 0.2]
    torch.testing.assert_close(closed.inward_normal(near), other.inward_normal(near))


def test_boxes_agree_with_the_polytope_of_their_faces() -> None:
    box, eye = Box([0.0, -1.0], [1.0, 2.0]), torch.eye(2)
    faces = Polytope(torch.cat([eye, -eye]), torch.tensor([1.0, 2.0, 0.0, 1.0]))
    x = points(box, 200)
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
    x = points(m, 200)
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
    x = points(m, 400)
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


def test_a_square_with_a_hole_keeps_the_uniform_law() -> None:
    assert HOLED.volume == pytest.approx(4 - math.pi / 4, rel=5e-3)  # pyright: ignore[reportAttributeAccessIssue]
    x = HOLED.random_uniform(20_000, generator=seeded(), dtype=F64)  # pyright: ignore[reportAttributeAccessIssue]
    v = 0.8 * HOLED.random_tangent(x, generator=seeded(1))
    y = HOLED.move(x, v)
    assert bool(HOLED.inside(y).all()) and not bool(HOLED.inside(x + v).all())
    features = torch.stack([y[:, 0].square() - x[:, 0].square(), y.square().sum(-1) - x.square().sum(-1), y[:, 0]], -1)
    assert float((features.mean(0).abs() / features.std(0) * len(x) ** 0.5).max()) < 5


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
    plane = Restricted(Euclidean(2), Outside(), start=[1.0, 0.0])
    with pytest.raises(CapabilityError, match=r"not compact.*Restricted\(Box"):
        BrownianMotion(plane, n_steps=10)
