"""Brownian bridges and mixtures of them between coupled points."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._typing import Network
from ..data import Coupling
from ..heat_kernels import draw_bridge, geodesic_random_walk, heat_kernel
from ..manifolds import Manifold
from .base import NoiseProcess, PathSample, check_range, check_times
from .priors import EmpiricalPrior
from .terms import ODETerm, SDETerm, Terms

__all__ = ["BridgeMixture", "BrownianBridge", "Direction"]

Direction = Literal["to_0", "to_1"]
"""Which end a drift leads to: ``"to_0"`` the data, where sampling ends, ``"to_1"`` the other end."""


class BrownianBridge:
    r"""Brownian motion of time :math:`\tau` in all, pinned at both ends.

    Given :math:`x_0` at t = 0 and :math:`x_1` at t = 1, with Brownian time :math:`\tau t` since the start,

    .. math::
        p(x \mid x_0, x_1) = \frac{p_{\tau t}(x_0, x)\, p_{\tau(1-t)}(x, x_1)}{p_\tau(x_0, x_1)}, \qquad
        dX = \tau \nabla_x \log p_{\tau(1-t)}(X, x_1)\,dt + \sqrt\tau\, dB .

    The bridge run backwards is the bridge from :math:`x_1` to :math:`x_0`. Densities and drifts are the heat kernel's.
    Draws are exact on Euclidean space, tori, spheres, SO(3), hyperbolic and real projective space and on quotients,
    products, powers, pullbacks and scalings of these; elsewhere pass ``n_steps``.

    Args:
        manifold: a manifold with a heat kernel.
        tau: Brownian time from end to end.
        n_steps: simulate draws by a geodesic random walk of so many steps, of weak order 1, instead. It starts from the
            nearer end, so that the drift stays bounded.

    Raises:
        CapabilityError: if there is no heat kernel, or no exact draw and no ``n_steps``.
        ConfigError: if ``tau`` or ``n_steps`` is not positive.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> bridge = BrownianBridge(Sphere(2), tau=0.5)
        >>> x0, x1 = torch.tensor([0.0, 0.0, 1.0]).expand(4, 3), torch.tensor([1.0, 0.0, 0.0]).expand(4, 3)
        >>> bridge.sample(x0, x1, 0.5, torch.Generator().manual_seed(0)).shape
        torch.Size([4, 3])

    References:
        Hsu, *Stochastic Analysis on Manifolds*, 2002, section 5.4; Thornton et al., *Riemannian diffusion Schroedinger
        bridge*, 2022, arXiv:2207.03024.
    """

    def __init__(self, manifold: Manifold, tau: float = 1.0, n_steps: int | None = None) -> None:
        if not (tau > 0 and math.isfinite(tau)):
            raise ConfigError(f"A bridge needs a positive and finite Brownian time tau; got {tau}.")
        if n_steps is not None and n_steps < 1:
            raise ConfigError(f"A bridge needs n_steps >= 1; got {n_steps}.")
        self.manifold, self.tau, self.n_steps = manifold, float(tau), n_steps
        self._kernel = heat_kernel(manifold)
        if n_steps is None:  # no rows: raises if the manifold, or a part of it, has no exact draw
            none, no_time = torch.empty(0, *manifold.point_shape), torch.empty(0)
            draw_bridge(manifold, none, none, no_time, no_time, torch.Generator())

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """Points at times ``t`` in [0, 1].

        Args:
            x0: starts, ``(*batch, *point_shape)``.
            x1: ends, ``(*batch, *point_shape)``.
            t: float or broadcastable to ``(*batch,)``; at 0 and 1 the ends themselves are returned.
            generator: source of randomness.

        Raises:
            ConfigError: if a time is outside [0, 1].
        """
        x0, x1 = torch.broadcast_tensors(x0, x1)
        times = self._times(x0, t)
        flat = self.manifold.point_shape
        a, b, t = x0.reshape(-1, *flat), x1.reshape(-1, *flat), times.reshape(-1)
        inside = (t > 0) & (t < 1)
        u = torch.where(inside, t, 0.5)
        if self.n_steps is None:
            x = draw_bridge(self.manifold, a, b, self.tau * u, self.tau * (1 - u), generator)
        else:
            x = self._simulate(a, b, u, self.n_steps, generator)
        x = torch.where(self.manifold.per_point(inside), x, torch.where(self.manifold.per_point(t <= 0), a, b))
        return x.reshape(x0.shape)

    def log_prob(self, x: Tensor, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        """Log density in nats at ``x`` and 0 < t < 1, with respect to the Riemannian volume, ``(*batch,)``."""
        s, r = self._spans(x, t)
        log_p = self._kernel.log_prob
        return log_p(x, x0, s) + log_p(x, x1, r) - log_p(x1, x0, self.tau)

    def drift_to_1(self, x: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        r"""Drift towards ``x1`` per unit of Brownian time, :math:`\nabla_x \log p_{\tau(1-t)}(x, x_1)`, for t < 1."""
        return self._kernel.score(x, x1, self._spans(x, t)[1])

    def drift_to_0(self, x: Tensor, x0: Tensor, t: Tensor | float) -> Tensor:
        r"""Drift of the reversed bridge, :math:`\nabla_x \log p_{\tau t}(x, x_0)`, for t > 0."""
        return self._kernel.score(x, x0, self._spans(x, t)[0])

    def score(self, x: Tensor, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        """Riemannian gradient of :meth:`log_prob` in ``x``: the sum of the two drifts."""
        return self.drift_to_0(x, x0, t) + self.drift_to_1(x, x1, t)

    def velocity(self, x: Tensor, x0: Tensor, x1: Tensor, t: Tensor | float) -> Tensor:
        r"""dx/dt of the flow with the bridge's marginals: :math:`\tau/2` times drift to 1 less drift to 0."""
        return 0.5 * self.tau * (self.drift_to_1(x, x1, t) - self.drift_to_0(x, x0, t))

    def _times(self, x: Tensor, t: Tensor | float) -> Tensor:
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(self.manifold.batch_shape(x))
        check_range(times)
        return times

    def _spans(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        check_range(times)
        return self.tau * times, self.tau * (1 - times)

    def _simulate(self, x0: Tensor, x1: Tensor, t: Tensor, n_steps: int, generator: torch.Generator | None) -> Tensor:
        near = self.manifold.per_point(t <= 0.5)
        start, end, time = torch.where(near, x0, x1), torch.where(near, x1, x0), self.tau * torch.minimum(t, 1 - t)
        steps_done = 0

        def drift(x: Tensor) -> Tensor:
            nonlocal steps_done
            left = self.tau - time * (steps_done / n_steps)
            steps_done += 1
            return self._kernel.score(x, end, left)

        return geodesic_random_walk(self.manifold, start, time, n_steps, drift, generator)


class BridgeMixture(NoiseProcess):
    r"""Brownian bridges between coupled points: a process from data at t = 0 to other data at t = 1.

    A pair :math:`(x_0, x_1)` is drawn from the coupling and :math:`x_t` from the bridge between them. The network of
    one direction predicts the mean drift towards its end, in units that keep it of order one at all times,

    .. math::
        g(t, x) = \sigma(t)\, E[\nabla_x \log p_{\sigma^2(t)}(x, x_1) \mid x_t = x], \qquad \sigma^2(t) = \tau (1 - t),

    (to t = 1; to t = 0 it is :math:`x_0` and :math:`\sigma^2 = \tau t`), a tangent vector with
    :math:`E|g|^2 \approx t \dim + (1 - t)\, d(x_0, x_1)^2/\tau`. The diffusion with this drift has the marginals of the
    mixture (its Markovian projection); the SDE of direction ``"to_0"`` generates data.

    Args:
        manifold: a manifold with a heat kernel.
        tau: Brownian time from end to end.
        prior: law at t = 1 (an :class:`EmpiricalPrior` for data); None if only given pairs are used.
        coupling: which draw of the prior goes with which data point, a map
            ``(x0, x1, generator) -> index into x1``; default independent.
        direction: the end to which the network's drift leads, ``"to_0"`` (default) or ``"to_1"``.
        tau_min: least Brownian time to that end; default :math:`10^{-3}\tau`.
        n_steps: simulate bridges in so many steps, for manifolds without an exact draw.

    Raises:
        ConfigError: for times or a direction out of range.
        CapabilityError: as of :class:`BrownianBridge`.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> process = BridgeMixture(Euclidean(2), 1.0, EmpiricalPrior(torch.ones(3, 2)))
        >>> path = process.sample(torch.zeros(5, 2), torch.full((5,), 0.5), torch.Generator().manual_seed(0))
        >>> path.x_t.shape, path.target.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))

    References:
        Shi et al., *Diffusion Schroedinger bridge matching*, 2023, arXiv:2303.16852; Peluchetti, *Diffusion bridge
        mixture transports*, 2023, arXiv:2304.00917.
    """

    prediction = "drift"
    has_target = True

    def __init__(
        self,
        manifold: Manifold,
        tau: float = 1.0,
        prior: EmpiricalPrior | None = None,
        coupling: Coupling | None = None,
        direction: Direction = "to_0",
        tau_min: float | None = None,
        n_steps: int | None = None,
    ) -> None:
        super().__init__()
        if direction not in ("to_0", "to_1"):
            raise ConfigError(f"direction must be 'to_0' or 'to_1'; got {direction!r}.")
        self.bridge = BrownianBridge(manifold, tau, n_steps)
        self.manifold, self.tau, self.n_steps, self.direction = manifold, self.bridge.tau, n_steps, direction
        self.tau_min = 1e-3 * self.tau if tau_min is None else float(tau_min)
        if not 0 < self.tau_min < self.tau:
            raise ConfigError(f"BridgeMixture needs 0 < tau_min < tau; got tau_min={tau_min}, tau={tau}.")
        self.prior, self.coupling = prior, coupling  # pyright: ignore[reportAttributeAccessIssue]

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        if self.prior is None:
            raise ConfigError(
                "This BridgeMixture has no law at t = 1. Give prior=EmpiricalPrior(x1), or call sample_pairs(x0, x1, "
                "t)."
            )
        x1 = self.prior.sample(len(x0), generator=generator, dtype=x0.dtype, device=x0.device)
        if self.coupling is not None:
            x1 = x1[self.coupling(x0, x1, generator)]
        return self.sample_pairs(x0, x1, t, generator)

    def sample_pairs(self, x0: Tensor, x1: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        """Draw of the bridges between given pairs; ``t`` is kept ``tau_min`` away from the end of the direction."""
        check_times(t, self.manifold.batch_shape(x0))
        least = self.tau_min / self.tau
        t = t.clamp_max(1 - least) if self.direction == "to_1" else t.clamp_min(least)
        x_t = self.bridge.sample(x0, x1, t, generator)
        drift = self.bridge.drift_to_1(x_t, x1, t) if self.direction == "to_1" else self.bridge.drift_to_0(x_t, x0, t)
        return PathSample(t, x0, x_t, self.scale(t) * drift, torch.ones_like(t))

    def time_left(self, t: Tensor, direction: Direction | None = None) -> Tensor:
        """Brownian time to the end of a direction, at least ``tau_min``."""
        left = 1 - t if (direction or self.direction) == "to_1" else t
        return (self.tau * left).clamp_min(self.tau_min)

    def noise_levels(self, t: Tensor) -> Tensor:
        return self.time_left(t).unsqueeze(-1)

    def scale(self, t: Tensor) -> Tensor:
        return self.manifold.per_point(self.time_left(t).sqrt())

    def drift_and_rate(self, x: Tensor, t: Tensor) -> tuple[None, Tensor]:
        return None, self.manifold.per_point(torch.full_like(t, self.tau))

    def log_transition(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        raise CapabilityError(
            "The transition density of a mixture of bridges depends on the coupling and has no closed form. "
            "BrownianBridge.log_prob has that of one bridge, schrodinger_plan(...).log_prob that of a static bridge."
        )

    def drift(self, output: Tensor, t: Tensor) -> Tensor:
        """Drift towards the end of the direction, per unit of Brownian time, from the network's output."""
        return output / self.scale(t)

    def score(self, output: Tensor, x: Tensor, t: Tensor, partner: Tensor | None = None) -> Tensor:
        r"""Score of the marginal, the sum of the drifts to both ends; ``partner`` is the other direction's output."""
        there, back = self._both(output, t, partner)
        return there + back

    def velocity(self, output: Tensor, x: Tensor, t: Tensor, partner: Tensor | None = None) -> Tensor:
        r"""dx/dt of the flow, :math:`\tau/2` times drift to 1 less drift to 0; ``partner`` as for :meth:`score`."""
        there, back = self._both(output, t, partner)
        return (0.5 if self.direction == "to_1" else -0.5) * self.tau * (there - back)

    def terms(self, network: Network, cond: Tensor | None = None, partner: Network | None = None) -> Terms:
        r"""SDE of the network's direction, :math:`dX = \pm\tau\, b\,dt + \sqrt\tau\,dB`, and the flow.

        ``reverse`` runs from 1 to 0 for direction ``"to_0"``, from 0 to 1 for ``"to_1"``. ``flow`` needs ``partner``,
        the network of the other direction.
        """

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return self.velocity(network(t, x, cond), x, t, None if partner is None else partner(t, x, cond))

        def drift(t: Tensor, x: Tensor) -> Tensor:
            return (self.tau if self.direction == "to_1" else -self.tau) * self.drift(network(t, x, cond), t)

        return Terms(ODETerm(velocity), SDETerm(drift, lambda t, x: self._noise_amplitude(x, t)))

    def _both(self, output: Tensor, t: Tensor, partner: Tensor | None) -> tuple[Tensor, Tensor]:
        if partner is None:
            raise CapabilityError(
                "One drift of a mixture of bridges gives the SDE of its direction, not the score nor the flow: these "
                "need both. Pass partner, the output of the other direction's network, or use SchrodingerBridge."
            )
        other: Direction = "to_0" if self.direction == "to_1" else "to_1"
        return self.drift(output, t), partner / self.manifold.per_point(self.time_left(t, other).sqrt())
