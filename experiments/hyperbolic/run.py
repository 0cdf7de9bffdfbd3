"""Learn the leaves of a tree in the hyperbolic plane, where the true density is known.

python experiments/hyperbolic/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import math
import time
from pathlib import Path

import torch

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import PoincareBall
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, default_schedule

EDGE, DEPTH, TAU = 1.0, 4, 0.08


def turn(v: torch.Tensor, angle: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return v @ torch.tensor([[c, s], [-s, c]], dtype=v.dtype)


def leaves(disk: PoincareBall) -> torch.Tensor:
    """Leaves of the binary tree by Sarkar's construction: every node has three edges at 120 degrees to each other."""
    parent, first = torch.zeros(3, 2), torch.tensor([EDGE / 2, 0.0])
    node = disk.exp(parent, torch.stack([turn(first, 2 * math.pi * k / 3) for k in range(3)]))
    for _ in range(DEPTH - 1):
        back = disk.log(node, parent)
        steps = [EDGE * turn(back / disk.norm(node, back)[:, None], a * 2 * math.pi / 3) for a in (1, -1)]
        parent, node = torch.cat([node, node]), torch.cat([disk.exp(node, step) for step in steps])
    return node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/hyperbolic"), help="folder for model and picture")
    args = parser.parse_args()
    start, disk, generator = time.perf_counter(), PoincareBall(2), torch.Generator().manual_seed(args.seed)
    steps, n, n_test = (20, 500, 100) if args.smoke else (args.steps, 20000, 1000)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)

    truth = HeatKernelMixture(disk, leaves(disk), TAU)
    train, val, test = (truth.sample(k, generator=generator) for k in (n, n_test, n_test))
    say(f"{len(truth.centres)} leaves, {float(disk.dist(disk.origin(), truth.centres).mean()):.2f} from the root")

    process = BrownianMotion(disk, default_schedule(disk, tau_min=1e-3), n_centres=1024)
    model = RiemannianDiffusion(disk, process, TangentMLP(process, n_frequencies=128, seed=args.seed))
    options = {"batch_size": 256, "ema_decay": 0.998, "keep": "last", "out_dir": args.out, "overwrite": True}
    model.fit(train, val, max_steps=steps, seed=args.seed, **options)
    say(f"trained {steps} steps; {model.metadata['prior mismatch']}")

    exact, learned = truth.log_prob(test), model.log_prob(test)
    samples = model.sample(n_test, generator=generator)
    gram = metrics.HeatGram(disk)
    agreement = metrics.mmd_permutation_test(samples, test, gram, generator=generator)
    real, mmd = truth.sample(2 * n_test, generator=generator), lambda a, b: metrics.mmd2_unbiased(a, b, gram)
    floor = metrics.real_vs_real_floor(real, statistic=mmd, generator=generator)
    picture = args.out / "tree.png"
    compare(disk, test, samples, title="Leaves of a tree in the hyperbolic plane", path=picture)
    model.save_pretrained(args.out / "model")

    print(f"\nHeld-out negative log-likelihood in nats, seed {args.seed}")
    print(f"truth                {metrics.nll(exact)}\nRiemannian diffusion {metrics.nll(learned)}")
    print(f"difference           {metrics.nll(learned - exact)}")
    print(f"MMD^2 with heat kernels: {agreement}; {floor}")
    print(f"Picture: {picture}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
