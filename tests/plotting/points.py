"""Clusters of points, densities around them, and the lightness of a picture."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from manifold_diffusion.manifolds import Manifold


def near_origin(manifold: Manifold, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A cluster about the origin."""
    origin = manifold.origin(dtype).expand(n, *manifold.point_shape)
    return manifold.exp(origin, 0.4 * manifold.random_tangent(origin, generator=torch.Generator().manual_seed(seed)))


def bump(manifold: Manifold):
    """A log density that falls off from the origin."""
    return lambda x: -8 * manifold.dist(manifold.origin(x.dtype).expand_as(x), x).square()


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)


def lightness_at(figure, ax, xy: tuple[float, float]) -> float:
    """Mean lightness of a few pixels about a point of the axes."""
    image = pixels(figure)
    u, v = ax.transData.transform(xy)
    row, column = round(image.shape[0] - v), round(u)
    return float(image[row - 2 : row + 3, column - 2 : column + 3].mean())
