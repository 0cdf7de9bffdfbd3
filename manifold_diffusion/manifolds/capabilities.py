"""Powers that some manifolds have beyond the contract: a part that needs one asks for its class."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod

import torch
from torch import Tensor

from .base import Manifold

__all__ = ["Compact", "LieGroup", "NoncompactSymmetric", "Spectral", "WithBoundary", "exp_or_inf"]

_LARGEST = math.log(sys.float_info.max)


def exp_or_inf(log_volume: float) -> float:
    """A volume from its logarithm, infinite beyond the range of a float."""
    return math.exp(log_volume) if log_volume <= _LARGEST else math.inf


class Compact(Manifold):
    """A compact manifold: finite volume, uniform law."""

    @property
    @abstractmethod
    def volume(self) -> float:
        """Riemannian volume."""

    @property
    def log_volume(self) -> float:
        """Logarithm of the volume; to be overridden where the volume may be out of the range of a float."""
        return math.log(self.volume)

    @abstractmethod
    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent points of the uniform law (Riemannian volume), ``(n, *point_shape)``."""


class Spectral(Compact):
    r"""A compact manifold whose Laplace-Beltrami spectrum is known, level by level.

    A level is an eigenspace of :math:`-\Delta`; level 0 holds the constants. By the addition theorem the sum over an
    orthonormal basis of a level, :math:`\sum_s f_{ls}(x) f_{ls}(y)`, is a function of two points that costs O(1), not
    O(multiplicity).
    """

    @abstractmethod
    def eigenvalues(self, n_levels: int) -> Tensor:
        r"""The first ``n_levels`` distinct eigenvalues of :math:`-\Delta`, ascending, float64."""

    @abstractmethod
    def multiplicities(self, n_levels: int) -> Tensor:
        """Dimensions of the first ``n_levels`` eigenspaces, float64."""

    @abstractmethod
    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        r"""Level sums :math:`\sum_s f_{ls}(x) f_{ls}(y)`, ``(*batch, n_levels)``; f has norm 1 in the volume."""


class LieGroup(Manifold):
    """A Lie group with a bi-invariant metric."""

    @abstractmethod
    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Group product."""

    @abstractmethod
    def inverse(self, x: Tensor) -> Tensor:
        """Group inverse."""

    @abstractmethod
    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Neutral element, ``point_shape``."""


class NoncompactSymmetric(Manifold):
    r"""A symmetric space of non-compact type: diffeomorphic to R^dim, with a spectral gap.

    Attributes:
        rho_squared: bottom of the spectrum of :math:`-\Delta`, :math:`|\rho|^2`.
    """

    rho_squared: float


class WithBoundary(Manifold):
    r"""A manifold with boundary: the points where smooth functions :math:`g_i`, the slacks, are not negative.

    Brownian motion on it is reflected, :math:`dX = dB + n\,dL` with the inward normal n and the local time L of the
    boundary; its densities have no slope across the boundary (Neumann condition), and its stationary law is uniform.
    Where a geodesic leaves the manifold, :meth:`move` continues it as a billiard ball: random walks and the steps of
    stochastic solvers stay inside. :meth:`project` takes points back that left by the error of a step.

    ``log``, ``dist`` and ``transport`` follow geodesics of the formulas of the interior, and ``injectivity_radius``
    counts geodesics that stay inside.

    References:
        Lou and Ermon, *Reflected diffusion models*, 2023, arXiv:2304.04740; Fishman et al., *Diffusion models for
        constrained domains*, 2023, arXiv:2304.05364.
    """

    @abstractmethod
    def slack(self, x: Tensor) -> Tensor:
        """Values of the inequalities, ``(*batch, m)``: none is negative inside, one is zero on the boundary."""

    @abstractmethod
    def boundary_distance(self, x: Tensor) -> Tensor:
        """Distance of inner points to the boundary, ``(*batch,)``."""

    @abstractmethod
    def inward_normal(self, x: Tensor) -> Tensor:
        """Unit tangent vector at ``x`` that points away from the nearest piece of the boundary."""

    @abstractmethod
    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        """End of the billiard path: the geodesic from ``x`` with velocity ``v``, reflected wherever it would leave."""

    def inside(self, x: Tensor) -> Tensor:
        """Whether no inequality is violated, ``(*batch,)``."""
        return (self.slack(x) >= 0).all(-1)

    def move(self, x: Tensor, v: Tensor) -> Tensor:
        """:meth:`reflect`."""
        return self.reflect(x, v)
