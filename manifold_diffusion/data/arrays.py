"""Points from arrays in memory and from NPZ or NPY files."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._errors import DataError
from ..manifolds import Manifold
from .convert import Coordinates, to_points
from .points import PointSet

__all__ = ["load_npz", "point_set"]

_KEYS = ("points", "x", "data")


def point_set(
    values: Any,
    manifold: Manifold,
    coordinates: Coordinates = "auto",
    *,
    name: str = "points",
    source: str = "",
    dtype: torch.dtype = torch.float32,
    deduplicate: bool = False,
) -> PointSet:
    """A checked :class:`PointSet` from a tensor, an array or nested lists.

    Args:
        values: ``(n, *point_shape)``, or ``(n, n_columns)`` of the given coordinates.
        manifold: the manifold.
        coordinates: what the columns are; ``auto`` means ``ambient``.
        name: of the data set, for errors and tables.
        source: to cite.
        dtype: of the points.
        deduplicate: whether to drop exact repeats.

    Raises:
        DataError: values that are not numbers, no rows, rows that are not finite, out of range or off the manifold.

    Example:
        >>> from manifold_diffusion.manifolds import Torus
        >>> point_set([[180.0, -90.0]], Torus(2), "degrees").points
        tensor([[ 3.1416, -1.5708]])
    """
    try:
        tensor = (
            values.detach().double() if isinstance(values, Tensor) else torch.as_tensor(values, dtype=torch.float64)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} can't be read as an array of numbers: {error}") from error
    if tensor.dim() == 0:
        raise DataError(f"{name} is a single number; expected rows of coordinates, (n, *{manifold.point_shape}).")
    columns = tensor.reshape(len(tensor), -1) if len(tensor) else tensor.new_zeros(0, 0)
    if len(columns) == 0:
        raise DataError(f"{name}: no rows of data.")
    chosen: Coordinates = "ambient" if coordinates == "auto" else coordinates
    points = to_points(columns, manifold, chosen, name=name, where=lambda i: f"row {i}", dtype=dtype)
    return finish(points, manifold, name, source, deduplicate)


def finish(points: Tensor, manifold: Manifold, name: str, source: str, deduplicate: bool) -> PointSet:
    """The record, with its duplicates counted and dropped on request."""
    everything = PointSet(manifold, points, name, source)
    distinct = everything.deduplicated()
    return distinct if deduplicate else PointSet(manifold, points, name, source, distinct.n_duplicates)


def load_npz(
    path: str | Path,
    manifold: Manifold,
    key: str | None = None,
    coordinates: Coordinates = "auto",
    *,
    name: str | None = None,
    source: str = "",
    dtype: torch.dtype = torch.float32,
    deduplicate: bool = False,
) -> PointSet:
    """Points from an NPZ or NPY file; nothing in it is ever unpickled.

    Args:
        path: the file.
        manifold: the manifold.
        key: name of the array; default the only one, or the one called ``points``, ``x`` or ``data``.
        coordinates: what the columns are, see :data:`Coordinates`; ``auto`` means ``ambient``.
        name: of the data set; default the file's stem.
        source: to cite.
        dtype: of the points.
        deduplicate: whether to drop exact repeats.

    Raises:
        DataError: the file is missing, corrupt, holds pickled objects or no such array, or a row can't be used.
    """
    import numpy as np

    path = Path(path)
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            array = loaded if isinstance(loaded, np.ndarray) else loaded[_choose(path, list(loaded.files), key)]
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}.") from error
    except (zipfile.BadZipFile, ValueError, EOFError, SyntaxError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: not a readable NPZ or NPY file of plain numbers: {error}") from error
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: the array has dtype {array.dtype}; expected real numbers.")
    points = point_set(array, manifold, coordinates, name=path.name, dtype=dtype).points
    return finish(points, manifold, name or path.stem, source or path.name, deduplicate)


def _choose(path: Path, keys: list[str], key: str | None) -> str:
    if key is None:
        key = keys[0] if len(keys) == 1 else next((k for k in _KEYS if k in keys), None)
    if key is None or key not in keys:
        asked = "which array to take is not clear" if key is None else f"no array {key!r}"
        raise DataError(f"{path}: {asked}; the file has {', '.join(map(repr, keys)) or 'none'}. Name one with key=.")
    return key
