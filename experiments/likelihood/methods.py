"""The methods of the likelihood tables: kernel densities, closed forms, networks, and mixtures of all these."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifold_diffusion import AnalyticDiffusion, metrics
from manifold_diffusion.manifolds import Manifold, Sphere, Torus
from manifold_diffusion.metrics import AdaptiveKernelDensity, Density, KernelDensity
from manifold_diffusion.models import (
    AutoregressiveKernelDensity,
    GenerativeModel,
    LearnedDensity,
    LearnedKernelDensity,
    RiemannianDiffusion,
    RiemannianFlow,
)
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LogPath, default_schedule

Fit = Callable[[Tensor, Any, int, Manifold, int, Path], Density]
"""``(train, val, seed, manifold, steps, folder) -> density``; a checkpoint in the folder is gone on with.

Networks are trained without validation points too, where ``val`` is None, and then have their last weights.
"""

SEED_OF_SECOND = 100
"""What the second network's seed is larger by."""

ORDERS = ((0, 1, 2, 3, 4, 5, 6), (3, 2, 1, 0, 4, 5, 6), (3, 6, 2, 1, 0, 4, 5))
"""Of the torsions of RNA: along the backbone, and from the sugar (delta) outwards, chi in the end or at once."""

REGRESSIONS = ((16, 0.3), (32, 0.1), (64, 0.03), (128, 0.03), (128, 0.3), (256, 0.03))
"""Of the same torsions: neighbours and ridges."""


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


def network(train: Tensor, val: Tensor | None, seed: int, manifold: Manifold, steps: int, folder: Path) -> Density:
    """Diffusion with the exact heat kernel."""
    process = BrownianMotion(manifold, default_schedule(manifold, SETTINGS[manifold].resolution ** 2))
    return _trained(RiemannianDiffusion, process, train, val, seed, steps, folder)


def second_network(train: Tensor, val: Tensor | None, seed: int, *others: Any) -> Density:
    """The same with other initial weights, batches and noise."""
    return network(train, val, seed + SEED_OF_SECOND, *others)


def flow(train: Tensor, val: Tensor | None, seed: int, manifold: Manifold, steps: int, folder: Path) -> Density:
    """Flow matching along geodesics."""
    path = GeodesicFlow(manifold, LogPath(SETTINGS[manifold].resolution))
    return _trained(RiemannianFlow, path, train, val, seed, steps, folder)


def _trained(
    kind: Callable[..., GenerativeModel],
    process: Any,
    train: Tensor,
    val: Tensor | None,
    seed: int,
    steps: int,
    folder: Path,
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
    return _learned(LearnedKernelDensity(manifold, train, seed=seed), val, seed, steps, folder)


def chain(train: Tensor, val: Tensor, seed: int, manifold: Manifold, steps: int, folder: Path) -> Density:
    """Kernels and local regressions, angle by angle."""
    model = AutoregressiveKernelDensity(manifold, train, ORDERS, regressions=REGRESSIONS, seed=seed)
    return _learned(model, val, seed, steps, folder)


def _learned(model: LearnedDensity, val: Tensor, seed: int, steps: int, folder: Path) -> Density:
    options: dict[str, Any] = {"out_dir": folder, "resume": True, "progress": False, "val_every": max(steps // 6, 1)}
    result = model.fit(val, max_steps=steps, seed=seed, **options)
    model.save_pretrained(folder / "model", {"training": f"{result.steps} steps, {result.elapsed:.0f} s"})
    return model


def copies(manifold: Manifold, train: Tensor, val: Tensor) -> KernelDensity:
    """Kernels for near repeats: of the bandwidths below 3e-3 rad the one that a mixture of all weights most."""
    mixture = metrics.KernelMixture.fit(manifold, train, val)
    narrow = [(w, h) for w, h in zip(mixture.weights, mixture.bandwidths, strict=True) if h < 3e-3]
    _, bandwidth = max(narrow, default=(0.0, 1e-4))
    return KernelDensity(manifold, train, bandwidth, mixture.val_nll)


def grown(model: Any, points: Tensor) -> Density:
    """A density of kernels with further points, as it was chosen and trained without them."""
    if isinstance(model, AnalyticDiffusion | LearnedDensity):
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
    "copies": _closed(copies),
}

LEARNED: dict[str, Fit] = {
    "learned-kernels": learned_kernels,
    "chain": chain,
    "network": network,
    "second-network": second_network,
    "flow": flow,
}

FLOWS = ("network", "second-network", "flow")
"""Those whose likelihood is an ODE, and which take no further points."""

TORSIONS = ("copies", "chain", "second-network")
"""Those that only the torsions have: there are near repeats of one structure, and angles that follow from others."""

METHODS = (*CLOSED, "closed-mixture", *LEARNED, "hybrid")

MEMBERS = ("copies", "second-network")
"""Those that are of use in a mixture only, and have no place in the tables: alone they are poor, or another's twin."""


def methods_of(manifold: Manifold) -> tuple[str, ...]:
    """The methods that are measured on a manifold."""
    return tuple(name for name in METHODS if name not in TORSIONS or manifold == Torus(7))


def members_of(method: str, manifold: Manifold) -> tuple[str, ...]:
    """The members of a mixture, whose weights expectation maximisation finds on validation points; else none.

    Of the torsions a second network, not the flow, which adds 0.001 nats at the same cost.
    """
    members = {"closed-mixture": tuple(CLOSED), "hybrid": (*CLOSED, *LEARNED)}.get(method, ())
    without = ("flow",) if manifold == Torus(7) else TORSIONS
    return tuple(name for name in members if name not in without)


def steps_of(method: str, steps: int) -> int:
    """Optimiser steps of a method where networks take ``steps``: learned kernels need a tenth, the chain an eighth."""
    share = {**dict.fromkeys(FLOWS, 1), "learned-kernels": 10, "chain": 8}
    return max(steps // share[method], 1) if method in share else 0
