"""Quotients of manifolds by finite groups of isometries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError
from ._finite_groups import GroupAction, group_action
from ._rotation_groups import rotation_group
from .base import Manifold
from .capabilities import Compact, Spectral

__all__ = ["Quotient", "rotation_group"]


class Quotient(Compact):
    r"""The quotient :math:`M/G` of a compact manifold by a finite group of isometries that acts freely.

    A point is any point of its orbit: a rotation R stands for all :math:`R g` (orientations of an object with symmetry
    G, of a crystal), a point x of a sphere for all :math:`g x`. The distance is that to the nearest image,
    :math:`d(x, y) = \min_g d_M(x, g y)`, and ``log`` goes there; of several nearest images it takes the first in the
    order of the group. Tangent vectors are those of M at the representative. The volume is that of M divided by the
    number of elements. Quotients of SO(3) and of tori are :class:`Spectral`.

    ``embed`` is invariant and separates orbits, ``from_frame`` gives vector fields that the group carries along
    (rotations in the room for SO(3)/G), so that every function and field of a network lives on the quotient.

    Args:
        base: ``SO3()``, a ``Sphere`` or a ``Torus``.
        group: all elements of the group. On SO(3) rotation matrices that act from the right, or a name for
            :func:`rotation_group`: ``"cyclic:n"``, ``"dihedral:n"``, ``"tetrahedral"``, ``"octahedral"``,
            ``"icosahedral"``. On a sphere orthogonal matrices, on a torus shifts.

    Raises:
        ConfigError: if the elements are no group, no isometries, or fix points.
        CapabilityError: on another manifold.

    Attributes:
        action: the group's action: ``images``, ``nearest`` and so on.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SO3
        >>> M = Quotient(SO3(), "octahedral")
        >>> x = torch.eye(3)
        >>> y = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> bool(M.dist(x, y) < 1e-6), round(M.volume, 4)
        (True, 3.2899)
    """

    def __new__(cls, base: Manifold, group: Any = None) -> Quotient:
        spectral = isinstance(base, Spectral) and group is not None and _action(base, group).homogeneous
        return super().__new__(_SpectralQuotient if spectral else _PlainQuotient)  # pyright: ignore

    def __init__(self, base: Compact, group: str | Tensor | Sequence[Any]) -> None:
        if not isinstance(base, Compact):
            raise CapabilityError(f"Quotient needs a compact manifold (SO3(), a Sphere, a Torus); got {base!r}.")
        self.base = base
        self.group = _plain(group)
        self.action = _action(base, self.group)
        self.isometric = base.isometric
        self.injectivity_radius = min(base.injectivity_radius, self.action.least_displacement / 2)
        self.defect_formula = base.defect_formula
        super().__init__(base.dim, base.point_shape, base, self.group)

    def __repr__(self) -> str:
        return f"Quotient({self.base!r}, {self.group!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Quotient, (self.base, self.group)

    def images(self, x: Tensor) -> Tensor:
        """The points of the orbits, ``(order, *batch, *point_shape)``."""
        return self.action.images(x)

    def _image(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The element that moves ``y`` closest to ``x``, and the image."""
        g = self.action.pick(self.action.nearest(x, y), y)
        return g, self.action.move(g, y)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.base.inner(x, u, v)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return self.base.norm(x, v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.base.to_tangent(x, v)

    def project(self, x: Tensor) -> Tensor:
        return self.base.project(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.base.exp(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.base.log(x, self._image(x, y)[1])

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self.base.dist(x, self._image(x, y)[1])

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        g, image = self._image(x, y)
        return self.action.pull(g, self.base.transport(x, image, v))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.base.random_tangent(x, generator)

    def tangent_basis(self, x: Tensor) -> Tensor:
        return self.base.tangent_basis(x)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        return self.base.divergence_correction(x, v)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.base.origin(dtype, device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.base.log_det_exp(x, v)

    def coordinates(self, x: Tensor) -> Tensor:
        """Invariant smooth functions, :meth:`embed`."""
        return self.action.embed(x)

    @property
    def frame_dim(self) -> int:
        return self.action.frame_dim

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        return self.action.from_frame(x, a)

    def defect(self, x: Tensor) -> Tensor:
        return self.base.defect(x)

    @property
    def volume(self) -> float:
        return self.base.volume / self.action.order

    @property
    def log_volume(self) -> float:
        return self.base.log_volume - math.log(self.action.order)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.base.random_uniform(n, generator=generator, dtype=dtype, device=device)


class _PlainQuotient(Quotient):
    """A quotient whose levels are not constant on the diagonal."""


class _SpectralQuotient(Quotient, Spectral):
    r"""A homogeneous quotient: its eigenfunctions are the invariant ones, :math:`\sum_g S_l(x, g y)` their level sums.

    Levels without an invariant function are left out.
    """

    base: Spectral

    def _levels(self, n_levels: int) -> tuple[Tensor, Tensor]:
        """Numbers of the base's levels that are left, and their multiplicities."""
        origin, tried = self.base.origin(dtype=torch.float64), n_levels
        while True:
            sums = self.base.level_sums(origin, self.images(origin), tried).sum(0)
            counts = (self.volume * sums).round()
            kept = counts.nonzero()[:, 0]
            if len(kept) >= n_levels:
                return kept[:n_levels], counts[kept[:n_levels]]
            tried *= 2

    def eigenvalues(self, n_levels: int) -> Tensor:
        kept, _ = self._levels(n_levels)
        return self.base.eigenvalues(int(kept[-1]) + 1)[kept]

    def multiplicities(self, n_levels: int) -> Tensor:
        return self._levels(n_levels)[1]

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        kept, _ = self._levels(n_levels)
        images = self.images(torch.broadcast_tensors(x, y)[1])
        sums = self.base.level_sums(x, images, int(kept[-1]) + 1).sum(0)
        return sums[..., kept.to(x.device)]


def _action(base: Manifold, group: Any) -> GroupAction:
    """The action, the same object for equal arguments: its features are computed once."""
    return _build(base, _plain(group))


@lru_cache(maxsize=64)
def _build(base: Manifold, group: Any) -> GroupAction:
    return group_action(base, group if isinstance(group, str) else torch.tensor(group, dtype=torch.float64))


def _plain(group: Any) -> Any:
    """A name, or nested tuples of numbers."""
    return group if isinstance(group, str) else _nested(torch.as_tensor(group, dtype=torch.float64).tolist())


def _nested(value: Any) -> Any:
    """Nested lists as nested tuples: hashable, and their own ``repr``."""
    return tuple(_nested(v) for v in value) if isinstance(value, list) else value
