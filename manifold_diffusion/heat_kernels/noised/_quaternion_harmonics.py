r"""Matrix elements of the representations of SU(2): eigenfunctions of the 3-sphere and, of even order, of SO(3).

With :math:`U(q) = \begin{pmatrix} w + iz & -y + ix \\ y + ix & w - iz\end{pmatrix}` the representation on homogeneous
polynomials of order n has elements with Jacobi polynomials, for p and q from 0 to n,

.. math::
    D^n_{pq} = N\, P_k^{(|t|, |s|)}(|U_{00}|^2 - |U_{10}|^2)\; U_{00}^{s}\, U_{10}^{t}, \qquad
    s = n - p - q, \quad t = p - q, \quad 2k = n - |s| - |t|, \quad
    N^2 = \frac{k!\,(k + |s| + |t|)!}{(k + |s|)!\,(k + |t|)!},

where :math:`U_{00}^{-s}` stands for :math:`\bar U_{00}^{s}` and :math:`U_{10}^{-t}` for :math:`(-\bar U_{10})^{t}`:
polynomials of the quaternion, not singular anywhere, whose recurrence in k is stable. The heat kernel is a sum of
traces :math:`\mathrm{tr}\,D^n(q_i)^* D^n(q)`, and a left-invariant derivative multiplies :math:`D^n` from the right by
a matrix with three diagonals, which goes over to the moments: value and gradient are four inner products. Elements of
(s, t) and (-s, -t) are conjugate, up to a sign that both moments and elements have.

References:
    Varshalovich, Moskalev and Khersonskii, *Quantum theory of angular momentum*, 1988, section 4.3.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor
from torch.nn.functional import pad

from ..._safe import cos_sinc
from ...manifolds import SO3
from .._patches import constant
from ._fourier_sums import fold, fourier_sums
from ._series import Amplitudes, Harmonics, SeriesTail, level_amplitudes, level_tail, n_terms, powers

__all__ = ["RotationHarmonics", "ThreeSphereHarmonics"]


_Waves = Callable[[int, Tensor], Tensor]
"""Of t and values of s: weighted U_00^s U_10^t and U_00^s U_10^-t at some points, complex ``(2, len(s), points)``."""


@dataclass(frozen=True)
class _Orders:
    """The elements of one t >= 0 with s >= 0, and those of -t, to the highest order; the others are conjugate.

    Attributes:
        s: ``(S,)``.
        index: places of the elements among all, by sign of t, s and k, ``(2, S, K)``; beyond them where there is none.
        slope: a of :math:`R_k = (a x + b) R_{k-1} + R_{k-2}`, ``(K, S, 1)``.
        shift: b.
        norm: :math:`N P_k / R_k`, ``(S, K)``.
    """

    s: Tensor
    index: Tensor
    slope: Tensor
    shift: Tensor
    norm: Tensor

    def up_to(self, t: int, order: int, step: int, device: torch.device) -> _Orders:
        """Those of the lower orders."""
        count = (order - t - int(self.s[0])) // 2 + 1
        rows, size = (order - t - int(self.s[0])) // step + 1, _size(order, step)
        parts = self.s[:rows], self.index[:, :rows, :count].clamp_max(size), self.slope[:count, :rows]
        return _Orders(*(a.to(device) for a in (*parts, self.shift[:count, :rows], self.norm[:rows, :count])))


class _QuaternionHarmonics(Harmonics):
    """What both have in common; the moments are one vector, of the elements row by row and order by order.

    Attributes:
        step: orders of one level and the next differ by it.
        rate: length of a tangent vector of the manifold over that of the quaternion that moves with it.
    """

    step: int
    rate: float
    volume: float
    mode_cost, moment_cost = 0.007, 0.004
    fourier_cost = 12.0, 2.0

    @abstractmethod
    def quaternion(self, x: Tensor) -> Tensor:
        """Unit quaternions, ``(n, 4)``, scalar first."""

    @abstractmethod
    def tangent(self, x: Tensor, a: Tensor) -> Tensor:
        """Tangent vectors from their coefficients in the left-invariant frame, ``(n, 3)``."""

    def eigenvalues(self, order: Tensor) -> Tensor:
        """Eigenvalues of minus the Laplacian."""
        return order * (order + 2) / self.rate**2

    def n_modes(self, degree: int) -> int:
        return _size(self.step * degree, self.step)

    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        count = degree + 3 + n_terms(tau, self.step / self.rate)
        level = torch.arange(count, dtype=torch.float64, device=tau.device)
        order = self.step * level
        return level_tail(level <= degree, self.eigenvalues(order), 2 * order.log1p(), tau, math.log(self.volume))

    def direct_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        first, second, square = _planes(self.quaternion(x))
        one, two = (powers(a, self.step * degree) for a in (first, second))
        both = torch.stack([two, powers(-second.conj(), self.step * degree)]) * weights
        return self._summed(square, degree, lambda t, s: both[:, t].unsqueeze(1) * one[s])

    def fourier_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        # With U_00 = cos(a) e^{ib} and U_10 = sin(a) e^{ic} an element is e^{i(sb + tc)} times a trigonometric
        # polynomial of degree n in a, with the parity of t.
        first, second, _ = _planes(self.quaternion(x))
        order = self.step * degree
        angles = [torch.atan2(second.abs(), first.abs()), first.angle(), second.angle()]
        a, nodes = fold(fourier_sums(angles, weights, [order] * 3))
        cosine, sine = a.cos(), a.sin()

        def waves(t: int, s: Tensor) -> Tensor:
            both = torch.stack(
                [nodes[t % 2, :, order + s, order + t], (-1) ** t * nodes[t % 2, :, order + s, order - t]]
            )
            return both.mT * cosine ** s.unsqueeze(1) * sine**t

        return self._summed(cosine.square() - sine.square(), degree, waves)

    def _summed(self, square: Tensor, degree: int, waves: _Waves) -> list[Tensor]:
        """Moments of weighted points with ``|U_00|^2 - |U_10|^2``."""
        order = self.step * degree
        out = torch.zeros(_size(order, self.step) + 1, dtype=torch.complex128, device=square.device)
        for t, orders in enumerate(self._orders(order, square.device)):
            wave = torch.view_as_real(waves(t, orders.s)).permute(1, 2, 0, 3).flatten(2)  # (S, points, 4)
            sums = (_rows(square, orders) @ wave).unflatten(2, (2, 2)).permute(2, 0, 1, 3) * orders.norm.unsqueeze(2)
            out[orders.index] = torch.view_as_complex(sums.contiguous())
        places = self._places(order, square.device)
        other = (-1) ** places.t * out[places.mirror].conj()
        return [torch.where(places.s >= 0, out[:-1], other)]

    def amplitudes(self, moments: list[Tensor]) -> Amplitudes:
        degree = next(k for k in range(self.max_degree + 1) if self.n_modes(k) == len(moments[0]))
        places = self._places(self.step * degree, moments[0].device)
        order = self.step * torch.arange(degree + 1, dtype=torch.float64, device=moments[0].device)
        sizes = order + 1
        square = torch.zeros_like(order).index_add(0, places.order // self.step, moments[0].abs().square())
        return level_amplitudes(
            (square * sizes / self.volume).sqrt(), sizes.square(), self.eigenvalues(order), self.volume
        )

    def moments_at_a_time(self, degree: int, numbers: int) -> int:
        return self.queries_at_a_time(degree, numbers)

    def queries_at_a_time(self, degree: int, numbers: int) -> int:
        return numbers // (self.step * degree // 2 + 1) ** 2

    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        order = self.step * degree
        places = self._places(order, x.device)
        n, q = places.order.to(x), places.q.to(x)
        c = moments[0][: len(n)]
        # Moments of the derivatives along the frame.
        low, high = (q * (n - q + 1)).sqrt() * c.roll(1), ((q + 1) * (n - q)).sqrt() * c.roll(-1)
        slopes = torch.stack([-1j * (low + high), low - high, -1j * (n - 2 * q) * c]) / self.rate
        rows = torch.cat([c.unsqueeze(0), slopes]) * ((n + 1) / self.volume)
        damping = (-self.eigenvalues(torch.arange(order + 1).to(x)).unsqueeze(1) * tau / 2).exp()  # (order + 1, n)
        shared = damping.shape[1] == 1
        if shared:
            rows = rows * damping[places.order, 0]
        rows = pad(rows, (0, 1))
        first, second, square = _planes(self.quaternion(x))
        # Not conj(): vmap has no rule for its backward pass.
        first, mirrored = (torch.complex(a.real, -a.imag) for a in (first, second))
        one, both = powers(first, order), torch.stack([powers(mirrored, order), powers(-second, order)])
        total = torch.zeros(4, len(x), dtype=x.dtype, device=x.device)
        for t, orders in enumerate(self._orders(order, x.device)):
            # Elements of (s, t) and (-s, -t) are conjugate, and so are moments: those with s = 0 count once.
            twice = (2 - (orders.s == 0).to(x)).unsqueeze(1) * orders.norm
            columns = torch.view_as_real(rows[:, orders.index] * twice)  # (4, 2, S, K, 2)
            if t == 0:
                columns = columns[:, :1]
            polynomials = _rows(square, orders)
            if not shared:
                level = t + orders.s.unsqueeze(1) + 2 * torch.arange(polynomials.shape[1], device=x.device)
                polynomials = polynomials * damping[level.clamp_max(order)]
            sums = columns.permute(2, 0, 1, 4, 3).flatten(1, 3) @ polynomials  # (S, 4 * signs * 2, n)
            sums = sums.unflatten(1, (4, columns.shape[1], 2))
            sums = torch.complex(sums[:, :, :, 0], sums[:, :, :, 1])
            sums = (sums * one[orders.s].unsqueeze(1).unsqueeze(1)).sum(0)  # (4, signs, n)
            total = total + (sums * both[: columns.shape[1], t]).sum(1).real
        return total[0], self.tangent(x, total[1:].mT)

    def _orders(self, order: int, device: torch.device) -> Iterator[_Orders]:
        """By t, up to an order."""
        for t, orders in enumerate(_tables(self.step * self.max_degree, self.step)[: order + 1]):
            yield orders.up_to(t, order, self.step, device)

    def _places(self, order: int, device: torch.device) -> _Places:
        size = _size(order, self.step)
        every = _all_places(self.step * self.max_degree, self.step)
        return _Places(*(a[:size].to(device) for a in (every.order, every.q, every.s, every.t, every.mirror)))


@dataclass(frozen=True)
class _Places:
    """What the elements are, one after the other; ``mirror`` is the place of that of (-s, -t)."""

    order: Tensor
    q: Tensor
    s: Tensor
    t: Tensor
    mirror: Tensor


def _size(order: int, step: int) -> int:
    """Elements up to an order."""
    return sum((n + 1) ** 2 for n in range(0, order + 1, step))


@cache
def _all_places(order: int, step: int) -> _Places:
    parts: list[tuple[np.ndarray, ...]] = []
    for n in range(0, order + 1, step):
        p, q = np.divmod(np.arange((n + 1) ** 2), n + 1)
        mirror = _size(n - step, step) + np.arange(len(p))[::-1]
        parts.append((np.full_like(p, n), q, n - p - q, p - q, mirror))
    return _Places(*(constant(np.concatenate(a), torch.int64, torch.device("cpu")) for a in zip(*parts, strict=True)))


@cache
def _tables(order: int, step: int) -> list[_Orders]:
    starts, none = np.array([_size(n - step, step) for n in range(order + 1)]), _size(order, step)
    out = []
    for t in range(order + 1):
        s = np.arange(t % 2 if step == 2 else 0, order - t + 1, step)[:, None]
        k = np.arange((order - t - s[0, 0]) // 2 + 1)
        n = 2 * k + s + t
        index = np.stack([starts[np.minimum(n, order)] + (k + tt) * (n + 1) + k + t - tt for tt in (t, 0)])
        index = np.where((n <= order) & ((t > 0) | (np.arange(2)[:, None, None] == 0)), index, none)
        both = s + t
        with np.errstate(all="ignore"):
            a = (n - 1) * n / (2 * k * (k + both))
            b = (t * t - s * s) * (n - 1) / (2 * k * (k + both) * (n - 2))
            c = (k + t - 1) * (k + s - 1) * n / (k * (k + both) * (n - 2))
        a[:, 1:2], b[:, 1:2] = (both + 2) / 2, (t - s) / 2
        scale = np.ones(n.shape)
        for j in range(2, len(k)):
            scale[:, j] = -c[:, j] * scale[:, j - 2]
        last = np.concatenate([scale[:, :1], scale[:, :-1]], 1)
        log_square = gammaln(k + 1) + gammaln(k + both + 1) - gammaln(k + s + 1) - gammaln(k + t + 1)
        slope, shift = ((f * last / scale).T[:, :, None] for f in (a, b))  # the first rows are not used
        cpu, real, integer = torch.device("cpu"), torch.float64, torch.int64
        out.append(
            _Orders(
                constant(s[:, 0], integer, cpu), constant(index, integer, cpu), constant(slope, real, cpu),
                constant(shift, real, cpu), constant(np.exp(log_square / 2) * scale, real, cpu),
            )
        )  # fmt: skip
    return out


def _rows(square: Tensor, orders: _Orders) -> Tensor:
    """``R_k``, ``(S, K, points)``."""
    last = torch.zeros(len(orders.s), len(square), dtype=square.dtype, device=square.device)
    rows = [last + 1]
    for slope, shift in zip(orders.slope[1:], orders.shift[1:], strict=True):
        row = torch.addcmul(last, torch.addcmul(shift, slope, square), rows[-1])
        last = rows[-1]
        rows.append(row)
    return torch.stack(rows, 1)


def _planes(q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U_00, U_10 and the difference of the squares of their lengths."""
    w, i, j, k = q.unbind(-1)
    return torch.complex(w, k), torch.complex(j, i), w * w + k * k - i * i - j * j


class RotationHarmonics(_QuaternionHarmonics):
    """Eigenfunctions of SO(3): the even orders, n = 2 l."""

    max_degree, step, rate, volume = 32, 2, 2.0, 8 * math.pi**2

    def __init__(self, manifold: SO3) -> None:
        self.manifold = manifold

    def quaternion(self, x: Tensor) -> Tensor:
        w = SO3.vee(self.manifold.log(self.manifold.origin(x.dtype, x.device).expand_as(x), x))
        c, k = cos_sinc((w * w).sum(-1) / 4)
        return torch.cat([c.unsqueeze(-1), k.unsqueeze(-1) * w / 2], -1)

    def tangent(self, x: Tensor, a: Tensor) -> Tensor:
        return self.manifold.from_frame(x, a)


class ThreeSphereHarmonics(_QuaternionHarmonics):
    """Eigenfunctions of ``Sphere(3)``, the unit quaternions: all orders."""

    max_degree, step, rate, volume = 64, 1, 1.0, 2 * math.pi**2

    def quaternion(self, x: Tensor) -> Tensor:
        return x

    def tangent(self, x: Tensor, a: Tensor) -> Tensor:
        w, i, j, k = x.unbind(-1)
        frame = torch.stack([-i, w, k, -j, -j, -k, w, i, -k, j, -i, w], -1).reshape(-1, 3, 4)  # x i, x j, x k
        return (a.unsqueeze(-1) * frame).sum(1)
