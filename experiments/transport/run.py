"""Diffusion, flow matching and flow maps side by side: likelihood, and MMD against evaluations of the network.

python experiments/transport/run.py [--smoke] [--data NAME ...] [--methods NAME ...] [--seeds N ...] [--effort F]
    [--earth FOLDER] [--torsions FILE] [--out FOLDER]

Every row is written to the folder when it is done; the same command goes on where it was stopped, and prints the table
of all rows that are there. MMD is that of the few-step papers (Gaussian of the geodesic distance, biased, as many
samples as test points), over its floor: the same between training and test points.
"""

import argparse
import json
from pathlib import Path

from measure import EVALUATIONS, LEARNED, measure
from methods import METHODS
from spaces import spaces
from table import markdown

from manifold_diffusion.cli.files import write_text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--data", nargs="+", metavar="NAME", help="default: all whose files are there")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--effort", type=float, default=1.0, help="factor of the optimiser steps")
    parser.add_argument("--earth", type=Path, default=Path("data/earth"), help="folder of the CSV files")
    parser.add_argument("--torsions", type=Path, default=Path("data/torsions/rna.tsv"))
    parser.add_argument("--out", type=Path, default=Path("runs/transport"))
    args = parser.parse_args()
    found = spaces(args.earth, args.torsions)
    names = args.data or (["rotations", "torus8"] if args.smoke else list(found))
    out, seeds, effort, limit = (
        (args.out / "smoke", [0], 0.0, 64) if args.smoke else (args.out, args.seeds, args.effort, 10**9)
    )
    for name in names:
        for seed in seeds:
            for method in args.methods:
                file = out / f"{name}-{method}-{seed}.json"
                if not file.exists() or args.smoke:
                    facts = measure(name, method, found[name], seed, effort, limit, file.with_suffix(""))
                    write_text(file, json.dumps(facts))
    print(f"\n{markdown(out, [*map(str, EVALUATIONS), *[f'{k} learned' for k in LEARNED]])}")


if __name__ == "__main__":
    main()
