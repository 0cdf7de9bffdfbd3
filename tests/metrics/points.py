"""The sphere, generators, and points around the origin of a manifold."""

from __future__ import annotations

import torch

from manifold_diffusion.manifolds import Sphere

S2 = Sphere(2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(manifold, n, seed=0, scale=0.5, dtype=torch.float64):
    """Points around the origin, more of them close by than far away."""
    origin = manifold.origin(dtype=dtype).expand(n, *manifold.point_shape)
    return manifold.exp(origin, scale * manifold.random_tangent(origin, generator(seed)))
