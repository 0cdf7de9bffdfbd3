"""Diagnostics of a model: numbers against the noise level, calibration, regions, distances to the training points."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._errors import DataError
from ..manifolds import Manifold
from .layout import Cell, finish, place
from .registry import views
from .scene import COLOURS, Scene, thin
from .views import FONT, LINE, Map, View, colour_bar, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NoisePanel", "plot_coverage", "plot_noise_panels", "plot_regions", "plot_training_distances"]

_CURVES = (COLOURS["samples"], COLOURS["density"], "#009e73", COLOURS["data"])
_DASHED = {"color": "black", "lw": 1.0, "ls": (0, (4, 3)), "zorder": 1}


class _Panel(View):
    aspect = 1.35
    margin = (0.78, 0.5, 0.16)


class _Square(View):
    aspect = 1.0
    margin = (0.78, 0.5, 0.16)


@dataclass(frozen=True)
class NoisePanel:
    """Numbers per point against the noise level, for :func:`plot_noise_panels`.

    Attributes:
        label: of the vertical axis.
        curves: Brownian times ``(levels,)`` and values ``(levels, n)`` by name.
        marks: heights of dashed lines by name.
        log: whether the vertical axis is logarithmic.
        limits: of the vertical axis; None takes them from the medians.
    """

    label: str
    curves: Mapping[str, tuple[Tensor, Tensor]]
    marks: Mapping[str, float] = field(default_factory=dict)
    log: bool = False
    limits: tuple[float, float] | None = None


def plot_noise_panels(
    panels: Sequence[NoisePanel], *, title: str | None = None, path: str | os.PathLike[str] | None = None
) -> Figure:
    r"""Draw medians over the points, and the range of the middle half, against the noise level :math:`\sqrt\tau`.

    Args:
        panels: one axes each.
        title: heading of the figure.
        path: file to write.

    Returns:
        The figure.

    Raises:
        DataError: if there is no panel, or one without a curve.

    Example:
        >>> import torch
        >>> tau, values = torch.logspace(-4, 0, 9), torch.rand(9, 20, generator=torch.Generator().manual_seed(0))
        >>> figure = plot_noise_panels([NoisePanel("number", {"points": (tau, values)})])
        >>> len(figure.axes)
        1
    """
    if not panels or not all(panel.curves for panel in panels):
        raise DataError("There is nothing to draw: give at least one panel, with a curve in each.")
    figure, (axes,) = place([[Cell(_Panel(), 2.9) for _ in panels]], title is not None)
    for ax, panel in zip(axes, panels, strict=True):
        for k, (name, (tau, values)) in enumerate(panel.curves.items()):
            low, middle, high = (values.detach().double().cpu().quantile(q, 1).numpy() for q in (0.25, 0.5, 0.75))
            noise, colour = tau.double().cpu().sqrt().numpy(), _CURVES[k % len(_CURVES)]
            ax.fill_between(noise, low, high, color=colour, alpha=0.18, lw=0)
            ax.plot(noise, middle, color=colour, lw=1.7, marker="o", ms=3, label=name)
        for name, height in panel.marks.items():
            ax.axhline(height, **_DASHED, label=name)
        ax.set_xscale("log")
        if panel.log:
            ax.set_yscale("log")
        if panel.limits is not None:
            ax.set_ylim(*panel.limits)
        ax.grid(color=LINE, lw=0.4, alpha=0.4)
        ax.set_xlabel(r"noise level $\sqrt{\tau}$", fontsize=FONT["label"])
        ax.set_ylabel(panel.label, fontsize=FONT["label"])
        tidy(ax)
        _legend_above(ax)
    return finish(figure, title, path)


def plot_coverage(
    levels: Tensor, n_samples: int, *, title: str | None = None, path: str | os.PathLike[str] | None = None
) -> Figure:
    r"""Draw how many held-out points are in the model's region of highest density, against the mass of the region.

    The band holds the curve of a calibrated model with probability 95 %, as a whole: :math:`1.36\sqrt{1/n + 1/m}`
    (Kolmogorov and Smirnov).

    Args:
        levels: mass of the region at whose edge each held-out point is, ``(m,)``.
        n_samples: samples that the masses were counted with.
        title: heading of the figure.
        path: file to write.

    Returns:
        The figure.

    Raises:
        DataError: if there is no level.
    """
    if levels.numel() == 0 or n_samples < 1:
        raise DataError("There is nothing to draw: give at least one level, and the number of samples behind it.")
    ordered = np.sort(levels.detach().double().cpu().numpy().reshape(-1))
    m = len(ordered)
    figure, ((ax,),) = place([[Cell(_Square(), 3.2)]], title is not None)
    width = 1.36 * (1 / n_samples + 1 / m) ** 0.5
    mass = np.linspace(0, 1, 201)
    band = (mass - width).clip(0, 1), (mass + width).clip(0, 1)
    ax.fill_between(mass, *band, color=LINE, alpha=0.25, lw=0, label="95 % of calibrated models")
    ax.plot(mass, mass, **_DASHED)
    ax.plot(np.r_[0, ordered, 1], np.r_[0, np.arange(1, m + 1) / m, 1], color=_CURVES[0], lw=1.7, label="this model")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.grid(color=LINE, lw=0.4, alpha=0.4)
    ax.set_xlabel("mass of the highest-density region", fontsize=FONT["label"])
    ax.set_ylabel("share of held-out points in it", fontsize=FONT["label"])
    for x, y, text in ((0.27, 0.8, "model too wide"), (0.73, 0.2, "model too narrow")):
        ax.text(x, y, text, transform=ax.transAxes, ha="center", va="center", fontsize=FONT["small"], color="#555a63")
    tidy(ax)
    _legend_above(ax)
    return finish(figure, title, path)


def plot_regions(
    manifold: Manifold,
    centres: Tensor,
    sample_shares: Tensor,
    held_out_shares: Tensor,
    z: Tensor,
    n_held_out: int,
    *,
    points: Tensor | None = None,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw where the model has too much mass and where too little: regions on the map, and their shares.

    Args:
        manifold: where the points live.
        centres: of the regions, ``(k, *point_shape)``; they are numbered by the share of the held-out points.
        sample_shares: the model's mass per region, ``(k,)``.
        held_out_shares: share of the held-out points, ``(k,)``.
        z: difference in standard deviations, model minus held-out, ``(k,)``.
        n_held_out: number of held-out points, for their error bars (Wilson's interval at one standard deviation).
        points: points drawn on the map in the colour of their region, ``(n, *point_shape)``.
        title: heading of the figure.
        path: file to write.

    Returns:
        The figure; without a map of the manifold the shares alone.

    Raises:
        ManifoldError: centres off the manifold.
        DataError: if the numbers don't go with the centres.
    """
    manifold.check_point(centres, "centres")
    k = len(centres)
    if not len(sample_shares) == len(held_out_shares) == len(z) == k >= 1:
        raise DataError(f"There are {k} centres, and {len(sample_shares)}, {len(held_out_shares)}, {len(z)} numbers.")
    order = held_out_shares.argsort(descending=True, stable=True)
    own, data, deviations = (a.double().cpu()[order.cpu()].numpy() for a in (sample_shares, held_out_shares, z))
    centres = centres.detach()[order.to(centres.device)]
    view = next((v for v in views(manifold) if isinstance(v, Map)), None)
    cells = [] if view is None else [Cell(view, 2.6, 0.55)]
    figure, (axes,) = place([[*cells, Cell(_Panel(), 2.6)]], title is not None)
    if view is not None:
        _region_map(axes[0], view, manifold, centres, deviations, points)
    ax, at = axes[-1], np.arange(1, k + 1)
    ax.bar(at, 100 * own, width=0.7, color=COLOURS["samples"], alpha=0.35, lw=0, label="model")
    low, high = _wilson(data, n_held_out)
    style: dict[str, Any] = {"fmt": "o", "ms": 3.5, "lw": 1.2, "color": COLOURS["data"], "capsize": 2}
    ax.errorbar(at, 100 * data, 100 * np.stack([data - low, high - data]), label="held-out, 68 % interval", **style)
    # The root of a count has the same error everywhere: rare regions can be judged beside common ones.
    ax.set_yscale("function", functions=(lambda p: np.sqrt(np.maximum(p, 0)), np.square))
    top = 100 * max(own.max(), high.max())
    ax.set_ylim(0, 1.1 * top)
    ax.set_yticks([t for t in (0, 1, 3, 10, 20, 30, 50, 70, 100) if t <= 1.1 * top])
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xticks(at[:: max(1, -(-k // 16))])
    ax.set_xlabel("region", fontsize=FONT["label"])
    ax.set_ylabel("share [%], root scale", fontsize=FONT["label"])
    tidy(ax)
    _legend_above(ax)
    return finish(figure, title, path)


def _wilson(share: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Ends of Wilson's interval of a share, at one standard deviation: a count of 0 has one, too."""
    half = np.sqrt(share * (1 - share) / n + 0.25 / n**2)
    low, high = (((share + 0.5 / n) + sign * half) / (1 + 1 / n) for sign in (-1, 1))
    return np.minimum(low, share).clip(0), np.maximum(high, share)


def _region_map(ax: Axes, view: Map, manifold: Manifold, centres: Tensor, z: np.ndarray, points: Tensor | None) -> None:
    """Points in the colour of their region, under its number."""
    from matplotlib.patheffects import withStroke

    shown = centres if points is None else torch.cat([thin(points.detach().to(centres), 4000), centres])
    scene = Scene(None, shown, None, None, 180, 4096, shown)
    view.frame(ax, scene)
    ax.set_title(", ".join(filter(None, [view.name, view.caption])), fontsize=FONT["tick"])
    distances = torch.stack([manifold.dist(shown, c.expand_as(shown)) for c in centres])
    region, xy = distances.argmin(0).cpu().numpy(), view.plane(shown)
    limit = max(3.0, float(np.abs(z).max()))
    style: dict[str, Any] = {"cmap": "coolwarm", "vmin": -limit, "vmax": limit, "linewidths": 0, "rasterized": True}
    size = float(np.clip(6000.0 / len(xy), 4.0, 14.0))
    dots = ax.scatter(*xy.T, c=z[region], s=size, zorder=3, edgecolors="none", **style)
    rim = [withStroke(linewidth=2.2, foreground="white")]
    for number, (u, v) in enumerate(view.plane(centres), 1):
        ax.text(u, v, str(number), ha="center", va="center", fontsize=FONT["tick"], zorder=5, path_effects=rim)
    colour_bar(ax, dots, "model − held-out [standard deviations]")


def plot_training_distances(
    distances: Mapping[str, Tensor], *, title: str | None = None, path: str | os.PathLike[str] | None = None
) -> Figure:
    """Draw histograms of distances to the nearest training point, on a logarithmic axis.

    Args:
        distances: by name, such as ``held-out points``, ``samples``, ``copies``; the first is filled.
        title: heading of the figure.
        path: file to write.

    Returns:
        The figure; distances of zero are counted in its legend.

    Raises:
        DataError: if there is no positive distance.
    """
    arrays = {name: a.detach().double().cpu().numpy().reshape(-1) for name, a in distances.items()}
    positive = [a[a > 0] for a in arrays.values()]
    everything = np.concatenate(positive) if positive else np.zeros(0)
    if len(everything) == 0:
        raise DataError("There is nothing to draw: no distance is positive.")
    low, high = np.log10(np.quantile(everything, [0.002, 1.0]))
    least = min(len(a) for a in arrays.values())
    bins = np.linspace(low - 0.05, high + 0.05, int(np.clip(2 * least ** (1 / 3), 10, 50)) + 1)
    figure, ((ax,),) = place([[Cell(_Panel(), 2.9)]], title is not None)
    colours = (COLOURS["data"], COLOURS["samples"], COLOURS["density"], "#009e73")
    for k, (name, a) in enumerate(arrays.items()):
        share = 100 * np.histogram(np.log10(a[a > 0]).clip(bins[0], None), bins)[0] / len(a)
        zeros = int((a <= 0).sum())
        label = name if not zeros else f"{name} ({100 * zeros / len(a):.0f} % at 0)"
        how: dict[str, Any] = {"fill": True, "alpha": 0.35, "lw": 0} if k == 0 else {"lw": 1.6}
        ax.stairs(share, 10**bins, color=colours[k % len(colours)], label=label, **how)
    ax.set_xscale("log")
    ax.set_xlim(10 ** bins[0], 10 ** bins[-1])
    ax.set_ylim(0, None)
    ax.set_xlabel("distance to the nearest training point", fontsize=FONT["label"])
    ax.set_ylabel("share [% per bin]", fontsize=FONT["label"])
    tidy(ax)
    _legend_above(ax)
    return finish(figure, title, path)


def _legend_above(ax: Axes) -> None:
    """Legend over the top of the axes, where it covers no curve."""
    where: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 0.99), "ncols": 3, "columnspacing": 1.0}
    ax.legend(frameon=False, fontsize=FONT["tick"], handlelength=1.4, borderpad=0.1, **where)
