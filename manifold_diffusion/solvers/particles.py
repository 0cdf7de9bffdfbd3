"""Conditional samples by weighted particles: exact in the limit of many."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, NumericsError
from .._typing import Network
from ..processes import Glimpse, LookAhead, NoiseProcess, tempered
from .base import expand_time

__all__ = ["ParticleSample", "particle_filter", "sample_twisted"]

Twist = Callable[[Tensor, Tensor, Tensor | None], Glimpse]


@dataclass(frozen=True)
class ParticleSample:
    r"""Weighted points of independent particle filters.

    Attributes:
        x: points at time 0, ``(n_chains, n_particles, *point_shape)``.
        log_weights: logarithms of their weights, which sum to one in each chain, ``(n_chains, n_particles)``.
        log_evidence: logarithm of the estimate of :math:`Z = E[L(x_0)]` over the model, one per chain,
            ``(n_chains,)``. The estimate itself, not its logarithm, has the right mean for any number of particles.
        ess: effective number of particles at each time, from t = 1 on, before resampling, ``(n_times, n_chains)``.
        n_resampled: how often each chain was resampled, ``(n_chains,)``.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    ess: Tensor
    n_resampled: Tensor

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """One point per chain by its weights, ``(n_chains, *point_shape)``: independent, posterior for many particles.

        With one particle it is a sample of the guided process, not corrected.
        """
        last = self.log_weights.double().exp().cumsum(-1)
        u = torch.rand(len(last), 1, generator=generator, dtype=last.dtype, device=last.device) * last[:, -1:]
        index = torch.searchsorted(last, u, right=True).clamp_max(last.shape[-1] - 1)
        return self.x[torch.arange(len(last), device=last.device), index[:, 0]]

    def pooled_weights(self) -> Tensor:
        """Weights of all particles of all chains together, each chain by its evidence; ``(n_chains, n_particles)``.

        Means with these weights are exact in the limit of many chains as well, however few particles each has.
        """
        joint = self.log_weights + self.log_evidence.unsqueeze(-1)
        return joint.flatten().softmax(0).reshape(joint.shape)


def sample_twisted(
    process: NoiseProcess,
    network: Network,
    log_likelihood: Callable[[Tensor], Tensor],
    n_chains: int,
    n_particles: int = 64,
    *,
    steps: int = 100,
    width: float | None,
    scale: float = 1.0,
    cond: Tensor | None = None,
    ess_threshold: float = 0.5,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> ParticleSample:
    r"""Samples of the posterior :math:`p_0(x)\,L(x)/Z` of a model and a likelihood: the twisted diffusion sampler.

    Particles follow the reverse process guided by the gradient of :math:`\log L(\hat x_0)`
    (:class:`~manifold_diffusion.networks.GradientGuidance`), and weights make up for what that estimate gets wrong:
    for any likelihood, scale and width the law of the particles is that of the (discretised) reverse process, weighted
    by L at its end, in the limit of many particles. ``scale=0`` is importance sampling of the unguided process, and
    ``n_particles=1`` the guided process without correction. A likelihood that is zero or has no gradient in places
    (an event, a constraint) needs ``scale=0``.

    Args:
        process: process of the network; it predicts a score.
        network: ``(t, x, cond) -> tangent vector at x``.
        log_likelihood: function of points, ``(n_chains, n_particles, *point_shape) -> (n_chains, n_particles)``, row
            by row, but it may differ from chain to chain. It may be -inf.
        n_chains: number of independent particle filters: one conditional sample each.
        n_particles: particles per filter, at least 1. The bias of a sample falls as the inverse of it.
        steps: steps of the reverse process, equal in t.
        width: variance of the likelihood about its maximum, in units of squared distance, roughly: the inverse of its
            curvature. It damps the twist where the estimate of the data is worse than that
            (:func:`~manifold_diffusion.processes.tempered`). The limit does not depend on it; the number of particles
            that it takes does, strongly. None: no damping.
        scale: strength of the twist; neither does the limit depend on it.
        cond: condition of the network, ``(cond_dim,)`` or one per chain, ``(n_chains, cond_dim)``.
        ess_threshold: resample a chain when its effective number of particles falls below this fraction.
        dtype: of the particles; default: torch's.
        device: of the particles.
        generator: source of all randomness: same seed, same result.

    Returns:
        Weighted particles and estimates of the evidence.

    Raises:
        ConfigError: if an argument is out of range or has the wrong shape.
        CapabilityError: if the process's network predicts a velocity, or (unless ``scale=0``) it has no estimate of the
            data.
        NumericsError: if weights stop being finite; the message says when.

    Example:
        >>> import torch
        >>> from manifold_diffusion.heat_kernels import HeatKernelMixture
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.processes import BrownianMotion, LogSchedule
        >>> process = BrownianMotion(Sphere(2), LogSchedule(1e-2, 7.0))
        >>> law = HeatKernelMixture(Sphere(2), torch.eye(3), tau=0.1)
        >>> def score(t, x, cond=None):
        ...     return process.scale(t) * law.score(x, process.schedule.tau(t))
        >>> north = torch.tensor([0.0, 0.0, 1.0])
        >>> g = torch.Generator().manual_seed(0)
        >>> posterior = sample_twisted(process, score, lambda x: 4 * x @ north, 8, 16, width=0.25, generator=g)
        >>> posterior.draw(g).shape, posterior.log_evidence.shape
        (torch.Size([8, 3]), torch.Size([8]))

    References:
        Wu et al., *Practical and asymptotically exact conditional sampling in diffusion models*, 2023,
        arXiv:2306.17775; Del Moral, Doucet and Jasra, *On adaptive resampling strategies for sequential Monte Carlo
        methods*, 2012, arXiv:1203.0464.
    """
    potential = tempered(log_likelihood, scale, width)
    twist = LookAhead(process, network, potential) if scale > 0 else _Untwisted(process, network)
    check_counts(n_chains, n_particles, steps, ess_threshold)
    times = [1 - k / steps for k in range(steps + 1)]
    x = process.prior.sample(n_chains * n_particles, generator=generator, dtype=dtype, device=device)
    x = x.reshape(n_chains, n_particles, *process.manifold.point_shape)
    return particle_filter(process, twist, log_likelihood, x, times, cond, ess_threshold, generator)


@torch.no_grad()
def particle_filter(
    process: NoiseProcess,
    twist: Twist,
    log_likelihood: Callable[[Tensor], Tensor],
    x: Tensor,
    times: list[float],
    cond: Tensor | None = None,
    ess_threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> ParticleSample:
    r"""Particle filter for the reverse process weighted by a likelihood of its last state.

    With twists :math:`\psi_k`, a step from x at time t, h < 0, proposes
    :math:`x' = \exp_x(v)`, :math:`v = h (b - a \nabla\log p_t - a \nabla\log\psi_k) + \sqrt{|h| a}\,\xi`, and has the
    weight

    .. math::
        \frac{\psi_{k+1}(x')}{\psi_k(x)}\, \frac{N(v; \mu, |h| a)}{N(v; \mu + |h| a \nabla\log\psi_k, |h| a)},
        \qquad \log\frac{N}{N} = -\langle\xi, u\rangle - \tfrac12 |u|^2, \quad u = \sqrt{|h| a}\, \nabla\log\psi_k(x)

    with :math:`\mu` the unguided step. Both kernels are images of normal laws of the same tangent space under the same
    map, so that the ratio of densities at x' would be that of the tangent vectors, the Jacobian of exp cancelling,
    wherever the logarithm is unique. Here the weight belongs to the tangent vector that was drawn, an auxiliary
    variable: the filter is then exact for any step, also beyond the cut locus and for reflected steps. The last twist
    is the likelihood itself. Chains are resampled (systematically) one by one.

    Args:
        process: process whose reverse is run.
        twist: ``(t, x, cond)`` to a :class:`~manifold_diffusion.processes.Glimpse`; any positive function serves.
        log_likelihood: function of the last state, ``(n_chains, n_particles)``.
        x: particles at the first time, independent draws of the process there, ``(n_chains, n_particles,
            *point_shape)``.
        times: decreasing times of the states.
        cond: ``(cond_dim,)`` or ``(n_chains, cond_dim)``.
        ess_threshold: in [0, 1].
        generator: source of randomness.

    Returns:
        Weighted particles at the last time.

    Raises:
        ConfigError: if ``cond`` has the wrong shape.
        NumericsError: if weights stop being finite.
    """
    manifold, (chains, particles) = process.manifold, x.shape[:2]
    cond = per_particle(cond, chains, particles)
    log_w = x.new_full((chains, particles), -math.log(particles))  # normalised, those of the last resampling
    log_psi, increment = torch.zeros_like(log_w), torch.zeros_like(log_w)
    log_evidence, n_resampled = x.new_zeros(chains), torch.zeros(chains, dtype=torch.int64, device=x.device)
    history = []
    for t, t_next in itertools.pairwise(times):
        time = expand_time(manifold, t, x)
        seen = twist(time, x, cond)
        log_w, log_evidence, ess = _reweigh(log_w, increment + seen.log_value - log_psi, log_evidence)
        history.append(ess)
        state = (x, seen.output, seen.gradient, seen.log_value)
        resample = ess < ess_threshold * particles
        index = _systematic(log_w, resample, generator)
        row = torch.arange(chains, device=x.device).unsqueeze(-1)
        x, output, gradient, log_psi = (s[row, index] for s in state)
        log_w = torch.where(resample.unsqueeze(-1), -math.log(particles), log_w)
        n_resampled += resample

        mean, amplitude = reverse_step(process, output, x, time, t_next - t)
        noise, push = manifold.random_tangent(x, generator=generator), amplitude * gradient
        increment = -manifold.inner(x, noise, push) - manifold.inner(x, push, push) / 2
        x = manifold.move(x, mean + amplitude * (noise + push))
    value = log_likelihood(x)
    if value.shape != log_w.shape:
        raise ConfigError(
            f"log_likelihood must give one number per particle, {tuple(log_w.shape)}, for points of shape "
            f"{tuple(x.shape)}; got {tuple(value.shape)}. Sum over the axes of a point only, the last ones."
        )
    log_w, log_evidence, ess = _reweigh(log_w, increment + value - log_psi, log_evidence)
    result = ParticleSample(x, log_w, log_evidence, torch.stack([*history, ess]), n_resampled)
    _check_finite(result, times)
    return result


def reverse_step(process: NoiseProcess, output: Tensor, x: Tensor, t: Tensor, h: float) -> tuple[Tensor, Tensor]:
    """Mean (a tangent vector) and noise amplitude of one Euler-Maruyama step of the reverse process, h < 0."""
    return h * process.reverse_drift(output, x, t), (abs(h) * process.drift_and_rate(x, t)[1]).sqrt()


class _Untwisted:
    """The twist that is one everywhere."""

    def __init__(self, process: NoiseProcess, network: Network) -> None:
        if not isinstance(process, NoiseProcess):
            raise CapabilityError(
                f"Particles follow the reverse SDE, which needs a score; {type(process).__name__} predicts the "
                f"{process.prediction}. Train a score: BrownianMotion({process.manifold})."
            )
        self.network = network

    def __call__(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Glimpse:
        return Glimpse(self.network(t, x, cond), torch.zeros_like(t), torch.zeros_like(x))


def _reweigh(log_w: Tensor, increment: Tensor, log_evidence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised weights, the evidence up to now, and the effective number of particles."""
    log_w = log_w + increment
    total = log_w.logsumexp(-1)
    log_w = log_w - total.unsqueeze(-1)
    return log_w, log_evidence + total, 1 / (2 * log_w).exp().sum(-1)


def _systematic(log_w: Tensor, resample: Tensor, generator: torch.Generator | None) -> Tensor:
    """Indices of the particles that survive, ``(n_chains, n_particles)``: one comb of equal distances per chain."""
    chains, particles = log_w.shape
    edges = log_w.double().exp().cumsum(-1)
    comb = torch.arange(particles, dtype=edges.dtype, device=edges.device)
    u = torch.rand(chains, 1, generator=generator, dtype=edges.dtype, device=edges.device)
    index = torch.searchsorted(edges / edges[:, -1:], (comb + u) / particles, right=True).clamp_max(particles - 1)
    return torch.where(resample.unsqueeze(-1), index, torch.arange(particles, device=index.device))


def per_particle(cond: Tensor | None, chains: int, particles: int) -> Tensor | None:
    """One condition per particle, ``(n_chains, n_particles, cond_dim)``."""
    if cond is None:
        return None
    if cond.dim() not in (1, 2) or (cond.dim() == 2 and len(cond) != chains):
        raise ConfigError(
            f"cond must be one condition for all, (cond_dim,), or one per chain, ({chains}, cond_dim); got "
            f"{tuple(cond.shape)}."
        )
    one = cond if cond.dim() == 1 else cond.unsqueeze(1)
    return one.expand(chains, particles, cond.shape[-1])


def check_counts(n_chains: int, n_particles: int, steps: int, ess_threshold: float) -> None:
    """Raise :class:`ConfigError` unless there is something to sample."""
    if n_chains < 1 or n_particles < 1 or steps < 1:
        raise ConfigError(
            f"Particles need n_chains, n_particles, steps >= 1; got n_chains={n_chains}, n_particles={n_particles}, "
            f"steps={steps}. For example n_chains=100, n_particles=64, steps=100."
        )
    if not 0 <= ess_threshold <= 1:
        raise ConfigError(
            f"ess_threshold is a fraction of the particles, in [0, 1] (0: never resample); got {ess_threshold}."
        )


def _check_finite(result: ParticleSample, times: list[float]) -> None:
    """One question to the device at the end: a bad weight stays in the record of its step."""
    bad = ~(result.ess.isfinite() & result.log_evidence.isfinite())
    if not bool(bad.any()):
        return
    steps = (~result.ess.isfinite()).any(1).nonzero()
    t = times[int(steps[0])] if len(steps) else times[-1]
    raise NumericsError(
        f"In {int(bad.any(0).sum())} of {bad.shape[1]} chains the weights are not finite, first at t = {t:.4g}. Either "
        "no particle has a likelihood above zero (raise n_particles), or the log-likelihood or its gradient is not "
        "finite (give a likelihood with zeros scale=0, bound the others), or the network's output is not."
    )
