"""Hyperbolic space in the Poincaré ball."""

from __future__ import annotations

import torch
from torch import Tensor

from .._safe import cosh_sinhc, safe_norm, x_over_sinh
from .base import check_size
from .capabilities import NoncompactSymmetric

__all__ = ["PoincareBall"]


def _gap(x: Tensor) -> Tensor:
    """``1 - |x|^2``, ``(*batch, 1)``, free of the rounding of |x|^2: near the boundary it is all that matters."""
    return (1 - x.double().square().sum(-1, keepdim=True)).to(x.dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


class PoincareBall(NoncompactSymmetric):
    r"""Hyperbolic space of curvature -1 as the open unit ball with a conformal metric.

    :math:`B^n = \{x \in \mathbb{R}^n : |x| < 1\}` with :math:`\langle u, v\rangle_x = \lambda_x^2\, u \cdot v` and
    :math:`\lambda_x = 2 / (1 - |x|^2)`. It is a chart of the same space as :class:`Hyperboloid`: see
    :meth:`to_hyperboloid` and :meth:`from_hyperboloid`. With :math:`\alpha = 1 - |x|^2`, :math:`\beta = 1 - |y|^2` and
    :math:`S = |x - y|^2`,

    .. math:: \sinh^2 \frac d2 = \frac{S}{\alpha\beta}, \qquad
        \log_x(y) = \frac{d}{\sinh d}\, \frac{\alpha (y - x) - S x}{\beta},

    sums without cancellation in which the gaps to the boundary appear as such. A point at distance r from the origin
    has :math:`1 - |x|^2 \approx 4 e^{-r}`: in float64 a rounding of the point moves it by 1e-8 at r = 20; float32 holds
    points up to r = 15, where it moves them by 0.1, and is good to 1e-4 up to r = 8. Beyond that take
    :class:`Hyperboloid`. :meth:`exp` and :meth:`project` end at r = 15 (float32) or 35 (float64).

    Args:
        n: dimension, at least 1.

    Raises:
        ConfigError: if ``n < 1``.

    Example:
        >>> import torch
        >>> M = PoincareBall(2)
        >>> x = M.exp(M.origin(), torch.tensor([0.15, 0.2]))
        >>> M.dist(M.origin(), x)
        tensor(0.5000)

    References:
        Ungar, *Analytic hyperbolic geometry and Albert Einstein's special theory of relativity*, 2008.
        Nickel and Kiela, *Poincaré embeddings for learning hierarchical representations*, 2017, arXiv:1705.08039.
    """

    isometric = False  # the metric is conformal: see divergence_correction
    defect_formula = "|x|, which is not below 1,"

    def __init__(self, n: int) -> None:
        check_size("PoincareBall(n)", n=n)
        super().__init__(n, (n,), n)
        self.n = n
        self.rho_squared = (n - 1) ** 2 / 4

    # ------------------------------------------------------------------ the other chart

    def to_hyperboloid(self, x: Tensor) -> Tensor:
        r"""The same points of ``Hyperboloid(n)``, :math:`(1 + |x|^2,\ 2x) / (1 - |x|^2)`, ``(*batch, n + 1)``."""
        space = 2 * x / _gap(x)
        return torch.cat([(1 + _dot(space, space)).sqrt(), space], -1)

    def from_hyperboloid(self, y: Tensor) -> Tensor:
        r"""The points of the ball of points of ``Hyperboloid(n)``, :math:`y_s / (1 + y_0)`."""
        return self.project(y[..., 1:] / (1 + y[..., :1]))

    def vector_to_hyperboloid(self, x: Tensor, v: Tensor) -> Tensor:
        """The differential of :meth:`to_hyperboloid` at ``x``, an isometry of tangent spaces."""
        scale = 2 / _gap(x)
        rise = scale * scale * _dot(x, v)
        return torch.cat([rise, scale * v + rise * x], -1)

    def vector_from_hyperboloid(self, y: Tensor, v: Tensor) -> Tensor:
        """The differential of :meth:`from_hyperboloid` at ``y``, an isometry of tangent spaces."""
        space, height, vs = y[..., 1:], y[..., :1], v[..., 1:]
        # v - y_s v_0 / (1 + y_0) with v_0 = y_s . v / y_0. Far away it cancels along y_s, where it is v / y_0.
        along = _dot(space, vs)
        far = height > 2
        length = torch.where(far, _dot(space, space), 1.0)
        factor = torch.where(far, (1 - 1 / height) / length, 1 / (height * (1 + height)))
        return (vs - factor * along * space) / (1 + height)

    # ------------------------------------------------------------------ geometry

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        scale = 2 / _gap(x)
        return (scale * u * scale * v).sum(-1)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(2 / _gap(x) * v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        """The point itself, or the one in its direction at four roundings from the boundary."""
        squared = _dot(x, x)
        limit = 1 - 4 * torch.finfo(x.dtype).eps
        outside = squared > limit * limit
        return torch.where(outside, x * (limit / torch.where(outside, squared, 1.0).sqrt()), x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        # The Möbius sum of x and p = tanh(r / 2) u, with 1 + 2 x.p + |p|^2 = |x + p|^2 + 1 - |x|^2 and
        # 1 + 2 x.p + |x|^2 |p|^2 = |x + p|^2 + (1 - |x|^2)(1 - |p|^2), 1 - |p|^2 = 1 / cosh^2(r / 2).
        gap = _gap(x)
        w = v / gap  # half of the vector's coefficients in an orthonormal basis
        cosh, sinhc = cosh_sinhc(_dot(w, w))
        p = sinhc / cosh * w
        near = (x + p).square().sum(-1, keepdim=True)
        return self.project(((near + gap) * x + gap * p) / (near + gap / cosh.square()))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        gap, other, d = _gap(x), _gap(y), y - x
        squared = _dot(d, d)
        return x_over_sinh(self.dist(x, y).unsqueeze(-1)) * ((gap * d - squared * x) / other)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * torch.asinh(safe_norm(y - x) * (_gap(x) * _gap(y)).rsqrt().squeeze(-1))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        # The gyration gyr[y, -x] v times the ratio of the conformal factors, in terms of d = y - x: none of the terms
        # is large, and none cancels.
        gap, other, d = _gap(x), _gap(y), y - x
        squared, xv, dv = _dot(d, d), _dot(x, v), _dot(d, v)
        turn = (gap * dv - squared * xv) * y - (dv + other * xv) * d
        return other / gap * (v + 2 * turn / (squared + gap * other))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.from_frame(x, torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        return _gap(x).unsqueeze(-1) / 2 * torch.eye(self.n, dtype=x.dtype, device=x.device)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        # rho = (2 / (1 - |x|^2))^n
        return (2 * self.n * _dot(x, v) / _gap(x)).squeeze(-1)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(self.n, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return (self.n - 1) * cosh_sinhc(self.inner(x, v, v))[1].log()

    def coordinates(self, x: Tensor) -> Tensor:
        """Normal coordinates at the origin, those of ``Hyperboloid(n)``: the ball's own crowd at its boundary."""
        root = _gap(x).rsqrt()
        half = torch.asinh(safe_norm(x, keepdim=True) * root)
        return 2 * x_over_sinh(half) * root * x

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Coefficients in the orthonormal frame transported from the origin along radial geodesics."""
        return _gap(x) / 2 * a

    def defect(self, x: Tensor) -> Tensor:
        length = x.norm(dim=-1)
        inside = length <= 1 - 2 * torch.finfo(x.dtype).eps
        return torch.where(inside, torch.zeros_like(length), length)
