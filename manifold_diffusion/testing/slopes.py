"""Measured orders of convergence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .._errors import ConfigError

__all__ = ["Slope", "convergence_slope"]


@dataclass(frozen=True)
class Slope:
    """A measured order of convergence.

    Attributes:
        order: slope of log error against log step.
        standard_error: of the slope; NaN from two steps whose errors are taken as exact.
        constant: the error is about ``constant * step**order``.
    """

    order: float
    standard_error: float
    constant: float

    def __str__(self) -> str:
        return f"order {self.order:.2f} ± {self.standard_error:.2f}"


def convergence_slope(
    errors: Sequence[float], steps: Sequence[float], error_std: Sequence[float] | None = None
) -> Slope:
    r"""Order of convergence :math:`p` of :math:`|e(h)| \approx C h^p`, by least squares of logarithms.

    Its standard error comes from the scatter about the line: how far the measurement is from an asymptotic regime.
    Errors that are estimates themselves bring ``error_std``; the fit is then weighted, and the standard error is what
    they imply, times the scatter where that is larger.

    Args:
        errors: sizes of the errors, positive, one per step.
        steps: step sizes, or resolutions that go to zero, positive and at least two different ones.
        error_std: standard errors of ``errors``.

    Raises:
        ConfigError: if there are fewer than two steps, or a value that has no logarithm.

    Example:
        >>> from manifold_diffusion.testing import convergence_slope
        >>> print(convergence_slope([4.1e-2, 1.0e-2, 2.5e-3], [0.2, 0.1, 0.05]))
        order 2.02 ± 0.01
    """
    e, h = (torch.tensor([float(v) for v in values], dtype=torch.float64) for values in (errors, steps))
    if len(e) != len(h) or len(h) < 2 or len(set(h.tolist())) < 2:
        raise ConfigError(f"A slope needs one error per step and two different steps; got {len(e)} and {len(h)}.")
    if not bool(((e > 0) & (h > 0) & torch.isfinite(e) & torch.isfinite(h)).all()):
        raise ConfigError(f"Errors and steps must be positive and finite; got {e.tolist()} and {h.tolist()}.")
    x, y, weight = h.log(), e.log(), torch.ones_like(e)
    if error_std is not None:
        std = torch.tensor([float(v) for v in error_std], dtype=torch.float64)
        if len(std) != len(e) or not bool((std > 0).all()):
            raise ConfigError(f"error_std must have one positive entry per error; got {std.tolist()}.")
        weight = (e / std).square()  # 1 / variance of log e
    mean_x, mean_y = (weight @ x) / weight.sum(), (weight @ y) / weight.sum()
    spread = weight @ (x - mean_x).square()
    order = float(weight @ ((x - mean_x) * (y - mean_y)) / spread)
    intercept = float(mean_y - order * mean_x)
    n = len(e)
    scatter = float(weight @ (y - intercept - order * x).square() / (n - 2) / spread) if n > 2 else math.nan
    if error_std is not None:
        implied = 1 / float(spread)
        scatter = implied if n == 2 else max(implied, scatter)
    return Slope(order, math.sqrt(scatter), math.exp(intercept))
