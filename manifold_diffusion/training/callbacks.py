"""Callbacks: when to stop, which weights are the best so far, pictures as training goes."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from .._errors import CheckpointError, ConfigError
from ._lightning import StopRequest, TrainingStopped, any_rank, will_validate
from .ema import EMA
from .module import TrainingModule

__all__ = ["KeepBest", "RunLimits", "SampleFigure"]


class KeepBest(Callback):
    """Keeps a copy of the weights that did best in validation, and stops when there was no progress for long.

    It must come before the EMA in the list of callbacks, so that it sees the averaged weights that were validated.

    Args:
        monitor: name of the value to watch, lower is better.
        patience: number of validations without progress after which training stops; None for never.
        min_delta: smallest decrease that counts as progress for the patience.

    Attributes:
        best_value: lowest value so far.
        best_step: step at which it was reached, or None.
        best_state: state dict of the network there.
    """

    def __init__(self, monitor: str = "val_loss", *, patience: int | None = None, min_delta: float = 0.0) -> None:
        if patience is not None and patience < 1:
            raise ConfigError(f"patience must be at least 1 validation, or None, got {patience}.")
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.best_value = float("inf")
        self.best_step: int | None = None
        self.best_state: dict[str, Tensor] | None = None
        self.stopped = False
        self._reference, self._waited = float("inf"), 0

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare with the best so far."""
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        # Processes validate the same points, but must agree to the last bit on what is best and when to stop.
        value = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        if value < self.best_value:
            self.best_value, self.best_step = value, trainer.global_step
            network = _training_module(pl_module).network
            self.best_state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        if value < self._reference - self.min_delta:
            self._reference, self._waited = value, 0
        else:
            self._waited += 1
        if self.patience is not None and self._waited >= self.patience:
            self.stopped = trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Return the best weights and what led to them."""
        return {
            "monitor": self.monitor,
            "best_value": self.best_value,
            "best_step": self.best_step,
            "best_state": self.best_state,
            "reference": self._reference,
            "waited": self._waited,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best weights so far.

        Raises:
            CheckpointError: another value was watched.
        """
        if state_dict["monitor"] != self.monitor:
            raise CheckpointError(
                f"the checkpoint keeps the best {state_dict['monitor']}, this run the best {self.monitor}. "
                "Resume with the same validation metric."
            )
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]
        self.best_state = state_dict["best_state"]
        self._reference, self._waited = state_dict["reference"], state_dict["waited"]


class RunLimits(Callback):
    """Ends training between two steps: when its time is up, when it was asked to, or with a last validation.

    Args:
        max_time: seconds of training, validation and earlier parts of a resumed run included; None for no limit.
        request: a request to stop, made by Ctrl-C.
    """

    def __init__(self, max_time: float | None = None, request: StopRequest | None = None) -> None:
        self.max_time, self.request = max_time, request or StopRequest()
        self.out_of_time = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the limits."""
        late = self.max_time is not None and _training_module(pl_module).elapsed() >= self.max_time
        if self.max_time is not None and any_rank(trainer, late):
            self.out_of_time = trainer.should_stop = True
        if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True  # what makes Lightning validate the last step, too
        if not will_validate(trainer) and any_rank(trainer, self.request.requested):
            raise TrainingStopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check for a request that had to wait for the validation."""
        if not trainer.should_stop and any_rank(trainer, self.request.requested):
            raise TrainingStopped


class SampleFigure(Callback):
    """Draws samples beside data every so many steps, with the averaged weights.

    An error in the drawing is reported as a warning, and training goes on.

    Args:
        draw: function ``(network, step) -> figure`` that samples with the network (evaluation mode) and returns a
            matplotlib figure or axes.
        every: number of steps between two pictures.
        out_dir: folder of the PNG files, made when it is needed; None to show them in TensorBoard only.

    Example:
        >>> SampleFigure(lambda network, step: None, every=500).every
        500
    """

    def __init__(
        self, draw: Callable[[nn.Module, int], Any], every: int = 1000, out_dir: str | Path | None = None
    ) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1 step, got {every}.")
        self.draw, self.every = draw, every
        self.out_dir = None if out_dir is None else Path(out_dir)
        self._drawn = -1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw when it is time."""
        step = trainer.global_step
        if step % self.every or step == self._drawn or not trainer.is_global_zero:
            return
        self._drawn = step
        network = _training_module(pl_module).network
        ema = next((callback for callback in vars(trainer)["callbacks"] if isinstance(callback, EMA)), EMA(0.0))
        modes = {part: part.training for part in network.modules()}
        network.eval()
        try:
            with ema.averaged(network), torch.no_grad():
                drawn = self.draw(network, step)
            if drawn is not None:
                self._publish(getattr(drawn, "figure", drawn), trainer, step)
        except Exception as error:  # a picture is not worth a run
            warnings.warn(
                f"no picture of step {step}: {type(error).__name__}: {error}. Training goes on.", stacklevel=2
            )
        finally:
            for part, training in modes.items():
                part.training = training

    def _publish(self, figure: Any, trainer: Trainer, step: int) -> None:
        if self.out_dir is not None:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            figure.savefig(self.out_dir / f"step-{step:07d}.png", dpi=120)
        for logger in trainer.loggers:
            add_figure = getattr(getattr(logger, "experiment", None), "add_figure", None)
            if add_figure is not None:
                add_figure("samples", figure, global_step=step)
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.close(figure)


def _training_module(module: LightningModule) -> TrainingModule:
    if not isinstance(module, TrainingModule):
        raise ConfigError(f"this callback works with a TrainingModule only, got {type(module).__name__}.")
    return module
