"""What a figure shows: data, samples and a log density, and the grid on which a view evaluates that density."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError

__all__ = ["Grid", "LogProb", "Scene", "Source", "evaluate", "thin"]

LogProb = Callable[[Tensor], Tensor]
"""Log density in nats with respect to the Riemannian volume, ``(n, *point_shape) -> (n,)``."""

MAX_COLOURED = 4000
"""Most points that carry the log density where no image can: an exact likelihood solves an ODE for each."""

COLOURS = {"data": "#4a4e57", "samples": "#0072b2", "density": "#d55e00"}
"""One colour per source in all figures; distinguishable with colour-vision deficiencies."""


@dataclass(frozen=True)
class Grid:
    """Pixels of an image of the whole manifold.

    Attributes:
        points: where the log density is evaluated, ``(m, *point_shape)``.
        index: point that each pixel shows, ``(rows, columns)``, lowest row first. Pixels outside the manifold's outline
            show the nearest point inside, so that interpolation has no dark rim; the outline then clips them.
        extent: left, right, bottom and top of the image in the axes' coordinates.
        volume: Riemannian volume of each point's pixel up to a factor, ``(m,)``; None means equal.
        log_total: logarithm of the manifold's volume, when colours are relative to the uniform density; None otherwise.
    """

    points: Tensor
    index: np.ndarray
    extent: tuple[float, float, float, float]
    volume: np.ndarray | None = None
    log_total: float | None = None


@dataclass(frozen=True)
class Source:
    """A named set of points: ``data`` or ``samples``."""

    name: str
    x: Tensor

    @property
    def colour(self) -> str:
        """The source's colour in all figures."""
        return COLOURS[self.name]

    @property
    def label(self) -> str:
        """Name and number of points."""
        return f"{self.name}, n = {len(self.x):,}"


@dataclass(frozen=True)
class Scene:
    """Everything one figure shows.

    Attributes:
        data: points ``(n, *point_shape)``, or None.
        samples: points ``(m, *point_shape)``, or None.
        log_prob: log density that a view of the whole manifold can evaluate on its own grid, or None.
        at_points: log density at :attr:`coloured`, ``() -> (k,)``, for views that show a part of the manifold; None
            without a density.
        resolution: columns of a density image.
        batch_size: points per call of ``log_prob``.
        like: a tensor whose dtype and device grids take.
    """

    data: Tensor | None
    samples: Tensor | None
    log_prob: LogProb | None
    at_points: Callable[[], np.ndarray] | None
    resolution: int
    batch_size: int
    like: Tensor

    @cached_property
    def sources(self) -> list[Source]:
        """Data and samples, those that are given."""
        given = [("data", self.data), ("samples", self.samples)]
        return [Source(name, x) for name, x in given if x is not None]

    @property
    def everything(self) -> Tensor:
        """All points, for limits and bins that data and samples share."""
        if not self.sources:
            raise ConfigError(
                "This manifold's picture takes its limits from points: give samples or data beside log_prob."
            )
        return torch.cat([s.x for s in self.sources])

    @property
    def coloured(self) -> Tensor:
        """Points that carry the log density where no image can: some samples, or data when there are none."""
        if not self.sources:
            raise ConfigError(
                "The density on this manifold is shown by colouring points: give samples or data beside log_prob."
            )
        return thin(self.sources[-1].x, MAX_COLOURED)

    def through(self, part: Callable[[Tensor], Tensor]) -> Scene:
        """The scene as a projection sees it: points mapped, the joint log density kept on points only."""
        data = None if self.data is None else part(self.data)
        samples = None if self.samples is None else part(self.samples)
        return replace(self, data=data, samples=samples, log_prob=None)


def thin(x: Tensor, limit: int) -> Tensor:
    """At most ``limit`` of the points, evenly spaced in their order."""
    if len(x) <= limit:
        return x
    return x[torch.linspace(0, len(x) - 1, limit, dtype=torch.float64, device=x.device).round().long()]


def evaluate(log_prob: LogProb, x: Tensor, batch_size: int) -> np.ndarray:
    """Log density at many points, in batches; raises where it is NaN or +inf (-inf is a density of zero)."""
    parts = []
    for chunk in x.split(batch_size):
        value = torch.as_tensor(log_prob(chunk))
        if tuple(value.shape) != (len(chunk),):
            raise ConfigError(
                f"log_prob returned shape {tuple(value.shape)} for {len(chunk)} points; expected ({len(chunk)},), one "
                "number per point. Reduce over the axes of the point."
            )
        parts.append(value.detach().cpu().double())
    values = torch.cat(parts).numpy()
    bad = np.isnan(values) | (values == math.inf)
    if bad.any():
        row = int(bad.argmax())
        raise NumericsError(
            f"log_prob is {values[row]} at {int(bad.sum())} of {len(values)} points, first at x = {x[row].tolist()}. "
            "Evaluate log_prob there, and raise the solver's accuracy or use float64."
        )
    return values
