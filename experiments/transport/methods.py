"""The three methods of the comparison, with the same network, and how each is sampled with k evaluations."""

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
    solver, steps = GeodesicMultistep(2, NoiseClock(schedule)), ClockSteps(k, NoiseClock(schedule, 1 / 3))
    return model.sample(n, method="ode", steps=steps, solver=solver, generator=generator)
