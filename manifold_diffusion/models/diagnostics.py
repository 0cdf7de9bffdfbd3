"""All diagnostics of a model at once: what it has learned of its data, and where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, DataError, ManifoldError, NumericsError
from ..metrics import (
    DensityCalibration,
    Memorisation,
    Mixing,
    NoiseProfile,
    RegionCalibration,
    Straightness,
    chi_square_from_uniform,
    density_calibration,
    effective_number,
    effective_sample_size,
    farthest_points,
    intrinsic_dimension,
    memorisation,
    mixing,
    region_calibration,
    straightness,
)
from ..processes import BrownianMotion, Mismatch, NoiseProcess, ProductProcess
from .base import GenerativeModel
from .noise_time import noise_level

__all__ = ["ModelProbe", "NoiseMixing", "probe"]

_PAIRS = 1 << 18
"""Pairs of points that are in memory at a time."""


@dataclass(frozen=True)
class NoiseMixing:
    """How well the noise of a model forgets its data.

    Attributes:
        tau: Brownian time at t = 1.
        manifold: mixing of Brownian motion, from any start.
        chi_square: divergence from uniform at t = 1 from a single point: the worst data.
    """

    tau: float
    manifold: Mixing
    chi_square: float


@dataclass(frozen=True)
class ModelProbe:
    """Results of :func:`probe`; what a model does not offer is None, with the reason in :attr:`skipped`.

    Attributes:
        held_out_dimension: local intrinsic dimension at held-out points against the noise.
        train_dimension: the same at training points.
        effective_size: effective number of training points in the ideal score, at noised training points.
        noise: mixing of the noise.
        mismatch: divergence of the noised training data at t = 1 from the prior.
        memorisation: distances of samples to the training points against those of held-out points.
        copies: the same for training points with the noise of t = 0 in place of samples: what copies score.
        paths: straightness of the flow.
        regions: the model's mass per region against held-out counts.
        density: calibration of the density by its own levels.
        samples: of the model, ``(n, *point_shape)``.
        held_out_log_prob: log density at held-out points.
        train_size: number of training points.
        skipped: reasons by name of an attribute.
    """

    held_out_dimension: NoiseProfile | None
    train_dimension: NoiseProfile | None
    effective_size: NoiseProfile | None
    noise: NoiseMixing | None
    mismatch: Mismatch | None
    memorisation: Memorisation
    copies: Memorisation
    paths: Straightness | None
    regions: RegionCalibration | None
    density: DensityCalibration
    samples: Tensor
    held_out_log_prob: Tensor
    train_size: int
    skipped: Mapping[str, str]


def probe(
    model: GenerativeModel,
    train: Tensor,
    held_out: Tensor,
    *,
    n_samples: int = 2000,
    n_points: int = 128,
    n_levels: int = 17,
    n_regions: int = 12,
    path_steps: int = 64,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
    report: Callable[[str], None] | None = None,
    **sampling: Any,
) -> ModelProbe:
    """Diagnose a trained or closed-form model with training and held-out points.

    Args:
        model: any model of one manifold.
        train: its training points, ``(n, *point_shape)``.
        held_out: points of the same law that it has not seen; a random ``n_samples`` of them, if there are more.
        n_samples: samples of the model.
        n_points: points at which dimensions and effective sizes are taken, and paths.
        n_levels: noise levels, equal in t.
        n_regions: regions, about so many training points far from one another.
        path_steps: steps of the paths whose straightness is measured, a multiple of 4.
        cond: condition of a conditional model, ``(cond_dim,)``: the points are those of this condition.
        generator: source of all randomness; default seed 0.
        report: called with the name of each part before it starts.
        sampling: options of ``model.sample``, such as ``method`` and ``steps``.

    Raises:
        CapabilityError: a density without a process, such as a learned kernel density.
        ConfigError: an option out of range, or no condition for a conditional model.
        DataError: fewer than two held-out or training points.
        ManifoldError: points off the manifold.
        NumericsError: the model is not finite somewhere; of the paths alone, this is a reason in ``skipped``.

    Example:
        >>> import torch
        >>> from manifold_diffusion import AnalyticDiffusion
        >>> from manifold_diffusion.manifolds import Torus
        >>> from manifold_diffusion.models import probe
        >>> M, g = Torus(1), torch.Generator().manual_seed(0)
        >>> train, held_out = M.random_uniform(200, generator=g).split(100)
        >>> found = probe(AnalyticDiffusion(M, train), train, held_out, n_samples=100, n_points=8, n_levels=3)
        >>> found.memorisation.z > 5  # a kernel density of least bandwidth returns its points
        True
    """
    if not isinstance(model, GenerativeModel):
        raise CapabilityError(
            f"A probe looks at the process of a model, and a {type(model).__name__} has none. It can be sampled, "
            "evaluated and plotted."
        )
    for name, value, least in (
        ("n_samples", n_samples, 2),
        ("n_points", n_points, 1),
        ("n_levels", n_levels, 2),
        ("n_regions", n_regions, 2),
    ):
        if value < least:
            raise ConfigError(f"probe needs {name} >= {least}; got {value}.")
    if path_steps < 4 or path_steps % 4:
        raise ConfigError(f"probe needs path_steps, a multiple of 4; got {path_steps}.")
    parts = _Parts(model, train, held_out, n_samples, n_points, cond, generator, sampling)
    report = report if report is not None else lambda name: None
    skipped: dict[str, str] = {}

    def attempt(attribute: str, function: Callable[[], Any], refusals: Any = CapabilityError) -> Any:
        try:
            return function()
        except refusals as error:
            skipped[attribute] = str(error)
            return None

    times = torch.linspace(0, 1, n_levels, dtype=torch.float64)
    report("samples")
    samples = parts.sample()
    report("copies of training points")
    found = memorisation(model.manifold, samples, parts.held_out, parts.train)
    copies = memorisation(model.manifold, parts.noised_train(), parts.held_out, parts.train)
    report("regions")
    regions = attempt("regions", lambda: parts.regions(samples, n_regions), DataError)
    report("densities")
    held_out_log_prob = parts.log_prob(parts.held_out)
    density = density_calibration(parts.log_prob(samples), held_out_log_prob)
    report("intrinsic dimension")
    held_out_dimension = attempt("held_out_dimension", lambda: parts.dimension(parts.held_out, times))
    train_dimension = attempt("train_dimension", lambda: parts.dimension(parts.train, times))
    report("effective sample size")
    effective_size = attempt("effective_size", lambda: parts.effective_size(times))
    report("mixing of the noise")
    noise = attempt("noise", parts.mixing)
    mismatch = attempt("mismatch", lambda: model.process.prior_mismatch(parts.train, parts.generator))
    report("paths")
    paths = attempt("paths", lambda: parts.paths(path_steps), (CapabilityError, NumericsError))
    return ModelProbe(
        held_out_dimension, train_dimension, effective_size, noise, mismatch, found, copies, paths, regions, density,
        samples, held_out_log_prob, len(train), skipped,
    )  # fmt: skip


class _Parts:
    """A model with points in its dtype and on its device, and one source of randomness."""

    def __init__(
        self,
        model: GenerativeModel,
        train: Tensor,
        held_out: Tensor,
        n_samples: int,
        n_points: int,
        cond: Tensor | None,
        generator: torch.Generator | None,
        sampling: dict[str, Any],
    ) -> None:
        like, M = model.like, model.manifold
        for name, points in (("train", train), ("held_out", held_out)):
            M.check_point(points, name)
            if len(M.batch_shape(points)) != 1 or len(points) < 2:
                shape = ", ".join(map(str, M.point_shape))
                raise DataError(f"{name} must have shape (n, {shape}), n >= 2; got {tuple(points.shape)}.")
        cond_dim = getattr(model.network, "cond_dim", 0)
        if (cond is None) != (cond_dim == 0) or (cond is not None and cond.shape != (cond_dim,)):
            got = None if cond is None else tuple(cond.shape)
            raise ConfigError(f"The model has cond_dim={cond_dim}: give cond of that shape, or none for 0; got {got}.")
        self.model, self.manifold = model, M
        self.train, held_out = (
            x if x.dtype == like.dtype and x.device == like.device else M.project(x.to(like)) for x in (train, held_out)
        )
        self.generator = generator if generator is not None else torch.Generator(device=like.device).manual_seed(0)
        self.held_out = self._some(held_out, n_samples)
        self.n_samples, self.n_points, self.sampling = n_samples, n_points, sampling
        self.cond = None if cond is None else cond.to(like)

    def _some(self, x: Tensor, n: int) -> Tensor:
        """At most ``n`` of the points, at random."""
        if len(x) <= n:
            return x
        return x[torch.randperm(len(x), generator=self.generator, device=x.device)[:n]]

    def _cond(self, n: int) -> Tensor | None:
        return None if self.cond is None else self.cond.expand(n, -1)

    def sample(self) -> Tensor:
        return self.model.sample(self.n_samples, cond=self.cond, generator=self.generator, **self.sampling)

    def noised_train(self, t: float = 0.0, n: int | None = None) -> Tensor:
        """Random training points with the noise of time t."""
        x = self._some(self.train, self.n_samples if n is None else n)
        times = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        return self.model.process.sample(x, times, self.generator).x_t

    def log_prob(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model.log_prob(x, self.cond)

    def regions(self, samples: Tensor, n: int) -> RegionCalibration:
        centres = farthest_points(self.manifold, self.train, min(n, len(self.train)))
        if len(centres) < 2:
            raise DataError("All training points are equal: there are no two regions around them.")
        return region_calibration(self.manifold, samples, self.held_out, centres)

    def dimension(self, x: Tensor, times: Tensor) -> NoiseProfile:
        x, taus, rows = self._some(x, self.n_points), [], []
        for t in times.to(x):
            noise = noise_level(self._noise_process(), t)

            def score(p: Tensor, t: Tensor = t) -> Tensor:
                return self.model.score(p, t, self._cond(len(p)))

            rows.append(intrinsic_dimension(self.manifold, score, noise.scale * x, noise.variance))
            taus.append(noise.tau)
        return NoiseProfile(torch.tensor(taus), torch.stack(rows))

    def effective_size(self, times: Tensor) -> NoiseProfile:
        process, M = self._noise_process(), self.manifold
        data, taus, rows = M.project(self.train.double()), [], []
        for t in times.to(data):
            x = M.project(self.noised_train(float(t), self.n_points).double())
            noise = noise_level(process, t)
            with torch.no_grad():
                if isinstance(process, ProductProcess):  # one Brownian time per factor
                    size = max(1, _PAIRS // len(data))
                    pairs = [process.log_transition(part.unsqueeze(1), data, t) for part in x.split(size)]
                    rows.append(torch.cat([effective_number(log_p) for log_p in pairs]))
                else:
                    rows.append(effective_sample_size(M, data, x / noise.scale, noise.tau))
            taus.append(noise.tau)
        return NoiseProfile(torch.tensor(taus), torch.stack(rows))

    def mixing(self) -> NoiseMixing:
        process = self.model.process
        if not isinstance(process, BrownianMotion):
            raise CapabilityError(
                f"{type(process).__name__} is no Brownian motion of one clock, whose mixing time is known. See the "
                "mismatch with the prior."
            )
        tau = process.schedule.tau_max
        return NoiseMixing(tau, mixing(self.manifold), chi_square_from_uniform(self.manifold, tau))

    def paths(self, steps: int) -> Straightness:
        options = {"method": "ode", "steps": steps, "cond": self.cond, "generator": self.generator}
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        try:
            states = self.model.sample(self.n_points, return_trajectory=True, **options)
            with torch.no_grad():
                velocities = [
                    self.model.velocity(x, float(t), self._cond(len(x))) for x, t in zip(states, times, strict=True)
                ]
            return straightness(self.manifold, states, torch.stack(velocities), times)
        except (ManifoldError, NumericsError) as error:
            raise NumericsError(f"The paths diverge in {steps} steps: raise path_steps. {error}") from error

    def _noise_process(self) -> NoiseProcess:
        process = self.model.process
        if not isinstance(process, NoiseProcess):
            raise CapabilityError(
                f"{type(process).__name__} predicts a velocity, not a score: there is no score at a noise level. Train "
                "a RiemannianDiffusion to look at its noise levels."
            )
        return process
