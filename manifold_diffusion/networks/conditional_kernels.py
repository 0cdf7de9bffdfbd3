"""Densities of angles, one given those before it: kernels at neighbours, moved along local regressions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ConfigError, DataError
from ..heat_kernels.mixture import draw_index
from ..manifolds import Manifold
from ..metrics.kernel_density import FLOOR
from ..metrics.pairwise import over_batch
from .angles import ROWS, AngleCentres, FirstAngle, Look, NextAngle, lengths_of
from .kernel_field import held_points

__all__ = ["ConditionalKernels"]

REGRESSIONS = ((16, 0.3), (32, 0.1), (64, 0.03), (64, 0.3))
"""Centres and ridges of the local regressions."""


class ConditionalKernels(nn.Module):
    r"""A density on a torus as a product of conditional kernel densities, the mean over a few orders of the angles.

    .. math::
        p(x) = \frac1R \sum_{o} \prod_i p(x_{o_i} \mid z), \quad z = x_{o_1}, \dots, x_{o_{i-1}}, \qquad
        p(y \mid z) = \frac{g_0}{L} + \sum_{m} g_m \sum_{j=1}^{k_m} w_{mj}\,
        N(y;\, y_j + \beta_m \cdot (z - z_j),\, s_m^2)

    j runs over the centres nearest to z; :math:`\beta_m` is zero or the slope of a ridge regression of the angle on
    those before it, at the same centres; :math:`w_{mj} \propto \exp(-|z - z_j|_m^2 / 2 h_m^2)` with a diagonal
    metric that is learned; and a perceptron gives bandwidths :math:`h_m`, widths :math:`s_m` and shares g from the
    distances of the centres, the spread of their angles and the residuals of the regressions. The normal laws are cut
    at the antipode, so that every factor integrates to one exactly. At least 1e-6 of each is the uniform law, also
    where all training points are repeated. The first angle of an order has a kernel mixture whose weights expectation
    maximisation finds by leave-one-out, summed as a Fourier series.

    In training mode, :meth:`forward` is the density of each point of a batch, all of them centres, without itself.

    Args:
        manifold: a torus of at least two angles.
        centres: data points ``(n, n_angles)``, or the number of points that a saved state will bring.
        orders: of the angles, each a permutation; default the given one and its reverse. They matter: an angle that
            decides the others belongs first.
        neighbours: centres whose kernels are not moved, at most half of all.
        regressions: pairs of a number of centres, at most half of all, and a ridge, as a share of the mean variance.
        components: bandwidths and widths per regression, and without one.
        width: of the perceptrons, one for each angle and order.
        seed: of their initial weights.

    Raises:
        CapabilityError: on other manifolds.
        ManifoldError: if a point is not on the manifold.
        DataError: if there are fewer than 8 points.
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Torus
        >>> from manifold_diffusion.networks import ConditionalKernels
        >>> M, g = Torus(3), torch.Generator().manual_seed(0)
        >>> density = ConditionalKernels(M, M.random_uniform(100, generator=g)).eval()
        >>> density(M.random_uniform(5, generator=g)).shape
        torch.Size([5])

    References:
        Rosenblatt, *Conditional probability density and regression estimators*, 1969; Fan, Yao and Tong, *Estimation of
        conditional densities and sensitivity measures in nonlinear dynamical systems*, 1996; the mean over orders:
        Uria, Murray and Larochelle, *A deep and tractable density estimator*, 2014, arXiv:1310.1757.
    """

    centres: Tensor
    firsts: Any  # a FirstAngle for each order
    chains: Any  # the NextAngle's of each order

    def __init__(
        self,
        manifold: Manifold,
        centres: Tensor | int,
        orders: Sequence[Sequence[int]] | None = None,
        neighbours: int = 64,
        regressions: Sequence[tuple[int, float]] = REGRESSIONS,
        components: int = 2,
        width: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        lengths = lengths_of(manifold)
        d = len(lengths)
        if d < 2:
            raise ConfigError(f"ConditionalKernels needs two angles or more; {manifold} has one: take a KernelMixture.")
        orders = [range(d), range(d)[::-1]] if orders is None else orders
        self.orders = tuple(tuple(int(i) for i in order) for order in orders)
        if not self.orders or any(sorted(order) != list(range(d)) for order in self.orders):
            raise ConfigError(f"orders must be permutations of 0 to {d - 1}, at least one; got {self.orders}.")
        if min(neighbours, components, width) < 1 or not all(k >= 1 and ridge > 0 for k, ridge in regressions):
            raise ConfigError(
                "ConditionalKernels needs neighbours, components, width >= 1 and regressions of at least one neighbour "
                f"and a ridge > 0; got {neighbours}, {components}, {width} and {tuple(regressions)}."
            )
        points = held_points("ConditionalKernels", manifold, centres)
        self.manifold, self.components, self.width, self.seed = manifold, components, width, seed
        self.neighbours = min(neighbours, len(points) // 2)
        self.regressions = tuple((min(int(k), len(points) // 2), float(ridge)) for k, ridge in regressions)
        g = torch.Generator().manual_seed(seed)
        self.chains = nn.ModuleList(
            nn.ModuleList(
                NextAngle(lengths, order[:i], order[i], self.neighbours, self.regressions, components, width, g)
                for i in range(1, d)
            )
            for order in self.orders
        )
        self.firsts = nn.ModuleList(FirstAngle(lengths, order[0]) for order in self.orders)
        self._known: AngleCentres | None = None
        self.register_buffer("centres", points)
        if not isinstance(centres, int):
            for first in self.firsts:
                first.fit(self._around)
            for chain, (_, looks) in zip(self.chains, self._left_out(), strict=True):
                for step, look in zip(chain, looks, strict=True):
                    step.standardise(look.features)

    def forward(self, x: Tensor) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``.

        In training mode of centres ``(n, n_angles)`` under the others, ``(n,)``; see above.
        """
        if not self.training:
            return self.log_prob(x)
        y = x.double()
        rows = self._rows(y)
        parts = [
            first[rows] + sum(step(look[rows], y) for step, look in zip(chain, looks, strict=True))
            for chain, (first, looks) in zip(self.chains, self._left_out(), strict=True)
        ]
        return self._mean(parts).to(x.dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density under all centres, ``(*batch,)``."""
        around = self._around

        def of_rows(x: Tensor) -> Tensor:
            parts = [
                first(around, x) + sum(step(step.look(around, x), x) for step in chain)
                for first, chain in zip(self.firsts, self.chains, strict=True)
            ]
            return self._mean(parts)

        def of_all(x: Tensor) -> Tensor:
            return torch.cat([of_rows(rows) for rows in x.split(ROWS)])

        return over_batch(self.manifold, of_all, self.manifold.project(x.double())).to(x.dtype)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, n_angles)``: angle by angle, no solver.

        Raises:
            ConfigError: if ``n`` is negative.
        """
        which = draw_index(torch.ones(len(self.orders)), n, generator)
        around, x = self._around, self.centres.new_zeros(n, self.manifold.dim, dtype=torch.float64)
        for r, (first, chain) in enumerate(zip(self.firsts, self.chains, strict=True)):
            rows = which == r
            y = x[rows]
            y[:, first.target] = first.draw(around, len(y), generator)
            for step in chain:
                y[:, step.target] = step.draw(step.look(around, y), generator)
            x[rows] = y
        return self.manifold.project(x).to(self.centres)

    @property
    def reach(self) -> int:
        """The largest number of centres that are asked for an angle."""
        return self.chains[0][0].reach

    # ------------------------------------------------------------------ helpers

    @property
    def _around(self) -> AngleCentres:
        if self._known is None or not self._known.of(self.centres):
            self._known = AngleCentres(self.manifold, self.centres)
        return self._known

    def _left_out(self) -> list[tuple[Tensor, list[Look]]]:
        """For each order: log densities of the first angle of each centre under the others, and the looks."""
        around = self._around
        if around.left_out is None:
            own = torch.arange(len(around.centres), device=around.centres.device)
            around.left_out = [
                (first.left_out(around), [step.look(around, around.centres, own) for step in chain])
                for first, chain in zip(self.firsts, self.chains, strict=True)
            ]
        return around.left_out

    def _mean(self, parts: list[Tensor]) -> Tensor:
        """Log of the mean of the densities of the orders."""
        return torch.logsumexp(torch.stack(parts), 0) - math.log(len(parts))

    def _rows(self, x: Tensor) -> Tensor:
        """The centre that each point of a batch is."""
        around = self._around
        rows = around.nearest(range(self.manifold.dim), x, 1)[:, 0]
        far = (self.manifold.dist(x, around.centres[rows]) > FLOOR).nonzero()
        if len(far):
            raise DataError(
                f"In training mode ConditionalKernels takes points out of its own centres; row {int(far[0])} of the "
                "batch is none of them. Call eval() for the density of new points."
            )
        return rows
