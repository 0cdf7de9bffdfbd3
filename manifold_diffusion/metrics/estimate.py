"""A number with its standard error, and the negative log-likelihood as one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .._errors import DataError, NumericsError

__all__ = ["Estimate", "nll"]


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; a format specification applies to both, by default that of three decimals.

    Example:
        >>> print(Estimate(0.27214, 0.03056))
        0.272 ± 0.031
        >>> f"{Estimate(0.27214, 0.03056):.1f}"
        '0.3 ± 0.0'
        >>> print(Estimate(2.5e9, 3e8))
        2.50e+09 ± 3.00e+08
    """

    value: float
    standard_error: float

    def __format__(self, spec: str) -> str:
        spec = spec or (".3f" if abs(self.value) < 1e5 else ".2e")
        return f"{self.value:{spec}} ± {self.standard_error:{spec}}"

    def __str__(self) -> str:
        return format(self, "")

    @classmethod
    def mean(cls, values: Tensor) -> Estimate:
        """Mean of independent values with its standard error, in float64; the error of a single value is NaN."""
        values = values.detach().double().reshape(-1)
        if len(values) == 0:
            raise DataError("The mean of no values is not defined.")
        error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), error)


def nll(log_prob: Tensor) -> Estimate:
    r"""Negative log-likelihood :math:`-\frac1n \sum_i \log p(x_i)` in nats, with respect to the Riemannian volume.

    Args:
        log_prob: log densities at held-out points, ``(n,)``.

    Returns:
        The mean and its standard error.

    Raises:
        NumericsError: a log density that is not finite: a mean over the others would be wrong.

    Example:
        >>> import torch
        >>> print(nll(torch.tensor([-1.0, -2.0, -3.0])))
        2.000 ± 0.577
    """
    bad = ~log_prob.isfinite().reshape(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise NumericsError(
            f"{int(bad.sum())} of {bad.numel()} log densities are not finite, first at row {row}"
            f": {float(log_prob.reshape(-1)[row])}. "
            "No point may be left out of a likelihood: find the cause at that point."
        )
    return Estimate.mean(-log_prob)
