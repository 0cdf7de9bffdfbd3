"""One figure of points and densities on any manifold: layout, checks, saving."""

from __future__ import annotations

import os
from functools import cache, singledispatch
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import Manifold
from .layout import Cell, finish, flow, place
from .registry import views
from .scene import LogProb, Scene, evaluate
from .views import FONT, Chart, Map, root_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare", "plot"]

MAX_COLUMNS = 6
"""Maps side by side: more are too small to read."""


@singledispatch
def plot(
    manifold: Manifold,
    samples: Tensor | None = None,
    data: Tensor | None = None,
    log_prob: LogProb | None = None,
    *,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    ax: Axes | None = None,
    resolution: int = 180,
    batch_size: int = 4096,
) -> Figure:
    r"""Draw points and a density on a manifold: data, samples and density side by side, in the manifold's own picture.

    Spheres are drawn as Mollweide maps, tori as Ramachandran plots, rotations as directions with a hue, hyperbolic
    planes as Poincaré disks, circles as circular histograms, products factor by factor, anything else by its
    coordinates and distances. The density is an image on two-dimensional manifolds, with colours between the levels
    above which 0.5 % and 99.9 % of the mass lie; where a picture shows only a part of the manifold, the points are
    coloured by their log density.

    A manifold gets a picture with ``views.register(MyManifold)``, or a figure of a wholly different kind with
    ``plot.register(MyManifold)``.

    Args:
        manifold: where the points live.
        samples: points ``(*batch, *point_shape)``.
        data: points ``(*batch, *point_shape)`` to compare with.
        log_prob: log density in nats with respect to the Riemannian volume, ``(n, *point_shape) -> (n,)``; it is called
            with points of the samples' (or the data's) dtype and device.
        title: heading of the figure.
        path: file to write; its suffix chooses the format (png, pdf, svg, ...). It appears whole or not at all.
        ax: axes to draw on, for figures of one axes.
        resolution: columns of a density image; its cost is about ``resolution**2 / 2`` evaluations of ``log_prob``.
        batch_size: points per call of ``log_prob``.

    Returns:
        The figure.

    Raises:
        ManifoldError: points have the wrong shape, are not finite, or are off the manifold.
        DataError: a set of points is empty.
        ConfigError: there is nothing to draw, or the options can't be combined.
        NumericsError: ``log_prob`` is NaN somewhere.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> x = Sphere(2).random_uniform(100, generator=torch.Generator().manual_seed(0))
        >>> figure = plot(Sphere(2), samples=x, title="Uniform")
        >>> len(figure.axes)
        1
    """
    seen = views(manifold)
    scene = _scene(manifold, samples, data, log_prob, resolution, batch_size)
    maps, charts = [v for v in seen if isinstance(v, Map)], [v for v in seen if isinstance(v, Chart)]
    if len(maps) > MAX_COLUMNS or len(charts) > MAX_COLUMNS:
        note = f"first {MAX_COLUMNS} of {max(len(maps), len(charts))} views"
        title = f"{title} ({note})" if title else f"{manifold}: {note}"
        maps, charts = maps[:MAX_COLUMNS], charts[:MAX_COLUMNS]
    rows = len(scene.sources) + (log_prob is not None)
    if ax is None:
        figure, map_axes, chart_axes = _axes(maps, charts, scene, rows, title is not None)
    else:
        panels = len(maps) * rows + len(charts)
        if panels != 1:
            raise ConfigError(f"ax holds one panel, and this figure has {panels}. Leave ax out.")
        needed = (maps or charts)[0].projection or "rectilinear"
        if ax.name != needed:
            raise ConfigError(f"ax has the projection '{ax.name}'; this picture needs '{needed}'.")
        figure, map_axes, chart_axes = root_figure(ax), [[ax]] if maps else [], [] if maps else [ax]
    for k, line in enumerate(map_axes):
        for column, (view, panel) in enumerate(zip(maps, line, strict=True)):
            if k < len(scene.sources):
                view.draw_points(panel, scene.sources[k], scene)
                heading = scene.sources[k].label
            else:
                heading = view.draw_density(panel, scene, bar=column == 0)
            shown = [heading if column == 0 else "", view.name if k == 0 else ""]
            panel.set_title("  ·  ".join(filter(None, shown)), fontsize=FONT["title"], pad=6)
    for view, panel in zip(charts, chart_axes, strict=True):
        view.draw(panel, scene)
        panel.set_title(view.name, fontsize=FONT["title"], pad=6)
    return finish(figure, title, path)


def compare(
    manifold: Manifold,
    data: Tensor,
    samples: Tensor,
    log_prob: LogProb | None = None,
    *,
    title: str | None = None,
    path: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Figure:
    """Data, samples and the model's density, side by side: the picture that shows whether a model has learned its data.

    Args:
        manifold: where the points live.
        data: held-out points ``(*batch, *point_shape)``.
        samples: the model's points ``(*batch, *point_shape)``; as many as there are data make panels of equal ink.
        log_prob: the model's log density in nats with respect to the Riemannian volume.
        title: heading of the figure.
        path: file to write.
        options: ``resolution`` and ``batch_size`` of :func:`plot`.

    Returns:
        The figure.

    Raises:
        DataError: data or samples are missing.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Torus
        >>> M, g = Torus(2), torch.Generator().manual_seed(0)
        >>> figure = compare(M, M.random_uniform(50, generator=g), M.random_uniform(50, generator=g))
    """
    for name, x in (("data", data), ("samples", samples)):
        if x is None:
            raise DataError(f"compare needs {name}; got None. For one set of points use plot(manifold, samples).")
    return plot(manifold, samples=samples, data=data, log_prob=log_prob, title=title, path=path, **options)


def _axes(
    maps: list[Map], charts: list[Chart], scene: Scene, rows: int, titled: bool
) -> tuple[Figure, list[list[Axes]], list[Axes]]:
    """Axes of a figure: one map and its charts in a row, or several maps, a row per source, with the charts below."""
    if len(maps) <= 1:
        height = 2.35 if maps and maps[0].aspect > 1.5 else 3.0
        if len(maps) * rows + len(charts) == 1:
            height *= 1.3
        cells = [Cell(m, height, m.bar_room(k >= len(scene.sources))) for m in maps for k in range(rows)]
        figure, lines = place(flow([*cells, *[Cell(c, height) for c in charts]]), titled)
        axes = [a for line in lines for a in line]
        return figure, [[a] for a in axes[: len(cells)]], axes[len(cells) :]
    lines = [[Cell(m, 2.2, m.bar_room(k >= len(scene.sources))) for m in maps] for k in range(rows)]
    below = flow([Cell(c, 2.2) for c in charts]) if charts else []
    figure, axes = place([*lines, *below], titled)
    return figure, axes[:rows], [a for line in axes[rows:] for a in line]


def _points(manifold: Manifold, x: Tensor | None, name: str) -> Tensor | None:
    if x is None:
        return None
    manifold.check_point(x, name)
    if x.numel() == 0:
        raise DataError(f"{name} is empty: got shape {tuple(x.shape)}; expected at least one point of {manifold}.")
    return x.detach().reshape(-1, *manifold.point_shape)


def _scene(
    manifold: Manifold,
    samples: Tensor | None,
    data: Tensor | None,
    log_prob: LogProb | None,
    resolution: int,
    batch_size: int,
) -> Scene:
    if samples is None and data is None and log_prob is None:
        raise ConfigError("There is nothing to draw: give samples, data or log_prob.")
    if resolution < 8 or batch_size < 1:
        raise ConfigError(
            f"resolution must be at least 8 and batch_size at least 1; got {resolution} and {batch_size}."
        )
    data, samples = _points(manifold, data, "data"), _points(manifold, samples, "samples")
    like = next((x for x in (samples, data) if x is not None), torch.empty(0))
    scene = Scene(data, samples, log_prob, None, resolution, batch_size, like)
    if log_prob is None:
        return scene
    # Evaluated once, when the first view that needs it asks.
    at_points = cache(lambda: evaluate(log_prob, scene.coloured, batch_size))
    return Scene(data, samples, log_prob, at_points, resolution, batch_size, like)
