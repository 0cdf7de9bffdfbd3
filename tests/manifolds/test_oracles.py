"""Agreement with geomstats, roma and scipy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manifold_diffusion.manifolds import SO3, Hyperboloid, Manifold, Sphere, Torus
from manifold_diffusion.manifolds.so3 import hat, rotation, vee

from .draws import F64, points, seeded


def test_geomstats_agrees() -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.hyperboloid import Hyperboloid as GHyperboloid
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.special_orthogonal import SpecialOrthogonal

    def far_from_cut(m: Manifold, seed: int) -> Tensor:
        return points(m, 32, seed, spread=0.5)

    group = SpecialOrthogonal(n=3)
    for m, space in (
        (Sphere(2), Hypersphere(2)),
        (Sphere(7), Hypersphere(7)),
        (Hyperboloid(3), GHyperboloid(3)),
        (SO3(), group),
    ):
        x, y = far_from_cut(m, 1), far_from_cut(m, 2)
        v, u = (0.5 * m.random_tangent(x, generator=seeded(s)) for s in (3, 4))
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
    x, y = m.random_uniform(32, generator=seeded(1), dtype=F64), m.random_uniform(32, generator=seeded(2), dtype=F64)
    a, b = (gs.array(torch.stack([p.cos(), p.sin()], -1).numpy()) for p in (x, y))
    squares = sum(
        torch.as_tensor(gs.to_numpy(circle.metric.dist(point_a=a[:, i], point_b=b[:, i]))) ** 2 for i in range(3)
    )
    torch.testing.assert_close(m.dist(x, y), torch.as_tensor(squares).sqrt(), rtol=1e-7, atol=1e-10)


def test_roma_and_scipy_agree_on_rotations() -> None:
    roma, scipy_rotation = pytest.importorskip("roma"), pytest.importorskip("scipy.spatial.transform").Rotation
    m = SO3()
    x, y = m.random_uniform(64, generator=seeded(1), dtype=F64), m.random_uniform(64, generator=seeded(2), dtype=F64)
    w = torch.randn(64, 3, generator=seeded(3), dtype=F64)
    torch.testing.assert_close(rotation(w), roma.rotvec_to_rotmat(w), rtol=0, atol=1e-12)
    torch.testing.assert_close(m.dist(x, y), roma.rotmat_geodesic_distance(x, y), rtol=1e-7, atol=1e-9)
    theirs = torch.as_tensor(scipy_rotation.from_matrix((x.mT @ y).numpy()).as_rotvec())
    torch.testing.assert_close(vee(x.mT @ m.log(x, y)), theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(m.exp(x, x @ hat(w)), x @ torch.matrix_exp(hat(w)), rtol=0, atol=1e-12)
    half = torch.matrix_exp(hat(vee(x.mT @ m.log(x, y))) / 2)
    torch.testing.assert_close(m.transport(x, y, x @ hat(w)), x @ half @ hat(w) @ half, rtol=0, atol=1e-9)
