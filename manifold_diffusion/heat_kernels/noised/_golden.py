"""Sums of heat kernels over the nearest points only, as many as a bound of what is left out asks for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..._tensors import untracked
from ...manifolds import Manifold
from ._retrieval import retrieval
from ._value import NoisedValue, met, pick, plain

__all__ = ["GoldenSubset"]

_FIRST = 32
_PAIRS = 1 << 14


class GoldenSubset:
    r"""Sums over the nearest points, with what the others can add at most.

    With S the points that are summed, :math:`P_S` their part of the density and B the weight of the others times the
    largest kernel beyond the last distance, the rest is at most B, hence

    .. math::
        0 \le \log p - \log P_S \le \log(1 + B / P_S), \qquad
        |s - s_S| \le \frac{\sup |\nabla T| + B\,|s_S|}{P_S},

    with the supremum of :meth:`Retrieval.slope`. Their number is doubled, or more, until both are small.

    Args:
        manifold: a manifold with a :func:`retrieval`.
        points: all points, ``(n, *point_shape)``.
    """

    def __init__(self, manifold: Manifold, points: Tensor) -> None:
        self.manifold, self.retrieval = manifold, retrieval(manifold)
        self._build(points)

    def _build(self, points: Tensor) -> None:
        from scipy.spatial import KDTree

        self._tree = KDTree(self._where(points), boxsize=self.retrieval.periods)
        with untracked():
            self._rows = torch.arange(len(points))  # of the points in the tree; -1: removed
        self._changes = 0

    def added(self, points: Tensor, count: int) -> None:
        """Take note of ``count`` new points at the end: they are summed for every query until the tree is rebuilt."""
        self._changes += count
        self._refresh(points)

    def removed(self, points: Tensor, kept: Tensor) -> None:
        """Take note that the rows of a mask were kept; ``points`` are those that are left."""
        row = torch.where(kept, kept.cumsum(0) - 1, -1)
        self._rows = torch.where(self._rows >= 0, row[self._rows.clamp_min(0)], -1)
        self._changes += int((~kept).sum())
        self._refresh(points)

    def _refresh(self, points: Tensor) -> None:
        if self._changes > 64 + len(points) // 64:
            self._build(points)

    def evaluate(
        self, x: Tensor, tau: Tensor, points: Tensor, weights: Tensor, rtol: float, most: int | None, want_score: bool
    ) -> tuple[list[tuple[Tensor, NoisedValue]], Tensor]:
        """Values of the queries for which ``most`` points are enough, and the indices of the others.

        The first few points tell how far the bound reaches; how many are within that is asked of the tree.

        Args:
            x: queries, ``(n, *point_shape)``.
            tau: Brownian times, ``(n,)``, float64.
            points: all points.
            weights: theirs, float64, of sum 1.
            rtol: what the errors should be below, see :meth:`NoisedData.evaluate`.
            most: points per query, at most; None for as many as it takes.
            want_score: whether to compute the score.
        """
        size = len(self._rows)
        most = size if most is None else most
        found: list[tuple[Tensor, NoisedValue]] = []
        given_up = [torch.empty(0, dtype=torch.long)]
        to_do = {min(_FIRST, size): [torch.arange(len(x))]}
        while to_do:
            count = min(to_do)
            indices = torch.cat(to_do.pop(count))
            for part in indices.split(max(1, _PAIRS // count)):
                value, excess, chord = self._sum(x[part], tau[part], points, weights, count, rtol, want_score)
                done = met(self.manifold, plain(x[part]), value, tau[part], rtol) | (count == size)
                if bool(done.any()):
                    found.append((part[done], pick(value, done)))
                part, excess, chord = part[~done], excess[~done], chord[~done]
                if len(part) == 0:
                    continue
                needed = self._needed(x[part], tau[part], excess, chord, count, most).clamp(2 * count, size)
                given_up.append(part[needed > most])
                for k in needed[needed <= most].unique().tolist():
                    to_do.setdefault(k, []).append(part[needed == k])
        return found, torch.cat(given_up)

    def _where(self, x: Tensor) -> np.ndarray:
        with untracked():
            return self.retrieval.coordinates(plain(x).cpu().double()).numpy()

    def _needed(self, x: Tensor, tau: Tensor, excess: Tensor, chord: Tensor, count: int, most: int) -> Tensor:
        """Points within the distance at which a Gaussian tail has fallen by the excess, rounded up to half octaves.

        They are counted, but where the density of the nearest ``count`` says that they are far more than ``most``.
        """
        with untracked():
            radius = plain(chord.square() + 2 * tau * excess.clamp(1, 1e300).log()).sqrt()
            needed = count * (radius / plain(chord).clamp_min(1e-300)) ** self.manifold.dim
            ask = needed.clamp_max(1e9) <= 8 * most if most < len(self._rows) else torch.ones_like(needed).bool()
            if bool(ask.any()):
                found = self._tree.query_ball_point(self._where(plain(x)[ask]), radius[ask].numpy(), return_length=True)
                needed[ask] = torch.as_tensor(found).double()
            return (2.0 ** ((2 * needed.clamp(1, 1e9).log2()).ceil() / 2)).ceil().long()

    def _sum(
        self, x: Tensor, tau: Tensor, points: Tensor, weights: Tensor, count: int, rtol: float, want_score: bool
    ) -> tuple[NoisedValue, Tensor, Tensor]:
        """Sum over the nearest ``count`` points; by how much what is left out exceeds the goal; the last distance."""
        M, kernel = self.manifold, self.retrieval.kernel
        chord, index = self._tree.query(self._where(x), k=count)
        chord = torch.as_tensor(chord).reshape(len(x), count)[:, -1]
        rows = self._rows[torch.as_tensor(index).reshape(len(x), count)]
        late = torch.arange(len(points) - self._recent(points), len(points)).expand(len(x), -1)
        rows = torch.cat([rows, late], 1)
        w = torch.where(rows >= 0, weights[rows.clamp_min(0)], 0.0)
        centres, device = points[rows.clamp_min(0)].double(), x.device
        centres, at = centres.to(device), x.double().unsqueeze(1)
        w, t = w.to(device), tau.to(device)
        # A removed point keeps its place in the list, without weight.
        terms = kernel.log_prob(at, centres, t.unsqueeze(1)) + w.log().clamp_min(-1e300)
        log_p = torch.logsumexp(terms, 1)
        score = None
        if want_score:
            share = M.per_point(torch.softmax(terms, 1))
            score = (share * kernel.score(at, centres, t.unsqueeze(1))).sum(1)
        error, score_error = self._left_out(
            plain(x).double().cpu(), plain(log_p).cpu(), None if score is None else plain(score).cpu(), tau,
            (1 - w.sum(1).cpu()).clamp_min(1e-15) * (count < len(self._rows)), chord,
        )  # fmt: skip
        excess = error / rtol
        if score is not None and score_error is not None:
            length = M.norm(plain(x).double(), plain(score)).cpu()
            excess = torch.maximum(excess, score_error / torch.maximum(length, tau.rsqrt()) / rtol)
        value = NoisedValue(
            log_p.to(x.dtype),
            None if score is None else score.to(x.dtype),
            error.to(device),
            None if score_error is None else score_error.to(device),
            torch.ones(len(x), dtype=torch.long, device=device),
        )
        return value, excess, chord

    def _recent(self, points: Tensor) -> int:
        """Points at the end that are not in the tree."""
        last = int(self._rows.max())
        return len(points) - 1 - last if last >= 0 else len(points)

    def _left_out(
        self, x: Tensor, log_p: Tensor, score: Tensor | None, tau: Tensor, left: Tensor, chord: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Bounds for the points that are not summed, whose weight is ``left``."""
        R = self.retrieval
        r = R.reach(chord * (1 - 1e-12))
        # The allowance covers the interpolation error of the radial tables.
        log_tail = R.log_bound(r, tau) + left.log() + 1e-9
        ratio = (log_tail - log_p).exp()
        if score is None:
            return ratio.log1p(), None
        slope = torch.where(left > 0, R.slope(log_tail, left.log(), tau), 0.0)
        return ratio.log1p(), ratio * (slope + self.manifold.norm(x, score))
