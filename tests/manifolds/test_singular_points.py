"""Half turns, antipodes, the cut of the torus, far hyperbolic points and long walks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion.manifolds import SO3, Hyperboloid, Sphere, Torus
from manifold_diffusion.manifolds.so3 import vee

from .draws import F32, F64, seeded

AXES = torch.cat([torch.eye(3, dtype=F64), torch.randn(4, 3, generator=seeded(), dtype=F64)])
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
            m.random_uniform(20, generator=seeded(), dtype=dtype),
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
    v, w = (m.random_tangent(o, generator=seeded(s)) for s in (1, 2))
    x = m.exp(o, radius * v / m.norm(o, v).unsqueeze(-1))
    w = m.transport(o, x, w)
    x, y = x.float(), m.exp(x, length * w / m.norm(x, w).unsqueeze(-1)).float()
    truth = m.dist(x.double(), y.double())
    far = truth > 1e-6  # rounding to float32 makes some of the closest points coincide
    resolution = 1e-7 * math.sinh(radius)  # of a direction, as a distance
    assert (m.dist(x, y)[far] / truth[far] - 1).abs().max() <= 2e-5 + resolution


def test_walk_of_many_steps_stays_on_the_manifold() -> None:
    for m in (SO3(), Sphere(2), Hyperboloid(2), Torus(2)):
        x, generator = m.origin(dtype=F32).expand(16, *m.point_shape), seeded()
        for _ in range(300):
            x = m.exp(x, 0.05 * m.random_tangent(x, generator=generator))
        assert m.defect(x).max() <= 1e-6
