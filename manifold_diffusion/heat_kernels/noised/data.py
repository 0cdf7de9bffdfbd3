"""Noised empirical data in closed form: density, score and samples at every noise level, at four prices."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..._errors import CapabilityError, ConfigError, DataError, NumericsError
from ..._tensors import kept_rows, untracked
from ...manifolds import Manifold
from ..base import brownian_time, heat_kernel
from ._data_points import DataPoints, checked_rtol, checked_weights
from ._evaluators import Evaluators
from ._value import TABLE, NoisedValue, is_batched, is_tracked, met, plain, rounding

__all__ = ["EVALUATORS", "Evaluator", "NoisedData", "NoisedValue"]

Evaluator = Literal["auto", "full", "golden", "spectral", "cells"]

EVALUATORS = ("full", "golden", "spectral", "cells")
"""What the indices in :attr:`NoisedValue.evaluator` mean."""


class NoisedData:
    r"""Points, and the law of Brownian motion started at a random one of them.

    .. math:: p_\tau(x) = \sum_i w_i\, p_\tau(x \mid x_i), \qquad
        \nabla\log p_\tau(x) = \sum_i \frac{w_i\, p_\tau(x \mid x_i)}{p_\tau(x)}\, \nabla_x \log p_\tau(x \mid x_i)

    It is what a diffusion model of these points tends to: their heat-kernel density estimate. Four evaluators agree
    within errors that they prove:

    - ``"full"``: the sum over all points, in bounded memory (:class:`HeatKernelMixture`);
    - ``"golden"``: the sum over the nearest points, as many as a bound of the rest asks for: small times;
    - ``"spectral"``: the eigenfunction series of the empirical law, at a cost that does not depend on the number of
      points: large times, on spheres, tori up to ``Torus(10)`` and ``SO3``;
    - ``"cells"``: moments of the points in the cells of a tree, at a cost that hardly depends on their number: small
      and middle times, on ``Sphere(2)``, ``Sphere(3)`` and ``SO3``; what is out of its reach is scanned;
    - ``"auto"``: per query the cheapest that meets ``rtol``. The series is used where its degree suffices and cells
      elsewhere, once what they need is worth its cost, or the golden subset where there are no cells; each is tried
      until it has cost as much as the next best. Otherwise everything is scanned.

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
        self._data = DataPoints(manifold, points, weights, block, merge_duplicates)
        self._evaluators = Evaluators(self._data)

    @property
    def points(self) -> Tensor | np.ndarray:
        """The points, ``(n, *point_shape)``."""
        return self._data.points

    @property
    def weights(self) -> Tensor:
        """Their weights, ``(n,)``, float64, of any sum."""
        return self._data.weights

    def __len__(self) -> int:
        return len(self._data)

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
        deviation). Values are differentiable in ``x``, and by a full scan in ``tau``: a time that is differentiated
        makes ``"auto"`` one, and is refused by the others.

        Args:
            x: points, ``(*batch, *point_shape)``.
            tau: Brownian time, positive, float or ``(*batch,)``.
            evaluator: default that of the object.
            rtol: default that of the object.
            want_score: whether to compute the score.

        Raises:
            NumericsError: if ``"auto"`` can't meet ``rtol``. The other evaluators return what they have.
            CapabilityError: if the manifold does not have the evaluator, for a time that it can't differentiate, or
                under ``torch.func.vmap``.
        """
        return self._run(x, tau, evaluator, rtol, want_score, strict=False)

    def sample(self, n: int, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points at Brownian time ``tau`` (float or ``(n,)``): exact, a point and its noise."""
        start = self.choose(n, generator)
        return self.kernel.sample(start, brownian_time(tau, start), generator)

    def choose(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent data points, by their weights."""
        points = self.points
        total = self.weights.cumsum(0).to(points.device if isinstance(points, Tensor) else None)
        # Not torch.multinomial, which takes no more than 2^24 weights.
        u = total[-1] * torch.rand(n, generator=generator, dtype=torch.float64, device=total.device)
        index = torch.searchsorted(total, u, right=True).clamp_max(len(self) - 1)
        return points[index] if isinstance(points, Tensor) else torch.from_numpy(np.array(points[index.numpy()]))

    # ------------------------------------------------------------------ data

    @property
    def n_duplicates(self) -> int:
        """Number of points that are equal to an earlier one."""
        return len(self) - len(torch.unique(self._data.tensor("counted").flatten(1), dim=0))

    def add(self, points: Tensor, weights: Tensor | None = None) -> None:
        """Append points, with weight 1 or positive weights in the units of the others; nothing is rebuilt."""
        data = self._data
        data.check_unchanged()
        held = data.tensor("appended to")
        if not isinstance(points, Tensor) or points.dim() != held.dim():
            shape = ", ".join(map(str, self.manifold.point_shape))
            raise DataError(f"points must be a tensor of shape (n, {shape}); got {points!r:.200}.")
        self.manifold.check_point(points, "points")
        w = checked_weights(weights, len(points))
        with untracked():
            new = points.to(held)
            new = new if points.dtype == held.dtype else self.manifold.project(new)
            data.points, data.weights = torch.cat([held, new]), torch.cat([data.weights, w])
            self._evaluators.added(new, w)

    def remove(self, which: Tensor) -> None:
        """Forget points, given by index or mask: the law is that of data that never held them, to rounding.

        Raises:
            DataError: if no point of positive weight would be left, or an index is out of range.
        """
        data = self._data
        data.check_unchanged()
        held, weights = data.tensor("removed from"), data.weights
        kept = kept_rows(which, len(self))
        if not bool((weights[kept] > 0).any()):
            raise DataError("remove would leave no point of positive weight. Keep at least one.")
        with untracked():
            data.points, data.weights = held[kept], weights[kept]
            self._evaluators.removed(held[~kept], weights[~kept], kept)

    # ------------------------------------------------------------------ helpers

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
        self._data.check_unchanged()
        times = brownian_time(tau, x.double()).cpu()
        if any(map(is_batched, (x, times))):
            raise CapabilityError(
                "Noised data look at their queries, and can't under torch.func.vmap. Pass the batch itself: x and tau "
                "take any batch shape."
            )
        self.manifold.check_point(plain(x), "x")
        batch = self.manifold.batch_shape(x)
        flat = x.reshape(-1, *self.manifold.point_shape)
        try:
            times = times.expand(batch).reshape(-1)
        except RuntimeError as error:
            shape = tuple(times.shape)
            raise ConfigError(f"tau must be a float or have the batch shape {tuple(batch)}; got {shape}.") from error
        if is_tracked(times):
            if chosen not in ("auto", "full"):
                raise CapabilityError(
                    f"evaluator={chosen!r} is not differentiable in tau. Use evaluator='full', or 'auto', which then "
                    "is the full scan; or detach the time."
                )
            value = self._evaluators.evaluate(flat, times, chosen := "full", goal, want_score)
            times = plain(times)
        else:
            times = plain(times)
            value = self._evaluators.evaluate(flat, times, chosen, goal, want_score)
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

    @staticmethod
    def _known(evaluator: Evaluator) -> Evaluator:
        if evaluator not in ("auto", *EVALUATORS):
            raise ConfigError(f"evaluator must be 'auto', 'full', 'golden', 'spectral' or 'cells'; got {evaluator!r}.")
        return evaluator
