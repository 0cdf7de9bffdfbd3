"""Noised empirical data in closed form: density, score and samples at every noise level, at three prices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, DataError, NumericsError
from ..manifolds import Compact, Manifold
from ._data_points import checked_rtol, checked_weights, kept_rows, merged
from ._golden import GoldenSubset
from ._harmonics import harmonics
from ._noised_value import TABLE, NoisedValue, assemble, met, missing, pick, plain, rounding, untracked
from ._retrieval import retrieval
from ._spectral import EmpiricalSpectrum
from .base import brownian_time, heat_kernel
from .mixture import HeatKernelMixture

__all__ = ["EVALUATORS", "Evaluator", "NoisedData", "NoisedValue"]

Evaluator = Literal["auto", "full", "golden", "spectral"]

EVALUATORS = ("full", "golden", "spectral")
"""What the indices in :attr:`NoisedValue.evaluator` mean."""

_FULL, _GOLDEN = 0.1, 1.0
"""Microseconds a pair of a query and a point, in the full scan and in the golden subset."""


class NoisedData:
    r"""Points, and the law of Brownian motion started at a random one of them.

    .. math:: p_\tau(x) = \sum_i w_i\, p_\tau(x \mid x_i), \qquad
        \nabla\log p_\tau(x) = \sum_i \frac{w_i\, p_\tau(x \mid x_i)}{p_\tau(x)}\, \nabla_x \log p_\tau(x \mid x_i)

    It is what a diffusion model of these points tends to: their heat-kernel density estimate. Three evaluators agree
    within errors that they prove:

    - ``"full"``: the sum over all points, in bounded memory (:class:`HeatKernelMixture`);
    - ``"golden"``: the sum over the nearest points, as many as a bound of the rest asks for: small times;
    - ``"spectral"``: the eigenfunction series of the empirical law, at a cost that does not depend on the number of
      points: large times, on spheres, tori up to ``Torus(10)`` and ``SO3``;
    - ``"auto"``: per query the cheapest that meets ``rtol``. The golden subset is tried until it has cost as much as
      the next best; the series is used where its degree suffices, once its coefficients are worth their cost;
      otherwise everything is scanned.

    Args:
        manifold: a manifold with a heat kernel.
        points: ``(n, *point_shape)``; a NumPy array, such as a memory map larger than memory, stays where it is and is
            read in blocks, each as it is needed.
        weights: positive weights, ``(n,)``, of any sum; default: equal.
        evaluator: default of the methods.
        rtol: error that is asked for, see :meth:`evaluate`.
        merge_duplicates: replace points that occur more than once by one with their weight.
        block: points of an array that are read at a time.

    Raises:
        DataError: if there is no point, or weights are negative, not finite, or all zero.
        ManifoldError: if a point is not on the manifold.
        CapabilityError: if the manifold has no heat kernel, or not the evaluator asked for.

    Example:
        >>> import torch
        >>> from manifold_diffusion.heat_kernels import NoisedData
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> data = NoisedData(M, M.random_uniform(5000, generator=g, dtype=torch.float64))
        >>> x = data.sample(4, 1e-4, generator=g)
        >>> value = data.evaluate(x, 1e-4, evaluator="golden")
        >>> bool((value.log_prob - data.log_prob(x, 1e-4, evaluator="full")).abs().max() < 1e-3)
        True

    References:
        Shang et al., *Fast and scalable analytical diffusion*, 2026, arXiv:2602.16498 (golden subsets; the bounds, the
        choice of their size and the series are ours).
    """

    points: Tensor | np.ndarray

    def __init__(
        self,
        manifold: Manifold,
        points: Tensor | np.ndarray,
        weights: Tensor | None = None,
        *,
        evaluator: Evaluator = "auto",
        rtol: float = 1e-3,
        merge_duplicates: bool = False,
        block: int = 1 << 16,
    ) -> None:
        self.manifold, self.kernel = manifold, heat_kernel(manifold)
        self.evaluator: Evaluator = self._known(evaluator)
        self.rtol = checked_rtol(rtol)
        if block < 1:
            raise ConfigError(f"block must be at least 1; got {block}.")
        self.block = block
        if not isinstance(points, Tensor | np.ndarray):
            raise DataError(f"points must be a tensor or a NumPy array; got {type(points).__name__}.")
        if points.ndim != 1 + len(manifold.point_shape) or len(points) == 0:
            raise DataError(
                f"points must have shape (n, {', '.join(map(str, manifold.point_shape))}) with n >= 1; got "
                f"{tuple(points.shape)}."
            )
        self.points = points.detach() if isinstance(points, Tensor) else points
        for part in self._parts():
            manifold.check_point(self._read(part), "points")
        self.weights = checked_weights(weights, len(points))
        if merge_duplicates:
            self.points, self.weights = merged(self._tensor("merged"), self.weights)
        self._mixture: HeatKernelMixture | None = None
        self._golden: GoldenSubset | None = None
        self._spectrum: EmpiricalSpectrum | None = None
        self._queries = 0

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return f"NoisedData({self.manifold}, {len(self)} points, evaluator={self.evaluator!r}, rtol={self.rtol})"

    # ------------------------------------------------------------------ evaluation

    def log_prob(
        self, x: Tensor, tau: Tensor | float, *, evaluator: Evaluator | None = None, rtol: float | None = None
    ) -> Tensor:
        """Log density at Brownian time ``tau`` (float or ``(*batch,)``) in nats, ``(*batch,)``.

        Raises:
            NumericsError: if the error can't be brought below ``rtol``.
        """
        return self._run(x, tau, evaluator, rtol, want_score=False, strict=True).log_prob

    def score(
        self, x: Tensor, tau: Tensor | float, *, evaluator: Evaluator | None = None, rtol: float | None = None
    ) -> Tensor:
        """Riemannian gradient of :meth:`log_prob`, tangent at ``x``, ``(*batch, *point_shape)``."""
        score = self._run(x, tau, evaluator, rtol, want_score=True, strict=True).score
        assert score is not None
        return score

    def evaluate(
        self,
        x: Tensor,
        tau: Tensor | float,
        *,
        evaluator: Evaluator | None = None,
        rtol: float | None = None,
        want_score: bool = True,
    ) -> NoisedValue:
        r"""Log density and score with bounds of their errors.

        The bounds are proven for what an evaluator leaves out, and include an allowance for rounding in the dtype of
        ``x``. What is asked for is an error of at most ``rtol`` of the density, and of at most ``rtol`` times the
        larger of :math:`|s|` and :math:`1/\sqrt\tau` of the score s (the length of a lone point's score at one standard
        deviation). Values are differentiable in ``x``.

        Args:
            x: points, ``(*batch, *point_shape)``.
            tau: Brownian time, positive, float or ``(*batch,)``.
            evaluator: default that of the object.
            rtol: default that of the object.
            want_score: whether to compute the score.

        Raises:
            NumericsError: if ``"auto"`` can't meet ``rtol``. The other evaluators return what they have.
            CapabilityError: if the manifold does not have the evaluator.
        """
        return self._run(x, tau, evaluator, rtol, want_score, strict=False)

    def sample(self, n: int, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points at Brownian time ``tau`` (float or ``(n,)``): exact, a point and its noise."""
        start = self.choose(n, generator)
        return self.kernel.sample(start, brownian_time(tau, start), generator)

    def choose(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent data points, by their weights."""
        held = isinstance(self.points, Tensor)
        total = self.weights.cumsum(0).to(self.points.device if held else None)
        # Not torch.multinomial, which takes no more than 2^24 weights.
        u = total[-1] * torch.rand(n, generator=generator, dtype=torch.float64, device=total.device)
        index = torch.searchsorted(total, u, right=True).clamp_max(len(self) - 1)
        return self.points[index] if held else torch.from_numpy(np.array(self.points[index.numpy()]))

    # ------------------------------------------------------------------ data

    @property
    def n_duplicates(self) -> int:
        """Number of points that are equal to an earlier one."""
        return len(self) - len(torch.unique(self._tensor("counted").flatten(1), dim=0))

    def add(self, points: Tensor, weights: Tensor | None = None) -> None:
        """Append points, with weight 1 or positive weights in the units of the others; nothing is rebuilt."""
        held = self._tensor("appended to")
        if points.dim() != held.dim():
            raise DataError(f"points must have shape (n, {', '.join(map(str, self.manifold.point_shape))}).")
        self.manifold.check_point(points, "points")
        w = checked_weights(weights, len(points))
        points = points.detach().to(held)
        if self._spectrum is not None:
            self._spectrum.change(points, w, 1)
        self.points, self.weights, self._mixture = torch.cat([held, points]), torch.cat([self.weights, w]), None
        if self._golden is not None:
            self._golden.added(self.points, len(points))

    def remove(self, which: Tensor) -> None:
        """Forget points, given by index or mask: the law is that of data that never held them, to rounding.

        Raises:
            DataError: if no point of positive weight would be left, or an index is out of range.
        """
        held = self._tensor("removed from")
        kept = kept_rows(which, len(self))
        if not bool((self.weights[kept] > 0).any()):
            raise DataError("remove would leave no point of positive weight. Keep at least one.")
        if self._spectrum is not None:
            self._spectrum.change(held[~kept], self.weights[~kept], -1)
        self.points, self.weights, self._mixture = held[kept], self.weights[kept], None
        if self._golden is not None:
            self._golden.removed(self.points, kept)

    # ------------------------------------------------------------------ the evaluators

    def _run(
        self,
        x: Tensor,
        tau: Tensor | float,
        evaluator: Evaluator | None,
        rtol: float | None,
        want_score: bool,
        strict: bool,
    ) -> NoisedValue:
        """Evaluate in the shape of the queries; refuse what misses the goal, if ``strict``; allow for rounding."""
        chosen = self.evaluator if evaluator is None else self._known(evaluator)
        goal = self.rtol if rtol is None else checked_rtol(rtol)
        batch = self.manifold.batch_shape(x)
        flat = x.reshape(-1, *self.manifold.point_shape)
        times = plain(brownian_time(tau, x.double())).cpu().expand(batch).reshape(-1)
        value = self._evaluate(flat, times, chosen, goal, want_score)
        if strict or chosen == "auto":
            self._require(flat, value, times, goal, chosen)
        error, score_error = rounding(self.manifold, flat, value, times)
        return NoisedValue(
            value.log_prob.reshape(batch),
            None if value.score is None else value.score.reshape(x.shape),
            (value.log_prob_error + error).reshape(batch),
            None if value.score_error is None else (value.score_error + score_error).reshape(batch),
            value.evaluator.reshape(batch),
        )

    def _evaluate(self, x: Tensor, tau: Tensor, evaluator: Evaluator, rtol: float, want_score: bool) -> NoisedValue:
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
        return self._auto(x, tau, rtol, want_score)

    def _auto(self, x: Tensor, tau: Tensor, rtol: float, want_score: bool) -> NoisedValue:
        """The golden subset until it has cost as much as the next best, then that, then the full scan."""
        self._queries += len(x)
        pieces: list[tuple[Tensor, NoisedValue]] = []
        left, n = torch.arange(len(x)), len(self)
        full = _FULL * n
        series = torch.full((len(x),), math.inf, dtype=torch.float64)
        if _offers(harmonics, self.manifold):
            series = self._get_spectrum().cost(tau, rtol, n, full * self._queries)
        next_best = series.clamp_max(full)
        if isinstance(self.points, Tensor) and _offers(retrieval, self.manifold):
            most = (next_best / _GOLDEN).clamp(1, n).log2().floor()
            for octave in most[most >= 7].unique().tolist():  # queries of about one budget
                part = torch.nonzero(most == octave).squeeze(1)
                found, _ = self._subset(x[part], tau[part], rtol, int(2**octave), want_score)
                pieces += [(part[i], v) for i, v in found]
        left = missing(left, pieces)
        ready = left[series[left] < full]
        if len(ready):
            value = self._series(x[ready], tau[ready], rtol, want_score)
            good = met(self.manifold, plain(x[ready]), value, tau[ready], rtol)
            if bool(good.any()):
                pieces.append((ready[good], pick(value, good)))
            left = missing(left, pieces)
        if len(left):
            pieces.append((left, self._full(x[left], tau[left], want_score)))
        return assemble(pieces)

    def _full(self, x: Tensor, tau: Tensor, want_score: bool) -> NoisedValue:
        shared = bool((tau == tau[0]).all())
        time = (tau[:1] if shared else tau).to(x)
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

    def _laws(self) -> Any:
        """Mixtures over blocks of the data, with their share of the weight."""
        total = float(self.weights.sum())
        if isinstance(self.points, Tensor):
            if self._mixture is None:
                with untracked():
                    self._mixture = HeatKernelMixture(self.manifold, self.points, 0.0, self.weights)
            yield self._mixture, 1.0
            return
        for part in self._parts():
            weights = self.weights[part]
            if float(weights.sum()) > 0:
                yield HeatKernelMixture(self.manifold, self._read(part), 0.0, weights), float(weights.sum()) / total

    def _subset(
        self, x: Tensor, tau: Tensor, rtol: float, most: int | None, want_score: bool
    ) -> tuple[list[tuple[Tensor, NoisedValue]], Tensor]:
        points = self._tensor("searched for neighbours")
        if self._golden is None:
            with untracked():
                self._golden = GoldenSubset(self.manifold, points)
        weights = self.weights / self.weights.sum()
        return self._golden.evaluate(x, tau, points, weights, rtol, most, want_score)

    def _series(self, x: Tensor, tau: Tensor, rtol: float, want_score: bool) -> NoisedValue:
        return self._get_spectrum().evaluate(x, tau, rtol, want_score, float(self.weights.sum()))

    def _get_spectrum(self) -> EmpiricalSpectrum:
        if self._spectrum is None:
            with untracked():
                known = harmonics(self.manifold)
            assert isinstance(self.manifold, Compact)
            self._spectrum = EmpiricalSpectrum(
                self.manifold, known, lambda: ((self._read(part), self.weights[part]) for part in self._parts())
            )
        return self._spectrum

    # ------------------------------------------------------------------ helpers

    def _require(self, x: Tensor, value: NoisedValue, tau: Tensor, rtol: float, evaluator: str) -> None:
        finest = 32 * torch.finfo(x.dtype).eps + (0 if evaluator == "spectral" else TABLE)
        if rtol < finest:
            fix = "Convert the queries to float64, or raise" if x.dtype != torch.float64 else "Raise"
            raise NumericsError(f"rtol={rtol:g} is below the rounding of {x.dtype}, {finest:.0e}. {fix} rtol.")
        good = met(self.manifold, plain(x), value, tau, rtol)
        if not bool(good.all()):
            raise NumericsError(
                f"evaluator={evaluator!r} does not reach rtol={rtol:g} at {int((~good).sum())} of {len(good)} points: "
                f"the error of the log density is below {float(value.log_prob_error.max()):.1e}, tau at least "
                f"{float(tau.min()):.1e}. Use evaluator='auto' or 'full', or a larger rtol; or look at evaluate()."
            )

    def _parts(self) -> list[slice]:
        return [slice(i, min(i + self.block, len(self))) for i in range(0, len(self), self.block)]

    def _read(self, part: slice) -> Tensor:
        if isinstance(self.points, Tensor):
            return self.points[part]
        return torch.from_numpy(np.array(self.points[part]))

    def _tensor(self, what: str) -> Tensor:
        if not isinstance(self.points, Tensor):
            raise ConfigError(
                f"Points in a NumPy array (a memory map) can't be {what}. Pass torch.as_tensor(points) to hold them in "
                "memory, or use evaluator='full' or 'spectral'."
            )
        return self.points

    @staticmethod
    def _known(evaluator: Evaluator) -> Evaluator:
        if evaluator not in ("auto", *EVALUATORS):
            raise ConfigError(f"evaluator must be 'auto', 'full', 'golden' or 'spectral'; got {evaluator!r}.")
        return evaluator


@cache
def _offers(part: Callable[[Manifold], Any], manifold: Manifold) -> bool:
    """Whether a part of an evaluator is there for a manifold."""
    try:
        part(manifold)
    except CapabilityError:
        return False
    return True
