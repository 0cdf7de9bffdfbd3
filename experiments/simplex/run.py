"""Learn compositions of three parts with known truth: train, score, sample and draw a diffusion model on the simplex.

python experiments/simplex/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import Categorical, Dirichlet, MixtureSameFamily

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.manifolds import Simplex
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, default_schedule

# Four kinds of rock, as it were: one in the middle, one along an edge, one in a corner, one across.
PARTS = torch.tensor([[12.0, 9.0, 6.0], [0.7, 8.0, 8.0], [40.0, 2.0, 1.0], [3.0, 1.0, 20.0]])
TRUTH = MixtureSameFamily(Categorical(torch.tensor([0.3, 0.3, 0.2, 0.2])), Dirichlet(PARTS.double()))


def log_truth(p: Tensor) -> Tensor:
    """Log density per Riemannian volume: per dp_1 dp_2 it is Dirichlet's, and the volume is prod p_i^(-1/2) of that."""
    p = p.double() / p.double().sum(-1, keepdim=True)
    return TRUTH.log_prob(p) + 0.5 * p.log().sum(-1)


def draw(n: int, generator: torch.Generator) -> Tensor:
    """Points of the mixture, by gamma variables from the generator's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return Simplex(3).project(TRUTH.sample((n,)).float())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/simplex"), help="folder for the model and the picture")
    args = parser.parse_args()
    start, simplex, generator = time.perf_counter(), Simplex(3), torch.Generator().manual_seed(args.seed)
    steps, n_train, n = (20, 500, 100) if args.smoke else (args.steps, 20000, 2000)
    train, val, test, fresh = (draw(size, generator) for size in (n_train, n, n, n))

    rows = [("truth", metrics.nll(log_truth(test)))]
    density = metrics.KernelMixture.fit(simplex, train[:n], val[:500])
    rows.append(("KDE, mixture of bandwidths", metrics.nll(density.log_prob(test))))

    process = BrownianMotion(simplex, default_schedule(simplex, tau_min=1e-4))
    model = RiemannianDiffusion(simplex, process, TangentMLP(process, seed=args.seed))
    model.fit(train, val, max_steps=steps, seed=args.seed, out_dir=args.out, overwrite=True)
    rows.append(("Riemannian diffusion", metrics.nll(model.log_prob(test, tolerance=1e-2))))

    samples, gram = model.sample(n, generator=generator), metrics.HeatGram(simplex)
    simplex.check_point(samples)
    agreement = metrics.mmd_permutation_test(samples, test, gram, generator=generator)
    floor = metrics.mmd2_unbiased(fresh, test, gram)

    def on_triangle(p: Tensor) -> Tensor:
        return model.log_prob(p, tolerance=1e-1)

    picture, title = args.out / "simplex.png", "Compositions of three parts"
    compare(simplex, test, samples, on_triangle, title=title, path=picture, resolution=30 if args.smoke else 100)
    model.save_pretrained(args.out / "model", {"seed": args.seed, "test NLL": str(rows[-1][1]), "MMD": str(agreement)})

    print(f"\nHeld-out negative log-likelihood in nats (uniform law: 1.838), seed {args.seed}\n")
    for name, estimate in rows:
        print(f"{name:28s}{estimate!s:>16s}")
    print(f"\n{n} samples: {agreement}; two samples of the truth: MMD^2 = {floor:.2e}")
    print(f"Picture: {picture}   Model: {args.out / 'model'}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
