"""What heat-kernel samples with their scores, and densities, cost beside Gaussians with theirs.

python experiments/bench/kernel_sampling.py [--smoke] [--points N] [--repeats N] [--threads N] [--spaces NAME ...]

Each draw has its own Brownian time, as in training. Medians of interleaved repeats; the Gaussian has three dimensions.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import (
    SE3,
    SO,
    SO3,
    SPD,
    SU,
    Box,
    ComplexProjective,
    Euclidean,
    Hyperboloid,
    Manifold,
    Quotient,
    RealProjective,
    Simplex,
    Sphere,
    Torus,
)

SPACES: dict[str, Manifold] = {
    "R^3": Euclidean(3),
    "R^9": Euclidean(9),
    "S^2": Sphere(2),
    "S^127": Sphere(127),
    "SO(3)": SO3(),
    "T^3": Torus(3),
    "H^3": Hyperboloid(3),
    "SE(3)": SE3(),
    "RP^3": RealProjective(3),
    "CP^2": ComplexProjective(2),
    "SO(3)/octahedral": Quotient(SO3(), "octahedral"),
    "box": Box([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    "simplex, 4 parts": Simplex(4),
    "SPD(3)": SPD(3),
    "SPD(3), log-Euclidean": SPD(3, "log_euclidean"),
    "SO(4)": SO(4),
    "SU(3)": SU(3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few points and repeats")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=["R^9", "S^2", "SO(3)"], metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    n, repeats = (500, 2) if args.smoke else (args.points, args.repeats)
    chosen = list(SPACES) if args.smoke else ["R^3", *(s for s in args.spaces if s != "R^3")]
    generator = torch.Generator().manual_seed(0)
    tau = 1e-5 * 7e5 ** torch.rand(n, generator=generator)

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def costs(manifold: Manifold, x: Tensor) -> tuple[float, float, float]:
        """Times of draws with scores, of log densities and of scores."""
        kernel, x0 = heat_kernel(manifold), manifold.origin().expand(n, *manifold.point_shape)
        return (
            seconds(lambda: kernel.sample_with_score(x0, tau, generator)),
            seconds(lambda: kernel.log_prob(x, x0, tau)),
            seconds(lambda: kernel.score(x, x0, tau)),
        )

    points: dict[str, Tensor] = {}
    for name in chosen:  # warm-up, tables
        manifold = SPACES[name]
        points[name] = heat_kernel(manifold).sample(manifold.origin().expand(n, *manifold.point_shape), tau, generator)
        costs(manifold, points[name])
    times = [{name: costs(SPACES[name], points[name]) for name in chosen} for _ in range(repeats)]
    print(f"torch {torch.__version__}, {args.threads} threads, {n:,} points, medians of {repeats} interleaved repeats")
    print("Microseconds per point\n")
    print("| space | sample with score | over R^3 | log density | score |")
    print("| --- | --- | --- | --- | --- |")
    for name in chosen:
        sample, log_prob, score = (1e6 / n * statistics.median(row[name][k] for row in times) for k in range(3))
        ratio = statistics.median(row[name][0] / row["R^3"][0] for row in times)
        print(f"| {name} | {sample:.2f} | {ratio:.2f} | {log_prob:.2f} | {score:.2f} |")


if __name__ == "__main__":
    main()
