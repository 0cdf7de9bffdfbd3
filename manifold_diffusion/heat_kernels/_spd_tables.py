"""Radial laws of Brownian motion on SPD(n) in torch: closed form, table of the hyperbolic plane, table of its own."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .._errors import NumericsError
from ._cache import cached_arrays
from ._hyperbolic_tables import HyperbolicTables
from ._patches import constant
from ._spd_law import TAU_END, spd3_correction

__all__ = ["RadialLaw", "radial_law"]


class RadialLaw(ABC):
    """A log density of the logarithms H of the eigenvalues, ``(*batch, n)`` ascending, in float64."""

    tau_end: float = math.inf

    @abstractmethod
    def log_prob(self, h: Tensor, tau: Tensor) -> Tensor:
        """Log density with respect to the Riemannian volume, ``(*batch,)``."""

    @abstractmethod
    def slope(self, h: Tensor, tau: Tensor) -> Tensor:
        """Gradient of :meth:`log_prob` in H, ``(*batch, n)``; differentiable, also at equal entries."""


def _gaussian(s: Tensor, tau: Tensor) -> Tensor:
    return -s.square() / (2 * tau) - 0.5 * (2 * math.pi * tau).log()


class _Line(RadialLaw):
    """n = 1: the real line."""

    def log_prob(self, h: Tensor, tau: Tensor) -> Tensor:
        return _gaussian(h[..., 0], tau)

    def slope(self, h: Tensor, tau: Tensor) -> Tensor:
        return -h / tau.unsqueeze(-1)


class _Plane(RadialLaw):
    """n = 2: R x H^2 of curvature -1/2. The hyperbolic distance is half of the gap, its Brownian time half of tau."""

    def __init__(self) -> None:
        self._radial = HyperbolicTables(2)
        self.tau_end = 2 * self._radial.tau_end

    def log_prob(self, h: Tensor, tau: Tensor) -> Tensor:
        plane = self._radial.log_prob((h[..., 1] - h[..., 0]).abs() / 2, tau / 2) - math.log(2)
        return _gaussian(h.sum(-1) / math.sqrt(2), tau) + plane

    def slope(self, h: Tensor, tau: Tensor) -> Tensor:
        gap = h[..., 1] - h[..., 0]
        turn = self._radial.pull(gap.abs() / 2, tau / 2) * gap / 4
        trace = -h.sum(-1) / (2 * tau)
        return torch.stack([trace + turn, trace - turn], -1)


# ---------------------------------------------------------------------- three by three

_VERSION = 2
_TIMES, _GAPS = 12, 24
_TIME_UNIT, _GAP_UNIT = 4.0, 6.0
_GAP_END = 60.0  # exp(60): eigenvalues further apart are not representable beside each other in float64


def _chebyshev_points(n: int) -> np.ndarray:
    return np.cos(np.pi * (np.arange(n) + 0.5) / n)


def _to_coefficients(n: int) -> np.ndarray:
    """Matrix from values at the Chebyshev points to coefficients."""
    d = np.cos(np.arange(n)[:, None] * np.arccos(_chebyshev_points(n))) * 2 / n
    d[0] /= 2
    return d


def _build() -> dict[str, np.ndarray]:
    def nodes(n: int, unit: float, end: float) -> np.ndarray:
        return unit * np.expm1((_chebyshev_points(n) + 1) / 2 * math.log1p(end / unit))

    t, g = nodes(_TIMES, _TIME_UNIT, TAU_END), nodes(_GAPS, _GAP_UNIT, _GAP_END)
    i, j = np.tril_indices(_GAPS)  # inversion of the matrix exchanges the gaps
    values = np.empty((_TIMES, _GAPS, _GAPS))
    for k, tau in enumerate(t):
        values[k, i, j] = values[k, j, i] = spd3_correction(g[i], g[j], np.full(len(i), tau))
    time, gap = _to_coefficients(_TIMES), _to_coefficients(_GAPS)
    table = np.einsum("ta,xb,yc,abc->txy", time, gap, gap, values)
    if not np.isfinite(table).all():
        raise NumericsError(f"The table of SPD(3) has {int((~np.isfinite(table)).sum())} entries that are not finite.")
    return {"table": table}


def _polynomials(u: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Chebyshev polynomials and their derivatives, ``(*batch, n)``."""
    values, slopes = [torch.ones_like(u), u], [torch.zeros_like(u), torch.ones_like(u)]
    for _ in range(n - 2):
        slopes.append(2 * (values[-1] + u * slopes[-1]) - slopes[-2])
        values.append(2 * u * values[-1] - values[-2])
    return torch.stack(values, -1), torch.stack(slopes, -1)


def _log_sinhc_half(g: Tensor) -> tuple[Tensor, Tensor]:
    """``log(sinh(g/2) / (g/2))`` and its derivative, for g >= 0."""
    small = g < 0.3
    s = torch.where(small, g, 0.0).square()
    x = torch.where(small, 1.0, g)
    terms = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600)
    value, slope = torch.zeros_like(s), torch.zeros_like(s)
    for k in range(len(terms) - 1, -1, -1):
        value, slope = s * (terms[k] + value), s * slope + 2 * (k + 1) * terms[k]
    far = x / 2 + torch.log1p(-(-x).exp()) - x.log()
    return torch.where(small, value, far), torch.where(small, g * slope, 0.5 / torch.tanh(x / 2) - 1 / x)


class _Table(RadialLaw):
    """n = 3: a Chebyshev table of the correction to the leading order."""

    tau_end = TAU_END

    def __init__(self) -> None:
        self._tables: dict[torch.device, Tensor] = {}

    def _table(self, like: Tensor) -> Tensor:
        found = self._tables.get(like.device)
        if found is None:
            key = {
                "version": _VERSION, "times": _TIMES, "gaps": _GAPS, "units": [_TIME_UNIT, _GAP_UNIT],
                "ends": [TAU_END, _GAP_END],
            }  # fmt: skip
            array = cached_arrays("spd-3", key, _build)["table"]
            found = self._tables[like.device] = constant(array, torch.float64, like.device)
        return found

    def _correction(self, x: Tensor, y: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """C and its derivatives in both gaps."""
        table, scale = self._table(x), 2 / math.log1p(_GAP_END / _GAP_UNIT)
        a, b = (_polynomials(((g / _GAP_UNIT).log1p() * scale - 1).clamp(max=1), _GAPS) for g in (x, y))
        time = (tau / _TIME_UNIT).log1p() * (2 / math.log1p(TAU_END / _TIME_UNIT)) - 1
        c, _ = _polynomials(time, _TIMES)
        if tau.numel() == 1:
            plane = (table * c.reshape(-1, 1, 1)).sum(0)
            left, slope = a[0] @ plane, a[1] @ plane
        else:  # (x, t y)
            rows = table.transpose(0, 1).reshape(_GAPS, -1)
            left, slope = (((p @ rows).unflatten(-1, (_TIMES, _GAPS)) * c.unsqueeze(-1)).sum(-2) for p in a)
        dx, dy = (scale / (_GAP_UNIT + g) for g in (x, y))
        return (left * b[0]).sum(-1), (slope * b[0]).sum(-1) * dx, (left * b[1]).sum(-1) * dy

    def log_prob(self, h: Tensor, tau: Tensor) -> Tensor:
        x, y = h[..., 2] - h[..., 1], h[..., 1] - h[..., 0]
        pairs = sum((_log_sinhc_half(g)[0] for g in (x, y, x + y)), torch.zeros_like(x))
        flat = -h.square().sum(-1) / (2 * tau) - 3 * (2 * math.pi * tau).log()
        return flat - pairs / 2 + tau * self._correction(x, y, tau)[0]

    def slope(self, h: Tensor, tau: Tensor) -> Tensor:
        x, y = h[..., 2] - h[..., 1], h[..., 1] - h[..., 0]
        _, cx, cy = self._correction(x, y, tau)
        far = _log_sinhc_half(x + y)[1] / 2
        px, py = tau * cx - _log_sinhc_half(x)[1] / 2 - far, tau * cy - _log_sinhc_half(y)[1] / 2 - far
        return -h / tau.unsqueeze(-1) + torch.stack([-py, py - px, px], -1)


@cache
def radial_law(n: int) -> RadialLaw:
    """The law for n = 1, 2 or 3."""
    return (_Line, _Plane, _Table)[n - 1]()
