"""From the ``model`` section of a configuration to a model, and back to the complete section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .._config import from_config, to_config
from .._errors import ConfigError
from ..manifolds import Manifold
from ..models import (
    AutoregressiveKernelDensity,
    FlowMap,
    GenerativeModel,
    LearnedDensity,
    LearnedKernelDensity,
    RiemannianDiffusion,
    RiemannianFlow,
)
from ..networks import TangentMLP
from ..objectives import FlowMapMatching
from ..processes import PathProcess, default_process
from .arguments import merge
from .names import manifold_name, normalise

__all__ = ["build_density", "build_manifold", "build_model", "model_section"]

_PRODUCT = "manifold_diffusion.processes.ProductProcess"


def build_manifold(section: Mapping[str, Any], trusted: Sequence[str] = ()) -> Manifold:
    """Manifold of a section.

    Raises:
        ConfigError: there is none, or it is unknown.
    """
    if section.get("manifold") is None:
        raise ConfigError("model.manifold is missing; write its short name, such as sphere:2.")
    manifold = from_config(normalise("manifold", section["manifold"]), trusted)
    if not isinstance(manifold, Manifold):
        raise ConfigError(f"model.manifold must be a manifold; got {type(manifold).__name__}.")
    return manifold


def build_density(section: Mapping[str, Any], points: Tensor, seed: int, trusted: Sequence[str] = ()) -> LearnedDensity:
    """Learned density of a section, at data points; the initial weights follow from ``seed``.

    Raises:
        ConfigError: an unknown class or argument, a class that is no learned density, or parts that none has.
        CapabilityError: the density needs what the manifold does not have.
    """
    manifold = build_manifold(section, trusted)
    needless = [name for name in ("process", "network", "objective") if section.get(name) is not None]
    if needless:
        raise ConfigError(f"A model.density has no {needless[0]}: leave out model.{needless[0]} or model.density.")
    config = normalise("density", section["density"])
    config = {"class_path": f"manifold_diffusion.models.{LearnedKernelDensity.__name__}", **config}
    given = [name for name in ("manifold", "data") if name in config["init_args"]]
    if given:
        raise ConfigError(f"A density has the manifold and the data of the run: leave out model.density.{given[0]}.")
    density = from_config(config, trusted, {"manifold": manifold, "data": points, "seed": seed})
    if not isinstance(density, LearnedDensity):
        known = f"{LearnedKernelDensity.__name__} or {AutoregressiveKernelDensity.__name__}"
        raise ConfigError(f"model.density must be {known}; got {type(density).__name__}.")
    return density


def build_model(section: Mapping[str, Any], seed: int, trusted: Sequence[str] = ()) -> GenerativeModel:
    """Model of a section; missing parts get their defaults, and all get the manifold and the process.

    The initial weights follow from ``seed``; torch's global generator is left as it was.

    Raises:
        ConfigError: an unknown class or argument, or parts that don't fit together.
        CapabilityError: a part needs what the manifold does not have.
    """
    manifold = build_manifold(section, trusted)
    section = {key: normalise(key, value) for key, value in section.items()}
    process_config = section.get("process")
    if process_config is None or "class_path" not in process_config:
        process_config = merge(to_config(default_process(manifold)), process_config or {})
    process = from_config(_with_factors(process_config, to_config(manifold)), trusted, {"manifold": manifold})
    parts = {"manifold": manifold, "process": process}

    def part(name: str, default: str | None) -> Any:
        config = section.get(name)
        if config is not None and "class_path" not in config:
            if default is None:
                config = {**config, "class_path": _class_of_default_objective(process)}
            else:
                config = {**config, "class_path": default}
        return None if config is None else from_config(config, trusted, parts)

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        objective = part("objective", None)
        if isinstance(objective, FlowMapMatching):
            default = {"class_path": f"manifold_diffusion.networks.{TangentMLP.__name__}"}
            section["network"] = merge({**default, "init_args": {"two_times": True}}, section.get("network") or {})
        network = part("network", f"manifold_diffusion.networks.{TangentMLP.__name__}")
        if isinstance(objective, FlowMapMatching):
            return FlowMap(manifold, process, network, objective)
        if isinstance(process, PathProcess):
            return RiemannianFlow(manifold, process, network, objective)
        return RiemannianDiffusion(manifold, process, network, objective)


def model_section(model: GenerativeModel | LearnedDensity) -> dict[str, Any]:
    """The complete section of a model, without what its parts share and without its data."""
    manifold = to_config(model.manifold)
    if isinstance(model, LearnedDensity):
        density = _strip(to_config(model), {"manifold": manifold, "data": model.data})
        return {"manifold": manifold_name(manifold), "density": density}
    process = to_config(model.process)
    shared = {"manifold": manifold, "process": process}
    return {
        "manifold": manifold_name(manifold),
        "process": _strip(process, {"manifold": manifold}),
        "network": _strip(to_config(model.network), shared),
        "objective": _strip(to_config(model.objective), shared),
    }


def _strip(config: Any, shared: Mapping[str, Any]) -> Any:
    if isinstance(config, list):
        return [_strip(item, shared) for item in config]
    if not isinstance(config, dict):
        return config
    if "class_path" not in config:
        return {k: _strip(v, shared) for k, v in config.items()}
    arguments = {k: v for k, v in config["init_args"].items() if not (k in shared and v == shared[k])}
    arguments = {k: manifold_name(v) if k == "manifold" else _strip(v, shared) for k, v in arguments.items()}
    return {"class_path": config["class_path"], "init_args": arguments}


def _with_factors(process: Mapping[str, Any], manifold: Mapping[str, Any]) -> dict[str, Any]:
    """A product process whose parts have manifolds: by default the factors, in their order, with their weights."""
    factors, arguments = manifold.get("init_args", {}).get("factors"), dict(process.get("init_args", {}))
    if process["class_path"] != _PRODUCT or not factors:
        return dict(process)
    parts = arguments.get("processes") or []
    if len(parts) != len(factors):
        raise ConfigError(
            f"ProductProcess needs one process per factor of {manifold_name(manifold)} ({len(factors)}); got "
            f"{len(parts)}."
        )
    filled = []
    for part, factor in zip(parts, factors, strict=True):
        if part is None or "class_path" not in part:
            part = merge(to_config(default_process(from_config(factor))), part or {})
        filled.append(_with_factors({**part, "init_args": {"manifold": factor, **part.get("init_args", {})}}, factor))
    weights = manifold["init_args"].get("weights")
    if weights and any(w != 1 for w in weights):
        arguments.setdefault("weights", weights)
    return {**process, "init_args": {**arguments, "processes": filled}}


def _class_of_default_objective(process: Any) -> str:
    if isinstance(process, PathProcess):
        return "manifold_diffusion.objectives.FlowMatching"
    return "manifold_diffusion.objectives." + (
        "DenoisingScoreMatching" if process.has_target else "ImplicitScoreMatching"
    )
