"""``manifold-diffusion info``: what each manifold offers, or what a saved model is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .._config import to_config
from .._errors import CapabilityError
from .._version import __version__
from ..heat_kernels import heat_kernel
from ..manifolds import Compact, LieGroup, Manifold, Spectral
from ..processes import BrownianMotion, Process, ProductProcess, default_process
from .arguments import HelpShown, new_parser, parse
from .files import open_density
from .names import SHORT_NAMES, manifold_name, parse_manifold

__all__ = ["run"]

_HEADER = ("manifold", "dim", "point", "compact", "spectrum", "Lie group", "heat kernel", "default process", "frame")


def run(argv: Sequence[str]) -> int:
    """Print a table or a model's card; see ``manifold-diffusion info --help``."""
    parser = new_parser("info", "[MODEL or MANIFOLD]", "What each manifold offers, or what a saved model is.")
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="folder of a model or of its run, hf://owner/name, or a manifold such as sphere:5",
    )
    parser.add_argument("--trusted", type=list[str], default=[], help="packages whose classes the model may name")
    try:
        given = parse(parser, argv, ["model"])
    except HelpShown:
        return 0
    subject = given["model"]
    if subject is None:
        print(f"manifold_diffusion {__version__}, torch {torch.__version__}\n")
        print(table(_HEADER, [capabilities(parse_manifold(name)) for name in SHORT_NAMES]))
        print(
            "\nframe: global where a network outputs dim coefficients of a frame field, else the number of "
            "ambient entries that are projected."
        )
        print("Products of any of these are manifolds, too; a product is compact if all its factors are.")
    elif _is_manifold(subject):
        print(table(_HEADER, [capabilities(parse_manifold(subject))]))
    else:
        print(_card(subject, given["trusted"]))
    return 0


def _is_manifold(subject: str) -> bool:
    family = subject.partition(":")[0]
    return not Path(subject).exists() and family in {name.partition(":")[0] for name in SHORT_NAMES}


def capabilities(manifold: Manifold) -> tuple[str, ...]:
    """One row of the table."""
    powers = [isinstance(manifold, power) for power in (Compact, Spectral, LieGroup)]
    try:
        kernel = type(heat_kernel(manifold)).__name__.lstrip("_")
    except CapabilityError:
        kernel = "-"
    shape = "(" + ", ".join(map(str, manifold.point_shape)) + ("," if len(manifold.point_shape) == 1 else "") + ")"
    frame = "global" if manifold.frame_dim == manifold.dim else f"{manifold.frame_dim} ambient"
    try:
        process = _process(default_process(manifold))
    except CapabilityError:
        process = _process(BrownianMotion(manifold, n_steps=100)) + ", simulated"
    name = manifold_name(to_config(manifold))
    return (name, str(manifold.dim), shape, *("yes" if p else "-" for p in powers), kernel, process, frame)


def _process(process: Process) -> str:
    name = type(process).__name__
    return (
        f"product of {', '.join(_process(p) for p in process.processes if isinstance(p, Process))}"
        if isinstance(process, ProductProcess)
        else name
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Text table, columns aligned on the left."""
    lines = [tuple(header), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([text[0], "  ".join("-" * width for width in widths), *text[1:]])


def _card(folder: str, trusted: Sequence[str]) -> str:
    from ..models import LearnedDensity
    from ..models.card import n_parameters

    model = open_density(folder, trusted)
    lines = {"manifold": f"{manifold_name(to_config(model.manifold))} (dimension {model.manifold.dim})"}
    if isinstance(model, LearnedDensity):
        lines["density"] = f"{type(model).__name__} on {model.data:,} points"
    else:
        schedule = getattr(model.process, "schedule", None)
        lines["process"] = _process(model.process) + (f", {schedule!r}" if schedule is not None else "")
        lines["objective"] = type(model.objective).__name__
    lines["network"] = f"{type(model.network).__name__}, {n_parameters(model.network)}"
    lines |= {key: str(value) for key, value in model.metadata.items()}
    width = max(map(len, lines))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in lines.items())
