r"""Radial laws of Brownian motion on spheres and on SO(3), on a grid of times and angles.

With :math:`s(\tau) = \tfrac2m \sinh\tfrac{m\tau}2` the tables hold

.. math::
    P = \frac{\sin\theta / s}{-\partial_\theta \log p}, \qquad L = s\, \frac{\log p(0) - \log p(\theta)}{1 -
    \cos\theta},

which are smooth for all times from 0 to stationarity: L stays between 0.5 and 3, P between 0 (cut locus, short times)
and 1. Times are equally spaced in :math:`\log(1 + \tau/\tau_c)`, which includes :math:`\tau = 0`; angles are dense near
the cut locus, where the kernel has a layer of width :math:`\tau / \pi`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from ._short_time import ShortTime
from ._zonal_series import RotationZonal, SphereZonal, Zonal, sum_series

__all__ = ["CompactLaw", "RadialValues", "RotationLaw", "SphereLaw"]


@dataclass(frozen=True)
class RadialValues:
    """Values on the grid ``tau`` x ``theta``.

    Attributes:
        log_peak: log density at the source, ``(len(tau),)``.
        drop: L of the module's formula, ``(len(tau), len(theta))``.
        inverse: P of the module's formula, same shape.
    """

    log_peak: np.ndarray
    drop: np.ndarray
    inverse: np.ndarray


class CompactLaw(ABC):
    """A radial law with its scales.

    Attributes:
        dim: dimension of the manifold.
        m: first eigenvalue of minus the Laplacian (sphere: n, SO(3): 2).
        log_volume: logarithm of the Riemannian volume.
        cross_over: time at which the short-time form hands over to the series.
    """

    dim: int
    m: int
    log_volume: float
    cross_over: float

    @property
    def tau_max(self) -> float:
        """From here on the law differs from the uniform one by its first eigenfunction alone, to 1e-17."""
        return 80 / (self.m + 2)

    def scale(self, tau: np.ndarray) -> np.ndarray:
        """s(tau)."""
        return 2 / self.m * np.sinh(self.m * tau / 2)

    @abstractmethod
    def log_area(self, theta: np.ndarray) -> np.ndarray:
        """Logarithm of the area of the geodesic sphere over that of the unit sphere of R^dim."""

    @abstractmethod
    def evaluate(self, tau: np.ndarray, theta: np.ndarray) -> RadialValues:
        """The law at ascending times and angles in [0, pi], ascending."""

    def _series(
        self, zonal: Zonal, tau: np.ndarray, theta: np.ndarray, max_drop: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cosines = np.cos(theta)
        rows = sum_series(zonal, cosines, tau, max_drop)
        half = 1 - cosines  # of the rounded cosine, at which the series is exact
        slope = np.array([r.slope for r in rows]).reshape(len(tau), len(theta))
        drop = np.array([r.drop for r in rows]).reshape(len(tau), len(theta))
        drop = np.where(half > 0, drop / np.where(half > 0, half, 1.0), slope)
        return np.array([r.log_peak for r in rows]) - self.log_volume, drop, slope


class SphereLaw(CompactLaw):
    """The law of the angle on the sphere of dimension ``n >= 2``."""

    def __init__(self, n: int) -> None:
        self.dim = self.m = n
        self.log_volume = math.log(2) + (n + 1) / 2 * math.log(math.pi) - math.lgamma((n + 1) / 2)
        # The expansion converges like (n tau / 2 pi)^k and fails beside the antipode like exp(-2 pi (pi - theta) /
        # tau).
        self.cross_over = min(0.03, 2.5 / n)

    reach = 2.5
    """Largest angle at which the short-time expansion is used."""
    max_drop = 400.0
    """The series resolves densities down to exp(-max_drop) of the peak."""

    def log_area(self, theta: np.ndarray) -> np.ndarray:
        return (self.dim - 1) * np.log(np.maximum(np.sin(theta), 1e-300))

    def evaluate(self, tau: np.ndarray, theta: np.ndarray) -> RadialValues:
        early, near = tau < self.cross_over, theta <= self.reach
        peak, drop, slope = (
            np.empty(len(tau)),
            np.full((len(tau), len(theta)), np.nan),
            np.full((len(tau), len(theta)), np.nan),
        )
        if early.any():
            e = ShortTime.evaluate(self.dim, theta[near], tau[early])
            peak[early] = e.log_peak[:, 0]
            drop[np.ix_(early, near)] = e.drop * 2 / np.sinc(theta[near] / (2 * np.pi)) ** 2
            slope[np.ix_(early, near)] = e.slope / np.sinc(theta[near] / np.pi)
        if not early.all():
            peak[~early], drop[~early], slope[~early] = self._series(
                SphereZonal(self.dim), tau[~early], theta, self.max_drop
            )
        s = self.scale(tau)[:, None]
        drop, slope = drop * s, slope * s
        for i in np.flatnonzero(np.isnan(slope).any(1)):
            self._continue(float(tau[i]), float(s[i, 0]), theta, drop[i], slope[i])
        return RadialValues(peak, drop, 1 / slope)

    def _continue(self, tau: float, s: float, theta: np.ndarray, drop: np.ndarray, slope: np.ndarray) -> None:
        """Fill angles beyond the last known one with the leading term, which ends in a Bessel layer at the antipode.

        There the law is below exp(-60) of its peak. The layer is no thinner than at the cross-over, so that tables
        can hold it.
        """
        known = np.flatnonzero(~np.isnan(slope))
        last = int(known[-1])
        layer = max(tau, self.cross_over)
        factor = slope[last] / s * math.sin(theta[last]) / self._leading(theta[last : last + 1], tau, layer)[0]
        points, weights = np.polynomial.legendre.leggauss(8)
        total = drop[last] / s * 2 * math.sin(theta[last] / 2) ** 2
        for j in range(last + 1, len(theta)):
            middle, half = (theta[j] + theta[j - 1]) / 2, (theta[j] - theta[j - 1]) / 2
            total += factor * half * float(weights @ self._leading(middle + half * points, tau, layer))
            drop[j] = total * s / (2 * math.sin(theta[j] / 2) ** 2)
            inside = min(theta[j], math.pi - 1e-6)
            slope[j] = factor * s * self._leading(np.array([inside]), tau, layer)[0] / math.sin(inside)

    def _leading(self, theta: np.ndarray, tau: float, layer: float) -> np.ndarray:
        """Minus the score, theta / tau - rho (1/theta - cot theta), with I_{n/2} / I_{n/2-1} for its pole at pi."""
        x, rho = np.pi - theta, (self.dim - 1) / 2
        z = theta * x / layer
        ratio = z / (rho + np.sqrt(z**2 + (rho + 1) ** 2))  # Amos 1974, within (n tau)^2 of the Bessel ratio
        return ratio * (theta / tau - rho * (1 / theta - 1 / np.tan(theta) - 1 / x))


class RotationLaw(CompactLaw):
    """The law of the rotation angle on SO(3)."""

    dim = 3
    m = 2
    log_volume = math.log(8 * math.pi**2)
    cross_over = 0.25

    def log_area(self, theta: np.ndarray) -> np.ndarray:
        return 2 * np.log(np.maximum(2 * np.sin(theta / 2), 1e-300))

    def evaluate(self, tau: np.ndarray, theta: np.ndarray) -> RadialValues:
        early = tau < self.cross_over
        peak, drop, slope = np.empty(len(tau)), np.empty((len(tau), len(theta))), np.empty((len(tau), len(theta)))
        if early.any():
            peak[early], drop[early], slope[early] = self._two_images(tau[early, None], theta[None, :])
        if not early.all():
            peak[~early], drop[~early], slope[~early] = self._series(RotationZonal(), tau[~early], theta, 400.0)
        s = self.scale(tau)[:, None]
        return RadialValues(peak, drop * s, 1 / (slope * s))

    @staticmethod
    def _two_images(t: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Images w and w - 2 pi; the next is below exp(-2 pi^2 / tau).

        Near the source in w; near pi in x = pi - w with T = tanh(pi x / tau), where p is proportional to
        exp(-x^2 / 2 tau) cosh(pi x / tau) (pi - x T) / cos(x / 2) and nothing cancels.
        """
        x = np.pi - w
        second = np.exp(-2 * np.pi * x / t)
        with np.errstate(divide="ignore", invalid="ignore"):
            # (1/w - cot(w/2)/2) / sin w by its series at 0
            fraction = np.where(w < 0.01, 1 / 12 + 11 * w**2 / 720, (1 / w - 0.5 / np.tan(w / 2)) / np.sin(w))
            e = np.where(w < 0.1, 0.0, (2 * np.pi - w) / w * second)
            pull = np.where(e > 0, e / (1 + e) * (2 * np.pi / t - 1 / (2 * np.pi - w) - 1 / w), 0.0)
            inner = 1 / (np.sinc(w / np.pi) * t) - fraction - np.where(e > 0, pull / np.sin(w), 0.0)
            tanh = np.tanh(np.pi * x / t)
            outer = (
                -x / t
                + np.pi / t * tanh
                - (tanh + np.pi * x / t * (1 - tanh**2)) / (np.pi - x * tanh)
                + np.tan(x / 2) / 2
            )
            outer = np.where(x < 1e-7, (np.pi / t) ** 2 - 3 / t + 0.25, outer / np.sin(w))
        slope = np.where(w < 2, inner, outer)
        log_ratio = -np.log(np.sinc(w / (2 * np.pi)))
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.where(e > 0, np.log1p(e), 0.0)
            drop = w**2 / (2 * t) - log_ratio - gain
            half = 2 * np.sin(w / 2) ** 2
            drop = np.where(
                w < 1e-2, (1 / (2 * t) - 1 / 24 - w**2 / 2880) * w**2 / np.where(half > 0, half, 1), drop / half
            )
            drop = np.where(w == 0, slope, drop)
        return -1.5 * np.log(2 * np.pi * t[:, 0]) + t[:, 0] / 8, drop, slope
