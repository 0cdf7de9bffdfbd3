"""Curves: the course of training, and trajectories of points on a map."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import Manifold
from .layout import Cell, finish, new_figure, place
from .registry import views
from .scene import Scene
from .views import FONT, LINE, Map, colour_bar, root_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_training", "plot_trajectory"]

PANELS = {"loss": ("loss",), "metric": ("metric", "nll", "mmd"), "throughput [1/s]": ("per_s", "throughput")}
"""Words in the names of the columns that each panel draws."""


def plot_training(
    source: str | os.PathLike[str] | Mapping[str, Sequence[float] | np.ndarray | Tensor],
    *,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Loss, metric and throughput over the steps of training.

    Columns whose name contains ``loss`` make the first panel, those with ``metric``, ``nll`` or ``mmd`` the second,
    those with ``per_s`` or ``throughput`` the third.
    Faint lines are the values, strong ones their exponential average. A loss that becomes NaN is marked where it does.

    Args:
        source: a CSV file of a run (a cell is empty where nothing was logged), or columns by name; ``step`` is the
            horizontal axis, and the row number without it.
        title: heading of the figure.
        path: file to write.

    Returns:
        The figure.

    Raises:
        DataError: the file is missing, has no row or no curve, or a cell that is not a number (the line is named).

    Example:
        >>> figure = plot_training({"step": [0, 1, 2], "train/loss": [1.0, 0.5, 0.4]})
        >>> figure.axes[0].get_xlabel()
        'step'
    """
    columns = _columns(source)
    panels = {
        label: [c for c in columns if any(word in c.lower() for word in words)] for label, words in PANELS.items()
    }
    panels = {label: names for label, names in panels.items() if names}
    if not panels:
        words = ", ".join(word for words in PANELS.values() for word in words)
        raise DataError(
            f"There is no curve to draw: no column's name contains one of {words}; got {', '.join(columns)}."
        )
    from matplotlib.ticker import MaxNLocator

    width, height = (6.0, 4.3, 4.3)[: len(panels)], 3.6
    figure, left = new_figure(sum(width), height), 0.0
    for (label, names), across in zip(panels.items(), width, strict=True):
        box = (left + 0.75, 0.55, across - 1.0, height - (1.2 if title else 0.85))
        ax = figure.add_axes((box[0] / sum(width), box[1] / height, box[2] / sum(width), box[3] / height))
        left += across
        ranges = [_curve(ax, *columns[name], name, f"C{k}") for k, name in enumerate(names)]
        low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
        pad = 0.06 * (high - low) or 0.1 * max(abs(high), 1e-3)
        ax.set_ylim(0 if label.startswith("throughput") else low - pad, high + pad)
        tidy(ax)
        ax.xaxis.set_major_locator(MaxNLocator(6))
        ax.grid(color=LINE, lw=0.4, alpha=0.4)
        ax.set_xlabel("step", fontsize=FONT["label"])
        ax.set_ylabel(label, fontsize=FONT["label"])
        ax.margins(x=0.01)
        ax.legend(
            frameon=False, fontsize=FONT["tick"], loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=3, borderpad=0.1
        )
    return finish(figure, title, path)


def _curve(ax: Axes, step: np.ndarray, value: np.ndarray, name: str, colour: str) -> tuple[float, float]:
    """Draw one curve; returns the range that its frame should show."""
    finite = np.isfinite(value)
    window = 2 * (len(value) // 100) + 1
    if window == 1:
        ax.plot(step, value, color=colour, lw=1.4, marker="o" if len(value) < 30 else None, ms=3, label=name)
    else:
        ones = np.ones(window)
        average = np.convolve(value, ones, "same") / np.convolve(np.ones(len(value)), ones, "same")
        ax.plot(step, value, color=colour, lw=0.7, alpha=0.3)
        ax.plot(step, average, color=colour, lw=1.7, label=name)
    if not finite.all():
        first = step[int((~finite).argmax())]
        at = (first - step[0]) / max(step[-1] - step[0], 1)
        style = {"ha": "right" if at > 0.5 else "left", "va": "top", "fontsize": FONT["small"], "color": "#b00020"}
        ax.axvline(first, color="#b00020", lw=1.2, ls=":")
        ax.text(first, 0.98, f" not finite from step {first:g} ", transform=ax.get_xaxis_transform(), **style)
    if not finite.any():
        return 0.0, 1.0
    # The first steps may be orders of magnitude above the rest: the frame of a long curve follows what comes after.
    late = value[finite][min(window - 1, int(finite.sum()) - 1) :]
    return float(late.min()), float(np.quantile(late, 0.998) if window > 1 else late.max())


def _columns(
    source: str | os.PathLike[str] | Mapping[str, Sequence[float] | np.ndarray | Tensor],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of each column, without the cells in which nothing was logged."""
    if isinstance(source, Mapping):
        arrays = {name: np.asarray(values, dtype=np.float64).reshape(-1) for name, values in source.items()}
        longest = max((len(a) for a in arrays.values()), default=0)
        step = arrays.get("step", np.arange(longest, dtype=np.float64))
        for name, a in arrays.items():
            if len(a) != len(step):
                raise DataError(
                    f"Column {name} has {len(a)} values, and there are {len(step)} steps: lengths must agree."
                )
        if longest == 0:
            raise DataError("There is no training to draw: every column is empty.")
        return {name: (step, a) for name, a in arrays.items() if name != "step"}
    path = Path(source)
    if not path.is_file():
        raise DataError(f"There is no file {path}: expected the metrics.csv of a run.")
    cells: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = [n for n in reader.fieldnames or [] if n != "step"]
        for row in reader:
            for name in names:
                if row[name] in ("", None):
                    continue
                try:
                    at, value = float(row["step"]) if row.get("step") else reader.line_num - 2.0, float(row[name])
                except ValueError:
                    raise DataError(
                        f"{path}, line {reader.line_num}: column {name} is {row[name]!r}; expected a number."
                    ) from None
                steps, values = cells.setdefault(name, ([], []))
                steps.append(at)
                values.append(value)
    if not cells:
        raise DataError(f"{path} has no row with a value: has the run logged anything?")
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in cells.items()}


def plot_trajectory(
    manifold: Manifold,
    trajectory: Tensor,
    *,
    max_paths: int = 24,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw a few trajectories on the manifold's first map, coloured by the step.

    Args:
        manifold: where the points live.
        trajectory: points ``(steps + 1, n, *point_shape)``, in the order of time; a circle marks the start, a dot
            the end.
        max_paths: number of trajectories drawn, the first ones.
        title: heading of the figure.
        path: file to write.
        ax: axes to draw on.

    Returns:
        The figure.

    Raises:
        ManifoldError: points are not finite or off the manifold.
        DataError: there are fewer than two steps, or no trajectory.
        ConfigError: the manifold has no map.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, t = Sphere(2), torch.linspace(0, 1, 20).unsqueeze(-1)
        >>> x, y = M.random_uniform(2, generator=torch.Generator().manual_seed(0))
        >>> figure = plot_trajectory(M, M.geodesic(x.expand(20, 1, 3), y.expand(20, 1, 3), t))
    """
    manifold.check_point(trajectory, "trajectory")
    shape = manifold.batch_shape(trajectory)
    if len(shape) != 2 or shape[0] < 2 or shape[1] < 1:
        raise DataError(
            f"trajectory has batch shape {shape}; expected (steps + 1, n) with at least two points per path."
        )
    view = next((v for v in views(manifold) if isinstance(v, Map)), None)
    if view is None:
        raise ConfigError(f"{manifold} is drawn by charts only: there is no map to draw trajectories on.")
    from matplotlib.collections import LineCollection

    paths = trajectory.detach()[:, :max_paths].transpose(0, 1)
    flat = paths.reshape(-1, *manifold.point_shape)
    scene = Scene(None, flat, None, None, 180, 4096, flat)
    if ax is None:
        figure, axes = place([[Cell(view, 3.1, 0.52)]], title is not None)
        ax = axes[0][0]
    else:
        figure = root_figure(ax)
    view.frame(ax, scene)
    lines = []
    for x in paths:
        xy, broken = view.plane(x), view.breaks(x)
        segments = np.stack([xy[:-1], xy[1:]], 1)
        lines.append((segments[~broken], np.arange(1, len(x))[~broken]))
    drawn = LineCollection(
        np.concatenate([s for s, _ in lines]).tolist(),
        array=np.concatenate([c for _, c in lines]),
        cmap="viridis",
        lw=1.1,
        zorder=3,
    )
    ax.add_collection(drawn, autolim=False)
    start, end = view.plane(paths[:, 0]), view.plane(paths[:, -1])
    ax.scatter(*start.T, s=22, facecolors="white", edgecolors="#440154", linewidths=1.0, zorder=4, label="start")
    ax.scatter(*end.T, s=18, color="#d55e00", linewidths=0, zorder=5, label="end")
    place_ = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.99), "ncols": 2, "columnspacing": 0.8, "borderpad": 0.1}
    ax.legend(frameon=False, fontsize=FONT["tick"], handletextpad=0.1, **place_)
    colour_bar(ax, drawn, "step")
    return finish(figure, title, path)
