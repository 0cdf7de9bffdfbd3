"""Learn the law of muscle-signal covariances: a diffusion model on SPD(3) with the affine-invariant metric.

python experiments/spd/run.py [--smoke] [--metric NAME] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import os
import time
from pathlib import Path

import torch

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.data import split
from manifold_diffusion.manifolds import SPD
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, default_schedule

BASELINES = {"KDE, one bandwidth": metrics.KernelDensity, "KDE, mixture": metrics.KernelMixture}


def load_covariances(channels: tuple[int, ...] = (1, 4, 6), window: int = 100) -> torch.Tensor:
    """Covariances of 0.1 s windows within one gesture, moved by a congruence to have the identity as their log-mean."""
    os.environ.setdefault("GEOMSTATS_BACKEND", "numpy")
    from geomstats.datasets.utils import load_emg

    parts = []
    for _, session in load_emg().groupby("exp"):
        signal, label = session[[f"c{k}" for k in channels]].to_numpy(float), session.label.to_numpy()
        starts = [i for i in range(0, len(label) - window, window) if (label[i : i + window] == label[i]).all()]
        parts += [torch.tensor(signal[i : i + window]).T.cov() for i in starts]
    x, flat = torch.stack(parts), SPD(len(channels), "log_euclidean")
    one = flat.origin(torch.float64)
    half = flat.geodesic(one, flat.exp(one, flat.log(one, x).mean(0)), -0.5)
    return flat.project(half @ x @ half).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--metric", default="affine", help="affine, log_euclidean or log_cholesky")
    parser.add_argument("--steps", type=int, default=2000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/spd"), help="folder for the model and the picture")
    args = parser.parse_args()
    start, M, generator = time.perf_counter(), SPD(3, args.metric), torch.Generator().manual_seed(args.seed)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - start:5.0f} s] {text}", flush=True)

    parts = split(load_covariances(), seed=args.seed)
    steps, limit = (20, 60) if args.smoke else (args.steps, 10**6)
    train, val, test = parts.train[: 5 * limit], parts.val[:limit], parts.test[:limit]
    say(f"covariances on {M}: {len(train)} to train on, {len(val)} to choose by, {len(test)} held out")
    rows = []
    for name, kind in BASELINES.items():
        rows.append((name, metrics.nll(kind.fit(M, train, val[:100], (0.1, 0.2, 0.4, 0.8)).log_prob(test))))
        say(f"{name}: held-out NLL {rows[-1][1]}")

    process = BrownianMotion(M, default_schedule(M, tau_min=1e-2))
    model = RiemannianDiffusion(M, process, TangentMLP(process, seed=args.seed))
    options = {"batch_size": 128, "ema_decay": 0.998, "out_dir": args.out, "overwrite": True}
    model.fit(train, val, max_steps=steps, seed=args.seed, **options)
    say(f"trained {steps} steps; {model.metadata['prior mismatch']}")
    log_p = model.log_prob(test, tolerance=1e-3)
    rows.append(("Riemannian diffusion", metrics.nll(log_p)))
    samples = model.sample(len(test), generator=generator)
    agreement = metrics.mmd_permutation_test(samples, test, metrics.HeatGram.from_data(M, test), generator=generator)
    compare(M, test, samples, title=f"EMG covariances on {M}", path=args.out / "spd.png")
    model.save_pretrained(args.out / "model", {"seed": args.seed, "test NLL": str(rows[-1][1])})
    say(f"{len(samples)} samples: {agreement}")

    print(f"\nHeld-out negative log-likelihood in nats, {M}, seed {args.seed}\n")
    for name, estimate in rows:
        print(f"{name:28s}{estimate!s:>16s}")


if __name__ == "__main__":
    main()
