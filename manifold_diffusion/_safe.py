"""Scalar functions that are right, with finite gradients, at their removable singularities.

Each one uses a double ``where``: the argument is replaced by a harmless constant before the closed form is evaluated,
so that neither the value nor any derivative of the branch that is not taken can be infinite.

:func:`cos_sinc` and :func:`cosh_sinhc` take the *square* of their argument: the square of a norm is smooth where the
norm is not, so that all derivatives of an exponential map, not just the first, are right at the zero vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "cos_sinc",
    "cosh_sinhc",
    "dot",
    "log_abs_det",
    "readable",
    "safe_norm",
    "safe_sqrt",
    "sinc",
    "sinhc",
    "solve",
    "x_over_sinh",
]

_LIMIT = 0.01
"""Series below this square: the first term left out is 3e-18 of the value, 1e-15 of the derivative."""

_MANY = 1 << 12
"""Numbers from which :func:`dot` goes by BLAS."""

_COS = tuple(1 / math.factorial(2 * k) for k in range(6))
_SINC = tuple(1 / math.factorial(2 * k + 1) for k in range(6))


def readable(x: Tensor) -> bool:
    """Whether Python may look at the values: not while compiling, nor inside a transform of ``torch.func``."""
    if torch.compiler.is_compiling():
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(x)  # pyright: ignore[reportAttributeAccessIssue]


def dot(x: Tensor, y: Tensor, keepdim: bool = False) -> Tensor:
    """Inner products along the last axis, of many short vectors on the CPU by BLAS.

    Without a graph, and in full precision only: twice to ten times faster there (``experiments/bench``).
    """
    product = x * y
    size, plain = product.shape[-1], product.device.type != "cpu" or torch.is_autocast_enabled("cpu")
    if plain or size > 4 or product.numel() < _MANY or product.requires_grad:
        return product.sum(-1, keepdim=keepdim)
    total = product @ product.new_ones(size, 1)
    return total if keepdim else total.squeeze(-1)


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root of max(x, 0) whose gradient at and below zero is zero."""
    zero = x <= 0  # False for NaN, which passes through
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def safe_norm(v: Tensor, dim: int = -1, keepdim: bool = False) -> Tensor:
    """Euclidean norm whose gradient at the zero vector is zero instead of NaN.

    It is the root of the sum of squares: three times faster than a norm of entries scaled by the largest one, and right
    for lengths in [1e-18, 1e18] (float32; [1e-150, 1e150] in float64). A shorter vector counts as zero, an entry above
    1.8e19 gives infinity.
    """
    if v.dtype == torch.float16:  # its squares underflow below 2e-4 already
        return safe_norm(v.float(), dim, keepdim).to(v.dtype)
    return safe_sqrt((v * v).sum(dim, keepdim=keepdim))


def _series(s: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Polynomial in ``s``, by Horner."""
    total = s * coefficients[-1] + coefficients[-2]
    for c in coefficients[-3::-1]:
        total = total * s + c
    return total


def _split(square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mask of the small squares, the squares for the series, and the roots for the closed form."""
    small = square < _LIMIT
    return small, torch.where(small, square, 0.0), torch.where(small, 1.0, square).sqrt()


def cos_sinc(square: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\cos\sqrt s` and :math:`\sin\sqrt s / \sqrt s`, smooth functions of :math:`s \ge 0`."""
    small, s, root = _split(square)
    return torch.where(small, _series(-s, _COS), root.cos()), torch.where(small, _series(-s, _SINC), root.sin() / root)


def cosh_sinhc(square: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\cosh\sqrt s` and :math:`\sinh\sqrt s / \sqrt s`, smooth functions of :math:`s \ge 0`."""
    small, s, root = _split(square)
    return torch.where(small, _series(s, _COS), root.cosh()), torch.where(small, _series(s, _SINC), root.sinh() / root)


def _with_series(x: Tensor, closed: Callable[[Tensor], Tensor], sign: int) -> Tensor:
    small = x.abs() < math.sqrt(_LIMIT)
    square = torch.where(small, x, 0.0).square()
    return torch.where(small, _series(sign * square, _SINC), closed(torch.where(small, 1.0, x)))


def sinc(x: Tensor) -> Tensor:
    """``sin(x) / x``, even and smooth through 0."""
    return _with_series(x, lambda a: a.sin() / a, -1)


def sinhc(x: Tensor) -> Tensor:
    """``sinh(x) / x``, even and smooth through 0."""
    return _with_series(x, lambda a: a.sinh() / a, 1)


def log_abs_det(a: Tensor) -> Tensor:
    """Logarithm of the absolute value of the determinant of square matrices, by QR.

    torch's ``logdet``, ``slogdet``, ``det`` and ``solve`` (2.13) take their LU factors as constants in forward mode:
    first derivatives are right, second ones (forward over forward, reverse over forward) silently wrong.
    """
    return torch.linalg.qr(a)[1].diagonal(0, -2, -1).abs().log().sum(-1)


def solve(a: Tensor, b: Tensor) -> Tensor:
    """``a^-1 b`` for well-conditioned matrices, with right second derivatives: see :func:`log_abs_det`."""
    return torch.linalg.inv(a) @ b


def x_over_sinh(x: Tensor) -> Tensor:
    """``x / sinh(x)``, even and smooth through 0."""
    return 1 / sinhc(x)
