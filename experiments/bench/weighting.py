"""Which form of denoising score matching trains best: weightings, antithetic pairs and tau_min on the airports.

python experiments/bench/weighting.py [--smoke] [--steps N] [--seeds N] [--implicit]

Every row has the same network, optimiser and number of network evaluations (512 rows a step). The score is the exact
negative log-likelihood of the first 1,000 validation points, in nats: choices are made on validation data only.
"""

import argparse
import time
from collections.abc import Callable

import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion.data import load_airports, split
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.metrics import nll
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching, ImplicitScoreMatching, Objective
from manifold_diffusion.processes import BrownianMotion, NoiseProcess, default_schedule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps and points")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--implicit", action="store_true", help="implicit score matching, too: ten times slower a step")
    args = parser.parse_args()
    steps, seeds, n_val = (4, 1, 20) if args.smoke else (args.steps, args.seeds, 1000)
    sphere, data = Sphere(2), split(load_airports().points, seed=0)
    rows: list[tuple[str, float, Callable[[NoiseProcess], Objective], int]] = [
        ("likelihood, pairs", 1e-5, lambda p: DenoisingScoreMatching(p), 256),
        ("likelihood, single draws", 1e-5, lambda p: DenoisingScoreMatching(p, antithetic=False), 512),
        ("balanced, pairs", 1e-5, lambda p: DenoisingScoreMatching(p, "balanced"), 256),
        ("likelihood, pairs, tau_min 3e-5", 3e-5, lambda p: DenoisingScoreMatching(p), 256),
    ]
    if args.implicit or args.smoke:
        rows.append(("implicit, exact divergence", 1e-5, lambda p: ImplicitScoreMatching(p), 512))
    print(f"torch {torch.__version__}, {steps} steps, {seeds} seeds\n")
    print("| objective | validation NLL, per seed | mean | ms per step |\n| --- | --- | --- | --- |")
    for name, tau_min, objective, batch in rows:
        values, start, training = [], 0.0, 0.0
        for seed in range(seeds):
            process = BrownianMotion(sphere, default_schedule(sphere, tau_min))
            model = RiemannianDiffusion(sphere, process, TangentMLP(process, seed=seed), objective(process))
            start = time.perf_counter()
            model.fit(data.train, max_steps=steps, batch_size=batch, seed=seed, progress=False)
            training += time.perf_counter() - start
            values.append(nll(model.log_prob(data.val[:n_val])).value)
        cells = ", ".join(f"{v:.3f}" for v in values)
        print(f"| {name} | {cells} | {sum(values) / seeds:.3f} | {1e3 * training / steps / seeds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
