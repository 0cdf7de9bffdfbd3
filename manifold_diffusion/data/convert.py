"""From columns of numbers to points of a manifold, with a report of the rows that can't be used."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch
from typing import Literal

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import Manifold, Sphere, Torus
from .earth import latlon_to_points

__all__ = ["Coordinates", "raise_bad_rows", "to_points"]

Coordinates = Literal["auto", "ambient", "latlon", "degrees", "radians"]
"""What the columns of a file are.

``ambient``: the entries of a point, row by row. ``latlon``: latitude and longitude in degrees, for ``Sphere(2)``.
``degrees`` and ``radians``: angles, for ``Torus(n)`` of the default periods, where ``radians`` and ``ambient`` are the
same; ``ambient`` coordinates of any torus may be off by one period. ``auto``: ``latlon`` for ``Sphere(2)``
if the header names a latitude and a longitude, or two columns are chosen, else ``ambient``.
"""

_ROUNDING = 1e-4
"""Largest defect of an ambient point in a file that is taken for rounded decimals and projected away."""

_SHOWN = 5


def raise_bad_rows(
    name: str, bad: Tensor, where: Callable[[int], str], describe: Callable[[int], str], fix: str = ""
) -> None:
    """Raise :class:`DataError` if any row is bad, naming the first rows.

    Args:
        name: of the file or array.
        bad: ``(n,)`` bool.
        where: from a row's index to words such as ``line 12``.
        describe: from a row's index to what is wrong with it.
        fix: what to do about it.
    """
    rows = [int(i) for i in bad.nonzero()[: _SHOWN + 1, 0]]
    if not rows:
        return
    total = int(bad.sum())
    more = (
        ""
        if total == 1
        else f" ({total} bad rows: {', '.join(where(i) for i in rows[:_SHOWN])}{', ...' if total > _SHOWN else ''})"
    )
    raise DataError(f"{name}, {where(rows[0])}: {describe(rows[0])}{more}.{' ' + fix if fix else ''}")


def to_points(
    values: Tensor,
    manifold: Manifold,
    coordinates: Coordinates,
    *,
    name: str,
    where: Callable[[int], str],
    dtype: torch.dtype,
) -> Tensor:
    """Points of the manifold from rows of coordinates.

    Args:
        values: ``(n, n_columns)``, float64.
        manifold: the manifold.
        coordinates: what the columns are; not ``auto``.
        name: of the file or array, for errors.
        where: from a row's index to its place in the file, for errors.
        dtype: of the result; the conversion is done in float64.

    Returns:
        ``(n, *point_shape)``.

    Raises:
        ConfigError: coordinates that don't belong to the manifold.
        DataError: no rows, the wrong number of columns, or bad rows.
    """
    if coordinates not in ("ambient", "latlon", "degrees", "radians"):
        raise ConfigError(f"coordinates must be one of auto, ambient, latlon, degrees, radians; got {coordinates!r}.")
    periods = _periods(manifold)
    if coordinates == "latlon" and manifold != Sphere(2):
        raise ConfigError(f"coordinates='latlon' belongs to Sphere(2); got {manifold}. Use coordinates='ambient'.")
    if coordinates in ("degrees", "radians") and manifold != Torus(manifold.dim):
        raise ConfigError(
            f"coordinates={coordinates!r} belongs to Torus(n) with periods of 2 pi; got {manifold}. "
            "Use coordinates='ambient'."
        )
    expected = 2 if coordinates == "latlon" else math.prod(manifold.point_shape)
    if values.shape[1] != expected:
        raise DataError(
            f"{name}: {values.shape[1]} columns, but {coordinates} coordinates of {manifold} are {expected}: "
            "name the columns with columns=."
        )
    if len(values) == 0:
        raise DataError(f"{name}: no rows of data.")

    raise_bad_rows(
        name,
        ~values.isfinite().all(1),
        where,
        lambda i: f"coordinates {_row(values, i)} are not all finite",
        "Drop or repair such rows.",
    )
    if coordinates == "latlon":
        lat, lon = values.unbind(1)
        order = "Expected: latitude, longitude, in degrees."
        raise_bad_rows(name, lat.abs() > 90, where, lambda i: f"latitude {float(lat[i]):g} is outside [-90, 90]", order)
        raise_bad_rows(
            name,
            (lon < -180) | (lon > 360),
            where,
            lambda i: f"longitude {float(lon[i]):g} is outside [-180, 360]",
            order,
        )
        return latlon_to_points(values).to(dtype)
    if periods is not None:
        return _inside(manifold, _turns(values, manifold, periods, coordinates, name, where), dtype)

    points = values.reshape(-1, *manifold.point_shape)
    defect = manifold.defect(points)
    raise_bad_rows(
        name,
        ~(defect <= _ROUNDING),
        where,
        lambda i: (
            f"the point is not on {manifold}: {manifold.defect_formula} = {float(defect[i]):.1e} > {_ROUNDING:.0e}"
        ),
        f"Project first ({manifold}.project), or say what the columns are with coordinates=.",
    )
    return _inside(manifold, manifold.project(points), dtype)


@singledispatch
def _periods(manifold: Manifold) -> tuple[float, ...] | None:
    """Periods of the coordinates of a torus; None on other manifolds."""
    return None


@_periods.register
def _(manifold: Torus) -> tuple[float, ...]:
    return manifold.lengths


def _turns(
    values: Tensor,
    manifold: Manifold,
    periods: tuple[float, ...],
    coordinates: Coordinates,
    name: str,
    where: Callable[[int], str],
) -> Tensor:
    """Points of a torus from coordinates within one period of zero."""
    angles = manifold == Torus(manifold.dim)
    turn = torch.full((manifold.dim,), 360.0) if coordinates == "degrees" else torch.tensor(periods)
    outside = (values.abs() > turn.double() * (1 + 1e-6)).any(1)
    if angles:
        unit = "degrees" if coordinates == "degrees" else "radians"
        limits = f"angles {{}} are outside one turn, [-{float(turn[0]):g}, {float(turn[0]):g}] {unit}"
        fix = "" if unit == "degrees" else "If these are degrees, say so: coordinates='degrees'."
    else:
        limits = f"coordinates {{}} of {manifold} are outside one period of zero"
        fix = f"Wrap them first: {manifold}.project."
    raise_bad_rows(name, outside, where, lambda i: limits.format(_row(values, i)), fix)
    return manifold.project(torch.deg2rad(values) if coordinates == "degrees" else values)


def _inside(manifold: Manifold, points: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast, and project once more where the cast rounds off the manifold (the float32 next to pi is above pi)."""
    cast = points.to(dtype)
    return cast if dtype == points.dtype else manifold.project(cast)


def _row(values: Tensor, i: int) -> str:
    return "(" + ", ".join(f"{v:g}" for v in values[i].tolist()) + ")"
