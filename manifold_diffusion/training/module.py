"""One LightningModule for anything that has a loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from .._errors import ConfigError, NumericsError
from .._typing import Batch
from ._seeds import stream_seed
from .schedule import LearningRateSchedule

__all__ = ["HasLoss", "HistoryRow", "TrainingModule"]

CHECKPOINT_KEY = "manifold_diffusion"
_NEVER = torch.iinfo(torch.int64).max


class HasLoss(Protocol):
    """What the training layer asks of an objective."""

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Return the mean loss over the batch, a scalar."""
        ...


@dataclass
class _Window:
    """What was summed since the last training row."""

    losses: int = 0
    points: int = 0
    logged_step: int = -1
    loss_sum: float = 0.0  # only as saved: the running sum is a tensor on the device of the network


@dataclass(frozen=True)
class HistoryRow:
    """What was measured at one step; None for what was not measured there.

    Attributes:
        step: number of optimiser steps taken.
        elapsed: seconds of training up to then, interruptions left out.
        train_loss: mean loss since the last training row.
        learning_rate: learning rate of the last step.
        samples_per_s: points per second since the last training row, over all processes.
        val_loss: loss on the validation data, averaged weights, always with the same noise.
        val_metric: value of the metric that the user gave.
    """

    step: int
    elapsed: float
    train_loss: float | None = None
    learning_rate: float | None = None
    samples_per_s: float | None = None
    val_loss: float | None = None
    val_metric: float | None = None


class TrainingModule(LightningModule):
    r"""Trains a network on an objective with AdamW.

    The noise of step k on process r comes from a generator that the module owns and seeds with ``(seed, r, k)``. Noise
    therefore differs between steps and between processes, and a resumed run continues its stream exactly: the state
    of the stream is its address, and that is in the checkpoint. Validation always uses the same noise, so
    that its values can be compared. Only what the objective draws from ``generator`` is covered: dropout
    draws from torch's global generator, which is left alone.

    The loss is the mean over the local batch; with equal local batches the average of the gradients
    over processes is the gradient of the joint batch.

    Args:
        network: the network, called by the objective.
        objective: anything with ``loss(network, batch, generator=)``; its parameters are trained too if it is a module.
            Where it has ``needs_graph = False``, validation keeps no graph.
        lr: peak learning rate.
        betas: decay rates of AdamW's moments.
        weight_decay: decoupled weight decay.
        schedule: learning rate over its peak; None for a constant one.
        seed: seed of the noise.
        val_metric: function of the network (averaged weights, evaluation mode) computed after each validation, such
            as an exact likelihood; lower is better.
        fingerprint: what a checkpoint must agree with to be resumed (plain values).
        log_every: number of steps between two rows of training metrics.

    Raises:
        ConfigError: an argument is out of range.

    Example:
        >>> class Squares:
        ...     def loss(self, network, batch, generator=None):
        ...         return network(batch.x).square().mean()
        >>> module = TrainingModule(nn.Linear(3, 3), Squares(), lr=1e-3)
        >>> module.training_step(Batch(torch.ones(4, 3)), 0).shape
        torch.Size([])

    References:
        Decoupled Weight Decay Regularization, 2017 (arXiv 1711.05101).
    """

    def __init__(
        self,
        network: nn.Module,
        objective: HasLoss,
        *,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: LearningRateSchedule | None = None,
        seed: int = 0,
        val_metric: Callable[[nn.Module], float] | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        log_every: int = 50,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise ConfigError(f"network must be an nn.Module, got {type(network).__name__}: {network!r}.")
        if not callable(getattr(objective, "loss", None)):
            raise ConfigError(
                f"objective must have a method loss(network, batch, generator=), got {type(objective).__name__}."
            )
        if not lr > 0 or not weight_decay >= 0:
            raise ConfigError(f"lr must be positive and weight_decay at least 0, got {lr} and {weight_decay}.")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"betas must be two decay rates in [0, 1), got {betas}.")
        self.network = network
        self.objective = objective
        self.lr, self.betas, self.weight_decay = lr, betas, weight_decay
        self.schedule = schedule or LearningRateSchedule("constant")
        self.seed = seed
        self.val_metric = val_metric
        self.fingerprint = dict(fingerprint or {})
        self.log_every = max(1, log_every)
        self.history: list[HistoryRow] = []
        self.smooth_loss: Tensor | None = None
        """Loss averaged over about the last 50 steps, on its device: reading it waits for the last step."""
        self._generator: torch.Generator | None = None
        self._elapsed_before = 0.0
        self._started: float | None = None
        self._clock: float | None = None
        self._window = _Window()
        self._val_sum, self._val_count = 0.0, 0

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute."""
        # Lightning sets this name before and after each of some twenty hooks a step, and nn.Module's look whether
        # it is a parameter would be a tenth of the cost of the whole loop.
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # Noise and time

    def generator(self, *address: int) -> torch.Generator:
        """Return the module's generator at the start of the stream with the given address."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(device=self.device)
        return self._generator.manual_seed(stream_seed(self.seed, *address))

    def elapsed(self) -> float:
        """Return the seconds of training so far, those of the runs it was resumed from included."""
        return self._elapsed_before + (time.monotonic() - self._started if self._started is not None else 0.0)

    # Training

    def configure_optimizers(self) -> Any:
        """AdamW over everything trainable, with the schedule applied every step."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError("the network has no parameter to train: all have requires_grad=False, or there is none.")
        optimizer = torch.optim.AdamW(
            parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=self._can_fuse(parameters)
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule.factor(step, self._common_clock(step))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Start the clock and the running sums."""
        self._started = self._window_started = time.monotonic()
        self._loss_sum = torch.tensor(self._window.loss_sum, device=self.device)
        self._first_bad = torch.full((), _NEVER, dtype=torch.int64, device=self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss over the batch.

        Raises:
            NumericsError: the loss is not finite.
        """
        step = self.global_step
        if self._started is not None and step % self.log_every == 0:
            self._log_window(step)
        # Batches of one accumulated gradient need noise of their own, hence the index of the batch.
        loss = self.objective.loss(self.network, batch, generator=self.generator(1, self.global_rank, step, batch_idx))
        detached = loss.detach()
        self.smooth_loss = detached.clone() if self.smooth_loss is None else self.smooth_loss.lerp_(detached, 0.02)
        if self._started is None:  # called without a trainer
            return loss
        self._loss_sum += detached
        self._window.losses += 1
        self._window.points += len(batch.x)
        if detached.device.type == "cpu":
            if not math.isfinite(detached.item()):
                raise _not_finite(f"the training loss is {detached.item()}", step, self._current_lr())
        else:  # remember where it happened, look at it later: no waiting for the device
            bad = torch.where(torch.isfinite(detached), _NEVER, step)
            self._first_bad = torch.minimum(self._first_bad, bad)
        return loss

    def on_train_end(self) -> None:
        """Log what has not been logged."""
        self._log_window(self.global_step)

    def check_finite(self) -> None:
        """Raise if a loss or a weight is not finite.

        Raises:
            NumericsError: with the step at which it happened.
        """
        first_bad = int(self._first_bad)
        if first_bad != _NEVER:
            raise _not_finite("the training loss is not finite", first_bad, self._current_lr())
        weights = [p.detach() for p in self.parameters() if p.requires_grad]
        if not math.isfinite(sum(norm.double() for norm in torch._foreach_norm(weights))):
            raise _not_finite("a weight is not finite (its gradient was not)", self.global_step, self._current_lr())

    # Validation

    def on_validation_epoch_start(self) -> None:
        """Go back to the start of the noise that every validation uses."""
        self._val_sum, self._val_count, self._val_started = 0.0, 0, time.monotonic()
        self._val_generator = torch.Generator(device=self.device).manual_seed(stream_seed(self.seed, 2))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss of the batch to the mean over the points."""
        # A loss may need derivatives of the network, as implicit score matching does.
        with torch.set_grad_enabled(getattr(self.objective, "needs_graph", True)):
            loss = self.objective.loss(self.network, batch, generator=self._val_generator)
        self._val_sum += loss.item() * len(batch.x)
        self._val_count += len(batch.x)

    def on_validation_epoch_end(self) -> None:
        """Log the validation loss, and the metric if there is one.

        Raises:
            NumericsError: one of them is not finite.
        """
        val_loss = self._val_sum / max(self._val_count, 1)
        val_metric = None
        if self.val_metric is not None:
            with torch.enable_grad():
                val_metric = float(self.val_metric(self.network))
        for name, value in (("val_loss", val_loss), ("val_metric", val_metric)):
            if value is not None and not math.isfinite(value):
                raise _not_finite(f"{name} is {value}", self.global_step, self._current_lr())
            if value is not None:  # every process evaluates everything: nothing to reduce
                self.log(name, value, logger=False, batch_size=1)
        if self._started is not None and not self.trainer.sanity_checking:
            self._record(HistoryRow(self.global_step, self.elapsed(), val_loss=val_loss, val_metric=val_metric))
            self._window_started += time.monotonic() - self._val_started  # throughput is that of training alone

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what belongs to this module; weights that are not finite are not saved.

        Raises:
            NumericsError: a loss or a weight is not finite.
        """
        self.check_finite()
        checkpoint[CHECKPOINT_KEY] = {
            "fingerprint": self.fingerprint,
            "seed": self.seed,
            "elapsed": self.elapsed(),
            "history": [asdict(row) for row in self.history],
            "window": asdict(replace(self._window, loss_sum=self._loss_sum.item())),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the noise stream, the clock and the history."""
        saved = checkpoint[CHECKPOINT_KEY]
        self.seed = saved["seed"]
        self._elapsed_before = saved["elapsed"]
        self.history = [HistoryRow(**row) for row in saved["history"]]
        self._window = _Window(**saved["window"])

    # Internals

    def _log_window(self, step: int) -> None:
        # Called as step + 1 begins, after the checkpoint of this step, which therefore holds the sums: a resumed run
        # logs the same row.
        if not self._window.losses or self._window.logged_step == step:
            return
        self.check_finite()
        now = time.monotonic()
        row = HistoryRow(
            step=step,
            elapsed=self.elapsed(),
            train_loss=self._loss_sum.item() / self._window.losses,
            learning_rate=self._current_lr(),
            samples_per_s=self._window.points * self.trainer.world_size / max(now - self._window_started, 1e-9),
        )
        self._loss_sum.zero_()
        self._window = _Window(logged_step=step)
        self._window_started = now
        self._record(row)

    def _common_clock(self, step: int) -> float:
        """Seconds of training, the same on all processes: other learning rates would drive their weights apart."""
        if not self.schedule.max_time:
            return 0.0
        if self._trainer is None or self.trainer.world_size == 1:
            return self.elapsed()
        if self._clock is None or step % 10 == 0:
            self._clock = self.trainer.strategy.broadcast(self.elapsed())
        return self._clock

    def _can_fuse(self, parameters: list[nn.Parameter]) -> bool | None:
        # One kernel for the whole update: three times as fast on the CPU as a loop over the parameters. In mixed
        # precision Lightning can't clip gradients for it.
        scaled = self._trainer is not None and "mixed" in str(self._trainer.precision)
        fits = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
        return True if fits and not scaled else None

    def _current_lr(self) -> float:
        trainer = self._trainer
        return trainer.optimizers[0].param_groups[0]["lr"] if trainer is not None and trainer.optimizers else self.lr

    def _record(self, row: HistoryRow) -> None:
        self.history.append(row)
        values = {name: value for name, value in asdict(row).items() if value is not None and name != "step"}
        for logger in self.loggers:
            logger.log_metrics(values, step=row.step)


def _not_finite(what: str, step: int, lr: float) -> NumericsError:
    return NumericsError(
        f"{what} at step {step} (learning rate {lr:.3g}); expected a finite number. Nothing was skipped, and no "
        "checkpoint was written since. Try a smaller lr or gradient_clip, a longer warmup, a larger smallest noise "
        "level, or float64; torch.autograd.set_detect_anomaly(True) names the operation."
    )
