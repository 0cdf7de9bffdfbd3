"""Likelihoods of volcanoes, earthquakes, floods and airports: every method, raw and distinct rows, five splits.

python experiments/earth/run.py [--smoke] [--files FOLDER] [--data NAME ...] [--kinds KIND ...] [--methods NAME ...]
    [--seeds N ...] [--steps N] [--out FOLDER] [--readme]

Every row is written when it is done; the same command goes on where it was stopped, then writes the tables of all rows
that are there to table.md in the folder of --out, and with --readme into the README.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments.likelihood.command import run
from experiments.likelihood.table import Published
from manifold_diffusion.data import EARTH_FILES, PointSet, load_airports, load_earth
from manifold_diffusion.manifolds import Sphere

NAMES = ("quakes", "flood", "airports", "volcano")


def _row(method: str, source: str, volcano: str, quakes: str, flood: str, mark: str = "") -> Published:
    return Published(method, source, {"volcano": volcano, "quakes": quakes, "flood": flood}, mark)


RSGM, RFM, GFM = "arXiv:2202.02763, table 4", "arXiv:2302.03660, table 2", "arXiv:2510.21608"
PUBLISHED = (
    _row("Moser flow", "Rozen et al. 2021, table 1", "-1.68 ± 0.23", "0.03 ± 0.02", "0.71 ± 0.02"),
    _row("Moser flow, rerun", RSGM, "-4.21 ± 0.17", "-0.16 ± 0.06", "0.57 ± 0.10"),
    _row("Riemannian CNF, rerun", RSGM, "-6.05 ± 0.61", "0.14 ± 0.23", "1.11 ± 0.19"),
    _row("Stereographic score model", RSGM, "-3.80 ± 0.27", "-0.19 ± 0.05", "0.59 ± 0.07"),
    _row("RSGM", RSGM, "-4.92 ± 0.25", "-0.19 ± 0.07", "0.45 ± 0.17"),
    _row("Riemannian diffusion model", RFM, "-6.61", "-0.40", "0.43", " †"),
    _row("Riemannian flow matching", RFM, "-7.93", "-0.28", "0.42", " †"),
    _row("GFM, G-LSD", GFM, "-4.96", "-0.93", "-0.38", " † ‡"),
    _row("GFM, G-PSD", GFM, "-3.50", "-0.63", "-0.76", " † ‡"),
    _row("GFM, G-ESD", GFM, "-4.49", "-0.67", "-0.88", " † ‡"),
    _row("GFM, G-MF", GFM, "-3.73", "-1.08", "-0.72", " † ‡"),
)


def load(folder: Path) -> dict[str, PointSet]:
    """The data sets whose files are there, with their repeats."""
    found = {"airports": load_airports(torch.float64, deduplicate=False)}
    for name, file in EARTH_FILES.items():
        if (folder / file).exists():
            found[name] = load_earth(name, folder, torch.float64)
        else:
            print(f"{name} is left out: no file {folder / file}; pass --files FOLDER, see the README.")
    return found


def smoke() -> dict[str, PointSet]:
    """Some airports."""
    return {"airports": PointSet(Sphere(2), load_airports(torch.float64).points[::50])}


if __name__ == "__main__":
    run(__file__, __doc__ or "", Path("data/earth"), load, smoke, NAMES, PUBLISHED, steps=3000)
