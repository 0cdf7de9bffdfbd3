r"""Logarithms of unitary matrices that are right, with right derivatives, at repeated eigenvalues.

The Cayley transform :math:`K = i\,(I - zR)(I + zR)^{-1}` of a unitary matrix is Hermitian, with the eigenvalue
:math:`t = \tan(\psi/2)` for an eigenvalue :math:`e^{i\psi}` of :math:`zR`: one to one, and smooth as long as no
eigenvalue of :math:`zR` is close to -1. The phase z is chosen per matrix such that none is. The logarithm is then the
function :math:`\theta = 2\arctan t + \varphi` of a Hermitian matrix, where :math:`\varphi` is constant on each branch,
and its derivatives are those of the module ``_matrix``: eigenvectors are constants, and a Taylor expansion of second
order carries the derivatives. Values and first and second derivatives are exact, in reverse and forward mode.

A matrix that is unitary up to rounding has the logarithm of the nearest unitary one, to first order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._safe import solve
from ._matrix import _second, differentiated, sym

__all__ = [
    "SpectralLog",
    "branch_at_pi",
    "branch_of_trace_zero",
    "elementary",
    "principal_branch",
    "spectral_scalar",
    "spectral_slopes",
    "unitary_log",
]

Branch = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(angles, vectors) -> (angles, vectors)``: chooses the angles' multiples of 2 pi."""

_CUT = 1e-8
"""Pairs of eigenvalues of a rotation this close to -1 count as -1: their plane is known to no better than that."""

_TIE = 1e-7
"""Eigenvalues this close on different branches lie on the cut locus, where the logarithm jumps: no derivative."""


@dataclass(frozen=True)
class SpectralLog:
    """Logarithm ``i H`` of a unitary matrix.

    Attributes:
        generator: the Hermitian matrix H, ``(*batch, n, n)``, complex128, differentiable.
        angles: eigenvalues of H, ``(*batch, n)``; constants.
        vectors: eigenvectors of H, the columns; constants.
    """

    generator: Tensor
    angles: Tensor
    vectors: Tensor


def principal_branch(angles: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Angles in [-pi, pi]: the shortest logarithm in U(n)."""
    return angles, vectors


def branch_of_trace_zero(angles: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest logarithm with trace zero: the sum of the angles is 2 pi k, so the |k| farthest ones turn around.

    Turning theta > 0 by -2 pi adds 4 pi (pi - theta) to the sum of squares, the less the larger theta.
    """
    k = (angles.sum(-1, keepdim=True) / (2 * math.pi)).round()
    rank = angles.argsort(-1).argsort(-1)  # ascending
    n = angles.shape[-1]
    turn = (rank < -k).to(angles.dtype) - (rank >= n - k).to(angles.dtype)
    return angles + 2 * math.pi * turn, vectors


def branch_at_pi(angles: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Angles of a rotation: the eigenvalues -1 are paired, so that the logarithm is real.

    The eigenspace of -1 gets an orthonormal basis by pivoted Cholesky decomposition of its projector; the first two
    vectors span the first plane of rotation, and so on.
    """
    n = angles.shape[-1]
    cut = angles.abs() > math.pi - _CUT
    columns = vectors * cut.unsqueeze(-2)
    rest = (columns @ columns.mH).real
    basis = []
    for _ in range(2 * (n // 2)):
        weight, pivot = rest.diagonal(0, -2, -1).max(-1, keepdim=True)
        column = rest.gather(-1, pivot.unsqueeze(-2).expand(*rest.shape[:-1], 1))
        w = column / weight.unsqueeze(-1).clamp_min(0.1 / n).sqrt()
        rest = rest - w @ w.mT
        basis.append(w.squeeze(-1))
    real, imaginary = torch.stack(basis[0::2], -1), torch.stack(basis[1::2], -1)
    pairs = torch.stack([torch.complex(real, imaginary), torch.complex(real, -imaginary)], -1) / math.sqrt(2)
    pairs = pairs.flatten(-2)
    pairs = torch.cat([pairs, pairs[..., :1]], -1)[..., :n]  # an odd n has one column more, which is never on the cut
    place = (cut.long().cumsum(-1) - 1).clamp_min(0)
    sign = 1 - 2 * (place % 2).to(angles.dtype)
    chosen = pairs.gather(-1, place.unsqueeze(-2).expand_as(pairs))
    return torch.where(cut, sign * angles.abs(), angles), torch.where(cut.unsqueeze(-2), chosen, vectors)


def unitary_log(difference: Tensor, branch: Branch, real: bool) -> SpectralLog:
    """Logarithm of ``R = I + difference``; the difference keeps the relative accuracy of a small rotation.

    Args:
        difference: ``R - I``, ``(*batch, n, n)``, real or complex.
        branch: chooses the branch of the angles, which come in [-pi, pi].
        real: whether R is real; then H is made purely imaginary.
    """
    d = difference.to(torch.complex128)
    eye = torch.eye(d.shape[-1], dtype=d.dtype, device=d.device)
    z = _phase(d.detach() + eye, real).unsqueeze(-1).unsqueeze(-1)
    hermitian = sym(1j * solve((1 + z) * eye + z * d, (1 - z) * eye - z * d))
    constant = hermitian.detach()
    tangents, vectors = torch.linalg.eigh(constant)
    turned = 2 * tangents.atan() - z.squeeze(-1).angle()
    angles, vectors = branch(turned - 2 * math.pi * (turned / (2 * math.pi)).round(), vectors)
    inner = torch.diag_embed(angles).to(d.dtype)
    if differentiated(hermitian):
        e = vectors.mH @ (hermitian - constant) @ vectors
        first, second = _differences(tangents, angles - 2 * tangents.atan())
        inner = inner + first * e + (second * e.unsqueeze(-1) * e.unsqueeze(-3)).sum(-2)
    generator = sym(vectors @ inner @ vectors.mH)
    return SpectralLog(
        torch.complex(torch.zeros_like(generator.real), generator.imag) if real else generator, angles, vectors
    )


def _phase(r: Tensor, real: bool) -> Tensor:
    """A phase z for which det(I + z R) is large: 1, unless another one of a grid is far better.

    The mean over the grid of det(I + z R), a polynomial in z with the constant term 1, is at least 1: some phase is
    good. A real matrix needs the upper half of the grid, the lower half being its mirror image.
    """
    n = r.shape[-1]
    coefficients = elementary(r)
    size = n + 1 if real else 2 * n
    angle = torch.arange(size, dtype=torch.float64, device=r.device) * (math.pi / n)
    exponents = torch.arange(n + 1, dtype=torch.float64, device=r.device)
    grid = torch.polar(torch.ones_like(angle), angle)
    waves = torch.polar(torch.ones(n + 1, size, dtype=torch.float64, device=r.device), exponents.unsqueeze(-1) * angle)
    values = (coefficients @ waves).abs()
    bonus = torch.where(angle == 0, 8.0, 1.0)
    return grid[(values * bonus).argmax(-1)]


def elementary(a: Tensor) -> Tensor:
    """Elementary symmetric functions of the eigenvalues, orders 0 to n, by Newton's identities: polynomials."""
    n = a.shape[-1]
    sums, power = [], a
    for k in range(1, n + 1):
        sums.append(power.diagonal(0, -2, -1).sum(-1))
        power = power @ a if k < n else power
    coefficients = [torch.ones_like(sums[0])]
    for k in range(1, n + 1):
        terms = [(-1) ** (i - 1) * coefficients[k - i] * sums[i - 1] for i in range(1, k + 1)]
        coefficients.append(torch.stack(terms).sum(0) / k)
    return torch.stack(coefficients, -1)


def _atan_first(a: Tensor, b: Tensor) -> Tensor:
    """(2 atan a - 2 atan b) / (a - b)."""
    close = (a - b).abs() < 0.1
    z = torch.where(close, (a - b) / (1 + a * b).clamp_min(0.5), 0.0)
    tiny = z.abs() < 1e-3
    series = torch.where(tiny, 1 - z * z / 3, z.atan() / torch.where(tiny, 1.0, z))
    quotient = (a.atan() - b.atan()) / torch.where(close, 1.0, a - b)
    return 2 * torch.where(close, series / (1 + a * b).clamp_min(0.5), quotient)


_atan_second = _second(_atan_first, lambda a: -4 * a / (1 + a * a).square(), torch.ones_like)


def _differences(t: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Divided differences of 2 atan(t) + offset of order one, ``(i, j)``, and two, ``(i, k, j)``."""
    gap = t.unsqueeze(-1) - t.unsqueeze(-2)
    tie = gap.abs() < _TIE
    inverse = torch.where(tie, 0.0, 1 / torch.where(tie, 1.0, gap))
    step = offset.unsqueeze(-1) - offset.unsqueeze(-2)
    same = step.abs() < 1
    jump = torch.where(same, 0.0, step * inverse)
    first = _atan_first(t.unsqueeze(-1), t.unsqueeze(-2)) + jump
    i, k, j = t.unsqueeze(-1).unsqueeze(-1), t.unsqueeze(-2).unsqueeze(-1), t.unsqueeze(-2).unsqueeze(-2)

    def ik(a: Tensor) -> Tensor:
        return a.unsqueeze(-1)

    def kj(a: Tensor) -> Tensor:
        return a.unsqueeze(-3)

    def ij(a: Tensor) -> Tensor:
        return a.unsqueeze(-2)

    # For i and j on one branch the step of k is over both its gaps: no gap between i and j.
    apart = (ik(jump) - kj(jump)) * ij(inverse)
    jumps = torch.where(ij(same), ik(jump) * kj(inverse), apart)
    return first, _atan_second(i, k, j) + jumps


def spectral_scalar(
    function: Callable[[Tensor], Tensor],
    angles: Tensor,
    weights: Tensor,
    change: Tensor | None,
    unit: Tensor | float = 1.0,
) -> Tensor:
    r"""A function of the eigenvalues of a Hermitian matrix, with derivatives of first and second order.

    The eigenvalues are :math:`\lambda = S a` for angles a; with the gradient :math:`g = S f'(a)` (halved for mirrored
    pairs) the expansion is :math:`f + g_k E_{kk} + \tfrac12 f''_{kl} E_{kk} E_{ll} + \tfrac12 \sum_{k \ne l}
    \frac{g_k - g_l}{\lambda_k - \lambda_l} |E_{kl}|^2`; the quotient has its limit where eigenvalues repeat.

    Args:
        function: maps angles ``(*batch, m)`` to ``(*batch,)``; invariant under permutations of the eigenvalues.
        angles: constants, ``(*batch, m)``.
        weights: the matrix S, ``(n, m)``: identity, or mirrored pairs for rotations.
        change: ``U* (H - constant) U``, ``(*batch, n, n)``, zero with derivatives; None for the value alone.
        unit: scale of the angles on which the function varies, ``(*batch,)``: closer eigenvalues count as equal.

    Returns:
        ``(*batch,)``.
    """
    value = function(angles)
    if change is None:
        return value
    gradient, hessian, slopes = spectral_slopes(function, angles, weights, unit)
    diagonal = change.diagonal(0, -2, -1).real @ (weights / weights.square().sum(0))
    first = (gradient * diagonal).sum(-1)
    second = (diagonal.unsqueeze(-2) @ hessian @ diagonal.unsqueeze(-1)).squeeze(-1).squeeze(-1)
    off = change - torch.diag_embed(change.diagonal(0, -2, -1))
    mixing = (slopes * (off.real.square() + off.imag.square())).sum((-2, -1))
    return value + first + (second + mixing) / 2


def spectral_slopes(
    function: Callable[[Tensor], Tensor], angles: Tensor, weights: Tensor, unit: Tensor | float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient ``(*batch, m)``, Hessian ``(*batch, m, m)`` and divided differences of the eigenvalues' gradient."""
    gradient, hessian = slopes_of(function, angles)
    full = weights / weights.square().sum(0)
    g, eigenvalues = gradient @ full.mT, angles @ weights.mT
    gap = eigenvalues.unsqueeze(-1) - eigenvalues.unsqueeze(-2)
    unit = torch.as_tensor(unit, dtype=gap.dtype, device=gap.device)
    close = gap.abs() < 1e-4 * unit.unsqueeze(-1).unsqueeze(-1)
    quotient = (g.unsqueeze(-1) - g.unsqueeze(-2)) / torch.where(close, 1.0, gap)
    # The limit: the second derivative along the direction in which the two part.
    apart = weights.unsqueeze(1) - weights.unsqueeze(0)  # (n, n, m)
    length = apart.square().sum(-1)
    limit = torch.einsum("klm,...mp,klp->...kl", apart, hessian, apart)
    limit = limit / (torch.where(length > 0, length, 1.0) * weights.square().sum(0)[0])
    return gradient, hessian, torch.where(close, limit, quotient)


def slopes_of(function: Callable[[Tensor], Tensor], angles: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian in the last axis."""

    def gradient(a: Tensor) -> Tensor:
        value, pull = torch.func.vjp(function, a)[:2]
        return pull(torch.ones_like(value))[0]

    rows = []
    for i in range(angles.shape[-1]):
        direction = torch.zeros_like(angles)
        direction[..., i] = 1
        value, row = torch.func.jvp(gradient, (angles,), (direction,))[:2]
        rows.append(row)
    return value, torch.stack(rows, -1)
