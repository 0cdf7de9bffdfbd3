"""Data sets that other papers report likelihoods of, from files that are not ours to ship."""

from __future__ import annotations

from pathlib import Path

import torch

from .._errors import DataError
from ..manifolds import Sphere, Torus
from .points import PointSet
from .table import load_csv

__all__ = ["EARTH_FILES", "load_earth", "load_rna"]

EARTH_FILES = {"volcano": "volerup.csv", "quakes": "quakes_all.csv", "flood": "flood.csv"}
"""Files of volcanic eruptions, earthquakes and floods."""


def load_earth(
    name: str, folder: str | Path, dtype: torch.dtype = torch.float32, deduplicate: bool = False
) -> PointSet:
    r"""Eruptions, earthquakes or floods on ``Sphere(2)``, from a folder with their CSV files.

    Many rows repeat a place: 560 of 827 eruptions, 673 of 6,120 earthquakes, 14 of 4,875 floods. A density with atoms
    there reaches any likelihood; drop repeats before a split, or report both.

    Args:
        name: ``"volcano"``, ``"quakes"`` or ``"flood"``.
        folder: holds :data:`EARTH_FILES`, from ``data/`` of https://github.com/oxcsml/riemannian-score-sde.
        dtype: dtype of the points; they are computed in float64.
        deduplicate: whether to drop exact repeats. They are counted in any case.

    Raises:
        DataError: another name, or a file that is missing or has a bad row.

    Example:
        >>> import tempfile, pathlib
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "flood.csv").write_text("lat,lon\n0,-78.5\n59.9,10.7\n")
        >>> load_earth("flood", folder)
        PointSet(flood: 2 points on Sphere(2), torch.float32, 0 duplicates)

    References:
        NOAA NGDC (eruptions, earthquakes), Dartmouth Flood Observatory (floods); De Bortoli et al., *Riemannian
        score-based generative modelling*, 2022, arXiv:2202.02763.
    """
    if name not in EARTH_FILES:
        raise DataError(f"name must be one of {', '.join(EARTH_FILES)}; got {name!r}.")
    return load_csv(Path(folder) / EARTH_FILES[name], Sphere(2), name=name, dtype=dtype, deduplicate=deduplicate)


def load_rna(path: str | Path, dtype: torch.dtype = torch.float32, deduplicate: bool = False) -> PointSet:
    r"""Seven backbone torsions of 9,478 RNA nucleotides on ``Torus(7)``, from a TSV file.

    Args:
        path: ``dataset/rna_angles.tsv`` of https://github.com/yuchen-zhu-zyc/TDM: a structure, a base and seven angles
            in degrees a row.
        dtype: dtype of the angles; they are computed in float64.
        deduplicate: whether to drop exact repeats. They are counted in any case.

    Raises:
        DataError: a file that is missing or has a bad row.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "rna.tsv"
        >>> _ = path.write_text("402d\tG\t-69.2\t173.9\t51.5\t80.8\t-62.9\t11.0\t-167.6\n")
        >>> load_rna(path)
        PointSet(rna: 1 points on Torus(7), torch.float32, 0 duplicates)
    """
    return load_csv(path, Torus(7), coordinates="degrees", name="rna", dtype=dtype, deduplicate=deduplicate)
