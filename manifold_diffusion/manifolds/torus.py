"""The flat torus."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._safe import safe_norm
from .base import LieGroup, Spectral

__all__ = ["Torus"]

_TWO_PI = 2 * math.pi


def _wrap(x: Tensor) -> Tensor:
    """Angles modulo 2 pi in (-pi, pi]."""
    wrapped = x - _TWO_PI * torch.ceil((x - math.pi) / _TWO_PI)
    # One rounding can leave a value just outside the half-open interval.
    return torch.where(wrapped <= -math.pi, wrapped + _TWO_PI, wrapped)


class Torus(Spectral, LieGroup):
    r"""The flat torus :math:`T^n = (\mathbb{R} / 2\pi\mathbb{Z})^n`; a point is ``n`` angles in :math:`(-\pi, \pi]`.

    :math:`\exp_x(v) = x + v` modulo :math:`2\pi`; :math:`\log_x(y)` is the difference wrapped to :math:`(-\pi, \pi]`,
    so that at the cut locus it goes in the positive direction. Volume :math:`(2\pi)^n`.

    Args:
        n: number of angles, at least 1.

    Example:
        >>> import torch
        >>> M = Torus(1)
        >>> M.log(torch.tensor([3.0]), torch.tensor([-3.0]))
        tensor([0.2832])
    """

    isometric = True
    injectivity_radius = math.pi
    defect_formula = "|x| - pi"

    def __init__(self, n: int) -> None:
        if n < 1:
            raise ConfigError(f"Torus(n) needs n >= 1; got {n}.")
        super().__init__(n, (n,), n)
        self.n = n

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return _wrap(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return _wrap(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return _wrap(y - x)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_norm(_wrap(y - x))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def tangent_basis(self, x: Tensor) -> Tensor:
        return torch.eye(self.n, dtype=x.dtype, device=x.device).expand(*x.shape, self.n)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(self.n, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.zeros(v.shape[:-1], dtype=v.dtype, device=v.device)

    def coordinates(self, x: Tensor) -> Tensor:
        """The angles themselves: frequencies are integers, so that every wave is periodic."""
        return x

    def embed(self, x: Tensor) -> Tensor:
        """Cosines and sines of the angles, an isometric embedding."""
        return torch.cat([x.cos(), x.sin()], -1)

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        """Integer frequencies ``(n, dim)``: log-uniform length, few active angles (for half of them one or two).

        Integer waves are the exact eigenfunctions, with eigenvalue ``|w|^2``.
        """
        directions = torch.randn(n, self.n, generator=generator, dtype=torch.float64)
        rank = torch.rand(n, self.n, generator=generator, dtype=torch.float64).argsort(1).argsort(1)
        active = 1 + (self.n * torch.rand(n, 1, generator=generator, dtype=torch.float64).square()).floor()
        directions = torch.where(rank < active, directions, torch.zeros_like(directions))
        directions = directions / directions.norm(dim=1, keepdim=True)
        waves = (directions * max_frequency ** torch.rand(n, 1, generator=generator, dtype=torch.float64)).round()
        empty = (waves == 0).all(1, keepdim=True)
        strongest = directions.abs() == directions.abs().amax(1, keepdim=True)
        return torch.where(empty & strongest, torch.ones_like(waves), waves).to(torch.get_default_dtype())

    def defect(self, x: Tensor) -> Tensor:
        return (x.abs() - math.pi).clamp_min(0).amax(-1)

    @property
    def volume(self) -> float:
        return _TWO_PI**self.n

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return _wrap(_TWO_PI * torch.rand(n, self.n, generator=generator, dtype=dtype, device=device) - math.pi)

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        return _wrap(x + y)

    def inverse(self, x: Tensor) -> Tensor:
        return _wrap(-x)

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.origin(dtype, device)

    # A level is a set of integer vectors of equal squared length. They are enumerated in a cube, which is practical up
    # to n = 4.

    def _levels(self, n_levels: int) -> tuple[Tensor, Tensor]:
        """Integer vectors of the first levels and the level of each."""
        if n_levels <= 2:
            units = torch.eye(self.n, dtype=torch.long)
            waves = torch.cat([torch.zeros(1, self.n, dtype=torch.long), units, -units])[: 1 if n_levels == 1 else None]
            return waves.double(), waves.abs().sum(1)
        if self.n > 4:
            raise CapabilityError(
                f"The levels of {self} are enumerated up to Torus(4) only: their size grows as radius^n. "
                "Use heat_kernel(Torus(n)), which factorises, or Product(Torus(1), ...)."
            )
        radius = 1
        while True:
            axis = torch.arange(-radius, radius + 1)
            waves = torch.cartesian_prod(*[axis] * self.n).reshape(-1, self.n)
            squared = waves.square().sum(1)
            inside = squared <= radius * radius  # complete shells only
            values = squared[inside].unique()
            if len(values) >= n_levels:
                keep = inside & (squared <= values[n_levels - 1])
                return waves[keep].double(), torch.searchsorted(values, squared[keep])
            radius *= 2

    def eigenvalues(self, n_levels: int) -> Tensor:
        waves, level = self._levels(n_levels)
        return torch.zeros(n_levels, dtype=torch.float64).scatter_reduce(0, level, waves.square().sum(1), "amax")

    def multiplicities(self, n_levels: int) -> Tensor:
        return torch.bincount(self._levels(n_levels)[1], minlength=n_levels).double()

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        waves, level = self._levels(n_levels)
        cosines = ((x - y) @ waves.to(x).mT).cos()
        out = torch.zeros(*cosines.shape[:-1], n_levels, dtype=x.dtype, device=x.device)
        return out.index_add(-1, level.to(x.device), cosines) / self.volume
