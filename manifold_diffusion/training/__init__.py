"""Layer 6: training with Lightning: a module for anything that has a loss, data, averages, checkpoints, and ``fit``."""

from .callbacks import KeepBest, RunLimits, SampleFigure
from .checkpoint import AtomicCheckpointIO, Checkpoints, read_checkpoint
from .csv_log import CSVLog
from .datamodule import ManifoldDataModule, as_data_module
from .ema import EMA
from .fit import FitResult, fit
from .loader import EvaluationLoader, TrainingLoader
from .module import HasLoss, HistoryRow, TrainingModule
from .progress import ProgressBar
from .schedule import LearningRateSchedule

__all__ = [
    "EMA",
    "AtomicCheckpointIO",
    "CSVLog",
    "Checkpoints",
    "EvaluationLoader",
    "FitResult",
    "HasLoss",
    "HistoryRow",
    "KeepBest",
    "LearningRateSchedule",
    "ManifoldDataModule",
    "ProgressBar",
    "RunLimits",
    "SampleFigure",
    "TrainingLoader",
    "TrainingModule",
    "as_data_module",
    "fit",
    "read_checkpoint",
]
