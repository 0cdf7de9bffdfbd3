"""From the words of a command line and configuration files to checked values."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._config import nearest
from .._errors import ConfigError
from ._yaml import load_yaml, read_yaml, to_yaml

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["HelpShown", "new_model_parser", "new_parser", "parse", "parse_for_model"]

_PARTS = ("model.manifold", "model.process", "model.network", "model.objective", "model.density")
_LISTS = ("data.fractions",)  # its default is None where the model says what it is
_TRUE, _FALSE = ("true", "yes", "on"), ("false", "no", "off")


class HelpShown(Exception):
    """``--help`` was given and has been answered."""


def new_parser(command: str, usage: str, description: str) -> ArgumentParser:
    """Parser of one command; it declares the options, :func:`parse` reads them."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"manifold-diffusion {command}",
        usage=f"manifold-diffusion {command} {usage}",
        description=description,
        exit_on_error=False,
        add_help=False,
    )
    parser.add_argument(
        "--config",
        type=str,
        default=None,
        help="YAML file with options; may be given several times, later ones and later options win",
    )
    parser.add_argument(
        "--print_config",
        type=bool,
        default=False,
        help="print the complete configuration, to be given back with --config, and stop",
    )
    return parser


def new_model_parser(command: str, usage: str, description: str) -> ArgumentParser:
    """Parser of a command that opens a saved model, to be read by :func:`parse_for_model`."""
    parser = new_parser(command, f"MODEL {usage}", description)
    parser.add_argument(
        "--model", type=str | None, default=None, help="folder of the model or of its run, or hf://owner/name"
    )
    parser.add_argument("--device", type=str, default="cpu", help="such as cpu or cuda")
    parser.add_argument("--trusted", type=list[str], default=[], help="packages whose classes the model may name")
    return parser


def parse_for_model(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any] | None:
    """Values of all options, or None when ``--help`` or ``--print_config`` has been answered.

    Raises:
        ConfigError: as :func:`parse`, or if no model is named.
    """
    try:
        given = parse(parser, argv, ["model"])
    except HelpShown:
        return None
    if given.pop("print_config"):
        print(to_yaml({k: v for k, v in given.items() if k != "config"}), end="")
        return None
    if given["model"] is None:
        raise ConfigError(f"Name the folder of a model: {parser.prog} MODEL.")
    return given


def parse(
    parser: ArgumentParser, argv: Sequence[str], positional: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Values of all options: defaults, ``base``, then files and options in the order of the command line.

    Args:
        parser: declares the options.
        argv: words of the command line.
        positional: options whose values may also be given without their names, in this order.
        base: a configuration that the command line overrides.

    Returns:
        Nested dictionaries.

    Raises:
        ConfigError: an option or key that does not exist, with the nearest one that does; a value of the wrong type;
            an unreadable file.
        HelpShown: after ``--help``.
    """
    from jsonargparse import ArgumentError

    defaults = parser.get_defaults()
    known = {key: defaults[key] for key in defaults.keys()}
    config = merge({}, _tidy(base or {}, known, "the saved configuration"))
    for layer, where in _layers(list(argv), known, list(positional), parser):
        config = merge(config, _tidy(layer, known, where))
    for key in ("config", "print_config"):
        config.setdefault(key, None if key == "config" else False)
    parts = config.pop("model", {}) if _PARTS[0] in known else {}  # jsonargparse would complete their arguments itself
    try:
        values = parser.parse_object(config).as_dict()
    except ArgumentError as error:
        raise ConfigError(_readable(str(error))) from error
    if parts:
        values["model"] = {**values["model"], **parts}
    return values


def _layers(
    argv: list[str], known: Mapping[str, Any], positional: list[str], parser: ArgumentParser
) -> Iterable[tuple[dict[str, Any], str]]:
    while argv:
        word = argv.pop(0)
        if word in ("-h", "--help"):
            parser.print_help(sys.stdout)
            raise HelpShown
        if not word.startswith("--"):
            if not positional or word.startswith("-"):
                raise ConfigError(f"Unexpected argument {word!r}; options start with -- (see --help).")
            yield {positional.pop(0): word}, "the command line"
            continue
        name, given, text = word[2:].partition("=")
        key = name.replace("-", "_")
        is_flag = isinstance(known.get(key), bool)
        if is_flag and not given:
            follows = argv[0].lower() if argv else ""
            yield _nested(key, argv.pop(0).lower() in _TRUE if follows in (*_TRUE, *_FALSE) else True), f"--{name}"
            continue
        if not _is_known(key, known):
            raise ConfigError(
                f"Unknown option --{name}{nearest(key, _candidates(key, known), '--')} See --help for all."
            )
        if not given:
            if not argv or argv[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value.")
            text = argv.pop(0)
        if key == "config":
            yield read_yaml(text), text
        elif key not in known or key in _PARTS:
            yield _nested(key, load_yaml(text, f"--{name}")), f"--{name}"
        elif (isinstance(known[key], list | tuple) or key in _LISTS) and not text.lstrip().startswith("["):
            yield _nested(key, text.split(",")), f"--{name}"
        else:
            yield _nested(key, text), f"--{name}"  # its type is known: jsonargparse reads it


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _is_known(key: str, known: Mapping[str, Any]) -> bool:
    return (
        key in known
        or any(key.startswith(f"{part}.") for part in _PARTS if part in known)
        or any(k.startswith(f"{key}.") for k in known)
    )


def _candidates(key: str, known: Mapping[str, Any]) -> list[str]:
    """Names that a user may have meant: whole keys, and the last words of keys."""
    return [*known, *{k.split(".")[0] for k in known}]


def _tidy(layer: Mapping[str, Any], known: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """A layer of configuration in its one form, after a check of its keys."""
    out: dict[str, Any] = {}
    for name, value in layer.items():
        key = f"{prefix}{name}"
        if not isinstance(name, str) or not _is_known(key, known):
            siblings = {k.removeprefix(prefix).split(".")[0] for k in known if k.startswith(prefix)} - {
                "config",
                "print_config",
            }
            full = [k for k in known if k.rsplit(".", 1)[-1] == name]
            hint = f"; did you mean {full[0]!r}?" if full else nearest(str(name), siblings)
            raise ConfigError(f"Unknown key {key!r} in {where}{hint} Known here: {', '.join(sorted(siblings))}.")
        if key in _PARTS and key in known:
            from .names import normalise

            out[name] = normalise(name, value)
        elif key in known:
            out[name] = value
        elif key == "data" and isinstance(value, str):
            out[name] = {"path": value}
        elif isinstance(value, Mapping):
            out[name] = _tidy(value, known, where, f"{key}.")
        elif value is not None:
            raise ConfigError(f"{key!r} in {where} is a group of options; got {value!r}. Write {key}.<option>.")
    return out


def merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Deep merge of two configurations; ``high`` wins. Arguments of another class are dropped, not mixed."""
    out = dict(low)
    for key, value in high.items():
        old = out.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            classes = {c for c in (old.get("class_path"), value.get("class_path")) if c is not None}
            value = merge(old, value) if len(classes) < 2 else value
        out[key] = value
    return out


def _readable(message: str) -> str:
    """Jsonargparse's report of a value of the wrong type, in one sentence."""
    key = re.search(r'key "([^"]+)"', message)
    value = re.search(r"(?:Given|Got) value: (.*)", message)
    expected = re.findall(r"Expected (?:a |an )?(.+?)(?:\. Got|\n|$)", message)
    if key is None or value is None or not expected:
        return " ".join(message.split())
    words = [
        re.sub(r"<class '(\w+)'>", r"\1", e).replace("NoneType", "null").replace("typing.Literal", "one of ")
        for e in dict.fromkeys(expected)
    ]
    return f"{key[1]} is {value[1].strip()!r}; expected {' or '.join(words)}."
