"""``manifold-diffusion sample``: draw points from a saved model."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from .._errors import ConfigError
from .arguments import new_model_parser, parse_for_model
from .files import (
    check_least,
    check_target,
    draw,
    log_density,
    open_density,
    parse_condition,
    points_text,
    write_arrays,
    write_text,
)

__all__ = ["run"]


def run(argv: Sequence[str]) -> int:
    """Draw points; see ``manifold-diffusion sample --help``."""
    parser = new_model_parser("sample", "[options]", "Draw points from a saved model. Same seed, same points.")
    parser.add_argument("--n", type=int, default=1000, help="number of points")
    parser.add_argument(
        "--method",
        type=str | None,
        default=None,
        help="ode (probability flow), sde (reverse-time diffusion), map (jumps of a flow map); default: the model's",
    )
    parser.add_argument(
        "--steps", type=int | None, default=None, help="steps; default 25 for the ODE, 250 for the SDE, 1 for the map"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    parser.add_argument(
        "--out", type=str | None, default=None, help="an .npz or .csv file; default a table on standard output"
    )
    parser.add_argument("--trajectory", type=bool, default=False, help="also save all states from noise to data (.npz)")
    parser.add_argument("--log_prob", type=bool, default=False, help="also compute the exact log density of each point")
    parser.add_argument(
        "--cond", type=str | None, default=None, help="condition of a conditional model, numbers separated by commas"
    )
    parser.add_argument("--batch_size", type=int, default=16384, help="points that are integrated together")
    given = parse_for_model(parser, argv)
    if given is None:
        return 0
    check_least("n", given["n"], 0)
    suffix = check_target(given["out"], (".npz", ".csv"))
    if given["trajectory"] and suffix != ".npz":
        raise ConfigError("--trajectory needs --out with the suffix .npz: a table holds one state per point.")
    model = open_density(given["model"], given["trusted"], given["device"])
    generator = torch.Generator(given["device"]).manual_seed(given["seed"])
    cond = parse_condition(given["cond"], model)
    states = draw(
        model,
        given["n"],
        generator,
        cond,
        steps=given["steps"],
        method=given["method"],
        batch_size=given["batch_size"],
        return_trajectory=given["trajectory"],
        progress=given["out"] is not None and sys.stderr.isatty(),
    )
    points = states[-1] if given["trajectory"] else states
    log_prob = log_density(model, points, cond).cpu() if given["log_prob"] else None
    if given["out"] is not None and suffix == ".npz":
        arrays = {"points": points.cpu().numpy(), "manifold": repr(model.manifold)}
        if log_prob is not None:
            arrays["log_prob"] = log_prob.numpy()
        if given["trajectory"]:
            arrays["trajectory"] = states.cpu().numpy()
        write_arrays(given["out"], **arrays)
        return 0
    text = points_text(model.manifold, points.cpu(), log_prob)
    if given["out"] is None:
        print(text, end="", flush=True)
    else:
        write_text(given["out"], text)
    return 0
