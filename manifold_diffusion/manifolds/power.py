"""Powers of a manifold: k copies of it, side by side."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from .._errors import ConfigError
from .._safe import safe_norm
from .base import Manifold, check_size
from .capabilities import Compact, LieGroup

__all__ = ["Power"]

_LARGEST = 709.0  # logarithm of the largest float


class Power(Manifold):
    r"""The product of ``k`` copies of one manifold, :math:`M^k`; a point has shape ``(k, *point_shape)``.

    The metric is the sum of the copies' metrics, as in ``Product(M, ..., M)``, whose points are the same numbers in one
    flat tensor. Here the copies are one more batch axis of the methods of ``M``: nothing loops over them, so that large
    powers (the frames of a chain of residues) cost what a batch of ``k`` points costs. ``Power(M, k)`` is
    :class:`Compact` or a :class:`LieGroup` where ``M`` is.

    Args:
        manifold: the manifold ``M``.
        k: number of copies, at least 1.

    Raises:
        ConfigError: if ``manifold`` is not a manifold or ``k < 1``.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SO3
        >>> M = Power(SO3(), 5)
        >>> M.dim, M.point_shape
        (15, (5, 3, 3))
        >>> x = M.random_uniform(2, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(M.dist(x[0], x[1]) ** 2, (SO3().dist(x[0], x[1]) ** 2).sum(), rtol=1e-4)
        True
    """

    defect_formula = "worst copy's defect"

    def __new__(cls, manifold: Manifold, k: int) -> Power:
        kinds = isinstance(manifold, Compact), isinstance(manifold, LieGroup)
        return super().__new__(_KINDS[kinds])  # pyright: ignore[reportArgumentType]

    def __init__(self, manifold: Manifold, k: int) -> None:
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"Power(M, k) needs a Manifold such as SO3(); got {manifold!r}.")
        check_size("Power(M, k)", k=k)
        self.manifold, self.k = manifold, k
        self.isometric = manifold.isometric
        self.injectivity_radius = manifold.injectivity_radius
        super().__init__(k * manifold.dim, (k, *manifold.point_shape), manifold, k)

    def __repr__(self) -> str:
        return f"Power({self.manifold!r}, {self.k})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Power, (self.manifold, self.k)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.manifold.inner(x, u, v).sum(-1)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.manifold.to_tangent(x, v)

    def project(self, x: Tensor) -> Tensor:
        return self.manifold.project(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.manifold.exp(x, v)

    def move(self, x: Tensor, v: Tensor) -> Tensor:
        return self.manifold.move(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.manifold.log(x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_norm(self.manifold.dist(x, y))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.manifold.transport(x, y, v)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.manifold.random_tangent(x, generator=generator)

    def tangent_basis(self, x: Tensor) -> Tensor:
        blocks = self.manifold.tangent_basis(x)  # (*batch, k, dim of M, *point_shape of M)
        axis = len(self.batch_shape(x))
        own = torch.eye(self.k, dtype=torch.bool, device=x.device)
        own = own.reshape(self.k, 1, self.k, *(1,) * len(self.manifold.point_shape))
        return torch.where(own, blocks.unsqueeze(axis + 2), 0.0).flatten(axis, axis + 1)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        return self.manifold.divergence_correction(x, v).sum(-1)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self._copies(self.manifold.origin(dtype, device))

    def _copies(self, x: Tensor) -> Tensor:
        return x.repeat(self.k, *(1,) * len(self.manifold.point_shape))

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.manifold.log_det_exp(x, v).sum(-1)

    def coordinates(self, x: Tensor) -> Tensor:
        return self.manifold.coordinates(x).flatten(-2)

    def embed(self, x: Tensor) -> Tensor:
        return self.manifold.embed(x).flatten(-2)

    @property
    def frame_dim(self) -> int:
        return self.k * self.manifold.frame_dim

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        return self.manifold.from_frame(x, a.reshape(*a.shape[:-1], self.k, self.manifold.frame_dim))

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        """Half of the waves see one copy, the others all of them, with lengths drawn per copy."""
        blocks = self.manifold.random_frequencies(n * self.k, max_frequency, generator)
        blocks = blocks.reshape(n, self.k, blocks.shape[-1])
        only = torch.randint(self.k, (n, 1), generator=generator) == torch.arange(self.k)
        mixed = torch.rand(n, 1, generator=generator) < 0.5
        return torch.where((mixed | only).unsqueeze(-1), blocks, 0.0).flatten(1)

    def defect(self, x: Tensor) -> Tensor:
        return self.manifold.defect(x).amax(-1)


class _PlainPower(Power):
    """Copies of a manifold that is neither compact nor a group."""


class _CompactPower(Power, Compact):
    """Copies of a compact manifold."""

    @property
    def volume(self) -> float:
        # A hundred rotation groups have a volume beyond the range of a float.
        return cast(Compact, self.manifold).volume ** self.k if self.log_volume < _LARGEST else math.inf

    @property
    def log_volume(self) -> float:
        return self.k * cast(Compact, self.manifold).log_volume

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        x = cast(Compact, self.manifold).random_uniform(n * self.k, generator=generator, dtype=dtype, device=device)
        return x.reshape(n, *self.point_shape)


class _GroupPower(Power, LieGroup):
    """Copies of a group that is not compact."""

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        return cast(LieGroup, self.manifold).compose(x, y)

    def inverse(self, x: Tensor) -> Tensor:
        return cast(LieGroup, self.manifold).inverse(x)

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self._copies(cast(LieGroup, self.manifold).identity(dtype, device))


class _CompactGroupPower(_CompactPower, _GroupPower):
    """Copies of a compact group."""


_KINDS: dict[tuple[bool, bool], type[Power]] = {
    (False, False): _PlainPower,
    (True, False): _CompactPower,
    (False, True): _GroupPower,
    (True, True): _CompactGroupPower,
}
