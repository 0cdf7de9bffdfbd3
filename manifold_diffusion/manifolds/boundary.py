"""Domains of manifolds: the points where some smooth functions are not negative."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, NumericsError
from .._safe import solve
from .base import Manifold
from .calculus import gradient
from .capabilities import Compact, WithBoundary

__all__ = ["Domain", "Restricted"]

MAX_BOUNCES = 100
"""Reflections of one step; a step with more is an error, and far too long."""

_GRID = 8
_VOLUME_POINTS = 1 << 18


class Domain(WithBoundary):
    r"""A domain :math:`\{x \in M : g_i(x) \ge 0\}` of an ambient manifold M, with its metric.

    All geometry is M's: ``exp``, ``log`` and ``dist`` follow M's geodesics, which may leave the domain, and
    :meth:`reflect` (hence :meth:`move`, which random walks and solvers call) stays inside. The slacks :math:`g_i` have
    unit slope on the boundary, so that close to it they are distances.

    Networks' fields are tangent to the boundary there: with the gradients :math:`\nabla g_i` as columns of G,
    :meth:`from_frame` gives :math:`v - G\,(G^\top G + \mathrm{diag}(g_i/\delta))^{-1} G^\top v`. It removes the normal
    part of v at the boundary and leaves it alone a few :math:`\delta` away from it. That is the Neumann condition of
    every score, and what implicit score matching needs to have no boundary term.

    Attributes:
        ambient: the manifold M.
        layer: the width :math:`\delta`.
    """

    layer: float = 0.02

    def __init__(self, ambient: Manifold, *args: Any) -> None:
        super().__init__(ambient.dim, ambient.point_shape, *args)
        self.ambient = ambient
        self.isometric = ambient.isometric
        self.injectivity_radius = ambient.injectivity_radius

    @abstractmethod
    def slack_gradients(self, x: Tensor) -> Tensor:
        """Riemannian gradients of the slacks, ``(*batch, m, *point_shape)``."""

    # ------------------------------------------------------------------ boundary

    def inward_normal(self, x: Tensor) -> Tensor:
        """Unit gradient of the least slack; zero where that gradient is zero, as at the centre of a ball."""
        normal = self._gradient_of(self.slack(x).argmin(-1), x)
        length = self.norm(x, normal)
        return normal / self.per_point(torch.where(length > 0, length, 1.0))

    def _gradient_of(self, index: Tensor, x: Tensor) -> Tensor:
        """Gradient of one slack per point."""
        gradients = self.slack_gradients(x)
        chosen = torch.nn.functional.one_hot(index, gradients.shape[len(self.batch_shape(x))]).to(x)
        return (self.per_point(chosen) * gradients).sum(len(self.batch_shape(x)))

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        v, gradients = self.ambient.from_frame(x, a), self.slack_gradients(x)
        axis = len(self.batch_shape(x))
        g = self.slack(x).clamp_min(0) / self.layer + torch.finfo(x.dtype).eps
        along = self.inner(x.unsqueeze(axis).expand_as(gradients), gradients, v.unsqueeze(axis).expand_as(gradients))
        gram = self._gram(x, gradients)
        if gram.shape[-1] == 1:
            share = along / (gram[..., 0] + g)
        else:
            share = solve(gram + torch.diag_embed(g), along.unsqueeze(-1)).squeeze(-1)
        return v - (self.per_point(share) * gradients).sum(axis)

    def defect(self, x: Tensor) -> Tensor:
        return torch.maximum(self.ambient.defect(x), (-self.slack(x)).amax(-1).clamp_min(0))

    # ------------------------------------------------------------------ the ambient manifold's geometry

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self.ambient.inner(x, u, v)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return self.ambient.norm(x, v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.ambient.to_tangent(x, v)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.ambient.exp(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.ambient.log(x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self.ambient.dist(x, y)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self.ambient.transport(x, y, v)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.ambient.random_tangent(x, generator)

    def tangent_basis(self, x: Tensor) -> Tensor:
        return self.ambient.tangent_basis(x)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        return self.ambient.divergence_correction(x, v)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self.ambient.log_det_exp(x, v)

    def coordinates(self, x: Tensor) -> Tensor:
        return self.ambient.coordinates(x)

    def embed(self, x: Tensor) -> Tensor:
        return self.ambient.embed(x)

    @property
    def frame_dim(self) -> int:
        return self.ambient.frame_dim

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        return self.ambient.random_frequencies(n, max_frequency, generator)


Inequality = Callable[[Tensor], Tensor]


class Restricted(Domain):
    r"""The part of any manifold where given functions are not negative, :math:`\{x \in M : g_i(x) \ge 0\}`.

    The functions are divided by the length of their gradient, by automatic differentiation, so that any smooth
    :math:`g_i` whose gradient does not vanish on the boundary will do. :meth:`reflect` finds the boundary by bisection:
    the geodesic is sampled at 8 points per bounce, so that a detour outside that is shorter than an eighth of the step
    may be missed.

    On a compact manifold the domain is :class:`Compact`: its uniform law is the ambient one, rejected outside, and its
    volume, unless given, an **estimate** from 262,144 of the ambient manifold's points (relative standard error 2e-3
    for half of it, :attr:`volume_error`), which shifts log densities under the uniform prior by as much.

    Args:
        ambient: the manifold M; if it is a domain itself, its inequalities hold as well.
        inequalities: a function ``(*batch, *point_shape) -> (*batch,)``, row by row, or several. A model on this
            manifold can be saved if they are objects whose class stores its arguments (as a ``Manifold`` does), not if
            they are plain functions.
        exact_volume: volume of the domain, where it is known.
        start: a point inside, :meth:`origin`; default the ambient origin, moved inside.

    Raises:
        ConfigError: without a function, or if no point inside is found.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> cap = Restricted(Sphere(2), lambda x: x[..., 2] - 0.5)
        >>> north, v = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.5, 0.0, 0.0])
        >>> cap.inside(cap.exp(north, v)), cap.inside(cap.reflect(north, v))
        (tensor(False), tensor(True))
    """

    defect_formula = "max(ambient defect, -g_i / |grad g_i|)"

    def __new__(
        cls,
        ambient: Manifold,
        inequalities: Inequality | Sequence[Inequality],
        exact_volume: float | None = None,
        start: Any = None,
    ) -> Restricted:
        chosen = _CompactRestricted if isinstance(ambient, Compact) else _PlainRestricted
        return super().__new__(chosen)  # pyright: ignore[reportArgumentType]

    def __init__(
        self,
        ambient: Manifold,
        inequalities: Inequality | Sequence[Inequality],
        exact_volume: float | None = None,
        start: Any = None,
    ) -> None:
        functions = tuple(inequalities) if isinstance(inequalities, Sequence) else (inequalities,)
        if not isinstance(ambient, Manifold) or not functions or not all(callable(g) for g in functions):
            raise ConfigError(
                f"Restricted(M, inequalities) needs a manifold and functions of its points; got {ambient!r} and "
                f"{inequalities!r}."
            )
        start = None if start is None else tuple(torch.as_tensor(start).flatten().tolist())
        super().__init__(ambient, ambient, functions, exact_volume, start)
        self.inequalities, self.exact_volume, self.start = functions, exact_volume, start
        if start is None:
            inner = self.project(ambient.origin(torch.float64))
        else:
            inner = ambient.project(torch.tensor(start, dtype=torch.float64).reshape(self.point_shape))
        self._origin = inner
        if not bool(self.inside(inner)):
            raise ConfigError(
                f"No point of {ambient} that satisfies the inequalities was found from {inner.tolist()}, where they "
                f"are {self.values(inner).tolist()}. Give one: Restricted(..., start=point)."
            )

    def __repr__(self) -> str:
        extra = [f"{n}={v!r}" for n, v in (("exact_volume", self.exact_volume), ("start", self.start)) if v is not None]
        return f"Restricted({', '.join([repr(self.ambient), repr(self.inequalities), *extra])})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Restricted, (self.ambient, self.inequalities, self.exact_volume, self.start)

    def values(self, x: Tensor) -> Tensor:
        """The functions themselves, ``(*batch, m)``, and the slacks of an ambient domain."""
        own = torch.stack([g(x) for g in self.inequalities], -1)
        return torch.cat([own, self.ambient.slack(x)], -1) if isinstance(self.ambient, Domain) else own

    def _raw_gradients(self, x: Tensor) -> Tensor:
        axis = len(self.batch_shape(x))
        x = x.contiguous()  # forward mode refuses expanded tensors, and promotes derivatives of float32 scalars
        own = torch.stack([gradient(self.ambient, g, x) for g in self.inequalities], axis).to(x.dtype)
        return torch.cat([own, self.ambient.slack_gradients(x)], axis) if isinstance(self.ambient, Domain) else own

    def slack(self, x: Tensor) -> Tensor:
        """The functions over the lengths of their gradients: close to the boundary, the distances to it."""
        return self._slack_from(self.values(x), self._raw_gradients(x), x)

    def _slack_from(self, values: Tensor, gradients: Tensor, x: Tensor) -> Tensor:
        return values / self._lengths(gradients, x)

    def _lengths(self, gradients: Tensor, x: Tensor) -> Tensor:
        length = self.norm(x.unsqueeze(len(self.batch_shape(x))).expand_as(gradients), gradients)
        return torch.where(length > 0, length, 1.0)

    def inside(self, x: Tensor) -> Tensor:
        return (self.values(x) >= 0).all(-1)

    def slack_gradients(self, x: Tensor) -> Tensor:
        """Unit gradients of the functions: those of the slacks on the boundary."""
        gradients = self._raw_gradients(x)
        return gradients / self.per_point(self._lengths(gradients, x))

    def boundary_distance(self, x: Tensor) -> Tensor:
        """The least slack: the distance to first order, close to the boundary."""
        return self.slack(x).amin(-1)

    def project(self, x: Tensor) -> Tensor:
        """The ambient projection, then steps of Newton along the normal of the most violated inequality."""
        x = self.ambient.project(x)
        for _ in range(8):
            worst, index = self.slack(x).min(-1)
            depth = torch.where(worst < 0, -worst * 1.01 + torch.finfo(x.dtype).eps, 0.0)
            moved = self.exp(x, self.per_point(depth) * self._gradient_of(index, x))
            x = torch.where(self.per_point(worst < 0), moved, x)
        return x

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(self.batch_shape(x), self.batch_shape(v))
        x, v = (a.expand(*batch, *self.point_shape) for a in (x, v))
        for _ in range(MAX_BOUNCES):
            t, index, crossed = self._first_exit(x, v)
            if not bool(crossed.any()):
                return self.ambient.exp(x, v)
            ends, velocity = torch.func.jvp(
                lambda s, x=x, v=v: self.ambient.exp(x, self.per_point(s) * v), (t,), (torch.ones_like(t),)
            )[:2]
            normal = self._gradient_of(index, ends)
            normal = normal / self.per_point(self.norm(ends, normal))
            turned = velocity - self.per_point(2 * self.inner(ends, normal, velocity)) * normal
            rest = self.per_point(1 - t) * torch.where(self.per_point(crossed), turned, 0.0)
            x, v = ends, self.to_tangent(ends, rest)
        raise NumericsError(
            f"A step on {self} had not ended after {MAX_BOUNCES} reflections. Take shorter steps, or check that the "
            "inequalities are smooth and their gradients don't vanish on the boundary."
        )

    def _first_exit(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Last time inside before the first exit (1 if there is none), the inequality it violates, and whether."""
        grid = torch.arange(1, _GRID + 1, dtype=x.dtype, device=x.device) / _GRID
        scaled = grid.reshape(_GRID, *(1,) * v.dim()) * v
        outside = (self.values(self.ambient.exp(x.expand_as(scaled), scaled)) < 0).any(-1)
        crossed = outside.any(0)
        first = outside.to(torch.uint8).argmax(0)
        high = (first + 1).to(x) / _GRID
        low = high - 1 / _GRID
        for _ in range(50 if x.dtype == torch.float64 else 24):
            middle = (low + high) / 2
            out = (self.values(self.ambient.exp(x, self.per_point(middle) * v)) < 0).any(-1)
            low, high = torch.where(out, low, middle), torch.where(out, middle, high)
        index = self.values(self.ambient.exp(x, self.per_point(high) * v)).argmin(-1)
        return torch.where(crossed, low, 1.0), index, crossed

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """``start``, or the ambient origin moved inside."""
        return self.ambient.project(self._origin.to(dtype=dtype or torch.get_default_dtype(), device=device))


class _PlainRestricted(Restricted):
    """A domain of a manifold that is not compact."""


class _CompactRestricted(Restricted, Compact):
    """A domain of a compact manifold."""

    ambient: Compact

    @cached_property
    def _share(self) -> float:
        generator = torch.Generator().manual_seed(0)
        points = self.ambient.random_uniform(_VOLUME_POINTS, generator=generator, dtype=torch.float64)
        share = float(self.inside(points).double().mean())
        if share < 1e-3:
            raise CapabilityError(
                f"Less than a thousandth of {self.ambient} satisfies the inequalities of {self}: its uniform law can't "
                "be drawn by rejection."
            )
        return share

    @property
    def volume(self) -> float:
        """The volume that was given, or the estimate."""
        return self.exact_volume if self.exact_volume is not None else self._share * self.ambient.volume

    @property
    def log_volume(self) -> float:
        if self.exact_volume is not None:
            return math.log(self.exact_volume)
        return math.log(self._share) + self.ambient.log_volume

    @property
    def volume_error(self) -> float:
        """Standard error of :attr:`volume`; 0 if it was given."""
        if self.exact_volume is not None:
            return 0.0
        return self.ambient.volume * (self._share * (1 - self._share) / _VOLUME_POINTS) ** 0.5

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        found, size = [], int(n / self._share * 1.1) + 16
        while sum(map(len, found)) < n:
            x = self.ambient.random_uniform(size, generator=generator, dtype=dtype, device=device)
            found.append(x[self.inside(x)])
        return torch.cat(found)[:n]
