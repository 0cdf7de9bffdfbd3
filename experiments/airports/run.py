"""Learn where the world's airports are: train, score, sample and draw a diffusion model on the sphere.

python experiments/airports/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion.data import load_airports, split
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.metrics import (
    AdaptiveKernelDensity,
    HeatGram,
    KernelDensity,
    KernelMixture,
    mmd_permutation_test,
    nll,
)
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, default_schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=9000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/airports"), help="folder for the model and the picture")
    args = parser.parse_args()
    start, sphere, generator = time.perf_counter(), Sphere(2), torch.Generator().manual_seed(args.seed)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)

    airports = load_airports()
    data = split(airports.points, seed=args.seed)
    train, val, test = (
        (data.train[:500], data.val[:100], data.test[:100]) if args.smoke else (data.train, data.val, data.test)
    )
    steps, n_samples = (20, 200) if args.smoke else (args.steps, 5000)
    say(f"{airports}: {len(train)} to train on, {len(val)} to choose by, {len(test)} held out")

    rows = []
    for name, kind in (
        ("KDE, one bandwidth", KernelDensity),
        ("KDE, mixture of bandwidths", KernelMixture),
        ("KDE, adaptive", AdaptiveKernelDensity),
    ):
        density = kind.fit(sphere, train, val)
        rows.append((name, nll(density.log_prob(val)), nll(density.log_prob(test))))
        say(f"{name}: held-out NLL {rows[-1][2]}")

    process = BrownianMotion(sphere, default_schedule(sphere, tau_min=5e-6))
    model = RiemannianDiffusion(sphere, process, TangentMLP(process, seed=args.seed))
    model.fit(
        train,
        val,
        max_steps=steps,
        batch_size=256,
        ema_decay=0.9997,
        keep="last",
        seed=args.seed,
        out_dir=args.out,
        overwrite=True,
    )
    say(f"trained {steps} steps; {model.metadata['prior mismatch']}")

    log_prob = model.log_prob(test)
    rows.append(("Riemannian diffusion", nll(model.log_prob(val[:1000])), nll(log_prob)))
    samples = model.sample(n_samples, generator=generator)
    agreement = mmd_permutation_test(samples, test, HeatGram(sphere), generator=generator)
    say(f"sampled {n_samples} points: {agreement}")

    grid_log_prob = lambda x: model.log_prob(x, tolerance=1e-2)  # noqa: E731
    compare(
        sphere,
        test,
        samples,
        grid_log_prob,
        title="Airports of the world",
        path=args.out / "airports.png",
        resolution=120,
    )
    model.save_pretrained(
        args.out / "model", {"data": str(airports), "test NLL": str(rows[-1][2]), "MMD": str(agreement)}
    )

    print(f"\nHeld-out negative log-likelihood in nats (uniform law: 2.531), seed {args.seed}\n")
    print(f"{'':28s}{'validation':>18s}{'test':>18s}")
    for name, validation, held_out in rows:
        print(f"{name:28s}{validation!s:>18s}{held_out!s:>18s}")
    print(f"\nTwo-sample test, {n_samples} samples against {len(test)} held-out airports: p = {agreement.p_value:.3f}")
    print(f"Picture: {args.out / 'airports.png'}   Model: {args.out / 'model'}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
