r"""Derivatives of functions of symmetric matrices, and symmetric functions of eigenvalues, smooth at repeated ones.

As in ``_matrix``, eigenvalues and eigenvectors are constants, and what depends on A is a Taylor expansion in
:math:`E = A - \bar A`, which is zero but carries the derivatives: two of them, to any mode of differentiation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ._matrix import _EXP, _LOG, _Function, differentiated, eigh, sym

__all__ = ["dexp", "dlog", "log_sinhc_pairs"]

_TERMS = 16


def _complete_sums(a: Tensor, b: Tensor, c: Tensor, d: Tensor, coefficients: list[float]) -> Tensor:
    """Sum of ``coefficients[k]`` times the complete homogeneous polynomial of degree k in four variables."""
    one, zero = torch.ones_like(a), torch.zeros_like(a)
    rows = [one, one, one, one]
    total = coefficients[0] * one
    for c_k in coefficients[1:]:
        low = zero
        for i, x in enumerate((a, b, c, d)):  # h_k(.., x_i) = h_k(.., x_{i-1}) + x_i h_{k-1}(.., x_i)
            low = rows[i] = low + x * rows[i]
        total = total + c_k * low
    return total


def _third(
    f: _Function, near: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor], size: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """f[a, b, c, d], a <= .. <= d, as a quotient of the widest pair; for close values a series about their middle."""

    def difference(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        gap, middle = d - a, (a + d) / 2
        close = gap < size(middle)
        far = (f.second(b, c, d) - f.second(a, b, c)) / torch.where(close, 1.0, gap)
        shifted = (torch.where(close, x - middle, 0.0) for x in (a, b, c, d))
        return torch.where(close, near(middle, *shifted), far)

    return difference


def _multisets(n: int, order: int) -> tuple[list[list[int]], list[int]]:
    """The multisets of ``order`` of n indices, and which one each multi-index, in row-major order, is."""
    indices = list(itertools.product(range(n), repeat=order))
    sets = [i for i in indices if list(i) == sorted(i)]
    number = {s: k for k, s in enumerate(sets)}
    return [list(s) for s in sets], [number[tuple(sorted(i))] for i in indices]


def _symmetric(f: Callable[..., Tensor], values: Tensor, order: int) -> Tensor:
    """A symmetric function of ``order`` of the ascending eigenvalues, ``(*batch, n, .., n)``; once per multiset."""
    n = values.shape[-1]
    sets, index = (torch.tensor(a, device=values.device) for a in _multisets(n, order))
    once = f(*values[..., sets].unbind(-1))
    return once[..., index].reshape(*values.shape[:-1], *[n] * order)


_EXP_SERIES = [1 / math.factorial(k + 3) for k in range(_TERMS)]
_LOG_SERIES = [(-1) ** k / (k + 3) for k in range(_TERMS)]


def _exp_near(m: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return m.exp() * _complete_sums(a, b, c, d, _EXP_SERIES)


def _log_near(m: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return _complete_sums(a / m, b / m, c / m, d / m, _LOG_SERIES) / m**3


_EXP_THIRD = _third(_EXP, _exp_near, lambda m: 0.5 * torch.ones_like(m))
_LOG_THIRD = _third(_LOG, _log_near, lambda m: 0.2 * m.abs())


def _derivative(
    f: _Function,
    third: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    a: Tensor,
    u: Tensor,
    floor: float | None = None,
) -> Tensor:
    r"""D f(a)[u] in the eigenbasis of a.

    .. math:: f[i,j]\, u_{ij} + f[i,k,j]\,(E_{ik} u_{kj} + u_{ik} E_{kj})
        + f[i,k,l,j]\,(E_{ik} E_{kl} u_{lj} + E_{ik} u_{kl} E_{lj} + u_{ik} E_{kl} E_{lj})
    """
    a = sym(a)
    constant = a.detach()
    values, vectors = eigh(constant)
    if floor is not None:
        values = torch.maximum(values, floor * torch.finfo(values.dtype).eps * values[..., -1:])
    u = vectors.mT @ u @ vectors
    out = f.first(values.unsqueeze(-1), values.unsqueeze(-2)) * u
    if differentiated(a):
        e = vectors.mT @ (a - constant) @ vectors
        second, cubic = _symmetric(f.second, values, 3), _symmetric(third, values, 4)
        out = out + (second * (_ikj(e, u) + _ikj(u, e))).sum(-2)
        out = out + (cubic * (_iklj(e, e, u) + _iklj(e, u, e) + _iklj(u, e, e))).sum((-3, -2))
    return sym(vectors @ out @ vectors.mT)


def _ikj(a: Tensor, b: Tensor) -> Tensor:
    return a.unsqueeze(-1) * b.unsqueeze(-3)


def _iklj(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a[..., :, :, None, None] * b[..., None, :, :, None] * c[..., None, None, :, :]


def dexp(a: Tensor, u: Tensor) -> Tensor:
    """Derivative of the exponential at a symmetric matrix ``a`` in the direction ``u``; batch shapes broadcast."""
    return _derivative(_EXP, _EXP_THIRD, a, u)


def dlog(a: Tensor, u: Tensor) -> Tensor:
    """Derivative of the logarithm at a symmetric positive definite matrix ``a`` in the direction ``u``."""
    return _derivative(_LOG, _LOG_THIRD, a, u, 0.1)


# ---------------------------------------------------------------------- symmetric functions of eigenvalues

_SMALL = 0.3
_LOG_SINHC = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000)


def _series(s: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    total = torch.zeros_like(s)
    for c in reversed(coefficients):
        total = c + s * total
    return total


def _h(d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``log(sinh(d/2) / (d/2))`` and its first and second derivative; even, odd and even in d."""
    size = d.abs()
    small = size < _SMALL
    s = torch.where(small, d, 0.0).square()
    x = torch.where(small, 1.0, size)
    value = torch.where(small, s * _series(s, _LOG_SINHC), x / 2 + torch.log1p(-(-x).exp()) - x.log())
    slopes = tuple(2 * (k + 1) * c for k, c in enumerate(_LOG_SINHC))
    bends = tuple((2 * k + 1) * c for k, c in enumerate(slopes))
    first = torch.where(small, d * _series(s, slopes), d.sign() * (0.5 / torch.tanh(x / 2) - 1 / x))
    decay = (-x).exp()
    second = torch.where(small, _series(s, bends), 1 / (x * x) - decay / (1 - decay).square())
    return value, first, second


# Four Gauss-Legendre nodes and weights on [0, 1].
_NODES = (0.06943184420297371, 0.33000947820757187, 0.6699905217924281, 0.9305681557970262)
_WEIGHTS = (0.17392742256872692, 0.32607257743127307, 0.32607257743127307, 0.17392742256872692)


def _slope_quotient(a: Tensor, b: Tensor) -> Tensor:
    """(h'(a) - h'(b)) / (a - b); for close arguments the mean of h'' between them."""
    gap = a - b
    close = gap.abs() < 0.3
    far = (_h(a)[1] - _h(b)[1]) / torch.where(close, 1.0, gap)
    near = sum((w * _h(b + x * gap)[2] for x, w in zip(_NODES, _WEIGHTS, strict=True)), torch.zeros_like(gap))
    return torch.where(close, near, far)


def log_sinhc_pairs(a: Tensor) -> Tensor:
    r"""Sum over pairs of eigenvalues of :math:`\log(\sinh(\delta/2) / (\delta/2))`, :math:`\delta = \alpha_i-\alpha_j`.

    The first and second derivatives of a symmetric function of eigenvalues, with gradient g, are
    :math:`g_i E_{ii}` and :math:`g_{ij} E_{ii} E_{jj} + \sum_{i \ne j} \frac{g_i - g_j}{\alpha_i - \alpha_j} E_{ij}^2`
    (Lewis and Sendov, *Twice differentiable spectral functions*, 2001).

    Args:
        a: symmetric matrices, ``(*batch, n, n)``.

    Returns:
        ``(*batch,)``.
    """
    a = sym(a)
    constant = a.detach()
    values, vectors = eigh(constant)
    gaps = values.unsqueeze(-1) - values.unsqueeze(-2)
    value, first, second = _h(gaps)
    total = value.sum((-2, -1)) / 2
    if differentiated(a):
        e = vectors.mT @ (a - constant) @ vectors
        diagonal = e.diagonal(dim1=-2, dim2=-1)
        bend = torch.diag_embed(second.sum(-1)) - second
        # gaps[i, k] - gaps[j, k] = a_i - a_j for every k; the diagonal i = j is part of the first term.
        turn = _slope_quotient(gaps.unsqueeze(-2), gaps.unsqueeze(-3)).sum(-1)
        off = e - torch.diag_embed(diagonal)
        total = total + (first.sum(-1) * diagonal).sum(-1)
        total = total + (bend * diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2)).sum((-2, -1)) / 2
        total = total + (turn * off * off).sum((-2, -1)) / 2
    return total
