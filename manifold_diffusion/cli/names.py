"""Short names: ``sphere:2`` for a manifold, ``BrownianMotion`` for a class of this library."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from .. import manifolds
from .._config import from_config, nearest, to_config
from .._errors import ConfigError
from ..manifolds import Manifold, Product
from ._yaml import load_yaml

__all__ = ["SHORT_NAMES", "manifold_name", "normalise", "parse_manifold"]

_EXAMPLES = (
    *("ball:2", "complexprojective:2", "constantcurvature:2:-0.5", "correlation:3", "euclidean:3", "grassmann:4:2"),
    *("halfspace:2", "hemisphere:2", "hyperboloid:3", "poincareball:2", "realprojective:3", "se3", "se3n:8"),
    *("simplex:3", "so:4", "so3", "spd:3", "sphere:2", "stiefel:4:2", "su:2", "torus:7", "u:2"),
)
_FAMILIES: dict[str, type[Manifold]] = {
    name.lower(): getattr(manifolds, name)
    for name in manifolds.__all__
    if name.lower() in {example.partition(":")[0] for example in _EXAMPLES}
}
SHORT_NAMES = (*_EXAMPLES, "product:so3,euclidean:3")
"""An example of each short name: the name of the class in lower case, then the arguments of its constructor."""

_PACKAGES = {
    "manifold": "manifolds",
    "factors": "manifolds",
    "process": "processes",
    "processes": "processes",
    "schedule": "processes",
    "network": "networks",
    "objective": "objectives",
    "density": "models",
}
"""Which keys of a configuration hold parts, and where the short names of their classes are looked up."""


def parse_manifold(text: str) -> Manifold:
    """Manifold of a short name: ``family:argument:argument``, or ``product:`` with its factors separated by commas.

    Products of products and products with weights are written with ``class_path`` and ``init_args``, in which factors
    may be short names.

    Raises:
        ConfigError: an unknown family, or a dimension that is missing or wrong.

    Example:
        >>> parse_manifold("sphere:2"), parse_manifold("product:so3,euclidean:3")
        (Sphere(2), Product(SO3(), Euclidean(3)))
    """
    family, _, rest = text.strip().lower().partition(":")
    if family == "product":
        names = [name.strip() for name in rest.split(",")]
        if not all(names) or any(name.startswith("product") for name in names):
            raise ConfigError(
                f"{text!r} is not a product of manifolds; write product:so3,euclidean:3. A product in a product "
                "needs class_path and init_args."
            )
        return Product(*[parse_manifold(name) for name in names])
    if family not in _FAMILIES:
        raise ConfigError(
            f"Unknown manifold {text!r}{nearest(family, [*_FAMILIES, 'product'])} "
            f"Short names: {', '.join(SHORT_NAMES)}."
        )
    cls = _FAMILIES[family]
    names, words = _arguments(cls), rest.split(":") if rest else []
    if len(words) > len(names):
        raise ConfigError(f"{text!r}: {family} has {len(names) or 'no'} argument{'s' * (len(names) != 1)}.")
    values = {name: load_yaml(word, repr(text)) for name, word in zip(names, words, strict=False)}
    try:
        return from_config({"class_path": to_config_path(cls), "init_args": values})
    except ConfigError as error:
        needed = [name for name, default in names.items() if default is inspect.Parameter.empty]
        if isinstance(values.get("n"), str) or len(words) < len(needed):
            form = ":".join([family, *needed])
            raise ConfigError(f"{text!r} is not {form}, with a number for each, such as {_example(family)}.") from error
        raise


def _example(family: str) -> str:
    return next(example for example in _EXAMPLES if example.partition(":")[0] == family)


def _arguments(cls: type[Manifold]) -> dict[str, Any]:
    """Names and defaults of the arguments of a manifold's constructor."""
    parameters = inspect.signature(cls.__init__).parameters
    return {name: p.default for name, p in parameters.items() if name != "self"}


def manifold_name(config: Any) -> Any:
    """Inverse of :func:`parse_manifold` on a manifold's configuration; one without a short name stays as it is.

    Example:
        >>> manifold_name(to_config(manifolds.Sphere(2)))
        'sphere:2'
    """
    if not isinstance(config, dict):
        return config
    cls, arguments = config["class_path"].rsplit(".", 1)[1], config.get("init_args", {})
    for name, family in _FAMILIES.items():
        if config["class_path"] == to_config_path(family):
            given = list(arguments.values())
            for default in reversed(_arguments(family).values()):
                if not given or given[-1] != default:
                    break
                given.pop()  # a default at the end is left out
            if all(isinstance(a, int | float | str) for a in given):
                return ":".join([name, *(str(a).lower() if isinstance(a, bool) else str(a) for a in given)])
    if config["class_path"] == to_config_path(Product):
        factors, weights = [manifold_name(f) for f in arguments["factors"]], arguments.get("weights") or [1.0]
        plain = all(isinstance(f, str) and not f.startswith("product:") for f in factors)
        if plain and all(w == 1 for w in weights):
            return "product:" + ",".join(factors)
        return {"class_path": cls, "init_args": {**arguments, "factors": factors}}
    return config


def to_config_path(cls: type) -> str:
    """Public import path of a manifold of this library."""
    return f"manifold_diffusion.manifolds.{cls.__name__}"


def normalise(key: str, value: Any) -> Any:
    """One form for all the ways to write a part: ``class_path`` (complete) and ``init_args``, each where it was given.

    A string is a short name or a class; arguments may stand beside ``class_path`` without ``init_args``.
    """
    if isinstance(value, list):
        return [normalise(key, item) for item in value]
    package = _PACKAGES[key]
    if isinstance(value, str):
        if package == "manifolds" and (":" in value or "." not in value):
            return to_config(parse_manifold(value))
        value = {"class_path": value}
    if not isinstance(value, dict):
        return value
    arguments = {k: v for k, v in value.items() if k not in ("class_path", "init_args")}
    inner = value.get("init_args") or {}
    if not isinstance(inner, dict):
        raise ConfigError(f"init_args of {key} must be a mapping of arguments; got {inner!r}.")
    arguments.update(inner)
    out: dict[str, Any] = {}
    if value.get("class_path") is not None:
        out["class_path"] = _complete(package, str(value["class_path"]))
    out["init_args"] = {k: normalise(k, v) if k in _PACKAGES else v for k, v in arguments.items()}
    return out


def _complete(package: str, path: str) -> str:
    """Import path of a class, which may be given by its name alone."""
    if "." in path:
        return path
    public = importlib.import_module(f"manifold_diffusion.{package}")
    names = [n for n in public.__all__ if isinstance(getattr(public, n), type)]
    if path not in names:
        raise ConfigError(
            f"manifold_diffusion.{package} has no class {path!r}{nearest(path, names)} Write a class of yours "
            f"with its module: my_package.{path}."
        )
    return f"manifold_diffusion.{package}.{path}"
