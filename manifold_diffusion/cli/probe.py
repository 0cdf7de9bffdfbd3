"""``manifold-diffusion probe``: diagnostics of a saved model, in one report with pictures."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from .._version import __version__
from ..manifolds import Manifold
from .arguments import new_model_parser, parse_for_model
from .evaluate import data_options
from .files import add_data_options, check_folder, load_data, open_model, parse_condition, read_points, write_text
from .probe_report import Facts, numbers, report_text

if TYPE_CHECKING:
    from ..models import GenerativeModel, ModelProbe

__all__ = ["run"]

_STAGES = 8

_PICTURES = {name: f"{name}.png" for name in ("noise", "distances", "coverage", "regions")}


def run(argv: Sequence[str]) -> int:
    """Probe a model; see ``manifold-diffusion probe --help``."""
    parser = new_model_parser(
        "probe",
        "[--train FILE --test FILE] [--out FOLDER] [options]",
        (
            "Diagnostics of a saved model: intrinsic dimension, effective sample size, mixing of the noise, copies of "
            "training points, straightness of paths, calibration. Writes report.md, report.json and pictures."
        ),
    )
    parser.add_argument(
        "--train", type=str | None, default=None, help="file of the training points; default the model's own split"
    )
    parser.add_argument("--test", type=str | None, default=None, help="file of points that the model has not seen")
    parser.add_argument(
        "--out", type=str, default="probe", help="folder of the report; files of that name are replaced"
    )
    parser.add_argument("--n", type=int, default=2000, help="number of samples, and of test points, at most")
    parser.add_argument("--points", type=int, default=128, help="points at which dimensions are taken, and paths")
    parser.add_argument("--levels", type=int, default=17, help="noise levels")
    parser.add_argument("--regions", type=int, default=12, help="regions in which the mass is compared")
    parser.add_argument("--path_steps", type=int, default=64, help="steps of the paths, a multiple of 4")
    parser.add_argument("--method", type=str | None, default=None, help="how to sample: ode, sde or map")
    parser.add_argument("--steps", type=int | None, default=None, help="steps of the samples' solver")
    parser.add_argument(
        "--cond", type=str | None, default=None, help="condition of a conditional model, numbers separated by commas"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all randomness")
    add_data_options(parser, with_defaults=False)
    given = parse_for_model(parser, argv)
    if given is None:
        return 0
    folder = check_folder(given["out"])
    model = open_model(given["model"], given["trusted"], given["device"])
    cond = parse_condition(given["cond"], model)
    name, train, test = _points(given, model, cond)

    from ..models import probe

    progress = _Progress()
    sampling = {k: given[k] for k in ("method", "steps") if given[k] is not None}
    try:
        found = probe(
            model,
            train,
            test,
            n_samples=given["n"],
            n_points=given["points"],
            n_levels=given["levels"],
            n_regions=given["regions"],
            path_steps=given["path_steps"],
            cond=cond,
            generator=torch.Generator(given["device"]).manual_seed(given["seed"]),
            report=progress,
            **sampling,
        )
    finally:
        progress.done()
    command = shlex.join(["manifold-diffusion", "probe", *argv])
    facts = Facts(
        given["model"], model.manifold, type(model.process).__name__, name, len(train), given["seed"], command
    )
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder} can't be made: {error.strerror or error}.") from error
    place = Path(given["model"]).absolute()
    called = place.parent.name if place.name == "model" else place.name
    pictures = _draw(found, folder, f"{called}, {model.manifold}", model.manifold)
    for name in set(_PICTURES.values()) - set(pictures.values()):  # of an earlier report
        (folder / name).unlink(missing_ok=True)
    text = report_text(facts, found, pictures)
    write_text(folder / "report.md", text)
    versions = {"manifold_diffusion": __version__, "torch": torch.__version__}
    write_text(folder / "report.json", json.dumps({**numbers(facts, found), "versions": versions}, indent=2) + "\n")
    print(text.split("\n## ", 1)[0].rstrip())
    print(f"\nreport saved to {folder / 'report.md'}")
    return 0


def _points(given: Mapping[str, Any], model: GenerativeModel, cond: Tensor | None) -> tuple[str, Tensor, Tensor]:
    """Name of the data, training points and test points: from two files, or from the split of the training."""
    paths = [given["train"], given["test"]]
    if paths == [None, None]:
        data = load_data(data_options(given["data"], model), model.manifold, getattr(model.network, "cond_dim", 0))
        parts = []
        for part in (data.train, data.test):
            x = part.x
            if cond is not None and part.cond is not None:
                x = x[(part.cond.to(cond) == cond).all(1).cpu()]
            parts.append(x)
        train, test = parts
        name = data.name
    else:
        if None in paths:
            raise ConfigError("--train and --test go together: give both files, or neither for the model's own split.")
        if given["data"].get("path") is not None:
            raise ConfigError("Give either --train and --test, or --data, whose split says which points are which.")
        if Path(paths[0]).resolve() == Path(paths[1]).resolve():
            raise ConfigError(
                "--train and --test are the same file: test points must be points the model has not seen."
            )
        train, test = (read_points(path, model.manifold, given["data"]).points for path in paths)
        name = Path(paths[1]).stem
    for what, x in (("training", train), ("test", test)):
        if len(x) < 2:
            raise DataError(f"{name}: there are {len(x)} {what} points; a probe needs at least 2.")
    return name, train, test


def _draw(found: ModelProbe, folder: Path, title: str, manifold: Manifold) -> dict[str, str]:
    """Write the pictures; returns their files by what they show."""
    from ..plotting import NoisePanel, plot_coverage, plot_noise_panels, plot_regions, plot_training_distances

    files, dim = {}, manifold.dim
    dimension = {"held-out points": found.held_out_dimension, "training points": found.train_dimension}
    curves = {k: (p.tau, p.values) for k, p in dimension.items() if p is not None}
    panels = []
    if curves:
        least = min(float(values.median(1).values.min()) for _, values in curves.values())
        limits = max(-dim, min(0.0, least - 0.05 * dim)), 1.5 * dim
        panels.append(NoisePanel("local intrinsic dimension", curves, {"manifold": dim}, limits=limits))
    if found.effective_size is not None:
        curves = {"noised training points": (found.effective_size.tau, found.effective_size.values)}
        size = found.train_size
        panels.append(NoisePanel("effective sample size", curves, {"all": size}, log=True, limits=(0.8, 1.6 * size)))
    if panels:
        files["noise"] = _PICTURES["noise"]
        plot_noise_panels(panels, title=title, path=folder / files["noise"])
    distances = {
        "held-out": found.memorisation.held_out_distances,
        "samples": found.memorisation.sample_distances,
        "copies": found.copies.sample_distances,
    }
    if any(bool((d > 0).any()) for d in distances.values()):
        files["distances"] = _PICTURES["distances"]
        plot_training_distances(distances, title=title, path=folder / files["distances"])
    files["coverage"] = _PICTURES["coverage"]
    plot_coverage(found.density.levels, len(found.samples), title=title, path=folder / files["coverage"])
    if found.regions is not None:
        files["regions"], regions = _PICTURES["regions"], found.regions
        plot_regions(
            manifold,
            regions.centres,
            regions.sample_shares,
            regions.held_out_shares,
            regions.z,
            int(regions.held_out_counts.sum()),
            points=found.samples,
            title=title,
            path=folder / files["regions"],
        )
    return files


class _Progress:
    """Names the parts of the work on standard error, with the time that each took."""

    def __init__(self) -> None:
        self._stage, self._start = 0, time.perf_counter()

    def __call__(self, name: str) -> None:
        self.done()
        self._stage, self._start = self._stage + 1, time.perf_counter()
        print(f"[{self._stage}/{_STAGES}] {name} ...", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        """Finish the line of the last part."""
        if self._stage:
            print(f" {time.perf_counter() - self._start:.1f} s", file=sys.stderr, flush=True)
