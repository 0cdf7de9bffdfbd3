"""Kernels whose widths, directions and weights a perceptron reads off the neighbourhood of each point."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ConfigError, DataError, NumericsError
from .._tensors import version
from ..heat_kernels.mixture import draw_index
from ..manifolds import Manifold, tangent_coordinates
from ..metrics.kernel_density import FLOOR
from ..metrics.mixture_weights import log_uniform
from ..metrics.neighbours import nearest_others
from ..metrics.normal_kernels import (
    coefficients,
    log_sums,
    monomials,
    normal_coordinates,
    normal_reach,
    sample_normal,
)
from ..metrics.pairwise import over_batch
from .layers import linear

__all__ = ["LIMIT", "KernelField", "LocalKernels", "held_points", "standardised"]

NARROW = (1e-2, 1e-3, 1e-4)
"""Standard deviations of the kernels for near and exact repeats, in units of the manifold's distance."""

LIMIT = 30.0
"""Largest standardised feature and log of a factor: out of reach unless nearly all points are repeated."""

_OUTSIDE = 1e-4
"""Mass of a kernel that may lie beyond the injectivity radius, where it is lost: wide kernels are worth more."""


@dataclass(frozen=True)
class LocalKernels:
    """Normal laws in the tangent spaces at n centres, c of them at each, those of given widths last.

    Attributes:
        means: coordinates in the tangent basis, ``(n, c, dim)``.
        factors: lower Cholesky factors of the covariances, ``(n, c, dim, dim)``.
        log_weights: ``(n, c)``; together with the uniform law they sum to one.
        log_uniform: log weight of the uniform law, ``()``; minus infinity where there is none.
    """

    means: Tensor
    factors: Tensor
    log_weights: Tensor
    log_uniform: Tensor


@dataclass(frozen=True)
class _Neighbours:
    """The centres and the k nearest others of each, nearest first."""

    centres: Tensor  # (n, *point_shape), float64
    basis: Tensor  # (n, dim, *point_shape), float64
    index: Tensor  # (n, k)
    seen: Tensor  # (n, k, n_monomials): of the coordinates where each sees its neighbours, as the perceptron's weights
    squares: Tensor  # (n, k): squared distances to them
    coordinates: Tensor  # (n, k, dim): where its neighbours see it, float64
    jacobian: Tensor  # (n, k): log determinant of exp there, float64
    copy: Tensor  # (n,): number of a centre among those of its place


class KernelField(nn.Module):
    r"""A density of normal kernels at data points, shaped by what a perceptron sees of the points around each.

    .. math::
        p(x) = \sum_i \sum_m w_{im} \frac{N(\log_{c_i} x;\, \mu_{im}, \Sigma_{im})}{|\det d\exp_{c_i}|} + \frac{w_0}{V},
        \qquad \Sigma_{im} = \sum_k a_{imk} S_k(i) + h_{im}^2, \qquad \mu_{im} = \sum_k b_{imk} m_k(i)

    :math:`m_k(i)` and :math:`S_k(i)` are mean and second moment of :math:`\log_{c_i}` of the k nearest other points,
    for a few k; the perceptron gives :math:`a \ge 0`, :math:`|b| \le 1`, :math:`h` and :math:`w` from their sizes and
    shapes, which don't depend on the basis: the density moves with the data under isometries. Kernel density estimates
    with fixed, adaptive and covariance bandwidths are special cases.

    On a manifold of finite injectivity radius means and widths are cut so that at most 1e-4 of a kernel lies beyond it,
    where the density does not see it: it integrates to one less that much, and is never too large.

    In training mode, :meth:`forward` is the density of each point of a batch under the kernels of the points that are
    not in the batch, seen without the batch: what is learned is to predict new points. Of repeated points as many
    copies are left out as the batch has.

    Args:
        manifold: where the data live.
        centres: data points ``(n, *point_shape)``, or the number of points that a saved state will bring.
        scales: numbers k of neighbours; those above half of the points are dropped.
        components: kernels per point whose shapes are learned.
        narrow: standard deviations of further kernels at each point, of which only the weights are learned, for points
            that are repeated, exactly or nearly; at least 1e-4, as density at repeats would grow without bound.
        width: of the perceptron.
        nearest: in training mode, centres whose kernels are summed at each point, the nearest (a lower bound).
        seed: of the initial weights.

    Raises:
        ManifoldError: if a point is not on the manifold.
        DataError: if there are fewer than 8 points.
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.networks import KernelField
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> field = KernelField(M, M.random_uniform(100, generator=g)).eval()
        >>> field(M.random_uniform(5, generator=g)).shape
        torch.Size([5])
    """

    centres: Tensor
    feature_mean: Tensor
    feature_std: Tensor

    def __init__(
        self,
        manifold: Manifold,
        centres: Tensor | int,
        scales: Sequence[int] = (3, 6, 12, 24, 48, 96),
        components: int = 3,
        narrow: Sequence[float] = NARROW,
        width: int = 32,
        nearest: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not scales or min(scales) < 1 or components < 1 or width < 1 or nearest < 1:
            raise ConfigError(
                f"KernelField needs scales, components, width and nearest >= 1; got {tuple(scales)}, {components}, "
                f"{width}, {nearest}."
            )
        if not narrow or not all(FLOOR <= h < math.inf for h in narrow):
            raise ConfigError(f"narrow needs one or more standard deviations of at least {FLOOR}; got {tuple(narrow)}.")
        points = held_points("KernelField", manifold, centres)
        size = len(points)
        self.scales = tuple(k for k in scales if k <= size // 2) or (size // 2,)
        self.manifold, self.components, self.width, self.nearest, self.seed = manifold, components, width, nearest, seed
        self.narrow = tuple(float(h) for h in narrow)
        n_features, n_scales = 3 * len(self.scales) + 1, len(self.scales)
        g = torch.Generator().manual_seed(seed)
        self.first, self.second = linear(g, n_features, width), linear(g, width, width)
        self.last = linear(g, width, components * (2 * n_scales + 2) + len(self.narrow))
        start = torch.zeros(components, 2 * n_scales + 2)
        # Standard deviations a quarter of the neighbours' distances, from narrow to wide.
        start[:, :n_scales] = -3 + 0.3 * torch.randn(components, n_scales, generator=g)
        start[:, n_scales] = -3 + torch.linspace(-1.5, 1.5, components)
        self.last.weight.data.mul_(0.1)
        self.last.bias.data.copy_(torch.cat([start.reshape(-1), torch.full((len(self.narrow),), -3.0)]))
        self.uniform = nn.Parameter(torch.tensor(-4.6)) if log_uniform(manifold) is not None else None
        self._around: tuple[Any, _Neighbours] | None = None
        self.register_buffer("centres", points)
        self.register_buffer("feature_mean", torch.zeros(n_features))
        self.register_buffer("feature_std", torch.ones(n_features))
        if not isinstance(centres, int):
            features = self._look(None)[0]
            self.feature_mean.copy_(features.mean(0))
            self.feature_std.copy_(features.std(0) + 1e-3)

    # ------------------------------------------------------------------ the kernels

    def kernels(self, left_out: Tensor | None = None) -> LocalKernels:
        """The kernels, as if the points of the mask ``left_out`` ``(n,)`` were not there."""
        M, n, fixed = self.manifold, len(self.centres), len(self.narrow)
        features, means, moments, sizes = self._look(left_out)
        h = nn.functional.silu(self.first(standardised(features, self.feature_mean, self.feature_std)))
        flat, k = self.last(nn.functional.silu(self.second(h))).double(), len(self.scales)
        out = flat[:, :-fixed].reshape(n, self.components, -1)
        spread, isotropic = out[..., :k].clamp(max=LIMIT).exp(), out[..., k].clamp(max=LIMIT).exp()
        pull, log_w = out[..., k + 1 : -1].tanh(), out[..., -1]
        mu = torch.einsum("nck,nka->nca", pull, means.double())
        eye = torch.eye(M.dim, dtype=mu.dtype, device=mu.device)
        cov = torch.einsum("nck,nkab->ncab", spread, moments.double())
        # Moments are right to the rounding of float32: no axis is thinner than a thousandth of the largest.
        ball = isotropic * sizes[:, :1].double() / M.dim + 1e-6 * cov.diagonal(dim1=-2, dim2=-1).sum(-1)
        cov = cov + ball[..., None, None] * eye
        same = torch.tensor(self.narrow, dtype=cov.dtype, device=cov.device).square()
        if math.isfinite(M.injectivity_radius):  # a tenth of the radius for the means, the rest for the widths
            mu = mu * (0.1 * M.injectivity_radius / mu.norm(dim=-1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
            widest = (0.9 * normal_reach(M, _OUTSIDE)) ** 2
            cov = cov * (widest / _largest(cov + FLOOR**2 * eye)).clamp(max=1)[..., None, None]
            same = same.clamp(max=widest)
        cov = torch.cat([cov + FLOOR**2 * eye, (same[:, None, None] * eye).expand(n, -1, -1, -1)], 1)
        mu = nn.functional.pad(mu, (0, 0, 0, fixed))
        log_w = torch.cat([log_w, flat[:, -fixed:]], 1)
        factors, info = torch.linalg.cholesky_ex(cov)
        if bool(info.any()):
            raise NumericsError(
                f"The covariance of kernel {int(info.flatten().nonzero()[0])} is not positive definite."
            )
        if left_out is not None:
            log_w = log_w.masked_fill(left_out.unsqueeze(1), -math.inf)
        log_w = log_w - torch.logsumexp(log_w.flatten(), 0)
        if self.uniform is None:
            return LocalKernels(mu, factors, log_w, log_w.new_tensor(-math.inf))
        u = self.uniform.double()
        return LocalKernels(mu, factors, log_w + nn.functional.logsigmoid(-u), nn.functional.logsigmoid(u))

    def forward(self, x: Tensor) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``.

        In training mode of centres ``(n, *point_shape)`` under the others, ``(n,)``; see above.
        """
        if not self.training:
            return self.log_prob(x)
        row, left_out = self._rows(x)
        around = self._neighbours
        near, kernels = around.index[row], self.kernels(left_out)
        laws = coefficients(kernels.means, kernels.factors, kernels.log_weights)[near]
        log_p = (monomials(around.coordinates[row]).unsqueeze(-2) @ laws).squeeze(-2)
        return self._with_uniform((log_p - around.jacobian[row].unsqueeze(-1)).flatten(1), kernels).to(x.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density under all kernels, ``(*batch,)``."""
        around, kernels = self._neighbours, self.kernels()
        laws = coefficients(kernels.means, kernels.factors, kernels.log_weights)

        def of_rows(rows: Tensor) -> Tensor:
            return self._with_uniform(log_sums(self.manifold, around.centres, around.basis, laws, rows), kernels)

        return over_batch(self.manifold, of_rows, x.double()).to(x.dtype)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, *point_shape)``."""
        M, kernels, around = self.manifold, self.kernels(), self._neighbours
        log_w = torch.cat([kernels.log_weights.flatten(), kernels.log_uniform.reshape(1)])
        pick = draw_index(log_w.exp(), n, generator)
        which = pick.clamp(max=len(log_w) - 2)
        centre = which // kernels.log_weights.shape[1]
        means, factors = kernels.means.flatten(0, 1)[which], kernels.factors.flatten(0, 1)[which]
        uniform = None if self.uniform is None else pick == len(log_w) - 1
        x = sample_normal(M, around.centres[centre], around.basis[centre], means, factors, uniform, generator)
        return x.to(self.centres)

    @property
    def reach(self) -> int:
        """The largest number of neighbours whose moments are read."""
        return max(self.scales)

    # ------------------------------------------------------------------ helpers

    @property
    def _neighbours(self) -> _Neighbours:
        key = (self.centres, version(self.centres))
        if self._around is None or self._around[0][0] is not key[0] or self._around[0][1] != key[1]:
            M, n = self.manifold, len(self.centres)
            c = M.project(self.centres.double())
            basis = M.tangent_basis(c)
            k = max(self.nearest, math.ceil(1.3 * max(self.scales)) + 10)  # a batch takes some of them away
            index = nearest_others(M, c, min(k, n - 1))
            offsets = tangent_coordinates(M, c.unsqueeze(1), basis.unsqueeze(1), c[index]).to(self.feature_mean)
            place = _places(self.centres)
            order = torch.argsort(place, stable=True)
            copy = torch.empty_like(place)
            copy[order] = torch.arange(n, device=place.device) - torch.searchsorted(place[order], place[order])
            coordinates, jacobian = normal_coordinates(M, c[index], basis[index], c.unsqueeze(1))
            seen, squares = monomials(offsets), offsets.square().sum(-1)
            self._around = key, _Neighbours(c, basis, index, seen, squares, coordinates, jacobian, copy)
        return self._around[1]

    @torch.no_grad()
    def _look(self, left_out: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features, and first moments, second moments and mean squares of the offsets at each scale."""
        around, d = self._neighbours, self.manifold.dim
        keep = torch.ones_like(around.index, dtype=torch.bool) if left_out is None else ~left_out[around.index]
        count = keep.cumsum(1)
        inside = torch.stack([(keep & (count <= k)).to(around.seen) for k in self.scales], 1)  # (n, scales, k)
        mean = (inside @ around.seen) / inside.sum(-1, keepdim=True).clamp_min(1)
        _, means, products = mean.split([1, d, d * (d + 1) // 2], -1)
        i, j = torch.triu_indices(d, d, device=products.device)
        moments = products.new_empty(*products.shape[:-1], d, d)
        moments[..., i, j], moments[..., j, i] = products, products
        sizes = products[..., i == j].sum(-1)
        tiny = FLOOR**2
        first = around.squares.masked_fill(~keep, math.inf).amin(1).clamp(tiny, 1e12)
        unit = moments / sizes.clamp_min(tiny)[..., None, None] * d
        eye = torch.eye(d, dtype=unit.dtype, device=unit.device)
        shape = torch.linalg.slogdet(unit + 1e-3 * eye)[1]
        lean = means.square().sum(-1) / sizes.clamp_min(tiny)
        features = [sizes.clamp_min(tiny).log(), shape, lean, first.log().unsqueeze(-1)]
        return torch.cat(features, 1), means, moments, sizes

    @torch.no_grad()
    def _rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The centre that each point of a batch is, and the mask of all, each place as often as in the batch."""
        n, copy = len(self.centres), self._neighbours.copy
        place = _places(torch.cat([self.centres, x.to(self.centres)]))
        rows = torch.full((int(place.max()) + 1,), -1, dtype=torch.int64, device=x.device)
        first = (copy == 0).nonzero().squeeze(1)  # which is among those left out
        rows[place[first]] = first
        row = rows[place[n:]]
        if bool((row < 0).any()):
            raise DataError(
                f"In training mode KernelField takes points out of its own centres; row {int((row < 0).nonzero()[0])} "
                "of the batch is none of them. Call eval() for the density of new points."
            )
        taken = torch.bincount(place[n:], minlength=len(rows))
        return row, copy < taken[place[:n]]

    def _with_uniform(self, log_p: Tensor, kernels: LocalKernels) -> Tensor:
        """Log of the sum of densities ``(n, m)`` and of the uniform law."""
        uniform = log_uniform(self.manifold)
        if uniform is not None:
            log_p = torch.cat([log_p, (kernels.log_uniform + uniform).expand(len(log_p), 1)], 1)
        return torch.logsumexp(log_p, 1)


def held_points(who: str, manifold: Manifold, centres: Tensor | int) -> Tensor:
    """Copies of points whose neighbourhoods are read; of a number of points, places for those of a saved state.

    Raises:
        DataError: if there are fewer than 8.
        ManifoldError: if one is not on the manifold.
    """
    size = centres if isinstance(centres, int) else len(centres)
    if size < 8:
        raise DataError(f"{who} reads kernels off neighbourhoods and needs at least 8 points; got {size}.")
    if isinstance(centres, int):
        return manifold.origin().repeat(centres, *(1,) * len(manifold.point_shape))
    points = centres.detach().clone()
    manifold.check_point(points, "centres")
    return points


def standardised(features: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Features in standard deviations, cut: where all points are repeated, some don't vary until one is left out."""
    return ((features - mean) / std).clamp(-LIMIT, LIMIT)


def _largest(cov: Tensor) -> Tensor:
    r"""A bound of the largest eigenvalue, :math:`(\mathrm{tr}\,C^8)^{1/8}`, at most :math:`d^{1/8}` times as large."""
    square = cov @ cov
    return (square @ square).square().sum((-2, -1)).pow(1 / 8)


def _places(x: Tensor) -> Tensor:
    """A number per point ``(n,)``, the same for repeated ones only."""
    return torch.unique(x.flatten(1), dim=0, return_inverse=True)[1]
