"""Probability integral transform of the distance from a known centre: a sharp test of a sampler on S^2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ConfigError

__all__ = ["KSResult", "distance_pit", "ks_uniform", "share_above"]


def distance_pit(x: Tensor, x0: Tensor, tau: float) -> Tensor:
    r"""Distribution function of the distance :math:`\theta` from ``x0`` under the heat kernel of ``Sphere(2)``.

    .. math::

        F(\theta) = \tfrac12\Big[1 - \cos\theta + \sum_{l \ge 1} e^{-l(l+1)\tau/2} (P_{l-1} - P_{l+1})(\cos\theta)\Big]

    The values are uniform on [0, 1] if ``x`` are draws of Brownian motion on S^2 from ``x0`` after the time ``tau``,
    and only then (as far as distances can tell). The series has ``8 / sqrt(tau) + 20`` terms.

    Args:
        x: points, ``(*batch, 3)``.
        x0: centre, ``(3,)`` or ``(*batch, 3)``.
        tau: Brownian time, at least 1e-6.

    Returns:
        ``(*batch,)`` float64.

    Raises:
        ConfigError: tau out of range.
    """
    if not 1e-6 <= tau < math.inf:
        raise ConfigError(f"tau must be a finite Brownian time of at least 1e-6; got {tau}.")
    x, x0 = x.double(), x0.double()
    theta = 2 * torch.atan2((x - x0).norm(dim=-1), (x + x0).norm(dim=-1))
    c = theta.cos()
    below, here = torch.ones_like(c), c  # P_0, P_1
    total = 2 * (theta / 2).sin().square()  # 1 - cos, without cancellation
    for level in range(1, math.ceil(8 / math.sqrt(tau)) + 20):
        above = ((2 * level + 1) * c * here - level * below) / (level + 1)
        total = total + math.exp(-level * (level + 1) * tau / 2) * (below - above)
        below, here = here, above
    return (total / 2).clamp(0, 1)


@dataclass(frozen=True)
class KSResult:
    """Kolmogorov-Smirnov test against the uniform law on [0, 1]."""

    statistic: float
    p_value: float


def ks_uniform(values: Tensor) -> KSResult:
    """Kolmogorov-Smirnov test of whether independent values are uniform on [0, 1].

    Example:
        >>> ks_uniform(torch.linspace(0.005, 0.995, 100)).p_value > 0.99
        True
    """
    from scipy.stats import kstest

    result = kstest(values.detach().double().cpu().numpy().reshape(-1), "uniform")
    return KSResult(float(result.statistic), float(result.pvalue))


def share_above(a: Tensor, b: Tensor) -> Tensor:
    """Share of ``b`` above each entry of ``a``; equal ones count half."""
    ordered = b.sort().values
    below, up_to = (torch.searchsorted(ordered, a, right=right) for right in (False, True))
    return 1 - (below + up_to).double() / (2 * len(b))
