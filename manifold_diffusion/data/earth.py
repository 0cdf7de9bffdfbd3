"""Places on Earth as points of the sphere: latitude and longitude, and the airports of the world."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import DataError
from ..manifolds import Sphere
from .points import PointSet

__all__ = ["latlon_to_points", "load_airports", "points_to_latlon"]


def latlon_to_points(latlon: Tensor) -> Tensor:
    r"""Unit vectors of places, :math:`(\cos\phi\cos\lambda,\ \cos\phi\sin\lambda,\ \sin\phi)`, on a spherical Earth.

    Args:
        latlon: latitude :math:`\phi` in [-90, 90] and longitude :math:`\lambda` in [-180, 360], in degrees, ``(*batch,
            2)``.

    Returns:
        Points of ``Sphere(2)``, ``(*batch, 3)``; the poles are exact.

    Raises:
        DataError: a coordinate that is not finite or out of range, with its row.

    Example:
        >>> import torch
        >>> latlon_to_points(torch.tensor([[90.0, 12.0], [0.0, 180.0]]))
        tensor([[ 0.,  0.,  1.],
                [-1.,  0.,  0.]])
    """
    if latlon.shape[-1:] != (2,):
        raise DataError(f"latlon must have shape (*batch, 2): latitude, longitude; got {tuple(latlon.shape)}.")
    lat, lon = latlon.unbind(-1)
    good = (lat.abs() <= 90) & (lon >= -180) & (lon <= 360)  # false for NaN
    if not good.all():
        row = int((~good).reshape(-1).nonzero()[0])
        at = latlon.reshape(-1, 2)[row].tolist()
        raise DataError(
            f"latlon: {int((~good).sum())} of {good.numel()} places are out of range, first at row {row}: "
            f"latitude {at[0]:g} (expected [-90, 90]), longitude {at[1]:g} (expected [-180, 360]). "
            "Are the columns in the order latitude, longitude?"
        )
    cos_lat, sin_lat = _circle(lat)
    cos_lon, sin_lon = _circle(lon)
    return torch.stack([cos_lat * cos_lon, cos_lat * sin_lon, sin_lat], -1)


def _circle(degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of an angle in degrees, exact at the multiples of 90: only the rest in [-45, 45] is rounded."""
    quarter = (degrees / 90).round()
    rest = torch.deg2rad(degrees - 90 * quarter)
    c, s = rest.cos(), rest.sin()
    turn = quarter.long() % 4
    cosine = torch.where(turn == 0, c, torch.where(turn == 1, -s, torch.where(turn == 2, -c, s)))
    sine = torch.where(turn == 0, s, torch.where(turn == 1, c, torch.where(turn == 2, -s, -c)))
    return cosine + 0.0, sine + 0.0


def points_to_latlon(x: Tensor) -> Tensor:
    """Latitude and longitude in degrees of points of ``Sphere(2)``; longitude in (-180, 180], 0 at the poles.

    Args:
        x: ``(*batch, 3)``.

    Returns:
        ``(*batch, 2)``.

    Example:
        >>> import torch
        >>> points_to_latlon(torch.tensor([0.0, 1.0, 0.0]))
        tensor([ 0., 90.])
    """
    if x.shape[-1:] != (3,):
        raise DataError(f"x must have shape (*batch, 3): points of Sphere(2); got {tuple(x.shape)}.")
    lat = torch.atan2(x[..., 2], torch.hypot(x[..., 0], x[..., 1]))
    lon = torch.atan2(x[..., 1] + 0.0, x[..., 0] + 0.0)  # + 0.0 turns -0.0 into 0.0, so that the date line is +180
    return torch.rad2deg(torch.stack([lat, lon], -1))


def load_airports(dtype: torch.dtype = torch.float32, deduplicate: bool = True) -> PointSet:
    """The airports of the world on ``Sphere(2)``, from the package ``airportsdata``, sorted by their code.

    The release of 2026-09-05 has 28,298 airports at 28,293 distinct places.

    Args:
        dtype: dtype of the points; they are computed in float64.
        deduplicate: whether to keep only the first of several airports at one place.

    References:
        Mike Borsetti, *airportsdata*, https://github.com/mborsetti/airportsdata (MIT licence).

    Example:
        >>> airports = load_airports()
        >>> airports.manifold, airports.points.shape[1]
        (Sphere(2), 3)
    """
    from importlib.metadata import version

    import airportsdata

    rows = airportsdata.load("ICAO")
    latlon = torch.tensor([(rows[code]["lat"], rows[code]["lon"]) for code in sorted(rows)], dtype=torch.float64)
    source = f"airportsdata {version('airportsdata')}, https://github.com/mborsetti/airportsdata (MIT licence)"
    everything = PointSet(Sphere(2), latlon_to_points(latlon).to(dtype), name="airports", source=source)
    distinct = everything.deduplicated()
    if deduplicate:
        return distinct
    return PointSet(Sphere(2), everything.points, name="airports", source=source, n_duplicates=distinct.n_duplicates)
