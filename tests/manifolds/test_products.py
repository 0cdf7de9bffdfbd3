"""Products weigh and split their factors; impossible manifolds are refused."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.manifolds import SO3, Compact, Euclidean, Hyperboloid, Product, Sphere, Torus

from .draws import F64, seeded


def test_product_adds_weighted_squares() -> None:
    a, b = Sphere(2), Torus(2)
    m = Product(a, b, weights=[4.0, 0.25])
    x, y = m.random_uniform(16, generator=seeded(1), dtype=F64), m.random_uniform(16, generator=seeded(2), dtype=F64)
    (xa, xb), (ya, yb) = m.split(x), m.split(y)
    torch.testing.assert_close(m.dist(x, y) ** 2, 4 * a.dist(xa, ya) ** 2 + 0.25 * b.dist(xb, yb) ** 2)
    assert m.volume == pytest.approx(a.volume * b.volume * 4.0 ** (2 / 2) * 0.25 ** (2 / 2))
    assert m.injectivity_radius == pytest.approx(0.5 * math.pi)


def test_brownian_increments_of_a_product_slow_down_with_the_weight() -> None:
    m = Product(Euclidean(1), Euclidean(1), weights=[4.0, 0.25])
    v = m.random_tangent(torch.zeros(50_000, 2, dtype=F64), generator=seeded())
    torch.testing.assert_close(v.var(0), torch.tensor([0.25, 4.0], dtype=F64), rtol=5 * (2 / 50_000) ** 0.5, atol=0)


def test_split_and_join_are_inverse_and_broadcast() -> None:
    m = Product(SO3(), Product(Sphere(2), Euclidean(1)), Torus(2))
    x = torch.randn(4, 5, *m.point_shape, generator=seeded())
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
