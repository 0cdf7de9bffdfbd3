"""The points of noised data, in memory or in a file, and checks of what is said about them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..._errors import ConfigError, DataError
from ..._tensors import untracked, version
from ...manifolds import Manifold
from ..mixture import are_weights

__all__ = ["DataPoints", "checked_rtol", "checked_weights", "merged"]


class DataPoints:
    """Checked points with their weights, which can be read in blocks.

    Args:
        manifold: where they are.
        points: ``(n, *point_shape)``, a tensor or a NumPy array.
        weights: ``(n,)`` or None.
        block: points of an array that are read at a time.

    Attributes:
        points: a tensor, or an array that stays where it is.
        weights: float64.
    """

    weights: Tensor

    def __init__(
        self, manifold: Manifold, points: Tensor | np.ndarray, weights: Tensor | None, block: int, merge: bool
    ) -> None:
        if block < 1:
            raise ConfigError(f"block must be at least 1; got {block}.")
        self.manifold, self.block = manifold, block
        self._total: tuple[Tensor, float] | None = None
        if not isinstance(points, Tensor | np.ndarray):
            raise DataError(f"points must be a tensor or a NumPy array; got {type(points).__name__}.")
        if points.ndim != 1 + len(manifold.point_shape) or len(points) == 0:
            raise DataError(
                f"points must have shape (n, {', '.join(map(str, manifold.point_shape))}) with n >= 1; got "
                f"{tuple(points.shape)}."
            )
        with untracked():
            self.points = _tracked(points) if isinstance(points, Tensor) else points
        for part in self._parts():
            manifold.check_point(self.read(part), "points")
        self.weights = checked_weights(weights, len(points))
        if merge:
            self.points, self.weights = merged(self.tensor("merged"), self.weights)

    def __len__(self) -> int:
        return len(self._points)

    @property
    def points(self) -> Tensor | np.ndarray:
        return self._points

    @points.setter
    def points(self, points: Tensor | np.ndarray) -> None:
        self._points, self._version = points, version(points) if isinstance(points, Tensor) else 0

    def check_unchanged(self) -> None:
        """Refuse points that were changed in place: what has been computed of them would be that of others.

        Raises:
            DataError: if they were.
        """
        if isinstance(self._points, Tensor) and version(self._points) != self._version:
            raise DataError(
                "The points have been changed in place since they were given. Give a clone, or build NoisedData anew."
            )

    @property
    def total(self) -> float:
        """Sum of the weights, taken once for the same weights."""
        if self._total is None or self._total[0] is not self.weights:
            self._total = self.weights, float(self.weights.sum())
        return self._total[1]

    @property
    def held(self) -> bool:
        """Whether the points are in memory."""
        return isinstance(self.points, Tensor)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Points and weights: all of them if they are in memory, a block at a time otherwise."""
        if isinstance(self.points, Tensor):
            yield self.points, self.weights
            return
        for part in self._parts():
            points = self.read(part)
            self.manifold.check_point(points, "points, which have changed since they were given,")
            yield points, self.weights[part]

    def read(self, part: slice | np.ndarray) -> Tensor:
        """Some of the points."""
        if isinstance(self.points, Tensor):
            return self.points[part]
        return torch.from_numpy(np.array(self.points[part]))

    def tensor(self, what: str) -> Tensor:
        """The points, if they are in memory; ``what`` says what for."""
        if not isinstance(self.points, Tensor):
            raise ConfigError(
                f"Points in a NumPy array (a memory map) can't be {what}. Pass torch.as_tensor(points) to hold them in "
                "memory; evaluators 'full' and 'spectral' read them from the array."
            )
        return self.points

    def _parts(self) -> list[slice]:
        return [slice(i, min(i + self.block, len(self))) for i in range(0, len(self), self.block)]


def checked_weights(weights: Tensor | None, n: int) -> Tensor:
    """Weights of ``n`` points in float64, 1 each by default.

    Raises:
        DataError: if they are negative, not finite, all zero, or not ``n``.
    """
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    if n == 0 and len(weights) == 0:
        return torch.zeros(0, dtype=torch.float64)
    w = torch.as_tensor(weights).detach().cpu().double()
    if not are_weights(w, n):
        raise DataError(
            f"weights must be one finite number >= 0 per point ({n}), not all zero; got shape {tuple(w.shape)}. "
            "Drop the rows with bad weights first."
        )
    if not bool(w.sum().isfinite()):
        raise DataError("The sum of the weights is beyond the range of float64. Divide them by the largest one first.")
    return w.clone()


def _tracked(points: Tensor) -> Tensor:
    """Points that remember in-place changes, which those of inference mode do not."""
    return points.clone() if points.is_inference() else points.detach()


def checked_rtol(rtol: float) -> float:
    """A relative error in (0, 1)."""
    if not 0 < rtol < 1:
        raise ConfigError(f"rtol, a relative error, must be in (0, 1); got {rtol}.")
    return float(rtol)


def merged(points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct points in the order of their first occurrence, with the sums of their weights."""
    unique, inverse = torch.unique(points.flatten(1), dim=0, return_inverse=True)
    inverse, index = inverse.cpu(), torch.arange(len(points))
    first = torch.full((len(unique),), len(points)).scatter_reduce(0, inverse, index, "amin")
    total = torch.zeros(len(unique), dtype=torch.float64).index_add(0, inverse, weights)
    order = first.argsort()
    return points[first[order].to(points.device)], total[order]
