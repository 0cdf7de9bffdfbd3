"""Points, tangent vectors and smooth fields on any manifold, for the laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..manifolds import Compact, Manifold, WithBoundary

__all__ = [
    "ambient_size",
    "normal_vectors",
    "random_field",
    "random_function",
    "random_points",
    "random_vectors",
    "reach",
]


def reach(manifold: Manifold) -> float:
    """Longest vector that the laws use: 0.99 of the injectivity radius, at most 3.

    With a boundary at most half of the origin's distance to it: geodesics from random points then stay inside.
    """
    radius = manifold.injectivity_radius
    if isinstance(manifold, WithBoundary):
        radius = min(radius, 0.5 * float(manifold.boundary_distance(manifold.origin(dtype=torch.float64))))
    return min(3.0, 0.99 * radius)


def random_points(manifold: Manifold, n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Points ``(n, *point_shape)``: uniform where there is a uniform law, else within 1.5 of the origin.

    With a boundary they are in the core, within :func:`reach` of the origin.
    """
    if isinstance(manifold, Compact) and not isinstance(manifold, WithBoundary):
        return manifold.random_uniform(n, generator=generator, dtype=dtype)
    origin = manifold.origin(dtype=dtype).expand(n, *manifold.point_shape)
    return manifold.exp(origin, random_vectors(manifold, origin, generator, 0.0, min(1.5, reach(manifold))))


def random_vectors(manifold: Manifold, x: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Tangent vectors in random directions, with lengths uniform in [low, high].

    With a boundary ``high`` is at most :func:`reach`, and ``low`` half of it.
    """
    if isinstance(manifold, WithBoundary) and high > reach(manifold):
        low, high = min(low, reach(manifold) / 2), reach(manifold)
    v = manifold.random_tangent(x, generator=generator)
    length = low + (high - low) * torch.rand(manifold.batch_shape(x), generator=generator, dtype=x.dtype)
    return manifold.per_point(length / manifold.norm(x, v)) * v


def normal_vectors(
    manifold: Manifold, x: Tensor, variance: Tensor | float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normal tangent vectors, where they lead, their squared lengths, and whether their geodesics are minimal.

    Minimal ones, the vectors inside the cut locus, reach every point but a null set once. Domains with boundary are
    taken to be convex: minimal geodesics stay inside.
    """
    v = variance**0.5 * manifold.random_tangent(x, generator=generator)
    y, square = manifold.exp(x, v), manifold.inner(x, v, v)
    minimal = square.sqrt() <= manifold.dist(x, y) * (1 + 1e-6) + 1e-9
    if isinstance(manifold, WithBoundary):
        minimal = minimal & manifold.inside(y)
    return v, y, square, minimal


def random_function(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A smooth function, ``sin(w . embed(x) + b)``."""
    k = manifold.embed(manifold.origin(dtype=dtype)).shape[-1]
    w = torch.randn(k, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x: (manifold.embed(x) @ w + 0.3).sin()


def random_field(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """A smooth tangent field that is not a gradient, ``to_tangent(x, sin(W embed(x) + b))``.

    With a boundary it is multiplied by the product of the slacks: no flow crosses the boundary.
    """
    k, size = manifold.embed(manifold.origin(dtype=dtype)).shape[-1], ambient_size(manifold)
    w = torch.randn(k, size, generator=generator, dtype=torch.float64).to(dtype)
    b = torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    def field(x: Tensor) -> Tensor:
        v = manifold.to_tangent(x, (manifold.embed(x) @ w + b).sin().reshape(x.shape))
        return manifold.per_point(manifold.slack(x).prod(-1)) * v if isinstance(manifold, WithBoundary) else v

    return field


def ambient_size(manifold: Manifold) -> int:
    """Number of entries of a point."""
    return math.prod(manifold.point_shape)
