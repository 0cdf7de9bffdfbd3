"""How much of a token survives until time t."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CosineSignal", "LinearSignal", "SignalSchedule"]


class SignalSchedule(ABC):
    r"""A decreasing map :math:`\alpha` from t in [0, 1] to the signal level: :math:`\alpha(0) = 1, \alpha(1) = 0`.

    A schedule of your own writes ``alpha``; ``noise`` and ``rate`` follow, by a difference and by forward-mode
    differentiation.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        r"""Probability :math:`\alpha(t)` that the noise has not touched a token."""

    def noise(self, t: Tensor) -> Tensor:
        r"""The rest, :math:`1 - \alpha(t)`; override it where the difference cancels at small t."""
        return 1 - self.alpha(t)

    def rate(self, t: Tensor) -> Tensor:
        r"""Derivative :math:`\alpha'(t) \le 0`."""
        return torch.func.jvp(self.alpha, (t,), (torch.ones_like(t),))[1]


@dataclass(frozen=True)
class LinearSignal(SignalSchedule):
    r"""The same number of tokens lost per unit of time, :math:`\alpha(t) = 1 - t`.

    Example:
        >>> import torch
        >>> LinearSignal().alpha(torch.tensor([0.0, 0.25, 1.0]))
        tensor([1.0000, 0.7500, 0.0000])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def noise(self, t: Tensor) -> Tensor:
        return t

    def rate(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)


@dataclass(frozen=True)
class CosineSignal(SignalSchedule):
    r"""Slow at both ends, :math:`\alpha(t) = \cos^2(\pi t/2)`.

    Reference:
        Nichol and Dhariwal, *Improved denoising diffusion probabilistic models*, 2021, arXiv:2102.09672.

    Example:
        >>> import torch
        >>> CosineSignal().alpha(torch.tensor([0.0, 0.5]))
        tensor([1.0000, 0.5000])
    """

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t)).square()  # exactly 0 at t = 1, which the cosine is not

    def noise(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t).square()

    def rate(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(math.pi * t)
