"""Manifolds that a chart maps isometrically onto another one."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from .base import Manifold
from .euclidean import Euclidean

__all__ = ["Pullback", "wide"]


def wide(x: Tensor) -> Tensor:
    """``x`` in float64, in which charts are computed: matrix factorisations magnify rounding."""
    return x.to(torch.float64)


class Pullback(Manifold):
    r"""A manifold with the metric that makes a global chart :math:`\varphi: M \to N` onto a model N an isometry.

    :math:`\langle u, v\rangle_x = \langle d\varphi\, u, d\varphi\, v\rangle_{\varphi(x)}`. Geodesics, distances,
    transport and Brownian motion are those of the model: :math:`\exp_x(v) = \varphi^{-1}(\exp_{\varphi(x)} d\varphi\,
    v)`. A subclass writes ``chart``, ``point``, ``pull``, ``push``, ``to_tangent`` and ``project``, and gets the rest,
    the exact heat kernel of the model included. The four maps are called in float64, whatever the dtype of the points.

    Args:
        model: the manifold N.
        point_shape: shape of a point of M.
        args: constructor arguments of the subclass.

    Attributes:
        model: the manifold N.
    """

    def __init__(self, model: Manifold, point_shape: tuple[int, ...], *args: Any) -> None:
        super().__init__(model.dim, point_shape, *args)
        self.model = model
        self.injectivity_radius = model.injectivity_radius

    @abstractmethod
    def chart(self, x: Tensor) -> Tensor:
        """Points of the model, ``(*batch, *model.point_shape)``."""

    @abstractmethod
    def point(self, z: Tensor) -> Tensor:
        """Points from those of the model: the inverse of :meth:`chart`."""

    @abstractmethod
    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        """Differential of :meth:`chart`: tangent vectors of the model at ``chart(x)``; batch shapes broadcast."""

    @abstractmethod
    def push(self, x: Tensor, w: Tensor) -> Tensor:
        """Inverse of :meth:`pull`: tangent vectors at ``x``; batch shapes broadcast."""

    def _base(self, p: Tensor) -> Tensor:
        """``chart(p)`` for what depends on it: in a Euclidean model lengths and bases are the same everywhere."""
        if isinstance(self.model, Euclidean):
            return p.new_zeros(*self.batch_shape(p), self.dim)
        return self.chart(p)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        p = wide(x)
        first = self.pull(p, wide(u))
        second = first if v is u else self.pull(p, wide(v))
        return self.model.inner(self._base(p), first, second).to(x.dtype)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        p = wide(x)
        return self.model.norm(self._base(p), self.pull(p, wide(v))).to(x.dtype)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        p = wide(x)
        return self.point(self.model.exp(self.chart(p), self.pull(p, wide(v)))).to(x.dtype)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        p = wide(x)
        return self.push(p, self.model.log(self.chart(p), self.chart(wide(y)))).to(x.dtype)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self.model.dist(self.chart(wide(x)), self.chart(wide(y))).to(x.dtype)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        p, q = wide(x), wide(y)
        return self.push(q, self.model.transport(self.chart(p), self.chart(q), self.pull(p, wide(v)))).to(x.dtype)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        p = wide(x)
        return self.push(p, self.model.random_tangent(self._base(p), generator=generator)).to(x.dtype)

    def tangent_basis(self, x: Tensor) -> Tensor:
        p = wide(x)
        return self.push(p.unsqueeze(len(self.batch_shape(x))), self.model.tangent_basis(self._base(p))).to(x.dtype)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        p = wide(x)
        return self.model.log_det_exp(self._base(p), self.pull(p, wide(v))).to(x.dtype)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.point(self.model.origin(torch.float64, device)).to(dtype or torch.get_default_dtype())

    def coordinates(self, x: Tensor) -> Tensor:
        """The model's coordinates of the chart."""
        return self.model.coordinates(self.chart(wide(x))).to(x.dtype)

    def embed(self, x: Tensor) -> Tensor:
        """The model's embedding of the chart."""
        return self.model.embed(self.chart(wide(x))).to(x.dtype)

    @property
    def frame_dim(self) -> int:
        return self.model.frame_dim

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """The model's frame, seen through the chart."""
        p = wide(x)
        return self.push(p, self.model.from_frame(self._base(p), wide(a))).to(x.dtype)

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        return self.model.random_frequencies(n, max_frequency, generator)
