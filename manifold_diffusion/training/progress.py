"""A progress bar that costs nothing: it looks at the loss only when it is drawn."""

from __future__ import annotations

import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from .callbacks import KeepBest
from .module import TrainingModule

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Shows steps, smoothed loss, validation, steps and points per second; plain lines where there is no terminal.

    Reading the loss makes the program wait for the device, so it is read at most ``rate`` times a second. The loss
    shown is smoothed over the last seconds.

    Args:
        max_steps: number of steps of the run, or -1.
        batch_size: points per step.
        best: what knows the best step so far, to show it.
        rate: drawings per second.
        line_every: seconds between two lines where the output is not a terminal.
    """

    def __init__(
        self,
        max_steps: int = -1,
        batch_size: int = 1,
        *,
        best: KeepBest | None = None,
        rate: float = 4.0,
        line_every: float = 10.0,
    ) -> None:
        self.max_steps, self.batch_size, self._best = max_steps, batch_size, best
        self._is_terminal = sys.stderr.isatty() or "ipykernel" in sys.modules
        self._pause = 1.0 / rate if self._is_terminal else line_every
        self._bar: Any = None
        self._loss: float | None = None
        self._next = self._shown_at = 0.0
        self._shown_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar."""
        if not trainer.is_global_zero:
            self._next = float("inf")
            return
        self._shown_step, self._shown_at = trainer.global_step, time.monotonic()
        self._next = self._shown_at + self._pause
        if self._is_terminal:
            from tqdm.auto import tqdm

            total = None if self.max_steps < 0 else self.max_steps
            self._bar = tqdm(total=total, initial=trainer.global_step, unit="step", desc="train", dynamic_ncols=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw if it is time to."""
        if time.monotonic() >= self._next:
            self._show(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the new value."""
        if self._next < float("inf") and not trainer.sanity_checking:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close(trainer, pl_module)

    def _show(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now, step = time.monotonic(), trainer.global_step
        fields = self._fields(trainer, pl_module)
        rate = (step - self._shown_step) / max(now - self._shown_at, 1e-9)
        if rate > 0:
            fields["points/s"] = f"{rate * self.batch_size:.3g}"
        if self._bar is not None:
            self._bar.set_postfix(fields, refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()
        else:
            total = "" if self.max_steps < 0 else f"/{self.max_steps}"
            text = "  ".join(f"{name} {value}" for name, value in fields.items())
            print(f"step {step}{total}  {text}", file=sys.stderr, flush=True)
        self._shown_step, self._shown_at, self._next = step, now, now + self._pause

    def _fields(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, str]:
        fields = {}
        if isinstance(pl_module, TrainingModule) and pl_module.smooth_loss is not None:
            fields["loss"] = f"{pl_module.smooth_loss.item():.4g}"
        for name in ("val_loss", "val_metric"):
            if name in trainer.callback_metrics:
                fields[name] = f"{float(trainer.callback_metrics[name]):.4g}"
        if self._best is not None and self._best.best_step is not None:
            fields["best"] = f"{self._best.best_value:.4g}@{self._best.best_step}"
        return fields

    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._show(trainer, pl_module)
            self._bar.close()
            self._bar = None
