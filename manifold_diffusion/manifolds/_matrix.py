r"""Functions of symmetric matrices that are right, with right derivatives, at repeated eigenvalues.

``torch.linalg.eigh`` has derivatives with 1 / (a - b) for two eigenvalues a, b: NaN where they agree, and noise where
they are close, although f(A) is as smooth as f. Here the eigenvalues and eigenvectors are constants, and f(A) is its
Taylor expansion in :math:`E = A - \bar A`, which is zero but carries the derivatives. With divided differences,

.. math:: f(A) = U \bigl( f(\lambda)_{ij} + f[\lambda_i, \lambda_j] \tilde E_{ij}
    + \sum_k f[\lambda_i, \lambda_k, \lambda_j] \tilde E_{ik} \tilde E_{kj} \bigr) U^\top,
    \qquad \tilde E = U^\top E U,

the Daleckii-Krein formula and its second-order term (Bhatia, *Matrix Analysis*, 1997, section V.3; Higham, *Functions
of Matrices*, 2008, theorem 3.11). Values and first and second derivatives are exact, in reverse and forward mode and
under ``vmap``; a third derivative would lack its third-order term.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._safe import readable, sinhc

__all__ = [
    "differentiated",
    "eigh",
    "log1p_values",
    "sym",
    "sym_arccos_over_sine",
    "sym_cos_sinc",
    "sym_exp",
    "sym_inverse_sqrt",
    "sym_log",
    "sym_log1p",
    "sym_sqrt",
]

# Four Gauss-Legendre nodes and weights on [0, 1].
_NODES = (0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970262)
_WEIGHTS = (0.17392742256872692, 0.32607257743127307, 0.32607257743127307, 0.17392742256872692)


@dataclass(frozen=True)
class _Function:
    """A scalar function with its divided differences of order one and two, all free of cancellation."""

    value: Callable[[Tensor], Tensor]
    first: Callable[[Tensor, Tensor], Tensor]
    second: Callable[[Tensor, Tensor, Tensor], Tensor]


def _nodes(like: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights along one of two leading axes."""
    shape = [1] * (2 + like.dim())
    shape[axis] = len(_NODES)
    return like.new_tensor(_NODES).reshape(shape), like.new_tensor(_WEIGHTS).reshape(shape)


def _second(
    first: Callable[[Tensor, Tensor], Tensor], curvature: Callable[[Tensor], Tensor], size: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """f[a, b, c] as a quotient of the widest pair; for three close values the integral of f'' over a triangle."""

    def difference(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        low, middle, high = torch.stack(torch.broadcast_tensors(a, b, c)).sort(0).values.unbind(0)
        gap = high - low
        close = gap < 0.1 * size(middle)
        far = (first(middle, high) - first(low, middle)) / torch.where(close, 1.0, gap)
        # Genocchi-Hermite over the triangle, by the map (u, s) -> (u, (1 - u) s).
        (u, wu), (s, ws) = _nodes(low, 0), _nodes(low, 1)
        near = curvature(low + u * (middle - low) + (1 - u) * s * gap)
        return torch.where(close, (wu * ws * (1 - u) * near).sum((0, 1)), far)

    return difference


def _first(value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """f[a, b] as a quotient; for close values the integral of f' between them."""

    def difference(a: Tensor, b: Tensor) -> Tensor:
        gap = a - b
        close = gap.abs() < 0.1
        far = (value(a) - value(b)) / torch.where(close, 1.0, gap)
        u, w = _nodes(gap, 0)
        return torch.where(close, (w * slope(b + u * gap)).sum((0, 1)), far)

    return difference


def _exp_first(a: Tensor, b: Tensor) -> Tensor:
    return ((a + b) / 2).exp() * sinhc((a - b) / 2)


def _log_first(a: Tensor, b: Tensor) -> Tensor:
    z = (a - b) / (a + b)  # (log a - log b) / (a - b) = 2 atanh(z) / (z (a + b))
    tiny, close = z.abs() < 1e-3, z.abs() < 0.5
    series = torch.atanh(torch.where(close, z, 0.5)) / torch.where(tiny, 1.0, z)
    quotient = (a.log() - b.log()) / torch.where(close, 1.0, a - b)
    return torch.where(close, 2 * torch.where(tiny, 1 + z * z / 3, series) / (a + b), quotient)


_EXP = _Function(torch.exp, _exp_first, _second(_exp_first, torch.exp, torch.ones_like))
_LOG = _Function(torch.log, _log_first, _second(_log_first, lambda a: -1 / (a * a), torch.abs))
_LOG1P = _Function(torch.log1p, lambda a, b: _LOG.first(1 + a, 1 + b), lambda a, b, c: _LOG.second(1 + a, 1 + b, 1 + c))


def _sqrt_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    a, b, c = a.sqrt(), b.sqrt(), c.sqrt()
    return -1 / ((a + b) * (b + c) * (c + a))


def _inverse_sqrt_second(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    a, b, c = a.sqrt(), b.sqrt(), c.sqrt()
    return (a + b + c) / (a * b * c * (a + b) * (b + c) * (c + a))


_SQRT = _Function(torch.sqrt, lambda a, b: 1 / (a.sqrt() + b.sqrt()), _sqrt_second)
_INVERSE_SQRT = _Function(
    torch.rsqrt, lambda a, b: -1 / (a.sqrt() * b.sqrt() * (a.sqrt() + b.sqrt())), _inverse_sqrt_second
)


def _bessel(k: int) -> Callable[[Tensor], Tensor]:
    r"""The entire function :math:`c_k(a) = j_{k-1}(z) / z^{k-1}` of :math:`a = z^2`, with :math:`c_k' = -c_{k+1} / 2`.

    :math:`c_0 = \cos z`, :math:`c_1 = \sin z / z`, and :math:`a\, c_{k+1} = (2k - 1)\, c_k - c_{k-1}` (spherical Bessel
    functions; Abramowitz and Stegun, *Handbook of Mathematical Functions*, 1964, 10.1). Series below a = 1.
    """
    terms = [1 / math.prod(range(1, 2 * k, 2))]
    for m in range(1, 13):
        terms.append(-terms[-1] / (2 * m * (2 * m + 2 * k - 1)))

    def function(a: Tensor) -> Tensor:
        small = a < 1
        series, s = torch.full_like(a, terms[-1]), torch.where(small, a, 0.0)
        for term in terms[-2::-1]:
            series = series * s + term
        z = torch.where(small, 1.0, a).sqrt()
        last, this = z.cos(), z.sin() / z
        if k == 0:
            this = last
        for j in range(1, k):
            last, this = this, ((2 * j - 1) * this - last) / (z * z)
        return torch.where(small, series, this)

    return function


def _derivative(f: Callable[[Tensor], Tensor], factor: float) -> Callable[[Tensor], Tensor]:
    return lambda a: factor * f(a)


def _entire(k: int) -> _Function:
    value, slope, curvature = _bessel(k), _derivative(_bessel(k + 1), -0.5), _derivative(_bessel(k + 2), 0.25)
    first = _first(value, slope)
    return _Function(value, first, _second(first, curvature, torch.ones_like))


_COS, _SINC = _entire(0), _entire(1)


def _angle(order: int) -> Callable[[Tensor], Tensor]:
    r"""Derivative of :math:`h(s) = \arccos(s) / \sqrt{1 - s^2}`, of order 0, 1 or 2.

    It solves :math:`(1 - s^2) h' = s h - 1`, whence the derivatives and the coefficients of the series in 1 - s.
    """
    terms = [1.0]
    for k in range(1, 26):
        terms.append(terms[-1] * k / (2 * k + 1))
    for _ in range(order):
        terms = [-k * term for k, term in enumerate(terms)][1:]

    def function(s: Tensor) -> Tensor:
        small = s > 0.75
        u, t = 1 - torch.where(small, s, 1.0), torch.where(small, 0.0, s)
        series = torch.full_like(s, terms[-1])
        for term in terms[-2::-1]:
            series = series * u + term
        square = 1 - t * t
        closed = [t.arccos() / square.sqrt()]
        closed.append((t * closed[0] - 1) / square)
        closed.append((closed[0] + 3 * t * closed[1]) / square)
        return torch.where(small, series, closed[order])

    return function


_ANGLE = _Function(
    _angle(0), _first(_angle(0), _angle(1)), _second(_first(_angle(0), _angle(1)), _angle(2), torch.ones_like)
)


def eigh(a: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors; NaN, instead of an error for the whole batch, where a matrix is not finite."""
    finite = torch.isfinite(a).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite.unsqueeze(-1).unsqueeze(-1), a, 0.0))
    return torch.where(finite.unsqueeze(-1), values, torch.nan), vectors


def sym(a: Tensor) -> Tensor:
    """Symmetric (Hermitian) part, ``(*batch, n, n)``."""
    return (a + a.mH) / 2


def differentiated(a: Tensor) -> bool:
    """Whether some derivative may be taken of a result of ``a``."""
    if not readable(a):
        return True
    if a.requires_grad and torch.is_grad_enabled():
        return True
    return torch.autograd.forward_ad.unpack_dual(a).tangent is not None if _in_forward_mode() else False


def _in_forward_mode() -> bool:
    return torch.autograd.forward_ad._current_level >= 0


def _floored(values: Tensor, floor: float, shift: float) -> Tensor:
    return torch.maximum(values, floor * torch.finfo(values.dtype).eps * (values[..., -1:] + shift) - shift)


def _apply(f: _Function, a: Tensor, floor: float | None = None, shift: float = 0.0) -> Tensor:
    return _apply_all((f,), a, floor, shift)[0]


def _apply_all(
    functions: tuple[_Function, ...], a: Tensor, floor: float | None = None, shift: float = 0.0
) -> list[Tensor]:
    """Several functions of one matrix, with one eigendecomposition; ``a + shift`` is kept above ``floor`` roundings."""
    a = sym(a)
    constant = a.detach()
    values, vectors = eigh(constant)
    if floor is not None:  # rounding may push the least eigenvalue of an ill-conditioned matrix to zero or below
        values = _floored(values, floor, shift)
    inner = [torch.diag_embed(f.value(values)).to(a.dtype) for f in functions]
    if differentiated(a):
        e = vectors.mH @ (a - constant) @ vectors
        i, j, k = (
            values.unsqueeze(-1).unsqueeze(-1),
            values.unsqueeze(-2).unsqueeze(-2),
            values.unsqueeze(-2).unsqueeze(-1),
        )
        square = e.unsqueeze(-1) * e.unsqueeze(-3)  # (*batch, i, k, j)
        for m, f in enumerate(functions):
            first = f.first(values.unsqueeze(-1), values.unsqueeze(-2))
            inner[m] = inner[m] + first * e + (f.second(i, k, j) * square).sum(-2)
    return [sym(vectors @ m @ vectors.mH) for m in inner]


def sym_exp(a: Tensor) -> Tensor:
    """Exponential of a symmetric (Hermitian) matrix, ``(*batch, n, n)``."""
    return _apply(_EXP, a)


def sym_log(a: Tensor) -> Tensor:
    """Logarithm of a symmetric (Hermitian) positive definite matrix."""
    return _apply(_LOG, a, 0.1)


def log1p_values(values: Tensor) -> Tensor:
    """``log1p`` of the ascending eigenvalues of a matrix, the same as :func:`sym_log1p` takes."""
    return torch.log1p(_floored(values, 1.0, 1.0))


def sym_log1p(a: Tensor) -> Tensor:
    """Logarithm of I + a, with I + a positive definite: relative accuracy at small ``a``."""
    return _apply(_LOG1P, a, 1.0, 1.0)


def sym_sqrt(a: Tensor) -> Tensor:
    """Square root of a symmetric (Hermitian) positive definite matrix."""
    return _apply(_SQRT, a, 0.1)


def sym_inverse_sqrt(a: Tensor) -> Tensor:
    """Inverse of the square root of a symmetric (Hermitian) positive definite matrix."""
    return _apply(_INVERSE_SQRT, a, 0.1)


def sym_cos_sinc(a: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\cos\sqrt A` and :math:`\sin\sqrt A / \sqrt A` of a symmetric A >= 0, entire in A."""
    cos, sinc = _apply_all((_COS, _SINC), a)
    return cos, sinc


def sym_arccos_over_sine(s: Tensor) -> Tensor:
    r""":math:`\theta / \sin\theta` with :math:`\theta = \arccos S`, eigenvalues in (-1, 1]: analytic there, 1 at 1."""
    return _apply(_ANGLE, s)
