"""Products of manifolds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, ManifoldError
from .._safe import safe_norm
from .base import Manifold
from .capabilities import Compact, exp_or_inf

__all__ = ["Product"]


class Product(Manifold):
    r"""Product of manifolds; a point is one flat tensor, the factors' points flattened and concatenated.

    The metric is :math:`g = \sum_i w_i\, g_i` with positive weights: squared lengths add up, weighted. Brownian motion
    on the product moves factor i at the speed :math:`1/w_i`. ``Product(...)`` of compact manifolds is :class:`Compact`.

    Args:
        factors: the manifolds.
        weights: one positive weight per factor; default 1 each.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SO3, Euclidean
        >>> M = Product(SO3(), Euclidean(3))
        >>> M.dim, M.point_shape
        (6, (12,))
        >>> x = M.join(torch.eye(3), torch.zeros(3))
        >>> [p.shape for p in M.split(x)]
        [torch.Size([3, 3]), torch.Size([3])]
    """

    defect_formula = "worst factor's defect"

    def __new__(cls, *factors: Manifold, weights: Sequence[float] | None = None) -> Product:
        compact = bool(factors) and all(isinstance(f, Compact) for f in factors)
        return super().__new__(_CompactProduct if compact else _PlainProduct)  # pyright: ignore[reportArgumentType]

    def __init__(self, *factors: Manifold, weights: Sequence[float] | None = None) -> None:
        if not factors:
            raise ConfigError("Product needs at least one factor.")
        for f in factors:
            if not isinstance(f, Manifold):
                raise ConfigError(f"A factor of a Product must be a Manifold; got {f!r}.")
        ws = tuple(float(w) for w in weights) if weights is not None else (1.0,) * len(factors)
        if len(ws) != len(factors) or not all(w > 0 and math.isfinite(w) for w in ws):
            raise ConfigError(f"Product needs one positive weight per factor ({len(factors)}); got weights={weights}.")
        self.factors = tuple(factors)
        self.weights = ws
        self._sizes = tuple(math.prod(f.point_shape) for f in factors)
        self.isometric = all(f.isometric for f in factors)
        self.injectivity_radius = min(math.sqrt(w) * f.injectivity_radius for f, w in zip(factors, ws, strict=True))
        super().__init__(sum(f.dim for f in factors), (sum(self._sizes),), *factors, *ws)

    def __repr__(self) -> str:
        inner = ", ".join(map(repr, self.factors))
        return (
            f"Product({inner})"
            if all(w == 1 for w in self.weights)
            else f"Product({inner}, weights={list(self.weights)})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.factors, self.weights)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The factors' points (or tangent vectors), each in its own shape."""
        parts = x.split(self._sizes, -1)
        return tuple(p.reshape(*p.shape[:-1], *f.point_shape) for p, f in zip(parts, self.factors, strict=True))

    def join(self, *xs: Tensor) -> Tensor:
        """The flat tensor of one point (or tangent vector) per factor; batch shapes broadcast."""
        if len(xs) != len(self.factors):
            raise ManifoldError(f"join needs one tensor per factor of {self} ({len(self.factors)}); got {len(xs)}.")
        flat = [x.flatten(len(f.batch_shape(x))) for x, f in zip(xs, self.factors, strict=True)]
        batch = torch.broadcast_shapes(*[x.shape[:-1] for x in flat])
        return torch.cat([x.expand(*batch, x.shape[-1]) for x in flat], -1)

    def _map(self, method: Callable[..., Tensor], *args: Tensor) -> Tensor:
        """Join of ``method(factor, *its parts of the arguments)``."""
        return self.join(*[method(f, *parts) for f, *parts in zip(self.factors, *map(self.split, args), strict=True)])

    def _sum(self, method: Callable[..., Tensor], *args: Tensor) -> Tensor:
        """Weighted sum of ``method(factor, *its parts of the arguments)``."""
        terms = [
            w * method(f, *parts)
            for w, f, *parts in zip(self.weights, self.factors, *map(self.split, args), strict=True)
        ]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._sum(lambda f, *a: f.inner(*a), x, u, v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self._map(lambda f, *a: f.to_tangent(*a), x, v)

    def project(self, x: Tensor) -> Tensor:
        return self._map(lambda f, *a: f.project(*a), x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._map(lambda f, *a: f.exp(*a), x, v)

    def move(self, x: Tensor, v: Tensor) -> Tensor:
        return self._map(lambda f, *a: f.move(*a), x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self._map(lambda f, *a: f.log(*a), x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        parts = zip(self.weights, self.factors, self.split(x), self.split(y), strict=True)
        terms = torch.broadcast_tensors(*[math.sqrt(w) * f.dist(a, b) for w, f, a, b in parts])
        return safe_norm(torch.stack(terms, -1))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._map(lambda f, *a: f.transport(*a), x, y, v)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        parts = [f.random_tangent(p, generator=generator) for f, p in zip(self.factors, self.split(x), strict=True)]
        return self.join(*[p / math.sqrt(w) for p, w in zip(parts, self.weights, strict=True)])

    def tangent_basis(self, x: Tensor) -> Tensor:
        rows = []
        for i, (f, p, w) in enumerate(zip(self.factors, self.split(x), self.weights, strict=True)):
            block = f.tangent_basis(p).reshape(*x.shape[:-1], f.dim, self._sizes[i]) / math.sqrt(w)
            left, right = sum(self._sizes[:i]), sum(self._sizes[i + 1 :])
            rows.append(torch.nn.functional.pad(block, (left, right)))
        return torch.cat(rows, -2)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        parts = zip(
            self.factors, self.split(x), self.split(v), strict=True
        )  # weights change the volume by a constant factor
        return torch.stack([f.divergence_correction(p, u) for f, p, u in parts]).sum(0)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.join(*[f.origin(dtype, device) for f in self.factors])

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        parts = zip(self.factors, self.split(x), self.split(v), strict=True)
        return torch.stack([f.log_det_exp(p, u) for f, p, u in parts]).sum(0)

    def coordinates(self, x: Tensor) -> Tensor:
        return torch.cat([f.coordinates(p) for f, p in zip(self.factors, self.split(x), strict=True)], -1)

    def embed(self, x: Tensor) -> Tensor:
        parts = zip(self.weights, self.factors, self.split(x), strict=True)
        return torch.cat([math.sqrt(w) * f.embed(p) for w, f, p in parts], -1)

    @property
    def frame_dim(self) -> int:
        return sum(f.frame_dim for f in self.factors)

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        parts = zip(self.factors, self.split(x), a.split([f.frame_dim for f in self.factors], -1), strict=True)
        return self.join(*[f.from_frame(p, b) for f, p, b in parts])

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        """Half of the waves see one factor, the others all of them, with lengths drawn per factor."""
        blocks = [f.random_frequencies(n, max_frequency, generator) for f in self.factors]
        only = torch.randint(len(blocks), (n, 1), generator=generator)
        mixed = torch.rand(n, 1, generator=generator) < 0.5
        return torch.cat([torch.where(mixed | (only == i), b, torch.zeros_like(b)) for i, b in enumerate(blocks)], -1)

    def defect(self, x: Tensor) -> Tensor:
        return torch.stack([f.defect(p) for f, p in zip(self.factors, self.split(x), strict=True)]).amax(0)


class _PlainProduct(Product):
    """A product with at least one factor that is not compact."""


class _CompactProduct(Product, Compact):
    """A product of compact manifolds."""

    @property
    def volume(self) -> float:
        return exp_or_inf(self.log_volume)

    @property
    def log_volume(self) -> float:
        parts = zip(self.factors, self.weights, strict=True)
        return math.fsum(f.log_volume + f.dim / 2 * math.log(w) for f, w in parts if isinstance(f, Compact))

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        parts = [
            f.random_uniform(n, generator=generator, dtype=dtype, device=device)
            for f in self.factors
            if isinstance(f, Compact)
        ]
        return self.join(*parts)


def _rebuild(factors: tuple[Manifold, ...], weights: tuple[float, ...]) -> Product:
    return Product(*factors, weights=weights)
