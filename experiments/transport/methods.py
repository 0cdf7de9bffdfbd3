"""The three methods of the comparison, with the same network, and how each is sampled with k evaluations."""

import torch
from spaces import Space

from manifold_diffusion.models import FlowMap, GenerativeModel, RiemannianDiffusion, RiemannianFlow
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LogPath, LogSchedule, default_schedule
from manifold_diffusion.solvers import GeodesicMultistep, NoiseClock

METHODS = ("diffusion", "flow", "map")


def build(method: str, space: Space, seed: int) -> GenerativeModel:
    """An untrained model of a method."""
    manifold = space.manifold
    if method == "diffusion":
        process = BrownianMotion(manifold, LogSchedule(space.resolution**2, default_schedule(manifold).tau_max))
        return RiemannianDiffusion(manifold, process, TangentMLP(process, n_frequencies=space.frequencies, seed=seed))
    path = GeodesicFlow(manifold, LogPath(space.resolution))
    network = TangentMLP(path, n_frequencies=space.frequencies, two_times=method == "map", seed=seed)
    return (FlowMap if method == "map" else RiemannianFlow)(manifold, path, network)


def draw(model: GenerativeModel, n: int, k: int, generator: torch.Generator) -> torch.Tensor:
    """Samples with k evaluations each: jumps of a map up to 8, else geodesic two-step formulas in the clock."""
    if isinstance(model, FlowMap) and k <= 8:
        return model.sample(n, steps=k, generator=generator)
    path = getattr(model.process, "path", None)
    clock = path if path is not None else NoiseClock(model.process.schedule)  # type: ignore[union-attr]
    sample = model.sample_flow if isinstance(model, FlowMap) else model.sample
    return sample(n, steps=k, solver=GeodesicMultistep(2, clock), generator=generator)
