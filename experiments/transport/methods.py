"""The three methods of the comparison, with the same network, and how each is sampled with k evaluations."""

from collections.abc import Callable
from typing import Any

import torch
from spaces import Space

from manifold_diffusion.models import FlowMap, GenerativeModel, RiemannianDiffusion, RiemannianFlow
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LogPath, LogSchedule, default_schedule
from manifold_diffusion.solvers import ClockSteps, GeodesicMultistep, NoiseClock

METHODS = ("diffusion", "flow", "map")


def build(method: str, space: Space, seed: int) -> GenerativeModel:
    """An untrained model of a method."""
    manifold = space.manifold
    options: dict[str, Any] = {"width": space.width, "n_frequencies": space.frequencies, "seed": seed}
    if space.factor_width:
        options |= {"factor_width": space.factor_width, "factor_frequencies": space.factor_frequencies}
    if method == "diffusion":
        process = BrownianMotion(manifold, LogSchedule(space.resolution**2, default_schedule(manifold).tau_max))
        return RiemannianDiffusion(manifold, process, TangentMLP(process, **options))
    path = GeodesicFlow(manifold, LogPath(space.resolution))
    network = TangentMLP(path, two_times=method == "map", **options)
    return (FlowMap if method == "map" else RiemannianFlow)(manifold, path, network)


def draw(model: GenerativeModel, n: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """Samples with k evaluations each: jumps of a map up to 8, else two-step formulas in the noise level."""
    if isinstance(model, FlowMap) and k <= 8:
        return model.sample(n, steps=k, generator=generator)
    schedule: Any = model.process.schedule
    solver = GeodesicMultistep(2, NoiseClock(schedule))
    return model.sample(n, method="ode", steps=spacing(model, k), solver=solver, generator=generator)


def spacing(model: GenerativeModel, k: int) -> ClockSteps:
    """k steps, equal in the cube root of the noise level."""
    schedule: Any = model.process.schedule
    return ClockSteps(k, NoiseClock(schedule, 1 / 3))


def learned(model: GenerativeModel, k: int) -> Callable[[int, torch.Generator], torch.Tensor]:
    """A sampler with k evaluations, weights and times fitted to the model's own fine solution; it sees no data."""
    solver = model.fit_sampler(spacing(model, k)).solver
    return lambda n, generator: model.sample(n, method="ode", solver=solver, generator=generator)
