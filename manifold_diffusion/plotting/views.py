"""The two kinds of picture: maps, one axes per source, and charts, which lay all sources over one another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError
from .colours import colour_range, hue_wheel, mass_levels
from .scene import COLOURS, Grid, Scene, Source, evaluate, thin

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["Chart", "CircularHistogram", "Histogram", "Map", "View"]

FONT = {"title": 11.0, "label": 10.0, "tick": 9.0, "small": 7.5}
"""Font sizes in points."""

LINE = "#8a8f99"
"""Colour of graticules and frames."""

MAX_DRAWN = 30_000
"""Points drawn by one scatter: more are indistinguishable and slow."""

DENSITY_MAP = "magma"
"""Perceptually uniform and dark where there is nothing."""


class View:
    """What maps and charts have in common.

    Attributes:
        name: heading, for figures of several views.
        aspect: width of its axes over their height.
        projection: projection of the axes that it draws on, as matplotlib names it; None is the ordinary one.
        margin: room for labels at the left, below and at the right of the axes, in inches.
    """

    name: str = ""
    aspect: float = 1.0
    projection: str | None = None
    margin: tuple[float, float, float] = (0.62, 0.46, 0.12)


class Map(View, ABC):
    """Points in the plane, one axes per source; a density is an image of the whole manifold, or coloured points.

    Attributes:
        caption: which projection of the manifold it is, where neither axes nor outline say so.
        hue_label: what :meth:`hue` is, with its unit.
        contours: whether lines of equal density are drawn into the image.
    """

    caption: str = ""
    hue_label: str = ""
    contours: bool = False

    @abstractmethod
    def plane(self, x: Tensor) -> np.ndarray:
        """Where points are drawn, ``(n, *point_shape) -> (n, 2)``."""

    @abstractmethod
    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        """Draw outline, graticule, limits and labels."""

    def grid(self, scene: Scene) -> Grid | None:
        """Grid of the density image; None when the map shows only a projection of the manifold."""
        return None

    def outline(self) -> Patch | None:
        """Patch, in data coordinates, that clips the density image; None for a rectangle."""
        return None

    def hue(self, x: Tensor) -> np.ndarray | None:
        """Angle in degrees that colours the points, ``(n,)``; None for the source's colour."""
        return None

    def bar_room(self, density: bool) -> float:
        """Inches that the colour bar takes under the axes."""
        return (0.52 + 0.16 * self.contours) if density else 0.52 if self.hue_label else 0.0

    def breaks(self, x: Tensor) -> np.ndarray:
        """Whether the line from ``x[i]`` to ``x[i + 1]`` would cross the whole map, ``(n - 1,)``."""
        return np.zeros(len(x) - 1, dtype=bool)

    def draw_points(self, ax: Axes, source: Source, scene: Scene) -> None:
        """Draw one source as translucent points."""
        self.frame(ax, scene)
        x = thin(source.x, MAX_DRAWN)
        xy, hue = self.plane(x), self.hue(x)
        size = float(np.clip(6000.0 / len(xy), 1.2, 14.0))
        alpha = float(np.clip(60.0 / np.sqrt(len(xy)), 0.25, 0.85))
        style: dict[str, Any] = {"s": size, "alpha": alpha, "linewidths": 0, "rasterized": True, "zorder": 3}
        if hue is None:
            ax.scatter(*xy.T, color=source.colour, **style)
        else:
            dots = ax.scatter(*xy.T, c=hue, cmap=hue_wheel(), vmin=-180, vmax=180, **style)
            bar = colour_bar(ax, dots, self.hue_label)
            bar.set_ticks([-180, -90, 0, 90, 180])
        note_outside(ax, xy)

    def draw_density(self, ax: Axes, scene: Scene, bar: bool = True) -> str:
        """Draw the log density, an image or points in its colours, with a colour bar if ``bar``; returns what it is."""
        grid = self.grid(scene) if scene.log_prob is not None else None
        self.frame(ax, scene, over_image=grid is not None)
        if grid is None or scene.log_prob is None:
            return self._draw_coloured(ax, scene, bar)
        values = evaluate(scene.log_prob, grid.points, scene.batch_size) + (grid.log_total or 0.0)
        low, high = colour_range(values, grid.volume)
        # -inf (zero density) has no colour of its own: it takes the lowest.
        picture = np.maximum(values, low - 1)[grid.index]
        image = ax.imshow(
            picture,
            origin="lower",
            extent=grid.extent,
            vmin=low,
            vmax=high,
            cmap=DENSITY_MAP,
            interpolation="bilinear",
            aspect="equal",
            zorder=1,
        )
        outline = self.outline()
        if outline is not None:
            ax.add_patch(outline)
            image.set_clip_path(outline)
        if self.contours:
            levels = sorted(set(mass_levels(values, grid.volume, [0.5, 0.9])))
            left, right, bottom, top = grid.extent
            rows, columns = picture.shape
            u = left + (np.arange(columns) + 0.5) * (right - left) / columns
            v = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
            ax.contour(u, v, picture, levels=levels, colors="white", linewidths=0.7, linestyles="solid", zorder=2)
        relative = "" if grid.log_total is None else " relative to uniform"
        label = f"log density{relative} [nats]" + ("\nlines enclose 50 % and 90 % of the mass" if self.contours else "")
        if bar:
            colour_bar(ax, image, label, below=values.min() < low, above=values.max() > high)
        return "model density"

    def _draw_coloured(self, ax: Axes, scene: Scene, bar: bool) -> str:
        if scene.at_points is None:
            raise ConfigError("There is no log density to draw: give log_prob.")
        values = scene.at_points()
        # Points are drawn from the law itself: fractions of the points are fractions of the mass.
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [0.03, 0.99]) if len(finite) else (0.0, 0.0)
        high = max(high, low + 0.5)
        xy = self.plane(scene.coloured)
        order = np.argsort(values)
        size = float(np.clip(6000.0 / len(xy), 3.0, 16.0))
        dots = ax.scatter(
            *xy[order].T,
            c=values[order],
            cmap="viridis",
            vmin=low,
            vmax=high,
            s=size,
            linewidths=0,
            rasterized=True,
            zorder=3,
        )
        if bar:
            colour_bar(ax, dots, "log density [nats]", below=values.min() < low, above=values.max() > high)
        note_outside(ax, xy)
        return f"density at {len(xy):,} {scene.sources[-1].name}"


class Chart(View, ABC):
    """All sources and the density on one axes."""

    @abstractmethod
    def draw(self, ax: Axes, scene: Scene) -> None:
        """Draw everything that the scene has."""


@dataclass(frozen=True)
class Histogram(Chart):
    """Histogram of one number per point, the same bins for data and samples.

    Attributes:
        value: the number, ``(n, *point_shape) -> (n,)``.
        label: axis label with its unit.
        unit: unit of the number, for the label of its density.
        limits: range of the number; None takes it from the points.
        reference: density that the number has under the uniform law, drawn dashed; None for none.
        point: inverse of ``value`` on one-dimensional manifolds, where the density is a curve; None elsewhere.
        name: heading.
    """

    value: Callable[[Tensor], Tensor]
    label: str
    unit: str = ""
    limits: tuple[float, float] | None = None
    reference: Callable[[np.ndarray], np.ndarray] | None = None
    point: Callable[[Tensor], Tensor] | None = None
    name: str = ""
    aspect = 1.35
    margin = (0.75, 0.46, 0.15)

    def draw(self, ax: Axes, scene: Scene) -> None:
        numbers = [(s, self.value(s.x).detach().cpu().double().numpy()) for s in scene.sources]
        limits = self.limits
        if limits is None:
            scene.everything  # noqa: B018  raises when there is no point to take limits from
            limits = robust_limits(np.concatenate([v for _, v in numbers]))
        n = min([len(v) for _, v in numbers], default=1)
        bins = np.linspace(*limits, int(np.clip(2 * n ** (1 / 3), 10, 80)) + 1)
        for source, v in numbers:
            # Divided by all points, those outside the frame included: areas stay probabilities.
            height = np.histogram(v, bins)[0] / len(v) / np.diff(bins)
            filled = source.name == "data" or len(numbers) == 1
            style: dict[str, Any] = {"fill": True, "alpha": 0.35, "lw": 0} if filled else {"lw": 1.6}
            ax.stairs(height, bins, color=source.colour, label=source.label, **style)
        grid = np.linspace(*limits, 400)
        if self.point is not None and scene.log_prob is not None:
            values = evaluate(scene.log_prob, self.point(torch.as_tensor(grid).to(scene.like)), scene.batch_size)
            ax.plot(grid, np.exp(values), color=COLOURS["density"], lw=1.6, label="model density")
        if self.reference is not None:
            ax.plot(grid, self.reference(grid), color="black", lw=1.1, ls=(0, (4, 3)), label="uniform law")
        ax.set_xlim(*limits)
        # The legend, 0.19 inches a line, stands above the highest bar.
        legend_part = 0.19 * len(ax.get_legend_handles_labels()[1]) / height_in_inches(ax)
        ax.set_ylim(0, ax.dataLim.y1 / (1 - min(legend_part + 0.05, 0.6)))
        if self.limits == (0, 180):
            ax.set_xticks(np.arange(0, 181, 45))
        tidy(ax)
        ax.set_xlabel(f"{self.label} [{self.unit}]" if self.unit else self.label, fontsize=FONT["label"])
        ax.set_ylabel(f"density [1/{self.unit}]" if self.unit else "density", fontsize=FONT["label"])
        legend(ax)


@dataclass(frozen=True)
class CircularHistogram(Chart):
    """Density on the circle, relative to uniform, as a histogram around it.

    Attributes:
        angle: the angle in radians in (-pi, pi], ``(n, *point_shape) -> (n,)``.
        point: its inverse, ``(n,) -> (n, *point_shape)``.
        volume: of the circle, by which densities are multiplied.
        name: heading.
    """

    angle: Callable[[Tensor], Tensor]
    point: Callable[[Tensor], Tensor]
    volume: float = 2 * np.pi
    name: str = ""
    aspect = 1.0
    projection = "polar"
    margin = (0.5, 0.62, 1.9)

    def draw(self, ax: Axes, scene: Scene) -> None:
        n = min([len(s.x) for s in scene.sources], default=1)
        bins = np.linspace(-np.pi, np.pi, 12 * int(np.clip(n ** (1 / 3) / 3, 1, 6)) + 1)
        top = 1.0
        for source in scene.sources:
            a = self.angle(source.x).detach().cpu().double().numpy().clip(-np.pi, np.pi)
            height = np.histogram(a, bins)[0] / len(a) * (len(bins) - 1)
            top = max(top, height.max())
            # The top of a bin is an arc: points along it, and both ends twice, for the radial sides.
            arcs = np.linspace(bins[:-1], bins[1:], 16, axis=1).ravel()
            step = np.repeat(height, 16)
            if source.name == "data" or len(scene.sources) == 1:
                ax.fill_between(arcs, 0, step, color=source.colour, alpha=0.35, lw=0, label=source.label)
            else:
                ends = np.append(arcs, arcs[0]), np.append(step, step[0])
                ax.plot(*ends, color=source.colour, lw=1.6, label=source.label)
        circle = np.linspace(-np.pi, np.pi, 361)
        if scene.log_prob is not None:
            values = evaluate(scene.log_prob, self.point(torch.as_tensor(circle).to(scene.like)), scene.batch_size)
            relative = self.volume * np.exp(values)
            top = max(top, float(np.quantile(relative, 0.99)))
            ax.plot(circle, relative, color=COLOURS["density"], lw=1.6, label="model density")
        ax.plot(circle, np.ones_like(circle), color="black", lw=1.1, ls=(0, (4, 3)), label="uniform law")
        ax.set_xticks(np.deg2rad(np.arange(0, 360, 45)))
        ax.set_xticklabels(["0°", "45°", "90°", "135°", "180°", "−135°", "−90°", "−45°"])
        ax.set_ylim(0, 1.08 * top)
        # The hole in the middle keeps narrow bins apart, and small densities visible.
        ax.set_rorigin(-0.35 * top)  # type: ignore[attr-defined]
        ax.yaxis.set_major_locator(_few_ticks())
        ax.tick_params(labelsize=FONT["tick"], colors="#333333")
        ax.grid(color=LINE, lw=0.4, alpha=0.6)
        ax.set_xlabel("density relative to uniform", fontsize=FONT["label"])
        legend(ax, outside=True)


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, prune="lower")


def robust_limits(v: np.ndarray) -> tuple[float, float]:
    """Limits that show all values, unless a few stand so far out that the others would be squeezed."""
    low, high = np.quantile(v, [0.005, 0.995])
    reach = 0.4 * (high - low)
    left = v.min() if v.min() >= low - reach else low - reach / 4
    right = v.max() if v.max() <= high + reach else high + reach / 4
    pad = 0.05 * (right - left) or max(abs(left), 1.0) * 0.1
    return float(left - pad), float(right + pad)


def note_outside(ax: Axes, xy: np.ndarray) -> None:
    """Write into the axes how many points its limits leave out."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    # Rounding may put a point on the frame a little outside.
    u, v = 1e-4 * (right - left), 1e-4 * (top - bottom)
    outside = (xy[:, 0] < left - u) | (xy[:, 0] > right + u) | (xy[:, 1] < bottom - v) | (xy[:, 1] > top + v)
    if outside.any():
        text = f"{int(outside.sum()):,} outside the frame"
        ax.text(
            0.98,
            0.02,
            text,
            transform=ax.transAxes,
            ha="right",
            va="bottom",
            fontsize=FONT["small"],
            color="#333333",
            zorder=5,
        )


def colour_bar(ax: Axes, mappable: ScalarMappable, label: str, below: bool = False, above: bool = False) -> Any:
    """Colour bar under the axes, inset so that the axes keep the size of their neighbours."""
    from matplotlib.ticker import MaxNLocator

    # Inches under the axes, with room for tick labels and the axis label if there are any.
    height = height_in_inches(ax)
    gap, thick = (0.52 if ax.axison else 0.10), 0.10
    inset = ax.inset_axes((0.15, -(gap + thick) / height, 0.7, thick / height))
    extend = {(True, True): "both", (True, False): "min", (False, True): "max", (False, False): "neither"}
    bar = root_figure(ax).colorbar(
        mappable, cax=inset, orientation="horizontal", extend=extend[bool(below), bool(above)]
    )
    # Half an inch a tick.
    across = 0.7 * ax.get_position().width * float(root_figure(ax).get_size_inches()[0])
    bar.locator = MaxNLocator(max(2, int(across / 0.5)))
    bar.set_label(label, fontsize=FONT["tick"], labelpad=2)
    bar.ax.tick_params(labelsize=FONT["tick"], length=2.5, pad=2)
    if bar.solids is not None:
        # The bar of translucent points is opaque.
        bar.solids.set(alpha=1, rasterized=True)
    bar.outline.set_linewidth(0.5)  # type: ignore[operator]
    return bar


def root_figure(ax: Axes) -> Figure:
    """The figure that holds the axes."""
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ConfigError("ax belongs to no figure. Take one from figure.add_subplot().")
    return figure


def height_in_inches(ax: Axes) -> float:
    """Height of the axes."""
    return ax.get_position().height * float(root_figure(ax).get_size_inches()[1])


def tidy(ax: Axes) -> None:
    """Axes of a chart: no box, small ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=FONT["tick"], length=3)


def legend(ax: Axes, outside: bool = False) -> None:
    """Legend, if there is anything to tell apart."""
    if len(ax.get_legend_handles_labels()[1]) < 1:
        return
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.1, 1.04)} if outside else {"loc": "upper left"}
    ax.legend(frameon=False, fontsize=FONT["tick"], handlelength=1.6, borderaxespad=0.2, **place)
