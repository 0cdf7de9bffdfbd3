"""Brownian motion on the flat torus: the wrapped Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import Torus
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel

__all__ = ["TorusKernel", "wrap_angle", "wrapped_log_prob", "wrapped_score"]

_TWO_PI = 2 * math.pi
# Below the cross-over three images leave out exp(-4 pi^2 / tau), above it h harmonics leave out exp(-(h + 1)^2 tau /
# 2).
_CROSS_OVER = {torch.float64: (1.2, 8)}  # 5e-15, 8e-22
_SINGLE = (2.4, 3)  # 7e-8, 5e-9


def wrap_angle(d: Tensor, period: Tensor | float = _TWO_PI) -> Tensor:
    """Angle modulo 2 pi in [-pi, pi], or modulo another period."""
    return d - period * torch.round(d / period)


def _images(d: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the images d - 2 pi and d + 2 pi relative to d."""
    t = tau.clamp_max(5.0)
    return ((d - math.pi) * (_TWO_PI / t)).exp(), ((-d - math.pi) * (_TWO_PI / t)).exp()


def _harmonics(d: Tensor, tau: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Clenshaw sums of ``1 + 2 sum_k q^(k^2) cos(k d)`` and of ``2 sum_k k q^(k^2) sin(k d)``, q = exp(-tau/2)."""
    c, zero = 2 * d.cos(), torch.zeros_like(d * tau)
    b1, b2, s1, s2 = zero, zero, zero, zero
    for k in range(count, 0, -1):
        q = 2 * (-k * k / 2 * tau).exp()
        b1, b2 = q + c * b1 - b2, b1
        s1, s2 = k * q + c * s1 - s2, s1
    return 1 + c / 2 * b1 - b2, s1 * d.sin()


def wrapped_log_prob(d: Tensor, tau: Tensor) -> Tensor:
    """Log density per angle at the wrapped difference ``d``; ``tau`` broadcasts."""
    cross_over, count = _CROSS_OVER.get(d.dtype, _SINGLE)
    e1, e2 = _images(d, tau)
    # Where the series is not taken its density must still be positive: it divides in the gradient.
    near = -d.square() / (2 * tau) - 0.5 * (_TWO_PI * tau).log() + torch.log1p(e1 + e2)
    far = _harmonics(d, tau.clamp_min(cross_over), count)[0].log() - math.log(_TWO_PI)
    return torch.where(tau < cross_over, near, far)


def wrapped_score(d: Tensor, tau: Tensor) -> Tensor:
    """Derivative of :func:`wrapped_log_prob` in ``d``."""
    cross_over, count = _CROSS_OVER.get(d.dtype, _SINGLE)
    e1, e2 = _images(d, tau)
    near = -(d + _TWO_PI * (e2 - e1) / (1 + e1 + e2)) / tau
    density, slope = _harmonics(d, tau.clamp_min(cross_over), count)
    return torch.where(tau < cross_over, near, -slope / density)


@heat_kernel.register(Torus)
class TorusKernel(HeatKernel):
    r"""The wrapped normal law, one coordinate at a time.

    .. math::
        p_\tau(x \mid x_0) = \prod_i \sum_{k} \frac{e^{-(x_i - x_{0i} + k L_i)^2 / 2\tau}}{\sqrt{2\pi\tau}}
        = \prod_i \frac1{L_i} \Big(1 + 2 \sum_{k \ge 1} e^{-(2\pi k/L_i)^2 \tau / 2}
        \cos \frac{2\pi k (x_i - x_{0i})}{L_i}\Big)

    Coordinates are scaled to the period :math:`2\pi`, for which the images are summed below tau = 1.2 (2.4 in float32),
    the Fourier series above. Sampling wraps a Gaussian and is exact.

    Args:
        manifold: a ``Torus(n)`` of any periods.
    """

    def __init__(self, manifold: Torus) -> None:
        self.manifold = manifold
        self._log_rate = -math.fsum(math.log(p / _TWO_PI) for p in manifold.lengths)

    def _angular(self, d: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """Differences as angles, times in units of the angle, and the angle per unit of length."""
        if self.manifold.periods is None:
            return wrap_angle(d), tau, 1.0
        rate = _TWO_PI / self.manifold.period_like(d)
        return wrap_angle(rate * d), rate * rate * tau, rate

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return self.manifold.exp(x0, brownian_time(tau, x0).sqrt().unsqueeze(-1) * xi)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        angle, t, _ = self._angular(x - x0, brownian_time(tau, x).unsqueeze(-1))
        return wrapped_log_prob(angle, t).sum(-1) + self._log_rate

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        angle, t, rate = self._angular(x - x0, brownian_time(tau, x).unsqueeze(-1))
        return rate * wrapped_score(angle, t)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        t = brownian_time(tau, x0).unsqueeze(-1)
        v = t.sqrt() * torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        angle, t, rate = self._angular(v, t)
        return KernelSample(self.manifold.exp(x0, v), rate * wrapped_score(angle, t))
