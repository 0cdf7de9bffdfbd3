r"""Radial law of Brownian motion on hyperbolic space of any dimension, from sums and integrals of positive terms.

With :math:`y = \cosh r` and :math:`\varphi = r^2 / 2`, in odd dimension :math:`n = 2m + 1`

.. math::
    p(r, \tau) = (2\pi)^{-m} (2\pi\tau)^{-1/2} e^{-m^2 \tau / 2}\, \Big(-\frac{d}{dy}\Big)^m e^{-\varphi / \tau},

and in even dimension :math:`n = 2m` an Abel integral of the kernel of dimension n + 1 (McKean's formula for n = 2). The
derivatives :math:`\psi_k = (-1)^{k-1} \varphi^{(k)}(y)` are positive, so that with :math:`w_k = \psi_k / \psi_1^k`
the recursion

.. math::
    D_{m+1} = D_m + \sum_{k=1}^{m} \binom mk \tau^k w_{k+1} D_{m-k}, \qquad \Big(-\frac{d}{dy}\Big)^m
    e^{-\varphi/\tau} = \Big(\frac{\psi_1}{\tau}\Big)^m D_m\, e^{-\varphi/\tau},

never cancels, at any dimension, radius and time. The score follows from
:math:`\partial_r p_n = -2\pi \sinh r\, e^{n\tau/2} p_{n+2}`.

References:
    McKean, *An upper bound to the spectrum of the Laplacian on a manifold of negative curvature*, 1970.
    Grigor'yan and Noguchi, *The heat kernel on hyperbolic space*, 1998.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["HyperbolicLaw", "HyperbolicValues", "langevin", "log_ratio"]


@dataclass(frozen=True)
class HyperbolicValues:
    r"""Values on the grid ``tau`` x ``r``, with :math:`\rho = (n - 1)/2`.

    Attributes:
        correction: :math:`(\log p + r^2/2\tau + \tfrac n2 \log 2\pi\tau - \rho \log\tfrac{r}{\sinh r}) / \tau`.
        pull: :math:`(-\partial_r \log p - r/\tau) / (\rho (\coth r - 1/r))`; 1 for n = 3.
    """

    correction: np.ndarray
    pull: np.ndarray


def log_ratio(r: np.ndarray) -> np.ndarray:
    """``log(r / sinh r)``."""
    small = r < 0.1
    safe = np.where(small, 1.0, r)
    closed = np.log(2 * safe) - safe - np.log1p(-np.exp(-2 * safe))
    return np.where(small, -(r**2) / 6 * (1 - r**2 / 30 * (1 - 4 * r**2 / 63)), closed)


def langevin(r: np.ndarray) -> np.ndarray:
    """``coth r - 1/r``."""
    small = r < 0.1
    safe = np.where(small, 1.0, r)
    series = r / 3 * (1 - r**2 / 15 * (1 - 2 * r**2 / 21 * (1 - r**2 / 10)))
    return np.where(small, series, 1 / np.tanh(safe) - 1 / safe)


def _scaled_derivatives(r: np.ndarray, count: int) -> np.ndarray:
    """``psi_k cosh(r/2)^(2k)`` for k = 1 .. count, shape ``(count, *r.shape)``.

    The recurrence (y^2 - 1) psi_{k+2} = (2k+1) y psi_{k+1} - k^2 psi_k has psi as its minimal solution: downwards it is
    stable, and fast for small radii; upwards it loses a factor coth(r/2)^2 a step, which is harmless for large ones.
    """
    c2, s2 = np.cosh(r / 2) ** 2, np.sinh(r / 2) ** 2
    out = np.empty((max(count, 2), *r.shape))
    y = c2 + s2
    # In scaled form: 4 s2 psi_{k+2} = (2k+1) y psi_{k+1} - k^2 c2 psi_k.
    safe = np.where(r < 1e-3, 1.0, r)
    first = np.where(r < 1e-3, (1 - r**2 / 6) * c2, safe / np.sinh(safe) * c2)
    far = r > 3
    out[0] = first
    # psi_2 = (y psi_1 - 1) / (y^2 - 1): for k = 0 the right side of the equation for phi is 1, not 0.
    out[1] = (y * out[0] - c2) / np.where(far, 4 * s2, 1.0)
    for k in range(1, count - 1):
        out[k + 1] = ((2 * k + 1) * y * out[k] - k * k * c2 * out[k - 1]) / np.where(far, 4 * s2, 1.0)
    if not far.all():
        near = ~far
        yn, cn, sn = y[near], c2[near], s2[near]
        # psi_k / (k-1)!, started far above with any values: the error shrinks by tanh(r/2)^2 a step.
        high, low = np.zeros(near.sum()), np.full(near.sum(), 1e-100)
        kept = np.empty((count, near.sum()))
        for k in range(count + 220, 0, -1):
            high, low = low, ((2 * k + 1) * yn * low - 4 * (k + 1) * sn * high) / (k * cn)
            if k <= count:
                kept[k - 1] = low
        factorials = np.array([math.factorial(k) for k in range(count)], dtype=float)
        out[:count, near] = kept * (first[near] / kept[0]) * factorials[:, None]
    return out[:count]


def _growth(r: np.ndarray, tau: np.ndarray, order: int) -> list[np.ndarray]:
    """``D_0 - 1, .., D_order - 1`` and, appended, ``D_{order} - D_{order-1}`` (kept apart: it doesn't cancel)."""
    psi = _scaled_derivatives(r, order + 1)
    w = [psi[k] / psi[0] ** (k + 1) for k in range(order + 1)]
    excess = [np.zeros(np.broadcast_shapes(r.shape, tau.shape))]
    step = excess[0]
    for m in range(order):
        step = np.zeros_like(excess[0])
        power = np.ones_like(tau)
        for k in range(1, m + 1):
            power = power * tau
            step = step + math.comb(m, k) * power * w[k] * (1 + excess[m - k])
        excess.append(excess[m] + step)
    return [*excess, step]


class HyperbolicLaw:
    """The law of the distance on hyperbolic space of dimension ``n >= 2``."""

    def __init__(self, n: int) -> None:
        self.dim = n

    def evaluate(self, tau: np.ndarray, r: np.ndarray) -> HyperbolicValues:
        """The law at times and radii, arrays of one axis each."""
        rows = [self._row(float(t), np.asarray(r, dtype=float)) for t in tau]
        return HyperbolicValues(np.array([a for a, _ in rows]), np.array([b for _, b in rows]))

    def _row(self, tau: float, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        n, rho = self.dim, (self.dim - 1) / 2
        if n % 2:
            m = (n - 1) // 2
            *excess, step = _growth(r, np.array(tau), m + 1)
            correction = -rho * rho / 2 + np.log1p(excess[m]) / tau
            # D_{m+1} - D_m over D_m, times r / tau
            pull = step / (1 + excess[m]) / tau
        else:
            m = n // 2
            # w = beta sinh(u): the poles of the integrand at s^2 = -pi^2 move away from the real line, and the
            # trapezoidal rule is spectral.
            reach = np.sqrt((r**2 + math.pi**2) / tau)
            beta = np.minimum(reach, 2.0)
            top = np.arcsinh(9.5 / beta)
            nodes = 64
            u = top * (np.arange(nodes)[:, None] / (nodes - 1))
            weight = np.full((nodes, 1), 1.0)
            weight[0] = weight[-1] = 0.5
            v = beta * np.sinh(u)
            weight = weight * top / (nodes - 1) * beta * np.cosh(u) * math.sqrt(2 / math.pi) * np.exp(-(v**2) / 2)
            shift = tau * v**2
            s = np.sqrt(r**2 + shift)
            gap = shift / (s + r + (s + r == 0))  # s - r without cancellation
            log_r, log_s = log_ratio(r), log_ratio(s)
            chi = -(log_ratio((s + r) / 2) + log_ratio(gap / 2))
            *excess, step = _growth(s, np.array(tau), m + 1)
            base = np.exp((m - 1) * (log_s - log_r) - (chi + log_r) / 2)
            mass = (weight * base * (1 + excess[m])).sum(0)
            correction = -rho * rho / 2 + np.log(mass) / tau
            # psi_1(s) D_{m+1}(s) - psi_1(r) D_m(s), over psi_1(r)
            change = np.expm1(log_s - log_r)
            pull = (weight * base * (np.exp(log_s - log_r) * step + change * (1 + excess[m]))).sum(0) / mass / tau
        k = np.where(r < 1e-6, 1 / 3, langevin(r) / np.where(r < 1e-6, 1.0, r))
        return correction, pull / (rho * k)
