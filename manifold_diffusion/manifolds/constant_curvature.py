"""Spaces of constant curvature of either sign, as one family."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from .._errors import ConfigError
from . import curved
from .base import Manifold, check_size
from .capabilities import NoncompactSymmetric, Spectral, exp_or_inf
from .euclidean import Euclidean
from .hyperboloid import Hyperboloid
from .sphere import Sphere

__all__ = ["ConstantCurvature"]


class ConstantCurvature(Manifold):
    r"""The space of dimension ``n`` and constant curvature ``kappa``: sphere, Euclidean or hyperbolic space.

    A point is :math:`(h, x_s) \in \mathbb{R}^{n+1}`, height first, with

    .. math:: |x_s|^2 + \kappa h^2 = 2h, \qquad \langle u, v\rangle = u_s \cdot v_s + \kappa\, u_h v_h:

    a sphere of radius :math:`1/\sqrt\kappa`, a paraboloid whose height is redundant, or a hyperboloid, all touching the
    same plane at the origin. Nothing is divided by :math:`\kappa`, so that all methods are smooth in it through 0, and
    unlike in the stereographic chart a sphere is complete: no point is at infinity. The functions
    :func:`curved_exp`, :func:`curved_log`, :func:`curved_dist`, :func:`curved_inner`, :func:`curved_transport` and
    :func:`curved_point` take the curvature as a tensor and are differentiable in it.

    ``ConstantCurvature(n, kappa)`` is :class:`Spectral` for positive and :class:`NoncompactSymmetric` for negative
    curvature. All three are complete and, but for the circle, simply connected.

    Args:
        n: dimension, at least 1. For n = 1 a positive ``kappa`` makes a circle of length :math:`2\pi/\sqrt\kappa`.
        kappa: sectional curvature, any finite number.

    Raises:
        ConfigError: if ``n < 1`` or ``kappa`` is not finite.

    Attributes:
        unit: ``Sphere(n)``, ``Euclidean(n)`` or ``Hyperboloid(n)``: the space scaled to curvature 1, 0 or -1.

    Example:
        >>> import torch
        >>> for kappa in (-1.0, 0.0, 1.0):
        ...     M = ConstantCurvature(2, kappa)
        ...     x, y = (curved.curved_point(kappa, torch.tensor(v)) for v in ([1.0, 0.0], [0.0, 1.0]))
        ...     print(M, round(float(M.dist(x, y)), 4))
        ConstantCurvature(2, -1.0) 1.5134
        ConstantCurvature(2, 0.0) 1.4142
        ConstantCurvature(2, 1.0) 1.2746

    References:
        Bachmann, Bécigneul and Ganea, *Constant curvature graph convolutional networks*, 2020, arXiv:1911.05076.
        Skopek, Ganea and Bécigneul, *Mixed-curvature variational autoencoders*, 2020, arXiv:1911.08411.
    """

    isometric = True
    defect_formula = "distance of (h, x_s) to the surface, relative to 1 + |x|,"

    def __new__(cls, n: int, kappa: float) -> ConstantCurvature:
        kind = _Round if kappa > 0 else _Hyperbolic if kappa < 0 else _Flat
        return super().__new__(kind)  # pyright: ignore[reportArgumentType]

    def __init__(self, n: int, kappa: float) -> None:
        check_size("ConstantCurvature(n, kappa)", n=n)
        if not math.isfinite(kappa):
            raise ConfigError(f"ConstantCurvature(n, kappa) needs a finite curvature; got {kappa}.")
        self.n, self.kappa = n, float(kappa)
        super().__init__(n, (n + 1,), n, self.kappa)
        self.unit = Sphere(n) if kappa > 0 else Hyperboloid(n) if kappa < 0 else Euclidean(n)
        self.injectivity_radius = math.pi / math.sqrt(kappa) if kappa > 0 else math.inf

    def __repr__(self) -> str:
        return f"ConstantCurvature({self.n}, {self.kappa})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConstantCurvature, (self.n, self.kappa)

    # ------------------------------------------------------------------ the space of unit curvature

    @property
    def stretch(self) -> float:
        """Lengths on :attr:`unit` over lengths here: the root of the absolute curvature, or 1."""
        return math.sqrt(abs(self.kappa)) if self.kappa else 1.0

    def to_unit(self, x: Tensor) -> Tensor:
        """The same points of :attr:`unit`, where distances are :attr:`stretch` times as long; origin goes to origin."""
        space, top = self.stretch * x[..., 1:], curved.top_of(self.kappa, x)
        if self.kappa > 0:
            return torch.cat([space, top], -1)
        return torch.cat([top, space], -1) if self.kappa < 0 else space

    def from_unit(self, y: Tensor) -> Tensor:
        """Inverse of :meth:`to_unit`."""
        space = y[..., :-1] if self.kappa > 0 else y[..., 1:] if self.kappa < 0 else y
        top = y[..., -1:] if self.kappa > 0 else torch.ones_like(space[..., :1])
        return curved.at(self.kappa, space / self.stretch, top)

    def vector_to_unit(self, x: Tensor, v: Tensor) -> Tensor:
        """The differential of :meth:`to_unit` at ``x``."""
        space, top = self.stretch * v[..., 1:], -self.kappa * v[..., :1]
        if self.kappa > 0:
            return torch.cat([space, top], -1)
        return torch.cat([top, space], -1) if self.kappa < 0 else space

    def vector_from_unit(self, x: Tensor, v: Tensor) -> Tensor:
        """Inverse of :meth:`vector_to_unit`: the tangent vector at ``x``, a point of this manifold."""
        space = v[..., :-1] if self.kappa > 0 else v[..., 1:] if self.kappa < 0 else v
        height = -v[..., -1:] / self.kappa if self.kappa > 0 else torch.zeros_like(space[..., :1])
        return curved.complete(self.kappa, x, space / self.stretch, height)

    # ------------------------------------------------------------------ geometry

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return curved.curved_inner(self.kappa, x, u, v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return curved.to_tangent(self.kappa, x, v)

    def project(self, x: Tensor) -> Tensor:
        return curved.at(self.kappa, x[..., 1:], curved.top_of(self.kappa, x))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return curved.curved_exp(self.kappa, x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return curved.curved_log(self.kappa, x, y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return curved.curved_dist(self.kappa, x, y)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return curved.curved_transport(self.kappa, x, y, v)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.randn(*x.shape[:-1], self.n, generator=generator, dtype=x.dtype, device=x.device)
        return curved.frame(self.kappa, x, normal)

    def tangent_basis(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device).expand(*x.shape[:-1], self.n, self.n)
        return curved.frame(self.kappa, x.unsqueeze(-2), eye)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(self.n + 1, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        sinc = curved.cos_sinc_of_either_sign(self.kappa * self.inner(x, v, v))[1]
        return (self.n - 1) * sinc.abs().log()

    def coordinates(self, x: Tensor) -> Tensor:
        """On a sphere the vector from its centre; else the normal coordinates at the origin."""
        if self.kappa > 0:
            return self.to_unit(x) / self.stretch
        return curved.curved_normal(self.kappa, x)

    @property
    def frame_dim(self) -> int:
        return self.n + 1 if self.kappa > 0 else self.n

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """On a sphere the projection of a vector; else coefficients in the frame transported from the origin."""
        if self.kappa > 0:
            return self.to_tangent(x, torch.cat([a[..., :1] / self.stretch, a[..., 1:]], -1))
        return curved.frame(self.kappa, x, a)

    def defect(self, x: Tensor) -> Tensor:
        height, space = x[..., 0], x[..., 1:]
        squared, top = space.square().sum(-1), 1 - self.kappa * height
        value = squared + self.kappa * height.square() - 2 * height
        slope = 2 * (top.square() + squared).sqrt()
        return value.abs() / slope / (1 + height.abs() + squared.sqrt())


class _Flat(ConstantCurvature):
    """Curvature zero."""


class _Hyperbolic(ConstantCurvature, NoncompactSymmetric):
    """Negative curvature."""

    def __init__(self, n: int, kappa: float) -> None:
        super().__init__(n, kappa)
        self.rho_squared = -self.kappa * (n - 1) ** 2 / 4


class _Round(ConstantCurvature, Spectral):
    """Positive curvature."""

    @property
    def _sphere(self) -> Sphere:
        return cast(Sphere, self.unit)

    @property
    def volume(self) -> float:
        return exp_or_inf(self.log_volume)

    @property
    def log_volume(self) -> float:
        return self._sphere.log_volume - self.n * math.log(self.stretch)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.from_unit(self._sphere.random_uniform(n, generator=generator, dtype=dtype, device=device))

    def eigenvalues(self, n_levels: int) -> Tensor:
        return self.kappa * self._sphere.eigenvalues(n_levels)

    def multiplicities(self, n_levels: int) -> Tensor:
        return self._sphere.multiplicities(n_levels)

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        return self._sphere.level_sums(self.to_unit(x), self.to_unit(y), n_levels) * self.stretch**self.n
