"""Schedules: how much Brownian time has passed at process time t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import ConfigError
from ..manifolds import (
    SPD,
    Ball,
    Box,
    ConstantCurvature,
    Hemisphere,
    Manifold,
    NoncompactSymmetric,
    Polytope,
    Power,
    Product,
    Pullback,
    Simplex,
    Spectral,
    Sphere,
)

__all__ = ["LinearSchedule", "LogSchedule", "Schedule", "default_schedule"]


class Schedule(ABC):
    r"""An increasing map from process time t in [0, 1] to Brownian time :math:`\tau`."""

    tau_min: float
    tau_max: float

    @abstractmethod
    def tau(self, t: Tensor) -> Tensor:
        """Brownian time at process time t."""

    @abstractmethod
    def t(self, tau: Tensor) -> Tensor:
        """Process time at Brownian time tau: the inverse of :meth:`tau`."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Derivative d tau / dt."""

    def _check(self) -> None:
        if not (0 < self.tau_min < self.tau_max < math.inf):
            raise ConfigError(
                f"{type(self).__name__} needs 0 < tau_min < tau_max < inf; got tau_min={self.tau_min}, "
                f"tau_max={self.tau_max}."
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(tau_min={self.tau_min:.4g}, tau_max={self.tau_max:.4g})"


class LogSchedule(Schedule):
    r"""Uniform in log time, :math:`\tau(t) = \tau_{\min} (\tau_{\max}/\tau_{\min})^t`: every scale has the same share.

    The model's density is that of the data noised to ``tau_min``: a density at the resolution
    :math:`\sqrt{\tau_{\min}}`. A small ``tau_min`` lets a flexible network memorise; choose it on validation data.

    Args:
        tau_min: Brownian time at t = 0.
        tau_max: Brownian time at t = 1.

    Example:
        >>> import torch
        >>> LogSchedule(1e-4, 1.0).tau(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000e-04, 1.0000e-02, 1.0000e+00])
    """

    def __init__(self, tau_min: float = 1e-5, tau_max: float = 7.0) -> None:
        self.tau_min, self.tau_max = float(tau_min), float(tau_max)
        self._check()

    def tau(self, t: Tensor) -> Tensor:
        return torch.exp(math.log(self.tau_min) + t * math.log(self.tau_max / self.tau_min))

    def t(self, tau: Tensor) -> Tensor:
        return (tau.log() - math.log(self.tau_min)) / math.log(self.tau_max / self.tau_min)

    def rate(self, t: Tensor) -> Tensor:
        return math.log(self.tau_max / self.tau_min) * self.tau(t)


class LinearSchedule(Schedule):
    r"""Uniform in time, :math:`\tau(t) = \tau_{\min} + t\,(\tau_{\max} - \tau_{\min})`: for data of one scale.

    Args:
        tau_min: Brownian time at t = 0.
        tau_max: Brownian time at t = 1.
    """

    def __init__(self, tau_min: float = 1e-3, tau_max: float = 7.0) -> None:
        self.tau_min, self.tau_max = float(tau_min), float(tau_max)
        self._check()

    def tau(self, t: Tensor) -> Tensor:
        return self.tau_min + t * (self.tau_max - self.tau_min)

    def t(self, tau: Tensor) -> Tensor:
        return (tau - self.tau_min) / (self.tau_max - self.tau_min)

    def rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.tau_max - self.tau_min)


def mixing_time(manifold: Spectral, kl: float = 1e-6) -> float:
    r"""Time that brings any start within ``kl`` nats of uniform: :math:`\tfrac12 m_1 e^{-\lambda_1 \tau} = kl`."""
    return _decay_time(float(manifold.eigenvalues(2)[1]), float(manifold.multiplicities(2)[1]), kl)


def _decay_time(gap: float, multiplicity: float, kl: float = 1e-6) -> float:
    return math.log(multiplicity / 2 / kl) / gap


@singledispatch
def default_schedule(manifold: Manifold, tau_min: float = 1e-5) -> Schedule:
    """A :class:`LogSchedule` from ``tau_min`` to mixing.

    Where the spectrum is known, tau_max brings any start within 1e-6 nats of uniform; elsewhere it is 10.
    On a non-compact symmetric space, where Brownian motion runs away at speed rho, tau_max is such that it stays within
    distance 8, where float32 coordinates are good.
    """
    return LogSchedule(tau_min, 10.0)


@default_schedule.register
def _(manifold: Spectral, tau_min: float = 1e-5) -> Schedule:
    return LogSchedule(tau_min, mixing_time(manifold))


@default_schedule.register
def _(manifold: NoncompactSymmetric, tau_min: float = 1e-5) -> Schedule:
    return LogSchedule(tau_min, _escape_time(manifold.rho_squared))


def _escape_time(rho_squared: float) -> float:
    """Solution of rho tau + 4 sqrt(tau) = 8."""
    return (16 / (4 + math.sqrt(16 + 32 * math.sqrt(rho_squared)))) ** 2


@default_schedule.register
def _(manifold: ConstantCurvature, tau_min: float = 1e-5) -> Schedule:
    if manifold.kappa == 0:
        return LogSchedule(tau_min, 10.0)
    longest = default_schedule(manifold.unit).tau_max / abs(manifold.kappa)
    return LogSchedule(tau_min, longest if manifold.kappa > 0 else min(longest, 10.0))


@default_schedule.register
def _(manifold: Power, tau_min: float = 1e-5) -> Schedule:
    return default_schedule(manifold.manifold, tau_min)


@default_schedule.register
def _(manifold: Simplex, tau_min: float = 1e-5) -> Schedule:
    return LogSchedule(tau_min, _decay_time(manifold.k / 2, manifold.k - 1))  # the eigenfunctions p_i - 1/k


@default_schedule.register
def _(manifold: Hemisphere, tau_min: float = 1e-5) -> Schedule:
    return LogSchedule(tau_min, mixing_time(Sphere(manifold.n)))


@default_schedule.register
def _(manifold: Box, tau_min: float = 1e-5) -> Schedule:
    return LogSchedule(tau_min, _decay_time((math.pi / max(manifold.sides)) ** 2, 4 * manifold.dim))


@default_schedule.register(Ball)
@default_schedule.register(Polytope)
def _(manifold: Ball | Polytope, tau_min: float = 1e-5) -> Schedule:
    # The first eigenvalue of a convex domain is at least (pi / diameter)^2 (Payne and Weinberger, 1960).
    return LogSchedule(tau_min, _decay_time((math.pi / manifold.diameter) ** 2, 4 * manifold.dim))


@default_schedule.register
def _(manifold: Product, tau_min: float = 1e-5) -> Schedule:
    slowest = max(w * default_schedule(f).tau_max for f, w in zip(manifold.factors, manifold.weights, strict=True))
    return LogSchedule(tau_min, slowest)


@default_schedule.register
def _(manifold: Pullback, tau_min: float = 1e-5) -> Schedule:
    return default_schedule(manifold.model, tau_min)


@default_schedule.register
def _(manifold: SPD, tau_min: float = 1e-5) -> Schedule:
    # Entries are exponentials in every metric: the time of the affine-invariant one keeps condition numbers moderate.
    return LogSchedule(tau_min, _escape_time(manifold.n * (manifold.n**2 - 1) / 48))
