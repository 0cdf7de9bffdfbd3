"""The manifolds of the tests, and points at given distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus

F64 = torch.float64
MANIFOLDS = [
    Sphere(1), Sphere(2), Sphere(3), Sphere(9), SO3(), Torus(1), Torus(3), Euclidean(2),
    Hyperboloid(2), Hyperboloid(3), Hyperboloid(4),
    Product(Sphere(2), Euclidean(2), weights=[2.0, 1.0]),
]  # fmt: skip
RADIAL = [Sphere(2), Sphere(3), Sphere(9), SO3(), Hyperboloid(2), Hyperboloid(3), Hyperboloid(4)]
names = pytest.mark.parametrize("M", MANIFOLDS, ids=repr)
radial = pytest.mark.parametrize("M", RADIAL, ids=repr)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_geodesic(
    M: Manifold, r: torch.Tensor | list[float], dtype: torch.dtype = F64
) -> tuple[torch.Tensor, torch.Tensor]:
    """Origin and points at distances r from it."""
    r = torch.as_tensor(r, dtype=F64)
    x0 = M.origin(dtype=F64)
    v = M.tangent_basis(x0)[0]
    x = M.exp(x0.expand(*r.shape, *x0.shape), r.reshape(*r.shape, *(1,) * len(M.point_shape)) * v)
    return x.to(dtype), x0.to(dtype).expand(x.shape)


def spread(M: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    """Points in a cluster about the origin, and some far away."""
    g = generator(seed)
    origin = M.origin(dtype=F64).expand(n, *M.point_shape)
    return M.exp(origin, 0.7 * M.random_tangent(origin, generator=g)).to(dtype)


def area(M: Manifold, r: np.ndarray) -> np.ndarray:
    """Area of the geodesic sphere of radius r."""
    if isinstance(M, SO3):
        return 16 * np.pi * np.sin(r / 2) ** 2
    unit = 2 * math.pi ** (M.dim / 2) / math.gamma(M.dim / 2)
    return unit * (np.sin(r) if isinstance(M, Sphere) else np.sinh(r)) ** (M.dim - 1)
