"""Objects to and from plain configurations, ``{"class_path": ..., "init_args": {...}}``.

A configurable part stores each argument of its constructor under an attribute of the same name. Only classes of trusted modules are ever
imported from a configuration, so that a file from elsewhere can't run code.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ._errors import ConfigError

__all__ = ["from_config", "to_config"]

_PLAIN = (str, int, float, bool, type(None))


def to_config(value: Any) -> Any:
    """Plain form of a value: numbers, strings, lists and dictionaries as they are, parts as class path and arguments.

    Raises:
        ConfigError: if a part does not store an argument of its constructor under the argument's name.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> to_config(Sphere(2))
        {'class_path': 'manifold_diffusion.manifolds.Sphere', 'init_args': {'n': 2}}
    """
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Mapping):
        return {str(k): to_config(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        return [to_config(v) for v in value]
    cls = _public_class(value)
    arguments = {}
    for name in inspect.signature(cls.__init__).parameters:
        if name == "self":
            continue
        if not hasattr(value, name):
            raise ConfigError(f"{cls.__name__} can't be saved: it has no attribute {name!r} for its constructor's argument. Store it in __init__.")
        argument = getattr(value, name)
        arguments[name] = to_config(list(argument) if _is_iterable_part(argument) else argument)
    return {"class_path": _path(cls), "init_args": arguments}


def from_config(config: Any, trusted: Sequence[str] = ()) -> Any:
    """Inverse of :func:`to_config`.

    Args:
        config: plain form of a value.
        trusted: further packages whose classes may be built, besides this library's.

    Raises:
        ConfigError: for a class outside the trusted packages, an unknown class or key, or arguments that the class refuses.
    """
    if isinstance(config, list):
        return [from_config(c, trusted) for c in config]
    if not isinstance(config, dict):
        return config
    if "class_path" not in config:
        return {k: from_config(v, trusted) for k, v in config.items()}
    unknown = set(config) - {"class_path", "init_args"}
    if unknown:
        raise ConfigError(f"Unknown keys {sorted(unknown)} beside class_path {config['class_path']!r}; known: class_path, init_args.")
    cls = _import_class(config["class_path"], trusted)
    arguments = {k: from_config(v, trusted) for k, v in config.get("init_args", {}).items()}
    parameters = inspect.signature(cls.__init__).parameters
    variadic = [name for name, p in parameters.items() if p.kind is inspect.Parameter.VAR_POSITIONAL]
    known = [name for name in parameters if name != "self"]
    wrong = [name for name in arguments if name not in known]
    if wrong:
        raise ConfigError(f"{cls.__name__} has no argument {wrong[0]!r}; its arguments are {', '.join(known) or 'none'}.")
    positional = arguments.pop(variadic[0], []) if variadic else []
    try:
        return cls(*positional, **arguments)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__} can't be built from {arguments}: {error}.") from error


def _is_iterable_part(value: Any) -> bool:
    """Module lists and tuples of parts."""
    return type(value).__name__ == "ModuleList"


def _public_class(value: Any) -> type:
    """The class under which a value is known: the nearest base that does not start with an underscore."""
    for cls in type(value).__mro__:
        if not cls.__name__.startswith("_"):
            return cls
    return type(value)


def _path(cls: type) -> str:
    """Import path; the public package of this library rather than the file."""
    parts = cls.__module__.split(".")
    if parts[0] == __package__ and len(parts) > 2:
        parts = parts[:2]
    return ".".join([*parts, cls.__name__])


def _import_class(path: Any, trusted: Sequence[str]) -> type:
    if not isinstance(path, str) or "." not in path:
        raise ConfigError(f"class_path must be a dotted path such as 'manifold_diffusion.manifolds.Sphere'; got {path!r}.")
    module, name = path.rsplit(".", 1)
    allowed = [__package__ or "manifold_diffusion", *trusted]
    if module.split(".")[0] not in allowed and not any(module == a or module.startswith(a + ".") for a in allowed):
        raise ConfigError(f"class_path {path!r} is outside the trusted packages {allowed}. If you trust it, pass trusted=({module.split('.')[0]!r},).")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"class_path {path!r} names no class: {error}.") from error
    if not isinstance(cls, type) or cls.__module__.split(".")[0] not in {a.split(".")[0] for a in allowed}:
        raise ConfigError(f"class_path {path!r} is not a class of the trusted packages {allowed}.")
    return cls
