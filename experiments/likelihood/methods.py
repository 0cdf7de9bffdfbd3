"""The methods of the likelihood tables: kernel densities, closed forms, networks, and mixtures of all these."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifold_diffusion import AnalyticDiffusion, metrics
from manifold_diffusion.manifolds import Manifold, Sphere, Torus
from manifold_diffusion.metrics import AdaptiveKernelDensity, Density
from manifold_diffusion.models import GenerativeModel, LearnedKernelDensity, RiemannianDiffusion, RiemannianFlow
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LogPath, default_schedule

Fit = Callable[[Tensor, Tensor, int, Manifold, int, Path], Density]
"""``(train, val, seed, manifold, steps, folder) -> density``; a checkpoint in the folder is gone on with."""


@dataclass(frozen=True)
class Setting:
    """What the networks of one manifold look like, the same for diffusion and flow matching.

    Attributes:
        resolution: length below which the data are blurred: root of tau_min, s_min of the paths.
        width: of the network.
        frequencies: random waves.
        weight_decay: of the optimiser.
    """

    resolution: float
    width: int
    frequencies: int
    weight_decay: float = 0.0


SETTINGS = {Sphere(2): Setting(3e-3, 128, 256), Torus(7): Setting(4.5e-3, 512, 0, 0.1)}


def network(train: Tensor, val: Tensor, seed: int, manifold: Manifold, steps: int, folder: Path) -> Density:
    """Diffusion with the exact heat kernel."""
    process = BrownianMotion(manifold, default_schedule(manifold, SETTINGS[manifold].resolution ** 2))
    return _trained(RiemannianDiffusion, process, train, val, seed, steps, folder)


def flow(train: Tensor, val: Tensor, seed: int, manifold: Manifold, steps: int, folder: Path) -> Density:
    """Flow matching along geodesics."""
    path = GeodesicFlow(manifold, LogPath(SETTINGS[manifold].resolution))
    return _trained(RiemannianFlow, path, train, val, seed, steps, folder)


def _trained(
    kind: Callable[..., GenerativeModel], process: Any, train: Tensor, val: Tensor, seed: int, steps: int, folder: Path
) -> Density:
    setting = SETTINGS[process.manifold]
    parts = TangentMLP(process, width=setting.width, n_frequencies=setting.frequencies, seed=seed)
    model = kind(process.manifold, process, parts)
    options = {"weight_decay": setting.weight_decay, "out_dir": folder, "resume": True, "progress": False}
    result = model.fit(train, val, max_steps=steps, seed=seed, **options)
    model.save_pretrained(folder / "model", {"training": f"{result.steps} steps, {result.elapsed:.0f} s"})
    return model


def learned_kernels(train: Tensor, val: Tensor, seed: int, manifold: Manifold, steps: int, folder: Path) -> Density:
    """Kernels that a network shapes."""
    model = LearnedKernelDensity(manifold, train, seed=seed)
    options: dict[str, Any] = {"out_dir": folder, "resume": True, "progress": False, "val_every": max(steps // 6, 1)}
    result = model.fit(val, max_steps=steps, seed=seed, **options)
    model.save_pretrained(folder / "model", {"training": f"{result.steps} steps, {result.elapsed:.0f} s"})
    return model


def grown(model: Any, points: Tensor) -> Density:
    """A density of kernels with further points, as it was chosen and trained without them."""
    if isinstance(model, AnalyticDiffusion | LearnedKernelDensity):
        model.add(points)
        return model
    centres = torch.cat([model.centres, points])
    if isinstance(model, AdaptiveKernelDensity):
        chosen = (model.k,), (model.factor,), model.uniform_weight
        return AdaptiveKernelDensity.fit(model.manifold, centres, points, *chosen)
    return replace(model, centres=centres)


def _closed(fit: Callable[..., Density]) -> Fit:
    return lambda train, val, seed, manifold, steps, folder: fit(manifold, train, val)


CLOSED: dict[str, Fit] = {
    "kde": _closed(metrics.KernelDensity.fit),
    "kde-mixture": _closed(metrics.KernelMixture.fit),
    "adaptive-kde": _closed(metrics.AdaptiveKernelDensity.fit),
    "closed-form": _closed(lambda manifold, train, val: AnalyticDiffusion.cross_validated(manifold, train)),
    "tangent": _closed(metrics.TangentKernelMixture.fit),
}

LEARNED: dict[str, Fit] = {"learned-kernels": learned_kernels, "network": network, "flow": flow}

FLOWS = ("network", "flow")
"""Those whose likelihood is an ODE, and which take no further points."""

MIXTURES = {"closed-mixture": tuple(CLOSED), "hybrid": (*CLOSED, *LEARNED)}
"""Their members; weights by expectation maximisation on validation points."""

METHODS = (*CLOSED, "closed-mixture", *LEARNED, "hybrid")


def steps_of(method: str, steps: int) -> int:
    """Optimiser steps of a method where networks take ``steps``: learned kernels need a tenth."""
    return 0 if method not in LEARNED else max(steps // 10, 1) if method == "learned-kernels" else steps
