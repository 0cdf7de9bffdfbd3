"""Geometry: laws on every manifold, laws that must fail, manifolds of one's own, oracles, singularities, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError
from manifold_diffusion._safe import cosh_sinhc, safe_norm, x_over_sinh
from manifold_diffusion.manifolds import (
    SO3,
    Compact,
    Euclidean,
    Hyperboloid,
    Manifold,
    Product,
    Spectral,
    Sphere,
    Torus,
    divergence,
    gradient,
    hutchinson_divergence,
)
from manifold_diffusion.manifolds.so3 import hat, rotation, vee
from manifold_diffusion.testing import LAWS, Law, LawError, check_manifold, instances

F32, F64 = torch.float32, torch.float64
BUILT_IN = [pytest.param(m, id=name) for name, m in instances()]
CASES = [
    pytest.param(m, law, dtype, id=f"{name}-{law.name}-{str(dtype)[6:]}")
    for name, m in instances()
    for law in LAWS.values()
    for dtype in (F64, F32)
    if law.applies(m, dtype)
]


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _points(m: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64, spread: float = 1.0) -> Tensor:
    origin = m.origin(dtype=dtype).expand(n, *m.point_shape)
    return m.exp(origin, spread * m.random_tangent(origin, generator=_seeded(seed)))


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize(("manifold", "law", "dtype"), CASES)
def test_law(manifold: Manifold, law: Law, dtype: torch.dtype) -> None:
    law(manifold, dtype, _seeded())


SHAPES = st.sampled_from([(), (1,), (4,), (2, 3), (0,), (1, 2, 2)])


@pytest.mark.parametrize("m", BUILT_IN)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), fraction=st.floats(1e-6, 0.95), shape=SHAPES)
def test_log_inverts_exp_at_any_radius_and_batch_shape(
    m: Manifold, seed: int, fraction: float, shape: tuple[int, ...]
) -> None:
    generator = _seeded(seed)
    origin = m.origin(dtype=F64).expand(*shape, *m.point_shape)
    x = m.exp(origin, m.random_tangent(origin, generator=generator))
    v = m.random_tangent(x, generator=generator)
    v = m.per_point(fraction * min(m.injectivity_radius, 4.0) / m.norm(x, v)) * v
    y = m.exp(x, v)
    assert m.dist(x, y).shape == shape
    torch.testing.assert_close(m.log(x, y), v, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("m", BUILT_IN)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), t=st.floats(0, 1))
def test_geodesic_runs_backwards(m: Manifold, seed: int, t: float) -> None:
    x, y = _points(m, 8, seed, spread=0.4), _points(m, 8, seed + 1, spread=0.4)
    assert m.dist(m.geodesic(x, y, t), m.geodesic(y, x, 1 - t)).max() <= 1e-7


# ---------------------------------------------------------------------- laws that must fail


def _broken_tangent(m: Manifold):
    return lambda x, generator=None: 1.03 * m.to_tangent(x, torch.randn(x.shape, generator=generator, dtype=x.dtype))


CONTROLS = {
    "random_tangent_is_standard_normal": lambda m: {"random_tangent": _broken_tangent(m)},
    "divergence_theorem": lambda m: {
        "random_uniform": lambda n, generator=None, dtype=None, device=None: m.project(
            torch.randn(n, 3, generator=generator, dtype=dtype) + torch.tensor([0.3, 0, 0], dtype=dtype)
        )
    },
    "uniform_law_has_no_waves": lambda m: {
        "random_uniform": lambda n, generator=None, dtype=None, device=None: m.project(
            torch.randn(n, 3, generator=generator, dtype=dtype) + torch.tensor([0.3, 0, 0], dtype=dtype)
        )
    },
    "level_sums_reproduce": lambda m: {"level_sums": lambda x, y, n: 1.05 * type(m).level_sums(m, x, y, n)},
    "level_sums_are_eigenfunctions": lambda m: {"eigenvalues": lambda n: torch.arange(n, dtype=F64) ** 2},
    "transport_of_velocity": lambda m: {"transport": lambda x, y, v: m.to_tangent(y, v)},
    "transport_isometry": lambda m: {"transport": lambda x, y, v: m.to_tangent(y, v)},
    "short_distances": lambda m: {"dist": lambda x, y: (x * y).sum(-1).clamp(-1, 1).acos()},
    "singular_points_are_finite": lambda m: {"norm": lambda x, v: v.square().sum(-1).sqrt()},
    "log_det_exp_definition": lambda m: {"log_det_exp": lambda x, v: 0 * v.sum(-1)},
    "laplacian_is_geodesic": lambda m: {"tangent_basis": lambda x: 1.01 * type(m).tangent_basis(m, x)},
    "gradient_of_squared_distance": lambda m: {"log": lambda x, y: 1.01 * type(m).log(m, x, y)},
    "batch_is_a_loop": lambda m: {"norm": lambda x, v: v.norm()},
    "isometries_commute": lambda m: {
        "exp": lambda x, v: m.project(x + v * torch.tensor([1.0, 1.0, 1.1], dtype=x.dtype))
    },
    "derivatives_at_zero": lambda m: {"exp": lambda x, v: m.project(x + v * (1 + safe_norm(v, keepdim=True).sqrt()))},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_law_fails_where_it_must(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    for method, wrong in CONTROLS[name](m).items():
        monkeypatch.setattr(m, method, wrong)
    with pytest.raises(LawError, match=name):
        check_manifold(m, laws=[name])


def test_check_manifold_lists_every_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    monkeypatch.setattr(m, "transport", lambda x, y, v: v)
    monkeypatch.setattr(m, "log_det_exp", lambda x, v: 1 / 0)
    with pytest.raises(LawError) as error:
        check_manifold(
            m,
            dtypes=[F64],
            laws=["transport_isometry", "transport_inverse", "vectors_are_tangent", "log_det_exp_definition"],
        )
    lines = str(error.value).splitlines()
    assert lines[0] == "Sphere(2) breaks 2 of 4 laws:"
    assert "log_det_exp_definition (float64): ZeroDivisionError" in lines[1]
    assert "transport_isometry (float64): Sphere(2) breaks transport_isometry: normal part of T u is" in lines[2]


def test_check_manifold_knows_its_laws() -> None:
    with pytest.raises(CapabilityError, match="no_such_law"):
        check_manifold(Sphere(2), laws=["no_such_law"])


# ---------------------------------------------------------------------- a manifold of one's own


class HalfPlane(Manifold):
    """Hyperbolic plane as pairs (a, b), b > 0, with the metric |v|^2 / b^2: a chart, not an isometric embedding."""

    def __init__(self) -> None:
        super().__init__(2, (2,))

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.tensor([0.0, 1.0], dtype=dtype, device=device)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1) / x[..., 1].square()

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0], x[..., 1].clamp_min(1e-6)], -1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        w = v / x[..., 1:]
        c, k = cosh_sinhc((w * w).sum(-1))
        up, side = k * w[..., 1], k * w[..., 0]
        # 1 / (c - up) without cancellation, as c^2 = 1 + side^2 + up^2.
        b = torch.where(up > 0, (c + up) / (1 + side * side), 1 / (c - torch.where(up > 0, 0.0, up)))
        return x[..., 1:] * torch.stack([side * b, b], -1) + torch.nn.functional.pad(x[..., :1], (0, 1))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        p = (y - x) / x[..., 1:]
        a, b = p[..., 0], y[..., 1] / x[..., 1]
        space = torch.stack([a / b, (a * a + p[..., 1] * (b + 1)) / (2 * b)], -1)
        return x[..., 1:] * space * x_over_sinh(torch.asinh(safe_norm(space))).unsqueeze(-1)


def test_five_methods_make_a_manifold() -> None:
    records = check_manifold(HalfPlane())
    assert len(records) > 40
    assert all(record.passed for record in records)


def test_divergence_in_a_chart_has_the_change_of_volume() -> None:
    m, x = HalfPlane(), _points(HalfPlane(), 64)
    value, div = divergence(m, lambda p: torch.stack([p[..., 0] * p[..., 1], p[..., 1] ** 3], -1), x)
    # div v = d_a v_a + d_b v_b - 2 v_b / b
    torch.testing.assert_close(div, x[:, 1] + 3 * x[:, 1] ** 2 - 2 * x[:, 1] ** 2)
    torch.testing.assert_close(m.divergence_correction(x, value), -2 * value[:, 1] / x[:, 1])
    _, estimates = hutchinson_divergence(m, lambda p: p**2, x[:1].expand(4000, 2), 1, generator=_seeded())
    _, exact = divergence(m, lambda p: p**2, x[:1])
    assert (estimates.mean() - exact).abs() <= 5 * estimates.std() / 4000**0.5


def test_divergence_theorem_in_a_chart_by_quadrature() -> None:
    m = HalfPlane()
    # A field that vanishes outside a disk of the half-plane: its divergence integrates to 0 in the measure da db / b^2.
    axis = torch.linspace(-1, 1, 401, dtype=F64)
    x = torch.stack(torch.meshgrid(axis, axis + 2, indexing="ij"), -1).reshape(-1, 2)

    def field(p: Tensor) -> Tensor:
        bump = (1 - p[..., 0] ** 2 - (p[..., 1] - 2) ** 2).clamp_min(0) ** 4
        return bump.unsqueeze(-1) * torch.stack([p[..., 1], p[..., 0] + p[..., 1] ** 2], -1)

    value, div = divergence(m, field, x)
    density = x[:, 1] ** -2
    assert abs((div * density).sum() / (div.abs() * density).sum()) <= 1e-6
    wrong = div - m.divergence_correction(x, value)
    assert abs((wrong * density).sum() / (wrong.abs() * density).sum()) >= 1e-2


def test_calling_a_chart_isometric_breaks_its_laplacian(monkeypatch: pytest.MonkeyPatch) -> None:
    m = HalfPlane()
    monkeypatch.setattr(m, "isometric", True)
    with pytest.raises(LawError, match="laplacian_is_geodesic"):
        check_manifold(m, laws=["laplacian_is_geodesic"])


class ConformalSphere(Manifold):
    """The sphere in the metric exp(2 z) times the round one: a curved surface with codimension one, not isometric."""

    def __init__(self) -> None:
        super().__init__(2, (3,))

    sphere = Sphere(2)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1) * (2 * x[..., 2]).exp()

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.sphere.to_tangent(x, v)

    def project(self, x: Tensor) -> Tensor:
        return self.sphere.project(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    log = exp


def test_divergence_on_a_conformal_sphere() -> None:
    m, x = ConformalSphere(), Sphere(2).random_uniform(32, generator=_seeded(), dtype=F64)
    e = torch.tensor([0.3, -0.5, 0.8], dtype=F64)
    value, div = divergence(m, lambda p: m.to_tangent(p, e.expand_as(p)), x)
    # The metric is exp(2 z) times the round one, its area exp(2 z): div = div_round + 2 v_z.
    torch.testing.assert_close(div, -2 * (x @ e) + 2 * value[:, 2])
    basis = m.tangent_basis(x)
    gram = m.inner(
        x[:, None, None].expand(-1, 2, 2, -1),
        basis[:, None].expand(-1, 2, -1, -1),
        basis[:, :, None].expand(-1, -1, 2, -1),
    )
    torch.testing.assert_close(gram, torch.eye(2, dtype=F64).expand_as(gram))


# ---------------------------------------------------------------------- known values


def test_divergence_of_known_fields() -> None:
    e = torch.tensor([0.3, -0.5, 0.8, 0.1], dtype=F64)
    sphere, hyperboloid = Sphere(3), Hyperboloid(3)
    x = sphere.random_uniform(16, generator=_seeded(), dtype=F64)
    _, div = divergence(sphere, lambda p: sphere.to_tangent(p, e.expand_as(p)), x)
    torch.testing.assert_close(div, -3 * (x @ e))
    # On the hyperboloid x itself spans the normal space with <x, x> = -1: div P e = +n <x, e>.
    y = _points(hyperboloid, 16)
    _, div = divergence(hyperboloid, lambda p: hyperboloid.to_tangent(p, e.expand_as(p)), y)
    torch.testing.assert_close(div, 3 * ((y[:, 1:] * e[1:]).sum(-1) - y[:, 0] * e[0]))
    rotation_field = SO3()
    r = rotation_field.random_uniform(16, generator=_seeded(), dtype=F64)
    _, div = divergence(rotation_field, lambda p: rotation_field.from_frame(p, e[:3].expand(*p.shape[:-2], 3)), r)
    torch.testing.assert_close(div, torch.zeros(16, dtype=F64), atol=1e-12, rtol=0)


def test_gradient_of_a_linear_function() -> None:
    m, x = Sphere(2), Sphere(2).random_uniform(8, generator=_seeded(), dtype=F64)
    e = torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    torch.testing.assert_close(gradient(m, lambda p: p @ e, x), m.to_tangent(x, e.expand_as(x)))


@pytest.mark.parametrize(
    ("m", "volume"),
    [
        (Sphere(1), 2 * math.pi),
        (Sphere(2), 4 * math.pi),
        (Sphere(3), 2 * math.pi**2),
        (Torus(3), (2 * math.pi) ** 3),
        (SO3(), 8 * math.pi**2),
    ],
    ids=str,
)
def test_volume(m: Compact, volume: float) -> None:
    assert m.volume == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize("m", [pytest.param(m, id=name) for name, m in instances(Spectral)])
def test_eigenvalues_obey_the_law_of_weyl(m: Spectral) -> None:
    # N(lambda) ~ omega_d volume lambda^(d/2) / (2 pi)^d with an error of a boundary term: loose, but it ties volume to
    # spectrum.
    levels = 40 if m.dim < 3 else 16
    count = float(m.multiplicities(levels).sum() - m.multiplicities(levels)[-1] / 2)
    ball = math.pi ** (m.dim / 2) / math.gamma(m.dim / 2 + 1)
    shift = ((m.dim - 1) / 2) ** 2 if isinstance(m, Sphere) else 0.0  # curvature moves the spectrum of a sphere
    weyl = ball * m.volume * float(m.eigenvalues(levels)[-1] + shift) ** (m.dim / 2) / (2 * math.pi) ** m.dim
    assert count / weyl == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("m", [*BUILT_IN, Product(Sphere(2), Euclidean(1), weights=[2.0, 0.5])])
def test_chord_of_the_embedding_never_exceeds_the_distance(m: Manifold) -> None:
    x, y = _points(m, 300, seed=0, spread=2.0), _points(m, 300, seed=1, spread=2.0)
    chord = (m.embed(x) - m.embed(y)).norm(dim=-1)
    assert float((chord - m.dist(x, y)).max()) < 1e-9
    near = m.exp(x, 1e-4 * m.random_tangent(x, generator=_seeded(2)))
    assert float((m.embed(x) - m.embed(near)).abs().amax(-1).min()) > 1e-9


# ---------------------------------------------------------------------- singular points, exactly


AXES = torch.cat([torch.eye(3, dtype=F64), torch.randn(4, 3, generator=_seeded(), dtype=F64)])
HALF_TURNS = [2 * torch.outer(a, a) / a.dot(a) - torch.eye(3, dtype=F64) for a in AXES]


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("turn", HALF_TURNS, ids=range(len(HALF_TURNS)))
def test_half_turn_has_a_finite_minimal_logarithm(turn: Tensor, dtype: torch.dtype) -> None:
    m = SO3()
    x, y = m.identity(dtype=dtype).requires_grad_(), turn.to(dtype).requires_grad_()
    w = m.log(x, y)
    grads = torch.autograd.grad(w.sum() + m.dist(x, y), (x, y))
    assert all(torch.isfinite(g).all() for g in grads)
    assert m.dist(x, y).item() == pytest.approx(math.pi, abs=1e-6)
    torch.testing.assert_close(m.exp(x, w), y, atol=1e-6 if dtype == F32 else 1e-13, rtol=0)
    axis = vee(w.detach())
    assert axis[axis.abs().argmax()] > 0


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_logarithm_at_antipodes(n: int, dtype: torch.dtype) -> None:
    m = Sphere(n)
    x = torch.cat(
        [
            m.random_uniform(20, generator=_seeded(), dtype=dtype),
            torch.eye(n + 1, dtype=dtype),
            -torch.eye(n + 1, dtype=dtype),
        ]
    )
    for y in (-x, -x * (1 + torch.finfo(dtype).eps), -x * (1 - torch.finfo(dtype).eps)):
        w = m.log(x, y)
        m.check_tangent(x, w)
        torch.testing.assert_close(m.norm(x, w), torch.full((len(x),), math.pi, dtype=dtype))
        torch.testing.assert_close(m.exp(x, w), -x, atol=1e-6, rtol=0)
    torch.testing.assert_close(m.log(x, -x), math.pi * m.tangent_basis(x)[:, 0])


def test_torus_cut_goes_in_the_positive_direction() -> None:
    m = Torus(1)
    for a in (-3.0, -1.0, 0.0, 0.5, math.pi):
        x = torch.tensor([a], dtype=F64)
        assert m.log(x, m.exp(x, torch.tensor([math.pi], dtype=F64))).item() == pytest.approx(math.pi)
    wrapped = m.exp(torch.zeros(3, 1, dtype=F64), torch.tensor([[math.pi], [-math.pi], [3 * math.pi]], dtype=F64))
    torch.testing.assert_close(wrapped, torch.full((3, 1), math.pi, dtype=F64))


@pytest.mark.parametrize("dtype", [F64, F32])
def test_far_hyperbolic_distance_is_right(dtype: torch.dtype) -> None:
    m = Hyperboloid(3)
    o = m.origin(dtype=dtype)
    for length in (1.0, 5.0, 10.0, 20.0):
        a, b = (m.exp(o, length * torch.tensor(e, dtype=dtype)) for e in ([0.0, 1, 0, 0], [0.0, 0, 1, 0]))
        assert m.dist(o, a).item() == pytest.approx(length, rel=1e-6)
        # Right-angled triangle: cosh c = cosh a cosh b.
        assert m.dist(a, b).item() == pytest.approx(math.acosh(math.cosh(length) ** 2), rel=1e-6)


@pytest.mark.parametrize("radius", [0.0, 1.0, 3.0, 6.0, 9.0])
@pytest.mark.parametrize("length", [1e-4, 1e-2, 1.0])
def test_float32_hyperbolic_distance_keeps_its_accuracy_far_from_the_origin(radius: float, length: float) -> None:
    m, n = Hyperboloid(3), 500
    o = m.origin(dtype=F64).expand(n, 4)
    v, w = (m.random_tangent(o, generator=_seeded(s)) for s in (1, 2))
    x = m.exp(o, radius * v / m.norm(o, v).unsqueeze(-1))
    w = m.transport(o, x, w)
    x, y = x.float(), m.exp(x, length * w / m.norm(x, w).unsqueeze(-1)).float()
    truth = m.dist(x.double(), y.double())
    far = truth > 1e-6  # rounding to float32 makes some of the closest points coincide
    resolution = 1e-7 * math.sinh(radius)  # of a direction, as a distance
    assert (m.dist(x, y)[far] / truth[far] - 1).abs().max() <= 2e-5 + resolution


def test_walk_of_many_steps_stays_on_the_manifold() -> None:
    for m in (SO3(), Sphere(2), Hyperboloid(2), Torus(2)):
        x, generator = m.origin(dtype=F32).expand(16, *m.point_shape), _seeded()
        for _ in range(300):
            x = m.exp(x, 0.05 * m.random_tangent(x, generator=generator))
        assert m.defect(x).max() <= 1e-6


# ---------------------------------------------------------------------- oracles


def test_geomstats_agrees() -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.hyperboloid import Hyperboloid as GHyperboloid
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.special_orthogonal import SpecialOrthogonal

    def far_from_cut(m: Manifold, seed: int) -> Tensor:
        return _points(m, 32, seed, spread=0.5)

    group = SpecialOrthogonal(n=3)
    for m, space in (
        (Sphere(2), Hypersphere(2)),
        (Sphere(7), Hypersphere(7)),
        (Hyperboloid(3), GHyperboloid(3)),
        (SO3(), group),
    ):
        x, y = far_from_cut(m, 1), far_from_cut(m, 2)
        v, u = (0.5 * m.random_tangent(x, generator=_seeded(s)) for s in (3, 4))
        gx, gy, gv, gu = (gs.array(a.numpy()) for a in (x, y, v, u))
        pairs = {
            "exp": (m.exp(x, v), space.metric.exp(tangent_vec=gv, base_point=gx)),
            "log": (m.log(x, y), space.metric.log(point=gy, base_point=gx)),
        }
        scale = float(space.metric.norm(gv[0], base_point=gx[0])) / float(m.norm(x[0], v[0]))
        pairs["dist"] = (scale * m.dist(x, y), space.metric.dist(point_a=gx, point_b=gy))
        if m != SO3():
            pairs["transport"] = (
                m.transport(x, y, u),
                space.metric.parallel_transport(tangent_vec=gu, base_point=gx, end_point=gy),
            )
        for name, (ours, theirs) in pairs.items():
            error = (ours - torch.as_tensor(gs.to_numpy(theirs))).abs().max() / ours.abs().max()
            assert error <= 1e-10, f"{name} on {m}: {error:.1e}"


def test_torus_is_a_product_of_geomstats_circles() -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.hypersphere import Hypersphere

    m, circle = Torus(3), Hypersphere(1)
    x, y = m.random_uniform(32, generator=_seeded(1), dtype=F64), m.random_uniform(32, generator=_seeded(2), dtype=F64)
    a, b = (gs.array(torch.stack([p.cos(), p.sin()], -1).numpy()) for p in (x, y))
    squares = sum(
        torch.as_tensor(gs.to_numpy(circle.metric.dist(point_a=a[:, i], point_b=b[:, i]))) ** 2 for i in range(3)
    )
    torch.testing.assert_close(m.dist(x, y), torch.as_tensor(squares).sqrt(), rtol=1e-7, atol=1e-10)


def test_roma_and_scipy_agree_on_rotations() -> None:
    roma, scipy_rotation = pytest.importorskip("roma"), pytest.importorskip("scipy.spatial.transform").Rotation
    m = SO3()
    x, y = m.random_uniform(64, generator=_seeded(1), dtype=F64), m.random_uniform(64, generator=_seeded(2), dtype=F64)
    w = torch.randn(64, 3, generator=_seeded(3), dtype=F64)
    torch.testing.assert_close(rotation(w), roma.rotvec_to_rotmat(w), rtol=0, atol=1e-12)
    torch.testing.assert_close(m.dist(x, y), roma.rotmat_geodesic_distance(x, y), rtol=1e-7, atol=1e-9)
    theirs = torch.as_tensor(scipy_rotation.from_matrix((x.mT @ y).numpy()).as_rotvec())
    torch.testing.assert_close(vee(x.mT @ m.log(x, y)), theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(m.exp(x, x @ hat(w)), x @ torch.matrix_exp(hat(w)), rtol=0, atol=1e-12)
    half = torch.matrix_exp(hat(vee(x.mT @ m.log(x, y))) / 2)
    torch.testing.assert_close(m.transport(x, y, x @ hat(w)), x @ half @ hat(w) @ half, rtol=0, atol=1e-9)


# ---------------------------------------------------------------------- products


def test_product_adds_weighted_squares() -> None:
    a, b = Sphere(2), Torus(2)
    m = Product(a, b, weights=[4.0, 0.25])
    x, y = m.random_uniform(16, generator=_seeded(1), dtype=F64), m.random_uniform(16, generator=_seeded(2), dtype=F64)
    (xa, xb), (ya, yb) = m.split(x), m.split(y)
    torch.testing.assert_close(m.dist(x, y) ** 2, 4 * a.dist(xa, ya) ** 2 + 0.25 * b.dist(xb, yb) ** 2)
    assert m.volume == pytest.approx(a.volume * b.volume * 4.0 ** (2 / 2) * 0.25 ** (2 / 2))
    assert m.injectivity_radius == pytest.approx(0.5 * math.pi)


def test_brownian_increments_of_a_product_slow_down_with_the_weight() -> None:
    m = Product(Euclidean(1), Euclidean(1), weights=[4.0, 0.25])
    v = m.random_tangent(torch.zeros(50_000, 2, dtype=F64), generator=_seeded())
    torch.testing.assert_close(v.var(0), torch.tensor([0.25, 4.0], dtype=F64), rtol=5 * (2 / 50_000) ** 0.5, atol=0)


def test_split_and_join_are_inverse_and_broadcast() -> None:
    m = Product(SO3(), Product(Sphere(2), Euclidean(1)), Torus(2))
    x = torch.randn(4, 5, *m.point_shape, generator=_seeded())
    assert torch.equal(m.join(*m.split(x)), x)
    assert [tuple(p.shape) for p in m.split(x)] == [(4, 5, 3, 3), (4, 5, 4), (4, 5, 2)]
    joined = m.join(torch.eye(3), torch.zeros(4, 1, 4), torch.zeros(5, 2))
    assert joined.shape == (4, 5, *m.point_shape)
    with pytest.raises(ManifoldError, match="one tensor per factor"):
        m.join(torch.eye(3))


def test_product_powers_follow_from_its_factors() -> None:
    assert isinstance(Product(SO3(), Sphere(2)), Compact)
    assert not isinstance(Product(SO3(), Euclidean(3)), Compact)
    assert Product(SO3(), Euclidean(3)) != Product(Euclidean(3), SO3())
    assert Product(Sphere(2), weights=[2.0]) != Product(Sphere(2))
    assert len({Sphere(2), Sphere(2), Sphere(3), Product(Sphere(2)), Product(Sphere(2))}) == 3
    assert repr(Product(Sphere(2), Torus(1), weights=[2, 0.5])) == "Product(Sphere(2), Torus(1), weights=[2.0, 0.5])"


IMPOSSIBLE = {
    "no factor": lambda: Product(),
    "negative weight": lambda: Product(Sphere(2), weights=[-1.0]),
    "too many weights": lambda: Product(Sphere(2), weights=[1, 1]),
    "no manifold": lambda: Product(3),
    "sphere": lambda: Sphere(0),
    "torus": lambda: Torus(0),
    "euclidean": lambda: Euclidean(0),
    "hyperboloid": lambda: Hyperboloid(0),
}


@pytest.mark.parametrize("make", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_manifolds_are_refused(make) -> None:
    with pytest.raises(ConfigError, match=r"needs|must be"):
        make()


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("m", BUILT_IN)
def test_check_point_names_the_row_of_a_nan(m: Manifold) -> None:
    x = _points(m, 5)
    x[3].view(-1)[-1] = math.nan
    with pytest.raises(ManifoldError, match=r"x has 1 of 5 points with NaN or infinite entries, first at row 3"):
        m.check_point(x)


@pytest.mark.parametrize("m", [m for _, m in instances() if not isinstance(m, Euclidean)], ids=repr)
def test_check_point_names_row_and_amount_off_the_manifold(m: Manifold) -> None:
    x = _points(m, 5)
    x[2] = x[2] + (10 if isinstance(m, Torus) else 0.5)
    with pytest.raises(
        ManifoldError,
        match=r"data is not on .* = \d\.\de[+-]\d\d > 1e-09 \(float64\), first at row 2, 1 of 5 points. Project first",
    ):
        m.check_point(x, name="data")


def test_amount_off_the_manifold_is_measured() -> None:
    with pytest.raises(
        ManifoldError, match=r"\| \|x\|\^2 - 1 \| = 3\.0e\+00 > 1e-05 \(float32\), it is the only point"
    ):
        Sphere(2).check_point(torch.tensor([2.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, 0.0, 0.0], "must be a torch.Tensor; got list"),
        (torch.tensor([1, 0, 0]), "floating dtype; got int64"),
        (torch.ones(2, 4), r"shape \(2, 4\); points of Sphere\(2\) have shape \(\*batch, 3\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.zeros(2, 3), "not on"),
    ],
)
def test_check_point_refuses(x: object, message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        Sphere(2).check_point(x)  # pyright: ignore[reportArgumentType]


def test_check_tangent_names_row_and_shape() -> None:
    m, x = Sphere(2), _points(Sphere(2), 4)
    v = m.random_tangent(x, generator=_seeded())
    m.check_tangent(x, v)
    v[1] = v[1] + x[1]
    with pytest.raises(ManifoldError, match=r"u is not tangent to Sphere\(2\) at x: .* first at row 1"):
        m.check_tangent(x, v, name="u")
    with pytest.raises(ManifoldError, match=r"v has shape \(2, 3\); .* \(4, 3\)"):
        m.check_tangent(x, v[:2])
    v[2] = math.inf
    with pytest.raises(ManifoldError, match="row 2"):
        m.check_tangent(x, v)


@pytest.mark.parametrize("m", BUILT_IN)
def test_an_empty_batch_is_a_valid_batch(m: Manifold) -> None:
    x = m.origin(dtype=F64).expand(0, *m.point_shape)
    m.check_point(x)
    m.check_tangent(x, m.random_tangent(x, generator=_seeded()))


def test_level_enumeration_has_a_limit() -> None:
    with pytest.raises(CapabilityError, match="Torus"):
        Torus(9).eigenvalues(5)
    assert Torus(9).multiplicities(2).tolist() == [1, 18]
