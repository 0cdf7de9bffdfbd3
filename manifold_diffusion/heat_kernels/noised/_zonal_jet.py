r"""The heat kernel of a sphere as a function of the inner product, and its derivatives, for short times.

On :math:`S^n` the kernel is a function :math:`F(u)` of :math:`u = x \cdot y = \cos\theta`, and by the series

.. math:: F^{(m)}(u) = (2\pi)^m e^{-m(n + m - 1)\tau/2}\, p^{S^{n + 2m}}_\tau(\theta) > 0:

all derivatives are kernels of larger spheres, hence positive (F is absolutely monotone). On :math:`S^N`, N >= 3,
:math:`w = (2\pi\tau)^{-N/2} (\theta/\sin\theta)^{(N-1)/2} e^{-\theta^2/2\tau + N(N-1)\tau/12}` is a supersolution of
the heat equation, because in the notation of :mod:`.._short_time` :math:`Q \le \rho(2\rho + 1)/6`; it is infinite at
the antipode and starts as a point mass, so that :math:`p \le w`. Put together, for every m >= 1 (and m >= 0 if n >= 3)

.. math:: F^{(m)}(\cos\theta) \le G\,\kappa^m, \qquad \kappa = \frac{\theta}{\tau\sin\theta}, \quad
    G = (2\pi\tau)^{-n/2} \Big(\frac\theta{\sin\theta}\Big)^{(n-1)/2} e^{-\theta^2/2\tau + n(n-1)\tau/12}.

What the derivatives are beside :math:`G \kappa^m` is :math:`e^{C_m}` with :math:`C_m = O(\tau)` smooth in
:math:`\theta^2` and the time: a polynomial.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .._patches import lobatto
from .._short_time import ShortTime, zeta_series
from ._series import powers

__all__ = ["ZonalJet", "angle_squared", "zonal_jet"]

_TIME = 0.1
"""Largest time: the short-time expansion converges like (N tau / 2 pi)^k, and N is 24 at most."""
_SQUARE = 4.0
"""Largest square of an angle."""
_ROWS, _COLUMNS = 15, 13
_TERMS = 12


def angle_squared(versine: Tensor) -> tuple[Tensor, Tensor]:
    r""":math:`\theta^2` and :math:`\log(\theta/\sin\theta)` of :math:`1 - \cos\theta`, smooth at 0."""
    if not (versine.requires_grad and torch.is_grad_enabled()):  # values alone need no series: half of the time
        v = versine.clamp_min(1e-300)
        square = 4 * (v / 2).clamp_max(1).sqrt().asin().square()
        return square, (square / (2 * v) / (1 - v / 2).clamp_min(1e-300)).log() / 2
    near = versine < 0.05
    small = torch.where(near, versine, 0.0)
    # theta^2 = 2 sum_k (2 v)^k / (k^2 binom(2k, k)), with the factor 2 v taken out
    ratio = torch.zeros_like(small)
    for k in range(_TERMS, 0, -1):
        ratio = 2 * small * ratio + 2 / (k * k * math.comb(2 * k, k))
    far = torch.where(near, 1.0, versine)
    ratio = torch.where(near, ratio, 2 * (far / 2).clamp_max(1).sqrt().asin().square() / far)
    return 2 * versine * ratio, (ratio / (1 - versine / 2).clamp_min(1e-300)).log() / 2


class ZonalJet:
    """Derivatives of the kernel of ``Sphere(n)`` in the inner product, for angles up to 2 and short times.

    Args:
        n: dimension, at least 2.
        orders: number of derivatives, the kernel itself included.

    Attributes:
        time_max: largest time.
        square_max: largest square of an angle.
    """

    time_max, square_max = _TIME, _SQUARE

    def __init__(self, n: int, orders: int) -> None:
        self.n, self.orders = n, orders
        y = _SQUARE * (lobatto(_ROWS - 1) + 1) / 2
        t = _TIME * (lobatto(_COLUMNS - 1) + 1) / 2
        t[0] = _TIME * 1e-3  # a quotient by the time: its limit is not needed to more digits
        grid = np.stack([self._remainder(m, np.sqrt(y), t) for m in range(orders)])  # (orders, times, squares)
        rows = np.vander(y / _SQUARE * 2 - 1, increasing=True)
        columns = np.vander(t / _TIME * 2 - 1, increasing=True)
        fitted = np.linalg.solve(columns, np.linalg.solve(rows, grid.transpose(0, 2, 1)).transpose(0, 2, 1))
        self._coefficients = torch.from_numpy(np.ascontiguousarray(fitted.transpose(1, 2, 0)))  # time, square, order
        self.low, self.high = float(grid[0].min()) - 1e-3, float(grid[0].max()) + 1e-3

    def _remainder(self, m: int, theta: np.ndarray, tau: np.ndarray) -> np.ndarray:
        """C_m over the time, ``(times, angles)``."""
        n = self.n + 2 * m
        rho = (n - 1) / 2
        terms = 140
        log_ratio = zeta_series(terms + 2)
        k = np.arange(terms, dtype=float)
        q = -0.5 * rho * (rho - 1) * (2 * k + 2) * (2 * k + 1) * log_ratio[1 : terms + 1]
        q[0] += rho**2 / 2
        t = tau[:, None]
        # Without the term that is known in closed form nothing cancels.
        e = ShortTime.expand(n, np.zeros(terms), q, theta, tau, orders=32)
        rest = e.log_peak + n / 2 * np.log(2 * np.pi * t) - theta**2 * (e.drop - 1 / (2 * t))
        return rest / t - m * (self.n + m - 1) / 2

    def log_derivatives(self, square: Tensor, log_ratio: Tensor, tau: Tensor, orders: int) -> Tensor:
        """Logarithms of the kernel and its derivatives, ``(orders, pairs)``.

        Args:
            square: squares of the angles, ``(pairs,)``, at most ``square_max``.
            log_ratio: logarithms of angle over sine.
            tau: times, ``(pairs,)`` or ``(1,)``, at most ``time_max``.
            orders: how many.
        """
        c = self._coefficients[:, :, :orders].to(square)
        times, squares = powers(2 * tau / _TIME - 1, _COLUMNS - 1), powers(2 * square / _SQUARE - 1, _ROWS - 1)
        if len(tau) == 1:
            rest = torch.tensordot(times[:, 0], c, 1).mT @ squares
        else:
            rest = torch.stack([((c[:, :, m].mT @ times) * squares).sum(0) for m in range(orders)])
        m = torch.arange(orders, dtype=square.dtype, device=square.device).unsqueeze(1)
        start = -square / (2 * tau) - self.n / 2 * (2 * math.pi * tau).log() + (self.n - 1) / 2 * log_ratio
        return start + m * (log_ratio - tau.log()) + tau * rest

    def log_majorant(self, square: Tensor, log_ratio: Tensor, tau: Tensor) -> Tensor:
        """Logarithm of G of the module's formula, at any time and angle."""
        n = self.n
        leading = -square / (2 * tau) + (n - 1) / 2 * log_ratio
        return leading - n / 2 * (2 * math.pi * tau).log() + n * (n - 1) / 12 * tau


@cache
def zonal_jet(n: int, orders: int) -> ZonalJet:
    """The derivatives of ``Sphere(n)``, made once."""
    return ZonalJet(n, orders)
