"""What a million heat-kernel samples with their scores cost, beside as many Gaussians with theirs.

python experiments/bench/kernel_sampling.py [--smoke] [--points N] [--repeats N] [--threads N]

Each draw has its own Brownian time, as in training. Medians of interleaved repeats; the Gaussian has three dimensions.
"""

import argparse
import statistics
import time

import torch

from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, RealProjective, Sphere, Torus

SPACES: dict[str, Manifold] = {
    "R^3": Euclidean(3),
    "S^2": Sphere(2),
    "SO(3)": SO3(),
    "T^3": Torus(3),
    "H^3": Hyperboloid(3),
    "RP^3": RealProjective(3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few points and repeats")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n, repeats = (2000, 2) if args.smoke else (args.points, args.repeats)
    generator = torch.Generator().manual_seed(0)
    tau = 1e-5 * 7e5 ** torch.rand(n, generator=generator)

    def draw(manifold: Manifold) -> float:
        x0 = manifold.origin().expand(n, *manifold.point_shape)
        start = time.perf_counter()
        heat_kernel(manifold).sample_with_score(x0, tau, generator)
        return time.perf_counter() - start

    for manifold in SPACES.values():
        draw(manifold)  # warm-up, tables
    times = [{name: draw(manifold) for name, manifold in SPACES.items()} for _ in range(repeats)]
    print(f"torch {torch.__version__}, {args.threads} threads, {n:,} draws, medians of {repeats} interleaved repeats\n")
    print("| space | ms | over R^3 |")
    print("| --- | --- | --- |")
    for name in SPACES:
        ratio = statistics.median(row[name] / row["R^3"] for row in times)
        print(f"| {name} | {1e3 * statistics.median(row[name] for row in times):.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
