"""A number per point at a ladder of noise levels, and its summaries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from .estimate import Estimate

__all__ = ["NoiseProfile"]


@dataclass(frozen=True)
class NoiseProfile:
    r"""Values at points at several noise levels.

    Attributes:
        tau: Brownian times, ascending, ``(levels,)`` float64; the noise level is :math:`\sqrt\tau`.
        values: one number per level and point, ``(levels, n)`` float64.

    Raises:
        ConfigError: times that don't ascend, or values that don't go with them.
        NumericsError: a value that is not finite.

    Example:
        >>> import torch
        >>> profile = NoiseProfile(torch.tensor([0.01, 1.0]), torch.tensor([[1.0, 1.0], [3.0, 5.0]]))
        >>> profile.median
        tensor([1., 4.], dtype=torch.float64)
        >>> round(profile.crossing(2.5), 3)  # half way in log time
        0.1
    """

    tau: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "tau", self.tau.detach().double().cpu())
        object.__setattr__(self, "values", self.values.detach().double().cpu())
        if self.values.dim() != 2 or len(self.values) != len(self.tau) or self.values.numel() == 0:
            raise ConfigError(
                f"values must have shape (levels, n), n >= 1, with one level per time ({len(self.tau)}); got "
                f"{tuple(self.values.shape)}."
            )
        if not bool((self.tau > 0).all()) or not bool((self.tau.diff() > 0).all()):
            raise ConfigError(f"tau must be positive and ascend; got {self.tau.tolist()}.")
        bad = ~self.values.isfinite()
        if bool(bad.any()):
            level, point = (int(i) for i in bad.nonzero()[0])
            raise NumericsError(
                f"{int(bad.sum())} of {bad.numel()} values are not finite, first at tau = {float(self.tau[level]):.3g},"
                f" point {point}: {float(self.values[level, point])}. Find the cause there."
            )

    @property
    def median(self) -> Tensor:
        """Median over the points, ``(levels,)``: the mean of the two middle ones of an even number."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> Tensor:
        """Quantile over the points, ``(levels,)``."""
        return self.values.quantile(q, dim=1)

    def mean(self, level: int) -> Estimate:
        """Mean over the points at one level, with its standard error."""
        return Estimate.mean(self.values[level])

    def crossing(self, value: float) -> float | None:
        """Largest time at which the median rises through ``value``, linear in log time; None if it never does."""
        above = self.median >= value
        starts = torch.nonzero(~above[:-1] & above[1:]).reshape(-1)
        if len(starts) == 0:
            return None
        k = int(starts[-1])
        low, high = self.median[k], self.median[k + 1]
        part = float((value - low) / (high - low))
        return math.exp((1 - part) * math.log(self.tau[k]) + part * math.log(self.tau[k + 1]))
