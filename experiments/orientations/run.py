"""Learn the texture of a cubic crystal, a density on SO(3) / octahedral group, whose truth is known.

python experiments/orientations/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Quotient, Sphere
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, default_schedule

# Ideal orientations of rolled cubic metals: Bunge's Euler angles in degrees, weight, Brownian time of the spread.
COMPONENTS = {
    "cube": ((0.0, 0.0, 0.0), 0.20, 0.005),
    "Goss": ((0.0, 45.0, 0.0), 0.10, 0.005),
    "brass": ((35.0, 45.0, 0.0), 0.25, 0.010),
    "copper": ((90.0, 35.0, 45.0), 0.20, 0.010),
    "S": ((59.0, 37.0, 63.0), 0.25, 0.015),
}


def texture(crystal: Quotient) -> HeatKernelMixture:
    """Heat kernels about the ideal orientations, and one tenth of uniform orientations."""
    angles, weights, times = (torch.tensor(column) for column in zip(*COMPONENTS.values(), strict=True))
    turns = torch.deg2rad(angles).unsqueeze(-1) * torch.eye(3)[[2, 0, 2]]  # about z, then the new x, then the new z
    first, second, third = SO3().exp(torch.eye(3), SO3.hat(turns)).unbind(1)
    return HeatKernelMixture(crystal, first @ second @ third, times, weights, uniform_weight=0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=4000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/orientations"), help="folder for model and picture")
    args = parser.parse_args()
    start, generator = time.perf_counter(), torch.Generator().manual_seed(args.seed)
    crystal = Quotient(SO3(), "octahedral")
    steps, n_train, n_test = (20, 500, 60) if args.smoke else (args.steps, 20_000, 1000)

    truth = texture(crystal)
    train, test, more = (truth.sample(n, generator=generator) for n in (n_train, n_test, n_test))
    exact = metrics.nll(truth.log_prob(test))
    gram = metrics.HeatGram(crystal, taus=(0.05, 0.005))
    floor = metrics.mmd_permutation_test(more, test, gram, generator=generator)

    process = BrownianMotion(crystal, default_schedule(crystal, tau_min=1e-4))
    model = RiemannianDiffusion(crystal, process, TangentMLP(process, n_frequencies=256, seed=args.seed))
    options = {"batch_size": 128, "ema_decay": 0.999, "keep": "last", "out_dir": args.out, "overwrite": True}
    model.fit(train, max_steps=steps, seed=args.seed, **options)
    print(f"{crystal}: {n_train} orientations, {steps} steps, {time.perf_counter() - start:.0f} s", flush=True)

    log_p = model.log_prob(test)
    learned, gap = metrics.nll(log_p), metrics.nll(log_p - truth.log_prob(test))
    samples = model.sample(n_test, generator=generator)
    agreement = metrics.mmd_permutation_test(samples, test, gram, generator=generator)

    def poles(x: torch.Tensor) -> torch.Tensor:
        """Directions of the crystals' six cube axes in the room: the same for all representatives."""
        return torch.cat([x.mT, -x.mT], 1).flatten(0, 1)

    picture = args.out / "poles.png"
    compare(Sphere(2), poles(test), poles(samples), title="Cube axes: held-out and generated crystals", path=picture)

    print(f"\nNegative log-likelihood of {n_test} held-out orientations in nats (uniform law: 1.191)\n")
    print(f"{'true density':28s}{exact!s:>18s}\n{'Riemannian diffusion':28s}{learned!s:>18s}")
    print(f"{'difference, point by point':28s}{gap!s:>18s}")
    print(f"\nMMD, samples against held-out: {agreement}\nMMD, real against real:        {floor}")
    print(f"Picture: {picture}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
