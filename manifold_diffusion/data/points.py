"""A set of points on a manifold, its distinct points, and its deterministic splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import Manifold

__all__ = ["PointSet", "Split", "deduplicate", "repeated", "split"]


@dataclass(frozen=True, eq=False)
class PointSet:
    """Points of one data set, checked to be finite and on their manifold.

    Attributes:
        manifold: the manifold.
        points: ``(n, *point_shape)``, at least one.
        name: short name for tables, plots and model cards.
        source: where the points come from, to cite.
        n_duplicates: how many points repeat an earlier point exactly; those of a de-duplicated set have been dropped.

    Raises:
        DataError: no points, or a batch shape other than ``(n,)``.
        ManifoldError: points that are not finite or not on the manifold.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> PointSet(Sphere(2), torch.eye(3), name="axes")
        PointSet(axes: 3 points on Sphere(2), torch.float32, 0 duplicates)
    """

    manifold: Manifold
    points: Tensor
    name: str = "points"
    source: str = ""
    n_duplicates: int = 0

    def __post_init__(self) -> None:
        self.manifold.check_point(self.points, self.name)
        if self.points.dim() != 1 + len(self.manifold.point_shape):
            raise DataError(
                f"{self.name} must have shape (n, *{self.manifold.point_shape}); got {tuple(self.points.shape)}."
            )
        if len(self.points) == 0:
            raise DataError(f"{self.name} holds no points.")

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        about = f"{len(self)} points on {self.manifold}, {self.points.dtype}, {self.n_duplicates} duplicates"
        return f"PointSet({self.name}: {about})"

    def deduplicated(self) -> PointSet:
        """The distinct points, each at its first place; ``n_duplicates`` counts what was dropped."""
        points, counts = deduplicate(self.points)
        return replace(self, points=points, n_duplicates=max(self.n_duplicates, int(counts.sum()) - len(points)))


@dataclass(frozen=True, eq=False)
class Split:
    """Disjoint parts of a data set.

    Attributes:
        train: training points.
        val: validation points.
        test: test points.
        seed: seed of the permutation.
        n_duplicates: how many repeated points were dropped before the split.
    """

    train: Tensor
    val: Tensor
    test: Tensor
    seed: int
    n_duplicates: int = 0

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part}={len(getattr(self, part))}" for part in ("train", "val", "test"))
        return f"Split({sizes}, seed={self.seed}, n_duplicates={self.n_duplicates})"


def deduplicate(points: Tensor) -> tuple[Tensor, Tensor]:
    """Drop exact repeats and keep the order of first appearance.

    Args:
        points: ``(n, *point_shape)``.

    Returns:
        The distinct points ``(m, *point_shape)`` and how often each occurred, ``(m,)`` int64.

    Example:
        >>> import torch
        >>> deduplicate(torch.tensor([[2.0], [1.0], [2.0]]))
        (tensor([[2.],
                [1.]]), tensor([2, 1]))
    """
    if len(points) == 0:
        return points, torch.zeros(0, dtype=torch.long, device=points.device)
    inverse, counts = _places(points)
    index = torch.arange(len(points), device=points.device)
    first = torch.full_like(counts, len(points)).scatter_reduce(0, inverse, index, "amin")
    order = first.argsort()
    return points[first[order]], counts[order]


def repeated(points: Tensor, others: Tensor) -> Tensor:
    """Which points stand among others too, exactly: test points that a model may have learned by heart.

    Args:
        points: ``(n, *point_shape)``.
        others: ``(m, *point_shape)``.

    Returns:
        ``(n,)`` bool.

    Example:
        >>> import torch
        >>> repeated(torch.tensor([[2.0], [1.0], [2.0]]), torch.tensor([[3.0], [2.0]]))
        tensor([ True, False,  True])
    """
    if len(points) == 0 or len(others) == 0:
        return torch.zeros(len(points), dtype=torch.bool, device=points.device)
    place, _ = _places(torch.cat([points, others]))
    return torch.isin(place[: len(points)], place[len(points) :])


def _places(points: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each point's place, the same for equal points, and how often each place occurs."""
    rows = points.reshape(len(points), -1) + 0.0  # -0.0 becomes 0.0: the same number, but other bytes
    _, inverse, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    return inverse, counts


def split(
    points: PointSet | Tensor,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    *,
    unique: bool = True,
) -> Split:
    """Split into training, validation and test points, the same way every time.

    Exact repeats are dropped first, so that no test point stands in the training set: a density with atoms there would
    reach any likelihood. Validation and test get ``floor(fraction * n)`` points, training the rest (or its floor, if
    the fractions don't add up to 1).

    Args:
        points: a :class:`PointSet` or a tensor ``(n, *point_shape)``.
        fractions: of training, validation and test; a part with fraction 0 is empty.
        seed: seed of the permutation, drawn by a ``torch.Generator`` of its own on the CPU.
        unique: whether to drop repeats first.

    Raises:
        ConfigError: fractions that are negative, or more than 1 in total.
        DataError: too few points for a part that should not be empty.

    Example:
        >>> import torch
        >>> split(torch.arange(10.0)[:, None], (0.6, 0.2, 0.2))
        Split(train=6, val=2, test=2, seed=0, n_duplicates=0)
    """
    parts = tuple(float(f) for f in fractions)
    if len(parts) != 3 or not all(math.isfinite(f) and f >= 0 for f in parts) or not 0 < sum(parts) <= 1 + 1e-9:
        raise ConfigError(f"fractions must be three numbers >= 0 with a sum in (0, 1]; got {tuple(fractions)}.")
    tensor = points.points if isinstance(points, PointSet) else points
    n_duplicates = points.n_duplicates if isinstance(points, PointSet) else 0
    if unique:
        n_before = len(tensor)
        tensor, _ = deduplicate(tensor)
        n_duplicates = max(n_duplicates, n_before - len(tensor))
    n = len(tensor)
    n_train, n_val, n_test = (math.floor(f * n + 1e-9) for f in parts)
    if abs(sum(parts) - 1) < 1e-9 and parts[0] > 0:
        n_train = n - n_val - n_test
    for part, fraction, size in zip(("train", "val", "test"), parts, (n_train, n_val, n_test), strict=True):
        if fraction > 0 and size == 0:
            raise DataError(
                f"{n} distinct points are too few: the part {part!r} with fraction {fraction} would be empty."
            )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(tensor.device)
    train, val, test = (tensor[i] for i in order[: n_train + n_val + n_test].split([n_train, n_val, n_test]))
    return Split(train, val, test, seed, n_duplicates)
