"""Maps of manifolds in the plane: Mollweide, Ramachandran, Poincaré disk, rotations, coordinate planes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError
from .scene import Grid, Scene
from .views import FONT, LINE, Map, robust_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

__all__ = ["Mollweide", "Plane", "PoincareDisk", "Ramachandran", "RotationMap"]

_SQRT2 = math.sqrt(2)
_EDGE = 2 * _SQRT2
_RIM = "#555a63"


def _numpy(x: Tensor) -> np.ndarray:
    return x.detach().cpu().double().numpy()


def _mollweide(x: np.ndarray) -> np.ndarray:
    """Mollweide projection of unit vectors ``(n, 3)``, in units of the sphere's radius, ``(n, 2)``.

    ``(2 sqrt(2) / pi lon cos a, sqrt(2) sin a)`` with ``2 a + sin 2 a = pi sin(lat)``, inverted by a table: the error
    is 4e-4 at most, less than a pixel.
    """
    a = np.linspace(-np.pi / 2, np.pi / 2, 8193)
    angle = np.interp(x[:, 2], (2 * a + np.sin(2 * a)) / np.pi, a)
    lon = np.arctan2(x[:, 1], x[:, 0])
    return np.stack([_EDGE / np.pi * lon * np.cos(angle), _SQRT2 * np.sin(angle)], -1)


def _unit(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Unit vectors from degrees."""
    lon, lat = np.deg2rad(lon), np.deg2rad(lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)


def _crosses_seam(x: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(np.arctan2(x[:, 1], x[:, 0]))) > np.pi


def _ellipse(**style: Any) -> Patch:
    from matplotlib.patches import Ellipse

    return Ellipse((0, 0), 2 * _EDGE, 2 * _SQRT2, **style)


def _globe(ax: Axes, over_image: bool) -> None:
    """Outline and graticule (30 degrees of latitude, 60 of longitude) of a Mollweide map."""
    line: dict[str, Any] = {
        "color": "white" if over_image else LINE,
        "lw": 0.5,
        "alpha": 0.35 if over_image else 0.6,
        "zorder": 2,
    }
    along = np.linspace(-90, 90, 181)
    for lon in range(-120, 180, 60):
        ax.plot(*_mollweide(_unit(np.full_like(along, lon), along)).T, **line)
    for lat in range(-60, 90, 30):
        ends = _mollweide(_unit(np.array([-179.9999, 179.9999]), np.array([lat, lat])))
        ax.plot(*ends.T, **line)
        name = f"{abs(lat)}°{'N' if lat > 0 else 'S' if lat < 0 else ''}"
        ax.text(
            ends[0, 0] - 0.05 - 0.0016 * abs(lat),
            ends[0, 1],
            name,
            ha="right",
            va="center",
            fontsize=FONT["small"],
            color="#555a63",
        )
    ax.add_patch(_ellipse(fill=False, ec=_RIM, lw=0.9, zorder=4))
    ax.set_xlim(-1.10 * _EDGE, 1.02 * _EDGE)
    ax.set_ylim(-1.03 * _SQRT2, 1.03 * _SQRT2)
    ax.set_aspect("equal")
    ax.set_axis_off()


@dataclass(frozen=True)
class Mollweide(Map):
    """Equal-area map of the unit sphere; the last coordinate points north, the first one is at the centre.

    Example:
        >>> import torch
        >>> Mollweide().plane(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])).round(3).tolist()
        [[0.0, 0.0], [0.0, 1.414]]
    """

    name: str = ""
    aspect = 2.05
    margin = (0.06, 0.06, 0.06)
    caption = "Mollweide projection"

    def plane(self, x: Tensor) -> np.ndarray:
        return _mollweide(_numpy(x))

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        _globe(ax, over_image)

    def breaks(self, x: Tensor) -> np.ndarray:
        return _crosses_seam(_numpy(x))

    def outline(self) -> Patch:
        return _ellipse(fc="none", ec="none")

    def grid(self, scene: Scene) -> Grid:
        columns = 2 * max(scene.resolution // 2, 4)
        rows = columns // 2 + columns // 2 % 2
        u = ((np.arange(columns) + 0.5) / columns * 2 - 1) * _EDGE
        v = ((np.arange(rows) + 0.5) / rows * 2 - 1) * _SQRT2
        a = np.arcsin(v / _SQRT2)
        lat = np.arcsin((2 * a + np.sin(2 * a)) / np.pi)
        lon = np.pi * u[None, :] / (_EDGE * np.cos(a)[:, None])
        inside = np.abs(lon) < np.pi
        points = _unit(np.rad2deg(lon), np.rad2deg(np.broadcast_to(lat[:, None], lon.shape)))[inside]
        # Outside the ellipse a pixel shows the nearest one inside in its row.
        first, last = inside.argmax(1), columns - 1 - inside[:, ::-1].argmax(1)
        nearest = np.clip(np.arange(columns)[None, :], first[:, None], last[:, None])
        number = np.cumsum(inside.ravel()).reshape(inside.shape) - 1
        index = np.take_along_axis(number, nearest, 1)
        points = torch.as_tensor(points).to(scene.like)
        # Rounding to float32 must not leave points off the sphere by more than one unit in the last place.
        points = points / points.norm(dim=-1, keepdim=True)
        return Grid(points, index, (-_EDGE, _EDGE, -_SQRT2, _SQRT2), log_total=math.log(4 * math.pi))


@dataclass(frozen=True)
class RotationMap(Map):
    """Rotations as the direction of the rotated z axis (Mollweide), coloured by the remaining turn about it.

    A rotation R is a turn about z, which gives the colour, followed by the shortest rotation that takes e_z to R e_z,
    which gives the place. The turn is ``atan2(R_10 - R_01, R_00 + R_11)``; all colours meet at the south pole,
    R e_z = -e_z, where it is undefined.

    References:
        Murphy et al., *Implicit-PDF: non-parametric representation of probability distributions on the rotation
        manifold*, 2021, arXiv:2106.05965 (the idea of a direction map with a hue for the remaining angle).
    """

    name: str = ""
    aspect = 2.05
    margin = (0.06, 0.06, 0.06)
    caption = "direction of the rotated z axis, Mollweide projection"
    hue_label = "turn about the axis [deg]"

    def plane(self, x: Tensor) -> np.ndarray:
        return _mollweide(_numpy(x)[:, :, 2])

    def hue(self, x: Tensor) -> np.ndarray:
        r = _numpy(x)
        return np.rad2deg(np.arctan2(r[:, 1, 0] - r[:, 0, 1], r[:, 0, 0] + r[:, 1, 1]))

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        _globe(ax, over_image)

    def breaks(self, x: Tensor) -> np.ndarray:
        return _crosses_seam(_numpy(x)[:, :, 2])


@dataclass(frozen=True)
class Ramachandran(Map):
    """Two angles of a torus in degrees, [-180, 180] on either axis.

    Attributes:
        i: the horizontal angle.
        j: the vertical angle.
        n: number of angles of the torus; the density is an image when the two are all there are.
    """

    i: int = 0
    j: int = 1
    n: int = 2
    name: str = ""
    contours = True

    def plane(self, x: Tensor) -> np.ndarray:
        return np.rad2deg(_numpy(x)[:, [self.i, self.j]])

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        ticks = [-180, -90, 0, 90, 180]
        ax.set_xlim(-180, 180)
        ax.set_ylim(-180, 180)
        ax.set_xticks(ticks)
        ax.set_yticks(ticks)
        ax.set_aspect("equal")
        ax.tick_params(labelsize=FONT["tick"], length=3, color=_RIM)
        ax.spines[:].set(color=_RIM, linewidth=0.8)
        if not over_image:
            ax.grid(color=LINE, lw=0.5, alpha=0.45)
            ax.set_axisbelow(True)
        ax.set_xlabel(rf"$\theta_{{{self.i + 1}}}$ [deg]", fontsize=FONT["label"], labelpad=1)
        ax.set_ylabel(rf"$\theta_{{{self.j + 1}}}$ [deg]", fontsize=FONT["label"], labelpad=-2)

    def breaks(self, x: Tensor) -> np.ndarray:
        return np.abs(np.diff(_numpy(x)[:, [self.i, self.j]], axis=0)).max(-1) > np.pi

    def grid(self, scene: Scene) -> Grid | None:
        if self.n != 2:
            return None
        m = max(scene.resolution // 2, 8)
        angle = (np.arange(m) + 0.5) / m * 2 * np.pi - np.pi
        points = np.stack(np.broadcast_arrays(angle[None, :], angle[:, None]), -1).reshape(-1, 2)[:, [self.i, self.j]]
        # One more cell on each side, from the opposite edge: interpolation is then periodic.
        wrapped = np.arange(-1, m + 1) % m
        index = wrapped[:, None] * m + wrapped[None, :]
        edge = 180 * (1 + 2 / m)
        return Grid(
            torch.as_tensor(points).to(scene.like),
            index,
            (-edge, edge, -edge, edge),
            log_total=2 * math.log(2 * math.pi),
        )


@dataclass(frozen=True)
class PoincareDisk(Map):
    r"""Hyperbolic space in the Poincaré ball, :math:`y = x_s / (1 + x_0)`; of the ball, the first two coordinates.

    Circles are at distances 1, 2 and 3 from the origin; the spokes are geodesics through it.

    Attributes:
        n: dimension of the hyperbolic space.
        ball: whether points are those of ``PoincareBall(n)`` instead of ``Hyperboloid(n)``.
    """

    n: int = 2
    ball: bool = False
    name: str = ""
    margin = (0.1, 0.06, 0.1)

    @property
    def caption(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "Poincaré disk" if self.n == 2 else "Poincaré ball, $x_1$ and $x_2$"

    def plane(self, x: Tensor) -> np.ndarray:
        x_ = _numpy(x)
        return x_[:, :2] if self.ball else x_[:, 1:3] / (1 + x_[:, :1])

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        from matplotlib.patches import Circle
        from matplotlib.patheffects import withStroke

        line: dict[str, Any] = {
            "color": "white" if over_image else LINE,
            "alpha": 0.4 if over_image else 0.6,
            "lw": 0.5,
            "zorder": 2,
        }
        for r in (1, 2, 3):
            radius = math.tanh(r / 2)
            ax.add_patch(Circle((0, 0), radius, fill=False, **line))
            colour = "white" if over_image else "#555a63"
            at = radius * math.cos(math.pi / 12), radius * math.sin(math.pi / 12)
            halo = [withStroke(linewidth=2, foreground="black" if over_image else "white")]
            ax.text(
                *at, f"{r}", fontsize=FONT["small"], color=colour, ha="center", va="center", zorder=5, path_effects=halo
            )
        for angle in np.arange(0, np.pi, np.pi / 6):
            ax.plot([-np.cos(angle), np.cos(angle)], [-np.sin(angle), np.sin(angle)], **line)
        ax.add_patch(Circle((0, 0), 1, fill=False, ec=_RIM, lw=1.1, zorder=4))
        ax.set_xlim(-1.03, 1.03)
        ax.set_ylim(-1.03, 1.03)
        ax.set_aspect("equal")
        ax.set_axis_off()

    def outline(self) -> Patch:
        from matplotlib.patches import Circle

        return Circle((0, 0), 1, fc="none", ec="none")

    def grid(self, scene: Scene) -> Grid | None:
        if self.n != 2:
            return None
        m = max(scene.resolution * 3 // 4, 8)
        u = (np.arange(m) + 0.5) / m * 2 - 1
        y = np.stack(np.broadcast_arrays(u[None, :], u[:, None]), -1).reshape(-1, 2)
        radius = np.linalg.norm(y, axis=-1, keepdims=True)
        # Pixels beyond the last whole cell show the density at its radius: the boundary is infinitely far away.
        limit = 1 - 1 / m
        y = np.where(radius > limit, y * limit / np.maximum(radius, limit), y)
        squared = (y**2).sum(-1)
        # x_s = 2 y / (1 - |y|^2); the volume element is (2 / (1 - |y|^2))^2.
        points = torch.as_tensor(y if self.ball else 2 * y / (1 - squared)[:, None]).to(scene.like)
        if not self.ball:
            points = torch.cat([(1 + points.square().sum(-1, keepdim=True)).sqrt(), points], -1)
        volume = np.where(radius[:, 0] > limit, 0.0, 4 / (1 - squared) ** 2)
        return Grid(points, np.arange(m * m).reshape(m, m), (-1, 1, -1, 1), volume=volume)


@dataclass(frozen=True)
class Plane(Map):
    """Two of a manifold's flat coordinates.

    Attributes:
        coordinates: the manifold's ``coordinates`` method.
        i: the horizontal coordinate.
        j: the vertical coordinate.
        whole: whether the two coordinates are the point itself, so that the density can be an image.
        limits: range of both axes; None takes them from the points.
    """

    coordinates: Any
    i: int = 0
    j: int = 1
    whole: bool = False
    limits: tuple[float, float] | None = None
    name: str = ""

    def plane(self, x: Tensor) -> np.ndarray:
        return _numpy(self.coordinates(x))[:, [self.i, self.j]]

    def _limits(self, scene: Scene) -> tuple[float, float, float, float]:
        if self.limits is not None:
            return (*self.limits, *self.limits)
        xy = self.plane(scene.everything)
        (left, right), (bottom, top) = robust_limits(xy[:, 0]), robust_limits(xy[:, 1])
        half = max(right - left, top - bottom) / 2
        u, v = (left + right) / 2, (bottom + top) / 2
        return u - half, u + half, v - half, v + half

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        from matplotlib.ticker import MaxNLocator

        left, right, bottom, top = self._limits(scene)
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
        ax.set_aspect("equal")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.tick_params(labelsize=FONT["tick"], length=3, color=_RIM)
        ax.spines[:].set(color=_RIM, linewidth=0.8)
        ax.set_xlabel(rf"$x_{{{self.i + 1}}}$", fontsize=FONT["label"], labelpad=1)
        ax.set_ylabel(rf"$x_{{{self.j + 1}}}$", fontsize=FONT["label"], labelpad=1)

    def grid(self, scene: Scene) -> Grid | None:
        if not self.whole:
            return None
        if not scene.sources:
            raise ConfigError("The frame of a plane follows the points: give samples or data beside log_prob.")
        left, right, bottom, top = extent = self._limits(scene)
        m = max(scene.resolution // 2, 8)
        step = (np.arange(m) + 0.5) / m
        u, v = left + step * (right - left), bottom + step * (top - bottom)
        points = np.stack(np.broadcast_arrays(u[None, :], v[:, None]), -1).reshape(-1, 2)
        return Grid(torch.as_tensor(points).to(scene.like), np.arange(m * m).reshape(m, m), extent)
