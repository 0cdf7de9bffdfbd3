"""Laws at t = 1 from which sampling starts."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import CapabilityError, ConfigError, DataError
from ..heat_kernels import HeatKernelMixture, heat_kernel
from ..heat_kernels.mixture import draw_index
from ..manifolds import Compact, Manifold, WithBoundary
from .base import Prior

__all__ = ["EmpiricalPrior", "HeatPrior", "Uniform", "WrappedNormal", "brownian_prior"]


class Uniform:
    """Uniform law of a compact manifold, ``log_prob = -log(volume)``.

    Args:
        manifold: a compact manifold.

    Raises:
        CapabilityError: if the manifold is not :class:`~manifold_diffusion.manifolds.Compact`.
    """

    def __init__(self, manifold: Compact) -> None:
        if not isinstance(manifold, Compact):
            raise CapabilityError(
                f"Uniform needs a compact manifold (a sphere, a torus, SO3, products of these); got {manifold}. "
                "Use WrappedNormal."
            )
        self.manifold = manifold

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.manifold.random_uniform(n, generator=generator, dtype=dtype, device=device)

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.full(self.manifold.batch_shape(x), -self.manifold.log_volume, dtype=x.dtype, device=x.device)


class WrappedNormal:
    r"""Law of :math:`\exp_o(\sigma \xi)`, with :math:`\xi` standard normal in the tangent space at the origin o.

    :math:`\log p(x) = \log N(v; 0, \sigma^2 I) - \log |\det d(\exp_o)_v|`, :math:`v = \log_o x`. The formula is exact
    on manifolds without cut locus (Euclidean, hyperbolic); elsewhere it leaves out the geodesics that are not minimal.
    Source: Nagano et al., *A wrapped normal distribution on hyperbolic space for gradient-based learning*, 2019,
    arXiv:1902.02992.

    Args:
        manifold: where the law lives, without boundary.
        sigma: standard deviation.

    Raises:
        CapabilityError: if the manifold has a boundary.
    """

    def __init__(self, manifold: Manifold, sigma: float = 1.0) -> None:
        if not (sigma > 0 and math.isfinite(sigma)):
            raise ConfigError(f"WrappedNormal needs sigma > 0; got {sigma}.")
        if isinstance(manifold, WithBoundary):
            raise CapabilityError(
                f"{manifold} has a boundary, which a WrappedNormal (the prior of Langevin) would cross. Use "
                f"BrownianMotion({manifold}), or with n_steps=100 where it has no heat kernel."
            )
        self.manifold, self.sigma = manifold, float(sigma)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        origin = self.manifold.origin(dtype, device).expand(n, *self.manifold.point_shape)
        return self.manifold.exp(origin, self.sigma * self.manifold.random_tangent(origin, generator=generator))

    def log_prob(self, x: Tensor) -> Tensor:
        origin = self.manifold.origin(x.dtype, x.device).expand_as(x)
        v = self.manifold.log(origin, x)
        normal = -0.5 * self.manifold.inner(origin, v, v) / self.sigma**2 - self.manifold.dim / 2 * math.log(
            2 * math.pi * self.sigma**2
        )
        return normal - self.manifold.log_det_exp(origin, v)


class EmpiricalPrior(nn.Module):
    """A data set as a law: its points, equally likely, drawn with replacement. It has no density.

    Args:
        points: ``(n, *point_shape)``.

    Raises:
        DataError: if there is no point, or one is not finite.

    Example:
        >>> EmpiricalPrior(torch.eye(3)).sample(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])
    """

    points: Tensor

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        if points.dim() < 2 or len(points) == 0 or not bool(torch.isfinite(points).all()):
            raise DataError(
                f"EmpiricalPrior needs at least one point, (n, *point_shape), and all of them finite; got shape "
                f"{tuple(points.shape)}. Drop or repair the bad rows first."
            )
        self.register_buffer("points", points)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        points = self.points.to(dtype=dtype, device=device)
        return points[torch.randint(len(points), (n,), generator=generator, device=points.device)]

    def log_prob(self, x: Tensor) -> Tensor:
        raise CapabilityError(
            "A finite set of points has no density. For likelihoods smooth it: HeatKernelMixture(manifold, points, tau)"
            ", or use HeatPrior."
        )


class HeatPrior(nn.Module):
    r"""Mixture of heat kernels of Brownian time ``tau`` about centres taken from the data.

    It stands for the terminal law of Brownian motion where there is no uniform one.

    At ``tau`` of the order of the squared spread of the data a few hundred centres stand for all of them, so that the
    mismatch with the terminal marginal is small although Brownian motion on a non-compact manifold never forgets its
    start.

    Args:
        manifold: a manifold with a heat kernel.
        tau: Brownian time of the kernels.
        n_centres: number of centres; before :meth:`fit` all of them are the origin.

    Raises:
        CapabilityError: if the manifold has no heat kernel.
    """

    centres: Tensor
    weights: Tensor

    def __init__(self, manifold: Manifold, tau: float, n_centres: int = 256) -> None:
        super().__init__()
        if n_centres < 1:
            raise ConfigError(f"HeatPrior needs n_centres >= 1; got {n_centres}.")
        try:
            heat_kernel(manifold)
        except CapabilityError as error:
            raise CapabilityError(
                f"Brownian motion on {manifold} has no prior: no uniform law (not compact) and no heat kernel. "
                + (
                    "Take a compact manifold around it: Restricted(Box(lower, upper), inequalities)."
                    if isinstance(manifold, WithBoundary)
                    else f"Langevin({manifold}) has a wrapped normal as its prior and needs neither."
                )
            ) from error
        self.manifold, self.tau, self.n_centres = manifold, float(tau), n_centres
        self.register_buffer("centres", manifold.origin().repeat(n_centres, *(1,) * len(manifold.point_shape)))
        self.register_buffer("weights", torch.ones(n_centres, dtype=torch.float64))

    def fit(self, x0: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None) -> None:
        """Take the centres from data: a random subset, repeated if there are fewer than ``n_centres`` points.

        Args:
            x0: points, ``(n, *point_shape)``.
            generator: source of the choice.
            weights: theirs, ``(n,)``: of a subset those that it is drawn with, of all points those of the centres.
        """
        n = len(x0)
        if weights is not None and n > self.n_centres:
            index, share = draw_index(weights.to(x0.device).double(), self.n_centres, generator), x0.new_ones(n)
        else:
            order = torch.randperm(n, generator=generator, device=x0.device)
            index = order.repeat(-(-self.n_centres // n))[: self.n_centres]
            w = x0.new_ones(n).double() if weights is None else weights.to(x0.device).double() / weights.max()
            share = w / torch.bincount(index, minlength=n)
        self.centres.copy_(x0[index])
        self.weights.copy_(share[index])

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        centres = self._centres(dtype or self.centres.dtype, device or self.centres.device)
        index = draw_index(self.weights.to(centres.device), n, generator)
        return heat_kernel(self.manifold).sample(centres[index], self.tau, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        return HeatKernelMixture(self.manifold, self._centres(x.dtype, x.device), self.tau, self.weights).log_prob(x)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}weights", torch.ones_like(self.weights))  # of older states
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _centres(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Centres in another dtype, on the manifold to its precision."""
        return self.manifold.project(self.centres.to(dtype=dtype, device=device))


@singledispatch
def brownian_prior(manifold: Manifold, tau: float, n_centres: int) -> Prior:
    """Terminal law of Brownian motion: uniform on compact manifolds, a heat-kernel mixture elsewhere."""
    return HeatPrior(manifold, tau, n_centres)


@brownian_prior.register
def _(manifold: Compact, tau: float, n_centres: int) -> Prior:
    return Uniform(manifold)
