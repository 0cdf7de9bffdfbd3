"""The triangle of three categories."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .scene import Grid, Scene
from .views import FONT, LINE, Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["Ternary"]

_HEIGHT = math.sqrt(3) / 2
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, _HEIGHT]])


@dataclass(frozen=True)
class Ternary(Map):
    """Three proportions in an equilateral triangle: category 1 at the lower left, 2 at the lower right, 3 on top.

    A density is drawn as it is, per area of the metric of Fisher and Rao.

    Example:
        >>> import torch
        >>> Ternary().plane(torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).round(3).tolist()
        [[1.0, 0.0], [0.5, 0.866]]
    """

    name: str = ""
    aspect = 1 / _HEIGHT
    margin = (0.1, 0.2, 0.1)
    contours = True

    def plane(self, x: Tensor) -> np.ndarray:
        return x.detach().cpu().double().numpy() @ _CORNERS

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        colour, alpha = ("white", 0.35) if over_image else (LINE, 0.6)
        for level in (0.25, 0.5, 0.75):
            for i in range(3):
                ends = np.eye(3)[[(i + 1) % 3, (i + 2) % 3]] * (1 - level)
                ends[:, i] = level
                ax.plot(*(ends @ _CORNERS).T, color=colour, alpha=alpha, lw=0.5, zorder=2)
        ax.add_patch(self._triangle(fill=False, ec="#555a63", lw=0.9, zorder=4))
        for i, (dx, dy) in enumerate([(-0.03, -0.02), (0.03, -0.02), (0.0, 0.02)]):
            ax.text(
                _CORNERS[i, 0] + dx,
                _CORNERS[i, 1] + dy,
                f"$p_{i + 1}$",
                ha=("right", "left", "center")[i],
                va=("top", "top", "bottom")[i],
                fontsize=FONT["label"],
            )
        ax.set_xlim(-0.08, 1.08)
        ax.set_ylim(-0.08, _HEIGHT + 0.09)
        ax.set_aspect("equal")
        ax.set_axis_off()

    @staticmethod
    def _triangle(**style: object) -> Patch:
        from matplotlib.patches import Polygon

        return Polygon(_CORNERS, closed=True, **style)  # pyright: ignore[reportArgumentType]

    def outline(self) -> Patch:
        return self._triangle(fc="none", ec="none")

    def grid(self, scene: Scene) -> Grid:
        m = max(scene.resolution * 3 // 4, 8)
        u, v = (np.arange(m) + 0.5) / m, (np.arange(m) + 0.5) / m * _HEIGHT
        xy = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), -1).reshape(-1, 2)
        third = xy[:, 1] / _HEIGHT
        p = np.stack([1 - xy[:, 0] - third / 2, xy[:, 0] - third / 2, third], -1)
        inside = (p > 0).all(-1)
        # Pixels outside show the nearest proportions inside, so that the rim is interpolated between like colours.
        p = np.maximum(p, 0.25 / m)
        p = p / p.sum(-1, keepdims=True)
        volume = np.where(inside, 1 / np.sqrt(p.prod(-1)), 0.0)
        points = torch.as_tensor(p).to(scene.like)
        return Grid(points / points.sum(-1, keepdim=True), np.arange(m * m).reshape(m, m), (0, 1, 0, _HEIGHT), volume)
