r"""Eigenfunction series of radial heat kernels in fixed-point integers of any precision.

.. math::
    p(\theta, \tau) = \frac1V \sum_l w_l\, e^{-\lambda_l \tau / 2}\, Z_l(\cos\theta), \qquad \lambda_l = l (l + m - 1).

In the tail the sum is smaller than its terms by :math:`e^{\theta^2/2\tau}`: floating point returns noise there,
integers with enough bits return the truth. Both spaces here have a polynomial :math:`Z_l` with a three-term recurrence:

* sphere :math:`S^n`: m = n, :math:`w_l` the multiplicity, :math:`Z_l = G_l^{(n)}` the Gegenbauer polynomial with
  :math:`G_l(1) = 1`, and
  :math:`\tfrac{d}{dx} G_l^{(n)} = \tfrac{\lambda_l}{n} G_{l-1}^{(n+2)}`;
* SO(3): m = 2, :math:`w_l = 2l + 1`, :math:`Z_l = \chi_l` the character as a polynomial in the cosine of the rotation
  angle.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["RotationZonal", "SeriesValues", "SphereZonal", "Zonal", "sum_series"]


class Zonal(ABC):
    """Polynomials and weights of a series.

    Attributes:
        m: step of the spectrum, ``lambda_l = l (l + m - 1)``.
        divisor: common divisor of the integers that :meth:`polynomials` returns as slopes.
    """

    m: int
    divisor: int

    @abstractmethod
    def weight(self, level: int) -> int:
        """Weight ``w_l``."""

    @abstractmethod
    def peak(self, level: int) -> int:
        """Value of the polynomial at 1."""

    @abstractmethod
    def polynomials(self, x: Any, levels: int, bits: int) -> tuple[Any, Any]:
        """Fixed-point ``Z_l(x)`` and ``divisor * Z_l'(x)``, object arrays ``(levels, len(x))``; so is ``x``."""


class SphereZonal(Zonal):
    """The sphere of dimension ``n``."""

    def __init__(self, n: int) -> None:
        self.m = self.divisor = n

    def weight(self, level: int) -> int:
        n = self.m
        return math.comb(n + level, n) - (math.comb(n + level - 2, n) if level >= 2 else 0)

    def peak(self, level: int) -> int:
        return 1

    def polynomials(self, x: Any, levels: int, bits: int) -> tuple[Any, Any]:
        eigenvalues = np.array([level * (level + self.m - 1) for level in range(1, levels)], dtype=object)
        slopes = _gegenbauer(x, self.m + 2, levels - 1, bits) * eigenvalues[:, None]
        return _gegenbauer(x, self.m, levels, bits), np.concatenate([0 * x[None], slopes])


class RotationZonal(Zonal):
    """The rotation group SO(3)."""

    m = 2
    divisor = 1

    def weight(self, level: int) -> int:
        return 2 * level + 1

    def peak(self, level: int) -> int:
        return 2 * level + 1

    def polynomials(self, x: Any, levels: int, bits: int) -> tuple[Any, Any]:
        one = 0 * x + (1 << bits)
        values, slopes = [one, one + 2 * x], [0 * x, 2 * one]
        for _ in range(2, levels):
            values.append((2 * x * values[-1] >> bits) - values[-2])
            slopes.append(2 * values[-2] + (2 * x * slopes[-1] >> bits) - slopes[-2])
        return np.array(values[:levels]), np.array(slopes[:levels])


def _gegenbauer(x: Any, n: int, levels: int, bits: int) -> Any:
    out = [0 * x + (1 << bits), x]
    for k in range(1, levels - 1):
        out.append(((2 * k + n - 1) * (x * out[k] >> bits) - k * out[k - 1]) // (k + n - 1))
    return np.array(out[:levels], dtype=object)


@dataclass(frozen=True)
class SeriesValues:
    """The series at one time; angles that the precision doesn't reach are NaN.

    Attributes:
        log_peak: logarithm of ``V`` times the density at the source.
        drop: ``log p(0) - log p(theta)``.
        slope: ``-(d log p / d theta) / sin(theta)``, smooth at both ends.
    """

    log_peak: float
    drop: np.ndarray
    slope: np.ndarray


def sum_series(zonal: Zonal, cosines: np.ndarray, taus: np.ndarray, max_drop: float) -> list[SeriesValues]:
    """The series at every time (ascending), exact down to ``exp(-max_drop)`` of the peak.

    Times are grouped by octaves: the polynomials are computed once a group, with the number of bits that its first
    time needs.
    """
    out: list[SeriesValues] = []
    start = 0
    while start < len(taus):
        stop = start + 1
        while stop < len(taus) and taus[stop] < 2 * taus[start]:
            stop += 1
        out += _sum_group(zonal, cosines, taus[start:stop], max_drop)
        start = stop
    return out


def _sum_group(zonal: Zonal, cosines: np.ndarray, taus: np.ndarray, max_drop: float) -> list[SeriesValues]:
    m, first = zonal.m, float(taus[0])
    reach = min(math.pi**2 / (2 * first), max_drop) + 50
    # Levels until the terms are below exp(-reach) at the first time; the largest term sets the head room.
    levels, largest = 1, 0.0
    while True:
        term = math.log(zonal.weight(levels) * zonal.peak(levels)) - levels * (levels + m - 1) * first / 2
        if term < -reach and (2 * levels + m - 1) * first / 2 > math.log1p(m / levels):
            break
        largest = max(largest, term)
        levels += 1
    levels = max(levels, 3)
    bits = int((reach + largest + m * float(taus[-1]) / 2) / math.log(2)) + 64 + 2 * levels.bit_length()
    extra = zonal.weight(levels).bit_length() + 16  # the weight multiplies the error of its exponential
    wide = bits + extra
    values, slopes = zonal.polynomials(np.array([_fixed(c, bits) for c in cosines], dtype=object), levels, bits)
    weights = [zonal.weight(level) for level in range(levels)]
    results = []
    for tau in taus:
        # Powers of one number: exp(-m tau / 2) of a rounded m tau / 2 would spoil the cancellation at the 17th digit.
        half = _fixed_exp(float(tau) / 2, wide)
        square, step, e = half * half >> wide, _fixed_power(half, m, wide), 1 << wide
        terms: list[int] = []
        for level in range(levels):
            terms.append(weights[level] * e >> extra)
            if terms[-1] == 0 and level > 1:
                break
            e = e * step >> wide
            step = step * square >> wide
        count = len(terms)
        row = np.array(terms, dtype=object)
        density, slope = row @ values[:count], row @ slopes[:count]
        peak = sum(t * zonal.peak(level) for level, t in enumerate(terms)) << bits
        # What is left below this is rounding.
        floor = peak >> int((reach - 20) / math.log(2)) if max_drop < math.pi**2 / (2 * float(tau)) else 0
        drops, ratios = np.full(len(cosines), np.nan), np.full(len(cosines), np.nan)
        for i, (p, d) in enumerate(zip(density, slope, strict=True)):
            if p > floor:
                lost = _ratio(peak - p, peak)
                drops[i] = -math.log1p(-lost) if lost < 0.5 else math.log(peak) - math.log(p)
                ratios[i] = _ratio(d, p) / zonal.divisor
        results.append(SeriesValues(math.log(peak) - 2 * bits * math.log(2), drops, ratios))
    return results


def _fixed(v: float, bits: int) -> int:
    numerator, denominator = float(v).as_integer_ratio()
    return (numerator << bits) // denominator


def _fixed_exp(x: float, bits: int) -> int:
    """``exp(-x) * 2**bits`` for a float ``x >= 0``: halve the argument, sum the Taylor series, square back."""
    guard = bits + 64
    numerator, denominator = x.as_integer_ratio()
    halvings = max(0, math.frexp(x)[1]) + 16
    y = (numerator << guard) // (denominator << halvings)
    term = total = 1 << guard
    k = 0
    while term:
        k += 1
        term = (term * y >> guard) // k
        total += -term if k % 2 else term
    for _ in range(halvings):
        total = total * total >> guard
    return total >> 64


def _fixed_power(base: int, exponent: int, bits: int) -> int:
    result = 1 << bits
    while exponent:
        if exponent & 1:
            result = result * base >> bits
        base = base * base >> bits
        exponent >>= 1
    return result


def _ratio(a: int, b: int) -> float:
    """``a / b`` of large integers as a float, to full precision."""
    if a == 0:
        return 0.0
    shift = 70 - (abs(a).bit_length() - b.bit_length())
    q = (a << shift) // b if shift >= 0 else a // (b << -shift)
    return math.ldexp(float(q), -shift)
