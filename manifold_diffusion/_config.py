"""Objects to and from plain configurations, ``{"class_path": ..., "init_args": {...}}``.

A configurable part stores each argument of its constructor under an attribute of the same name. Only classes of trusted
modules are ever imported from a configuration, so that a file from elsewhere can't run code.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._errors import ConfigError, ManifoldDiffusionError

__all__ = ["differences", "from_config", "nearest", "to_config"]

_PLAIN = (str, int, float, bool, type(None))

_OWN = tuple(
    f"{__package__}.{name}"
    for name in ("manifolds", "heat_kernels", "data", "processes", "networks", "objectives", "solvers", "models")
)
"""Where this library's parts live; a configuration can't name other classes of it, some of which write files."""


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
    if inspect.isroutine(value):
        raise ConfigError(
            f"The function {value.__name__} can't be written to a configuration, so that what holds it can't be saved. "
            "Make it an object: a class with __call__ that stores the arguments of its constructor."
        )
    cls = _public_class(value)
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name == "self":
            continue
        if not hasattr(value, name):
            raise ConfigError(
                f"{cls.__name__} can't be saved: it has no attribute {name!r} for its constructor's argument. "
                "Store it in __init__."
            )
        argument = getattr(value, name)
        if (argument, parameter.default) == (None, None):  # left out by the user too
            continue
        arguments[name] = to_config(list(argument) if _is_iterable_part(argument) else argument)
    return {"class_path": _path(cls), "init_args": arguments}


def from_config(config: Any, trusted: Sequence[str] = (), given: Mapping[str, Any] | None = None) -> Any:
    """Inverse of :func:`to_config`.

    Args:
        config: plain form of a value.
        trusted: further packages whose classes may be built, besides this library's.
        given: values for arguments of these names wherever the configuration leaves them out, such as the manifold
            that all parts share.

    Raises:
        ConfigError: for a class outside the trusted packages, an unknown class or key, or arguments that the class
            refuses.

    Example:
        >>> from_config({"class_path": "manifold_diffusion.manifolds.Sphere", "init_args": {"n": 2}})
        Sphere(2)
    """
    if isinstance(config, list):
        return [from_config(c, trusted, given) for c in config]
    if not isinstance(config, dict):
        return config
    if "class_path" not in config:
        return {k: from_config(v, trusted, given) for k, v in config.items()}
    unknown = sorted(set(config) - {"class_path", "init_args"})
    if unknown:
        raise ConfigError(
            f"Unknown key {unknown[0]!r} beside class_path "
            f"{config['class_path']!r}"
            f"{nearest(unknown[0], ('class_path', 'init_args'))} "
            "Known here: class_path, init_args."
        )
    cls = _import_class(config["class_path"], trusted)
    stated = config.get("init_args") or {}
    if not isinstance(stated, dict):
        raise ConfigError(f"init_args of {cls.__name__} must be a mapping of arguments; got {stated!r}.")
    parameters = inspect.signature(cls.__init__).parameters
    variadic = [name for name, p in parameters.items() if p.kind is inspect.Parameter.VAR_POSITIONAL]
    known = [name for name in parameters if name != "self"]
    for name in stated:
        if name not in known:
            raise ConfigError(
                f"{cls.__name__} has no argument {name!r}{nearest(str(name), known)} Its arguments: "
                f"{', '.join(known) or 'none'}."
            )
    arguments = {k: from_config(v, trusted, given) for k, v in stated.items()}
    arguments.update({k: v for k, v in (given or {}).items() if k in known and k not in arguments})
    positional = arguments.pop(variadic[0], []) if variadic else []
    try:
        return cls(*positional, **arguments)
    except ManifoldDiffusionError:
        raise
    except (TypeError, ValueError) as error:
        shown = textwrap.shorten(str({k: v for k, v in arguments.items() if k in stated}), 300, placeholder=" ...")
        raise ConfigError(f"{cls.__name__} can't be built from {shown}: {error}.") from error


def differences(one: Any, two: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two plain forms differ: names of the entries and their values, None for one that is not there.

    An argument that ``one`` lacks and ``two`` has at its default is no difference: it is younger than ``one``.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> differences(to_config(Sphere(2)), to_config(Sphere(3)), "manifold")
        [('manifold.n', 2, 3)]
    """
    if not isinstance(one, Mapping) or not isinstance(two, Mapping) or one.get("class_path") != two.get("class_path"):
        return [] if one == two else [(name, one, two)]
    defaults = _defaults(two["class_path"]) if "class_path" in two else {}
    a, b = (c.get("init_args") or {} if "class_path" in c else c for c in (one, two))
    found = []
    for key in sorted({*a, *b}):
        mine = a[key] if key in a else defaults.get(key)
        found += differences(mine, b.get(key), f"{name}.{key}" if name else key)
    return found


def _defaults(path: str) -> dict[str, Any]:
    """Plain defaults of the arguments of a class that is loaded already."""
    module, _, name = path.rpartition(".")
    cls = getattr(sys.modules.get(module), name, None)
    if cls is None:
        return {}
    parameters = inspect.signature(cls.__init__).parameters
    return {k: p.default for k, p in parameters.items() if isinstance(p.default, _PLAIN)}


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """End of a message, with what was probably meant: ``; did you mean 'width'?``, or just a full stop.

    Example:
        >>> nearest("widht", ["width", "depth"])
        "; did you mean 'width'?"
        >>> nearest("colour", ["width", "depth"])
        '.'
    """
    names = list(known)
    match = difflib.get_close_matches(name, names, 1)
    if not match:  # a word of a dotted name
        words = {n.rsplit(".", 1)[-1]: n for n in reversed(names)}
        match = [words[w] for w in difflib.get_close_matches(name.rsplit(".", 1)[-1], words, 1)]
    return f"; did you mean '{prefix}{match[0]}'?" if match else "."


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
        raise ConfigError(
            f"class_path must be a dotted path such as 'manifold_diffusion.manifolds.Sphere'; got {path!r}."
        )
    module, name = path.rsplit(".", 1)
    allowed = (*_OWN, *trusted)
    if not _inside(module, allowed):
        root = module.split(".")[0]
        fix = (
            "Its configurable parts are in " + ", ".join(_OWN)
            if root == __package__
            else f"If you trust it, pass trusted=({root!r},)"
        )
        raise ConfigError(f"class_path {path!r} is outside the trusted packages. {fix}.")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"class_path {path!r} names no class: {error}.") from error
    if not isinstance(cls, type) or not _inside(cls.__module__, allowed):
        raise ConfigError(f"class_path {path!r} is not a class of the trusted packages.")
    return cls


def _inside(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)
