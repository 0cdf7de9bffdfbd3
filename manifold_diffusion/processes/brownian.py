"""Brownian motion with the exact heat kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..heat_kernels import ShortTimeKernel, geodesic_random_walk, heat_kernel
from ..manifolds import Manifold, geodesic_symmetry
from .base import Mismatch, NoiseProcess, PathSample, check_times
from .priors import HeatPrior, brownian_prior
from .schedules import Schedule, default_schedule

__all__ = ["BrownianMotion"]


class BrownianMotion(NoiseProcess):
    r"""Brownian motion of the metric, generator :math:`\tfrac12\Delta`, run for Brownian time :math:`\tau(t)`.

    With the exact heat kernel :math:`x_t` and the target :math:`\sqrt\tau\,\nabla_{x_t}\log p_\tau(x_t \mid x_0)` come
    from one table look-up and one exponential map: nothing is simulated. The prior is uniform on a compact manifold,
    elsewhere a mixture of heat kernels about some of the data (:class:`HeatPrior`).

    Args:
        manifold: where the data live.
        schedule: Brownian time against t; default :func:`default_schedule`.
        n_centres: centres of the prior on a non-compact manifold.
        n_steps: simulate by a geodesic random walk of that many steps instead of using the heat kernel: for manifolds
            that have none.
        target: of a simulated motion: None, to be trained by implicit score matching, or ``"short_time"``, the
            approximate score of :class:`~manifold_diffusion.heat_kernels.ShortTimeKernel`, for denoising score
            matching.

    Raises:
        CapabilityError: if the manifold has no heat kernel and ``n_steps`` is not given, or has neither a heat kernel
            nor a uniform law.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> process = BrownianMotion(Sphere(2))
        >>> x0 = torch.tensor([[0.0, 0.0, 1.0]])
        >>> path = process.sample(x0, torch.tensor([0.5]), torch.Generator().manual_seed(0))
        >>> path.x_t.shape, path.target.shape
        (torch.Size([1, 3]), torch.Size([1, 3]))
    """

    def __init__(
        self,
        manifold: Manifold,
        schedule: Schedule | None = None,
        n_centres: int = 256,
        n_steps: int | None = None,
        target: Literal["short_time"] | None = None,
    ) -> None:
        super().__init__()
        if n_steps is not None and n_steps < 1:
            raise ConfigError(f"BrownianMotion needs n_steps >= 1; got {n_steps}.")
        self.manifold = manifold
        self.schedule = schedule if schedule is not None else default_schedule(manifold)
        self.n_centres = n_centres
        self.n_steps = n_steps
        if target not in (None, "short_time") or (target is not None and n_steps is None):
            raise ConfigError(
                "target must be None or 'short_time', the latter with n_steps, the steps of the random walk; got "
                f"target={target!r}, n_steps={n_steps}."
            )
        self.target = target
        if n_steps is None:
            try:
                self._kernel = heat_kernel(manifold)
            except CapabilityError as error:
                brownian_prior(manifold, self.schedule.tau_max, n_centres)  # its error first: a walk needs a prior too
                raise CapabilityError(
                    f"{error} BrownianMotion({manifold}, n_steps=100) simulates it by a geodesic random walk, to be "
                    "trained with ImplicitScoreMatching, or with target='short_time' by DenoisingScoreMatching."
                ) from None
        else:
            self._kernel = None if target is None else ShortTimeKernel(manifold, n_steps)
        self.has_target = self._kernel is not None
        self._symmetry = geodesic_symmetry(manifold)
        self.prior = brownian_prior(manifold, self.schedule.tau_max, n_centres)

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        check_times(t, self.manifold.batch_shape(x0))
        tau = self.schedule.tau(t)
        if self._kernel is None:
            assert self.n_steps is not None
            x_t = geodesic_random_walk(self.manifold, x0, tau, self.n_steps, generator=generator)
            return PathSample(t, x0, x_t, None, torch.ones_like(t))
        draw = self._kernel.sample_with_score(x0, tau, generator)
        return PathSample(t, x0, draw.x, self.scale(t) * draw.score, torch.ones_like(t))

    def renoise(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        tau = self.schedule.tau(t) - self.schedule.tau(s)
        if self.n_steps is not None:
            return geodesic_random_walk(self.manifold, x, tau, self.n_steps, generator=generator)
        return heat_kernel(self.manifold).sample(x, tau, generator)

    def mirror(self, path: PathSample) -> PathSample | None:
        if self._symmetry is None or path.target is None:
            return None
        x_t, target = self._symmetry(path.x_0, path.x_t, path.target)
        return replace(path, x_t=x_t, target=target)

    def noise_levels(self, t: Tensor) -> Tensor:
        return self.schedule.tau(t).unsqueeze(-1)

    def scale(self, t: Tensor) -> Tensor:
        return self.manifold.per_point(self.schedule.tau(t).sqrt())

    def clock(self, t: Tensor) -> Tensor:
        r"""Minus the noise :math:`\sqrt\tau`: along the probability flow :math:`dx/d\sqrt\tau = -g`."""
        return -self.scale(t)

    def drift_and_rate(self, x: Tensor, t: Tensor) -> tuple[None, Tensor]:
        return None, self.manifold.per_point(self.schedule.rate(t))

    def log_transition(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        return heat_kernel(self.manifold).log_prob(x, x0, self.schedule.tau(t))

    def prior_mismatch(self, x0: Tensor, generator: torch.Generator | None = None, max_points: int = 1000) -> Mismatch:
        if self.n_steps is not None:
            return self.simulated_mismatch(x0, generator, max_points)
        fewer = int(max_points / heat_kernel(self.manifold).terms_per_pair ** 0.5)
        try:
            return super().prior_mismatch(x0, generator, max(fewer, 16))
        except CapabilityError:  # of a kernel whose density has too many terms, although its samples don't
            return self.simulated_mismatch(x0, generator, max_points)

    def _mismatch_hint(self) -> str:
        if not isinstance(self.prior, HeatPrior):
            return super()._mismatch_hint()
        return f"The prior is a mixture about {self.n_centres} of the data: raise n_centres of the process."

    def fit_prior(self, x0: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None) -> None:
        if isinstance(self.prior, HeatPrior):
            self.prior.fit(x0, generator, weights)
