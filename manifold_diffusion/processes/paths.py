"""How far along a path from data to the prior a point is at time t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .._errors import ConfigError

__all__ = ["CosinePath", "LinearPath", "LogPath", "PathSchedule", "PolynomialPath"]


class PathSchedule(ABC):
    r"""Fraction :math:`s(t)` of a path that lies behind a point at time t, from s(0) = ``s_min`` to s(1) = 1.

    ``s_min`` = 0 starts at the data themselves. With a positive one the model's density is that of the data blurred by
    the first part ``s_min`` of the path: a density at that resolution, as with ``tau_min`` of a noise schedule.

    Attributes:
        s_min: fraction at t = 0, in [0, 1).
    """

    s_min: float

    @abstractmethod
    def s(self, t: Tensor) -> Tensor:
        """Fraction at time t."""

    @abstractmethod
    def t(self, s: Tensor) -> Tensor:
        """Time at fraction s: the inverse of :meth:`s`."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Derivative ds / dt."""

    def _check(self) -> None:
        if not 0 <= self.s_min < 1:
            raise ConfigError(f"{type(self).__name__} needs 0 <= s_min < 1; got {self.s_min}.")

    def _stretch(self, fraction: Tensor) -> Tensor:
        return self.s_min + (1 - self.s_min) * fraction

    def _shrink(self, s: Tensor) -> Tensor:
        return (s - self.s_min) / (1 - self.s_min)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(s_min={self.s_min:g})"


class LinearPath(PathSchedule):
    r"""Constant speed, :math:`s(t) = s_{\min} + (1 - s_{\min})\,t`: the conditional optimal-transport path.

    Source: Lipman et al., *Flow matching for generative modeling*, 2022, arXiv:2210.02747.

    Args:
        s_min: fraction at t = 0.
    """

    def __init__(self, s_min: float = 0.0) -> None:
        self.s_min = float(s_min)
        self._check()

    def s(self, t: Tensor) -> Tensor:
        return self._stretch(t)

    def t(self, s: Tensor) -> Tensor:
        return self._shrink(s)

    def rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, 1 - self.s_min)


class PolynomialPath(PathSchedule):
    r"""Slow at the data, :math:`s(t) = s_{\min} + (1 - s_{\min})\,t^n`.

    Args:
        power: the exponent n, at least 1.
        s_min: fraction at t = 0.
    """

    def __init__(self, power: float = 2.0, s_min: float = 0.0) -> None:
        self.power, self.s_min = float(power), float(s_min)
        self._check()
        if not 1 <= self.power < math.inf:
            raise ConfigError(f"PolynomialPath needs power >= 1; got {power}.")

    def s(self, t: Tensor) -> Tensor:
        return self._stretch(t**self.power)

    def t(self, s: Tensor) -> Tensor:
        return self._shrink(s) ** (1 / self.power)

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.s_min) * self.power * t ** (self.power - 1)


class CosinePath(PathSchedule):
    r"""Slow at both ends, :math:`s(t) = s_{\min} + (1 - s_{\min})\,\sin^2(\pi t / 2)`.

    Args:
        s_min: fraction at t = 0.
    """

    def __init__(self, s_min: float = 0.0) -> None:
        self.s_min = float(s_min)
        self._check()

    def s(self, t: Tensor) -> Tensor:
        return self._stretch((0.5 * math.pi * t).sin().square())

    def t(self, s: Tensor) -> Tensor:
        return torch.asin(self._shrink(s).clamp(0, 1).sqrt()) * (2 / math.pi)

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.s_min) * 0.5 * math.pi * (math.pi * t).sin()


class LogPath(PathSchedule):
    r"""Uniform in the logarithm, :math:`s(t) = s_{\min}^{1 - t}`: every scale has the same share of time.

    For data with structure at many scales, such as places on the Earth: a density model that spends as much training
    and as many steps on the last kilometre as on the continents.

    Args:
        s_min: fraction at t = 0, positive.

    Example:
        >>> import torch
        >>> LogPath(1e-4).s(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000e-04, 1.0000e-02, 1.0000e+00])
    """

    def __init__(self, s_min: float = 1e-3) -> None:
        self.s_min = float(s_min)
        if not 0 < self.s_min < 1:
            raise ConfigError(f"LogPath needs 0 < s_min < 1; got {s_min}. LinearPath starts at the data themselves.")

    def s(self, t: Tensor) -> Tensor:
        return torch.exp((1 - t) * math.log(self.s_min))

    def t(self, s: Tensor) -> Tensor:
        return 1 - s.log() / math.log(self.s_min)

    def rate(self, t: Tensor) -> Tensor:
        return -math.log(self.s_min) * self.s(t)
