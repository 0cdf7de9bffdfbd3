"""Maximum mean discrepancy: unbiased estimate, permutation test, and the floor that real data set."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ConfigError, DataError, NumericsError
from ..manifolds import Manifold
from .grams import GeodesicGaussian, Gram
from .pairwise import blocks

__all__ = [
    "FloorResult",
    "PermutationResult",
    "mmd2_biased",
    "mmd2_unbiased",
    "mmd_permutation_test",
    "mmd_published",
    "real_vs_real_floor",
]

_MAX_POOLED = 30_000


def _sum(x: Tensor, y: Tensor, gram: Gram) -> float:
    """Sum over all pairs, in float64, block by block."""
    total = sum(float(gram(x[rows], y).sum(dtype=torch.float64)) for rows in blocks(len(x), len(y)))
    if not math.isfinite(total):
        raise NumericsError("The kernel has values that are not finite: check the points for NaN.")
    return total


def _diagonal(x: Tensor, gram: Gram) -> float:
    return sum(float(gram(x[rows], x[rows]).diagonal().sum(dtype=torch.float64)) for rows in blocks(len(x), 1024))


def _check_samples(x: Tensor, y: Tensor, gram: Gram) -> None:
    """Refuse samples of fewer than two points, or off the manifold of the kernel, if it has one."""
    manifold = getattr(gram, "manifold", None)
    if isinstance(manifold, Manifold):
        for name, points in (("x", x), ("y", y)):
            manifold.check_point(points, name)
    if len(x) < 2 or len(y) < 2:
        raise DataError(f"A two-sample statistic needs at least two points in each sample; got {len(x)} and {len(y)}.")


def mmd2_unbiased(x: Tensor, y: Tensor, gram: Gram) -> float:
    r"""Unbiased estimate of MMD^2 (a U-statistic), which may be negative.

    .. math::

        \frac{1}{n(n-1)}\sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)}\sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{nm}\sum_{i, j} k(x_i, y_j)

    Memory does not grow with the product of the sample sizes.

    Args:
        x: ``(n, *point_shape)``.
        y: ``(m, *point_shape)``.
        gram: the kernel, such as ``HeatGram(manifold)``.

    Raises:
        ManifoldError: a point that is not on the manifold of the kernel.
        DataError: fewer than two points in a sample.

    References:
        Gretton, Borgwardt, Rasch, Schoelkopf, Smola, *A kernel two-sample test*, JMLR 2012.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.metrics import Energy
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> x, y = M.random_uniform(500, generator=g), M.random_uniform(500, generator=g)
        >>> abs(mmd2_unbiased(x, y, Energy(M))) < 0.01
        True
    """
    _check_samples(x, y, gram)
    n, m = len(x), len(y)
    xx = (_sum(x, x, gram) - _diagonal(x, gram)) / (n * (n - 1))
    yy = (_sum(y, y, gram) - _diagonal(y, gram)) / (m * (m - 1))
    return xx + yy - 2 * _sum(x, y, gram) / (n * m)


def mmd2_biased(x: Tensor, y: Tensor, gram: Gram) -> float:
    """Biased estimate of MMD^2 (a V-statistic): with the diagonals, so that it is above 0 for equal distributions.

    Raises:
        ManifoldError: a point that is not on the manifold of the kernel.
        DataError: fewer than two points in a sample.
    """
    _check_samples(x, y, gram)
    n, m = len(x), len(y)
    return _sum(x, x, gram) / n**2 + _sum(y, y, gram) / m**2 - 2 * _sum(x, y, gram) / (n * m)


def mmd_published(x: Tensor, y: Tensor, manifold: Manifold, gamma: float = 1.0) -> float:
    r"""Root of the V-statistic with :math:`\exp(-\gamma d^2)`, 0 if that is negative: the estimator of few-step papers.

    Biased, and with a kernel that is not positive definite: compare only with numbers of the same estimator at the same
    sample sizes, beside :func:`real_vs_real_floor` with ``statistic=lambda a, b: mmd_published(a, b, manifold)``.
    """
    return math.sqrt(max(mmd2_biased(x, y, GeodesicGaussian(manifold, gamma)), 0.0))


@dataclass(frozen=True)
class PermutationResult:
    """Result of a permutation test.

    Attributes:
        mmd2: unbiased MMD^2 of the two samples.
        p_value: ``(1 + #{permuted >= observed}) / (1 + n_permutations)``.
        null_mean: mean over the permutations.
        null_std: standard deviation over the permutations.
        n_permutations: how many.
    """

    mmd2: float
    p_value: float
    null_mean: float
    null_std: float
    n_permutations: int

    def __str__(self) -> str:
        return f"MMD^2 = {self.mmd2:.2e} (permuted {self.null_mean:.1e} ± {self.null_std:.1e}), p = {self.p_value:.3f}"


def mmd_permutation_test(
    x: Tensor,
    y: Tensor,
    gram: Gram,
    n_permutations: int = 500,
    generator: torch.Generator | None = None,
) -> PermutationResult:
    """Two-sample test: unbiased MMD^2 against its distribution under random relabelling of the pooled sample.

    One Gram matrix of the pooled points in float32, 4 (n + m)^2 bytes, serves all permutations, as a matrix product
    with their labels.

    Args:
        x: ``(n, *point_shape)``.
        y: ``(m, *point_shape)``.
        gram: the kernel, such as ``HeatGram(manifold)``.
        n_permutations: how many; the smallest possible p-value is one over one more.
        generator: of the permutations, on the CPU.

    Raises:
        ManifoldError: a point that is not on the manifold of the kernel.
        DataError: fewer than two points in a sample, or more than 30,000 in both together.

    References:
        Gretton, Borgwardt, Rasch, Schoelkopf, Smola, *A kernel two-sample test*, JMLR 2012.
    """
    _check_samples(x, y, gram)
    n, m = len(x), len(y)
    if n + m > _MAX_POOLED:
        raise DataError(
            f"The Gram matrix of {n + m} pooled points does not fit; at most {_MAX_POOLED}. "
            "Take a random part of each sample."
        )
    if n_permutations < 1:
        raise ConfigError(f"n_permutations must be at least 1; got {n_permutations}.")
    pooled = torch.cat([x, y])
    matrix = _pooled_gram(pooled, gram)
    row_sums = torch.cat([matrix[rows].sum(1, dtype=torch.float64) for rows in blocks(n + m, n + m)])
    total = row_sums.sum()

    def statistics(labels: Tensor) -> Tensor:
        """``labels``: (n + m, b), 1 for the first sample and 0 for the second."""
        inside = torch.cat([matrix[rows] @ labels for rows in blocks(n + m, n + m)]).double()
        labels = labels.double()
        xx, to_all = (labels * inside).sum(0), row_sums @ labels
        xy = to_all - xx
        yy = total - to_all - xy
        return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    first = torch.zeros(n + m, 1, device=x.device)
    first[:n] = 1
    observed = float(statistics(first))
    batch = min(n_permutations, 256)
    permuted = []
    for start in range(0, n_permutations, batch):
        size = min(batch, n_permutations - start)
        chosen = torch.rand(n + m, size, generator=generator).argsort(0)[:n].to(x.device)
        permuted.append(statistics(torch.zeros(n + m, size, device=x.device).scatter_(0, chosen, 1.0)))
    null = torch.cat(permuted)
    p_value = (1 + int((null >= observed).sum())) / (1 + n_permutations)
    spread = float(null.std()) if n_permutations > 1 else math.nan
    return PermutationResult(observed, p_value, float(null.mean()), spread, n_permutations)


def _pooled_gram(pooled: Tensor, gram: Gram) -> Tensor:
    """Gram matrix in float32 with a zero diagonal, less its mean.

    No shift of the kernel changes the statistic, and small numbers round less.
    """
    size = len(pooled)
    matrix = torch.empty(size, size, dtype=torch.float32, device=pooled.device)
    for rows in blocks(size, size):
        block = gram(pooled[rows], pooled[rows.start :]).float()  # upper triangle; its mirror image is the lower one
        matrix[rows, rows.start :] = block
        matrix[rows.stop :, rows] = block[:, rows.stop - rows.start :].mT
    matrix.fill_diagonal_(0.0)
    mean = float(sum(matrix[rows].sum(dtype=torch.float64) for rows in blocks(size, size))) / (size * (size - 1))
    if not math.isfinite(mean):
        raise NumericsError("The kernel has values that are not finite: check the points for NaN.")
    matrix -= mean
    return matrix.fill_diagonal_(0.0)


@dataclass(frozen=True, eq=False)
class FloorResult:
    """Distribution of a statistic between disjoint random parts of real data.

    Attributes:
        values: one per repeat, ``(n_repeats,)`` float64.
        mean: their mean.
        std: their standard deviation.
    """

    values: Tensor
    mean: float
    std: float

    def __str__(self) -> str:
        return f"real vs real {self.mean:.2e} ± {self.std:.1e} ({len(self.values)} repeats)"


def real_vs_real_floor(
    data: Tensor,
    n: int | None = None,
    m: int | None = None,
    *,
    statistic: Callable[[Tensor, Tensor], float],
    n_repeats: int = 20,
    generator: torch.Generator | None = None,
) -> FloorResult:
    """What a statistic is between two disjoint samples of real data: no model can be shown to be better than that.

    Args:
        data: ``(size, *point_shape)``, without repeats.
        n: size of one sample; default half of the data.
        m: size of the other; default n.
        statistic: function of two samples, such as ``lambda a, b: mmd2_unbiased(a, b, HeatGram(manifold))``.
        n_repeats: how many random pairs of samples. They share points, so that the spread is that of one pair, and the
            mean of all is known less well than ``std / sqrt(n_repeats)``.
        generator: of the choice, on the CPU.

    Raises:
        DataError: the two samples together are more than the data.
    """
    n = len(data) // 2 if n is None else n
    m = n if m is None else m
    if n < 2 or m < 2 or n + m > len(data):
        raise DataError(f"Two disjoint samples of {n} and {m} points can't be drawn from {len(data)} points.")
    values = []
    for _ in range(n_repeats):
        order = torch.randperm(len(data), generator=generator)[: n + m].to(data.device)
        values.append(float(statistic(data[order[:n]], data[order[n:]])))
    result = torch.tensor(values, dtype=torch.float64)
    return FloorResult(result, float(result.mean()), float(result.std()) if n_repeats > 1 else math.nan)
