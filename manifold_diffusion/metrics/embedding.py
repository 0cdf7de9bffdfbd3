"""Coordinates in which the Euclidean distance is a sound distance between points: the chordal distance."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor

from ..manifolds import SO3, Compact, Manifold, Product, Sphere, Torus

__all__ = ["embedding", "half_chord", "log_uniform"]


@singledispatch
def embedding(manifold: Manifold, x: Tensor) -> Tensor:
    r"""Injective, continuous map to :math:`\mathbb{R}^k`, ``(*batch, k)``, with :math:`|e(x) - e(y)| \le d(x, y)`.

    By default ``manifold.coordinates``; ``Torus`` angles become cosines and sines. Register a function for the class of
    another manifold whose coordinates jump (charts) or overstate distances.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Torus
        >>> embedding(Torus(1), torch.zeros(1))
        tensor([1., 0.])
    """
    return manifold.coordinates(x)


@embedding.register
def _(manifold: Torus, x: Tensor) -> Tensor:
    return torch.cat([x.cos(), x.sin()], -1)


@embedding.register
def _(manifold: Product, x: Tensor) -> Tensor:
    parts = zip(manifold.factors, manifold.weights, manifold.split(x), strict=True)
    return torch.cat([weight**0.5 * embedding(factor, part) for factor, weight, part in parts], -1)


@singledispatch
def half_chord(manifold: Manifold) -> bool:
    """Whether the heat kernel is a function of the distance r, and the chord is ``2 sin(r / 2)``: for tables."""
    return False


@half_chord.register
def _(manifold: Sphere) -> bool:
    return True


@half_chord.register
def _(manifold: SO3) -> bool:
    return True


@singledispatch
def log_uniform(manifold: Manifold) -> float | None:
    """Log density of the uniform law, None where there is none."""
    return None


@log_uniform.register
def _(manifold: Compact) -> float | None:
    import math

    return -math.log(manifold.volume)
