r"""Short-time expansion of the heat kernel of the sphere :math:`S^n`, to all orders that matter.

In normal coordinates at the source, with :math:`\rho = (n-1)/2` and :math:`y = \theta^2`,

.. math::
    \log p(\theta, \tau) = -\frac{y}{2\tau} - \frac n2 \log(2\pi\tau) + \rho \log\frac{\theta}{\sin\theta} + c(y, \tau),
    \qquad c = \sum_{k \ge 0} \tau^{k+1} b_k(y),

and the heat equation :math:`\partial_\tau p = \tfrac12 \Delta p` becomes

.. math::
    (k + 1)\, b_k + 2 y\, b_k' = n\, b_{k-1}' + 2 y\, b_{k-1}'' + 2 y \sum_{i + j = k - 2} b_i' b_j' + [k = 0]\, Q(y),
    \qquad
    Q = \frac{\rho^2}2 - \frac{\rho (\rho - 1)}2 \Big(\frac1{\sin^2\theta} - \frac1{\theta^2}\Big).

On another space whose kernel is radial, with :math:`h` the inverse root of the volume distortion of the exponential map
and :math:`A` the area of the geodesic sphere, :math:`\log h` replaces :math:`\rho \log(\theta / \sin\theta)` and
:math:`Q = \tfrac{(n-1)(n-3)}{8\theta^2} - \tfrac12 A^{-1/2} \partial_\theta^2 A^{1/2}`.

Every :math:`b_k` is a power series in :math:`y` with radius :math:`\pi^2`, and the recursion acts on its coefficients
without cancellation. The series in :math:`\tau` is asymptotic: its error is of the order of the weight of the
second-shortest geodesic, :math:`e^{-2\pi(\pi-\theta)/\tau}`, far below rounding wherever it is used.

References:
    Minakshisundaram and Pleijel, *Some properties of the eigenfunctions of the Laplace-operator on Riemannian
    manifolds*, 1949.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["ShortTime", "zeta_series"]


def zeta_series(terms: int) -> np.ndarray:
    """Coefficients of ``log(theta / sin(theta))`` in powers of ``theta^2``: ``zeta(2m) / (m pi^(2m))``, 0 for m = 0."""
    from scipy.special import zeta

    m = np.arange(1, terms)
    return np.concatenate([[0.0], zeta(2.0 * m) / m * np.pi ** (-2.0 * m)])


@dataclass(frozen=True)
class ShortTime:
    """Values of the expansion at angles ``theta`` and times ``tau`` (arrays that broadcast).

    Attributes:
        log_peak: log density at the source.
        drop: ``(log p(0) - log p(theta)) / theta^2``, smooth at 0.
        slope: ``-(d log p / d theta) / theta``, smooth at 0.
    """

    log_peak: np.ndarray
    drop: np.ndarray
    slope: np.ndarray

    @classmethod
    def evaluate(cls, n: int, theta: np.ndarray, tau: np.ndarray, orders: int = 32, terms: int = 260) -> ShortTime:
        """Sum the expansion on the grid ``tau`` x ``theta``; ``log_peak`` has shape ``(len(tau), 1)``."""
        rho = (n - 1) / 2
        log_ratio = zeta_series(terms + 2)
        m = np.arange(terms, dtype=float)
        # 1/sin^2 - 1/theta^2 = (d/dtheta)^2 log(theta/sin(theta)): coefficient of y^m is (2m+2)(2m+1) times that of
        # y^(m+1).
        curvature = (2 * m + 2) * (2 * m + 1) * log_ratio[1 : terms + 1]
        q = -0.5 * rho * (rho - 1) * curvature
        q[0] += rho**2 / 2
        return cls.expand(n, rho * log_ratio[:terms], q, theta, tau, orders)

    @classmethod
    def expand(
        cls, n: int, log_h: np.ndarray, q: np.ndarray, theta: np.ndarray, tau: np.ndarray, orders: int = 32
    ) -> ShortTime:
        """The expansion of a space of dimension ``n``, with the coefficients of log h and Q in powers of theta^2."""
        terms = len(q)
        m = np.arange(terms, dtype=float)
        b: list[np.ndarray] = []
        slopes: list[np.ndarray] = []  # b_k'
        for k in range(orders):
            rhs = np.zeros(terms)
            if k == 0:
                rhs += q
            else:
                d = slopes[k - 1]
                second = np.append(m[1:] * d[1:], 0.0)  # b''
                rhs += n * d
                rhs[1:] += 2 * second[:-1]
                cross = np.zeros(terms)
                for i in range(k - 1):
                    cross += np.convolve(slopes[i], slopes[k - 2 - i])[:terms]
                rhs[1:] += 2 * cross[:-1]
            b.append(rhs / (k + 1 + 2 * m))
            slopes.append(np.append(m[1:] * b[k][1:], 0.0))
            # Each order needs two derivatives of the last: its top coefficient is wrong, and is dropped.
            b[k][terms - 1 - k :] = 0.0
            slopes[k][terms - 2 - k :] = 0.0

        y = np.asarray(theta, dtype=float)[None, :] ** 2
        t = np.asarray(tau, dtype=float)[:, None]
        powers = y.T ** np.arange(terms)[None, :]  # (len(theta), terms)
        drop = 1 / (2 * t) - (powers[:, :-1] @ log_h[1:])[None, :]
        slope = 1 / t - 2 * (powers[:, :-1] @ (np.arange(1, terms) * log_h[1:]))[None, :]
        log_peak = -n / 2 * np.log(2 * np.pi * t)
        for k in range(orders):
            drop = drop - t ** (k + 1) * (powers[:, :-1] @ b[k][1:])[None, :]
            slope = slope - 2 * t ** (k + 1) * (powers @ slopes[k])[None, :]
            log_peak = log_peak + t ** (k + 1) * b[k][0]
        return cls(log_peak, drop, slope)
