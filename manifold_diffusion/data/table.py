"""Points from CSV and TSV files; every bad row is reported with its line number before any work starts."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .._errors import ConfigError, DataError
from ..manifolds import Manifold, Sphere
from .arrays import finish
from .convert import Coordinates, raise_bad_rows, to_points
from .points import PointSet

__all__ = ["load_csv"]

_LATITUDE = ("lat", "latitude", "decimallatitude")
_LONGITUDE = ("lon", "long", "lng", "longitude", "decimallongitude")


def load_csv(
    path: str | Path,
    manifold: Manifold,
    columns: Sequence[str | int] | None = None,
    coordinates: Coordinates = "auto",
    *,
    delimiter: str | None = None,
    name: str | None = None,
    source: str = "",
    dtype: torch.dtype = torch.float32,
    deduplicate: bool = False,
) -> PointSet:
    r"""Points from a table of text: places on Earth, torsion angles, or the entries of points of any manifold.

    Blank lines and lines that start with ``#`` are skipped. The first row is a header if none of its fields is a
    number. Without ``columns`` latitude and longitude are found by their names (``lat``, ``latitude``, ``lon``,
    ``long``, ``lng``, ``longitude``, in any case), and other coordinates are the columns that hold numbers in the first
    row of data, in their order.

    Args:
        path: the file, in UTF-8.
        manifold: the manifold.
        columns: names (in any case) or indices from 0 of the columns to take, in the order of the coordinates.
        coordinates: what the columns are, see :data:`Coordinates`.
        delimiter: default a tab, a semicolon or a comma, whichever is most frequent in the first row, else white space.
        name: of the data set; default the file's stem.
        source: to cite; default the file's comment lines.
        dtype: of the points; they are computed in float64.
        deduplicate: whether to drop exact repeats. They are counted in any case.

    Raises:
        ConfigError: coordinates that don't belong to the manifold.
        DataError: the file is missing, empty or not text, a column does not exist, or rows are missing a coordinate, or
            have one that is not a number, out of range or off the manifold: the line of the first such row, and how
            many there are.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "places.csv"
        >>> _ = path.write_text("city,lat,lon\nQuito,0,-78.5\nOslo,59.9,10.7\n")
        >>> load_csv(path, Sphere(2))
        PointSet(places: 2 points on Sphere(2), torch.float32, 0 duplicates)
    """
    path = Path(path)
    table = _read(path, delimiter)
    taken, resolved = _columns(table, manifold, columns, coordinates)
    values = _numbers(table, taken)
    points = to_points(values, manifold, resolved, name=str(path), where=table.where, dtype=dtype)
    return finish(points, manifold, name or path.stem, source or table.comment or path.name, deduplicate)


@dataclass(frozen=True)
class _Table:
    path: Path
    header: list[str] | None
    rows: list[list[str]]
    lines: list[int]
    comment: str = ""
    labels: dict[int, str] = field(default_factory=dict)

    def where(self, row: int) -> str:
        return f"line {self.lines[row]}"


def _read(path: Path, delimiter: str | None) -> _Table:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a text file in UTF-8 (byte {error.start}). Is it compressed or binary?"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}, line {line}: a NUL byte: the file is corrupt or binary.")

    source_lines = text.splitlines()
    comments: list[str] = []
    current = 0

    def data_lines() -> Iterator[str]:
        nonlocal current
        for number, line in enumerate(source_lines, 1):
            current = number  # read below, after csv has pulled the line
            stripped = line.strip()
            if stripped.startswith("#"):
                comments.append(stripped.lstrip("# "))
            elif stripped:
                yield line

    first = next(data_lines(), None)
    if first is None:
        raise DataError(f"{path}: the file is empty.")
    comments.clear()
    chosen = delimiter or max("\t;,", key=first.count)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        if delimiter is None and chosen not in first:
            for line in data_lines():
                rows.append(line.split())
                lines.append(current)
        else:
            for row in csv.reader(data_lines(), delimiter=chosen, skipinitialspace=True):
                rows.append(row)
                lines.append(current)
    except (csv.Error, TypeError) as error:
        raise DataError(f"{path}, line {current}: not a table with the delimiter {chosen!r}: {error}.") from error
    header = None
    if not any(_is_number(cell) for cell in rows[0]):
        header = [cell.strip() for cell in rows[0]]
        rows, lines = rows[1:], lines[1:]
    if not rows:
        raise DataError(f"{path}: a header and no rows of data.")
    return _Table(path, header, rows, lines, "; ".join(comments))


def _columns(
    table: _Table, manifold: Manifold, columns: Sequence[str | int] | None, coordinates: Coordinates
) -> tuple[list[int], Coordinates]:
    """Indices of the columns, and what they are."""
    latlon = (
        _latlon_columns(table)
        if columns is None and manifold == Sphere(2) and coordinates in ("auto", "latlon")
        else None
    )
    if coordinates == "latlon" and columns is None and manifold == Sphere(2) and latlon is None:
        found = f"the header is {', '.join(table.header)}" if table.header else "there is no header"
        raise DataError(
            f"{table.path}: no columns called latitude and longitude; {found}. "
            "Name them: columns=('...', '...') or (0, 1)."
        )
    if latlon is not None:
        return latlon, "latlon"
    if columns is not None:
        indices = [_index(table, c) for c in columns]
        if coordinates == "auto":
            coordinates = "latlon" if manifold == Sphere(2) and len(indices) == 2 else "ambient"
        return indices, coordinates
    indices = [i for i, cell in enumerate(table.rows[0]) if _is_number(cell)]
    resolved: Coordinates = "ambient" if coordinates == "auto" else coordinates
    expected = math.prod(manifold.point_shape)
    if len(indices) != expected and resolved != "latlon":
        hint = (
            " For latitude and longitude name the columns: columns=(0, 1), coordinates='latlon'."
            if manifold == Sphere(2)
            else ""
        )
        raise DataError(
            f"{table.path}, {table.where(0)}: {len(indices)} columns hold numbers, "
            f"but a point of {manifold} has {expected} entries. "
            f"Name the columns with columns=.{hint}"
        )
    return indices, resolved


def _latlon_columns(table: _Table) -> list[int] | None:
    if table.header is None:
        return None
    lowered = [cell.lower() for cell in table.header]
    prefixes = [(re.match(r"[a-z]*", cell) or [""])[0] for cell in lowered]  # "latitude (deg)", "lat_deg"
    found = []
    for names in (_LATITUDE, _LONGITUDE):
        matches = [i for i, cell in enumerate(lowered) if cell in names] or [
            i for i, cell in enumerate(prefixes) if cell in names
        ]
        if len(matches) > 1:
            several = ", ".join(table.header[i] for i in matches)
            raise DataError(f"{table.path}: several columns could be the {names[1]}: {several}. Choose with columns=.")
        found += matches
    return found if len(found) == 2 else None


def _index(table: _Table, column: str | int) -> int:
    width = len(table.rows[0])
    if isinstance(column, str):
        lowered = [cell.lower() for cell in table.header or []]
        if column.lower() not in lowered:
            has = f"the header is {', '.join(table.header)}" if table.header else "the file has no header: use indices"
            raise DataError(f"{table.path}: no column {column!r}; {has}.")
        return lowered.index(column.lower())
    if not isinstance(column, int) or not 0 <= column < width:
        raise ConfigError(f"{table.path}: columns must be names or indices from 0 to {width - 1}; got {column!r}.")
    return column


def _numbers(table: _Table, columns: list[int]) -> torch.Tensor:
    """The chosen columns as float64, after a check of every cell."""
    try:
        return torch.tensor([[float(row[c]) for c in columns] for row in table.rows], dtype=torch.float64)
    except (ValueError, IndexError):
        pass
    faults = [_fault(table, row, columns) for row in table.rows]
    bad = torch.tensor([fault is not None for fault in faults])
    raise_bad_rows(str(table.path), bad, table.where, lambda i: str(faults[i]), "Drop or repair such rows.")
    raise DataError(f"{table.path}: the table can't be read as numbers.")


def _fault(table: _Table, row: list[str], columns: list[int]) -> str | None:
    for c in columns:
        label = table.header[c] if table.header and c < len(table.header) else f"column {c}"
        if c >= len(row):
            return f"{label} is missing: the line has {len(row)} fields"
        if not row[c].strip():
            return f"{label} is missing"
        if not _is_number(row[c]):
            return f"{label} is {row[c].strip()!r}, not a number"
    return None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
