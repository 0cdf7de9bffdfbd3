"""Whether samples are copies: their distance to the training points against that of held-out points."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import DataError
from ..manifolds import Manifold, cast_points
from .estimate import Estimate
from .pairwise import blocks, squared_chord
from .pit import share_above

__all__ = ["Memorisation", "memorisation", "nearest_distance"]


@dataclass(frozen=True)
class Memorisation:
    r"""Comparison of distances to the nearest training point.

    Attributes:
        auc: probability that a sample is nearer to the training points than a held-out point is (a tie counts half),
            with its standard error; one half for draws of the true law, 1 for copies.
        z: :math:`(\mathrm{auc} - \tfrac12)` over its standard deviation under the true law.
        p_value: probability of at least this ``z`` under the true law.
        sample_distances: ``(n,)`` float64.
        held_out_distances: ``(m,)`` float64.
    """

    auc: Estimate
    z: float
    p_value: float
    sample_distances: Tensor
    held_out_distances: Tensor

    def __str__(self) -> str:
        return f"AUC {self.auc}, z = {self.z:.1f}, p = {self.p_value:.2g}"


def memorisation(manifold: Manifold, samples: Tensor, held_out: Tensor, train: Tensor) -> Memorisation:
    r"""Test whether samples are nearer to the training points than fresh points of the same law would be.

    Given the training points, the distances of draws of the true law and of held-out points are independent and follow
    one law: their ranks are exchangeable and the Mann-Whitney statistic

    .. math:: \mathrm{auc} = \frac1{nm}\sum_{i,j} \mathbf 1[d_i < d'_j] + \tfrac12 \mathbf 1[d_i = d'_j]

    has mean 1/2 and variance :math:`(n + m + 1)/12nm` (less for ties), whatever that law is. An excess means copies,
    or a model that is too concentrated where the data are dense; a deficit, samples where there are no data. The
    standard error of ``auc`` itself is DeLong's.

    Args:
        manifold: the manifold.
        samples: of the model, ``(n, *point_shape)``.
        held_out: ``(m, *point_shape)``, not seen in training.
        train: training points, ``(k, *point_shape)``.

    Raises:
        DataError: fewer than two samples or held-out points, or no training point.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> train, held_out, fresh = M.random_uniform(300, generator=g).split(100)
        >>> abs(memorisation(M, fresh, held_out, train).z) < 3, memorisation(M, train, held_out, train).auc.value
        (True, 1.0)

    References:
        Meehan, Chaudhuri and Dasgupta, *A non-parametric test to detect data-copying in generative models*, 2020,
        arXiv:2004.05675; DeLong et al., *Comparing the areas under two or more correlated receiver operating
        characteristic curves*, 1988.
    """
    if len(samples) < 2 or len(held_out) < 2:
        raise DataError(f"memorisation needs two samples and two held-out points; got {len(samples)}, {len(held_out)}.")
    near, far = (nearest_distance(manifold, x, train).cpu() for x in (samples, held_out))
    n, m = len(near), len(far)
    beaten, won = share_above(near, far), 1 - share_above(far, near)
    error = math.sqrt(float(beaten.var()) / n + float(won.var()) / m)
    _, ties = torch.cat([near, far]).unique(return_counts=True)
    total, ties = n + m, ties.double()
    lost = float((ties**3 - ties).sum()) / (total * (total - 1))
    sigma = math.sqrt(max((total + 1 - lost) / (12 * n * m), 0.0))
    auc = float(beaten.mean())
    z = (auc - 0.5) / sigma if sigma > 0 else 0.0
    return Memorisation(Estimate(auc, error), z, math.erfc(z / math.sqrt(2)) / 2, near, far)


def nearest_distance(manifold: Manifold, x: Tensor, points: Tensor) -> Tensor:
    """Geodesic distance of each point to the nearest of others, exact, ``(n,)`` float64.

    The chord of ``embed`` never exceeds the distance: only pairs whose chord is below the distance to the point of the
    least chord are looked at.

    Args:
        manifold: the manifold.
        x: ``(n, *point_shape)``.
        points: ``(m, *point_shape)``.

    Raises:
        DataError: if there is no point to be near to.
    """
    manifold.check_point(x, "x")
    manifold.check_point(points, "points")
    if len(points) == 0:
        raise DataError("There is no point to measure the distance to: points is empty.")
    x, points = cast_points(manifold, x, torch.float64), cast_points(manifold, points.to(x.device), torch.float64)
    e, f = manifold.embed(x), manifold.embed(points)
    rounding = 1e-14 * float(1 + f.square().sum(1).max())
    out = [x.new_zeros(0)]
    for rows in blocks(len(x), len(points)):
        s = squared_chord(e[rows], f)
        best = manifold.dist(x[rows], points[s.argmin(1)])
        i, k = (s <= best.square().unsqueeze(1) * (1 + 1e-9) + rounding).nonzero(as_tuple=True)
        for part in blocks(len(i), 1):
            best.scatter_reduce_(0, i[part], manifold.dist(x[rows][i[part]], points[k[part]]), "amin")
        out.append(best)
    return torch.cat(out)
