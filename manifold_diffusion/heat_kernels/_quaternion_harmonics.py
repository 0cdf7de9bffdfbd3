r"""Matrix elements of the representations of SU(2): eigenfunctions of the 3-sphere and, of even order, of SO(3).

The representation on homogeneous polynomials of order n is the symmetric part of n copies of
:math:`U(q) = \begin{pmatrix} w + iz & -y + ix \\ y + ix & w - iz\end{pmatrix}`, hence

.. math::
    D^n_{pq} = \tfrac1n\big(\sqrt{(n-p)(n-q)}\,U_{00} D^{n-1}_{pq} + \sqrt{(n-p)q}\,U_{01} D^{n-1}_{p,q-1}
    + \sqrt{p(n-q)}\,U_{10} D^{n-1}_{p-1,q} + \sqrt{pq}\,U_{11} D^{n-1}_{p-1,q-1}\big),

a contraction: errors don't grow. The heat kernel is a sum of traces :math:`\mathrm{tr}\,D^n(q_i)^* D^n(q)`, and a
left-invariant derivative multiplies :math:`D^n` from the right by a matrix with three diagonals, which goes over to the
moments: value and gradient are four inner products.

References:
    Risbo, *Fourier transform summation of Legendre series and D-functions*, 1996.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from .._safe import cos_sinc
from ..manifolds import SO3
from ._fourier_sums import fold, fourier_sums
from ._series import Amplitudes, Harmonics, SeriesTail, level_amplitudes, level_tail, n_terms

__all__ = ["RotationHarmonics", "ThreeSphereHarmonics"]

_UNITS = torch.tensor([[[0, 1j], [1j, 0]], [[0, -1], [1, 0]], [[1j, 0], [0, -1j]]], dtype=torch.complex128)
"""Matrices of the quaternions i, j, k."""


class _QuaternionHarmonics(Harmonics):
    """What both have in common; moments are one complex ``(n + 1, n + 1)`` matrix per level.

    Attributes:
        step: orders of one level and the next differ by it.
        rate: length of a tangent vector of the manifold over that of the quaternion that moves with it.
    """

    step: int
    rate: float
    volume: float
    mode_cost, moment_cost = 0.05, 0.04
    fourier_cost = 8.0, 2.0

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
        return sum((n + 1) ** 2 for n in range(self.step * degree + 1))

    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        count = degree + 3 + n_terms(tau, self.step / self.rate)
        level = torch.arange(count, dtype=torch.float64, device=tau.device)
        order = self.step * level
        return level_tail(level <= degree, self.eigenvalues(order), 2 * order.log1p(), tau, math.log(self.volume))

    def direct_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        w = weights.to(torch.complex128)
        return [torch.einsum("i,ipq->pq", w, d) for d in self._elements(self.quaternion(x), degree)]

    def fourier_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        # With U_00 = cos(a) e^{ib} and U_10 = sin(a) e^{ic}, D^n_pq is e^{i((n-p-q)b + (p-q)c)} times a trigonometric
        # polynomial of degree n in a, with the parity of p - q.
        w, i, j, k = self.quaternion(x).unbind(-1)
        angles = [torch.atan2(torch.hypot(i, j), torch.hypot(w, k)), torch.atan2(k, w), torch.atan2(i, j)]
        order = self.step * degree
        nodes = fold(fourier_sums(angles, weights, [order] * 3), order + 1)
        a = math.pi * (torch.arange(order + 1, dtype=torch.float64) + 0.5) / (order + 1)
        zero, out = torch.zeros_like(a), []
        for level, d in enumerate(self._elements(torch.stack([a.cos(), zero, a.sin(), zero], -1), degree)):
            p = torch.arange(self.step * level + 1).unsqueeze(1)
            b, c = self.step * level - p - p.mT, p - p.mT
            out.append(torch.einsum("pqi,ipq->pq", nodes[c % 2, :, order + b, order + c], d))
        return out

    def amplitudes(self, moments: list[Tensor]) -> Amplitudes:
        norms = torch.stack([c.abs().square().sum().sqrt() for c in moments])
        order = self.step * torch.arange(len(moments), dtype=norms.dtype, device=norms.device)
        sizes = order + 1
        norms = norms * (sizes / self.volume).sqrt()
        return level_amplitudes(norms, sizes.square(), self.eigenvalues(order), self.volume)

    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        total = torch.zeros(len(x), 4, dtype=x.dtype, device=x.device)
        for level, (d, c) in enumerate(zip(self._elements(self.quaternion(x), degree), moments, strict=False)):
            n = self.step * level
            rows = torch.stack([c, *(c @ g.mH for g in self._generators(n, x.device))])
            parts = torch.view_as_real(d).flatten(1) @ torch.view_as_real(rows).flatten(1).mT
            rate = self.eigenvalues(torch.tensor(float(n), dtype=x.dtype))
            total = total + ((n + 1) / self.volume * (-rate.to(tau) * tau / 2).exp()).unsqueeze(1) * parts
        return total[:, 0], self.tangent(x, total[:, 1:])

    def _elements(self, q: Tensor, degree: int) -> Iterator[Tensor]:
        """Matrices of the levels at unit quaternions, ``(len(q), n + 1, n + 1)``."""
        w, a, b, c = q.unbind(-1)
        u = [torch.complex(w, c), torch.complex(-b, a), torch.complex(b, a), torch.complex(w, -c)]
        u = [z.reshape(-1, 1, 1) for z in u]
        d = torch.ones_like(u[0])
        yield d
        for n in range(1, self.step * degree + 1):
            p = torch.arange(n, dtype=q.dtype, device=q.device)
            low, high = (n - p).sqrt() / math.sqrt(n), (p + 1).sqrt() / math.sqrt(n)
            d = (
                pad(low[:, None] * low * (u[0] * d), (0, 1, 0, 1))
                + pad(low[:, None] * high * (u[1] * d), (1, 0, 0, 1))
                + pad(high[:, None] * low * (u[2] * d), (0, 1, 1, 0))
                + pad(high[:, None] * high * (u[3] * d), (1, 0, 1, 0))
            )
            if n % self.step == 0:
                yield d

    def _generators(self, n: int, device: torch.device) -> list[Tensor]:
        """Derivatives of the representation of order n along the frame of the manifold."""
        p = torch.arange(n + 1, dtype=torch.float64, device=device)
        side = ((p[:-1] + 1) * (n - p[:-1])).sqrt()
        out = []
        for v in _UNITS.to(device) / self.rate:
            middle = torch.diag((n - p) * v[0, 0] + p * v[1, 1])
            out.append(middle + torch.diag(side * v[1, 0], -1) + torch.diag(side * v[0, 1], 1))
        return out


class RotationHarmonics(_QuaternionHarmonics):
    """Eigenfunctions of SO(3): the even orders, n = 2 l."""

    max_degree, step, rate, volume = 24, 2, 2.0, 8 * math.pi**2

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

    max_degree, step, rate, volume = 48, 1, 1.0, 2 * math.pi**2

    def quaternion(self, x: Tensor) -> Tensor:
        return x

    def tangent(self, x: Tensor, a: Tensor) -> Tensor:
        w, i, j, k = x.unbind(-1)
        frame = torch.stack([-i, w, k, -j, -j, -k, w, i, -k, j, -i, w], -1).reshape(-1, 3, 4)  # x i, x j, x k
        return (a.unsqueeze(-1) * frame).sum(1)
