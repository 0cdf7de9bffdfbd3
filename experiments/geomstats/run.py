"""Leaf angles of plants as points of a geomstats space: normal laws with the Fisher metric, trained without a kernel.

python experiments/geomstats/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib import pyplot

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.data import split
from manifold_diffusion.manifolds import from_geomstats
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import ImplicitScoreMatching
from manifold_diffusion.processes import Langevin, LogSchedule, WrappedNormal
from manifold_diffusion.solvers import DormandPrince, GeodesicHeun
from manifold_diffusion.training import fit

CENTRE, UNIT = 35.0, 19.0  # degrees: the Fisher metric knows neither, and the origin (1, 1) is then among the data


def leaf_angles() -> torch.Tensor:
    """Mean and standard deviation of the inclination of each plant's leaves."""
    import geomstats.datasets
    import pandas

    folder = Path(geomstats.datasets.__file__).parent / "data/leaves"
    table = pandas.read_csv(folder / "leaves.csv", sep=";")
    angles = torch.tensor(table[["ALIA", "SD"]].to_numpy(), dtype=torch.float32)
    return (angles - torch.tensor([CENTRE, 0.0])) / UNIT + torch.tensor([1.0, 0.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/geomstats"), help="folder for the picture")
    args = parser.parse_args()
    start, generator = time.perf_counter(), torch.Generator().manual_seed(args.seed)
    laws = from_geomstats("geomstats.information_geometry.normal.UnivariateNormalDistributions")
    points = leaf_angles()
    parts = split(points, seed=args.seed, fractions=(0.55, 0.05, 0.4))
    steps, n = (3, 8) if args.smoke else (args.steps, 400)
    train, test = parts.train, parts.test[: 8 if args.smoke else None]
    print(f"{len(points)} plants on {laws}: {len(train)} to train on, {len(test)} held out", flush=True)

    sigma = float(laws.dist(laws.origin(torch.float32).expand_as(train), train).square().mean().div(2).sqrt())
    process = Langevin(laws, LogSchedule(2e-2, 4 * sigma**2), sigma=sigma, n_steps=4)
    network = TangentMLP(process, width=64, n_frequencies=0, seed=args.seed)
    options = {"max_steps": steps, "batch_size": 128, "lr": 5e-3, "ema_decay": 0.95, "progress": False}
    fit(network, ImplicitScoreMatching(process), train, manifold=laws, seed=args.seed, **options)
    model = RiemannianDiffusion(laws, process, network)
    print(f"[{time.perf_counter() - start:4.0f} s] trained {steps} steps", flush=True)

    samples = model.sample(n, generator=generator, steps=3 if args.smoke else 20, solver=GeodesicHeun(chart="normal"))
    baseline = WrappedNormal(laws, sigma)

    def gram(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:  # positive definite, as this plane is hyperbolic
        return (-laws.dist(x.unsqueeze(1), y) / 0.3).exp()

    log_prob = model.log_prob(test, tolerance=1e-2, solver=DormandPrince(chart="normal"))
    print(f"held-out NLL: {metrics.nll(log_prob)}; prior {metrics.nll(baseline.log_prob(test))}")
    noise = baseline.sample(n, generator=generator, dtype=torch.float32)
    for x, name in ((samples, "samples"), (train, "training plants (the floor)"), (noise, "prior")):
        print(f"{name} against held-out plants: {metrics.mmd_permutation_test(x, test, gram, generator=generator)}")
    args.out.mkdir(parents=True, exist_ok=True)
    _, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for x, name in ((samples, "model"), (train, "training plants"), (test, "held-out plants")):
        axes.scatter(CENTRE + UNIT * (x[:, 0] - 1), UNIT * x[:, 1], s=8, label=name)
    axes.set(xlabel="mean leaf angle in degrees", ylabel="standard deviation in degrees", xlim=(0, 90), ylim=(0, 40))
    axes.legend()
    pyplot.savefig(args.out / "leaves.png", dpi=150)
    print(f"Picture: {args.out / 'leaves.png'}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
