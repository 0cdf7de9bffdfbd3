"""Peak memory of sampling and likelihood against the number of steps.

python experiments/bench/memory.py [--smoke]

Each row is a process of its own, whose peak resident memory the operating system reports.
"""

import argparse
import multiprocessing
import resource

JOBS = ("sample, ode", "sample, sde", "log_prob")


def peak(job: str, steps: int, n: int) -> float:
    """Peak resident memory in MB of one job in this process."""
    import torch

    from manifold_diffusion import RiemannianDiffusion
    from manifold_diffusion.manifolds import Sphere
    from manifold_diffusion.solvers import ConstantSteps, GeodesicRK4

    model, generator = RiemannianDiffusion(Sphere(2)), torch.Generator().manual_seed(0)
    if job == "log_prob":
        x = Sphere(2).random_uniform(n, generator=generator)
        model.log_prob(x, solver=GeodesicRK4(), controller=ConstantSteps(steps))
    else:
        model.sample(n, method="sde" if job == "sample, sde" else "ode", steps=steps, generator=generator)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few points and steps")
    args = parser.parse_args()
    n, counts = (50, (2, 4)) if args.smoke else (4096, (10, 40, 160))
    print(f"Peak resident memory in MB, {n} points\n")
    print("| job | " + " | ".join(f"{c} steps" for c in counts) + " |\n| --- |" + " --- |" * len(counts))
    context = multiprocessing.get_context("spawn")
    for job in JOBS:
        row = []
        for steps in counts:
            with context.Pool(1) as pool:
                row.append(pool.apply(peak, (job, steps, n)))
        print(f"| {job} | " + " | ".join(f"{m:.0f}" for m in row) + " |", flush=True)


if __name__ == "__main__":
    main()
