"""The contract of a noise process."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .._errors import CapabilityError, ConfigError
from .._safe import readable
from .._typing import Network
from ..manifolds import Manifold
from .terms import ODETerm, SDETerm, Terms

__all__ = ["Mismatch", "NoiseProcess", "PathSample", "Prior", "Process"]


class Prior(Protocol):
    """The law from which sampling starts, at t = 1."""

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent points, ``(n, *point_shape)``."""
        ...

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density with respect to the Riemannian volume, ``(*batch,)``."""
        ...


@dataclass(frozen=True)
class PathSample:
    """One draw of a process at time t, with what the network should say about it.

    Attributes:
        t: times in [0, 1], ``(*batch,)``.
        x_0: data points.
        x_t: noised points.
        target: what the network should output at ``(t, x_t)``, of unit scale; None when the transition has no closed
            form.
        weight: weight of the row in the loss, ``(*batch,)``.
        x_1: draws of the prior that the points are paired with; None for noise, which has no partner.
    """

    t: Tensor
    x_0: Tensor
    x_t: Tensor
    target: Tensor | None
    weight: Tensor
    x_1: Tensor | None = None


@dataclass(frozen=True)
class Mismatch:
    """Divergence, in nats, of the prior from the terminal marginal of given data, with its standard error."""

    kl: float
    standard_error: float

    def __str__(self) -> str:
        return f"KL(p_1 || prior) = {self.kl:.1e} +- {self.standard_error:.0e} nats"


def check_times(t: Tensor | float, batch: tuple[int, ...]) -> None:
    """Raise :class:`ConfigError` unless times are a tensor of the shape of a batch, and as in :func:`check_range`."""
    if not isinstance(t, Tensor) or (t.dim() and t.shape != batch):
        got = f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise ConfigError(f"t must be a tensor of times, one per point, {tuple(batch)}; got {got}.")
    check_range(t)


def check_range(t: Tensor) -> None:
    """Raise :class:`ConfigError` for times outside [0, 1], on the CPU: elsewhere looking would wait for the device."""
    if t.device.type == "cpu" and readable(t) and not bool(((t >= 0) & (t <= 1)).all()):
        raise ConfigError(f"Times t must be in [0, 1], from data to noise; got {float(t.min())} to {float(t.max())}.")


class Process(nn.Module, ABC):
    r"""What joins data (t = 0) to a prior (t = 1): a noise process, a path of flow matching, a bridge.

    A process says what its network predicts, always a tangent vector of unit scale, and how that becomes dx/dt. It is
    an ``nn.Module`` without parameters, so that a prior that depends on data is saved and moved with the model.

    Attributes:
        manifold: where the points live.
        prediction: what the network predicts, in units of the process.
        has_target: whether :meth:`sample` has a closed-form target; otherwise implicit score matching is needed.
        prior: law at t = 1.
    """

    prediction: str = "score"
    manifold: Manifold
    has_target: bool
    prior: Prior

    @abstractmethod
    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        """Points at times ``t`` in [0, 1], a tensor ``(*batch,)``, of paths from data ``x0``.

        Raises:
            ConfigError: for a time outside [0, 1] (on the CPU; elsewhere looking would wait for the device), or times
                of another shape.
        """

    @abstractmethod
    def noise_levels(self, t: Tensor) -> Tensor:
        r"""Variance of the noise in each entry of ``manifold.coordinates``, ``(*batch, 1)`` or ``(*batch, k)``.

        A wave of frequency w is damped by :math:`e^{-|w|^2 \tau / 2}`: the networks' heat gate.
        """

    @abstractmethod
    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the probability flow, along increasing t, from the network's output."""

    @abstractmethod
    def terms(self, network: Network, cond: Tensor | None = None) -> Terms:
        """Flow of a network and, where there is one, its reverse SDE."""

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r"""Score :math:`\nabla \log p_t(x)` from the network's output.

        Raises:
            CapabilityError: if a velocity does not determine the score.
        """
        raise CapabilityError(
            f"{type(self).__name__} on {self.manifold} has no score: its network predicts the {self.prediction}, which "
            "determines the score only for a normal prior on flat space. Use RiemannianDiffusion, or the likelihood."
        )

    def clock(self, t: Tensor) -> Tensor:
        r"""Time :math:`\lambda(t)` in which the network's output is the velocity, :math:`dx/d\lambda`.

        Broadcasts against points. Flow maps and multistep solvers measure their steps in it.

        Raises:
            CapabilityError: if the velocity is not a multiple of the network's output.
        """
        raise CapabilityError(
            f"The flow of {type(self).__name__} is not a multiple of its network's output, and has no clock. Processes "
            "with one: BrownianMotion, GeodesicFlow, PremetricFlow."
        )

    def mirror(self, path: PathSample) -> PathSample | None:
        """The same draw with opposite noise, equally likely; None where the law has no such symmetry.

        A pair of opposite draws cancels the odd part of the noise in a regression on the target.
        """
        return None

    def fit_prior(self, x0: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None) -> None:
        """Adapt a prior that depends on data, which may have weights ``(n,)``; nothing to do for the others."""

    @abstractmethod
    def prior_mismatch(self, x0: Tensor, generator: torch.Generator | None = None, max_points: int = 1000) -> Mismatch:
        """How far the marginal at t = 1 of these data is from the prior."""

    def report_mismatch(
        self, x0: Tensor, generator: torch.Generator | None = None, threshold: float = 0.01
    ) -> Mismatch:
        """:meth:`prior_mismatch`, with a warning that names the fix if it is beyond ``threshold`` and its error."""
        mismatch = self.prior_mismatch(x0, generator)
        if mismatch.kl - 3 * mismatch.standard_error > threshold:
            warnings.warn(
                f"The noised data have not reached the prior of {self.manifold}: {mismatch}. "
                f"This is lost in likelihood and in samples. {self._mismatch_hint()}",
                stacklevel=2,
            )
        return mismatch

    def _mismatch_hint(self) -> str:
        return f"Raise tau_max of the schedule ({getattr(self, 'schedule', 'one per factor')!r})."


class NoiseProcess(Process):
    r"""A noise process, whose network predicts the score.

    The output is the score in units of the noise, :math:`g = \sigma(t)\,\nabla\log p_t`, a tangent vector of length
    about :math:`\sqrt{\dim}` at every noise level.
    """

    @abstractmethod
    def scale(self, t: Tensor) -> Tensor:
        r"""Unit :math:`\sigma(t)` in which the network predicts the score; broadcasts against points."""

    @abstractmethod
    def drift_and_rate(self, x: Tensor, t: Tensor) -> tuple[Tensor | None, Tensor]:
        r"""Drift b (None if zero) and squared noise amplitude a of dX = b dt + sqrt(a) dB; a broadcasts to points."""

    @abstractmethod
    def log_transition(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Log density of x at time t given x0 at time 0.

        Raises:
            CapabilityError: where there is no closed form.
        """

    def renoise(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Points at times ``t`` from points at earlier times ``s`` < t, ``(*batch,)``, by the process itself.

        Raises:
            CapabilityError: if the process does not offer it.
        """
        raise CapabilityError(
            f"{type(self).__name__} on {self.manifold} can't be run from one time to another. BrownianMotion, products "
            "of it and Langevin on Euclidean space can."
        )

    # ------------------------------------------------------------------ what follows

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return output / self.scale(t)

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r"""dx/dt of the probability flow, :math:`b - \tfrac12 a \nabla\log p_t`, from the network's output."""
        drift, rate = self.drift_and_rate(x, t)
        flow = -0.5 * (rate / self.scale(t)) * output
        return flow if drift is None else drift + flow

    def reverse_drift(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r"""Drift :math:`b - a\nabla\log p_t` of the reverse-time SDE, from the network's output."""
        drift, rate = self.drift_and_rate(x, t)
        flow = -rate * self.score(output, x, t)
        return flow if drift is None else drift + flow

    def terms(self, network: Network, cond: Tensor | None = None) -> Terms:
        r"""Flow and reverse SDE of a network, :math:`dX = (b - a\nabla\log p_t)\,dt + \sqrt a\,dB`, dt < 0."""

        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return self.velocity(network(t, x, cond), x, t)

        def reverse_drift(t: Tensor, x: Tensor) -> Tensor:
            return self.reverse_drift(network(t, x, cond), x, t)

        def diffusion(t: Tensor, x: Tensor) -> Tensor:
            return self._noise_amplitude(x, t)

        return Terms(ODETerm(velocity), SDETerm(reverse_drift, diffusion))

    def _noise_amplitude(self, x: Tensor, t: Tensor) -> Tensor:
        return self.drift_and_rate(x, t)[1].sqrt()

    def prior_mismatch(self, x0: Tensor, generator: torch.Generator | None = None, max_points: int = 1000) -> Mismatch:
        """How far the marginal at t = 1 of these data is from the prior.

        The marginal is the mixture of the transition densities of (at most ``max_points`` of) the data; its divergence
        from the prior is averaged over samples of that mixture.
        """
        if len(x0) > max_points:
            x0 = x0[torch.randperm(len(x0), generator=generator, device=x0.device)[:max_points]]
        one = torch.ones(len(x0), dtype=x0.dtype, device=x0.device)
        x1 = self.sample(x0, one, generator).x_t
        rows = [torch.logsumexp(self.log_transition(x.expand_as(x0), x0, one), 0) for x in x1]
        ratio = (torch.stack(rows) - torch.log(torch.tensor(float(len(x0)))) - self.prior.log_prob(x1)).double()
        error = float(ratio.std() / len(ratio) ** 0.5) if len(ratio) > 1 else float("inf")
        return Mismatch(max(float(ratio.mean()), 0.0), error)

    def simulated_mismatch(self, x0: Tensor, generator: torch.Generator | None, max_points: int) -> Mismatch:
        """Mismatch of a simulated terminal law, seen through the distance from the origin.

        Both laws are compared through ``r = d(origin, x)``: a histogram of equal prior mass, whose divergence is a
        lower bound of the full one (data processing) and is free of the bias of density estimates in dim dimensions.
        Its expected value under the prior, (bins - 1) / 2n, is subtracted.
        """
        x0 = x0.repeat(-(-max_points // len(x0)), *(1,) * len(self.manifold.point_shape))[:max_points]
        one = torch.ones(len(x0), dtype=x0.dtype, device=x0.device)
        x1 = self.sample(x0, one, generator).x_t
        x_prior = self.prior.sample(20 * len(x1), generator=generator, dtype=x1.dtype, device=x1.device)
        origin = self.manifold.origin(x1.dtype, x1.device)
        bins = 10
        radii = self.manifold.dist(origin.expand_as(x_prior), x_prior)
        edges = torch.quantile(radii[: 10**6], torch.linspace(0, 1, bins + 1, dtype=x1.dtype, device=x1.device)[1:-1])
        counts = torch.bincount(
            torch.bucketize(self.manifold.dist(origin.expand_as(x1), x1), edges), minlength=bins
        ).double() / len(x1)
        kl = float(torch.special.xlogy(counts, counts * bins).sum()) - (bins - 1) / (2 * len(x1))
        return Mismatch(max(kl, 0.0), ((bins - 1) / 2) ** 0.5 / len(x1))
