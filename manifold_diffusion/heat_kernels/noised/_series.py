"""Eigenfunctions of a manifold, their moments over points, and bounds of series of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

__all__ = [
    "NUMBERS",
    "UNITS",
    "Amplitudes",
    "Harmonics",
    "SeriesTail",
    "level_amplitudes",
    "level_tail",
    "n_terms",
    "powers",
    "tail_sums",
]

UNITS = 16 * torch.finfo(torch.float64).eps
"""Error of a sum in floating point over the sum of the sizes of its terms, about."""
NUMBERS = 1 << 19
"""Numbers that are held at a time."""

_POINTS = 1 << 21
"""Points of one Fourier sum."""

_TERMS = 1 << 14
"""Levels that are summed in the bound of a rest, far more than any degree."""


@dataclass(frozen=True)
class SeriesTail:
    """Sums over the heat trace per unit of volume, float64, one per time.

    Attributes:
        value: bound of what is left out of a density.
        slope: ... of its gradient.
        peak: sum of what is kept, the largest value of the series.
        noise: error that rounding makes in it.
        noise_slope: ... in its gradient.
    """

    value: Tensor
    slope: Tensor
    peak: Tensor
    noise: Tensor
    noise_slope: Tensor


@dataclass(frozen=True)
class Amplitudes:
    """Bounds of the terms of a series by degree, at time zero, float64.

    Attributes:
        value: of the sum of the terms of a degree, by Cauchy and Schwarz with the moments as they are.
        slope: ... of its gradient.
        eigenvalue: the least one of a degree.
    """

    value: Tensor
    slope: Tensor
    eigenvalue: Tensor


class Harmonics(ABC):
    """Eigenfunctions of a manifold up to a degree.

    Attributes:
        max_degree: largest degree that is used.
        mode_cost: microseconds a mode and query, about.
        moment_cost: microseconds a mode and data point, about.
        fourier_cost: microseconds a mode and a data point by :meth:`fourier_moments`, about; None if there are none.
    """

    max_degree: int
    mode_cost: float
    moment_cost: float
    fourier_cost: tuple[float, float] | None = None

    @abstractmethod
    def n_modes(self, degree: int) -> int:
        """Real numbers that the moments up to a degree have, about."""

    @abstractmethod
    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        """What a series up to ``degree`` leaves out and keeps, at times ``(n,)``."""

    @abstractmethod
    def direct_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        """Weighted sums of the eigenfunctions over points ``(n, *point_shape)``, float64."""

    def fourier_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        """The same by Fourier sums, at a cost that hardly depends on the degree; on the CPU."""
        raise NotImplementedError

    @abstractmethod
    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        """Value ``(n,)`` of the damped series and its Riemannian gradient.

        ``tau`` is ``(n,)`` or ``(1,)``; the moments may be those of a higher degree.
        """

    def moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        """Weighted sums of the eigenfunctions over points ``(n, *point_shape)``, in the cheaper way."""
        if not x.is_cuda and self.moments_cost(degree, len(x)) < self._direct_cost(degree, len(x)):
            sums, rows = self.fourier_moments, _POINTS
        else:
            sums, rows = self.direct_moments, max(1, self.moments_at_a_time(degree, NUMBERS))
        parts = (
            sums(y.double(), w.to(x.device), degree) for y, w in zip(x.split(rows), weights.split(rows), strict=True)
        )
        return reduce(lambda a, b: [c + d for c, d in zip(a, b, strict=True)], parts)

    def moments_cost(self, degree: int, n_points: int) -> float:
        """Microseconds that :meth:`moments` takes, about."""
        direct = self._direct_cost(degree, n_points)
        if self.fourier_cost is None:
            return direct
        mode, point = self.fourier_cost
        return min(direct, mode * self.n_modes(degree) + point * n_points)

    def _direct_cost(self, degree: int, n_points: int) -> float:
        return self.moment_cost * self.n_modes(degree) * n_points

    @abstractmethod
    def amplitudes(self, moments: list[Tensor]) -> Amplitudes:
        """How much each degree can contribute."""

    def moments_at_a_time(self, degree: int, numbers: int) -> int:
        """Points of which :meth:`direct_moments` holds ``numbers`` numbers."""
        return numbers // self.n_modes(degree)

    def queries_at_a_time(self, degree: int, numbers: int) -> int:
        """Points where the series is summed together when ``numbers`` numbers are to be held."""
        return numbers // self.n_modes(degree)

    def degree_for(self, tau: float, bound: float) -> int | None:
        """The least degree that leaves out at most ``bound`` at the time ``tau``; None if there is none."""
        low, high, t = 0, self.max_degree + 1, torch.tensor([tau], dtype=torch.float64)
        while low < high:
            middle = (low + high) // 2
            tail = self.tail(t, middle)
            if max(float(tail.value), float(tail.slope) * math.sqrt(tau)) <= bound:
                high = middle
            else:
                low = middle + 1
        return None if low > self.max_degree else low


def n_terms(tau: Tensor, rate: float = 1.0) -> int:
    r"""Terms until :math:`e^{-(\text{rate}\, l)^2 \tau / 2}` vanishes: never so many that they fill the memory.

    A sum that is cut short is bounded by :func:`tail_sums` all the same, at times that no degree is enough for.
    """
    return math.ceil(min(14 / (rate * math.sqrt(float(tau.min()))), _TERMS))


def tail_sums(terms: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Sum of the first ``kept`` columns of a falling series, and a bound of the rest.

    What follows the last column is less than the geometric series of its last ratio.
    """
    ratio = torch.where(terms[:, -1] > 0, terms[:, -1] / terms[:, -2].clamp_min(1e-300), 0.0)
    beyond = torch.where(ratio < 1, terms[:, -1] * ratio / (1 - ratio).clamp_min(1e-300), math.inf)
    return terms[:, :kept].sum(1), terms[:, kept:].sum(1) + beyond


def powers(a: Tensor, degree: int) -> Tensor:
    """Powers from 0 up to a degree, ``(degree + 1, *a.shape)``."""
    rows = [torch.ones_like(a)]
    for _ in range(degree):
        rows.append(rows[-1] * a)
    return torch.stack(rows)


def level_tail(
    levels: Tensor, eigenvalues: Tensor, log_sizes: Tensor, tau: Tensor, log_volume: float, growth: Tensor | None = None
) -> SeriesTail:
    """Sums of a spectrum by levels, of which ``levels`` says whether they are kept; at least two are not.

    ``growth`` is the error of the eigenfunctions of a level, in units of rounding; 1 by default.
    """
    terms = (log_sizes - log_volume - eigenvalues * tau.unsqueeze(1) / 2).exp()
    kept = int(levels.sum())
    slopes = terms * eigenvalues.sqrt()
    (peak, value), (_, slope) = (tail_sums(a, kept) for a in (terms, slopes))
    noise, noise_slope = ((a if growth is None else a * growth)[:, :kept].sum(1) for a in (terms, slopes))
    return SeriesTail(value, slope, peak, UNITS * noise, UNITS * noise_slope)


def level_amplitudes(norms: Tensor, sizes: Tensor, eigenvalues: Tensor, volume: float) -> Amplitudes:
    """Amplitudes on a homogeneous space, from the norms of the moments of its levels."""
    value = norms * (sizes / volume).sqrt()
    return Amplitudes(value, value * eigenvalues.sqrt(), eigenvalues)
