"""Equal distances on any manifold, curves of the stated order, and bad strings."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, ManifoldError, NumericsError
from manifold_diffusion.manifolds import SE3N, SO3, SPD, Euclidean, Hyperboloid, Manifold, Power, Product, Sphere, Torus
from manifold_diffusion.solvers import arc_length, curve_point, equal_arc_length
from manifold_diffusion.testing import convergence_slope

from .flows import seeded
from .valleys import on_sphere


def uneven(M: Manifold, dtype: torch.dtype, n: int = 12) -> torch.Tensor:
    """A smooth curve with nodes at very unequal distances."""
    x = M.origin(dtype)
    u, v = 0.6 * M.random_tangent(x.expand(2, *M.point_shape), generator=seeded(3))
    s = M.per_point(torch.linspace(0, 1, n, dtype=dtype) ** 2)
    return M.exp(x.expand(n, *M.point_shape), s * u + s * s * v)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "M",
    [Sphere(2), Torus(2), SO3(), SE3N(3), SPD(2), Hyperboloid(2), Power(Sphere(2), 2), Product(SO3(), Euclidean(2))],
    ids=str,
)
def test_nodes_are_at_equal_distances(M: Manifold, dtype: torch.dtype) -> None:
    nodes = uneven(M, dtype)
    gaps = arc_length(M, nodes).diff()
    assert gaps.max() > 3 * gaps.min()
    for order in (1, 3):
        tolerance = 1e-6 if dtype == torch.float64 else 1e-4
        even = equal_arc_length(M, nodes, 20, order=order, tolerance=tolerance)
        gaps = arc_length(M, even).diff()
        assert float((gaps / gaps.mean() - 1).abs().max()) <= tolerance
        assert torch.equal(even[0], nodes[0]) and torch.equal(even[-1], nodes[-1])
        M.check_point(even)


@pytest.mark.parametrize(("order", "expected"), [(1, 2.0), (3, 4.0)])
def test_curves_have_their_order(order: int, expected: float) -> None:
    """Distance from a circle of latitude of curves through its points."""
    M, errors, counts = Sphere(2), [], (8, 16, 32)
    for n in counts:
        nodes = torch.stack([on_sphere(1.0, 2 * k / n) for k in range(n + 1)])
        x = curve_point(M, nodes, torch.linspace(0, n, 8 * n + 1, dtype=torch.float64)[8:-8], order)
        errors.append(float((torch.atan2(x[:, :2].norm(dim=-1), x[:, 2]) - 1.0).abs().max()))
    assert convergence_slope(errors, [1 / n for n in counts]).order > expected - 0.25
    assert expected == 2.0 or errors[0] < 1e-4


def test_a_curve_passes_through_its_nodes_and_a_geodesic_is_reproduced() -> None:
    M = SO3()
    nodes = uneven(M, torch.float64)
    at = torch.arange(len(nodes), dtype=torch.float64)
    assert torch.allclose(curve_point(M, nodes, at), nodes, atol=1e-12)
    ends = nodes[[0, -1]]
    line = equal_arc_length(M, ends, 7)
    exact = M.geodesic(ends[0].expand(7, 3, 3), ends[1].expand(7, 3, 3), torch.linspace(0, 1, 7, dtype=torch.float64))
    assert torch.allclose(line, exact, atol=1e-12)


def test_rounding_of_the_coordinates_is_no_fold() -> None:
    """float32, 50 nodes whose spacing is known to 1e-3 and less."""
    sphere, plane = Sphere(2), Euclidean(3)
    x = sphere.project(torch.tensor([0.4, 0.5, 0.8]))
    y, v = torch.tensor([100.3, 99.1, 101.7]), torch.tensor([0.0, 0.01, 0.0])
    near = torch.stack([x, sphere.exp(x, sphere.to_tangent(x, v))])
    for M, ends in ((sphere, near), (plane, torch.stack([y, y + 50 * v + 0.3]))):
        even = equal_arc_length(M, ends, 50)
        gaps = arc_length(M, even).diff()
        assert 1e-4 < float((gaps / gaps.mean() - 1).abs().max()) < 1e-2
    with pytest.raises(NumericsError, match="no more than the rounding of their coordinates"):
        equal_arc_length(plane, torch.stack([y, y + 0.1 * v]), 50)


def test_bad_strings_are_refused() -> None:
    M, x = Sphere(2), torch.eye(3, dtype=torch.float64)
    with pytest.raises(ManifoldError, match="Project first"):
        equal_arc_length(M, 1.1 * x)
    with pytest.raises(ConfigError, match="at least 3 nodes"):
        equal_arc_length(M, x, 2)
    with pytest.raises(ConfigError, match=r"batch shape \(1, 3\)"):
        equal_arc_length(M, x[None])
    with pytest.raises(ConfigError, match="coincide"):
        equal_arc_length(M, x[:1].expand(4, 3))
    with pytest.raises(ConfigError, match="order"):
        equal_arc_length(M, x, order=4)
    with pytest.raises(NumericsError, match="more nodes"):
        folded = M.random_uniform(30, generator=seeded(), dtype=torch.float64)
        equal_arc_length(M, folded, 12, rounds=1, tolerance=1e-14)
    assert math.isclose(float(arc_length(M, x)[-1]), math.pi)
