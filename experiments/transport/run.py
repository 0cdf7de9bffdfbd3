"""Diffusion, flow matching and flow maps side by side: likelihood, and MMD against evaluations of the network.

python experiments/transport/run.py [--smoke] [--data NAME ...] [--methods NAME ...] [--seeds N ...] [--effort F]
    [--earth FOLDER] [--torsions FILE] [--out FOLDER]

Every row is written to the folder when it is done; the same command goes on where it was stopped, and prints the table
of all rows that are there. MMD is that of the few-step papers (Gaussian of the geodesic distance, biased, as many
samples as test points), over its floor: the same between training and test points.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from methods import METHODS, build, draw, learned
from spaces import Space, spaces
from table import markdown

from manifold_diffusion import metrics

EVALUATIONS = (1, 2, 4, 8, 100)
LEARNED = (4, 8)
POINTS = 20_000  # samples per MMD, in 4 to 20 draws, fewer beyond 8 dimensions; one draw of 500 varies by a quarter


def measure(name: str, method: str, space: Space, seed: int, effort: float, limit: int, folder: Path) -> dict:
    train, val, test = (part[:limit] for part in space.parts(seed))
    generator, start = torch.Generator().manual_seed(seed), time.perf_counter()
    model, steps = build(method, space, seed), max(2, round(effort * space.steps))
    options = {"weight_decay": space.weight_decay, "out_dir": folder, "resume": effort > 0, "overwrite": True}
    result = model.fit(train, val, max_steps=steps, seed=seed, **options)
    scored = test[: space.n_likelihood]

    def mmd(x: torch.Tensor) -> float:
        return metrics.mmd_published(space.seen(x), space.seen(test), space.where_seen)

    order = torch.randperm(len(train), generator=generator)
    pieces = [train[i] for i in order.split(len(test)) if len(i) == len(test)]
    draws = min(20, max(4, 8 * POINTS // (len(test) * max(8, space.manifold.dim)))) if effort > 0 else 2
    curves = {str(k): [mmd(draw(model, len(test), k, generator)) for _ in range(draws)] for k in EVALUATIONS}
    for k in () if method == "map" else LEARNED if effort > 0 else LEARNED[:1]:
        sampler = learned(model, k)
        curves[f"{k} learned"] = [mmd(sampler(len(test), generator)) for _ in range(draws)]
    facts = {"data": name, "method": method, "seed": seed, "steps": steps, "training_s": result.elapsed}
    facts["nll"] = -float(model.log_prob(scored, tolerance=3e-3).mean())
    if space.manifold.dim < 8:
        facts["kde"] = -float(metrics.KernelMixture.fit(space.manifold, train, val).log_prob(scored).mean())
    if space.truth is not None:
        facts["truth"] = -float(space.truth(seed)(scored).mean())
    facts["floor"] = sum(map(mmd, pieces)) / len(pieces)
    facts["mmd"] = {k: sum(values) / len(values) for k, values in curves.items()}
    print(f"{name}, {method}, seed {seed}: NLL {facts['nll']:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return facts


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
                    file.write_text(json.dumps(facts))
    print(f"\n{markdown(out, [*map(str, EVALUATIONS), *[f'{k} learned' for k in LEARNED]])}")


if __name__ == "__main__":
    main()
