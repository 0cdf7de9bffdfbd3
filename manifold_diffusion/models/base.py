"""What all models share: training, sampling along a flow, exact likelihood, saving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from .._errors import CapabilityError, ConfigError
from ..manifolds import Manifold
from ..objectives import Objective
from ..processes import Mismatch, Process
from ..solvers import (
    ConstantSteps,
    DensitySolution,
    GeodesicEulerMaruyama,
    GeodesicRK4,
    LearnedMultistep,
    LikelihoodResult,
    MultistepFit,
    NoiseClock,
    PlannedSteps,
    Solver,
    StepController,
    StringResult,
    concatenated,
    fit_multistep,
    integrate,
    log_likelihood,
    sample_with_log_prob,
)
from .card import model_card, n_parameters
from .inputs import (
    check_estimator,
    check_network,
    check_points,
    conditions,
    in_chunks,
    in_own_dtype,
    same_process,
    times_at,
)
from .pretrained import PretrainedModel, description
from .string import evolve_string

if TYPE_CHECKING:
    from ..training import FitResult

__all__ = ["Estimator", "GenerativeModel"]

Estimator = Literal["exact", "hutchinson"]


class GenerativeModel(PretrainedModel):
    r"""A process, a network, an objective and solvers in one object; the concrete models choose the parts.

    Args:
        manifold: where the data live.
        process: what joins the data to the prior.
        network: ``(t, x, cond) -> tangent vector``, what the process says it predicts.
        objective: loss.
        sampler: learned scheme, see :meth:`fit_sampler`.

    Attributes:
        metadata: what the model card says of data and metrics; saved with the model.

    Raises:
        ConfigError: if a part belongs to another manifold.
    """

    title: ClassVar[str] = "Generative model"

    def __init__(
        self,
        manifold: Manifold,
        process: Process,
        network: nn.Module,
        objective: Objective,
        sampler: LearnedMultistep | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        self.manifold, self.process, self.network, self.objective = manifold, process, network, objective
        self.sampler = sampler
        self.metadata: dict[str, Any] = {}
        for name, part in (("process", process), ("network", network), ("objective", objective)):
            other = getattr(getattr(part, "process", part), "manifold", manifold)
            if other != manifold:
                raise ConfigError(
                    f"The {name} belongs to {other}, the model to {manifold}. Build both on one manifold."
                )
        trained = getattr(objective, "process", process)
        if not same_process(trained, process):
            raise ConfigError(
                f"The objective's process, {type(trained).__name__}, is not the model's, {type(process).__name__}, or "
                "has other settings: what the network learns would be read as something else. Build it on the model's."
            )

    # ------------------------------------------------------------------ training

    def fit(
        self,
        points: Any,
        val: Any = None,
        *,
        max_steps: int | None = None,
        seed: int = 0,
        fractions: Sequence[float] | None = None,
        cond: Tensor | None = None,
        val_cond: Tensor | None = None,
        **options: Any,
    ) -> FitResult:
        """Train, with a Lightning ``Trainer`` underneath, and leave the averaged weights in the model.

        Before the first step the points are checked, a prior that depends on data is fitted, and the mismatch between
        the noised data and the prior is measured, with a warning that names the fix when it is large.

        Args:
            points: training points: a tensor, an array, a ``PointSet`` or ``Split``, the path of a CSV or NPZ file, or
                a :class:`~manifold_diffusion.training.ManifoldDataModule`.
            val: held-out points; the weights with the least loss on them are kept.
            max_steps: optimiser steps; 3000 if neither it nor ``max_time`` (seconds) is given.
            seed: of the order of the data, the noise and the prior's centres.
            fractions: of training, validation and test points to split ``points`` into.
            cond: a condition per point, ``(n, cond_dim)``.
            val_cond: a condition per held-out point.
            options: further arguments of :func:`manifold_diffusion.training.fit`, such as ``max_time``, ``out_dir``,
                ``batch_size``, ``lr``.

        Returns:
            A record of the run.

        Raises:
            ManifoldError: if a point is not on the manifold, before any training.
        """
        from ..training import as_data_module, fit

        if options.get("precision") != "64-true":
            points, val = in_own_dtype(self, points, "points"), in_own_dtype(self, val, "val")
        own = {"val": val, "cond": cond, "val_cond": val_cond, "fractions": fractions}
        batch_size = options.pop("batch_size", None)
        data = as_data_module(points, self.manifold, seed=seed, batch_size=batch_size, **own)
        train = data.points("train").to(self.like)
        check_network(self, train[:2], data.conditions("train"))
        generator = torch.Generator(device=train.device).manual_seed(seed)
        self.process.fit_prior(train, generator)
        self.metadata["prior mismatch"] = str(self.process.report_mismatch(train, generator))
        options.setdefault("fingerprint", {"model": description(self, self.process, self.network, self.objective)})
        return fit(self.network, self.objective, data, max_steps=max_steps, seed=seed, **options)

    def mismatch(self, x0: Tensor, generator: torch.Generator | None = None) -> Mismatch:
        """Divergence from the terminal marginal of the data to the prior; warns when it is large."""
        return self.process.report_mismatch(x0, generator)

    # ------------------------------------------------------------------ the model

    def score(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        r"""Learned score, the Riemannian gradient of :math:`\log p_t`, at ``x`` and ``t`` (scalar or ``(*batch,)``)."""
        times, cond = times_at(self, x, t), conditions(cond, self.manifold.batch_shape(x), x)
        return self.process.score(self.network(times, x, cond), x, times)

    def velocity(self, x: Tensor, t: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """dx/dt of the probability flow, along increasing t: from data to noise."""
        times, cond = times_at(self, x, t), conditions(cond, self.manifold.batch_shape(x), x)
        return self.process.velocity(self.network(times, x, cond), x, times)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        steps: int | StepController | None = None,
        method: Literal["ode", "sde"] = "ode",
        solver: Solver | None = None,
        cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 16384,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """Draw points from the model.

        Args:
            n: number of points; 0 gives an empty tensor.
            steps: steps of the solver, equal in t (default 25 for the ODE, 250 for the SDE), or a controller such as
                :class:`~manifold_diffusion.solvers.ClockSteps`.
            method: ``"ode"`` runs the probability flow (default solver
                :class:`~manifold_diffusion.solvers.GeodesicRK4`, 4 evaluations a step), ``"sde"`` the reverse-time
                diffusion (:class:`~manifold_diffusion.solvers.GeodesicEulerMaruyama`).
            solver: another scheme; a learned one brings its own steps.
            cond: condition, ``(cond_dim,)`` for all points or ``(n, cond_dim)``.
            generator: source of all randomness: same seed, same result.
            batch_size: points that are integrated together; bounds the memory.
            return_trajectory: return all states, from noise to data, ``(steps + 1, n, *point_shape)``.
            progress: show a progress bar.

        Returns:
            Points ``(n, *point_shape)``, in the dtype and on the device of the network.
        """
        if method not in ("ode", "sde"):
            raise ConfigError(f"method must be 'ode' or 'sde'; got {method!r}.")
        if solver is None:
            solver = GeodesicRK4() if method == "ode" else GeodesicEulerMaruyama()
        if steps is None and isinstance(solver, LearnedMultistep):
            steps = solver.controller()
        if steps is None:
            steps = 25 if method == "ode" else 250
        controller = steps if isinstance(steps, StepController) else ConstantSteps(steps)
        if return_trajectory and n > batch_size and not isinstance(controller, PlannedSteps):
            raise ConfigError(
                f"The steps of {type(controller).__name__} differ from batch to batch, and so do the trajectories. "
                f"Take batch_size >= {n}, or a number of steps."
            )
        chunks = []
        for size, part in in_chunks(self, n, cond, batch_size):
            terms = self.process.terms(self.network, part)
            term = terms.flow if method == "ode" else terms.reverse
            if term is None:
                raise CapabilityError(
                    f"{type(self).__name__} with {type(self.process).__name__} has no reverse-time diffusion: its "
                    "network predicts a velocity, not a score. Use method='ode', or RiemannianDiffusion."
                )
            solution = integrate(
                term,
                self.manifold,
                self._prior_sample(size, generator),
                1.0,
                0.0,
                solver=solver,
                controller=controller,
                generator=generator,
                return_trajectory=return_trajectory,
                progress=progress,
            )
            chunks.append(solution.trajectory if return_trajectory else solution.x)
        return torch.cat(chunks, 1 if return_trajectory else 0)

    def fit_sampler(
        self,
        steps: int | PlannedSteps = 4,
        *,
        n_noise: int = 256,
        cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> MultistepFit:
        """Learn a multistep scheme for this model from a fine solution of its flow; it becomes :attr:`sampler`.

        The network stays as it is. The scheme is saved with the model: ``model.sample(n, solver=model.sampler)``.

        Args:
            steps: evaluations of the network per sample, at first equal in t, or a plan such as
                :class:`~manifold_diffusion.solvers.ClockSteps`.
            n_noise: draws of the prior that it is fitted on.
            cond: condition, ``(cond_dim,)`` for all draws or ``(n_noise, cond_dim)``.
            generator: source of the draws; default a fixed seed.
            options: as in :func:`~manifold_diffusion.solvers.fit_multistep`; the clock is that of the process by
                default.
        """
        if n_noise < 1:
            raise ConfigError(f"fit_sampler needs n_noise >= 1; got {n_noise}.")
        generator = generator or torch.Generator(device=self.like.device).manual_seed(0)
        noise = self._prior_sample(n_noise, generator)
        ((_, part),) = in_chunks(self, n_noise, cond, n_noise)
        schedule = getattr(self.process, "schedule", None)
        options.setdefault("clock", None if schedule is None else NoiseClock(schedule))
        fitted = fit_multistep(self.process.terms(self.network, part).flow, self.manifold, noise, steps, **options)
        self.sampler = fitted.solver
        return fitted

    def log_prob(self, x: Tensor, cond: Tensor | None = None, **options: Any) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(n,)``; options as in :meth:`likelihood`."""
        return self.likelihood(x, cond, **options).log_prob

    def likelihood(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        *,
        estimator: Estimator = "exact",
        n_probes: int = 1,
        tolerance: float = 1e-3,
        generator: torch.Generator | None = None,
        batch_size: int = 4096,
        **options: Any,
    ) -> LikelihoodResult:
        r"""Log density by the change of variables along the probability flow.

        It is the density of the data noised to t = 0, that is by Brownian time ``tau_min`` of the schedule. The
        divergence is exact by default (``dim`` derivative products per evaluation).

        Args:
            x: points ``(n, *point_shape)``.
            cond: condition, ``(cond_dim,)`` or ``(n, cond_dim)``.
            estimator: ``"exact"`` or ``"hutchinson"``.
            n_probes: probes per point of Hutchinson's estimator; 2 or more give a standard error.
            tolerance: about the error of a typical log density, in nats.
            generator: source of the probes.
            batch_size: points that are integrated together.
            options: ``solver``, ``controller``, ``progress`` of :func:`~manifold_diffusion.solvers.log_likelihood`.

        Returns:
            Log density, its standard error, the points carried to t = 1, the number of evaluations.

        Raises:
            ManifoldError: if a point is not on the manifold.
        """
        check_points(self, x, flat=True)
        check_estimator(estimator)
        results, start = [], 0
        for size, part in in_chunks(self, len(x), cond, batch_size):
            terms = self.process.terms(self.network, part)
            results.append(
                log_likelihood(
                    terms.flow,
                    self.manifold,
                    x[start : start + size],
                    self.process.prior.log_prob,
                    divergence=estimator,
                    n_probes=n_probes,
                    tolerance=tolerance,
                    generator=generator,
                    **options,
                )
            )
            start += size
        return concatenated(results)

    def sample_with_log_prob(
        self,
        n: int,
        *,
        cond: Tensor | None = None,
        estimator: Estimator = "exact",
        n_probes: int = 1,
        tolerance: float = 1e-3,
        generator: torch.Generator | None = None,
        batch_size: int = 4096,
        **options: Any,
    ) -> DensitySolution:
        """Draw points along the probability flow with their log density, in one pass; see :meth:`likelihood`."""
        check_estimator(estimator)
        results = []
        for size, part in in_chunks(self, n, cond, batch_size):
            terms = self.process.terms(self.network, part)
            results.append(
                sample_with_log_prob(
                    terms.flow,
                    self.manifold,
                    self._prior_sample(size, generator),
                    self.process.prior.log_prob,
                    divergence=estimator,
                    n_probes=n_probes,
                    tolerance=tolerance,
                    generator=generator,
                    **options,
                )
            )
        return concatenated(results)

    def string(self, x_a: Tensor, x_b: Tensor, *, strength: float = 0.0, **options: Any) -> StringResult:
        """A curve of the model from one point to another: transported, of least energy, or of conditional means.

        Args:
            x_a: first end, ``point_shape``.
            x_b: last end, ``point_shape``.
            strength: of the score, in units of the model's own reverse diffusion; 0 for pure transport.
            options: ``temperature``, ``n_nodes``, ``steps``, ``g``, ... of
                :meth:`~manifold_diffusion.solvers.DiffusionString.evolve`; ``cond``, ``(cond_dim,)``; ``energy=False``
                for no energy profile.

        Raises:
            CapabilityError: for ``strength > 0``, if the network predicts a velocity.
        """
        return evolve_string(self, x_a, x_b, strength=strength, **options)

    # ------------------------------------------------------------------ helpers

    def _card(self) -> str:
        schedule = getattr(self.process, "schedule", "one per factor")
        facts = [
            f"process: `{type(self.process).__name__}`, schedule `{schedule}`",
            f"network: `{type(self.network).__name__}`, {n_parameters(self.network)}",
            f"objective: `{type(self.objective).__name__}`",
        ]
        note = (
            "Densities are in nats with respect to the Riemannian volume; the data are seen at the resolution of the "
            "least\nnoise of the schedule."
        )
        example = [
            "x = model.sample(1000)",
            "log_p = model.log_prob(x)",
            "```",
            "",
            "```bash",
            "manifold-diffusion sample path/to/this/folder --n 1000 --out samples.npz",
        ]
        title = f"{self.title} on {self.manifold}"
        return model_card(title, type(self).__name__, facts, example, self.metadata, note)

    def _prior_sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        like = self.like
        return self.process.prior.sample(n, generator=generator, dtype=like.dtype, device=like.device)
