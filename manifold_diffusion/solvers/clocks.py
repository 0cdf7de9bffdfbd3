"""Clocks: the variable in which a solver measures its steps, and steps that are equal in it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError
from ..processes import PathSchedule, Schedule
from .controllers import PlannedSteps, check_count

__all__ = ["Clock", "ClockSteps", "NoiseClock", "check_clock"]


class Clock(ABC):
    r"""A monotone, smooth function :math:`s(t)` of the process time, with its inverse and its derivative.

    The equation :math:`\dot x = v(t, x)` reads :math:`dx/ds = v / \dot s` in the time s. A scheme that works in s
    integrates a velocity :math:`\dot s(t)\, u(t, x)` with slowly varying u as well as u allows, however fast
    :math:`\dot s` varies: the known factor is integrated exactly.
    """

    @abstractmethod
    def s(self, t: Tensor) -> Tensor:
        """Clock at process time t."""

    @abstractmethod
    def t(self, s: Tensor) -> Tensor:
        """Process time at clock s: the inverse of :meth:`s`."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Derivative ds / dt."""


@dataclass(frozen=True)
class NoiseClock(Clock):
    r"""A power of the noise level :math:`\sigma = \sqrt\tau`, or its logarithm.

    .. math:: s = \tau(t)^{\rho/2} = \sigma^\rho, \qquad s = \log\sigma \text{ for } \rho = 0.

    - ``power=1``: the probability flow of Brownian motion is :math:`dx/d\sigma = -\sigma\nabla\log p`, the noise that
      the network predicts, with no factor left. One step of order 1 in this clock is DDIM, one of order 2 the
      two-step formula of DEIS.
    - ``power=0``: equal steps are equal in the logarithm, as those of a ``LogSchedule`` are.
    - ``power=1/7``: the spacing of Karras et al.

    Of a path of flow matching the noise level is the fraction of the path, :math:`\sigma = s(t)`: its network predicts
    :math:`dx/ds`.

    Args:
        schedule: Brownian time against process time, or the fraction of a path.
        power: exponent :math:`\rho` of the noise level, >= 0.

    Raises:
        ConfigError: if ``power`` is negative or not finite.

    Example:
        >>> import torch
        >>> from manifold_diffusion.processes import LogSchedule
        >>> from manifold_diffusion.solvers import NoiseClock
        >>> clock = NoiseClock(LogSchedule(1e-4, 1.0))
        >>> clock.s(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0100, 0.1000, 1.0000])

    References:
        Song, Meng and Ermon, *Denoising diffusion implicit models*, 2020, arXiv:2010.02502; Zhang and Chen, *Fast
        sampling of diffusion models with exponential integrator*, 2022, arXiv:2204.13902; Karras et al., *Elucidating
        the design space of diffusion-based generative models*, 2022, arXiv:2206.00364.
    """

    schedule: Schedule | PathSchedule
    power: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule | PathSchedule):
            raise ConfigError(
                f"NoiseClock(schedule) needs a Schedule; got {self.schedule!r}. For example LogSchedule(1e-4, 1.0), or "
                "a process's own: process.schedule, process.path."
            )
        if not 0 <= self.power < math.inf:
            raise ConfigError(
                f"NoiseClock(power=...) must be finite and >= 0 (1: noise level, 0: its logarithm); got {self.power!r}."
            )

    def s(self, t: Tensor) -> Tensor:
        schedule = self.schedule
        sigma = schedule.s(t) if isinstance(schedule, PathSchedule) else schedule.tau(t).sqrt()
        return sigma.log() if self.power == 0 else sigma**self.power

    def t(self, s: Tensor) -> Tensor:
        sigma = s.exp() if self.power == 0 else s ** (1 / self.power)
        return self.schedule.t(sigma) if isinstance(self.schedule, PathSchedule) else self.schedule.t(sigma.square())

    def rate(self, t: Tensor) -> Tensor:
        schedule = self.schedule
        if isinstance(schedule, PathSchedule):
            if self.power == 1:
                return schedule.rate(t)  # also where s = 0
            log_rate = schedule.rate(t) / schedule.s(t)
        else:
            log_rate = schedule.rate(t) / (2 * schedule.tau(t))  # d log sigma / dt
        return log_rate if self.power == 0 else self.power * self.s(t) * log_rate


@dataclass(frozen=True)
class ClockSteps(PlannedSteps):
    """``n`` steps of equal size in a clock.

    Args:
        n: number of steps, at least 1.
        clock: the clock; it must be finite over the interval.

    Raises:
        ConfigError: if ``n`` is not a positive integer, or the clock does not run from ``t0`` to ``t1``.

    Example:
        Equal steps in the noise level from 1 to 0.01: the middle one ends at 0.505.

        >>> from manifold_diffusion.processes import LogSchedule
        >>> from manifold_diffusion.solvers import ClockSteps, NoiseClock
        >>> round(ClockSteps(2, NoiseClock(LogSchedule(1e-4, 1.0))).init(1.0, 0.0).t_next, 4)
        0.8516
    """

    n: int
    clock: Clock

    def __post_init__(self) -> None:
        check_count(self)
        check_clock(self.clock, type(self).__name__)

    def times(self, t0: float, t1: float) -> list[float]:
        ends = self.clock.s(torch.tensor([t0, t1], dtype=torch.float64))
        inner = self.clock.t(ends[0] + (ends[1] - ends[0]) * torch.arange(1, self.n, dtype=torch.float64) / self.n)
        return [t0, *inner.tolist(), t1]


def check_clock(clock: Any, owner: str) -> None:
    """Raise :class:`ConfigError` unless ``clock`` is a :class:`Clock`."""
    if not isinstance(clock, Clock):
        raise ConfigError(f"The clock of {owner} must be a Clock; got {clock!r}. For example NoiseClock(schedule).")
