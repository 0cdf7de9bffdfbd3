r"""Noised empirical data by the eigenfunction series: what it costs does not depend on the number of points.

With orthonormal eigenfunctions :math:`f_{ls}` of level l and the moments :math:`c_{ls} = \sum_i w_i f_{ls}(x_i)`

.. math:: p_\tau(x) = \sum_{l \le L} e^{-\lambda_l\tau/2} \sum_s c_{ls} f_{ls}(x) + \text{rest}.

On a homogeneous space :math:`\sum_s f_{ls}^2 = d_l / V` and :math:`\sum_s |\nabla f_{ls}|^2 = \lambda_l d_l / V`, so
that by Cauchy and Schwarz the rest is at most :math:`\sum_{l > L} d_l e^{-\lambda_l\tau/2}/V`, and its gradient at
most :math:`\sum_{l > L} \sqrt{\lambda_l}\, d_l e^{-\lambda_l\tau/2}/V`: tails of the heat trace. A sum in floating
point is right to a few units of rounding of its largest value, the same sums over :math:`l \le L`: far from the data,
where the density is below that, the series knows nothing. Up to the degree whose moments are known, Cauchy and Schwarz
say more: level l adds at most :math:`e^{-\lambda_l\tau/2}\,|c_l| \sqrt{d_l / V}`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..._tensors import untracked
from ...manifolds import Compact
from ._data_points import DataPoints
from ._series import NUMBERS, Amplitudes, Harmonics, SeriesTail
from ._value import NoisedValue, assemble, from_sum, met, missing, pick, plain

__all__ = ["EmpiricalSpectrum"]

K = TypeVar("K")
V = TypeVar("V")


class EmpiricalSpectrum:
    """Moments of a data set, up to the degree that was needed so far.

    Args:
        manifold: where the data are.
        harmonics: its eigenfunctions.
        data: its points; read when a higher degree is needed.
    """

    def __init__(self, manifold: Compact, harmonics: Harmonics, data: DataPoints) -> None:
        self.manifold, self.harmonics, self.data = manifold, harmonics, data
        self.degree = -1
        self._moments: list[Tensor] = []
        self._amplitudes: Amplitudes | None = None
        self._largest = 0.0  # sum of weights since the moments were computed
        self._volume = math.exp(manifold.log_volume)
        self._degrees: dict[tuple[int, float], int | None] = {}
        self._noises: dict[int, float] = {}
        self._leasts: dict[tuple[int, float], int] = {}

    def change(self, points: Tensor, weights: Tensor, sign: int) -> None:
        """Add points to the sums, or take them out; where hardly anything is left the sums are dropped.

        Their rounding stays that of the largest weight that they ever had.
        """
        if self.degree < 0:
            return
        total = self.data.total
        self._largest = max(self._largest, total if sign > 0 else total + float(weights.sum()))
        if self._largest > 4 * total:
            self.degree, self._moments, self._amplitudes, self._leasts = -1, [], None, {}
        else:
            self._accumulate([(points, sign * weights)])

    def cost(self, tau: Tensor, rtol: float, paid: Tensor) -> Tensor:
        """Microseconds a query at each time; infinite where no degree will do or the moments are not worth it yet.

        Moments are computed once all queries so far would have cost more without them, at the price of such a query:
        ``paid``, one for each.
        """
        H, octaves = self.harmonics, _octaves(tau)
        out = torch.full(tau.shape, math.inf, dtype=torch.float64)
        for octave in octaves.unique().tolist():
            bound = self._bound(rtol)
            degree = self._degree(octave, bound)
            if degree is None:
                continue
            here = octaves == octave
            if self.degree >= degree:
                out[here] = H.n_modes(self._least(octave, bound)) * H.mode_cost
            elif H.moments_cost(self._grown(degree), len(self.data)) <= paid[here].max():
                out[here] = H.n_modes(degree) * H.mode_cost
        return out

    def evaluate(self, x: Tensor, tau: Tensor, rtol: float, want_score: bool) -> NoisedValue:
        """Values with bounds.

        The first degree is enough where the density is at least a tenth of the uniform one; what it leaves too
        uncertain is evaluated again with all terms that rounding lets one see.
        """
        H, octaves = self.harmonics, _octaves(tau)
        pieces: list[tuple[Tensor, NoisedValue]] = []
        for octave in octaves.unique().tolist():
            left = torch.nonzero(octaves == octave).squeeze(1)
            bounds = {}  # by the degree that is enough for any data
            for bound in (self._bound(rtol), self._noise(octave)):
                degree = self._degree(octave, bound)
                bounds[H.max_degree if degree is None else degree] = bound
            last = max(bounds)
            if last == H.max_degree:
                best = H.tail(tau[left].max().reshape(1), last)
                if float(best.value) >= float(best.peak):  # more is left out than there can be
                    pieces.append((left, self._unknown(x[left], want_score)))
                    continue
            for enough in sorted(bounds):
                self._grow(enough)
                degree = self._least(octave, bounds[enough])
                for part in left.split(max(1, H.queries_at_a_time(degree, NUMBERS))):
                    value = self._value(x[part], tau[part], degree, want_score)
                    done = met(self.manifold, plain(x[part]), value, tau[part], rtol) | (enough == last)
                    pieces.append((part[done], pick(value, done)))
                left = missing(left, pieces)
                if len(left) == 0:
                    break
        return assemble(pieces)

    def _value(self, x: Tensor, tau: Tensor, degree: int, want_score: bool) -> NoisedValue:
        M, moments = self.manifold, [m.to(x.device) for m in self._moments]
        t = (tau[:1] if bool((tau == tau[0]).all()) else tau).to(x.device)
        p, slope = self.harmonics.evaluate(x.double(), t, moments, degree)
        tail, weight = self._tail(t, degree), self.data.total
        p, slope = p / weight, slope / weight if want_score else None
        return from_sum(M, x, p, tail.value + tail.noise, slope, tail.slope + tail.noise_slope, 0.0, 2)

    def _unknown(self, x: Tensor, want_score: bool) -> NoisedValue:
        """What is said where nothing is known."""
        log_p = torch.full(self.manifold.batch_shape(x), math.nan, dtype=x.dtype, device=x.device)
        error = torch.full_like(log_p, math.inf, dtype=torch.float64)
        score = torch.full_like(x, math.nan) if want_score else None
        return NoisedValue(log_p, score, error, error if want_score else None, torch.full_like(error, 2).long())

    def _bound(self, rtol: float) -> float:
        """What may be left out where the density is a tenth of the uniform one."""
        return rtol / 10 / self._volume

    def _degree(self, octave: int, bound: float) -> int | None:
        """A degree that leaves out at most ``bound`` of any data."""
        return _kept(self._degrees, (octave, bound), lambda: self.harmonics.degree_for(2.0**octave, bound))

    def _least(self, octave: int, bound: float) -> int:
        """The least degree that leaves out at most ``bound`` of these data; the largest one if there is none."""

        def least() -> int:
            tau = _start(octave)
            value, slope = self._rest(tau)
            enough = torch.maximum(value, slope * tau.sqrt())[0] <= bound
            return min(int((~enough).sum()), self.degree)

        return _kept(self._leasts, (octave, bound), least)

    def _noise(self, octave: int) -> float:
        """What rounding makes uncertain at the highest degree."""
        H = self.harmonics
        return _kept(self._noises, octave, lambda: float(H.tail(_start(octave), H.max_degree).noise))

    def _tail(self, tau: Tensor, degree: int) -> SeriesTail:
        """What a series up to ``degree`` leaves out of these data."""
        tail, (value, slope) = self.harmonics.tail(tau, degree), self._rest(tau)
        value, slope = torch.minimum(tail.value, value[:, degree]), torch.minimum(tail.slope, slope[:, degree])
        return replace(tail, value=value, slope=slope)

    def _rest(self, tau: Tensor) -> tuple[Tensor, Tensor]:
        """What each degree leaves out of these data and of their gradient, ``(len(tau), degree + 1)``.

        The moments tell how much there is in the degrees that follow: of much smooth data, less than there could be.
        """
        if self._amplitudes is None:
            with untracked():
                self._amplitudes = self.harmonics.amplitudes(self._moments)
        rates, beyond = self._amplitudes.eigenvalue.to(tau.device) / 2, self.harmonics.tail(tau, self.degree)
        damping = (-rates * tau.unsqueeze(1)).exp() / self.data.total

        def rest(amplitude: Tensor, tail: Tensor) -> Tensor:
            terms = (amplitude.to(tau.device) * damping)[:, 1:].flip(1).cumsum(1).flip(1)
            return pad(terms, (0, 1)) + tail.unsqueeze(1)

        return rest(self._amplitudes.value, beyond.value), rest(self._amplitudes.slope, beyond.slope)

    def _grown(self, degree: int) -> int:
        """The degree up to which moments are computed when ``degree`` is needed: half as much again, or what is cheap.

        By Fourier sums most of the cost can be that of the points, whatever the degree.
        """
        H, n_points = self.harmonics, len(self.data)
        most = H.max_degree
        grown = min(max(8, degree + degree // 2), most)
        price = 2 * H.moments_cost(grown, n_points)
        while grown < most and H.moments_cost(min(2 * grown, most), n_points) <= price:
            grown = min(2 * grown, most)
        return grown

    def _grow(self, degree: int) -> None:
        if degree > self.degree:
            self.degree, self._moments, self._largest = self._grown(degree), [], self.data.total
            self._accumulate(self.data.blocks())

    def _accumulate(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._amplitudes, self._leasts = None, {}
        with untracked():
            for x, w in batches:
                part = self.harmonics.moments(x, w, self.degree)
                held = self._moments or [torch.zeros_like(a) for a in part]
                self._moments = [a + b for a, b in zip(held, part, strict=True)]


def _octaves(tau: Tensor) -> Tensor:
    return tau.log2().floor().long()


def _start(octave: int) -> Tensor:
    return torch.tensor([2.0**octave], dtype=torch.float64)


def _kept(known: dict[K, V], key: K, value: Callable[[], V]) -> V:
    """What is known under a key, or is from now on."""
    if key not in known:
        known[key] = value()
    return known[key]
