r"""Radial law of Brownian motion on complex projective space.

In the angle :math:`\theta = 2d \in [0, \pi]` (the metric times 2) the eigenvalues are :math:`l(l + n)`, and the zonal
functions the Jacobi polynomials :math:`P_l^{(n-1, 0)}(\cos\theta)`: the law fits the tables of spheres with m = n + 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._compact_law import CompactLaw, RadialValues
from ._short_time import ShortTime, zeta_series
from ._zonal_series import Zonal

__all__ = ["ProjectiveLaw"]


class ProjectiveZonal(Zonal):
    r"""Complex projective space of complex dimension ``n``.

    Jacobi polynomials, with :math:`\tfrac{d}{dx} P_l^{(a, 0)} = \tfrac{l + a + 1}2 P_{l-1}^{(a+1, 1)}`.
    """

    divisor = 2

    def __init__(self, n: int) -> None:
        self.n = n
        self.m = n + 1

    def weight(self, level: int) -> int:
        # Multiplicity over P_l(1).
        return math.comb(level + self.n, self.n) + (math.comb(level + self.n - 1, self.n) if level else 0)

    def peak(self, level: int) -> int:
        return math.comb(level + self.n - 1, level)

    def polynomials(self, x: Any, levels: int, bits: int) -> tuple[Any, Any]:
        factors = np.array([level + self.n for level in range(1, levels)], dtype=object)
        slopes = _jacobi(x, self.n, 1, levels - 1, bits) * factors[:, None]
        return _jacobi(x, self.n - 1, 0, levels, bits), np.concatenate([0 * x[None], slopes])


def _jacobi(x: Any, a: int, b: int, levels: int, bits: int) -> Any:
    """Fixed-point ``P_l^(a, b)(x)``."""
    one = 0 * x + (1 << bits)
    out = [one, ((a + b + 2) * x + (a - b) * one) // 2]
    for k in range(1, levels - 1):
        c = 2 * k + a + b
        top = (c + 1) * (((c + 2) * c * x + (a * a - b * b) * one) * out[k] >> bits)
        below = 2 * (k + a) * (k + b) * (c + 2) * out[k - 1]
        out.append((top - below) // (2 * (k + 1) * (k + a + b + 1) * c))
    return np.array(out[:levels], dtype=object)


class ProjectiveLaw(CompactLaw):
    r"""The law of the angle :math:`\theta = 2d` on :math:`\mathbb{CP}^n`.

    Below the cross-over the expansion in short times up to :math:`\theta = 2.5`; beyond, where the law is below
    exp(-100) of its peak, its leading term with the Bessel layer of the cut locus (of codimension 2, for every n), no
    thinner than at the cross-over, so that tables can hold it.
    """

    reach = 2.5

    def __init__(self, n: int) -> None:
        self.n = n
        self.dim, self.m = 2 * n, n + 1
        self.log_volume = n * math.log(4 * math.pi) - math.lgamma(n + 1)
        self.cross_over = min(0.03, 1.25 / n)

    def log_area(self, theta: np.ndarray) -> np.ndarray:
        sine, cosine = np.maximum(2 * np.sin(theta / 2), 1e-300), np.maximum(np.cos(theta / 2), 1e-300)
        return (self.dim - 1) * np.log(sine) + np.log(cosine)

    def evaluate(self, tau: np.ndarray, theta: np.ndarray) -> RadialValues:
        early, near = tau < self.cross_over, theta <= self.reach
        peak = np.empty(len(tau))
        drop, slope = (np.empty((len(tau), len(theta))) for _ in range(2))
        if early.any():
            e = self.short_time(theta[near], tau[early])
            peak[early] = e.log_peak[:, 0]
            drop[np.ix_(early, near)] = e.drop * 2 / np.sinc(theta[near] / (2 * np.pi)) ** 2
            slope[np.ix_(early, near)] = e.slope / np.sinc(theta[near] / np.pi)
            for i in np.flatnonzero(early):
                self._continue(float(tau[i]), theta, drop[i], slope[i])
        if not early.all():
            peak[~early], drop[~early], slope[~early] = self._series(ProjectiveZonal(self.n), tau[~early], theta, 400.0)
        s = self.scale(tau)[:, None]
        return RadialValues(peak, drop * s, 1 / (slope * s))

    def short_time(self, theta: np.ndarray, tau: np.ndarray, terms: int = 260) -> ShortTime:
        """The expansion; with a = n - 1/2 the root of the area is proportional to sin(theta/2)^a cos(theta/2)^(1/2)."""
        a, m = self.n - 0.5, np.arange(terms, dtype=float)
        # log(x / sin x) and -log(cos x) at x = theta / 2, and their second derivatives in x.
        sine = zeta_series(terms + 1)
        log_sine, log_cosine = sine * 4.0 ** -np.arange(terms + 1), sine * (1 - 4.0 ** -np.arange(terms + 1))
        second = 4 * (2 * m + 2) * (2 * m + 1)  # d^2/dx^2 = 4 d^2/dtheta^2
        cosecant, secant = second * log_sine[1:], second * log_cosine[1:]  # 1/sin^2 - 1/x^2 and 1/cos^2
        q = -a * (a - 1) / 8 * cosecant + secant / 32
        q[0] += self.n**2 / 8
        return ShortTime.expand(self.dim, a * log_sine[:terms] + log_cosine[:terms] / 2, q, theta, tau)

    def _continue(self, tau: float, theta: np.ndarray, drop: np.ndarray, slope: np.ndarray) -> None:
        """Fill the angles beyond the reach of the expansion."""
        last = int(np.flatnonzero(theta <= self.reach)[-1])
        factor = slope[last] * math.sin(theta[last]) / self._leading(theta[last : last + 1], tau)[0]
        points, weights = np.polynomial.legendre.leggauss(8)
        total = drop[last] * 2 * math.sin(theta[last] / 2) ** 2
        for j in range(last + 1, len(theta)):
            middle, half = (theta[j] + theta[j - 1]) / 2, (theta[j] - theta[j - 1]) / 2
            total += factor * half * float(weights @ self._leading(middle + half * points, tau))
            drop[j] = total / (2 * math.sin(theta[j] / 2) ** 2)
            inside = min(theta[j], math.pi - 1e-6)
            slope[j] = factor * self._leading(np.array([inside]), tau)[0] / math.sin(inside)

    def _leading(self, theta: np.ndarray, tau: float) -> np.ndarray:
        """Minus the score: theta / tau and the slope of the area's root, with I_1 / I_0 for its pole at pi."""
        from scipy.special import ive

        x, a = np.pi - theta, self.n - 0.5
        z = theta * x / max(tau, self.cross_over)
        rest = a / 2 / np.tan(theta / 2) - a / theta - np.tan(theta / 2) / 4 + 1 / (2 * x)
        return ive(1, z) / ive(0, z) * (theta / tau + rest)
