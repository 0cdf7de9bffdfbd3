r"""Geometry of constant curvature as smooth functions of the curvature, through zero.

A point is :math:`(h, x_s)` with :math:`|x_s|^2 + \kappa h^2 = 2h`: the sphere (:math:`\kappa > 0`), paraboloid (0) or
hyperboloid (< 0) that touches the plane :math:`h = 0` at the origin. :math:`h` is the height over that plane, and
:math:`x_0 = 1 - \kappa h` the cosine (hyperbolic cosine) of :math:`\sqrt{|\kappa|}` times the distance from the
origin. The metric is the constant form :math:`\langle u, v\rangle = u_s \cdot v_s + \kappa\, u_h v_h`, which needs no
division by :math:`\kappa`; everything else follows from it by functions of :math:`\kappa\, d^2` that are analytic at 0:
:math:`\cos\sqrt z`, :math:`\sin\sqrt z/\sqrt z` and their inverse.

``kappa`` is a float or a tensor, scalar or ``(*batch,)``; gradients with respect to it are right at 0 too. Points lie
on different surfaces for different curvatures: a point that doesn't depend on ``kappa`` is given by its normal
coordinates at the origin, :func:`curved_point`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .._safe import cos_sinc, cosh_sinhc, safe_sqrt
from .hyperboloid import half_sinh_squared
from .sphere import Sphere

__all__ = [
    "curved_dist",
    "curved_exp",
    "curved_inner",
    "curved_log",
    "curved_normal",
    "curved_point",
    "curved_transport",
]

_ARCSINE = tuple(math.comb(2 * k, k) / (4**k * (2 * k + 1)) for k in range(9))
_LIMIT = 0.01  # series below this square: the first term left out is 1e-20


def column(kappa: Tensor | float, x: Tensor) -> Tensor:
    """Curvature in the dtype and on the device of points, with an axis for their entries."""
    if isinstance(kappa, Tensor):
        return kappa.to(x).unsqueeze(-1)
    return torch.full((1,), kappa, dtype=x.dtype, device=x.device)


def _by_sign(kappa: Tensor | float, k: Tensor, positive: Callable[[], Tensor], other: Callable[[], Tensor]) -> Tensor:
    """One of two formulas; a curvature that is a number decides before anything is computed."""
    if isinstance(kappa, Tensor):
        return torch.where(k > 0, positive(), other())
    return positive() if kappa > 0 else other()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Height ``(*batch, 1)`` and space-like entries."""
    return x[..., :1], x[..., 1:]


def cos_sinc_of_either_sign(z: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\cos\sqrt z` and :math:`\sin\sqrt z/\sqrt z`, entire functions of :math:`z` of either sign."""
    negative = z < 0
    c, s = cos_sinc(torch.where(negative, 0.0, z))
    ch, sh = cosh_sinhc(torch.where(negative, -z, 0.0))
    return torch.where(negative, ch, c), torch.where(negative, sh, s)


def _arc(z: Tensor, cosine_squared: Tensor) -> Tensor:
    r""":math:`\arcsin\sqrt z/\sqrt z`, with :math:`1 - z` given on its own, as z comes close to 1 at antipodes."""
    small = z.abs() < _LIMIT
    s = torch.where(small, z, 0.0)
    series = torch.full_like(s, _ARCSINE[-1])
    for c in _ARCSINE[-2::-1]:
        series = series * s + c
    up = torch.where(z >= _LIMIT, z, 1.0).sqrt()
    down = torch.where(z <= -_LIMIT, -z, 1.0).sqrt()
    far = torch.where(z > 0, torch.atan2(up, safe_sqrt(cosine_squared)) / up, torch.asinh(down) / down)
    return torch.where(small, series, far)


def at(kappa: Tensor | float, space: Tensor, top: Tensor) -> Tensor:
    r"""The point with space-like entries and :math:`x_0` close to the given ones.

    It is scaled to the sphere, or lifted to the hyperboloid, where only the space-like entries count.
    """
    k, squared = column(kappa, space), _dot(space, space)
    # Roots are safe where they aren't taken: either argument may be negative for the other sign.
    length = torch.where(k > 0, top * top + k * squared, 1.0)
    size = _by_sign(kappa, k, length.sqrt, lambda: torch.ones_like(top))
    lifted = _by_sign(kappa, k, lambda: top / size, lambda: (1 - torch.where(k > 0, 0.0, k) * squared).sqrt())
    space, squared = space / size, squared / size.square()
    upper = lifted > 0
    near = squared / (1 + torch.where(upper, lifted, 0.0))
    height = near if _not_positive(kappa) else torch.where(upper, near, (1 - lifted) / torch.where(upper, 1.0, k))
    return torch.cat([height, space], -1)


def _not_positive(kappa: Tensor | float) -> bool:
    return not isinstance(kappa, Tensor) and kappa <= 0


def top_of(kappa: Tensor | float, x: Tensor) -> Tensor:
    r""":math:`x_0 = 1 - \kappa h`, ``(*batch, 1)``."""
    return 1 - column(kappa, x) * x[..., :1]


def _height_of_vector(kappa: Tensor | float, x: Tensor, space: Tensor, otherwise: Tensor) -> Tensor:
    """Height of a tangent vector from tangency, x_0 v_h = x_s . v_s, where x_0 is not small."""
    top = top_of(kappa, x)
    upper = top > 0.5
    return torch.where(upper, _dot(x[..., 1:], space) / torch.where(upper, top, 1.0), otherwise)


def complete(kappa: Tensor | float, x: Tensor, space: Tensor, otherwise: Tensor) -> Tensor:
    """Tangent vector from its space-like entries, and its height where these don't tell it."""
    return torch.cat([_height_of_vector(kappa, x, space, otherwise), space], -1)


def curved_inner(kappa: Tensor | float, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    r"""Inner product :math:`u_s \cdot v_s + \kappa\, u_h v_h` of tangent vectors at ``x``, ``(*batch,)``."""
    k, space = column(kappa, x), x[..., 1:]
    (uh, us), (vh, vs) = split(u), split(v)

    def other() -> Tensor:
        # As on the hyperboloid: far from the origin u_perp . v_perp + u_par v_par / x_0^2, without cancellation.
        top = torch.where(k > 0, 1.0, top_of(kappa, x).square())
        near = top < 2
        a, b = _dot(space, us), _dot(space, vs)
        length = torch.where(near, 1.0, _dot(space, space))
        fa, fb = torch.where(near, 0.0, a / length), torch.where(near, 0.0, b / length)
        return _dot(us - fa * space, vs - fb * space) + a * torch.where(near, k * b, fb) / top

    return _by_sign(kappa, k, lambda: _dot(us, vs) + k * uh * vh, other).squeeze(-1)


def to_tangent(kappa: Tensor | float, x: Tensor, v: Tensor) -> Tensor:
    """Orthogonal projection onto the tangent space, along the normal (x_0, -kappa x_s)."""
    k, top = column(kappa, x), top_of(kappa, x)
    (_, xs), (vh, vs) = split(x), split(v)
    normal = top * vh - _dot(xs, vs)
    return torch.cat([vh - normal * top, vs + k * normal * xs], -1)


def curved_exp(kappa: Tensor | float, x: Tensor, v: Tensor) -> Tensor:
    r"""Exponential map, :math:`\exp_x(v)_s = c\, x_s + s\, v_s` with c and s functions of :math:`\kappa |v|^2`.

    Args:
        kappa: curvature, float, scalar tensor or ``(*batch,)``.
        x: points ``(*batch, n + 1)``, height first.
        v: tangent vectors at ``x``.

    Example:
        >>> import torch
        >>> kappa = torch.tensor(0.0, requires_grad=True)
        >>> o, v = torch.zeros(3), torch.tensor([0.0, 1.0, 0.0])
        >>> y = curved_exp(kappa, o, v)
        >>> y, torch.autograd.grad(y[1], kappa)[0]  # sin(sqrt(kappa)) / sqrt(kappa) = 1 - kappa / 6 + ...
        (tensor([0.5000, 1.0000, 0.0000], grad_fn=<CatBackward0>), tensor(-0.1667))
    """
    k = column(kappa, x)
    c, s = cos_sinc_of_either_sign(k * curved_inner(kappa, x, v, v).unsqueeze(-1))
    top = c * top_of(kappa, x) - k * s * v[..., :1]
    return at(kappa, c * x[..., 1:] + s * v[..., 1:], top)


def curved_point(kappa: Tensor | float, v: Tensor) -> Tensor:
    """The point with normal coordinates ``v``, ``(*batch, n)``, at the origin: a point for every curvature."""
    k = column(kappa, v)
    c, s = cos_sinc_of_either_sign(k * _dot(v, v))
    return at(kappa, s * v, c)


def curved_normal(kappa: Tensor | float, x: Tensor) -> Tensor:
    """Normal coordinates at the origin, ``(*batch, n)``: the inverse of :func:`curved_point`."""
    origin = torch.zeros_like(x)
    return curved_log(kappa, origin, x)[..., 1:]


def _chord(kappa: Tensor | float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r""":math:`\sin^2(\theta/2)/\kappa` for :math:`\theta = \sqrt\kappa\, d`, :math:`\cos^2(\theta/2)`, y_h - x_h."""
    k, (xh, xs), (yh, ys) = column(kappa, x), split(x), split(y)
    d, total = ys - xs, top_of(kappa, x) + top_of(kappa, y)
    gap = _dot(d, d)
    # y_h - x_h without cancellation, where x_0 + y_0 is not small
    rise = _by_sign(kappa, k, lambda: yh - xh, lambda: _dot(d, xs + ys) / torch.where(k > 0, 2.0, total))
    squared = (gap + k * rise * rise) / 4
    if isinstance(kappa, Tensor) or kappa < 0:
        far = (total >= 6) & (k < 0)
        size = torch.where(far, -k, 1.0)
        tops = [torch.where(far, top_of(kappa, a), 1.0) for a in (x, y)]
        spaces = [torch.where(far, size.sqrt() * a, 0.0) for a in (xs, ys)]
        unit = [torch.cat([a.expand(*b.shape[:-1], 1), b], -1) for a, b in zip(tops, spaces, strict=True)]
        squared = torch.where(far, half_sinh_squared(*unit).unsqueeze(-1) / size, squared)
    total_space = xs + ys
    cosine_squared = _by_sign(
        kappa, k, lambda: (total * total + k * _dot(total_space, total_space)) / 4, lambda: 1 - k * squared
    )
    return squared, cosine_squared, rise


def curved_dist(kappa: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
    r"""Distance, :math:`\tfrac{2}{\sqrt\kappa} \arcsin(\sqrt\kappa\, c / 2)` of the chord c, ``(*batch,)``.

    Args:
        kappa: curvature, float, scalar tensor or ``(*batch,)``.
        x: points ``(*batch, n + 1)``, height first.
        y: points.

    Example:
        >>> import torch
        >>> v, w = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> [round(float(curved_dist(k, curved_point(k, v), curved_point(k, w))), 4) for k in (-1.0, 0.0, 1.0)]
        [1.5134, 1.4142, 1.2746]
    """
    squared, cosine_squared, _ = _chord(kappa, x, y)
    half = _arc(column(kappa, x) * squared, cosine_squared)
    return (2 * safe_sqrt(squared) * half).squeeze(-1)


def curved_log(kappa: Tensor | float, x: Tensor, y: Tensor) -> Tensor:
    r"""Logarithm: :math:`\tfrac{\theta}{\sin\theta}\, (y - x - 2 s^2 N)`, :math:`N = (x_0, -\kappa x_s)` the normal."""
    k, (_, xs), (_, ys) = column(kappa, x), split(x), split(y)
    squared, cosine_squared, rise = _chord(kappa, x, y)
    behind = k * squared > 0.5
    cosine = torch.where(behind, 1.0, cosine_squared).sqrt()
    scale = _arc(k * squared, cosine_squared) / cosine
    space = scale * (ys - xs + 2 * k * squared * xs)
    out = complete(kappa, x, space, scale * (rise - 2 * squared * top_of(kappa, x)))
    if _not_positive(kappa):
        return out
    # More than a quarter of a great circle away the unit sphere's formulas are the accurate ones.
    sphere = Sphere(x.shape[-1] - 1)
    return torch.where(behind, _from_sphere(k, x, sphere.log(*_on_sphere(k, behind, x, y))), out)


def curved_transport(kappa: Tensor | float, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
    """Parallel transport of ``v`` from ``x`` to ``y`` along the minimal geodesic."""
    k, (_, xs), (_, ys), (vh, vs) = column(kappa, x), split(x), split(y), split(v)
    squared, cosine_squared, rise = _chord(kappa, x, y)
    behind = k * squared > 0.5
    along = _dot(ys - xs, vs) + k * rise * vh
    factor = along / (2 * torch.where(behind, 1.0, cosine_squared))
    total = top_of(kappa, x) + top_of(kappa, y)
    out = torch.cat([vh + factor * total, vs - k * factor * (xs + ys)], -1)
    if _not_positive(kappa):
        return out
    start, end = _on_sphere(k, behind, x, y)
    image = Sphere(x.shape[-1] - 1).transport(start, end, torch.where(behind, _vector_on_sphere(k, v), 0.0))
    return torch.where(behind, _from_sphere(k, x, image), out)


def _on_sphere(k: Tensor, where: Tensor, *points: Tensor) -> list[Tensor]:
    """Points as unit vectors, height last, and a fixed one where they are not asked for."""
    root = torch.where(k > 0, k, 1.0).sqrt()
    north = torch.zeros_like(points[0])
    north[..., -1] = 1
    unit = [torch.cat([root * p[..., 1:], 1 - k * p[..., :1]], -1) for p in points]
    return [torch.where(where, p, north) for p in unit]


def _vector_on_sphere(k: Tensor, v: Tensor) -> Tensor:
    return torch.cat([torch.where(k > 0, k, 1.0).sqrt() * v[..., 1:], -k * v[..., :1]], -1)


def _from_sphere(k: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Tangent vector of the unit sphere in this model."""
    positive = torch.where(k > 0, k, 1.0)
    return torch.cat([-v[..., -1:] / positive, v[..., :-1] / positive.sqrt()], -1)


def frame(kappa: Tensor | float, x: Tensor, a: Tensor) -> Tensor:
    """Isometry of R^n with the tangent space: transport from the origin, or from its antipode if that is nearer."""
    space, top = x[..., 1:], top_of(kappa, x)
    along = _dot(space, a)
    sign = torch.where(top >= 0, 1.0, -1.0).to(x.dtype)
    return torch.cat([sign * along, a - column(kappa, x) * along / (1 + top.abs()) * space], -1)
