"""Kernels for the maximum mean discrepancy: functions of two sets of points that return the matrix of all pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..heat_kernels import heat_kernel
from ..manifolds import Manifold
from .pairwise import heat_density, squared_chord

__all__ = ["ChordalGaussian", "Energy", "GeodesicGaussian", "Gram", "HeatGram"]


class Gram(Protocol):
    """A symmetric kernel: ``gram(x, y)`` is the matrix ``(n, m)`` of ``k(x_i, y_j)``."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The kernel of all pairs of rows of ``x`` and ``y``."""
        ...


def _positive(name: str, values: Sequence[float]) -> tuple[float, ...]:
    out = tuple(float(v) for v in values)
    if not out or not all(v > 0 and math.isfinite(v) for v in out):
        raise ConfigError(f"{name} must be positive, finite numbers, at least one; got {tuple(values)}.")
    return out


@lru_cache(maxsize=256)
def _peak(manifold: Manifold, tau: float) -> float:
    origin = manifold.origin(dtype=torch.float64)
    return float(heat_kernel(manifold).log_prob(origin, origin, tau).exp())


@dataclass(frozen=True)
class HeatGram:
    r"""Heat kernel, averaged over Brownian times.

    :math:`k(x, y) = \frac1J \sum_j K(x, y, \tau_j) / K(o, o, \tau_j)`.

    Every eigenfunction has a positive weight, so that the discrepancy vanishes only for equal distributions. Two times
    make it see both large and small structure: the default sees about 0.7 and 0.2 in distance per coordinate.

    Args:
        manifold: the manifold.
        taus: Brownian times.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> k = HeatGram(Sphere(2))
        >>> x = Sphere(2).random_uniform(5, generator=torch.Generator().manual_seed(0))
        >>> k(x, x).shape
        torch.Size([5, 5])
    """

    manifold: Manifold
    taus: Sequence[float] = (0.5, 0.05)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taus", _positive("taus", self.taus))
        heat_kernel(self.manifold)  # a manifold without a kernel fails here

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        total = x.new_zeros(len(x), len(y))
        for tau, density in zip(self.taus, heat_density(self.manifold, x, y, self.taus), strict=True):
            total += density / (_peak(self.manifold, tau) * len(self.taus))
        return total

    @classmethod
    def from_data(cls, manifold: Manifold, x: Tensor, factors: Sequence[float] = (0.5, 0.05)) -> HeatGram:
        r"""Times :math:`\tau_j = f_j\, m^2 / \dim` with the median distance m of (at most 1,000) points.

        For a test take the pooled sample: the kernel must not know which point is from where.
        """
        m = _median_distance(manifold, x)
        return cls(manifold, tuple(f * m * m / manifold.dim for f in _positive("factors", factors)))


def _median_distance(manifold: Manifold, x: Tensor) -> float:
    manifold.check_point(x)
    some = x[:: max(1, -(-len(x) // 1000))]
    i, j = torch.triu_indices(len(some), len(some), 1)
    if len(i) == 0:
        raise DataError("The median distance needs at least two points.")
    median = float(manifold.dist(some[i], some[j]).median())
    if not median > 0:
        raise DataError(
            "The median distance is 0: more than half of the pairs are equal. "
            "De-duplicate first, or name the bandwidths."
        )
    return median


@dataclass(frozen=True)
class ChordalGaussian:
    r"""Gaussian of the distance in the embedding, averaged over bandwidths: :math:`\exp(-|e(x) - e(y)|^2 / 2\tau_j)`.

    Positive definite on any manifold.

    Args:
        manifold: the manifold.
        taus: squared bandwidths.
    """

    manifold: Manifold
    taus: Sequence[float] = (0.5, 0.05)

    def __post_init__(self) -> None:
        object.__setattr__(self, "taus", _positive("taus", self.taus))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        s = _chord2(self.manifold, x, y)
        return sum((s * (-0.5 / tau)).exp() for tau in self.taus).div(len(self.taus)).to(x.dtype)  # type: ignore[union-attr]


@dataclass(frozen=True)
class Energy:
    r"""Negative distance in the embedding, :math:`-|e(x) - e(y)|`.

    MMD^2 is then the energy distance :math:`2E|X-Y| - E|X-X'| - E|Y-Y'|`. No bandwidth to choose. The geodesic distance
    instead would not do: on S^2 it can't tell the uniform law from a pair of antipodal atoms, and on SO(3) the score is
    improper.

    Args:
        manifold: the manifold.
    """

    manifold: Manifold

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return -_chord2(self.manifold, x, y).sqrt().to(x.dtype)


@dataclass(frozen=True)
class GeodesicGaussian:
    r"""Gaussian of the geodesic distance, :math:`\exp(-\gamma\, d(x, y)^2)`, to reproduce published numbers.

    On a curved compact manifold it is **not positive definite**, for no :math:`\gamma > 0` on spheres: the "squared
    distance" can be negative, and zero for different distributions. Use :class:`HeatGram` for anything else.

    Args:
        manifold: the manifold.
        gamma: inverse squared bandwidth.

    References:
        Feragen, Lauze, Hauberg, *Geodesic exponential kernels: when curvature and linearity conflict*, 2015,
        arXiv:1411.0296.
    """

    manifold: Manifold
    gamma: float = 1.0

    def __post_init__(self) -> None:
        _positive("gamma", [self.gamma])

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return (-self.gamma * self.manifold.dist(x.unsqueeze(1), y.unsqueeze(0)).square()).exp()


def _chord2(manifold: Manifold, x: Tensor, y: Tensor) -> Tensor:
    return squared_chord(manifold.embed(x.double()), manifold.embed(y.double()))
