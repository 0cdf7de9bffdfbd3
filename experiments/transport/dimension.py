"""What likelihood is lost per dimension where the best is the same for all: independent angles on tori.

python experiments/transport/dimension.py [--smoke] [--dimensions N ...] [--points N] [--methods NAME ...]
    [--seeds N ...] [--steps N] [--out FOLDER]

The loss is truth less model, of the log density of the same test points, over the dimension, in nats; its standard
error is that of the mean over seeds and test points. Beside it that on training points: what is lost on test points
only is for want of data. Every row is written when it is done; the same command goes on where it was stopped.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import torch
from methods import METHODS, build
from spaces import tori

from manifold_diffusion.cli.files import write_text
from manifold_diffusion.metrics import Estimate

SCORED = 4000  # angles per seed whose likelihood is taken


def measure(n: int, method: str, points: int, seed: int, steps: int, folder: Path) -> dict[str, list[float]]:
    """Losses per dimension of single test and training points."""
    space = dataclasses.replace(tori(n, points), steps=steps)
    train, val, test = space.parts(seed)
    model = build(method, space, seed)
    model.fit(train, val, max_steps=steps, seed=seed, out_dir=folder, resume=True)
    assert space.truth is not None
    truth, some = space.truth(seed), min(len(test), max(SCORED // n, 20))
    losses = {}
    for name, x in {"test": test[:some], "train": train[:some]}.items():
        losses[name] = ((truth(x) - model.log_prob(x, tolerance=3e-3)) / n).tolist()
    return losses


def summary(losses: list[list[float]]) -> str:
    """Mean and standard error."""
    return f"{Estimate.mean(torch.tensor([value for seed in losses for value in seed])):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--dimensions", nargs="+", type=int, default=[2, 8, 32, 128])
    parser.add_argument("--points", type=int, default=50_000, help="training points")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["diffusion"])
    parser.add_argument("--seeds", nargs="+", type=int, default=range(5))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=Path("runs/dimension"))
    args = parser.parse_args()
    if args.smoke:
        args.dimensions, args.points, args.seeds, args.steps, args.out = [2], 64, [0], 2, args.out / "smoke"
    lines = ["| method | dimension | points | seeds | lost on test points | on training points |", "| --- " * 6 + "|"]
    for method in args.methods:
        for n in args.dimensions:
            rows = []
            for seed in args.seeds:
                file = args.out / f"{method}-{n}-{args.points}-{seed}.json"
                if not file.exists() or args.smoke:
                    losses = measure(n, method, args.points, seed, args.steps, file.with_suffix(""))
                    write_text(file, json.dumps(losses))
                    print(f"{file.stem}: {summary([losses['test']])}, {summary([losses['train']])}", flush=True)
                rows.append(json.loads(file.read_text()))
            found = " | ".join(summary([row[part] for row in rows]) for part in ("test", "train"))
            lines.append(f"| {method} | {n} | {args.points:,} | {len(rows)} | {found} |")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
