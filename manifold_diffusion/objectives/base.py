"""The contract of an objective, and how its times are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .._typing import Batch, Network

__all__ = ["Objective", "stratified_times"]


class Objective(ABC):
    """A loss with one method."""

    @abstractmethod
    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Mean loss of a batch, a scalar."""


def stratified_times(x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """``n`` times, one uniform in each of ``n`` equal parts of [0, 1]: the mean of independent times, less variance."""
    u = torch.rand(n, generator=generator, dtype=x.dtype, device=x.device)
    return (torch.arange(n, dtype=x.dtype, device=x.device) + u) / n
