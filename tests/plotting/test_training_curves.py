"""Curves of a training log, and logs that are refused."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from manifold_diffusion._errors import DataError
from manifold_diffusion.plotting import plot_training


def test_training_curves_of_a_csv_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train_loss,samples_per_s,val_metric\n1,2.0,,\n2,1.0,100,\n3,,,0.4\n4,0.5,120,0.3\n")
    figure = plot_training(path, title="Run", path=tmp_path / "run.png")
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "metric", "throughput [1/s]"]
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xydata(), [[1, 2], [2, 1], [4, 0.5]])
    assert matplotlib.image.imread(tmp_path / "run.png").size > 0


def test_loss_that_became_nan_is_marked() -> None:
    figure = plot_training({"step": [0, 10, 20, 30], "loss": [1.0, 0.5, math.nan, math.nan]})
    assert "not finite from step 20" in figure.axes[0].texts[0].get_text()


def test_bad_training_logs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with pytest.raises(DataError, match="There is no file"):
        plot_training(path)
    path.write_text("step,loss\n1,2.0\n2,two\n")
    with pytest.raises(DataError, match="line 3: column loss is 'two'"):
        plot_training(path)
    path.write_text("step,loss\n")
    with pytest.raises(DataError, match="no row"):
        plot_training(path)
    with pytest.raises(DataError, match=r"no curve to draw.*lr"):
        plot_training({"lr": [1.0]})
    with pytest.raises(DataError, match="3 values, and there are 2 steps"):
        plot_training({"step": [1, 2], "loss": [1.0, 2.0, 3.0]})
