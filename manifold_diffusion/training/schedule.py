"""The learning rate as a function of the step and of the time spent."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._errors import ConfigError

__all__ = ["LearningRateSchedule"]


@dataclass(frozen=True)
class LearningRateSchedule:
    r"""Linear warm-up, then a half cosine down to a fraction of the peak (or no decay at all).

    With the progress :math:`q = \max(k / K, s / S)` of a run of at most ``K`` steps and ``S`` seconds, the learning
    rate of step ``k`` is the peak times

    .. math:: \min\Bigl(1, \tfrac{k + 1}{W}\Bigr) \Bigl(f + (1 - f)\,\tfrac{1 + \cos \pi q}{2}\Bigr),

    so that a run limited by time has decayed by its end, too. Such a run can't be repeated bit for bit.

    Args:
        kind: ``"cosine"``, or ``"constant"`` for warm-up only.
        total_steps: number of steps ``K`` of the run, or None for no limit.
        max_time: seconds ``S`` of the run, or None for no limit.
        warmup_steps: number of steps ``W`` of the warm-up; 0 for none.
        final_fraction: last learning rate over the peak, ``f``.

    Raises:
        ConfigError: a value is out of range, or a cosine has neither limit.

    Example:
        >>> schedule = LearningRateSchedule("cosine", total_steps=100, warmup_steps=10, final_fraction=0.0)
        >>> [round(schedule.factor(k), 3) for k in (0, 10, 50, 100)]
        [0.1, 0.976, 0.5, 0.0]
    """

    kind: str = "cosine"
    total_steps: int | None = None
    max_time: float | None = None
    warmup_steps: int = 0
    final_fraction: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "constant"):
            raise ConfigError(f"schedule must be 'cosine' or 'constant', got {self.kind!r}.")
        if self.kind == "cosine" and self.total_steps is None and self.max_time is None:
            raise ConfigError("a cosine schedule must know where it ends: give max_steps or max_time, or 'constant'.")
        for name in ("total_steps", "max_time"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}.")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must be at least 0, got {self.warmup_steps}.")
        if not 0 <= self.final_fraction <= 1:
            raise ConfigError(f"final_fraction must lie in [0, 1], got {self.final_fraction}.")

    def factor(self, step: int, elapsed: float = 0.0) -> float:
        """Return the learning rate of a step over its peak.

        Args:
            step: number of optimiser steps already taken.
            elapsed: seconds of training so far; matters only when there is a limit of time.

        Returns:
            A number in [0, 1].
        """
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.kind == "constant":
            return warmup
        progress = step / self.total_steps if self.total_steps else 0.0
        if self.max_time:
            progress = max(progress, elapsed / self.max_time)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
        return warmup * (self.final_fraction + (1.0 - self.final_fraction) * cosine)
