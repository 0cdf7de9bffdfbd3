"""Panels keep the colour of a name, and refuse curves that can't be drawn."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import DataError
from manifold_diffusion.plotting import Panel, plot_panels


def test_panels_share_their_colours(tmp_path: Path) -> None:
    t = torch.linspace(0, 1, 9)
    panels = [Panel("t", "a", {"x": (t, t), "y": (t, 1 - t)}), Panel("t", "b", {"y": (t, t**2)}, 0.5, "half")]
    figure = plot_panels(panels, dots=["x"], title="Panels", path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    first, second = figure.axes
    lines = {line.get_label(): line for line in first.lines}
    assert lines["x"].get_marker() == "o" and lines["y"].get_marker() == "None"
    assert lines["x"].get_color() != lines["y"].get_color() == second.lines[0].get_color()
    assert np.allclose(second.lines[0].get_ydata(), (t**2).numpy())
    assert [text.get_text() for text in second.texts] == ["half"]
    assert [text.get_text() for text in figure.legends[0].texts] == ["x", "y"]


def test_bad_curves_are_refused() -> None:
    t = torch.zeros(3)
    with pytest.raises(DataError, match="nothing to draw"):
        plot_panels([])
    with pytest.raises(DataError, match=r"curve a of 'y'.*\(3,\) and \(2,\)"):
        plot_panels([Panel("x", "y", {"a": (t, t[:2])})])
    with pytest.raises(DataError, match="finite"):
        plot_panels([Panel("x", "y", {"a": (t, t + math.nan)})])
