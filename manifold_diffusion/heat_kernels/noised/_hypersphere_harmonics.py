r"""Spherical harmonics on :math:`S^n` for any n, in Cartesian form, one axis after the other.

Homogeneous harmonic polynomials of k variables give those of k + 1:

.. math::
    Y_{l, m, s}(x) = N_{lm}\, r^{l-m}\, C^{(m + (k-1)/2)}_{l-m}(x_{k+1} / r)\; Y_{m, s}(x_1, \dots, x_k), \qquad
    r^2 = x_1^2 + \dots + x_{k+1}^2,

with the Gegenbauer polynomials C, whose three-term recurrence in l - m needs :math:`r^2` only: neither the values nor
their gradients are singular anywhere. Of two variables they are real and imaginary part of :math:`(x_1 + i x_2)^m`.

References:
    Avery and Avery, *Hyperspherical harmonics and their physical applications*, 2017, chapter 3.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.func import vjp

from ...manifolds import Sphere
from ._series import Amplitudes, Harmonics, SeriesTail, level_amplitudes, level_tail, n_terms

__all__ = ["HypersphereHarmonics"]

_MODES = 1 << 16


class HypersphereHarmonics(Harmonics):
    """Eigenfunctions of ``Sphere(n)``; moments are one vector per level."""

    mode_cost = moment_cost = 0.1

    def __init__(self, manifold: Sphere) -> None:
        self.manifold = manifold
        self.max_degree = 1
        while self.n_modes(self.max_degree + 1) <= _MODES and self.max_degree < 64:
            self.max_degree += 1

    def n_modes(self, degree: int) -> int:
        return sum(_size(self.manifold.n, level) for level in range(degree + 1))

    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        n = self.manifold.n
        level = torch.arange(degree + 3 + n_terms(tau), dtype=torch.float64, device=tau.device)
        if n == 1:
            sizes = math.log(2) * (level > 0)
        else:
            sizes = (2 * level / (n - 1)).log1p() + (level + n - 1).lgamma() - math.lgamma(n - 1) - (level + 1).lgamma()
        return level_tail(level <= degree, level * (level + n - 1), sizes, tau, self.manifold.log_volume)

    def direct_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        return [weights @ level for level in self._levels(x, degree)]

    def amplitudes(self, moments: list[Tensor]) -> Amplitudes:
        norms = torch.stack([c.norm() for c in moments])
        level = torch.arange(len(moments), dtype=norms.dtype, device=norms.device)
        sizes = torch.tensor([float(len(c)) for c in moments], dtype=norms.dtype, device=norms.device)
        return level_amplitudes(norms, sizes, level * (level + self.manifold.n - 1), self.manifold.volume)

    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        def series(y: Tensor) -> Tensor:
            terms = [level @ c for level, c in zip(self._levels(y, degree), moments[: degree + 1], strict=True)]
            rates = [j * (j + self.manifold.n - 1) / 2 for j in range(degree + 1)]
            return sum(((-rate * tau).exp() * a for rate, a in zip(rates, terms, strict=True)), torch.zeros_like(tau))

        value, pull = vjp(series, x)[:2]
        (slope,) = pull(torch.ones_like(value))
        return value, self.manifold.to_tangent(x, slope)

    def _levels(self, x: Tensor, degree: int) -> list[Tensor]:
        """Orthonormal harmonics, ``(n, d_l)`` per level."""
        waves = [torch.ones_like(x[:, :1])]
        re, im = waves[0], torch.zeros_like(waves[0])
        for _ in range(degree):
            re, im = re * x[:, :1] - im * x[:, 1:2], re * x[:, 1:2] + im * x[:, :1]
            waves.append(torch.cat([re, im], 1) * math.sqrt(2))
        levels = [a / math.sqrt(2 * math.pi) for a in waves]
        square = x[:, :1].square() + x[:, 1:2].square()
        for k in range(2, self.manifold.n + 1):
            z = x[:, k : k + 1]
            square = square + z.square()
            grown: list[list[Tensor]] = [[] for _ in range(degree + 1)]
            for m, lower in enumerate(levels):
                alpha = m + (k - 1) / 2
                before, here = torch.zeros_like(z), torch.ones_like(z)
                for j in range(degree - m + 1):
                    grown[m + j].append(_norm(alpha, j) * here * lower)
                    ahead = 2 * (j + alpha) * z * here - (j + 2 * alpha - 1) * square * before
                    before, here = here, ahead / (j + 1)
            levels = [torch.cat(parts, 1) for parts in grown]
        return levels


def _size(n: int, l: int) -> int:  # noqa: E741
    """Dimension of the harmonics of degree l on the n-sphere."""
    return math.comb(n + l, n) - (math.comb(n + l - 2, n) if l > 1 else 0)


@cache
def _norm(alpha: float, j: int) -> float:
    r"""One over the root of :math:`\int C_j^{(\alpha)}(t)^2 (1 - t^2)^{\alpha - 1/2} dt`."""
    log_square = math.log(math.pi) + (1 - 2 * alpha) * math.log(2) + math.lgamma(j + 2 * alpha)
    log_square -= math.lgamma(j + 1) + math.log(j + alpha) + 2 * math.lgamma(alpha)
    return math.exp(-log_square / 2)
