"""A tree of cells over points of a sphere: faces of a cube, halved in all directions as long as they hold many points.

A cell is a range of the points in Morton order. Everything is done for all cells of a level at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CellTree", "begins", "build_tree", "expand_ranges", "parts_of", "reduced", "versines"]

_AT_A_TIME = 1 << 15
"""Points that are worked on at a time."""


@dataclass(frozen=True)
class CellTree:
    """Cells over n sorted points; a parent comes before its children, which have consecutive numbers.

    Attributes:
        place: place of each row of the data in the order of the cells, ``(n,)``.
        points: unit vectors in that order, ``(n, d)``.
        start: first place of each cell.
        count: number of its points.
        first: number of its first child.
        children: number of its children, 0 for a leaf.
        parent: of each cell, -1 at the top.
        centre: unit vectors, ``(cells, d)``.
        depth: the largest 1 - c . y of a centre c and its points y.
        levels: the numbers of the cells, in sets that don't overlap; the first set has no parents.
    """

    place: np.ndarray
    points: np.ndarray
    start: np.ndarray
    count: np.ndarray
    first: np.ndarray
    children: np.ndarray
    parent: np.ndarray
    centre: np.ndarray
    depth: np.ndarray
    levels: list[slice]

    def sums(self, values: np.ndarray, among: np.ndarray | None = None, known: np.ndarray | None = None) -> np.ndarray:
        """Sums over the points of every cell, of values ``(n, k)`` in the order of the places.

        Args:
            values: what is summed.
            among: ascending numbers of the cells whose sums are to be renewed; default all.
            known: the sums so far, for the others.
        """
        out = np.zeros((len(self.start), values.shape[1])) if known is None else known.copy()
        for level in reversed(self.levels):
            cells = np.arange(level.start, level.stop) if among is None else among[_between(among, level)]
            for source, start, part in (
                (values, self.start, cells[self.children[cells] == 0]),
                (out, self.first, cells[self.children[cells] > 0]),
            ):
                if len(part):
                    length = self.count if source is values else self.children
                    part = part[start[part].argsort()]
                    out[part] = reduced(np.add, source, start[part], length[part])
        return out

    def path(self, places: np.ndarray) -> np.ndarray:
        """Numbers of the cells that hold any of the places."""
        found = []
        for level in self.levels:
            at = np.searchsorted(self.start[level], places, side="right") - 1
            inside = (at >= 0) & (places < (self.start[level] + self.count[level])[at])
            found.append(level.start + np.unique(at[inside]))
        return np.concatenate(found)


def expand_ranges(start: Any, count: Any) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of ranges, one after the other, and which range each is from."""
    count = np.asarray(count)
    owner = np.repeat(np.arange(len(count)), count)
    offset = np.asarray(start) - begins(count)
    return offset[owner] + np.arange(len(owner)), owner


def build_tree(points: np.ndarray, leaf: int) -> CellTree:
    """Cells of at most ``leaf`` points, but for points that can't be told apart.

    Args:
        points: unit vectors, ``(n, d)``, float64.
        leaf: largest number of points of a cell that is not halved.
    """
    n = points.shape[1] - 1
    bits = 60 // n  # with the number of the face the code has 63 bits
    codes = np.concatenate([_morton(points[i : i + _AT_A_TIME], bits) for i in range(0, len(points), _AT_A_TIME)])
    order = codes.argsort(kind="stable")
    codes, points = codes[order], points[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))

    starts, counts = _runs(codes >> (n * bits))
    levels = [slice(0, len(starts))]
    columns = {"start": [starts], "count": [counts], "parent": [np.full(len(starts), -1)]}
    first, children = np.zeros(len(starts), dtype=np.int64), np.zeros(len(starts), dtype=np.int64)
    active = np.flatnonzero(columns["count"][0] > leaf)
    begin, size = columns["start"][0][active], columns["count"][0][active]
    for level in range(1, bits + 1):
        if len(active) == 0:
            break
        inside, owner = expand_ranges(begin, size)
        prefix = codes[inside] >> (n * (bits - level))
        new = np.flatnonzero(np.r_[True, (prefix[1:] != prefix[:-1]) | (owner[1:] != owner[:-1])])
        parts = np.diff(new, append=len(inside))
        number = np.bincount(owner[new], minlength=len(active))
        # A cell whose points are all in one of its parts stays as it is, and is halved again.
        split = number > 1
        made = split[owner[new]]
        base = levels[-1].stop
        first[active[split]] = base + np.r_[0, number[split].cumsum()[:-1]]
        children[active[split]] = number[split]
        levels.append(slice(base, base + int(made.sum())))
        columns["start"].append(inside[new][made])
        columns["count"].append(parts[made])
        columns["parent"].append(active[owner[new]][made])
        first, children = (np.concatenate([a, np.zeros(int(made.sum()), dtype=np.int64)]) for a in (first, children))
        large = base + np.flatnonzero(parts[made] > leaf)
        active = np.sort(np.concatenate([active[~split], large]))
        start, count = np.concatenate(columns["start"]), np.concatenate(columns["count"])
        active = active[start[active].argsort()]
        begin, size = start[active], count[active]
    levels = [s for s in levels if s.stop > s.start]
    start, count, parent = (np.concatenate(columns[k]) for k in ("start", "count", "parent"))
    centre, depth = np.empty((len(start), n + 1)), np.empty(len(start))
    for cells in parts_of(levels, count):
        middle = reduced(np.add, points, start[cells], count[cells])
        length = np.linalg.norm(middle, axis=1, keepdims=True)
        # The sum of antipodes may vanish: any unit vector is a centre.
        centre[cells] = np.where(length > 1e-6, middle / np.maximum(length, 1e-6), points[start[cells]])
        versine = versines(points, centre[cells], *expand_ranges(start[cells], count[cells]))
        depth[cells] = reduced(np.maximum, versine, begins(count[cells]), count[cells])
    return CellTree(place, points, start, count, first, children, parent, centre, depth, levels)


def parts_of(levels: list[slice], count: np.ndarray) -> Iterator[slice]:
    """Cells of one level and in order, with few enough points together to stay in a cache, or one by one."""
    for level in levels:
        batch = count[level].cumsum() // _AT_A_TIME
        yield from (slice(level.start + i, level.start + i + k) for i, k in zip(*_runs(batch), strict=True))


def versines(points: np.ndarray, centres: np.ndarray, inside: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """1 - c . y of points of cells, from :func:`expand_ranges`; of the difference, so that nothing cancels."""
    difference = points.take(inside, 0) - centres.take(owner, 0)
    return np.einsum("ij,ij->i", difference, difference) / 2


def begins(count: np.ndarray) -> np.ndarray:
    """Where ranges of these lengths begin, one after the other."""
    return np.concatenate([[0], count.cumsum()[:-1]]) if len(count) else count


def _between(numbers: np.ndarray, level: slice) -> slice:
    return slice(*np.searchsorted(numbers, [level.start, level.stop]))


def reduced(operation: Any, values: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """A reduction over ascending ranges of rows, none of them empty."""
    ends = np.stack([start, start + count], 1).reshape(-1)
    return operation.reduceat(values[: ends[-1]], ends[:-1], axis=0)[::2]


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal values begin, and how long they are."""
    start = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    return start, np.diff(start, append=len(values))


def _morton(points: np.ndarray, bits: int) -> np.ndarray:
    """Number of the face of the cube, then the bits of the angles on it, interleaved."""
    d = points.shape[1]
    axis = np.abs(points).argmax(1)
    rows = np.arange(len(points))
    top = points[rows, axis]
    code = (2 * axis + (top < 0)) << ((d - 1) * bits)
    angles = np.arctan(points / top[:, None]) * (2 / np.pi) + 0.5
    cells = np.minimum((angles * 2.0**bits).astype(np.int64), 2**bits - 1)
    ten = [((np.arange(1024) >> b) & 1) << (b * (d - 1)) for b in range(10)]
    spread = np.bitwise_or.reduce(ten)  # ten bits with gaps for those of the others
    for k in range(1, d):
        row = cells[rows, (axis + k) % d]
        for b in range(0, bits, 10):
            code |= spread[(row >> b) & 1023] << (b * (d - 1) + d - 1 - k)
    return code
