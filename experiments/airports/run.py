"""Learn where the world's airports are: train, score, sample and draw a diffusion model on the sphere.

python experiments/airports/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.data import load_airports, split
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, default_schedule

BASELINES = {
    "KDE, one bandwidth": metrics.KernelDensity,
    "KDE, mixture of bandwidths": metrics.KernelMixture,
    "KDE, adaptive": metrics.AdaptiveKernelDensity,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=10000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/airports"), help="folder for the model and the picture")
    args = parser.parse_args()
    start, sphere, generator = time.perf_counter(), Sphere(2), torch.Generator().manual_seed(args.seed)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)

    airports = load_airports()
    parts = split(airports.points, seed=args.seed)
    steps, n_samples, limit = (20, 200, 100) if args.smoke else (args.steps, 5000, len(airports))
    train, val, test = parts.train[: 5 * limit], parts.val[:limit], parts.test[:limit]
    say(f"{airports}: {len(train)} to train on, {len(val)} to choose by, {len(test)} held out")

    rows = []
    for name, kind in BASELINES.items():
        density = kind.fit(sphere, train, val)
        rows.append((name, metrics.nll(density.log_prob(test))))
        say(f"{name}: held-out NLL {rows[-1][1]}")

    process = BrownianMotion(sphere, default_schedule(sphere, tau_min=5e-6))
    model = RiemannianDiffusion(sphere, process, TangentMLP(process, seed=args.seed))
    options = {"batch_size": 256, "ema_decay": 0.9997, "keep": "last", "out_dir": args.out, "overwrite": True}
    model.fit(train, val, max_steps=steps, seed=args.seed, **options)
    say(f"trained {steps} steps; {model.metadata['prior mismatch']}")

    rows.append(("Riemannian diffusion", metrics.nll(model.log_prob(test))))
    samples = model.sample(n_samples, generator=generator)
    agreement = metrics.mmd_permutation_test(samples, test, metrics.HeatGram(sphere), generator=generator)
    say(f"held-out NLL {rows[-1][1]}; {n_samples} samples: {agreement}")

    def on_map(x: torch.Tensor) -> torch.Tensor:
        return model.log_prob(x, tolerance=1e-2)

    picture, equal = args.out / "airports.png", samples[: len(test)]
    compare(sphere, test, equal, on_map, title="Airports of the world", path=picture, resolution=120)
    facts = {"data": str(airports), "seed": args.seed, "test NLL": str(rows[-1][1]), "MMD": str(agreement)}
    model.save_pretrained(args.out / "model", facts)

    print(f"\nHeld-out negative log-likelihood in nats (uniform law: 2.531), seed {args.seed}\n")
    for name, estimate in rows:
        print(f"{name:28s}{estimate!s:>16s}")
    print(f"\nTwo-sample test, {n_samples} samples against {len(test)} held-out airports: p = {agreement.p_value:.3f}")
    print(f"Picture: {picture}   Model: {args.out / 'model'}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
