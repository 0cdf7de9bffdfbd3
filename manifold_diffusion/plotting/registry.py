"""Which views a manifold is drawn with: a function dispatched on its class, which users extend in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError
from ..manifolds import (
    SE3,
    SO3,
    ConstantCurvature,
    Euclidean,
    Hyperboloid,
    Manifold,
    PoincareBall,
    Power,
    Product,
    Simplex,
    Sphere,
    Torus,
)
from .maps import Mollweide, Plane, PoincareDisk, Ramachandran, RotationMap
from .scene import Scene, Source
from .ternary import Ternary
from .views import Chart, CircularHistogram, Histogram, Map

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["views"]


@singledispatch
def views(manifold: object) -> Sequence[Map | Chart]:
    """Views that :func:`plot` draws of a manifold, dispatched on its class.

    ``views.register(MyManifold)`` adds one; without it a manifold is drawn by pairs of its coordinates and by
    distances.

    Args:
        manifold: the manifold.

    Returns:
        Maps (one axes for data, one for samples, one for the density) and charts (one axes for all).

    Raises:
        ConfigError: the argument is not a manifold.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> [type(v).__name__ for v in views(Sphere(2))]
        ['Mollweide']
    """
    raise ConfigError(
        f"There is no picture of {manifold!r}: expected a Manifold. "
        f"Give it one with views.register({type(manifold).__name__})."
    )


@views.register(Manifold)
def _general(manifold: Manifold) -> Sequence[Map | Chart]:
    """Disjoint pairs of coordinates, distances between random pairs of points."""
    k = manifold.coordinates(manifold.origin().unsqueeze(0)).shape[-1]
    distances = Histogram(_pair_distances(manifold), "distance between two points")
    if k == 1:
        return [Histogram(lambda x: manifold.coordinates(x)[:, 0], r"$x_1$")]
    return [*_planes(manifold, k), distances]


def _planes(manifold: Manifold, k: int, limits: tuple[float, float] | None = None) -> list[Plane]:
    pairs = [(i, i + 1) for i in range(0, k - 1, 2)] + ([(k - 2, k - 1)] if k % 2 else [])
    return [Plane(manifold.coordinates, i, j, limits=limits) for i, j in pairs]


def _pair_distances(manifold: Manifold) -> Callable[[Tensor], Tensor]:
    def distances(x: Tensor) -> Tensor:
        # A cyclic shift of a fixed random order pairs every point with another one, whatever the order of the data.
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).to(x.device)
        return manifold.dist(x[order], x[order.roll(1)])

    return distances


@views.register
def _sphere(manifold: Sphere) -> Sequence[Map | Chart]:
    n = manifold.n
    if n == 1:
        return [
            CircularHistogram(lambda x: torch.atan2(x[:, 1], x[:, 0]), lambda a: torch.stack([a.cos(), a.sin()], -1))
        ]
    if n == 2:
        return [Mollweide()]
    # Uniform law of the angle between two points: sin^(n-1), normalised.
    log_norm = 0.5 * math.log(math.pi) + math.lgamma(n / 2) - math.lgamma((n + 1) / 2)
    angles = Histogram(
        lambda x: torch.rad2deg(_pair_distances(manifold)(x)),
        "angle between two points",
        "deg",
        limits=(0, 180),
        reference=lambda w: np.sin(np.deg2rad(w)) ** (n - 1) * math.exp(-log_norm) * math.pi / 180,
    )
    return [*_planes(manifold, n + 1, (-1.05, 1.05)), angles]


@views.register
def _torus(manifold: Torus) -> Sequence[Map | Chart]:
    if manifold.n == 1:
        radius = manifold.lengths[0] / (2 * math.pi)
        return [CircularHistogram(lambda x: x[:, 0] / radius, lambda a: radius * a.unsqueeze(-1), manifold.volume)]
    if manifold.periods is None:
        return [Ramachandran(i, i + 1, manifold.n) for i in range(manifold.n - 1)]
    half = max(manifold.lengths) / 2
    whole = manifold.n == 2 and len(set(manifold.lengths)) == 1  # the frame is a square
    return [Plane(manifold.coordinates, i, i + 1, whole, (-half, half)) for i in range(manifold.n - 1)]


@views.register
def _rotations(manifold: SO3) -> Sequence[Map | Chart]:
    # Uniform law of the rotation angle: (1 - cos w) / pi per radian.
    angles = Histogram(
        lambda x: torch.rad2deg(manifold.dist(manifold.identity(x.dtype, x.device).expand_as(x), x)),
        "rotation angle",
        "deg",
        limits=(0, 180),
        reference=lambda w: (1 - np.cos(np.deg2rad(w))) / 180,
    )
    return [RotationMap(), angles]


@views.register
def _hyperbolic(manifold: Hyperboloid) -> Sequence[Map | Chart]:
    if manifold.n == 1:
        line = Histogram(
            lambda x: torch.asinh(x[:, 1]),
            "signed distance from the origin",
            point=lambda r: torch.stack([r.cosh(), r.sinh()], -1),
        )
        return [line]
    if manifold.n == 2:
        return [PoincareDisk(2)]
    radius = Histogram(lambda x: torch.asinh(x[:, 1:].norm(dim=-1)), "distance from the origin")
    return [PoincareDisk(manifold.n), radius]


@views.register
def _ball(manifold: PoincareBall) -> Sequence[Map | Chart]:
    if manifold.n == 1:
        line = Histogram(
            lambda x: 2 * torch.atanh(x[:, 0]),
            "signed distance from the origin",
            point=lambda r: (r / 2).tanh().unsqueeze(-1),
        )
        return [line]
    disk = PoincareDisk(manifold.n, ball=True)
    radius = Histogram(lambda x: 2 * torch.atanh(x.norm(dim=-1)), "distance from the origin")
    return [disk] if manifold.n == 2 else [disk, radius]


@views.register
def _euclidean(manifold: Euclidean) -> Sequence[Map | Chart]:
    if manifold.n == 1:
        return [Histogram(lambda x: x[:, 0], "x", point=lambda r: r.unsqueeze(-1))]
    if manifold.n == 2:
        return [Plane(manifold.coordinates, whole=True)]
    return [*_planes(manifold, manifold.n), Histogram(lambda x: x.norm(dim=-1), "distance from the origin")]


@views.register
def _simplex(manifold: Simplex) -> Sequence[Map | Chart]:
    return [Ternary()] if manifold.k == 3 else _general(manifold)


@dataclass(frozen=True)
class _FactorMap(Map):
    """A map of one factor of a product; the joint density colours its points."""

    view: Map
    part: Callable[[Tensor], Tensor]
    name: str = ""

    def __post_init__(self) -> None:
        for attribute in ("aspect", "projection", "margin", "caption", "hue_label", "contours"):
            object.__setattr__(self, attribute, getattr(self.view, attribute))

    def plane(self, x: Tensor) -> np.ndarray:
        return self.view.plane(self.part(x))

    def breaks(self, x: Tensor) -> np.ndarray:
        return self.view.breaks(self.part(x))

    def frame(self, ax: Axes, scene: Scene, over_image: bool = False) -> None:
        self.view.frame(ax, scene.through(self.part), over_image)

    def draw_points(self, ax: Axes, source: Source, scene: Scene) -> None:
        self.view.draw_points(ax, replace(source, x=self.part(source.x)), scene.through(self.part))

    def draw_density(self, ax: Axes, scene: Scene, bar: bool = True) -> str:
        return self.view.draw_density(ax, scene.through(self.part), bar)


@dataclass(frozen=True)
class _FactorChart(Chart):
    """A chart of one factor of a product."""

    view: Chart
    part: Callable[[Tensor], Tensor]
    name: str = ""

    def __post_init__(self) -> None:
        for attribute in ("aspect", "projection", "margin"):
            object.__setattr__(self, attribute, getattr(self.view, attribute))

    def draw(self, ax: Axes, scene: Scene) -> None:
        self.view.draw(ax, scene.through(self.part))


def _part_views(factor: Manifold, part: Callable[[Tensor], Tensor], label: str) -> list[Map | Chart]:
    """The views of a factor, of the part of a point that belongs to it."""
    drawn: list[Map | Chart] = []
    for view in views(factor):
        name = " ".join(filter(None, [label, view.name]))
        drawn.append(_FactorMap(view, part, name) if isinstance(view, Map) else _FactorChart(view, part, name))
    return drawn


@views.register
def _product(manifold: Product) -> Sequence[Map | Chart]:
    drawn: list[Map | Chart] = []
    for number, factor in enumerate(manifold.factors):
        drawn += _part_views(factor, lambda x, number=number: manifold.split(x)[number], f"{factor}")
    return drawn


@views.register
def _constant_curvature(manifold: ConstantCurvature) -> Sequence[Map | Chart]:
    """Those of the sphere, plane or hyperbolic space of unit curvature."""
    return _part_views(manifold.unit, manifold.to_unit, "")


@views.register
def _power(manifold: Power) -> Sequence[Map | Chart]:
    """The first three copies."""
    copy, axis = manifold.manifold, -1 - len(manifold.manifold.point_shape)
    drawn: list[Map | Chart] = []
    for number in range(min(manifold.k, 3)):
        label = f"{copy}, copy {number + 1}" if manifold.k > 1 else f"{copy}"
        drawn += _part_views(copy, lambda x, number=number: x.select(axis, number), label)
    return drawn


@views.register
def _poses(manifold: SE3) -> Sequence[Map | Chart]:
    """The views of rotations and of translations: a pose has the layout of their product."""
    return _product(Product(SO3(), Euclidean(3)))
