r"""Noised empirical data by the eigenfunction series: what it costs does not depend on the number of points.

With orthonormal eigenfunctions :math:`f_{ls}` of level l and the moments :math:`c_{ls} = \sum_i w_i f_{ls}(x_i)`

.. math:: p_\tau(x) = \sum_{l \le L} e^{-\lambda_l\tau/2} \sum_s c_{ls} f_{ls}(x) + \text{rest}.

On a homogeneous space :math:`\sum_s f_{ls}^2 = d_l / V` and :math:`\sum_s |\nabla f_{ls}|^2 = \lambda_l d_l / V`, so
that by Cauchy and Schwarz the rest is at most :math:`\sum_{l > L} d_l e^{-\lambda_l\tau/2}/V`, and its gradient at
most :math:`\sum_{l > L} \sqrt{\lambda_l}\, d_l e^{-\lambda_l\tau/2}/V`: tails of the heat trace. A sum in floating
point is right to a few units of rounding of its largest value, the same sums over :math:`l \le L`: far from the data,
where the density is below that, the series knows nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..manifolds import Compact
from ._noised_value import NoisedValue, assemble, from_sum, met, missing, pick, plain, untracked

__all__ = ["EmpiricalSpectrum", "Harmonics", "SeriesTail", "level_tail", "n_terms", "tail_sums"]

_UNITS = 16 * torch.finfo(torch.float64).eps
_NUMBERS = 1 << 19
"""Numbers that are held at a time."""

_TERMS = 1 << 14
"""Levels that are summed in the bound of a rest, far more than any degree."""


@dataclass(frozen=True)
class SeriesTail:
    """Sums over the heat trace per unit of volume, float64, one per time.

    Attributes:
        value: bound of what is left out of a density.
        slope: ... of its gradient.
        peak: sum of what is kept, the largest value of the series.
        peak_slope: ... of its gradient.
    """

    value: Tensor
    slope: Tensor
    peak: Tensor
    peak_slope: Tensor


class Harmonics(ABC):
    """Eigenfunctions of a manifold up to a degree.

    Attributes:
        max_degree: largest degree that is used.
        mode_cost: microseconds a mode and query, about.
        moment_cost: microseconds a mode and data point, about.
    """

    max_degree: int
    mode_cost: float
    moment_cost: float

    @abstractmethod
    def n_modes(self, degree: int) -> int:
        """Real numbers that the moments up to a degree have, about."""

    @abstractmethod
    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        """What a series up to ``degree`` leaves out and keeps, at times ``(n,)``."""

    @abstractmethod
    def moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        """Weighted sums of the eigenfunctions over points ``(n, *point_shape)``, float64."""

    @abstractmethod
    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        """Value ``(n,)`` of the damped series and its Riemannian gradient.

        ``tau`` is ``(n,)`` or ``(1,)``; the moments may be those of a higher degree.
        """

    def moments_at_a_time(self, degree: int, numbers: int) -> int:
        """Points whose moments are computed together when ``numbers`` numbers are to be held."""
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


def level_tail(levels: Tensor, eigenvalues: Tensor, log_sizes: Tensor, tau: Tensor, log_volume: float) -> SeriesTail:
    """Sums of a spectrum by levels, of which ``levels`` says whether they are kept; at least two are not."""
    terms = (log_sizes - log_volume - eigenvalues * tau.unsqueeze(1) / 2).exp()
    kept = int(levels.sum())
    (peak, value), (peak_slope, slope) = (tail_sums(a, kept) for a in (terms, terms * eigenvalues.sqrt()))
    return SeriesTail(value, slope, peak, peak_slope)


class EmpiricalSpectrum:
    """Moments of a data set, up to the degree that was needed so far.

    Args:
        manifold: where the data are.
        harmonics: its eigenfunctions.
        batches: gives the data, points and weights, in parts; called when a higher degree is needed.
    """

    def __init__(
        self, manifold: Compact, harmonics: Harmonics, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        self.manifold, self.harmonics, self.batches = manifold, harmonics, batches
        self.degree = -1
        self._moments: list[Tensor] = []
        self._volume = math.exp(manifold.log_volume)
        self._degrees: dict[tuple[int, float], int | None] = {}

    def change(self, points: Tensor, weights: Tensor, sign: int) -> None:
        """Add points to the sums, or take them out."""
        if self.degree >= 0:
            self._accumulate([(points, sign * weights)])

    def cost(self, tau: Tensor, rtol: float, n_points: int, paid: Tensor) -> Tensor:
        """Microseconds a query at each time; infinite where no degree will do or the moments are not worth it yet.

        Moments of ``n_points`` are computed once all queries so far would have cost more without them, at the price of
        such a query: ``paid``, one for each.
        """
        H, octaves = self.harmonics, _octaves(tau)
        out = torch.full(tau.shape, math.inf, dtype=torch.float64)
        for octave in octaves.unique().tolist():
            degree = self._degree(octave, rtol / 10 / self._volume)
            if degree is None:
                continue
            here = octaves == octave
            worth = H.n_modes(self._grown(degree)) * n_points * H.moment_cost <= paid[here].max()
            if self.degree >= degree or bool(worth):
                out[here] = H.n_modes(degree) * H.mode_cost
        return out

    def evaluate(self, x: Tensor, tau: Tensor, rtol: float, want_score: bool, weight: float) -> NoisedValue:
        """Values with bounds, for data of the given total weight.

        The first degree is enough where the density is at least a tenth of the uniform one; what it leaves too
        uncertain is evaluated again with all terms that rounding lets one see.
        """
        H, octaves = self.harmonics, _octaves(tau)
        pieces: list[tuple[Tensor, NoisedValue]] = []
        for octave in octaves.unique().tolist():
            left = torch.nonzero(octaves == octave).squeeze(1)
            peak = float(H.tail(torch.tensor([2.0**octave], dtype=torch.float64), H.max_degree).peak)
            first = self._degree(octave, rtol / 10 / self._volume)
            last = self._degree(octave, _UNITS * peak)
            last = H.max_degree if last is None else last
            best = H.tail(tau[left].max().reshape(1), last)
            if float(best.value) >= float(best.peak):  # more is left out than there can be
                pieces.append((left, self._unknown(x[left], want_score)))
                continue
            for degree in dict.fromkeys((last if first is None else first, last)):
                self._grow(degree)
                for part in left.split(max(1, H.queries_at_a_time(degree, _NUMBERS))):
                    value = self._value(x[part], tau[part], degree, weight, want_score)
                    done = met(self.manifold, plain(x[part]), value, tau[part], rtol) | (degree == last)
                    pieces.append((part[done], pick(value, done)))
                left = missing(left, pieces)
                if len(left) == 0:
                    break
        return assemble(pieces)

    def _value(self, x: Tensor, tau: Tensor, degree: int, weight: float, want_score: bool) -> NoisedValue:
        M, moments = self.manifold, [m.to(x.device) / weight for m in self._moments]
        t = tau.to(x.device)
        shared = bool((tau == tau[0]).all())
        p, slope = self.harmonics.evaluate(x.double(), t[:1] if shared else t, moments, degree)
        tail = self.harmonics.tail(t, degree)
        error, slope_error = tail.value + _UNITS * tail.peak, tail.slope + _UNITS * tail.peak_slope
        return from_sum(M, x, p, error, slope if want_score else None, slope_error, 0.0, 2)

    def _unknown(self, x: Tensor, want_score: bool) -> NoisedValue:
        """What is said where nothing is known."""
        log_p = torch.full(self.manifold.batch_shape(x), math.nan, dtype=x.dtype, device=x.device)
        error = torch.full_like(log_p, math.inf, dtype=torch.float64)
        score = torch.full_like(x, math.nan) if want_score else None
        return NoisedValue(log_p, score, error, error if want_score else None, torch.full_like(error, 2).long())

    def _degree(self, octave: int, bound: float) -> int | None:
        key = (octave, bound)
        if key not in self._degrees:
            self._degrees[key] = self.harmonics.degree_for(2.0**octave, bound)
        return self._degrees[key]

    def _grown(self, degree: int) -> int:
        """The degree up to which moments are computed when ``degree`` is needed: half as much again."""
        return min(max(8, degree + degree // 2), self.harmonics.max_degree)

    def _grow(self, degree: int) -> None:
        if degree > self.degree:
            self.degree, self._moments = self._grown(degree), []
            self._accumulate(self.batches())

    def _accumulate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        H = self.harmonics
        rows = max(1, H.moments_at_a_time(self.degree, _NUMBERS))
        with untracked():
            for points, weights in batches:
                for x, w in zip(points.split(rows), weights.split(rows), strict=True):
                    part = H.moments(x.double(), w.to(x.device), self.degree)
                    held = self._moments or [torch.zeros_like(a) for a in part]
                    self._moments = [a + b for a, b in zip(held, part, strict=True)]


def _octaves(tau: Tensor) -> Tensor:
    return tau.log2().floor().long()
