"""Kernel densities whose kernels follow the data: normal laws in tangent spaces, with the neighbours' covariance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..heat_kernels.mixture import draw_index
from ..manifolds import Manifold, cast_points, tangent_coordinates
from .estimate import Estimate
from .kernel_density import FLOOR, _check_bandwidths, _check_counts, _check_data
from .mixture_weights import fit_mixture, log_mixture
from .neighbours import nearest_others
from .normal_kernels import coefficients, log_sums, normal_reach, sample_normal
from .pairwise import over_batch

__all__ = ["TangentKernelMixture", "TangentShape"]

_OUTSIDE = 1e-10
"""Mass of a kernel that may lie beyond the injectivity radius, where the density counts it as lost."""


@dataclass(frozen=True)
class TangentShape:
    """How the covariances of the kernels are made.

    Attributes:
        neighbours: how many nearest neighbours.
        factor: of their covariance.
        floor: root of the variance that is added in all directions, in units of the manifold's distance.
    """

    neighbours: int
    factor: float
    floor: float


@dataclass(frozen=True, eq=False)
class TangentKernelMixture:
    r"""Kernel density with normal kernels in the tangent spaces at the data, wide along the data and thin across.

    .. math::
        p(x) = \sum_j w_j \frac1n \sum_i \frac{N(\log_{c_i} x;\, 0, \Sigma_{ij})}{|\det d\exp_{c_i}|} + \frac{w_0}{V},
        \qquad \Sigma_{ij} = \frac{a_j}{k_j} \sum_{l \in N_{k_j}(i)} \log_{c_i} c_l\, (\log_{c_i} c_l)^T + h_j^2

    Data that fill curves or surfaces (faults, coasts, allowed torsions) get kernels of their shape. The weights of the
    shapes are found by expectation maximisation on validation points. Variances, those of the floors included, are cut
    where more than 1e-10 of a kernel would lie beyond the injectivity radius, so that the density integrates to one to
    that accuracy.

    Attributes:
        manifold: the manifold.
        centres: training points.
        shapes: those with a weight above 1e-6; the others are dropped.
        weights: one per shape.
        uniform_weight: weight of the uniform law, 0 where there is none.
        val_nll: negative log-likelihood of the validation points.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> train, val = M.random_uniform(200, generator=g), M.random_uniform(100, generator=g)
        >>> density = TangentKernelMixture.fit(M, train, val)
        >>> density.log_prob(val).shape
        torch.Size([100])

    Reference:
        Vincent and Bengio, *Manifold Parzen windows*, 2002; on Riemannian manifolds: Pelletier, *Kernel density
        estimation on Riemannian manifolds*, 2005.
    """

    manifold: Manifold
    centres: Tensor
    shapes: tuple[TangentShape, ...]
    weights: tuple[float, ...]
    uniform_weight: float
    val_nll: Estimate

    @classmethod
    def fit(
        cls,
        manifold: Manifold,
        train: Tensor,
        val: Tensor,
        neighbours: Sequence[int] = (5, 10, 20, 40, 80),
        factors: Sequence[float] = (0.1, 0.3, 1.0),
        floors: Sequence[float] = (2e-3, 1e-2),
    ) -> TangentKernelMixture:
        """Find the weights of all combinations by expectation maximisation on validation points.

        Args:
            manifold: the manifold.
            train: training points, the centres.
            val: validation points.
            neighbours: candidates of k; those not below the number of training points are left out.
            factors: candidates of a.
            floors: candidates of h, at least 1e-4.

        Raises:
            DataError: if there are too few training points.
            ConfigError: if there are no candidates, one is not positive, or a floor is below 1e-4.
        """
        _check_data(manifold, train, val)
        ks = [k for k in _check_counts(neighbours, "neighbours") if k < len(train)]
        if not ks:
            raise DataError(f"{len(train)} training points are too few for {min(neighbours)} neighbours of each.")
        hs = _check_bandwidths(floors, "floors")
        if min(hs) < FLOOR:
            raise ConfigError(f"floors must be at least {FLOOR}, below which repeated points reach any likelihood.")
        shapes = [TangentShape(*s) for s in itertools.product(ks, _check_bandwidths(factors, "factors"), hs)]
        density = cls(
            manifold, train, tuple(shapes), (1 / len(shapes),) * len(shapes), 0.0, Estimate(math.nan, math.nan)
        )
        return cls(manifold, train, *fit_mixture(manifold, shapes, density._components(val)))

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``.

        Raises:
            ManifoldError: if a point is not on the manifold.
        """
        self.manifold.check_point(x)
        return over_batch(self.manifold, self._log_prob, x.detach()).to(x)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, *point_shape)``."""
        device = self.centres.device
        weights = torch.tensor([*self.weights, self.uniform_weight], dtype=torch.float64, device=device)
        shape = draw_index(weights, n, generator)
        centre = torch.randint(len(self.centres), (n,), generator=generator, device=device)
        factors = self._factors[centre, shape.clamp(max=len(self.shapes) - 1)]
        uniform = shape == len(self.shapes) if self.uniform_weight > 0 else None
        c, basis = self._data[0][centre], self._data[1][centre]
        means = c.new_zeros(n, self.manifold.dim)
        return sample_normal(self.manifold, c, basis, means, factors, uniform, generator).to(self.centres)

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor]:
        """Centres and bases of their tangent spaces, float64."""
        c = cast_points(self.manifold, self.centres, torch.float64)
        return c, self.manifold.tangent_basis(c)

    @cached_property
    def _factors(self) -> Tensor:
        """Lower Cholesky factors of the covariances, ``(n, n_shapes, dim, dim)``."""
        M, (c, basis) = self.manifold, self._data
        index = nearest_others(M, c, max(s.neighbours for s in self.shapes))
        local = tangent_coordinates(M, c.unsqueeze(1), basis.unsqueeze(1), c[index])
        sums = (local.unsqueeze(-1) * local.unsqueeze(-2)).cumsum(1)
        eye = torch.eye(M.dim, dtype=c.dtype, device=c.device)
        widest = normal_reach(M, _OUTSIDE) ** 2
        factors = []
        for s in self.shapes:
            values, vectors = torch.linalg.eigh(s.factor / s.neighbours * sums[:, s.neighbours - 1] + s.floor**2 * eye)
            values = values.clamp(min=min(s.floor**2, widest), max=widest)
            factors.append(torch.linalg.cholesky((vectors * values.unsqueeze(-2)) @ vectors.mT))
        return torch.stack(factors, 1)

    def _log_prob(self, x: Tensor) -> Tensor:
        """Log density at checked points ``(n, *point_shape)``, float64."""
        return log_mixture(self.manifold, self._components(x), self.weights, self.uniform_weight)

    def _components(self, x: Tensor) -> Tensor:
        """Log densities of the shapes at ``x``, ``(n, n_shapes)``, float64."""
        M, (c, basis), factors = self.manifold, self._data, self._factors
        laws = coefficients(factors.new_zeros(factors.shape[:-1]), factors, factors.new_tensor(-math.log(len(c))))
        return log_sums(M, c, basis, laws, cast_points(M, x, torch.float64))
