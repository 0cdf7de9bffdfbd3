"""``manifold-diffusion fit``: train a model from a configuration."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .._config import nearest
from .._errors import CheckpointError, ConfigError, ManifoldDiffusionError
from ..manifolds import cast_points
from ..models import GenerativeModel, LearnedDensity
from ..models.card import n_parameters
from ._yaml import read_yaml, to_yaml
from .arguments import HelpShown, new_parser, parse
from .build import build_density, build_manifold, build_model, model_section
from .files import Data, add_data_options, draw, load_data, log_density, write_text
from .names import SHORT_NAMES

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ..training import FitResult

__all__ = ["run"]

Model = GenerativeModel | LearnedDensity
_MAX_VALIDATION = 5000
_MAX_DRAWN = 2000

_NOT_OPTIONS: set[str | int] = {
    *("network", "objective", "data", "manifold", "val", "cond", "val_cond", "val_metric", "seed", "generator"),
    *("out_dir", "resume", "overwrite", "callbacks", "fingerprint"),
}
"""Arguments of :func:`manifold_diffusion.training.fit` that come from elsewhere."""


def run(argv: Sequence[str]) -> int:
    """Train a model; see ``manifold-diffusion fit --help``."""
    parser, base = _parser(), None
    try:
        given = parse(parser, argv)
        if given["resume"] and given["out_dir"] and Path(given["out_dir"], "config.yaml").exists():
            base = read_yaml(Path(given["out_dir"], "config.yaml"))
            given = parse(parser, argv, base=base)
    except HelpShown:
        return 0
    _check_trainer_options(given["trainer"]["trainer_options"])
    model: Model
    data: Data | None = None
    if given["model"].get("density") is None:
        model = build_model(given["model"], given["seed"], given["trusted"])
    else:
        model, data = _density_and_data(given)
        if base is None:  # the defaults of training are those of the density
            given = parse(parser, argv, base={"trainer": model.training_defaults})
    resolved = _resolved(given, model)
    if given["print_config"]:
        print(to_yaml(resolved), end="")
        return 0
    if data is None:
        data = load_data(resolved["data"], model.manifold, getattr(model.network, "cond_dim", 0))
    folder = Path(resolved["out_dir"] or f"runs/{data.name}")
    resolved["out_dir"] = str(folder)
    _check_folder(folder, given["resume"], given["overwrite"])
    counts = f"{data.name}: {data.counts}; {model.manifold}, "
    print(counts + n_parameters(model.network), flush=True)
    again = shlex.join(["manifold-diffusion", "fit", "--out_dir", str(folder), "--resume"])
    try:
        result = _train(model, data, resolved, folder, given["resume"], given["overwrite"])
    except SystemExit:  # by a signal to terminate
        print(f"Terminated. Continue: {again}", file=sys.stderr)
        raise
    if result.stopped_by == "interrupt":
        print(f"Stopped at step {result.steps}. Continue: {again}", file=sys.stderr)
        return 130
    _finish(model, data, resolved, folder, result, shlex.join(["manifold-diffusion", "fit", *argv]))
    return 0


def _parser() -> ArgumentParser:
    from ..training import fit

    parser = new_parser(
        "fit",
        "[--config FILE ...] [--out_dir FOLDER] [options]",
        "Train a model. Its configuration, checkpoints, logs, pictures and the model (in model/) go to one folder.",
    )
    parser.add_argument("--model.manifold", type=Any, default="sphere:2", help=", ".join(SHORT_NAMES))
    defaults = {"process": "that of the manifold", "network": "TangentMLP", "objective": "score matching"}
    defaults["density"] = "none: LearnedKernelDensity or AutoregressiveKernelDensity, in place of the three"
    for part, default in defaults.items():
        text = f"class_path and init_args, default {default}; --model.{part}.ARGUMENT VALUE sets one argument"
        parser.add_argument(f"--model.{part}", type=Any, default=None, help=text)
    add_data_options(parser, with_defaults=True)
    parser.add_function_arguments(fit, "trainer", skip=_NOT_OPTIONS)
    every = "steps between two pictures of data and samples; 0 for none"
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights, the order of the data, the noise")
    parser.add_argument("--out_dir", type=str | None, default=None, help="folder of the run; default runs/<data>")
    parser.add_argument("--figure_every", type=int, default=1000, help=every)
    parser.add_argument("--trusted", type=list[str], default=[], help="packages of yours whose classes may be named")
    parser.add_argument("--resume", type=bool, default=False, help="continue the run in out_dir as it was configured")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace the run in out_dir")
    return parser


def _density_and_data(given: Mapping[str, Any]) -> tuple[LearnedDensity, Data]:
    manifold = build_manifold(given["model"], given["trusted"])
    data = load_data(given["data"], manifold)
    points = cast_points(manifold, data.train.x, torch.float32)
    return build_density(given["model"], points, given["seed"], given["trusted"]), data


def _resolved(given: dict[str, Any], model: Model) -> dict[str, Any]:
    """The complete configuration, without what says how to run it this time."""
    once = ("config", "print_config", "resume", "overwrite", "model")
    return {"model": model_section(model), **{k: v for k, v in given.items() if k not in once}}


def _check_trainer_options(options: Mapping[str, Any] | None) -> None:
    from pytorch_lightning import Trainer

    known = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    for name in options or {}:
        if name not in known:
            raise ConfigError(f"Unknown key 'trainer.trainer_options.{name}'{nearest(name, known)}")


def _check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError("--resume continues the run in out_dir, --overwrite replaces it: give one of them.")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out_dir {folder} is a file; name a folder.")
    held = next((name for name in ("last.ckpt", "model/config.json") if (folder / name).exists()), None)
    if held and not resume and not overwrite:
        raise CheckpointError(
            f"{folder} holds a run already ({held}). Continue it with --resume, replace it with --overwrite, or choose "
            "another --out_dir."
        )
    if resume and not (folder / "last.ckpt").exists():
        raise CheckpointError(
            f"There is no run to continue in {folder} (no last.ckpt). Check --out_dir, or leave --resume out."
        )


def _train(
    model: Model,
    data: Data,
    config: dict[str, Any],
    folder: Path,
    resume: bool,
    overwrite: bool,
) -> FitResult:
    from pytorch_lightning import Callback, LightningModule, Trainer
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    from ..training import SampleFigure

    class SaveConfig(Callback):
        """Writes the configuration when everything has been checked and training starts."""

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.is_global_zero:
                write_text(folder / "config.yaml", to_yaml(config))

    seed, options = config["seed"], dict(config["trainer"])
    own = {"seed": seed, "out_dir": folder, "resume": resume, "overwrite": overwrite}
    callbacks: list[Callback] = [SaveConfig()]
    if config["figure_every"] > 0:
        callbacks.append(SampleFigure(_drawing(model, data, seed), config["figure_every"], folder / "figures"))
    try:
        if isinstance(model, LearnedDensity):
            val = cast_points(model.manifold, data.val.x, model.network.centres) if len(data.val.x) else None
            return model.fit(val, callbacks=callbacks, **own, **options)
        val_of = {"val": data.val.x, "val_cond": data.val.cond} if len(data.val.x) else {}
        return model.fit(data.train.x, cond=data.train.cond, callbacks=callbacks, **val_of, **own, **options)
    except ManifoldDiffusionError:
        raise
    except (MisconfigurationException, ValueError) as error:  # what Lightning says of its options
        raise ConfigError(f"Training can't be run with these options of the trainer: {error}") from error


def _finish(
    model: Model,
    data: Data,
    config: dict[str, Any],
    folder: Path,
    result: FitResult,
    command: str,
) -> None:
    """Measure the validation likelihood, save the model with its card, print a summary."""
    from ..metrics import nll

    facts: dict[str, Any] = {
        "data": data.name,
        "source": data.source,
        "points": data.counts,
        "data options": config["data"],
        "seed": config["seed"],
        "steps": result.steps,
        "weights": f"{result.kept}, averaged" if config["trainer"]["ema_decay"] else result.kept,
        "seconds": round(result.elapsed, 1),
        "command": command,
    }
    mismatch = model.metadata.get("prior mismatch")
    told = f"; prior mismatch: {mismatch}" if mismatch else ""
    print(f"{result.steps} steps in {result.elapsed:.0f} s, {result.kept} weights{told}")
    model.save_pretrained(folder / "model", facts)  # before anything that may fail
    if len(data.val.x):
        like = model.like
        x = cast_points(model.manifold, data.val.x[:_MAX_VALIDATION], like)
        cond = None if data.val.cond is None else data.val.cond[: len(x)].to(like)
        estimate = nll(log_density(model.eval(), x, cond))
        facts |= {"validation NLL": estimate.value, "validation NLL standard error": estimate.standard_error}
        facts["validation points"] = len(x)
        print(f"validation NLL {estimate} nats (exact, {len(x):,} points)")
    model.save_pretrained(folder / "model", facts)
    print(f"model saved to {folder / 'model'}")


def _drawing(model: Model, data: Data, seed: int) -> Any:
    """What :class:`SampleFigure` calls: data beside as many samples."""
    from ..plotting import compare

    shown = data.val if len(data.val.x) >= 100 else data.train
    x = shown.x[:_MAX_DRAWN]
    cond = None if shown.cond is None else shown.cond[:_MAX_DRAWN]

    def figure(network: torch.nn.Module, step: int) -> Any:
        like = next(network.parameters())
        generator = torch.Generator(like.device).manual_seed(seed)
        samples = draw(model, len(x), generator, None if cond is None else cond.to(like))
        return compare(model.manifold, x, samples.cpu(), title=f"step {step}")

    return figure
