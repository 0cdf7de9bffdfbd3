"""Paths from data to a prior along geodesics: Riemannian flow matching."""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import singledispatch
from typing import Literal

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from .._typing import Network
from ..data import Coupling
from ..manifolds import Compact, Manifold, Sphere
from .base import Mismatch, PathSample, Prior, Process, check_times
from .langevin import is_flat
from .paths import LinearPath, PathSchedule
from .priors import Uniform, WrappedNormal
from .terms import ODETerm, Terms

__all__ = ["GeodesicFlow", "PathProcess", "default_source"]

Prediction = Literal["velocity", "endpoint"]

_FINEST = 1e-2
"""Least fraction of the path that counts as noise for the networks' heat gate when a path starts at the data."""


@singledispatch
def default_source(manifold: Manifold) -> Prior:
    """Law at t = 1 of flow matching: uniform on compact manifolds, a wrapped normal elsewhere."""
    return WrappedNormal(manifold)


@default_source.register
def _(manifold: Compact) -> Prior:
    return Uniform(manifold)


class PathProcess(Process):
    r"""Paths that join each data point to a draw of the prior; their mean velocity carries one law to the other.

    The conditional path of a pair :math:`(x_0, x_1)` is at fraction :math:`s(t)` of its way; the network learns
    :math:`u = E[dx/ds \mid x_t]`, and :math:`dx/dt = s'(t)\,u` (Lipman et al., 2022, arXiv:2210.02747; Chen and Lipman,
    *Flow matching on general geometries*, 2023, arXiv:2302.03660). At t = 1 the points follow the prior exactly: there
    is no mismatch.

    Attributes:
        path: the fraction s(t).
        coupling: pairing of the data with draws of the prior; None for independent pairs.
    """

    has_target = True
    path: PathSchedule
    coupling: Coupling | None

    def _set_up(
        self,
        manifold: Manifold,
        prior: Prior | None,
        path: PathSchedule | None,
        coupling: Coupling | None,
        prediction: Prediction = "velocity",
    ) -> None:
        """Store the parts; to be called by the constructors."""
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        if prediction not in ("velocity", "endpoint"):
            raise ConfigError(f"prediction must be 'velocity' or 'endpoint'; got {prediction!r}.")
        self.manifold, self.prediction = manifold, prediction
        self.path = path if path is not None else LinearPath()
        self.prior = prior if prior is not None else default_source(manifold)
        self.coupling = coupling
        for name, part in (("prior", self.prior), ("coupling", coupling)):
            other = getattr(part, "manifold", manifold)
            if other != manifold:
                raise ConfigError(f"The {name} belongs to {other}, the process to {manifold}. Build both on one.")
        if prediction == "endpoint" and self.path.s_min == 0:
            raise ConfigError(
                "The velocity of an end-point prediction is -s'/s times the network's output, which is infinite at "
                "s = 0: use a path that starts a little before the data, such as LinearPath(s_min=1e-3)."
            )
        self._spread = _mean_square(manifold, self.prior)

    @property
    def schedule(self) -> PathSchedule:
        """The path, under the name that noise processes have for theirs."""
        return self.path

    @abstractmethod
    def _draw(self, x0: Tensor, x1: Tensor, s: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Points at fraction ``s`` ``(*batch,)`` of the paths, and their velocities dx/ds."""

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        check_times(t, self.manifold.batch_shape(x0))
        batch = self.manifold.batch_shape(x0)
        x1 = self.prior.sample(math.prod(batch), generator=generator, dtype=x0.dtype, device=x0.device)
        if self.coupling is not None:
            x1 = x1[self.coupling(x0.reshape(x1.shape), x1, generator)]
        x1 = x1.reshape(x0.shape)
        s = self.path.s(t)
        x_t, u = self._draw(x0, x1, s, generator)
        target = u if self.prediction == "velocity" else -self.manifold.per_point(s) * u
        return PathSample(t, x0, x_t, target, torch.ones_like(t), x1)

    def noise_levels(self, t: Tensor) -> Tensor:
        return (self.path.s(t).clamp(min=_FINEST if self.path.s_min == 0 else 0.0).square() * self._spread).unsqueeze(
            -1
        )

    def clock(self, t: Tensor) -> Tensor:
        r"""The fraction s; of end-point predictions :math:`-\log s`."""
        s = self.manifold.per_point(self.path.s(t))
        return s if self.prediction == "velocity" else -s.log()

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        rate = self.path.rate(t)
        factor = rate if self.prediction == "velocity" else -rate / self.path.s(t)
        return self.manifold.per_point(factor) * output

    def terms(self, network: Network, cond: Tensor | None = None) -> Terms:
        return Terms(ODETerm(lambda t, x: self.velocity(network(t, x, cond), x, t)))

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        r"""Score on flat space with a normal prior, :math:`-(x + (1 - s)\,u) / (s \sigma^2)`.

        There :math:`x_t = (1 - s)\,x_0 + s\,z`, so that :math:`u = E[z - x_0 \mid x_t]` gives :math:`E[z \mid x_t] = x
        + (1 - s)\,u`, and by Tweedie's formula the score is :math:`-E[z \mid x_t] / (s\sigma^2)`. A coupling breaks it.
        """
        sigma = self._normal_sigma()
        if sigma is None:
            return super().score(output, x, t)
        s = self.manifold.per_point(self.path.s(t))
        u = output if self.prediction == "velocity" else -output / s
        return -(x + (1 - s) * u) / (s * sigma**2)

    def _normal_sigma(self) -> float | None:
        """Standard deviation of a normal prior that is independent of the data, on flat space; None elsewhere."""
        if self.coupling is None and isinstance(self.prior, WrappedNormal) and is_flat(self.manifold):
            return self.prior.sigma
        return None

    def fit_prior(self, x0: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None) -> None:
        fit = getattr(self.prior, "fit", None)
        if callable(fit):
            fit(x0, generator, weights)

    def prior_mismatch(self, x0: Tensor, generator: torch.Generator | None = None, max_points: int = 1000) -> Mismatch:
        """Zero: the paths end in draws of the prior."""
        return Mismatch(0.0, 0.0)


class GeodesicFlow(PathProcess):
    r"""Flow matching along geodesics, :math:`x_t = \exp_{x_0}(s(t) \log_{x_0} x_1)`.

    The velocity dx/ds has the constant length :math:`d(x_0, x_1)`. It is the derivative of the great circle on spheres,
    and elsewhere taken in closed form from the farther of the two ends, :math:`\log_{x_t}(x_1)/(1 - s)` or
    :math:`-\log_{x_t}(x_0)/s`: no division by a small number, accurate at both ends. Source: Chen and Lipman, *Flow
    matching on general geometries*, 2023, arXiv:2302.03660.

    Args:
        manifold: where the data live.
        path: fraction of the geodesic against t; default :class:`LinearPath`.
        prior: law at t = 1; default uniform on compact manifolds, else a standard wrapped normal.
        coupling: pairing of a batch with draws of the prior, such as
            :class:`~manifold_diffusion.data.ExactCoupling`; default independent.
        prediction: what the network learns: ``"velocity"``, dx/ds, or ``"endpoint"``, :math:`\log_{x_t} x_0`, the mean
            end point seen from :math:`x_t` (variational flow matching: Eijkelboom et al., 2024, arXiv:2406.04843).

    Raises:
        ConfigError: for parts of different manifolds, or an end-point prediction whose path starts at s = 0.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> process = GeodesicFlow(Sphere(2))
        >>> x0 = torch.tensor([[0.0, 0.0, 1.0]])
        >>> path = process.sample(x0, torch.tensor([1.0]), torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(path.x_t, path.x_1)), bool(torch.isfinite(path.target).all())
        (True, True)
    """

    def __init__(
        self,
        manifold: Manifold,
        path: PathSchedule | None = None,
        prior: Prior | None = None,
        coupling: Coupling | None = None,
        prediction: Prediction = "velocity",
    ) -> None:
        super().__init__()
        self._set_up(manifold, prior, path, coupling, prediction)

    def _draw(self, x0: Tensor, x1: Tensor, s: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return geodesic_point(self.manifold, x0, x1, s)


@singledispatch
def geodesic_point(manifold: Manifold, x0: Tensor, x1: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Point at fraction ``s`` ``(*batch,)`` of the geodesic from ``x0`` to ``x1``, and its velocity dx/ds."""
    s = manifold.per_point(s)
    x = manifold.exp(x0, s * manifold.log(x0, x1))
    late = s > 0.5
    velocity = manifold.log(x, torch.where(late, x0, x1)) / torch.where(late, -s, 1 - s)
    return x, velocity


@geodesic_point.register
def _(manifold: Sphere, x0: Tensor, x1: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The great circle and its derivative: one logarithm instead of two, and few passes over the coordinates."""
    s, (v, ratio, angle) = manifold.per_point(s), manifold.toward(x0, x1)
    phase = s * angle
    c, k = phase.cos(), torch.sinc(phase / math.pi) * s
    x = torch.addcmul(c * x0, k * ratio, v)
    return x, torch.addcmul(c * ratio * v, k * angle.square(), x0, value=-1)


def _mean_square(manifold: Manifold, prior: Prior, n: int = 2048) -> float:
    """Mean squared distance of the prior from the origin, per dimension."""
    fit = isinstance(prior, nn.Module) and callable(getattr(prior, "fit", None))
    source = default_source(manifold) if fit else prior
    x = source.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return float(manifold.dist(manifold.origin(x.dtype).expand_as(x), x).square().mean()) / manifold.dim
