"""Checkpoints for resuming: written whole or not at all, read without running anything that is in them."""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from .._config import differences
from .._errors import CheckpointError
from .._files import write_bytes
from ._lightning import TrainingStopped, will_validate
from .callbacks import KeepBest
from .module import CHECKPOINT_KEY

__all__ = ["POINTS", "AtomicCheckpointIO", "Checkpoints", "check_compatible", "read_checkpoint"]

POINTS: Mapping[str, Literal["train", "val"]] = {"training points": "train", "validation points": "val"}
"""What a checkpoint calls the digests of the parts of the data."""
_NEW = (*POINTS, "warmup_steps", "final_fraction")
"""What checkpoints have not always held."""


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint beside its place and renames it: a crash or a full disk leaves the previous one.

    (Lightning's own writer collects the file in the system's temporary folder, from where it has to be copied when
    that is another file system.)

    Attributes:
        failure: the error of the last attempt to write, or None. A failure does not raise, because with several
            processes only one of them would know of it, and because weights are worth more than a file.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, or leave everything as it was and set ``failure``."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        self.failure = None
        try:
            write_bytes(Path(path), buffer.getbuffer())
        except OSError as error:
            self.failure = error

    def load_checkpoint(self, path: str | Path, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Read a checkpoint; see :func:`read_checkpoint`."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class Checkpoints(Checkpoint):
    """Keeps ``last.ckpt`` and, with validation, ``best.ckpt`` in a folder.

    ``last.ckpt`` is written after every validation, every ``every`` steps, at the end, and when training is asked
    to stop. A checkpoint that can't be written is reported and training goes on; the previous one stays.

    Args:
        folder: where to write; it must exist.
        writer: the writer that the trainer uses.
        every: steps between two checkpoints.
        best: what knows the best step.
    """

    def __init__(
        self, folder: Path, writer: AtomicCheckpointIO, *, every: int = 1000, best: KeepBest | None = None
    ) -> None:
        self.last, self.best = folder / "last.ckpt", folder / "best.ckpt"
        self.every = max(1, every)
        self._writer, self._keep_best = writer, best
        self._saved_step = -1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Don't save again what was just loaded; a new run does away with the best of an old one."""
        self._saved_step = trainer.global_step
        if trainer.global_step == 0 and trainer.is_global_zero:
            self.best.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save from time to time; a step that is validated is saved after its validation."""
        step = trainer.global_step
        due = step % self.every == 0 or trainer.should_stop
        if due and step != self._saved_step and not will_validate(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after validation."""
        if not trainer.sanity_checking:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save when training was stopped between two steps; after any other exception the state can't be trusted."""
        if isinstance(exception, TrainingStopped | SIGTERMException) and trainer.global_step != self._saved_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write ``last.ckpt``, and ``best.ckpt`` if this step is the best."""
        trainer.save_checkpoint(self.last)  # on all processes: it ends with a barrier
        if not trainer.is_global_zero:
            self._saved_step = trainer.global_step
            return
        failure = self._writer.failure
        if failure is None:
            self._saved_step = trainer.global_step
            if self._keep_best is not None and self._keep_best.best_step == trainer.global_step:
                try:
                    write_bytes(self.best, self.last.read_bytes())
                except OSError as error:
                    failure = error
        if failure is not None:
            warnings.warn(
                f"step {trainer.global_step}: the checkpoint could not be written: {failure}. Training goes on and its "
                f"weights are in memory; the previous checkpoint, if any, is still in {self.last.parent}. "
                "Free some space or make the folder writable: the next attempt comes by itself.",
                stacklevel=2,
            )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a training run, on the CPU, without unpickling anything but tensors and plain values.

    Args:
        path: a ``.ckpt`` file.

    Returns:
        Its contents.

    Raises:
        CheckpointError: there is no such file, it is truncated or altered, or it is not from :func:`fit`.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no checkpoint {str(path)!r}. Check the path, or start without resume."
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"can't read the checkpoint {str(path)!r}: it is truncated, altered, or not a checkpoint ({reason}). "
            "Resume from another one, such as best.ckpt beside last.ckpt (by its path in Python; for the command line "
            "copy it over last.ckpt), or start without resume."
        ) from error
    if not isinstance(checkpoint, dict) or CHECKPOINT_KEY not in checkpoint or "state_dict" not in checkpoint:
        raise CheckpointError(f"{str(path)!r} is not a checkpoint that this library's training wrote.")
    return checkpoint


def check_compatible(
    checkpoint: Mapping[str, Any], path: str | Path, fingerprint: Mapping[str, Any], module: nn.Module
) -> None:
    """Check that a checkpoint was made by the same kind of run.

    Args:
        checkpoint: contents of the checkpoint.
        path: its path, for the message.
        fingerprint: what this run is.
        module: the training module that would be restored.

    Raises:
        CheckpointError: naming what differs.
    """
    unsaid = {name: fingerprint[name] for name in _NEW if name in fingerprint}  # by older checkpoints
    found = [
        f"{name}: the checkpoint has {saved!r}, this run has {own!r}"
        for name, saved, own in differences({**unsaid, **checkpoint[CHECKPOINT_KEY]["fingerprint"]}, fingerprint)
    ]
    shapes = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found += [
        f"{name}: the checkpoint has shape {shapes.get(name)}, this run has {own.get(name)}"
        for name in sorted({*shapes, *own})
        if shapes.get(name) != own.get(name)
    ]
    if found:
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise CheckpointError(
            f"the checkpoint {str(path)!r} belongs to another run: {'; '.join(found[:5])}{more}. "
            "Resume with the same settings, or start a new run (for other settings, load the weights instead)."
        )


def check_writable(folder: Path) -> None:
    """Make a folder and check that a file can be written there.

    Raises:
        CheckpointError: it can't.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / "probe", b"probe" * 1000)
        (folder / "probe").unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CheckpointError(
            f"can't write to out_dir {str(folder)!r}: {error}. Training was not started. "
            "Choose a folder that you may write to, free some space, or leave out_dir out."
        ) from error
    if free < 1 << 20:
        raise CheckpointError(f"the disk of out_dir {str(folder)!r} is full ({free} bytes left). Free some space.")
