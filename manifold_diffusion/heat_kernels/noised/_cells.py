r"""Sums of heat kernels over cells of points, at a cost that hardly depends on the number of points.

Cells of a tree are refined from the top. With the density so far bounded from below (F is convex in the inner product,
hence a cell adds at least :math:`w F(x \cdot \bar y)` with the mean of its points), a cell is

- left out, if its largest value, that at its nearest point, is negligible;
- summed by its moments (:mod:`._cell_jets`), if the bound of the rest is small enough;
- summed point by point, if its points are few;
- replaced by its children otherwise.

What is left out is bounded cell by cell, and added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..._safe import dot
from ..._tensors import untracked
from ...manifolds import Manifold
from ._cell_jets import CellJets
from ._cell_tree import begins, build_tree, expand_ranges, parts_of, reduced, versines
from ._round import round_space
from ._value import NoisedValue, from_sum, met, pick, plain
from ._zonal_jet import ZonalJet

__all__ = ["CellSums", "time_max"]

_DEGREES = {2: 10, 3: 6}
"""Degree of the moments by dimension."""
_LEAF, _FEW = 32, 12
"""Points of a cell that is not halved, and of one that is summed point by point."""
_QUERIES, _PAIRS = 1024, 1 << 14
"""Queries and pairs that are worked on at a time."""
_VISIT, _CELL, _POINT = 0.25, 0.9, 0.1
"""Microseconds of a pair of a query and a cell that is looked at, of one that is summed, and of a point."""
_REST, _LEFT = 0.35, 0.1
"""Shares of the error that is asked for: what the moments leave, and what cells that are left out can add."""
_HOPES = 14.0, 1.0
"""Most cells stay far below the largest error that is allowed: it is first taken to be larger."""
_NONE = -1e300


@dataclass(frozen=True)
class _Choice:
    """What is summed for some queries."""

    cells: tuple[Tensor, Tensor]  # image of a query, cell
    places: tuple[Tensor, Tensor]  # image of a query, place of a point
    log_unit: Tensor
    log_error: Tensor
    log_slope_error: Tensor
    given_up: Tensor


def time_max(manifold: Manifold) -> float:
    """The largest Brownian time of sums over cells."""
    return ZonalJet.time_max * round_space(manifold).slowdown


class CellSums:
    """Density and score from cells, with bounds of their errors.

    Args:
        manifold: a manifold with a :func:`round_space`.
        points: all points, ``(n, *point_shape)``.
        weights: theirs, ``(n,)``.
    """

    def __init__(self, manifold: Manifold, points: Tensor, weights: Tensor) -> None:
        self.manifold, self.space = manifold, round_space(manifold)
        self.jets = CellJets(self.space.n, _DEGREES[self.space.n])
        self.time_max = time_max(manifold)
        self._build(points, weights)

    def _build(self, points: Tensor, weights: Tensor) -> None:
        with untracked():
            y = self._where(points)
            self.tree = tree = build_tree(y.numpy(), _LEAF)
            # Places of the rows of the data; those after the places of the tree are of points that came later.
            self._at = torch.from_numpy(tree.place.copy())
            self._points = torch.from_numpy(tree.points)
            self._weights = torch.empty(len(y), dtype=torch.float64)
            self._weights[self._at] = weights.cpu()
            self._centre, self._depth = torch.from_numpy(tree.centre), torch.from_numpy(tree.depth)
            self._radius = 2 * (self._depth / 2).clamp_max(1).sqrt().asin()
            self._spread = torch.where(self._depth < 1, self._depth * (2 - self._depth), math.inf).sqrt()
            self._count = torch.from_numpy(tree.count)
            self._closed = torch.from_numpy(tree.children == 0) | (self._count <= _FEW)
            self._sums: np.ndarray | None = None
            self._sum(None)
            self._log_share = self._concentration()
            self._slot = torch.full((len(tree.start),), -1)
            self._moments = torch.empty(0, self.jets.size, dtype=torch.float64)
            self._used = 0
        self._changes = 0

    @property
    def nbytes(self) -> int:
        """Memory that is held, in bytes."""
        arrays = [a for a in vars(self.tree).values() if isinstance(a, np.ndarray)]
        tensors = [a.numpy() for a in vars(self).values() if isinstance(a, Tensor)]
        return sum({a.ctypes.data: a.nbytes for a in arrays + tensors if a.size}.values())

    def _where(self, x: Tensor) -> Tensor:
        return self.space.unit_vectors(plain(x).cpu())

    def _sum(self, among: np.ndarray | None) -> None:
        """Weights and means of the cells."""
        n = len(self.tree.place)
        w = self._weights[:n].unsqueeze(1)
        values = torch.cat([w, w * self._points[:n]], 1).numpy()
        self._sums = self.tree.sums(values, among, self._sums)
        sums = torch.from_numpy(self._sums)
        self._log_weight = sums[:, 0].log().clamp_min(_NONE)
        self._mean = sums[:, 1:] / sums[:, :1].clamp_min(1e-300)
        self._inside = (1 - self._mean.square().sum(1)) / 2
        self._log_total = math.log(float(self._weights.sum()))

    def _concentration(self) -> Tensor:
        """Logarithm of A of the cells, see :mod:`._cell_jets`."""
        tree, out = self.tree, np.zeros(len(self.tree.start))
        for cells in parts_of(tree.levels, tree.count):
            start, count = tree.start[cells], tree.count[cells]
            inside, owner = expand_ranges(start, count)
            v, deepest = versines(tree.points, tree.centre[cells], inside, owner), tree.depth[cells]
            share = v * (2 - v) / np.maximum(deepest * (2 - deepest), 1e-300).take(owner)
            part = self._weights.numpy().take(inside) * np.minimum(share, 1) ** ((self.jets.degree + 1) / 2)
            out[cells] = reduced(np.add, part, begins(count), count)
        return (torch.from_numpy(out).log() - self._log_weight).clamp(-700, 0)

    # ------------------------------------------------------------------ changes

    def added(self, points: Tensor, weights: Tensor, count: int) -> None:
        """Take note of ``count`` new points at the end of all: they are summed for every query until a rebuild."""
        self._at = torch.cat([self._at, len(self._points) + torch.arange(count)])
        self._points = torch.cat([self._points, self._where(points[len(points) - count :])])
        self._weights = torch.cat([self._weights, weights[len(weights) - count :].cpu()])
        self._log_total = math.log(float(self._weights.sum()))
        self._refresh(points, weights, count)

    def removed(self, points: Tensor, weights: Tensor, kept: Tensor) -> None:
        """Take note that the rows of a mask were kept; ``points`` and ``weights`` are those that are left."""
        gone, self._at = self._at[~kept], self._at[kept]
        self._weights[gone] = 0
        path = self.tree.path(gone[gone < len(self.tree.place)].numpy())
        self._sum(path)
        self._slot[path] = -1
        self._log_share[path] = 0
        self._refresh(points, weights, len(gone))

    def _refresh(self, points: Tensor, weights: Tensor, changes: int) -> None:
        self._changes += changes
        if self._changes > 64 + len(points) // 256:
            self._build(points, weights)

    # ------------------------------------------------------------------ evaluation

    def evaluate(
        self, x: Tensor, tau: Tensor, rtol: float, most: Tensor | None, want_score: bool
    ) -> tuple[list[tuple[Tensor, NoisedValue]], Tensor]:
        """Values of the queries whose error is small enough at a cost of ``most``, and the indices of the others.

        Args:
            x: queries, ``(n, *point_shape)``.
            tau: Brownian times, ``(n,)``, float64.
            rtol: what the errors should be below, see :meth:`NoisedData.evaluate`.
            most: microseconds per query, ``(n,)``; None for as many as it takes.
            want_score: whether to compute the score.
        """
        found: list[tuple[Tensor, NoisedValue]] = []
        early = tau <= self.time_max
        given_up, left = [torch.nonzero(~early).squeeze(1)], torch.nonzero(early).squeeze(1)
        for hope in _HOPES:
            if len(left) == 0:
                break
            again = []
            for part in left.split(_QUERIES):
                with untracked():
                    choice = self._choose(
                        self._where(plain(x)[part]), tau[part] / self.space.slowdown, hope * rtol,
                        torch.full((len(part),), math.inf) if most is None else most[part],
                    )  # fmt: skip
                value = self._value(x[part], tau[part], choice, want_score)
                good = met(self.manifold, plain(x[part]), value, tau[part], rtol) & ~choice.given_up
                if bool(good.any()):
                    found.append((part[good], pick(value, good)))
                given_up.append(part[choice.given_up])
                again.append(part[~good & ~choice.given_up])
            left = torch.cat(again)
        return found, torch.cat([*given_up, left])

    def _choose(self, q: Tensor, tau: Tensor, rtol: float, most: Tensor) -> _Choice:
        """Refine cells from the top for a few queries, unit vectors ``(n, d)``."""
        n, kernel = len(q), self.jets.kernel
        images = torch.cat([sign * q for sign in self.space.signs])
        top = self.tree.levels[0].stop
        image = torch.arange(len(images)).repeat_interleave(top)
        cell = torch.arange(top).repeat(len(images))
        log_unit, log_error, log_slope = (torch.full((n,), _NONE, dtype=torch.float64) for _ in range(3))
        late = torch.arange(len(self.tree.place), len(self._points))
        late = torch.arange(len(images)).repeat_interleave(len(late)), late.repeat(len(images))
        if len(late[0]):
            low = self._log_low(self._angle(images, *late), tau[late[0] % n])
            log_unit = _log_sums(low + self._log_weights(late[1]), late[0] % n, n)
        weight, spent = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
        summed, single = [(image[:0], cell[:0])], [(image[:0], cell[:0])]
        while len(image):
            row = image % n
            t, w = tau[row], self._log_weight.index_select(0, cell)
            at = images.index_select(0, image)
            theta = _angle(at, self._centre.index_select(0, cell))
            radius = self._radius.index_select(0, cell)
            mean = self._mean.index_select(0, cell)
            difference = at - mean
            versine = dot(difference, difference) / 2 + self._inside.index_select(0, cell)
            low = self._log_low(2 * (versine / 2).clamp(0, 1).sqrt().asin(), t) + w
            level = torch.logaddexp(log_unit, _log_sums(low, row, n))
            base = level.index_select(0, row)
            # Beyond the largest angle of the expansion the value there is an upper bound.
            wide = theta.clamp(1e-9, math.sqrt(kernel.square_max))
            ratio = (wide / wide.sin()).log()
            high, steep = self._log_high(torch.minimum((theta - radius).clamp_min(0), wide), t, ratio, theta + radius)
            root = t.log() / 2
            out = torch.maximum(high, steep + root) <= math.log(_LEFT * rtol) - self._log_total + base
            out |= w <= _NONE / 2
            gone = out.nonzero().squeeze(1)
            where, scale, mass = row[gone], base[gone], w[gone]
            log_error = _grown(log_error, high[gone] + mass, where, level, scale)
            log_slope = _grown(log_slope, steep[gone] + mass, where, level, scale)
            spent.index_add_(0, row, torch.full_like(low, _VISIT))
            stay = (~out & (spent[row] <= most[row])).nonzero().squeeze(1)
            image, cell, row, w, low, base = (a[stay] for a in (image, cell, row, w, low, base))
            t, root, theta, ratio = (a[stay] for a in (t, root, theta, ratio))
            rest, slope = self.jets.log_rest(
                theta, ratio, kernel.log_majorant(theta.square(), ratio, t), t,
                self._spread.index_select(0, cell), self._depth.index_select(0, cell),
            )  # fmt: skip
            share = self._log_share.index_select(0, cell)
            rest, slope = rest + share, slope + share
            mass = weight.index_add(0, row, w.exp())
            goal = math.log(_REST * rtol) + base - mass.clamp_min(1e-300).log().index_select(0, row)
            good = (torch.maximum(rest, slope + root) <= goal) & (theta < math.sqrt(kernel.square_max))
            count = self._count.index_select(0, cell)
            good &= count > _FEW
            few = self._closed.index_select(0, cell) & ~good
            spent.index_add_(0, row, (good * _CELL + few * _POINT * count).double())
            near, ends = good.nonzero().squeeze(1), (good | few).nonzero().squeeze(1)
            where, scale, mass = row[near], base[near], w[near]
            log_error = _grown(log_error, rest[near] + mass, where, level, scale)
            log_slope = _grown(log_slope, slope[near] + mass, where, level, scale)
            log_unit = torch.logaddexp(log_unit, _log_sums(low[ends], row[ends], n))
            weight.index_add_(0, row[ends], w[ends].exp())
            summed.append((image[near], cell[near]))
            single.append((image[few], cell[few]))
            more = (~(good | few)).nonzero().squeeze(1)
            image, cell = image[more], cell[more]
            children = self.tree.children[cell.numpy()]
            cells, owner = expand_ranges(self.tree.first[cell.numpy()], children)
            image, cell = image[torch.from_numpy(owner)], torch.from_numpy(cells)
        given_up = spent > most
        image, cell = (torch.cat(a) for a in zip(*single, strict=True))
        places, owner = expand_ranges(self.tree.start[cell.numpy()], self.tree.count[cell.numpy()])
        image, places = image[torch.from_numpy(owner)], torch.from_numpy(places)
        image, places = torch.cat([image, late[0]]), torch.cat([places, late[1]])
        theta, w, t = self._angle(images, image, places), self._log_weights(places), tau[image % n]
        # The mean of a few points can be much further away than the nearest of them.
        log_unit = torch.logaddexp(log_unit, _log_sums(self._log_low(theta, t) + w, image % n, n))
        far = theta.square() > kernel.square_max
        if bool(far.any()):
            high, steep = self._log_high(theta.new_tensor(math.sqrt(kernel.square_max)), t[far])
            log_error = torch.logaddexp(log_error, _log_sums(high + w[far], image[far] % n, n))
            log_slope = torch.logaddexp(log_slope, _log_sums(steep + w[far], image[far] % n, n))
        keep = ~given_up[image % n] & ~far
        image, places = image[keep], places[keep]
        i, c = (torch.cat(a) for a in zip(*summed, strict=True))
        keep = ~given_up[i % n]
        i, c = i[keep], c[keep]
        order = c.argsort(stable=True)
        self._prepare(c)
        return _Choice((i[order], c[order]), (image, places), log_unit, log_error, log_slope, given_up)

    def _angle(self, images: Tensor, image: Tensor, place: Tensor) -> Tensor:
        return _angle(images.index_select(0, image), self._points.index_select(0, place))

    def _log_weights(self, place: Tensor) -> Tensor:
        return self._weights.index_select(0, place).log().clamp_min(_NONE)

    def _log_high(
        self, near: Tensor, tau: Tensor, log_ratio: Tensor | None = None, far: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Upper bounds of the logarithms of the kernel and its gradient at angles from ``near`` to ``far``.

        Args:
            near: smallest angle, not beyond the expansion.
            tau: time.
            log_ratio: a bound of log(theta / sin(theta)) there.
            far: largest angle.
        """
        kernel = self.jets.kernel
        if log_ratio is None:
            log_ratio = (near / near.sin()).log()
        majorant = kernel.log_majorant(near.square(), log_ratio, tau)
        steep = majorant + log_ratio - tau.log()
        if far is not None:
            steep = steep + far.clamp(1e-300, 1).log()
        return majorant + tau * (kernel.high - kernel.n * (kernel.n - 1) / 12), steep

    def _log_low(self, theta: Tensor, tau: Tensor) -> Tensor:
        """Lower bound of the logarithm of the kernel."""
        kernel = self.jets.kernel
        low = -theta.square() / (2 * tau) - kernel.n / 2 * (2 * math.pi * tau).log() + tau * min(kernel.low, 0)
        return torch.where(theta.square() <= kernel.square_max, low, _NONE)

    def _prepare(self, cells: Tensor) -> None:
        """Compute the moments of cells that have none yet."""
        new = cells[self._slot[cells] < 0].unique()
        if len(new) == 0:
            return
        start, count = self.tree.start[new.numpy()], self.tree.count[new.numpy()]
        made = self.jets.moments(self._points, self._weights, self._centre[new], start, count)
        if self._used + len(new) > len(self._moments):
            size = min(max(2 * len(self._moments), self._used + len(new)), self._used + len(self._slot))
            grown = torch.empty(size, self.jets.size, dtype=torch.float64)
            grown[: self._used] = self._moments[: self._used]
            self._moments = grown
        self._moments[self._used : self._used + len(new)] = made
        self._slot[new] = self._used + torch.arange(len(new))
        self._used += len(new)

    def _value(self, x: Tensor, tau: Tensor, choice: _Choice, want_score: bool) -> NoisedValue:
        """Sum what was chosen; differentiable in ``x``."""
        n, device, space = len(x), x.device, self.space
        q = space.unit_vectors(x)
        images = torch.cat([sign * q for sign in space.signs])
        times = (tau / space.slowdown).repeat(len(space.signs)).to(device)
        unit = choice.log_unit.repeat(len(space.signs)).to(device)
        total = torch.zeros(len(images), dtype=q.dtype, device=device)
        gradient = torch.zeros_like(images)
        same = bool((tau == tau[0]).all())

        def add(image: Tensor, value: Tensor, slope: Tensor | None) -> None:
            nonlocal total, gradient
            total = total.index_add(0, image, value)
            if slope is not None:
                gradient = gradient.index_add(0, image, slope)

        def time(image: Tensor) -> Tensor:
            return times[:1] if same else times[image]

        for image, cell in zip(*(a.split(_PAIRS >> 1) for a in choice.cells), strict=True):
            moments = self._moments.index_select(0, self._slot.index_select(0, cell)).to(device)
            centre, image = self._centre.index_select(0, cell).to(device), image.to(device)
            value, slope = self.jets.sums(
                images.index_select(0, image), centre, moments, time(image), unit[image], want_score
            )
            add(image, value, slope)
        for image, place in zip(*(a.split(_PAIRS) for a in choice.places), strict=True):
            point, weight = (a.index_select(0, place).to(device) for a in (self._points, self._weights))
            image = image.to(device)
            value, slope = self.jets.single(images.index_select(0, image), point, time(image), unit[image])
            add(image, weight * value, (weight * slope).unsqueeze(1) * point if want_score else None)

        p = total.reshape(-1, n).sum(0)
        error = (choice.log_error - choice.log_unit).exp().to(device)
        slope, slope_error = None, (choice.log_slope_error - choice.log_unit).exp().to(device)
        if want_score:
            signs = torch.tensor(space.signs, dtype=q.dtype, device=device).reshape(-1, 1, 1)
            slope = space.tangent(x, q, (signs * gradient.reshape(-1, *q.shape)).sum(0))
        log_unit = choice.log_unit.to(device) + (space.log_scale - self._log_total)
        return from_sum(self.manifold, x, p, error, slope, slope_error / math.sqrt(space.slowdown), log_unit, 3)


def _angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between unit vectors."""
    difference = a - b
    return 2 * (dot(difference, difference) / 4).clamp_max(1).sqrt().asin()


def _log_sums(values: Tensor, row: Tensor, n: int) -> Tensor:
    """Logarithms of the sums of exponentials by row."""
    top = torch.full((n,), _NONE, dtype=values.dtype).scatter_reduce(0, row, values, "amax")
    total = torch.zeros(n, dtype=values.dtype).index_add(0, row, (values - top[row]).exp())
    return torch.where(total > 0, top + total.clamp_min(1e-300).log(), _NONE)


def _grown(known: Tensor, values: Tensor, row: Tensor, level: Tensor, scale: Tensor) -> Tensor:
    """Logarithms of sums by row, with further terms; ``level``, by term ``scale``, is never far below them."""
    total = torch.zeros_like(known).index_add(0, row, (values - scale).exp())
    return torch.logaddexp(known, level + total.clamp_min(1e-300).log())
