"""Metrics in one CSV file that survives a killed and resumed run."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from .._files import replacing

__all__ = ["CSVLog"]


class CSVLog(Logger):
    """Writes one row per call of ``log_metrics``, at once; new names become new columns.

    (Lightning's own CSV logger starts a new file when a run is resumed, and loses rows when it is killed.)

    Args:
        path: the file.
        resume_step: drop rows of later steps than this from an existing file and append; None to start a new file.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self._resume_step = resume_step
        self._columns: list[str] | None = None
        self._failed = False

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def version(self) -> int:
        """There is one version only."""
        return 0

    @property
    def experiment(self) -> None:
        """There is nothing behind the file."""
        return None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the configuration is saved beside the file."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        try:
            if self._columns is None:
                self._open()
            row = {"step": step, **{name: float(value) for name, value in metrics.items()}}
            self._extend(row)
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self._columns or []).writerow(row)
        except OSError as error:  # a metric is not worth a run
            if not self._failed:
                warnings.warn(f"can't write metrics to {self.path}: {error}. Training goes on.", stacklevel=2)
            self._failed = True

    def _open(self) -> None:
        rows, columns = self._read()
        kept = [row for row in rows if int(row["step"]) <= (self._resume_step or 0)]
        self._rewrite(kept, columns)

    def _extend(self, row: Mapping[str, Any]) -> None:
        new = [name for name in row if name not in (self._columns or [])]
        if new:
            rows, columns = self._read()
            self._rewrite(rows, columns + new)

    def _read(self) -> tuple[list[dict[str, str]], list[str]]:
        if not self.path.exists() or (self._columns is None and self._resume_step is None):
            return [], ["step"]
        with open(self.path, newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ["step"])
            # The last line of a killed run may be cut off.
            rows = [row for row in reader if str(row.get("step", "")).isdigit() and None not in row.values()]
        return rows, columns

    def _rewrite(self, rows: list[dict[str, str]], columns: list[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as draft, open(draft, "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
