"""Kernel densities with heat kernels: what any model of the same data has to beat, and exact oracles for tests.

All three are mixtures of heat kernels: their noised densities, scores and samples are exact at every Brownian time.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..heat_kernels import HeatKernelMixture
from ..manifolds import Manifold
from .estimate import Estimate, nll
from .mixture_weights import fit_mixture, log_mixture, log_uniform
from .neighbours import nearest_others
from .pairwise import log_density, log_density_grid, over_batch

__all__ = ["BANDWIDTHS", "FLOOR", "AdaptiveKernelDensity", "KernelDensity", "KernelMixture"]

BANDWIDTHS = tuple(0.5 * (1e-4 / 0.5) ** (i / 11) for i in range(12))
"""Twelve bandwidths from 0.5 to 1e-4, in units of the manifold's distance, at equal ratios of 2.17."""

FLOOR = 1e-4
"""Smallest bandwidth: below it a density with atoms at repeated points would reach any likelihood."""


class HeatKernelDensity(ABC):
    """A density that is a mixture of heat kernels around training points."""

    manifold: Manifold

    @property
    @abstractmethod
    def mixture(self) -> HeatKernelMixture:
        """The same density as a :class:`HeatKernelMixture`: density, score, samples at any additional time."""

    @abstractmethod
    def _log_prob(self, x: Tensor, tau: float) -> Tensor:
        """Log density at checked points ``(n, *point_shape)`` after the additional Brownian time ``tau``, float64."""

    def log_prob(self, x: Tensor, tau: float = 0.0) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``.

        Args:
            x: points, ``(*batch, *point_shape)``.
            tau: additional Brownian time: the density of data that has been noised for so long.

        Raises:
            ManifoldError: if a point is not on the manifold.
            ConfigError: if ``tau`` is negative or not finite.
        """
        self.manifold.check_point(x)
        if not 0 <= tau < math.inf:
            raise ConfigError(f"tau must be a finite Brownian time >= 0; got {tau}.")
        return over_batch(self.manifold, lambda rows: self._log_prob(rows, tau), x.detach()).to(x.dtype)

    def score(self, x: Tensor, tau: float = 0.0) -> Tensor:
        """Riemannian gradient of :meth:`log_prob`, ``(*batch, *point_shape)``; from all components, exactly."""
        return self.mixture.score(x, tau)

    def sample(self, n: int, tau: float = 0.0, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, *point_shape)``."""
        return self.mixture.sample(n, tau, generator=generator)


@dataclass(frozen=True, eq=False)
class KernelDensity(HeatKernelDensity):
    r"""Kernel density of one bandwidth h, :math:`p(x) = \frac1n \sum_i K(x, c_i, h^2)`.

    Attributes:
        manifold: the manifold.
        centres: training points.
        bandwidth: root of the Brownian time, in units of the manifold's distance.
        val_nll: negative log-likelihood of the validation points, or by leave-one-out.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> train, val = M.random_uniform(200, generator=g), M.random_uniform(100, generator=g)
        >>> KernelDensity.fit(M, train, val).log_prob(val).shape
        torch.Size([100])
    """

    manifold: Manifold
    centres: Tensor
    bandwidth: float
    val_nll: Estimate

    @classmethod
    def fit(
        cls, manifold: Manifold, train: Tensor, val: Tensor | None = None, bandwidths: Sequence[float] = BANDWIDTHS
    ) -> KernelDensity:
        """Choose the bandwidth on validation points, or without them by leave-one-out, to about 1 %.

        The best of a grid on at most 500 of the points, continued upwards while its largest is best; then, on all
        points, the best of two ever finer grids around it, and the minimum of a parabola through the last three.

        Args:
            manifold: the manifold.
            train: training points, the centres.
            val: validation points; None to score each of the training points (evenly spaced 1000 of them, if there are
                more) under the density of the others. A second copy is one of those: repeats ask for a bandwidth of 0.
            bandwidths: the grid; its smallest is the floor of the choice.
        """
        own = torch.arange(0, len(train), max(1, -(-len(train) // 1000)), device=train.device)
        x, own = (train[own], own) if val is None else (val, None)
        _check_data(manifold, train, x)

        def log_probs(bandwidths: Sequence[float], step: int = 1) -> Tensor:
            taus = [h * h for h in bandwidths]
            return log_density_grid(manifold, x[::step], train, taus, None if own is None else own[::step])

        def losses(bandwidths: Sequence[float], step: int = 1) -> list[float]:
            return (-log_probs(bandwidths, step).mean(0)).tolist()

        grid = sorted(_check_bandwidths(bandwidths))
        ratio = (grid[-1] / grid[0]) ** (1 / max(len(grid) - 1, 1)) if len(grid) > 1 else 2.0
        some = -(-len(x) // 500)
        coarse = losses(grid, some)
        while coarse[-1] < min([*coarse[:-1], math.inf]) - 1e-6 and len(grid) < 100:
            grid.append(grid[-1] * max(ratio, 1.5))
            coarse += losses(grid[-1:], some)
        best = grid[coarse.index(min(coarse))]
        near, fine = [best], [math.inf]
        for _ in range(2):
            near = [max(best * ratio ** (j / 4), grid[0]) for j in range(-4, 5)]
            fine = losses(near)
            best, ratio = near[fine.index(min(fine))], ratio**0.25
        i = min(max(fine.index(min(fine)), 1), len(near) - 2)
        bend = fine[i - 1] - 2 * fine[i] + fine[i + 1]
        if bend > 0:
            shift = (fine[i - 1] - fine[i + 1]) / (2 * bend)
            top = max(near[i] * ratio ** min(max(shift, -1.0), 1.0), grid[0])
            best = top if losses([top])[0] <= min(fine) else best
        return cls(manifold, train, best, nll(log_probs([best])[:, 0]))

    def _log_prob(self, x: Tensor, tau: float) -> Tensor:
        return log_density_grid(self.manifold, x, self.centres, [self.bandwidth**2 + tau])[:, 0]

    @cached_property
    def mixture(self) -> HeatKernelMixture:
        return HeatKernelMixture(self.manifold, self.centres, self.bandwidth**2)


@dataclass(frozen=True, eq=False)
class KernelMixture(HeatKernelDensity):
    r"""Kernel densities of several bandwidths and the uniform law, mixed.

    :math:`p(x) = \sum_j w_j \frac1n \sum_i K(x, c_i, h_j^2) + w_0 / \mathrm{vol}`.

    A part that the validation points give a weight of less than 1e-6 is dropped, the uniform law as well: where they
    ask for narrow kernels only (copies of training points do), the log density of a point far from all centres may be
    of any size, such as -1e7.

    Attributes:
        manifold: the manifold.
        centres: training points.
        bandwidths: those with a weight above 1e-6; the others are dropped.
        weights: one per bandwidth.
        uniform_weight: weight of the uniform law, 0 where there is none.
        val_nll: negative log-likelihood of the validation points.
    """

    manifold: Manifold
    centres: Tensor
    bandwidths: tuple[float, ...]
    weights: tuple[float, ...]
    uniform_weight: float
    val_nll: Estimate

    @classmethod
    def fit(
        cls, manifold: Manifold, train: Tensor, val: Tensor, bandwidths: Sequence[float] = BANDWIDTHS
    ) -> KernelMixture:
        """Find the weights by expectation maximisation on validation points."""
        _check_data(manifold, train, val)
        hs = _check_bandwidths(bandwidths)
        matrix = log_density_grid(manifold, val, train, [h * h for h in hs])
        return cls(manifold, train, *fit_mixture(manifold, hs, matrix))

    def _log_prob(self, x: Tensor, tau: float) -> Tensor:
        matrix = log_density_grid(self.manifold, x, self.centres, [h * h + tau for h in self.bandwidths])
        return log_mixture(self.manifold, matrix, self.weights, self.uniform_weight)

    @cached_property
    def mixture(self) -> HeatKernelMixture:
        n, k = len(self.centres), len(self.bandwidths)
        tau = torch.tensor([h * h for h in self.bandwidths], dtype=torch.float64).repeat_interleave(n)
        weights = torch.tensor(self.weights, dtype=torch.float64).repeat_interleave(n) / n
        centres = self.centres.repeat(k, *(1,) * (self.centres.dim() - 1))
        return _heat_kernel_mixture(self.manifold, centres, tau, weights, self.uniform_weight)


@dataclass(frozen=True, eq=False)
class AdaptiveKernelDensity(HeatKernelDensity):
    r"""Kernel density with a bandwidth per point, :math:`h_i = \max(f\, d_k(c_i), h_{\min})`.

    1 % is the uniform law, where there is one. :math:`d_k(c_i)` is the distance from a training point to its k-th
    nearest neighbour in the embedding.

    Attributes:
        manifold: the manifold.
        centres: training points.
        bandwidths: one per centre, float64.
        k: which neighbour.
        factor: f.
        uniform_weight: weight of the uniform law, 0 where there is none.
        val_nll: negative log-likelihood of the validation points.
    """

    manifold: Manifold
    centres: Tensor
    bandwidths: Tensor
    k: int
    factor: float
    uniform_weight: float
    val_nll: Estimate

    @classmethod
    def fit(
        cls,
        manifold: Manifold,
        train: Tensor,
        val: Tensor,
        ks: Sequence[int] = (3, 5, 10, 20, 40),
        factors: Sequence[float] = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4),
        uniform_weight: float = 0.01,
        floor: float = FLOOR,
    ) -> AdaptiveKernelDensity:
        """Choose k and f on validation points, one at a time from the middle of the grids until neither improves.

        Args:
            manifold: the manifold.
            train: training points, the centres.
            val: validation points.
            ks: candidates of k.
            factors: candidates of f.
            uniform_weight: weight of the uniform law; where there is none it is 0.
            floor: smallest bandwidth, in units of the manifold's distance.

        Raises:
            DataError: if there are too few training points.
            ConfigError: if a grid is empty or an argument out of range.
        """
        _check_data(manifold, train, val)
        if not 0 <= uniform_weight < 1 or not floor > 0:
            raise ConfigError(f"uniform_weight must be in [0, 1) and floor > 0; got {uniform_weight} and {floor}.")
        neighbours = [k for k in _check_counts(ks, "ks") if k < len(train)]
        scales = sorted(_check_bandwidths(factors, "factors"))
        if not neighbours:
            raise DataError(f"{len(train)} training points are too few for a {min(ks)}-th neighbour.")
        weight = 0.0 if log_uniform(manifold) is None else uniform_weight
        reach = dict(zip(neighbours, _neighbour_distances(manifold, train, neighbours), strict=True))
        seen: dict[tuple[int, float], Tensor] = {}

        def loss(k: int, f: float) -> float:
            if (k, f) not in seen:
                seen[k, f] = _adaptive_log_prob(manifold, val, train, (f * reach[k]).clamp_min(floor), weight, 0.0)
            return float(-seen[k, f].mean())

        k, f = neighbours[len(neighbours) // 2], scales[(len(scales) - 1) // 2]
        while True:
            before = (k, f)
            f = min(scales, key=lambda value: loss(before[0], value))
            k = min(neighbours, key=lambda value, f=f: loss(value, f))
            if (k, f) == before:
                return cls(manifold, train, (f * reach[k]).clamp_min(floor), k, f, weight, nll(seen[k, f]))

    def _log_prob(self, x: Tensor, tau: float) -> Tensor:
        return _adaptive_log_prob(self.manifold, x, self.centres, self.bandwidths, self.uniform_weight, tau)

    @cached_property
    def mixture(self) -> HeatKernelMixture:
        n = len(self.centres)
        weights = torch.full((n,), (1 - self.uniform_weight) / n, dtype=torch.float64)
        return _heat_kernel_mixture(self.manifold, self.centres, self.bandwidths.square(), weights, self.uniform_weight)


def _heat_kernel_mixture(
    manifold: Manifold, centres: Tensor, tau: Tensor, weights: Tensor, uniform_weight: float
) -> HeatKernelMixture:
    tau, weights = tau.to(centres), weights.to(centres)
    return HeatKernelMixture(manifold, centres, tau, weights / weights.sum(), uniform_weight)


def _adaptive_log_prob(
    manifold: Manifold, x: Tensor, centres: Tensor, bandwidths: Tensor, uniform_weight: float, tau: float
) -> Tensor:
    taus = bandwidths.square() + tau
    log_weights = torch.full_like(taus, math.log((1 - uniform_weight) / len(centres)))
    uniform = log_uniform(manifold)
    floor = uniform + math.log(uniform_weight) if uniform is not None and uniform_weight > 0 else None
    return log_density(manifold, x, centres, taus, log_weights, floor)


def _neighbour_distances(manifold: Manifold, x: Tensor, ks: Sequence[int]) -> list[Tensor]:
    """Distance of each point to its k-th nearest other point, float64, one tensor per k."""
    double = x.double()
    index = nearest_others(manifold, double, max(ks))
    return [manifold.dist(double, double[index[:, k - 1]]) for k in ks]


def _check_data(manifold: Manifold, train: Tensor, val: Tensor) -> None:
    for name, points in (("train", train), ("val", val)):
        manifold.check_point(points, name)
        if points.dim() != 1 + len(manifold.point_shape) or len(points) == 0:
            raise DataError(
                f"{name} must have shape (n, *{manifold.point_shape}) with n >= 1; got {tuple(points.shape)}."
            )


def _check_bandwidths(values: Sequence[float], name: str = "bandwidths") -> list[float]:
    out = [float(v) for v in values]
    if not out or not all(v > 0 and math.isfinite(v) for v in out):
        raise ConfigError(f"{name} must be positive, finite numbers, at least one; got {tuple(values)}.")
    return out


def _check_counts(values: Sequence[int], name: str) -> list[int]:
    out = sorted({int(v) for v in values})
    if not out or out[0] < 1:
        raise ConfigError(f"{name} must be numbers of points >= 1, at least one; got {tuple(values)}.")
    return out
