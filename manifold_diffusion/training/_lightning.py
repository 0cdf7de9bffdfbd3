"""Lightning without its noise, and Ctrl-C without a half-done step."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pytorch_lightning import Trainer
from pytorch_lightning.utilities.warnings import PossibleUserWarning

__all__ = ["StopRequest", "TrainingStopped", "any_rank", "quiet_lightning", "stop_on_interrupt", "will_validate"]

_PREFIXES = ("pytorch_lightning", "lightning_fabric", "lightning_utilities")


class TrainingStopped(Exception):
    """Training was asked to stop and did so between two steps."""


class StopRequest:
    """Says whether the user asked for training to stop, or a scheduler did."""

    def __init__(self) -> None:
        self.requested = self.terminated = False


@contextmanager
def stop_on_interrupt() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C into a request to stop after the present step; the second raises as ever.

    An interrupt in the middle of a step would leave weights, moments and noise of different steps. Signals
    reach the main thread only; in another thread this does nothing.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handler(signum: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True

    previous = signal.signal(signal.SIGINT, handler)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Drop Lightning's tips, device reports and advice within a ``with`` block; errors and other libraries pass."""

    def only_errors(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    names = [name for name in list(logging.root.manager.loggerDict) if name.startswith(_PREFIXES)]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(only_errors)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            warnings.filterwarnings("ignore", message=".*available but not used.*")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.. is deprecated.*")
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(only_errors)


def will_validate(trainer: Trainer) -> bool:
    """Say, at the end of a training batch, whether validation follows it."""
    every = trainer.val_check_batch
    due = trainer.should_stop or (every is not None and (trainer.fit_loop.total_batch_idx + 1) % every == 0)
    return trainer.enable_validation and due


def any_rank(trainer: Trainer, flag: bool) -> bool:
    """Say whether any process raised a flag, the same answer on all: processes must leave a loop together.

    With several processes they agree every tenth step only, for agreeing makes them wait for each other.
    """
    if trainer.world_size == 1:
        return flag
    if trainer.global_step % 10:
        return False
    return trainer.strategy.reduce_boolean_decision(flag, all=False)
