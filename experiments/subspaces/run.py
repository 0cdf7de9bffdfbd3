"""Learn a law of subspaces: principal planes of bootstrap samples of handwritten digits, points of Grassmann(4, 2).

python experiments/subspaces/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import math
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits

from manifold_diffusion import RiemannianDiffusion, metrics
from manifold_diffusion.heat_kernels import ShortTimeKernel
from manifold_diffusion.manifolds import Grassmann
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.plotting import compare
from manifold_diffusion.processes import BrownianMotion, LogSchedule


def principal_planes(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Planes of largest variance of ``size`` images of one digit, with replacement, in the first four components."""
    images, labels = (torch.tensor(a) for a in load_digits(return_X_y=True))
    centred = images - images.mean(0)
    scores = centred @ torch.linalg.svd(centred, full_matrices=False)[2][:4].T
    members = [scores[labels == k] for k in range(10)]
    planes = []
    for k in torch.randint(10, (count,), generator=generator).tolist():
        sample = members[k][torch.randint(len(members[k]), (size,), generator=generator)]
        planes.append(torch.linalg.svd(sample - sample.mean(0))[2][:2].T)
    return torch.stack(planes).float()


def kernel_log_prob(manifold: Grassmann, x: torch.Tensor, centres: torch.Tensor, tau: float) -> torch.Tensor:
    """Log density of a mixture of short-time kernels about the centres."""
    rows = [ShortTimeKernel(manifold).log_prob(part.unsqueeze(1), centres, tau) for part in x.split(50)]
    return torch.logsumexp(torch.cat(rows), 1) - math.log(len(centres))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/subspaces"), help="folder for the model and the picture")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors of a step are small: a second thread only waits
    start, generator = time.perf_counter(), torch.Generator().manual_seed(args.seed)
    manifold = Grassmann(4, 2)
    n, steps = (100, 10) if args.smoke else (1000, args.steps)
    planes = principal_planes(4 * n, 20, generator)
    train, val, test = planes[: 2 * n], planes[2 * n : 3 * n], planes[3 * n :]

    rows = [("uniform law", metrics.nll(torch.full((n,), -math.log(manifold.volume))))]
    taus = [0.003, 0.01, 0.03, 0.1]
    best = max(taus, key=lambda tau: float(kernel_log_prob(manifold, val[:200], train, tau).mean()))
    rows.append((f"kernel density, tau = {best}", metrics.nll(kernel_log_prob(manifold, test, train, best))))

    process = BrownianMotion(manifold, LogSchedule(1e-3, 4.0), n_steps=20, target="short_time")
    model = RiemannianDiffusion(manifold, process, TangentMLP(process, n_frequencies=128, seed=args.seed))
    model.fit(train, val, max_steps=steps, seed=args.seed, batch_size=256, lr=4e-3, out_dir=args.out, overwrite=True)
    rows.append(("Riemannian diffusion", metrics.nll(model.log_prob(test, tolerance=1e-2))))
    samples = model.sample(n, generator=generator)

    for name, estimate in rows:
        print(f"{name:32s} held-out NLL {estimate!s}")
    gram = metrics.ChordalGaussian(manifold)
    for name, points in (("samples", samples), ("training planes", train[:n])):
        print(
            f"{name} against the test planes: {metrics.mmd_permutation_test(points, test, gram, generator=generator)}"
        )
    compare(manifold, test, samples, title="Principal planes of digits", path=args.out / "subspaces.png")
    print(f"{model.metadata['prior mismatch']}; picture in {args.out}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
