"""Where panels stand: sizes in inches, so that maps, labels and colour bars of all panels line up; saving."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .._errors import ConfigError
from .._files import replacing
from .views import FONT, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Cell", "finish", "flow", "new_figure", "place", "save_figure"]

MAX_WIDTH = 16.0
"""A line of panels that is wider is broken into lines of equal length."""

HEADING, TITLE, PAD = 0.34, 0.36, 0.12
DPI = 150


@dataclass(frozen=True)
class Cell:
    """A panel before it has a place.

    Attributes:
        view: what is drawn in it.
        height: height of its axes in inches; the view's aspect gives the width.
        bar: room for a colour bar under it, in inches.
    """

    view: View
    height: float
    bar: float = 0.0

    @property
    def width(self) -> float:
        """Width in inches, labels included."""
        return self.view.margin[0] + self.view.aspect * self.height + self.view.margin[2]

    @property
    def depth(self) -> float:
        """Height in inches, labels, heading and colour bar included."""
        return HEADING + self.height + self.view.margin[1] + self.bar


def flow(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Break a line of panels that is too wide into lines with equal numbers of panels."""
    lines = max(1, -int(-sum(c.width for c in cells) // MAX_WIDTH))
    size = -(-len(cells) // lines)
    return [list(cells[i : i + size]) for i in range(0, len(cells), size)]


def place(lines: Sequence[Sequence[Cell]], titled: bool) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one axes per cell, lines from top to bottom.

    Args:
        lines: the panels.
        titled: whether to leave room for a heading of the figure.

    Returns:
        The figure and its axes, line by line.
    """
    widths = [sum(c.width for c in line) for line in lines]
    depths = [max(c.depth for c in line) for line in lines]
    width = max(*widths, 4.0) + 2 * PAD
    height = sum(depths) + PAD * len(lines) + (TITLE if titled else 0)
    figure = new_figure(width, height)
    axes, top = [], height - (TITLE if titled else 0)
    for line, total, depth in zip(lines, widths, depths, strict=True):
        # A line shorter than the widest one takes equal shares of the width: its panels stand under those above.
        share = (width - 2 * PAD) / len(line)
        spread = total < max(widths) and all(c.width <= share + 1e-6 for c in line)
        left, row = (width - total) / 2, []
        for k, cell in enumerate(line):
            if spread:
                left = PAD + (k + 0.5) * share - cell.width / 2
            margin, across = cell.view.margin, cell.view.aspect * cell.height
            bottom = top - HEADING - cell.height
            box = ((left + margin[0]) / width, bottom / height, across / width, cell.height / height)
            row.append(figure.add_axes(box, projection=cell.view.projection))
            left += cell.width
        axes.append(row)
        top -= depth + PAD
    return figure, axes


def finish(figure: Figure, title: str | None, path: str | os.PathLike[str] | None) -> Figure:
    """Write the heading of a figure into the room that :func:`place` left for it, and the figure to a file."""
    if title:
        height = figure.get_size_inches()[1]
        figure.suptitle(title, y=1 - 0.12 / height, va="top", fontsize=FONT["title"] + 2, fontweight="bold")
    if path is not None:
        save_figure(figure, path)
    return figure


def new_figure(width: float, height: float) -> Figure:
    """A white figure on an Agg canvas, unknown to pyplot; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = DPI) -> None:
    """Write a figure to a temporary file that then takes its place: the file appears whole or not at all.

    Args:
        figure: the figure.
        path: file to write; its suffix chooses the format.
        dpi: pixels per inch.

    Raises:
        ConfigError: the suffix names no format that can be written.
        OSError: the folder does not exist, or the disk is full; a file that was there before is left as it was.
    """
    path = Path(path)
    form = path.suffix.removeprefix(".").lower()
    supported = figure.canvas.get_supported_filetypes()
    if form not in supported:
        raise ConfigError(
            f"A figure can't be written as '{path.name}': its suffix must be one of {', '.join(sorted(supported))}."
        )
    with replacing(path) as draft:
        figure.savefig(draft, format=form, dpi=dpi, facecolor="white")
