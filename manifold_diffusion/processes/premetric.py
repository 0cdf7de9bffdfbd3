"""Flow matching along the gradient of a premetric: spectral distances instead of geodesics."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, NumericsError
from ..data import Coupling
from ..heat_kernels import heat_kernel
from ..manifolds import Manifold, Spectral, gradient
from .base import Prior
from .flow import PathProcess
from .paths import LinearPath, PathSchedule

__all__ = ["DiffusionDistance", "Premetric", "PremetricFlow", "SpectralDistance"]


class Premetric(Protocol):
    """Function of two points, zero only where they coincide, with a gradient in the first that vanishes only there."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Value for pairs of points, ``(*batch,)``; smooth in ``x`` away from ``y``."""
        ...


class SpectralDistance:
    r"""Distance of the spectral embedding, :math:`d^2(x, y) = \sum_l w(\lambda_l) \sum_s (f_{ls}(x) - f_{ls}(y))^2`.

    The inner sums are two-point functions by the addition theorem, so that no eigenfunction is evaluated. Source: Chen
    and Lipman, *Flow matching on general geometries*, 2023, arXiv:2302.03660, section 3.2.

    Args:
        manifold: a manifold with known spectrum, on which :math:`\sum_s f_{ls}(x)^2` is constant (homogeneous).
        power: the weight is :math:`w(\lambda) = \lambda^{-\mathrm{power}}`: 2 is the biharmonic distance, 1 the
            commute-time distance.
        n_levels: eigenspaces that are summed, the constants included.

    Raises:
        CapabilityError: if the spectrum is not known.
    """

    def __init__(self, manifold: Manifold, power: float = 2.0, n_levels: int = 32) -> None:
        if not isinstance(manifold, Spectral):
            raise CapabilityError(
                f"SpectralDistance needs a manifold with known spectrum (a sphere, a torus, a matrix group, a "
                f"projective space); got {manifold}. Use GeodesicFlow, or DiffusionDistance where there is a heat "
                "kernel."
            )
        if n_levels < 2:
            raise ConfigError(f"SpectralDistance needs n_levels >= 2, as level 0 holds the constants; got {n_levels}.")
        self.manifold, self.power, self.n_levels = manifold, float(power), n_levels
        self._weights = manifold.eigenvalues(n_levels)[1:] ** -self.power
        self._multiplicities = manifold.multiplicities(n_levels)[1:]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        assert isinstance(self.manifold, Spectral)
        weights = self._weights.to(x)
        sums = self.manifold.level_sums(x, y, self.n_levels)[..., 1:]
        own = (self._multiplicities * math.exp(-self.manifold.log_volume)).to(x)
        return (2 * ((own - sums) * weights).sum(-1)).clamp(min=torch.finfo(x.dtype).tiny).sqrt()


class DiffusionDistance:
    r"""Distance of heat kernels, :math:`d^2(x, y) = 2\,(p_{2\tau}(x, x) - p_{2\tau}(x, y))`, with the exact kernel.

    It is the :math:`L^2` distance of the two laws of Brownian motion started at x and at y, at time tau. On a
    homogeneous space :math:`p(x, x)` is the same everywhere.

    Args:
        manifold: a compact homogeneous space with a heat kernel.
        tau: Brownian time; the distance saturates beyond about :math:`2\sqrt\tau`.
    """

    def __init__(self, manifold: Manifold, tau: float = 1.0) -> None:
        if not (tau > 0 and math.isfinite(tau)):
            raise ConfigError(f"DiffusionDistance needs tau > 0; got {tau}.")
        self.manifold, self.tau = manifold, float(tau)
        self._kernel = heat_kernel(manifold)
        origin = manifold.origin(torch.float64)
        self._own = float(self._kernel.log_prob(origin, origin, 2 * self.tau))

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        ratio = self._kernel.log_prob(x, y, 2 * self.tau) - self._own
        return (2 * math.exp(self._own) * -torch.expm1(ratio)).clamp(min=torch.finfo(x.dtype).tiny).sqrt()


class PremetricFlow(PathProcess):
    r"""Flow matching along the gradient of a premetric d, which shrinks at the rate of the path.

    .. math:: \frac{dx}{ds} = \frac{d(x, x_0)}{s}\,\frac{\nabla_x d}{|\nabla_x d|^2},
        \qquad d(x_s, x_0) = s\, d(x_1, x_0)

    With the geodesic distance the paths are geodesics (:class:`GeodesicFlow`, in closed form); with spectral distances
    they avoid what geodesics cross, and no logarithm is needed. The equation is integrated from the draw of the prior
    towards the data point by ``n_steps`` midpoint steps, each followed by a Newton step to the level set of d, in
    double precision. Source: Chen and Lipman, *Flow matching
    on general geometries*, 2023, arXiv:2302.03660, eq. 13.

    Args:
        manifold: where the data live.
        premetric: function of two points, such as :class:`SpectralDistance` or :class:`DiffusionDistance`.
        n_steps: midpoint steps from the prior to the point.
        path: fraction of the premetric against t; default linear from 0.01, as spectral distances of points closer
            than that are lost in rounding.
        prior: law at t = 1; as in :class:`GeodesicFlow`.
        coupling: pairing with draws of the prior; default independent.

    Raises:
        NumericsError: if a gradient of the premetric vanishes on the way.
    """

    def __init__(
        self,
        manifold: Manifold,
        premetric: Premetric,
        n_steps: int = 20,
        path: PathSchedule | None = None,
        prior: Prior | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        self._set_up(manifold, prior, path if path is not None else LinearPath(0.01), coupling)
        if getattr(premetric, "manifold", manifold) != manifold:
            raise ConfigError(f"The premetric belongs to {premetric.manifold}, the process to {manifold}.")  # type: ignore[attr-defined]
        if n_steps < 1 or self.path.s_min <= 0:
            raise ConfigError(
                f"PremetricFlow needs n_steps >= 1 and a path with s_min > 0, such as LinearPath(0.01); got {n_steps} "
                f"and {self.path}."
            )
        self.premetric, self.n_steps = premetric, n_steps

    def _draw(self, x0: Tensor, x1: Tensor, s: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        manifold, dtype = self.manifold, x0.dtype
        x0, x = x0.double(), manifold.project(x1.double())
        length = self.premetric(x, x0)
        step = (s.double() - 1) / self.n_steps
        h = manifold.per_point(step)
        for i in range(self.n_steps):
            middle = manifold.project(x + 0.5 * h * self._slope(x, x0, length))
            x = manifold.project(x + h * self._slope(middle, x0, length))
            # A Newton step back to the level set: the premetric is then that of the path, whatever the steps.
            excess = self.premetric(x, x0) - (1 + (i + 1) * step) * length
            x = manifold.project(x - self._slope(x, x0, excess))
        u = self._slope(x, x0, length)
        if not bool(torch.isfinite(u).all()):
            raise NumericsError(
                "The gradient of the premetric vanished on the way from the prior to the data: its critical points "
                "must be rare. Take another premetric, or GeodesicFlow."
            )
        x = manifold.project(x.to(dtype))
        return x, manifold.to_tangent(x, u.to(dtype))

    def _slope(self, x: Tensor, x0: Tensor, length: Tensor) -> Tensor:
        """Vector along the gradient at ``x`` that changes the premetric by ``length``."""
        g = gradient(self.manifold, lambda y: self.premetric(y, x0), x)
        return self.manifold.per_point(length / self.manifold.inner(x, g, g)) * g
