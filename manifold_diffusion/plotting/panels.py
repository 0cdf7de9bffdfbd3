"""Panels of curves that share their names and colours: measures along several paths, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .._errors import DataError
from .layout import finish, new_figure
from .strings import COLOURS
from .views import FONT, LINE, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panel", "plot_panels"]

_WIDTH, _HEIGHT = 4.2, 3.3
"""Of one panel, labels included, in inches."""

_GREYS = ("#3c3c3c", "#a0a0a0")


@dataclass(frozen=True, eq=False)
class Panel:
    """One panel of :func:`plot_panels`.

    Attributes:
        x_label: what stands on the horizontal axis, with its unit.
        y_label: what stands on the vertical axis, with its unit.
        curves: points by name, abscissae ``(n,)`` and ordinates ``(n,)``.
        level: height of a dashed line, such as a threshold; None for none.
        level_label: what it is.
    """

    x_label: str
    y_label: str
    curves: Mapping[str, tuple[Tensor, Tensor]]
    level: float | None = None
    level_label: str = ""


def plot_panels(
    panels: Sequence[Panel],
    *,
    dots: Sequence[str] = (),
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw curves in panels side by side, two in a line; a name has the same colour in all of them, and dots are grey.

    Args:
        panels: what to draw.
        dots: names that are drawn as dots, such as observations; the others are lines, on top.
        title: heading of the figure.
        path: file to write.

    Returns:
        The figure.

    Raises:
        DataError: there is no panel or no curve, coordinates differ in length or are not finite.

    Example:
        >>> import torch
        >>> t = torch.linspace(0, 1, 20)
        >>> figure = plot_panels([Panel("t", "height", {"rise": (t, t), "fall": (t, 1 - t)})])
        >>> len(figure.axes), [line.get_label() for line in figure.axes[0].lines]
        (1, ['rise', 'fall'])
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    if not names:
        raise DataError("There is nothing to draw: panels hold no curve.")
    for panel in panels:
        for name, (x, y) in panel.curves.items():
            if x.dim() != 1 or x.shape != y.shape or not bool(x.isfinite().all() & y.isfinite().all()):
                raise DataError(
                    f"The curve {name} of {panel.y_label!r} must have finite coordinates of shape (n,) both; got "
                    f"{tuple(x.shape)} and {tuple(y.shape)}."
                )
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(n for n in names if n not in dots)}
    colours |= {name: _GREYS[k % len(_GREYS)] for k, name in enumerate(n for n in names if n in dots)}
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    top = 0.24 + (0.34 if title else 0)  # the legend, and the heading above it
    width, height = columns * _WIDTH, lines * _HEIGHT + top
    figure = new_figure(width, height)
    handles = {}
    for k, panel in enumerate(panels):
        left, bottom = (k % columns) * _WIDTH + 0.68, height - top - (k // columns + 1) * _HEIGHT + 0.55
        ax = figure.add_axes((left / width, bottom / height, (_WIDTH - 0.86) / width, (_HEIGHT - 0.72) / height))
        for name, (x, y) in panel.curves.items():
            at = tuple(np.asarray(a.detach().cpu().double()) for a in (x, y))
            dotted = {"ls": "", "marker": "o", "ms": 3, "mew": 0, "alpha": 0.75, "zorder": 2}
            look: dict[str, Any] = dotted if name in dots else {"lw": 1.7, "zorder": 3}
            drawn = ax.plot(*at, color=colours[name], label=name, **look)
            handles.setdefault(name, drawn[0])
        if panel.level is not None:
            ax.axhline(panel.level, color="#555555", lw=1.0, ls="--", zorder=1)
            style = {"ha": "right", "va": "bottom", "fontsize": FONT["small"], "color": "#555555"}
            ax.text(1.0, panel.level, panel.level_label, transform=ax.get_yaxis_transform(), **style)
        tidy(ax)
        ax.grid(color=LINE, lw=0.4, alpha=0.4)
        ax.set_xlabel(panel.x_label, fontsize=FONT["label"])
        ax.set_ylabel(panel.y_label, fontsize=FONT["label"])
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 1 - (top - 0.22) / height), "ncols": len(handles)}
    figure.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        fontsize=FONT["tick"],
        columnspacing=1.2,
        borderpad=0.1,
        **place,
    )
    return finish(figure, title, path)
