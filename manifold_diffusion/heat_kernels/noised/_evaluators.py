"""The evaluators of noised data, made when they are needed, and the choice between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..._errors import CapabilityError
from ..._tensors import untracked
from ...manifolds import Compact, Manifold
from ..mixture import HeatKernelMixture
from ._cells import CellSums, time_max
from ._data_points import DataPoints
from ._golden import GoldenSubset
from ._harmonics import harmonics
from ._retrieval import retrieval
from ._round import round_space
from ._spectral import EmpiricalSpectrum
from ._value import NoisedValue, assemble, is_tracked, met, missing, pick, plain

__all__ = ["Evaluators"]

_FULL, _GOLDEN = 0.1, 1.0
"""Microseconds a pair of a query and a point, in the full scan and in the golden subset."""
_LEAST = 128
"""Points of the smallest subset that is tried."""
_CELLS, _CALL, _TREE, _MOMENTS = 350.0, 5000.0, 1.5, 0.3
"""Microseconds a query in cells, about, a call of them, a point in building their tree, and in moments of the cells."""


class Evaluators:
    """Density and score of noised data at every price.

    Args:
        data: the points.
    """

    def __init__(self, data: DataPoints) -> None:
        self.data, self.manifold = data, data.manifold
        self.golden: GoldenSubset | None = None
        self.cells: CellSums | None = None
        self.spectrum: EmpiricalSpectrum | None = None
        self._mixture: HeatKernelMixture | None = None
        self._queries = self._in_cells = 0

    def evaluate(self, x: Tensor, tau: Tensor, evaluator: str, rtol: float, want_score: bool) -> NoisedValue:
        """Values at queries ``(n, *point_shape)`` and times ``(n,)``, float64."""
        if len(x) == 0:
            log_p = tau.to(x)
            return NoisedValue(log_p, x if want_score else None, log_p, log_p if want_score else None, log_p.long())
        if evaluator == "full":
            return self._full(x, tau, want_score)
        if evaluator == "golden":
            found, _ = self._subset(x, tau, rtol, None, want_score)
            return assemble(found)
        if evaluator == "spectral":
            return self._series(x, tau, rtol, want_score)
        if evaluator == "cells":
            found, left = self._get_cells().evaluate(x, tau, rtol, None, want_score)
            return assemble(found + ([(left, self._full(x[left], tau[left], want_score))] if len(left) else []))
        return self._auto(x, tau, rtol, want_score)

    def added(self, points: Tensor, weights: Tensor) -> None:
        """Take note of new points at the end of the data."""
        self._mixture = None
        if self.spectrum is not None:
            self.spectrum.change(points, weights, 1)
        every = self.data.tensor("appended to")
        if self.golden is not None:
            self.golden.added(every, len(points))
        if self.cells is not None:
            self.cells.added(every, self.data.weights, len(points))

    def removed(self, points: Tensor, weights: Tensor, kept: Tensor) -> None:
        """Take note that ``points`` are gone, those outside the mask ``kept`` of all that there were."""
        self._mixture = None
        if self.spectrum is not None:
            self.spectrum.change(points, weights, -1)
        rest = self.data.tensor("removed from")
        if self.golden is not None:
            self.golden.removed(rest, kept)
        if self.cells is not None:
            self.cells.removed(rest, self.data.weights, kept)

    def _auto(self, x: Tensor, tau: Tensor, rtol: float, want_score: bool) -> NoisedValue:
        """The cheapest first, each until it has cost as much as the next best, then the full scan."""
        self._queries += len(x)
        pieces: list[tuple[Tensor, NoisedValue]] = []
        n = len(self.data)
        full = _FULL * n
        cells = self._cells_pay(full, len(x))
        series = torch.full((len(x),), math.inf, dtype=torch.float64)
        if _offers(harmonics, self.manifold):
            otherwise = torch.full_like(series, full * self._queries)
            if cells:
                # Queries for which the series was good enough already don't ask for a higher degree.
                once = _MOMENTS + (_TREE if self.cells is None else 0)
                otherwise[tau <= time_max(self.manifold)] = _CELLS * (self._in_cells + len(x)) + once * n
            series = self._get_spectrum().cost(tau, rtol, otherwise)
        first = min(full, _CELLS if cells else _GOLDEN * _LEAST)
        self._try_series(x, tau, torch.nonzero(series < first).squeeze(1), rtol, want_score, pieces)
        series = torch.where(series < first, math.inf, series)  # they have been tried
        next_best, part = series.clamp_max(full), missing(torch.arange(len(x)), pieces)
        if cells and len(part):
            found, _ = self._get_cells().evaluate(x[part], tau[part], rtol, next_best[part], want_score)
            pieces += [(part[i], v) for i, v in found]
            self._in_cells += len(part)
        elif not cells and self.data.held and _offers(retrieval, self.manifold):
            most = (next_best / _GOLDEN).clamp(1, n).log2().floor()
            for octave in most[part][most[part] >= math.log2(_LEAST)].unique().tolist():  # of about one budget
                some = part[most[part] == octave]
                found, _ = self._subset(x[some], tau[some], rtol, int(2**octave), want_score)
                pieces += [(some[i], v) for i, v in found]
        left = missing(torch.arange(len(x)), pieces)
        self._try_series(x, tau, left[series[left] < full], rtol, want_score, pieces)
        left = missing(left, pieces)
        if len(left):
            pieces.append((left, self._full(x[left], tau[left], want_score)))
        return assemble(pieces)

    def _try_series(
        self, x: Tensor, tau: Tensor, part: Tensor, rtol: float, want_score: bool,
        pieces: list[tuple[Tensor, NoisedValue]],
    ) -> None:  # fmt: skip
        """Append the values of some queries for which the series is good enough."""
        if len(part) == 0:
            return
        value = self._series(x[part], tau[part], rtol, want_score)
        good = met(self.manifold, plain(x[part]), value, tau[part], rtol)
        if bool(good.any()):
            pieces.append((part[good], pick(value, good)))

    def _cells_pay(self, full: float, queries: int) -> bool:
        """Whether cells are offered, cheaper than full scans, and built or worth it by the scans of all queries."""
        if full * queries < _CALL + _CELLS * queries:
            return False
        if not self.data.held or not _offers(round_space, self.manifold):
            return False
        return self.cells is not None or _TREE * len(self.data) <= full * self._queries

    def _full(self, x: Tensor, tau: Tensor, want_score: bool) -> NoisedValue:
        shared = not is_tracked(tau) and bool((tau == tau[0]).all())  # each time has a derivative of its own
        time = (tau[:1] if shared else tau).to(x.device)
        log_p: Tensor | None = None
        score = torch.zeros_like(x)
        for law, weight in self._laws():
            part, part_score = law.log_prob_and_score(x, time.reshape(()) if shared else time, want_score)
            part = part + math.log(weight)
            if log_p is None:
                log_p, score = part, part_score
                continue
            total = torch.logaddexp(log_p, part)
            if want_score:
                old, new = ((a - total).exp() for a in (log_p, part))
                score = self.manifold.per_point(old) * score + self.manifold.per_point(new) * part_score
            log_p = total
        assert log_p is not None
        none = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return NoisedValue(log_p, score if want_score else None, none, none if want_score else None, none.long())

    def _laws(self) -> Iterator[tuple[HeatKernelMixture, float]]:
        """Mixtures over blocks of the data, with their share of the weight."""
        total = self.data.total
        if isinstance(self.data.points, Tensor):
            if self._mixture is None:
                with untracked():
                    self._mixture = HeatKernelMixture(self.manifold, self.data.points, 0.0, self.data.weights)
            yield self._mixture, 1.0
            return
        for points, weights in self.data.blocks():
            if float(weights.sum()) > 0:
                yield HeatKernelMixture(self.manifold, points, 0.0, weights), float(weights.sum()) / total

    def _subset(
        self, x: Tensor, tau: Tensor, rtol: float, most: int | None, want_score: bool
    ) -> tuple[list[tuple[Tensor, NoisedValue]], Tensor]:
        points = self.data.tensor("searched for neighbours")
        if self.golden is None:
            with untracked():
                self.golden = GoldenSubset(self.manifold, points)
        weights = self.data.weights / self.data.total
        return self.golden.evaluate(x, tau, points, weights, rtol, most, want_score)

    def _series(self, x: Tensor, tau: Tensor, rtol: float, want_score: bool) -> NoisedValue:
        return self._get_spectrum().evaluate(x, tau, rtol, want_score)

    def _get_cells(self) -> CellSums:
        if self.cells is None:
            with untracked():
                self.cells = CellSums(self.manifold, self.data.tensor("sorted into cells"), self.data.weights)
        return self.cells

    def _get_spectrum(self) -> EmpiricalSpectrum:
        if self.spectrum is None:
            with untracked():
                known = harmonics(self.manifold)
            assert isinstance(self.manifold, Compact)
            self.spectrum = EmpiricalSpectrum(self.manifold, known, self.data)
        return self.spectrum


@cache
def _offers(part: Callable[[Manifold], Any], manifold: Manifold) -> bool:
    """Whether a part of an evaluator is there for a manifold."""
    try:
        part(manifold)
    except CapabilityError:
        return False
    return True
