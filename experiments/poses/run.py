"""Learn rigid poses whose density is known: a mixture of heat kernels on SE(3).

python experiments/poses/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SE3
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, LogSchedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/poses"), help="folder for the model and the picture")
    args = parser.parse_args()
    start, poses, generator = time.perf_counter(), SE3(), torch.Generator().manual_seed(args.seed)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)

    # Grasps of an object: six ways to hold it, some of them precise and some loose.
    origin = poses.origin().expand(6, 12)
    centres = poses.exp(origin, 1.2 * poses.random_tangent(origin, generator))
    truth = HeatKernelMixture(poses, centres, tau=torch.tensor([0.02, 0.02, 0.05, 0.05, 0.1, 0.2]))
    steps, n, n_test = (20, 400, 100) if args.smoke else (args.steps, 50_000, 1000)
    train, val, test = truth.sample(n + 2 * n_test, generator=generator).split([n, n_test, n_test])
    rows = [("truth", metrics.nll(truth.log_prob(test)))]
    density = metrics.KernelDensity.fit(poses, train[:1000], val[:300])
    rows.append(("KDE, one bandwidth, 1,000 points", metrics.nll(density.log_prob(test))))
    say(f"{n} poses to train on; true NLL {rows[0][1]}, kernel density {rows[1][1]}")

    process = BrownianMotion(poses, LogSchedule(1e-3, 10.0))
    model = RiemannianDiffusion(poses, process, TangentMLP(process, seed=args.seed))
    options = {"batch_size": 256, "ema_decay": 0.999, "keep": "last", "out_dir": args.out, "overwrite": True}
    model.fit(train, val[:300], max_steps=steps, seed=args.seed, **options)
    say(f"trained {steps} steps")

    log_p = model.log_prob(test, tolerance=1e-2)
    rows.append(("Riemannian diffusion", metrics.nll(log_p)))
    rows.append(("  minus truth, same points", metrics.nll(log_p - truth.log_prob(test))))
    samples, gram = model.sample(n_test, generator=generator), metrics.HeatGram(poses)
    distance = metrics.mmd2_unbiased(samples, test, gram)
    fresh = truth.sample(2 * n_test, generator=generator)
    floor = metrics.real_vs_real_floor(
        fresh, statistic=lambda a, b: metrics.mmd2_unbiased(a, b, gram), n_repeats=10, generator=generator
    )
    picture = args.out / "poses.png"
    compare(poses, test, samples, title="Poses in SE(3)", path=picture)
    model.save_pretrained(args.out / "model", {"seed": args.seed, "test NLL": str(rows[2][1])})

    print(f"\nNegative log-likelihood in nats of {n_test} held-out poses, seed {args.seed}\n")
    for name, estimate in rows:
        print(f"{name:36s}{estimate!s:>16s}")
    print(f"\nUnbiased MMD^2 with heat kernels, {n_test} samples: {distance:.2e}; {floor}")
    print(f"Picture: {picture}   Model: {args.out / 'model'}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
