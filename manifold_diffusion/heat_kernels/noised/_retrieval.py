r"""What is known of a heat kernel beyond a distance: how far its mass reaches, and how steep it can be there.

On the Euclidean and hyperbolic spaces, on spheres and on SO(3) (whose distance is that of a rank-one symmetric space)
the kernel is a decreasing function of the distance: its slope solves a heat equation with a bounded potential, is zero
at the source and at the cut locus, starts negative and stays so (maximum principle). On a torus
:math:`\log p = \sum_i h_i(d_i^2)` with every :math:`h_i` convex, because :math:`(\log\vartheta)''` is a Weierstrass
function, which is monotone between its half periods; a convex function is below its chord.

Any sum T of kernels, weight W in all, obeys Hamilton's estimate. With Ricci curvature at least :math:`-K` and
:math:`A = W p_{\tau/2}(x \mid x)` an upper bound of the sum at half the time,

.. math:: |\nabla T| \le T \sqrt{\tfrac4\tau \big(1 + \tfrac{K\tau}2\big) \log(A / T)},

which increases in T up to :math:`A e^{-1/2}`: an upper bound of T gives one of its gradient.

References:
    Hamilton, *A matrix Harnack estimate for the heat equation*, 1993; Kotschwar, *Hamilton's gradient estimate for the
    heat kernel on complete noncompact manifolds*, 2007, arXiv:math/0701335.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import singledispatch

import torch
from torch import Tensor

from ..._errors import CapabilityError
from ...manifolds import SO3, Euclidean, Hyperboloid, Manifold, Sphere, Torus
from ..base import heat_kernel

__all__ = ["Retrieval", "retrieval"]


class Retrieval(ABC):
    """Coordinates for a search tree, and bounds of the kernel beyond a distance in them; all float64.

    Attributes:
        periods: periods of the coordinates, None where they are not periodic.
        curvature: K >= 0 with Ricci curvature at least -K.
    """

    periods: tuple[float, ...] | None = None
    curvature: float = 0.0

    def __init__(self, manifold: Manifold) -> None:
        self.manifold, self.kernel = manifold, heat_kernel(manifold)

    @abstractmethod
    def coordinates(self, x: Tensor) -> Tensor:
        """Coordinates ``(n, m)``, between which Euclidean distances are taken."""

    @abstractmethod
    def reach(self, chord: Tensor) -> Tensor:
        """The least geodesic distance of two points whose coordinates are ``chord`` apart or more."""

    @abstractmethod
    def log_bound(self, r: Tensor, tau: Tensor) -> Tensor:
        """Largest log density at a geodesic distance of ``r`` or more."""

    def log_peak(self, tau: Tensor) -> Tensor:
        """Log density at the source: the largest."""
        x0 = self.manifold.origin(torch.float64)
        return self.kernel.log_prob(x0.expand(*tau.shape, *x0.shape), x0, tau)

    def slope(self, log_bound: Tensor, log_weight: Tensor, tau: Tensor) -> Tensor:
        """Bound of the gradient over that of the value, of a sum of kernels of total weight ``exp(log_weight)``."""
        gap = log_weight + self.log_peak(tau / 2) - log_bound
        return (4 / tau * (1 + self.curvature * tau / 2) * gap.clamp_min(0.5)).sqrt()


class RadialRetrieval(Retrieval):
    """A kernel that decreases in the distance.

    The coordinates are :meth:`Manifold.embed`, in which distances are never larger than on the manifold; on a round
    space the distance on the manifold is twice the arcsine of half the chord.
    """

    def __init__(self, manifold: Manifold, round: bool = False, curvature: float = 0.0) -> None:
        super().__init__(manifold)
        self.round, self.curvature = round, curvature
        origin = manifold.origin(torch.float64)
        self._origin, self._direction = origin, manifold.tangent_basis(origin)[0]

    def coordinates(self, x: Tensor) -> Tensor:
        return self.manifold.embed(x)

    def reach(self, chord: Tensor) -> Tensor:
        return 2 * (chord / 2).clamp_max(1).asin() if self.round else chord

    def log_bound(self, r: Tensor, tau: Tensor) -> Tensor:
        v = self.manifold.per_point(r) * self._direction
        return self.kernel.log_prob(self.manifold.exp(self._origin.expand_as(v), v), self._origin, tau)


class TorusRetrieval(Retrieval):
    """A product of wrapped normal laws: the tree is periodic, its distance is that of the torus."""

    def __init__(self, manifold: Torus) -> None:
        super().__init__(manifold)
        self.periods, self._in_box = manifold.lengths, manifold.in_box

    def coordinates(self, x: Tensor) -> Tensor:
        return self._in_box(x)

    def reach(self, chord: Tensor) -> Tensor:
        return chord

    def log_bound(self, r: Tensor, tau: Tensor) -> Tensor:
        assert self.periods is not None
        peak, rates = self.log_peak(tau), []
        for i, period in enumerate(self.periods):
            far = torch.zeros(len(self.periods), dtype=torch.float64)
            far[i] = period / 2
            drop = peak - self.kernel.log_prob(far.expand(*tau.shape, len(far)), torch.zeros_like(far), tau)
            rates.append(drop * (2 / period) ** 2)
        return peak - torch.stack(rates).amin(0) * r.square()


@singledispatch
def retrieval(manifold: Manifold) -> Retrieval:
    """Tree and bounds of a manifold.

    Raises:
        CapabilityError: where no bound of the kernel beyond a distance is known here.
    """
    raise CapabilityError(
        f"Nearest neighbours with a proven error need a bound of the heat kernel beyond a distance, and for {manifold} "
        "none is known here. Manifolds that have one: Euclidean, Sphere, Torus, SO3, Hyperboloid. Use evaluator='full'."
    )


@retrieval.register
def _(manifold: Sphere) -> Retrieval:
    return RadialRetrieval(manifold, round=True)


@retrieval.register
def _(manifold: SO3) -> Retrieval:
    # |R - S|_F / sqrt 2 = 2 sin(w / 2): the chord of a round sphere.
    return RadialRetrieval(manifold, round=True)


@retrieval.register
def _(manifold: Euclidean) -> Retrieval:
    return RadialRetrieval(manifold)


@retrieval.register
def _(manifold: Hyperboloid) -> Retrieval:
    return RadialRetrieval(manifold, curvature=manifold.n - 1)


@retrieval.register
def _(manifold: Torus) -> Retrieval:
    return TorusRetrieval(manifold)
