"""Where a noised point comes from: an estimate of the data, and of a function of them, seen from time t."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor
from torch.func import vjp

from .._errors import CapabilityError, ConfigError
from .._typing import Network
from ..manifolds import raise_index
from .base import NoiseProcess, Process
from .brownian import BrownianMotion
from .langevin import Langevin
from .product import ProductProcess

__all__ = ["Denoised", "Glimpse", "LookAhead", "denoise", "tempered"]

LogLikelihood = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Denoised:
    """Estimate of the point at time 0 from a point at time t.

    Attributes:
        x: estimate of its mean, ``(*batch, *point_shape)``.
        variance: its variance under a flat law of the data, in Brownian time, which bounds that under a narrower one;
            ``(*batch, 1)``, or one column per factor of a :class:`ProductProcess`.
    """

    x: Tensor
    variance: Tensor


@singledispatch
def denoise(process: Process, output: Tensor, x: Tensor, t: Tensor) -> Denoised:
    r"""Mean of the point at time 0 given the point ``x`` at time t, from the network's output there (Tweedie).

    Brownian motion, with :math:`v = \tau(t) - \tau(0)`:

    .. math:: \hat x_0 = \exp_x\big(v\, \nabla\log p_t(x)\big)

    Ornstein-Uhlenbeck, with :math:`x_t = m x_0 + s \epsilon`: :math:`\hat x_0 = (x + s^2 \nabla\log p_t(x)) / m`. Both
    are exact on Euclidean space; on a curved one the first is right to first order in v, and at large v, where the
    score vanishes, it stays at ``x``. Time 0 is the model's own: data noised to ``tau_min``. Another process is added
    with ``@denoise.register(MyProcess)``.

    Args:
        process: process of the network.
        output: output of the network at ``(t, x)``.
        x: noised points, ``(*batch, *point_shape)``.
        t: their times, ``(*batch,)``.

    Raises:
        CapabilityError: if the process has no such estimate.

    References:
        Robbins, *An empirical Bayes approach to statistics*, 1956; Chung et al., *Diffusion posterior sampling for
        general noisy inverse problems*, 2022, arXiv:2209.14687.
    """
    raise CapabilityError(
        f"{type(process).__name__} on {process.manifold} has no estimate of the data from a noised point (its network "
        f"predicts the {process.prediction}). Guide a BrownianMotion, a Langevin on Euclidean space, or a "
        f"ProductProcess of these, or add one with @denoise.register({type(process).__name__})."
    )


@denoise.register
def _(process: BrownianMotion, output: Tensor, x: Tensor, t: Tensor) -> Denoised:
    variance = process.schedule.tau(t) - process.schedule.tau(torch.zeros_like(t))
    step = process.manifold.per_point(variance) * process.score(output, x, t)
    return Denoised(process.manifold.move(x, step), variance.unsqueeze(-1))


@denoise.register
def _(process: Langevin, output: Tensor, x: Tensor, t: Tensor) -> Denoised:
    if not process.has_target:
        raise CapabilityError(
            f"Langevin on {process.manifold} is simulated: it has no closed-form estimate of the data from a noised "
            f"point. Use BrownianMotion({process.manifold})."
        )
    zero = torch.zeros_like(t)
    factor = process._mean_factor(t) / process._mean_factor(zero)
    noise = process._variance(t) - factor**2 * process._variance(zero)
    per_point = process.manifold.per_point
    mean = (x + per_point(noise) * process.score(output, x, t)) / per_point(factor)
    return Denoised(mean, (noise / factor**2).unsqueeze(-1))


@denoise.register
def _(process: ProductProcess, output: Tensor, x: Tensor, t: Tensor) -> Denoised:
    # The network's output for a factor is the factor's own: a weight of the metric cancels in the unit of the score.
    rows = zip(process._parts, process.manifold.split(output), process.manifold.split(x), strict=True)
    parts = [denoise(p, g, y, t) for p, g, y in rows]
    variances = [p.variance.amax(-1, keepdim=True) for p in parts]
    return Denoised(process.manifold.join(*[p.x for p in parts]), torch.cat(variances, -1))


@dataclass(frozen=True)
class Glimpse:
    """A function of the data, seen from noised points.

    Attributes:
        output: the network's output, ``(*batch, *point_shape)``.
        log_value: the function at the estimate of the data, ``(*batch,)``.
        gradient: its Riemannian gradient in the noised point.
    """

    output: Tensor
    log_value: Tensor
    gradient: Tensor


class LookAhead:
    r"""Value and gradient of :math:`x \mapsto \ell(\hat x_0(x, t))`, through the estimate and the network.

    It costs one evaluation of the network and one product with its transposed derivative, and works under
    ``torch.no_grad`` and inside ``torch.func``.

    Args:
        process: process of the network.
        network: ``(t, x, cond) -> tangent vector at x``.
        potential: function of a :class:`Denoised`, ``(*batch,)``, row by row; :func:`tempered` makes one of a
            log-likelihood.

    Raises:
        CapabilityError: if the process's network does not predict a score.
    """

    def __init__(self, process: NoiseProcess, network: Network, potential: Callable[[Denoised], Tensor]) -> None:
        if not isinstance(process, NoiseProcess):
            raise CapabilityError(
                f"Guidance adds a gradient to the score; {type(process).__name__} predicts the {process.prediction}. "
                f"Train a score: BrownianMotion({process.manifold}). Linear guidance (ClassifierFree, Autoguidance) "
                "works with velocities too."
            )
        self.process, self.network, self.potential = process, network, potential

    def __call__(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Glimpse:
        """What is seen from points ``x`` ``(*batch, *point_shape)`` at times ``t`` ``(*batch,)``."""

        def look(y: Tensor) -> tuple[Tensor, Tensor]:
            output = self.network(t, y, cond)
            value = self.potential(denoise(self.process, output, y, t))
            if value.shape != t.shape:
                axes = len(self.process.manifold.point_shape)
                raise ConfigError(
                    f"The log-likelihood of points of batch shape {tuple(t.shape)} must have that shape; got "
                    f"{tuple(value.shape)}. Sum over the last {axes} axes only, those of a point."
                )
            return value, output

        value, pull, output = vjp(look, x, has_aux=True)  # pyright: ignore[reportAssignmentType]
        (slopes,) = pull(torch.ones_like(value))
        return Glimpse(output, value, raise_index(self.process.manifold, x, slopes))


def tempered(
    log_likelihood: LogLikelihood, scale: float = 1.0, width: float | None = None
) -> Callable[[Denoised], Tensor]:
    r"""Potential :math:`\ell = \frac{s\,w}{w + v}\,\log L(\hat x_0)`, with v the variance of the estimate.

    Without a width it is :math:`s \log L(\hat x_0)`: the estimate is taken for the truth, however uncertain it is. With
    a width the likelihood counts less as long as the estimate is worse than it can tell: a Gaussian likelihood of
    variance w, smoothed by the variance v of the estimate, has the exponent of the formula.

    Args:
        log_likelihood: function of points, ``(*batch, *point_shape) -> (*batch,)``.
        scale: strength s >= 0.
        width: variance w of the likelihood about its maximum, in units of squared distance: the inverse of its
            curvature.

    Raises:
        ConfigError: if an argument is out of range.
    """
    if not (0 <= scale < math.inf):
        raise ConfigError(f"scale, the strength of the guidance, must be finite and >= 0; got {scale}.")
    if width is not None and not (0 < width < math.inf):
        raise ConfigError(
            f"width, the variance of the likelihood about its maximum, must be positive and finite, or None; got "
            f"{width}."
        )

    def potential(estimate: Denoised) -> Tensor:
        value = scale * log_likelihood(estimate.x)
        if width is None:
            return value
        damping = width / (width + estimate.variance.amax(-1))
        if value.shape != damping.shape:  # reported by the caller
            return value
        return damping * value

    return potential
