"""Langevin diffusion towards a wrapped normal."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..heat_kernels import geodesic_random_walk
from ..manifolds import Euclidean, Manifold, Power, gradient
from .base import Mismatch, NoiseProcess, PathSample, check_times
from .priors import WrappedNormal
from .schedules import LogSchedule, Schedule

__all__ = ["Langevin"]


@singledispatch
def is_flat(manifold: Manifold) -> bool:
    """Whether points add up as vectors: Euclidean space and its powers."""
    return False


@is_flat.register
def _(manifold: Euclidean) -> bool:
    return True


@is_flat.register
def _(manifold: Power) -> bool:
    return is_flat(manifold.manifold)


class Langevin(NoiseProcess):
    r"""Langevin diffusion, which leaves the prior :math:`\pi` invariant.

    .. math:: dX = \tfrac12\nabla\log\pi(X)\,d\tau + dB_\tau

    :math:`\pi` is the wrapped normal of standard deviation ``sigma`` about the origin. On Euclidean space this is the
    Ornstein-Uhlenbeck (variance preserving) process in closed form: :math:`x_t = e^{-\tau/2\sigma^2} x_0 + s\,\epsilon`
    with :math:`s^2 = \sigma^2 (1 - e^{-\tau/\sigma^2})`. Elsewhere the transition has no closed form: it is simulated
    by a geodesic random walk of ``n_steps`` steps and trained with implicit score matching.

    Args:
        manifold: where the data live; meant for non-compact manifolds.
        schedule: Brownian time against t; default logarithmic from :math:`10^{-5}\sigma^2` to :math:`12\sigma^2`.
        sigma: standard deviation of the prior, of the order of the spread of the data.
        n_steps: steps of the random walk where there is no closed form.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> process = Langevin(Euclidean(1))
        >>> process.has_target
        True
    """

    def __init__(
        self, manifold: Manifold, schedule: Schedule | None = None, sigma: float = 1.0, n_steps: int = 100
    ) -> None:
        super().__init__()
        if n_steps < 1:
            raise ConfigError(f"Langevin needs n_steps >= 1; got {n_steps}.")
        self.manifold = manifold
        self.sigma = float(sigma)
        self.n_steps = n_steps
        self.prior = WrappedNormal(manifold, sigma)
        self.schedule = schedule if schedule is not None else LogSchedule(1e-5 * sigma**2, 12 * sigma**2)
        self.has_target = is_flat(manifold)

    def _pull(self, x: Tensor) -> Tensor:
        """Drift per unit of Brownian time, (1/2) grad log pi."""
        if self.has_target:
            return -x / (2 * self.sigma**2)
        return 0.5 * gradient(self.manifold, self.prior.log_prob, x)

    def _variance(self, t: Tensor) -> Tensor:
        return -(self.sigma**2) * torch.expm1(-self.schedule.tau(t) / self.sigma**2)

    def _mean_factor(self, t: Tensor) -> Tensor:
        return torch.exp(-self.schedule.tau(t) / (2 * self.sigma**2))

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        check_times(t, self.manifold.batch_shape(x0))
        if not self.has_target:
            x_t = geodesic_random_walk(self.manifold, x0, self.schedule.tau(t), self.n_steps, self._pull, generator)
            return PathSample(t, x0, x_t, None, torch.ones_like(t))
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        x_t = self.manifold.per_point(self._mean_factor(t)) * x0 + self.scale(t) * noise
        return PathSample(t, x0, x_t, -noise, torch.ones_like(t))

    def renoise(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if not self.has_target:
            return super().renoise(x, s, t, generator)
        gap = (self.schedule.tau(t) - self.schedule.tau(s)) / self.sigma**2
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        mean = self.manifold.per_point(torch.exp(-gap / 2)) * x
        return mean + self.manifold.per_point(self.sigma * (-torch.expm1(-gap)).sqrt()) * noise

    def mirror(self, path: PathSample) -> PathSample | None:
        if path.target is None:
            return None
        mean = self.manifold.per_point(self._mean_factor(path.t)) * path.x_0
        return replace(path, x_t=2 * mean - path.x_t, target=-path.target)

    def noise_levels(self, t: Tensor) -> Tensor:
        return self._variance(t).unsqueeze(-1)

    def scale(self, t: Tensor) -> Tensor:
        return self.manifold.per_point(self._variance(t).sqrt())

    def drift_and_rate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        rate = self.manifold.per_point(self.schedule.rate(t))
        return rate * self._pull(x), rate

    def _noise_amplitude(self, x: Tensor, t: Tensor) -> Tensor:
        return self.manifold.per_point(self.schedule.rate(t).sqrt())

    def log_transition(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        if not self.has_target:
            raise CapabilityError(
                f"Langevin on {self.manifold} is simulated: its transition density has no closed form. "
                f"Use BrownianMotion({self.manifold})."
            )
        variance = self._variance(t)
        error = x - self.manifold.per_point(self._mean_factor(t)) * x0
        squared = self.manifold.inner(x, error, error)
        return -squared / (2 * variance) - self.manifold.dim / 2 * torch.log(2 * math.pi * variance)

    def prior_mismatch(self, x0: Tensor, generator: torch.Generator | None = None, max_points: int = 1000) -> Mismatch:
        if self.has_target:
            return super().prior_mismatch(x0, generator, max_points)
        return self.simulated_mismatch(x0, generator, max_points)
