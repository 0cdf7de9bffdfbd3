"""Hyperbolic space in the hyperboloid model."""

from __future__ import annotations

import torch
from torch import Tensor

from .._safe import cosh_sinhc, safe_norm, safe_sqrt, x_over_sinh
from .base import check_size
from .capabilities import NoncompactSymmetric

__all__ = ["Hyperboloid", "LorentzModel", "half_sinh_squared"]


def _minkowski(u: Tensor, v: Tensor) -> Tensor:
    return (u[..., 1:] * v[..., 1:]).sum(-1) - u[..., 0] * v[..., 0]


def _lift(space: Tensor) -> Tensor:
    """The point over its space-like entries."""
    return torch.cat([(1 + (space * space).sum(-1, keepdim=True)).sqrt(), space], -1)


def half_sinh_squared(x: Tensor, y: Tensor) -> Tensor:
    """``sinh^2(d / 2)``, smooth where the distance is not."""
    xs, ys = x[..., 1:], y[..., 1:]
    d, total = xs - ys, x[..., :1] + y[..., :1]
    squares = (d * (xs + ys)).sum(-1, keepdim=True)  # |x_s|^2 - |y_s|^2, without the cancellation
    gap = (d * d).sum(-1, keepdim=True)
    near = (gap - (squares / total).square()).squeeze(-1) / 4
    a, b = safe_norm(xs, keepdim=True), safe_norm(ys, keepdim=True)
    # r_x - r_y = asinh((|x_s|^2 - |y_s|^2) / (a y_0 + b x_0)), and x_s / a - y_s / b = (d + (b - a) / b y_s) / a: close
    # points keep the relative accuracy of their difference d at any distance from the origin.
    both = a * y[..., :1] + b * x[..., :1]
    apart = torch.asinh(squares / torch.where(both > 0, both, 1.0)).squeeze(-1)
    a1, b1 = torch.where(a > 0, a, 1.0), torch.where(b > 0, b, 1.0)
    turn = torch.where(gap < a * a, (d - squares / ((a1 + b1) * b1) * ys) / a1, xs / a1 - ys / b1)
    ab = (a * b).squeeze(-1)
    # Near the origin the direction of x_s or y_s has no meaning.
    angle = torch.where(
        torch.minimum(a, b).squeeze(-1) < 1, (ab - (xs * ys).sum(-1)) / 2, ab * (turn * turn).sum(-1) / 4
    )
    return torch.where(total.squeeze(-1) < 6, near, (apart / 2).sinh().square() + angle)


class Hyperboloid(NoncompactSymmetric):
    r"""Hyperbolic space of curvature -1.

    :math:`H^n = \{x \in \mathbb{R}^{n+1} : \langle x, x\rangle = -1,\ x_0 > 0\}` with
    :math:`\langle u, v\rangle = -u_0 v_0 + \sum_i u_i v_i`; entry 0 is the time-like one,
    :math:`x_0 = \sqrt{1 + |x_s|^2}`. :math:`\exp_x(v) = \cosh|v|\, x + \sinh|v|\, v/|v|`.
    Distances never use acosh of a rounded product: near the origin
    :math:`\sinh^2(d/2) = \langle x-y, x-y\rangle/4`, far from it
    :math:`\sinh^2(d/2) = \sinh^2((r_x-r_y)/2) + \sinh r_x \sinh r_y \sin^2(\varphi/2)` in polar coordinates.

    In float32 a point at distance r from the origin has an angular resolution of about 6e-8, which is 6e-8 sinh(r) in
    distance: use float64 for tangential detail beyond r = 8.

    Args:
        n: dimension, at least 1.

    Example:
        >>> import torch
        >>> M = Hyperboloid(2)
        >>> o = M.origin()
        >>> x = M.exp(o, torch.tensor([0.0, 0.3, 0.4]))
        >>> M.dist(o, x)
        tensor(0.5000)
    """

    isometric = True
    defect_formula = "|x_0 - sqrt(1 + |x_s|^2)| / x_0"

    def __init__(self, n: int) -> None:
        check_size("Hyperboloid(n)", n=n)
        super().__init__(n, (n + 1,), n)
        self.n = n
        self.rho_squared = (n - 1) ** 2 / 4

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        # With v_0 = x_s . v_s / x_0 the product is u_s . v_s - u_0 v_0, taken near the origin; elsewhere it is
        # u_perp . v_perp + u_par v_par / x_0^2 (par: along x_s), a sum without the cancellation of the Minkowski form,
        # hence positive for u = v at any distance. Only for tangent vectors: the time-like entries are not read.
        xs, us, vs = x[..., 1:], u[..., 1:], v[..., 1:]
        height = x[..., :1].square()
        near = height < 2
        a, b = (xs * us).sum(-1, keepdim=True), (xs * vs).sum(-1, keepdim=True)
        length = torch.where(near, 1.0, height - 1)
        fa, fb = torch.where(near, 0.0, a / length), torch.where(near, 0.0, b / length)
        product = (torch.addcmul(us, fa, xs, value=-1) * torch.addcmul(vs, fb, xs, value=-1)).sum(-1)
        return product + (a * torch.where(near, -b, fb) / height).squeeze(-1)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v + _minkowski(x, v).unsqueeze(-1) * x

    def project(self, x: Tensor) -> Tensor:
        return _lift(x[..., 1:])

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        c, k = cosh_sinhc(self.inner(x, v, v).unsqueeze(-1))
        return _lift(c * x[..., 1:] + k * v[..., 1:])

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        xs, ys = x[..., 1:], y[..., 1:]
        squared = half_sinh_squared(x, y).unsqueeze(-1)
        # y - cosh(r) x = (y - x) - 2 sinh^2(r/2) x: the normal part of y - x is removed without cancellation. The
        # time-like entry follows from tangency, v_0 = x_s . v_s / x_0, which keeps inner() consistent in float32.
        space = x_over_sinh(2 * torch.asinh(safe_sqrt(squared))) * torch.addcmul(ys - xs, squared, xs, value=-2)
        return torch.cat([(xs * space).sum(-1, keepdim=True) / x[..., :1], space], -1)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * torch.asinh(safe_sqrt(half_sinh_squared(x, y)))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        # <y, v> = <y - x, v>, and y_0 - x_0 and 1 - <x, y> = 2 + 2 sinh^2(d/2) without cancellation
        total = x + y
        d = y[..., 1:] - x[..., 1:]
        rise = (d * total[..., 1:]).sum(-1) / total[..., 0]
        scale = ((d * v[..., 1:]).sum(-1) - rise * v[..., 0]) / (2 + 2 * half_sinh_squared(x, y))
        return v + scale.unsqueeze(-1) * total

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.randn(*x.shape[:-1], self.n, generator=generator, dtype=x.dtype, device=x.device)
        return self._boost(x, normal)

    def tangent_basis(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.n, dtype=x.dtype, device=x.device)
        return self._boost(
            x.unsqueeze(-2).expand(*x.shape[:-1], self.n, self.n + 1), eye.expand(*x.shape[:-1], self.n, self.n)
        )

    def _boost(self, x: Tensor, space: Tensor) -> Tensor:
        """Parallel transport of the vector (0, space) from the origin to ``x``."""
        along = (x[..., 1:] * space).sum(-1, keepdim=True)
        return torch.cat([along, space + along / (1 + x[..., :1]) * x[..., 1:]], -1)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        tip = torch.zeros(self.n + 1, dtype=dtype, device=device)
        tip[0] = 1
        return tip

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return (self.n - 1) * cosh_sinhc(self.inner(x, v, v))[1].log()

    def coordinates(self, x: Tensor) -> Tensor:
        """Normal coordinates at the origin, ``asinh(|x_s|) x_s / |x_s|``: ambient entries grow as exp(distance)."""
        space = x[..., 1:]
        r = torch.asinh(safe_norm(space, keepdim=True))
        return x_over_sinh(r) * space

    @property
    def frame_dim(self) -> int:
        return self.n

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Coefficients in the orthonormal frame transported from the origin along radial geodesics."""
        return self._boost(x, a)

    def defect(self, x: Tensor) -> Tensor:
        height = (1 + x[..., 1:].square().sum(-1)).sqrt()
        return (x[..., 0] - height).abs() / height


LorentzModel = Hyperboloid
"""Another name of :class:`Hyperboloid`."""
