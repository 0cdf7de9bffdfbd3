"""Which command to run, and what its errors look like."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, TextIO

from .._errors import ConfigError, ManifoldDiffusionError, NumericsError
from .._version import __version__

__all__ = ["main"]

COMMANDS = {
    "fit": "train a model; its configuration, checkpoints, logs, pictures and the model go to one folder",
    "sample": "draw points from a saved model",
    "evaluate": "exact test likelihood beside kernel densities, and two-sample tests",
    "probe": "diagnostics with pictures: dimension, copies, calibration, mixing, straightness",
    "plot": "draw data, samples and density of a saved model",
    "info": "what each manifold offers, or what a saved model is",
}

_USAGE = "usage: manifold-diffusion [--help] [--version] [--debug] {" + ",".join(COMMANDS) + "} ..."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; default those of the process.

    Returns:
        The exit code: 0 success, 1 a failed computation, 2 bad usage, configuration, data or file, 130 interrupted.
        SIGTERM in training ends the process with 143.

    Example:
        >>> main(["--version"])  # doctest: +ELLIPSIS
        manifold-diffusion ...
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    command = next((a for a in arguments if not a.startswith("-")), None)
    name = "manifold-diffusion" if command not in COMMANDS else f"manifold-diffusion {command}"
    with warnings.catch_warnings():
        warnings.showwarning = _one_line_warning
        try:
            return _dispatch(arguments, command)
        except BrokenPipeError:  # the reader of standard output, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (ManifoldDiffusionError, OSError) as error:
            if debug:
                raise
            print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
            return 1 if isinstance(error, NumericsError) else 2
        except KeyboardInterrupt:
            if debug:
                raise
            print(f"{name}: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT


def _dispatch(arguments: list[str], command: str | None) -> int:
    if command is None:
        if "--version" in arguments:
            print(f"manifold-diffusion {__version__}")
            return 0
        wrong = [a for a in arguments if a not in ("-h", "--help")]
        if wrong or not arguments:
            raise ConfigError(f"{'Unknown option ' + wrong[0] if wrong else 'Name a command'}. {_USAGE}")
        print(_help())
        return 0
    if command not in COMMANDS:
        from .._config import nearest

        raise ConfigError(f"Unknown command {command!r}{nearest(command, COMMANDS)} {_USAGE}")
    arguments.remove(command)
    return importlib.import_module(f".{command}", __package__).run(arguments)


def _help() -> str:
    lines = [_USAGE, "", "Diffusion models for data on manifolds.", "", "commands:"]
    lines += [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    lines += ["", "options:", "  --debug   show the traceback of an error", "  --version", ""]
    lines += ["`manifold-diffusion COMMAND --help` lists the options of a command.", ""]
    lines += ["examples:", "  manifold-diffusion fit --out_dir runs/airports"]
    lines += [
        "  manifold-diffusion fit --model.manifold torus:2 --data angles.csv --data.coordinates degrees "
        "--trainer.max_steps 5000"
    ]
    lines += ["  manifold-diffusion sample runs/airports --n 1000 --out places.csv"]
    return "\n".join(lines)


def _one_line_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> Any:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
