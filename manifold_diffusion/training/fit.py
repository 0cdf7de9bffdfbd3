"""Train a network on an objective: everything that a run needs around the two."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from .._errors import CheckpointError, ConfigError
from ._lightning import StopRequest, TrainingStopped, quiet_lightning, stop_on_interrupt
from .callbacks import KeepBest, RunLimits
from .checkpoint import POINTS, AtomicCheckpointIO, Checkpoints, check_compatible, check_writable, read_checkpoint
from .csv_log import CSVLog
from .datamodule import ManifoldDataModule, as_data_module
from .ema import EMA
from .module import CHECKPOINT_KEY, HasLoss, HistoryRow, TrainingModule
from .progress import ProgressBar
from .schedule import LearningRateSchedule

if TYPE_CHECKING:
    from ..manifolds import Manifold

__all__ = ["FitResult", "fit"]

_DEFAULT_STEPS = 3000
_DEFAULT_WARMUP = 100
_DEFAULT_VAL_EVERY = 500


@dataclass(frozen=True)
class FitResult:
    """What a run came to. The weights are in the network.

    Attributes:
        steps: number of optimiser steps taken, those of the runs it was resumed from included.
        stopped_by: ``"max_steps"``, ``"max_time"``, ``"patience"`` or ``"interrupt"``.
        elapsed: seconds of training and validation.
        kept: ``"best"`` or ``"last"``: which weights are in the network (averaged ones, if there is an average).
        monitor: what the best step was chosen by, or None without validation.
        best_step: step of the best validation, or None.
        best_value: value of ``monitor`` there, or None.
        train_loss: last training loss, a mean over some steps, or None.
        val_loss: last validation loss, or None.
        history: all that was measured, in order.
        path: the checkpoint to resume from, or None.
        best_path: the checkpoint of the best step, or None.
    """

    steps: int
    stopped_by: str
    elapsed: float
    kept: str
    monitor: str | None
    best_step: int | None
    best_value: float | None
    train_loss: float | None
    val_loss: float | None
    history: tuple[HistoryRow, ...]
    path: Path | None
    best_path: Path | None

    def __repr__(self) -> str:
        best = "" if self.best_step is None else f", best {self.monitor} {self.best_value:.4g} at step {self.best_step}"
        run = f"{self.steps} steps in {self.elapsed:.1f} s, stopped by {self.stopped_by}"
        return f"FitResult({run}{best}, kept {self.kept})"


def fit(
    network: nn.Module,
    objective: HasLoss,
    data: Any,
    *,
    manifold: Manifold | None = None,
    val: Any = None,
    cond: Tensor | None = None,
    val_cond: Tensor | None = None,
    max_steps: int | None = None,
    max_time: float | None = None,
    batch_size: int | None = None,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    schedule: Literal["cosine", "constant"] = "cosine",
    warmup_steps: int | None = None,
    final_fraction: float = 0.01,
    gradient_clip: float | None = 1.0,
    ema_decay: float | None = 0.999,
    val_every: int | None = None,
    val_metric: Callable[[nn.Module], float] | None = None,
    keep: Literal["best", "last"] = "best",
    patience: int | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
    out_dir: str | Path | None = None,
    resume: str | Path | bool | None = None,
    overwrite: bool = False,
    checkpoint_every: int = 1000,
    log_every: int = 50,
    progress: bool = True,
    precision: Any = None,
    accelerator: str = "auto",
    devices: Any = 1,
    strategy: Any = "auto",
    callbacks: Sequence[Callback] = (),
    fingerprint: Mapping[str, Any] | None = None,
    trainer_options: Mapping[str, Any] | None = None,
) -> FitResult:
    """Train ``network`` on ``objective`` in place, with a Lightning trainer underneath.

    Ctrl-C stops after the present step: the weights are kept and, with ``out_dir``, the checkpoint is saved; a second
    Ctrl-C interrupts as ever. SIGTERM, which schedulers send, stops there too, and raises ``SystemExit(143)``. A run
    that was stopped, killed or ran out of disk is continued with ``resume=True`` and ends, on the CPU and with
    ``max_steps``, bit for bit where the uninterrupted one ends.

    Args:
        network: the network; its weights are changed.
        objective: anything with ``loss(network, batch, generator=)``.
        data: a :class:`ManifoldDataModule`, or what its first argument may be.
        manifold: where points must lie; None to check only that they are finite.
        val: validation points.
        cond: a condition per point.
        val_cond: a condition per validation point.
        max_steps: number of optimiser steps; 3000 if neither it nor ``max_time`` is given.
        max_time: seconds; the learning rate decays by whichever limit comes first.
        batch_size: points per step, over all processes together; 512 by default.
        lr: peak learning rate of AdamW.
        betas: decay rates of its moments.
        weight_decay: decoupled weight decay.
        schedule: ``"cosine"`` decay or ``"constant"``, after a linear warm-up.
        warmup_steps: steps of warm-up; by default 100, or a tenth of a short run.
        final_fraction: last learning rate over the peak.
        gradient_clip: largest norm of a gradient; None for no clipping.
        ema_decay: decay of the moving average of the weights; None for no average.
        val_every: steps between two validations; by default a twentieth of the run, at most 500.
        val_metric: function of the network (averaged weights) to choose the best step by, lower is better; by default
            the validation loss.
        keep: leave the weights of the ``"best"`` validation in the network (the last ones without validation), or the
            ``"last"``.
        patience: stop after so many validations without progress.
        seed: seed of the order of the data and of the noise.
        generator: draws the seed instead, if given.
        out_dir: folder for ``last.ckpt``, ``best.ckpt``, ``metrics.csv`` and TensorBoard; None to write nothing.
        resume: True to continue ``out_dir/last.ckpt`` if it is there, or the path of a checkpoint.
        overwrite: allow a new run in a folder that holds one.
        checkpoint_every: steps between two checkpoints, beside those after each validation.
        log_every: steps between two rows of training metrics.
        progress: whether to show a progress bar.
        precision: Lightning's ``precision``; by default the network's own dtype.
        accelerator: Lightning's ``accelerator``, such as ``"cpu"`` or ``"gpu"``.
        devices: number of devices.
        strategy: Lightning's strategy, such as ``"ddp"``.
        callbacks: more Lightning callbacks; in validation they see averaged weights.
        fingerprint: what a checkpoint must agree with to be resumed, such as the model's configuration.
        trainer_options: more arguments of ``Trainer``.

    Returns:
        A record of the run.

    Raises:
        ConfigError: arguments that are out of range or can't be combined.
        DataError: unusable data.
        ManifoldError: a point off the manifold.
        CheckpointError: a checkpoint that is unreadable or of another run (settings, data), or a folder that can't be
            written to.
        NumericsError: a loss or weight that is not finite, with its step.

    Example:
        >>> class Mean:
        ...     def loss(self, network, batch, generator=None):
        ...         return (network(batch.x) - batch.x).square().mean()
        >>> result = fit(nn.Linear(2, 2), Mean(), torch.rand(64, 2), max_steps=5, progress=False, accelerator="cpu")
        >>> result.steps, result.stopped_by
        (5, 'max_steps')
    """
    if keep not in ("best", "last"):
        raise ConfigError(f"keep must be 'best' or 'last', got {keep!r}.")
    if max_steps is None and max_time is None:
        max_steps = _DEFAULT_STEPS
    numbers = {
        "max_steps": max_steps,
        "val_every": val_every,
        "checkpoint_every": checkpoint_every,
        "log_every": log_every,
    }
    for name, number in numbers.items():
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
            raise ConfigError(f"{name} must be an integer of at least 1, got {number!r}.")
    if gradient_clip is not None and not gradient_clip >= 0:
        raise ConfigError(f"gradient_clip must be positive, or None for no clipping; got {gradient_clip}.")
    if resume and overwrite:
        raise ConfigError("resume continues the run in out_dir, overwrite replaces it: give one of them.")
    curve_settings = {"warmup_steps": warmup_steps, "final_fraction": final_fraction}
    if warmup_steps is None:
        warmup_steps = min(_DEFAULT_WARMUP, (max_steps or 10 * _DEFAULT_WARMUP) // 10)
    curve = LearningRateSchedule(schedule, max_steps, max_time, warmup_steps, final_fraction)

    folder = None if out_dir is None else Path(out_dir)
    checkpoint_path = _find_checkpoint(folder, resume, overwrite)
    checkpoint = None if checkpoint_path is None else read_checkpoint(checkpoint_path)
    if checkpoint is not None and generator is not None:
        seed = int(checkpoint[CHECKPOINT_KEY]["seed"])
    elif generator is not None:
        seed = int(torch.randint(1 << 31, (), generator=generator, device=generator.device))

    datamodule = as_data_module(data, manifold, val=val, cond=cond, val_cond=val_cond, batch_size=batch_size, seed=seed)
    datamodule.setup("fit")
    validates = datamodule.has_validation
    for name, value in (("val_metric", val_metric), ("patience", patience)):
        if value is not None and not validates:
            raise ConfigError(f"{name} needs validation points: pass val=, or a data module with fractions.")
    if val_every is None:
        val_every = max(1, min(_DEFAULT_VAL_EVERY, (max_steps or 20 * _DEFAULT_VAL_EVERY) // 20))

    settings = {
        "manifold": None if datamodule.manifold is None else repr(datamodule.manifold),
        "lr": lr,
        "betas": list(betas),
        "weight_decay": weight_decay,
        "schedule": schedule,
        **curve_settings,
        "gradient_clip": gradient_clip,
        "ema_decay": ema_decay,
        "batch_size": datamodule.batch_size,
        "seed": seed,
        **{name: _plain(value) for name, value in (fingerprint or {}).items()},
    }
    if folder is not None or checkpoint is not None:  # hashing takes a while where there are many
        settings |= {name: datamodule.digest(part) for name, part in POINTS.items()}
    module = TrainingModule(
        network,
        objective,
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
        schedule=curve,
        seed=seed,
        val_metric=val_metric,
        fingerprint=settings,
        log_every=log_every,
    )
    if checkpoint is not None and checkpoint_path is not None:
        check_compatible(checkpoint, checkpoint_path, settings, module)
    if folder is not None:
        check_writable(folder)

    best = KeepBest("val_loss" if val_metric is None else "val_metric", patience=patience) if validates else None
    ema = None if ema_decay is None else EMA(ema_decay, apply_at_end=False)
    resume_step = None if checkpoint is None else int(checkpoint["global_step"])
    original_device, was_training = next(iter(module.parameters())).device, network.training
    if not was_training:  # Lightning leaves the mode alone
        network.train()
    with stop_on_interrupt() as request, quiet_lightning():
        limits = RunLimits(max_time, request)
        writer = AtomicCheckpointIO()
        bar = ProgressBar(max_steps or -1, datamodule.batch_size, best=best) if progress else None
        saver = None if folder is None else Checkpoints(folder, writer, every=checkpoint_every, best=best)
        # Order matters: what looks at averaged weights after validation comes before the EMA, what raises comes last.
        chain = [best, bar, *callbacks, ema, limits, saver]
        options: dict[str, Any] = {
            "accelerator": accelerator,
            "devices": devices,
            "strategy": strategy,
            "precision": precision,
            "max_steps": -1 if max_steps is None else max_steps,
            "max_epochs": -1,
            "gradient_clip_val": gradient_clip,
            "val_check_interval": val_every,
            "check_val_every_n_epoch": None,
            "limit_val_batches": None if validates else 0,
            "num_sanity_val_steps": 0,
            "callbacks": [callback for callback in chain if callback is not None],
            "logger": [] if folder is None else _loggers(folder, resume_step),
            "log_every_n_steps": log_every,
            "plugins": [] if saver is None else [writer],
            "enable_checkpointing": saver is not None,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "default_root_dir": None if folder is None else str(folder),
        }
        trainer = Trainer(**{**options, **(trainer_options or {})})
        interrupted = _run(trainer, module, datamodule, checkpoint_path, request)
        steps = trainer.global_step

    kept = keep if best is not None and best.best_state is not None else "last"
    if kept == "best" and best is not None and best.best_state is not None:
        network.load_state_dict(best.best_state)
    elif ema is not None:
        network.load_state_dict(ema.ema_state_dict(network))
    network.to(original_device).train(was_training)

    path = None if saver is None or not saver.last.exists() else saver.last
    if interrupted and trainer.is_global_zero:
        how = f"Continue it with resume=True (checkpoint {path})." if path else "Give out_dir to be able to continue."
        print(f"Training was stopped at step {steps}; the network has the {kept} weights. {how}", file=sys.stderr)
    if interrupted and request.terminated:
        raise SystemExit(128 + signal.SIGTERM)
    stopped = "patience" if best is not None and best.stopped else "max_time" if limits.out_of_time else "max_steps"
    return FitResult(
        steps=steps,
        stopped_by="interrupt" if interrupted else stopped,
        elapsed=module.elapsed(),
        kept=kept,
        monitor=None if best is None else best.monitor,
        best_step=None if best is None else best.best_step,
        best_value=None if best is None or best.best_step is None else best.best_value,
        train_loss=_last(module.history, "train_loss"),
        val_loss=_last(module.history, "val_loss"),
        history=tuple(module.history),
        path=path,
        best_path=None if saver is None or not saver.best.exists() else saver.best,
    )


def _run(
    trainer: Trainer, module: TrainingModule, data: ManifoldDataModule, path: Path | None, request: StopRequest
) -> bool:
    """Run the trainer; say whether it was interrupted between two steps."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=None if path is None else str(path))
    except TrainingStopped:
        return True
    except SIGTERMException:
        request.terminated = True
        return True
    except SystemExit as error:  # what Lightning makes of a KeyboardInterrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    return False


def _find_checkpoint(folder: Path | None, resume: str | Path | bool | None, overwrite: bool) -> Path | None:
    last = None if folder is None else folder / "last.ckpt"
    if resume is True:
        if last is None:
            raise ConfigError("resume=True continues out_dir/last.ckpt: give out_dir, or the path of a checkpoint.")
        return last if last.exists() else None
    if resume:
        return Path(resume)
    if last is not None and last.exists() and not overwrite:
        raise CheckpointError(
            f"{str(folder)!r} holds a run already (last.ckpt). Continue it with resume=True, replace it with "
            "overwrite=True, or choose another out_dir."
        )
    return None


def _loggers(folder: Path, resume_step: int | None) -> list[Logger]:
    loggers: list[Logger] = [CSVLog(folder / "metrics.csv", resume_step)]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version="", purge_step=resume_step))
    return loggers


def _plain(value: Any) -> Any:
    """Make a value that a checkpoint can hold and that compares by content."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return repr(value)


def _last(history: Sequence[HistoryRow], name: str) -> float | None:
    return next((getattr(row, name) for row in reversed(history) if getattr(row, name) is not None), None)
