"""Strings over a density, and their energy from end to end."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import Manifold
from .layout import Cell, finish, place
from .registry import views
from .scene import LogProb, Scene
from .views import FONT, LINE, Map, View, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_strings"]

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#8a5a00")
"""Distinguishable with colour-vision deficiencies; a white rim sets lines off from a dark density."""

FINE = 8
"""Points drawn per segment of a string."""


class _Profile(View):
    """Energy against the length along a string."""

    aspect = 1.25
    margin = (0.72, 0.46, 0.15)


def plot_strings(
    manifold: Manifold,
    strings: Mapping[str, Tensor],
    *,
    log_prob: LogProb | None = None,
    energies: Mapping[str, Tensor] | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    resolution: int = 180,
    batch_size: int = 4096,
) -> Figure:
    r"""Draw curves between points on the manifold's first map, over a density, and their energies beside it.

    Nodes are joined by geodesics. Circles mark the ends, a triangle the highest node. The energy, :math:`-\log p` in
    nats, is drawn against the length from the first node.

    Args:
        manifold: where the strings live.
        strings: nodes by name, ``(n, *point_shape)`` in their order.
        log_prob: log density for the image under the strings, where the map shows the whole manifold.
        energies: energies of the nodes by name, ``(n,)``; None for the map alone.
        title: heading of the figure.
        path: file to write.
        resolution: columns of the density image.
        batch_size: points per call of ``log_prob``.

    Returns:
        The figure.

    Raises:
        ManifoldError: nodes are not finite or off the manifold.
        DataError: there is no string, one of a single node, or energies of the wrong length.
        ConfigError: the manifold has no map.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> nodes = torch.eye(3)
        >>> figure = plot_strings(Sphere(2), {"edges": nodes}, energies={"edges": torch.tensor([0.0, 1.0, 0.5])})
        >>> len(figure.axes)
        2
    """
    if not strings:
        raise DataError("There is no string to draw: strings is empty.")
    for name, nodes in strings.items():
        manifold.check_point(nodes, name)
        shape = manifold.batch_shape(nodes)
        if len(shape) != 1 or shape[0] < 2:
            raise DataError(f"The string {name} has batch shape {shape}; expected (n,) with at least two nodes.")
        if energies is not None and name in energies and energies[name].shape != shape:
            raise DataError(f"The string {name} has {shape[0]} nodes and energies {tuple(energies[name].shape)}.")
    view = next((v for v in views(manifold) if isinstance(v, Map)), None)
    if view is None:
        raise ConfigError(f"{manifold} is drawn by charts only: there is no map to draw strings on.")
    height = 2.9 if view.aspect < 1.5 else 2.5
    everything = torch.cat([x.detach() for x in strings.values()])
    scene = Scene(None, everything, log_prob, None, resolution, batch_size, everything)
    image = log_prob is not None and view.grid(scene) is not None
    cells = [Cell(view, height, view.bar_room(True) if image else 0.0)]
    if energies is not None:
        cells.append(Cell(_Profile(), height))
    figure, ((ax, *charts),) = place([cells], title is not None)
    if image:
        view.draw_density(ax, scene)
    else:
        view.frame(ax, scene)
    for (name, nodes), colour in zip(strings.items(), _colours(len(strings)), strict=True):
        energy = None if energies is None else energies.get(name)
        _on_map(ax, view, manifold, nodes.detach(), energy, colour, name)
        if energy is not None:
            _profile(charts[0], manifold, nodes.detach(), energy, colour, name)
    corner = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.01), "ncols": 3, "columnspacing": 1.0, "borderpad": 0.1}
    ax.legend(frameon=False, fontsize=FONT["tick"], handlelength=1.4, **corner)
    for chart in charts:
        tidy(chart)
        chart.grid(color=LINE, lw=0.4, alpha=0.4)
        chart.set_xlabel("length from the first end", fontsize=FONT["label"])
        chart.set_ylabel("−log density [nats]", fontsize=FONT["label"])
    return finish(figure, title, path)


def _colours(n: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(n)]


def _on_map(
    ax: Axes, view: Map, manifold: Manifold, nodes: Tensor, energy: Tensor | None, colour: str, name: str
) -> None:
    from matplotlib.patheffects import withStroke

    part = torch.arange(FINE, dtype=nodes.dtype, device=nodes.device) / FINE
    n = len(nodes) - 1
    start, end = nodes[:-1].unsqueeze(1), nodes[1:].unsqueeze(1)
    fine = manifold.geodesic(start.expand(n, FINE, *manifold.point_shape), end, part.expand(n, FINE)).flatten(0, 1)
    fine = torch.cat([fine, nodes[-1:]])
    xy, broken = view.plane(fine), view.breaks(fine)
    # A point that is not a number interrupts the line where it leaves the map and comes back on the other side.
    line = np.insert(xy, np.flatnonzero(broken) + 1, np.nan, axis=0)
    rim = [withStroke(linewidth=3.4, foreground="white")]
    ax.plot(*line.T, color=colour, lw=1.8, label=name, zorder=6, path_effects=rim, solid_capstyle="round")
    ends = view.plane(nodes[[0, -1]])
    ax.scatter(*ends.T, s=26, facecolors="white", edgecolors=colour, linewidths=1.3, zorder=7)
    if energy is not None:
        top = view.plane(nodes[int(energy.argmax())][None])
        ax.scatter(*top.T, s=34, marker="^", color=colour, edgecolors="white", linewidths=0.8, zorder=8)


def _profile(ax: Axes, manifold: Manifold, nodes: Tensor, energy: Tensor, colour: str, name: str) -> None:
    steps = manifold.dist(nodes[:-1], nodes[1:]).detach().cpu().double().numpy()
    length = np.concatenate([[0.0], np.cumsum(steps)])
    values = energy.detach().cpu().double().numpy()
    ax.plot(length, values, color=colour, lw=1.6, label=name, marker="o" if len(values) <= 20 else None, ms=3.5)
    top = int(values.argmax())
    ax.scatter(length[top], values[top], s=42, marker="^", color=colour, edgecolors="white", linewidths=0.8, zorder=5)
