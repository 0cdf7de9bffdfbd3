"""Whether a model puts its mass where held-out points are: by regions, and by levels of its density."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, DataError, NumericsError
from ..manifolds import Manifold
from .pit import KSResult, share_above

__all__ = [
    "DensityCalibration",
    "RegionCalibration",
    "density_calibration",
    "farthest_points",
    "nearest_centre",
    "region_calibration",
]

_LEAST_EXPECTED = 5.0
"""Smallest expected count of a cell of a chi-square test; smaller ones are counted together."""


@dataclass(frozen=True)
class RegionCalibration:
    """Counts per region of the model's samples and of held-out points, and the test that their shares agree.

    Attributes:
        centres: ``(k, *point_shape)``; a region is what is nearest to its centre.
        sample_counts: ``(k,)`` int64.
        held_out_counts: ``(k,)`` int64.
        chi_square: of the table of both counts, rare regions counted together.
        degrees_of_freedom: of that table.
        p_value: probability of at least this ``chi_square`` if both follow one law.
    """

    centres: Tensor
    sample_counts: Tensor
    held_out_counts: Tensor
    chi_square: float
    degrees_of_freedom: int
    p_value: float

    @property
    def sample_shares(self) -> Tensor:
        """The model's mass per region, ``(k,)`` float64."""
        return self.sample_counts.double() / self.sample_counts.sum()

    @property
    def held_out_shares(self) -> Tensor:
        """Share of the held-out points per region, ``(k,)`` float64."""
        return self.held_out_counts.double() / self.held_out_counts.sum()

    @property
    def z(self) -> Tensor:
        """Difference of the shares, model minus held-out, in standard deviations of equal laws, ``(k,)``."""
        n, m = self.sample_counts.sum(), self.held_out_counts.sum()
        pooled = (self.sample_counts + self.held_out_counts).double() / (n + m)
        sigma = (pooled * (1 - pooled) * (1 / n + 1 / m)).sqrt()
        gap = self.sample_shares - self.held_out_shares
        return torch.where(sigma > 0, gap / torch.where(sigma > 0, sigma, 1.0), 0.0)

    def __str__(self) -> str:
        return f"chi-square {self.chi_square:.1f} on {self.degrees_of_freedom} degrees, p = {self.p_value:.2g}"


def region_calibration(manifold: Manifold, samples: Tensor, held_out: Tensor, centres: Tensor) -> RegionCalibration:
    r"""Compare the model's mass per region, from samples, with held-out counts.

    With counts :math:`o_{ij}` of set i in region j, :math:`\chi^2 = \sum_{ij} (o_{ij} - e_{ij})^2 / e_{ij}`, and
    :math:`e_{ij}` the product of the margins over the total. Regions in which the smaller set expects fewer than 5
    points are counted together: which ones depends on the sums of both sets only, so that the test stays valid.

    Args:
        manifold: the manifold.
        samples: of the model, ``(n, *point_shape)``.
        held_out: ``(m, *point_shape)``.
        centres: of the regions, ``(k, *point_shape)``; chosen without looking at either set, as
            :func:`farthest_points` of the training points.

    Raises:
        ConfigError: fewer than two centres.
        DataError: too few points for a test of two regions.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> x, y, train = M.random_uniform(900, generator=g).split(300)
        >>> region_calibration(M, x, y, farthest_points(M, train, 8)).p_value > 0.01
        True

    References:
        Richardson and Weiss, *On GANs and GMMs*, 2018, arXiv:1805.12462 (shares of bins of a partition).
    """
    for name, points in (("samples", samples), ("held_out", held_out), ("centres", centres)):
        manifold.check_point(points, name)
    if len(centres) < 2:
        raise ConfigError(f"Regions need at least two centres; got {len(centres)}.")
    k = len(centres)
    table = torch.stack(
        [torch.bincount(nearest_centre(manifold, x, centres), minlength=k) for x in (samples, held_out)]
    )
    table = table.cpu()
    merged = _merge_rare(table)
    if merged.shape[1] < 2:
        raise DataError(
            f"{len(samples)} samples and {len(held_out)} held-out points are too few for two regions in which "
            f"{_LEAST_EXPECTED:g} are expected. Give more points, or fewer centres."
        )
    from scipy.stats import chi2

    counts = merged.double()
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    statistic, degrees = float(((counts - expected).square() / expected).sum()), counts.shape[1] - 1
    return RegionCalibration(centres, table[0], table[1], statistic, degrees, float(chi2.sf(statistic, degrees)))


def _merge_rare(table: Tensor) -> Tensor:
    """The table with its rarest columns added up until each expects enough points of either set."""
    pooled = table.sum(0)
    needed = _LEAST_EXPECTED * float(pooled.sum()) / max(float(table.sum(1).min()), 1e-9)
    order = pooled.argsort()
    table, pooled = table[:, order], pooled[order].double()
    small = int((pooled < needed).sum())
    while 0 < small < len(pooled) and float(pooled[:small].sum()) < needed:
        small += 1
    if small <= 1:
        return table
    return torch.cat([table[:, :small].sum(1, keepdim=True), table[:, small:]], 1)


def farthest_points(manifold: Manifold, x: Tensor, k: int) -> Tensor:
    """``k`` of the points, each the farthest from those before it, from the first row on: ``(k, *point_shape)``.

    Points that are equal to chosen ones are not chosen again: there may be fewer than ``k``.

    Args:
        manifold: the manifold.
        x: ``(n, *point_shape)``.
        k: how many.

    Raises:
        ConfigError: ``k`` not in 1..n.
    """
    manifold.check_point(x, "x")
    if not 1 <= k <= len(x):
        raise ConfigError(f"farthest_points needs 1 <= k <= {len(x)}, the number of points; got {k}.")
    chosen, reach = [0], manifold.dist(x, x[:1].expand_as(x))
    while len(chosen) < k and float(reach.max()) > 0:
        chosen.append(int(reach.argmax()))
        reach = torch.minimum(reach, manifold.dist(x, x[chosen[-1]].expand_as(x)))
        reach[chosen] = 0.0
    return x[chosen]


def nearest_centre(manifold: Manifold, x: Tensor, centres: Tensor) -> Tensor:
    """Index of the nearest centre of each point, ``(n,)``."""
    best, index = None, torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for k, centre in enumerate(centres.to(x)):
        distance = manifold.dist(x, centre.expand_as(x))
        if best is not None:
            index = torch.where(distance < best, k, index)
        best = distance if best is None else torch.minimum(best, distance)
    return index


@dataclass(frozen=True)
class DensityCalibration:
    """Mass of the highest-density regions of a model at whose edges held-out points lie.

    Attributes:
        levels: share of the samples with a higher density than each held-out point, ties counted half, ``(m,)``
            float64; uniform on [0, 1] if the points follow the model.
        test: Kolmogorov-Smirnov test of it, exact in the number of samples.
    """

    levels: Tensor
    test: KSResult

    def coverage(self, mass: float) -> float:
        """Share of the held-out points in the region of highest density that holds ``mass`` of the model."""
        return float((self.levels <= mass).double().mean())

    def __str__(self) -> str:
        covered = ", ".join(f"{self.coverage(q):.0%} in the {q:.0%} region" for q in (0.5, 0.9))
        return f"KS {self.test.statistic:.3f}, p = {self.test.p_value:.2g}; {covered}"


def density_calibration(sample_log_prob: Tensor, held_out_log_prob: Tensor) -> DensityCalibration:
    r"""Calibration of a log-likelihood by its own highest-density regions.

    .. math:: \alpha_i = P_{x \sim \text{model}}\big(p(x) > p(x_i)\big)

    is the mass of the smallest region of highest density that reaches the held-out point :math:`x_i`. If the points
    follow the model, :math:`\alpha` is uniform; small values in excess mean that the model is too wide (the points sit
    near its modes), large ones that it is too narrow. A density that is constant is calibrated in this sense whatever
    the points do: look at regions as well. Levels come from finitely many samples, and so the test is that of two
    samples.

    Args:
        sample_log_prob: log densities of the model at its own samples, ``(n,)``.
        held_out_log_prob: at held-out points, ``(m,)``.

    Raises:
        DataError: an empty set.
        NumericsError: a log density that is NaN or +inf; -inf, a point outside the support, is fine.

    Example:
        >>> import torch
        >>> z = torch.linspace(-3, 3, 601)
        >>> density_calibration(-z.square(), -z.square()).coverage(0.5)
        0.5008319467554077

    References:
        Hyndman, *Computing and graphing highest density regions*, 1996.
    """
    own, held_out = (a.detach().double().cpu().reshape(-1) for a in (sample_log_prob, held_out_log_prob))
    for name, values in (("sample_log_prob", own), ("held_out_log_prob", held_out)):
        if len(values) == 0:
            raise DataError(f"{name} is empty: give at least one log density.")
        bad = values.isnan() | (values == math.inf)
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise NumericsError(f"{int(bad.sum())} of {len(values)} values of {name} are {float(values[row])}.")
    from scipy.stats import ks_2samp

    found: Any = ks_2samp(own.numpy(), held_out.numpy())
    return DensityCalibration(share_above(held_out, own), KSResult(float(found.statistic), float(found.pvalue)))
