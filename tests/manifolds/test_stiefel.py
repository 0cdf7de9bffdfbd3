"""Frames: oracles, agreement with spheres and rotations, derivatives, the logarithm's range, volume."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.manifolds import SO3, Sphere, Stiefel
from manifold_diffusion.manifolds._stiefel_log import rotation_log

from .draws import seeded

F32, F64 = torch.float32, torch.float64
SIZES = [(4, 2), (5, 2), (5, 3), (3, 2), (4, 1)]


def pairs(m: Stiefel, count: int, length: float) -> tuple[Tensor, Tensor]:
    """Frames, and tangent vectors of a length."""
    x = m.random_uniform(count, generator=seeded(1), dtype=F64)
    v = m.random_tangent(x, generator=seeded(2))
    return x, m.per_point(length / m.norm(x, v)) * v


# ---------------------------------------------------------------------- oracles


@pytest.mark.parametrize(("n", "p"), [(4, 2), (6, 3)])
def test_geomstats_agrees(n: int, p: int) -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.stiefel import Stiefel as GStiefel

    m, space = Stiefel(n, p), GStiefel(n, p)
    x, v = pairs(m, 6, 0.8)
    y = m.exp(x, v)
    gx, gy, gv = (gs.array(a.numpy()) for a in (x, y, v))
    theirs = {
        "exp": (y, space.metric.exp(tangent_vec=gv, base_point=gx)),
        "norm": (m.norm(x, v), space.metric.norm(gv, base_point=gx)),
        "log": (v, space.metric.log(point=gy, base_point=gx)),
    }
    for name, (ours, other) in theirs.items():
        error = (ours - torch.as_tensor(gs.to_numpy(other))).abs().max() / ours.abs().max()
        assert error <= (1e-4 if name == "log" else 1e-10), f"{name}: {error:.1e}"  # its logarithm is iterative


def test_unit_vectors_are_the_sphere() -> None:
    m, sphere = Stiefel(4, 1), Sphere(3)
    x, y = (sphere.random_uniform(32, generator=seeded(s), dtype=F64) for s in (1, 2))
    v = sphere.random_tangent(x, generator=seeded(3))
    x1, y1, v1 = x[..., None], y[..., None], v[..., None]
    torch.testing.assert_close(m.exp(x1, v1)[..., 0], sphere.exp(x, v))
    torch.testing.assert_close(m.log(x1, y1)[..., 0], sphere.log(x, y))
    torch.testing.assert_close(m.transport(x1, y1, v1)[..., 0], sphere.transport(x, y, v))
    torch.testing.assert_close(m.log_det_exp(x1, v1), sphere.log_det_exp(x, v), atol=1e-9, rtol=1e-9)
    assert m.volume == pytest.approx(sphere.volume)


def test_two_vectors_in_space_are_rotations() -> None:
    m, group = Stiefel(3, 2), SO3()
    x, y = (group.random_uniform(32, generator=seeded(s), dtype=F64) for s in (1, 2))
    v = group.random_tangent(x, generator=seeded(3))
    torch.testing.assert_close(m.exp(x[..., :2], v[..., :2]), group.exp(x, v)[..., :2])
    torch.testing.assert_close(m.log(x[..., :2], y[..., :2]), group.log(x, y)[..., :2])
    torch.testing.assert_close(m.dist(x[..., :2], y[..., :2]), group.dist(x, y))
    torch.testing.assert_close(m.transport(x[..., :2], y[..., :2], v[..., :2]), group.transport(x, y, v)[..., :2])
    assert m.volume == pytest.approx(group.volume)


def test_parallel_transport_is_the_limit_of_ladders() -> None:
    """Pole ladders with ever shorter rungs and rails: halving both divides the error by about 4."""
    m = Stiefel(5, 2)
    x, v = pairs(m, 4, 0.8)
    u = m.random_tangent(x, generator=seeded(3))
    exact = m.transport(x, m.exp(x, v), u)

    def error(rungs: int) -> float:
        at, carried, scale = x, u, 0.5 / rungs
        for k in range(1, rungs + 1):
            there, middle = m.exp(x, k / rungs * v), m.exp(x, (k - 0.5) / rungs * v)
            mirrored = m.exp(middle, -m.log(middle, m.exp(at, scale * carried)))
            at, carried = there, -m.log(there, mirrored) / scale
        return float(m.norm(at, carried - exact).max())

    errors = [error(rungs) for rungs in (2, 4, 8)]
    assert errors[0] < 0.1 and errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3


def test_logarithm_of_rotations() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    w = Stiefel(6, 5).random_uniform(8, generator=seeded(), dtype=F64)
    last = torch.linalg.svd(w)[0][..., 5:]
    full = torch.cat([w, last], -1)
    full = torch.cat([w, last * torch.linalg.det(full)[:, None, None]], -1)
    theirs = torch.stack([torch.as_tensor(linalg.logm(a.numpy())).real for a in full])
    torch.testing.assert_close(rotation_log(full), theirs, atol=1e-9, rtol=0)
    half_turns = torch.diag(torch.tensor([-1.0, -1, 1, 1, -1, -1], dtype=F64))
    turned = full @ half_turns @ full.mT
    torch.testing.assert_close(torch.linalg.matrix_exp(rotation_log(turned)), turned, atol=1e-12, rtol=0)
    assert torch.linalg.matrix_norm(rotation_log(turned)).max() == pytest.approx(2 * math.pi)


# ---------------------------------------------------------------------- the logarithm and its range


@pytest.mark.parametrize(("n", "p"), SIZES)
@pytest.mark.parametrize("fraction", [1e-9, 0.3, 0.99])
def test_logarithm_inverts_exp_below_the_injectivity_radius(n: int, p: int, fraction: float) -> None:
    m = Stiefel(n, p)
    x, v = pairs(m, 200, fraction * m.injectivity_radius)
    assert m.norm(x, m.log(x, m.exp(x, v)) - v).max() <= 1e-10


def test_uniform_pairs_get_a_geodesic_that_ends_in_them() -> None:
    """Most uniform pairs are near or beyond the injectivity radius; a few in 1,000 may not converge."""
    m = Stiefel(5, 2)
    x, y = (m.random_uniform(1000, generator=seeded(s), dtype=F64) for s in (1, 2))
    w = m.log(x, y)
    missed = m.dist(m.exp(x, w), y) > 1e-8
    assert missed.double().mean() <= 0.005
    assert (m.norm(x, w) - m.norm(y, m.log(y, x))).abs()[~missed].max() <= 1e-6
    assert m.norm(x, w).max() < 1.4 * m.injectivity_radius


@pytest.mark.parametrize("kind", ["generic", "coincident", "same span", "rank one"])
def test_derivatives_of_both_orders(kind: str) -> None:
    m = Stiefel(5, 2)
    x, v = pairs(m, 1, 1.0)
    skew = torch.tensor([[0.0, -0.4], [0.4, 0.0]], dtype=F64)
    normal = v - x @ (x.mT @ v)
    v = {"generic": v, "coincident": 0 * v, "same span": x @ skew, "rank one": normal * torch.tensor([1.0, 0])}[kind]
    y = m.exp(x, v)
    checks = [(m.exp, x, v), (m.log, x, y), (lambda a, b: m.dist(a, b).square(), x, y)]
    for f, *points in checks:
        points = [a.clone().requires_grad_() for a in points]
        torch.autograd.gradcheck(f, points, check_forward_ad=True, fast_mode=True, atol=1e-6)
        torch.autograd.gradgradcheck(f, points, fast_mode=True, atol=1e-5)


def test_float32_distances_of_close_frames() -> None:
    m = Stiefel(5, 2)
    x, v = pairs(m, 64, 1e-5)
    p, q = x.float(), m.exp(x, v).float()
    assert (m.dist(p, q) / m.dist(p.double(), q.double()) - 1).abs().max() <= 1e-3


# ---------------------------------------------------------------------- volume, uniform law, bad input


def test_volume_is_that_of_a_small_ball_seen_by_the_uniform_law() -> None:
    """The share of uniform frames within distance 1 is the integral of the distortion over the volume."""
    m, n = Stiefel(4, 2), 4000
    x = m.random_uniform(n, generator=seeded(), dtype=F64)
    inside = (m.dist(m.origin(F64), x) < 1.0).double()
    at = m.origin(F64).expand(n, 4, 2)
    v = m.random_tangent(at, generator=seeded(1))
    u = torch.rand(n, generator=seeded(2), dtype=F64) ** (1 / m.dim)
    ball = math.pi ** (m.dim / 2) / math.gamma(m.dim / 2 + 1)
    weight = m.log_det_exp(at, m.per_point(u / m.norm(at, v)) * v).exp() * ball / m.volume
    error = math.hypot(float(inside.std()), float(weight.std())) / math.sqrt(n)
    assert abs(inside.mean() - weight.mean()) <= 5 * error
    assert abs(inside.mean() - 1.8 * weight.mean()) > 5 * error


def test_embedding_never_overstates_distances() -> None:
    m = Stiefel(5, 2)
    x, y = (m.random_uniform(500, generator=seeded(s), dtype=F64) for s in (1, 2))
    assert ((m.embed(x) - m.embed(y)).norm(dim=-1) <= m.dist(x, y)).all()


@pytest.mark.parametrize("size", [(3, 0), (2, 4), (1, 1)])
def test_bad_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"1 <= p < n; got n=\d, p=\d|integer p >= 1; got 0"):
        Stiefel(*size)


def test_full_frames_name_the_alternative() -> None:
    with pytest.raises(ConfigError, match="two components; for one of them take p = n - 1"):
        Stiefel(3, 3)
