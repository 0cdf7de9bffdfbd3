"""Flows, walks and laws with known solutions, and the distance of a mean from its expectation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Compact, Euclidean, Hyperboloid, Manifold, Product, Sphere, Stiefel, Torus
from manifold_diffusion.processes import ODETerm

NORTH = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class Flow:
    manifold: Manifold
    term: ODETerm
    x: Tensor
    exact: Callable[[float], Tensor]
    log_det: Callable[[float], Tensor]  # of the map from time 0 to t: how much it stretches the volume


def conformal(n: int = 20, dtype: torch.dtype = torch.float64) -> Flow:
    """v = k(t) (e - (e.x) x) with k = 1 + sin 2t: tan(theta/2) shrinks by exp(-integral of k), the azimuth stays."""
    M, e = Sphere(2), NORTH.to(dtype)
    x = M.random_uniform(n, generator=seeded(), dtype=dtype)

    def exact(t: float) -> Tensor:
        colatitude = 2 * torch.atan2((x - e).norm(dim=-1), (x + e).norm(dim=-1))
        now = 2 * torch.atan(math.exp(-conformal_time(t)) * torch.tan(colatitude / 2))
        across = M.project(M.to_tangent(e.expand_as(x), x))
        return now.cos()[:, None] * e + now.sin()[:, None] * across

    term = ODETerm(lambda t, x: (1 + (2 * t).sin())[..., None] * M.to_tangent(x, e.expand_as(x)))
    return Flow(M, term, x, exact, lambda t: uniform_log_prob(x) - conformal_log_prob(exact(t), t))


def conformal_time(t: float) -> float:
    return t + (1 - math.cos(2 * t)) / 2


def conformal_log_prob(x: Tensor, t: float) -> Tensor:
    """Density at time t of points that were uniform at time 0."""
    r = math.tanh(conformal_time(t) / 2)
    return -math.log(4 * math.pi) + 2 * torch.log((1 - r * r) / (1 - 2 * r * x[..., 2] + r * r))


def uniform_log_prob(x: Tensor) -> Tensor:
    return x.new_full(x.shape[:-1], -math.log(4 * math.pi))


def rotation() -> Flow:
    """The Killing field v = w x x of the sphere."""
    M, w = Sphere(2), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    x = M.random_uniform(20, generator=seeded(), dtype=torch.float64)
    term = ODETerm(lambda t, x: torch.linalg.cross(w.expand_as(x), x))
    return Flow(M, term, x, lambda t: x @ torch.matrix_exp(t * SO3.hat(w)).mT, lambda t: x.new_zeros(len(x)))


def two_sided_rotation() -> Flow:
    """R' = A R + R B with skew A and B that don't commute: R(t) = exp(tA) R exp(tB)."""
    M = SO3()
    A, B = SO3.hat(torch.tensor([[0.5, -1.0, 0.3], [1.0, 0.2, 0.7]], dtype=torch.float64))
    x = M.random_uniform(10, generator=seeded(), dtype=torch.float64)
    return Flow(
        M,
        ODETerm(lambda t, x: A @ x + x @ B),
        x,
        lambda t: torch.matrix_exp(t * A) @ x @ torch.matrix_exp(t * B),
        lambda t: x.new_zeros(len(x)),
    )


def contraction(M: Manifold) -> Flow:
    """v = log_x(y): points slide along geodesics to y, at a distance that shrinks as exp(-t); any manifold."""
    y = M.origin(dtype=torch.float64)
    y = M.exp(y, 0.3 * M.random_tangent(y, generator=seeded(1))).expand(10, *M.point_shape)
    v = M.random_tangent(y, generator=seeded(2))
    v = 1.2 * v / M.norm(y, v).reshape(-1, *[1] * len(M.point_shape))
    return Flow(
        M,
        ODETerm(lambda t, x: M.log(x, y.expand_as(x))),
        M.exp(y, v),
        lambda t: M.exp(y.expand_as(v), math.exp(-t) * v),
        lambda t: M.log_det_exp(y, math.exp(-t) * v) - t * M.dim - M.log_det_exp(y, v),
    )


def swinging(M: Manifold, A: Tensor, x: Tensor) -> Flow:
    """The Killing field A of a group that acts from the left, driven by a(t): x(t) = exp(a(t) A) x, not a geodesic."""

    def act(B: Tensor, x: Tensor) -> Tensor:
        return (B @ x.reshape(len(x), len(B), -1)).view_as(x)

    term = ODETerm(lambda t, x: M.per_point(1 + (2 * t).cos()) * act(A, x))

    def exact(t: float) -> Tensor:
        return act(torch.matrix_exp((t + math.sin(2 * t) / 2) * A), x)

    return Flow(M, term, x, exact, lambda t: x.new_zeros(len(x)))


def swinging_sphere() -> Flow:
    A = SO3.hat(torch.tensor([0.3, 1.0, 0.5], dtype=torch.float64))
    return swinging(Sphere(2), A, Sphere(2).random_uniform(20, generator=seeded(), dtype=torch.float64))


def swinging_plane() -> Flow:
    """A boost and a rotation at once: circles about a point that is not the origin."""
    M = Hyperboloid(2)
    A = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, -1.2], [0.0, 1.2, 0.0]], dtype=torch.float64)
    start = M.origin(dtype=torch.float64).expand(20, 3)
    return swinging(M, A, M.exp(start, M.random_tangent(start, generator=seeded()) / 2))


def swinging_frames() -> Flow:
    """On a space that is not symmetric."""
    M = Stiefel(4, 2)
    skew = torch.randn(4, 4, generator=seeded(3), dtype=torch.float64) / 2
    return swinging(M, skew - skew.mT, M.random_uniform(6, generator=seeded(), dtype=torch.float64))


FLOWS = {
    "conformal": conformal,
    "rotation": rotation,
    "SO3": two_sided_rotation,
    "Hyperboloid": lambda: contraction(Hyperboloid(2)),
    "Torus": lambda: contraction(Torus(3)),
    "Product": lambda: contraction(Product(Sphere(3), Euclidean(2), weights=[1.0, 2.0])),
}


def z_score(values: Tensor, expected: float) -> float:
    values = values.double()
    return abs(float((values.mean() - expected) / (values.std() / math.sqrt(values.numel()))))


LOW, GROWTH = 1e-3, math.log(7.0 / 1e-3)


def brownian_time(t: Tensor) -> Tensor:
    return LOW * torch.exp(GROWTH * t)


def mixture(M: Compact, dtype: torch.dtype) -> HeatKernelMixture:
    """Three heat kernels: their law under Brownian motion is known at every time, score included."""
    centres = M.random_uniform(3, generator=seeded(5), dtype=dtype)
    return HeatKernelMixture(M, centres, tau=0.1, weights=torch.tensor([0.2, 0.3, 0.5], dtype=dtype))
