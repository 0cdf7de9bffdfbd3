"""The command of the likelihood tables: measure the rows that are missing, write the tables."""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.likelihood.methods import METHODS, methods_of
from experiments.likelihood.rows import Rows, kinds
from experiments.likelihood.table import SEEDS, Published, fill, markdown
from manifold_diffusion.cli.files import write_text
from manifold_diffusion.data import PointSet


def run(
    script: str,
    about: str,
    files: Path,
    load: Callable[[Path], dict[str, PointSet]],
    smoke: Callable[[], dict[str, PointSet]],
    names: Sequence[str],
    published: Sequence[Published],
    steps: int,
    again: bool = False,
) -> None:
    """Parse the arguments and run.

    Args:
        script: path of the experiment's script; its README is beside it.
        about: its help.
        files: default of ``--files``.
        load: data sets whose files are there.
        smoke: small data sets.
        names: all data sets, in the order of the columns.
        published: rows of other papers.
        steps: default of ``--steps``.
        again: whether networks are trained again with the validation points.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--data", nargs="+", choices=names, help="default: all whose files are there")
    parser.add_argument("--kinds", nargs="+", choices=("raw", "distinct"), default=("raw", "distinct"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all of the manifold")
    parser.add_argument("--seeds", nargs="+", type=int, default=range(SEEDS), help="of the split and the training")
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps of the networks")
    parser.add_argument("--files", type=Path, default=files, help="where the data are, which we may not ship")
    parser.add_argument("--out", type=Path, default=Path("runs") / Path(script).parent.name)
    parser.add_argument("--readme", action="store_true", help="put the tables into the README of the experiment")
    args = parser.parse_args()
    if args.smoke:
        with tempfile.TemporaryDirectory() as folder:
            rows = Rows(smoke(), Path(folder), steps=2, tolerance=0.1, limit=100, again=again)
            for name, points in rows.sets.items():
                for method in methods_of(points.manifold):
                    rows.row(name, "distinct", method, 0)
            print(f"\n{markdown(rows.all(), names, published)}")
        return
    rows = Rows(load(args.files), args.out, args.steps, again=again)
    for name in [name for name in args.data or names if name in rows.sets]:
        for method in args.methods or methods_of(rows.sets[name].manifold):
            for kind in (kind for kind in kinds(rows.sets[name]) if kind in args.kinds):
                for seed in args.seeds:
                    rows.row(name, kind, method, seed)
    text = markdown(rows.all(), names, published)
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(args.out / "table.md", text + "\n")
    if args.readme:
        fill(Path(script).with_name("README.md"), text)
    print(f"\n{text}")
