"""``manifold-diffusion plot``: data, samples and density of a saved model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..manifolds import cast_points
from .arguments import new_model_parser, parse_for_model
from .evaluate import data_options
from .files import add_data_options, check_least, check_target, draw, load_data, open_density

__all__ = ["run"]

_SUFFIXES = (".png", ".pdf", ".svg", ".jpg")


def run(argv: Sequence[str]) -> int:
    """Draw a figure; see ``manifold-diffusion plot --help``."""
    parser = new_model_parser(
        "plot",
        "[--data FILE] --out FIGURE [options]",
        "Draw held-out data, samples and the density of a saved model.",
    )
    parser.add_argument("--out", type=str, default="figure.png", help="a .png, .pdf, .svg or .jpg file")
    parser.add_argument("--n", type=int, default=2000, help="number of samples, and of data points, at most")
    parser.add_argument("--density", type=bool, default=True, help="draw the exact density, too")
    parser.add_argument("--resolution", type=int, default=90, help="columns of the image of the density")
    parser.add_argument("--seed", type=int, default=0, help="seed of the samples")
    add_data_options(parser, with_defaults=False)
    given = parse_for_model(parser, argv)
    if given is None:
        return 0
    check_least("n", given["n"], 1)
    check_target(given["out"], _SUFFIXES)
    model = open_density(given["model"], given["trusted"], given["device"])
    data = load_data(data_options(given["data"], model), model.manifold, getattr(model.network, "cond_dim", 0))
    held_out = data.test if len(data.test.x) else data.train
    like = model.like
    x = cast_points(model.manifold, held_out.x[: given["n"]], like)
    cond = None if held_out.cond is None else held_out.cond[: len(x)].to(like)
    generator = torch.Generator(given["device"]).manual_seed(given["seed"])
    samples = draw(model, len(x) if cond is not None else given["n"], generator, cond)
    density = model.log_prob if given["density"] and cond is None else None

    from ..plotting import compare

    compare(
        model.manifold,
        x,
        samples,
        density,
        title=f"{data.name}, {model.manifold}",
        path=given["out"],
        resolution=given["resolution"],
    )
    print(f"figure saved to {given['out']}")
    return 0
