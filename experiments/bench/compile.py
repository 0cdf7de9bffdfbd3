"""What torch.compile gains on the geometry: exp, log, distance and transport of many points, with their gradients.

python experiments/bench/compile.py [--smoke] [--points N] [--repeats N] [--threads N]

Eager and compiled calls are interleaved, so that a change of the machine's speed hits both alike; medians are compared.
The compiled function is one graph (fullgraph=True). It needs a C++ compiler on the CPU.
"""

import argparse
import shutil
import statistics
import time

import torch
from torch import Tensor

from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus

SPACES = (Sphere(2), Sphere(127), Torus(7), SO3(), Hyperboloid(3), Product(SO3(), Euclidean(3)))


def measure(m: Manifold, n: int, repeats: int) -> tuple[float, float, float]:
    """Milliseconds of an eager and of a compiled call, and the seconds of compilation."""

    def total(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return m.exp(x, v).sum() + m.log(x, y).sum() + m.dist(x, y).sum() + m.transport(x, y, v).sum()

    generator = torch.Generator().manual_seed(0)
    origin = m.origin().expand(n, *m.point_shape)
    x, y = (m.exp(origin, 0.5 * m.random_tangent(origin, generator=generator)) for _ in range(2))
    inputs = [a.requires_grad_() for a in (x, y, m.random_tangent(x, generator=generator))]
    compiled = torch.compile(total, fullgraph=True)
    start = time.perf_counter()
    torch.autograd.grad(compiled(*inputs), inputs)
    seconds = time.perf_counter() - start
    times: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(repeats):
        for name, function in (("eager", total), ("compiled", compiled)):
            start = time.perf_counter()
            torch.autograd.grad(function(*inputs), inputs)
            times[name].append(1e3 * (time.perf_counter() - start))
    return statistics.median(times["eager"]), statistics.median(times["compiled"]), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one manifold and a few points, to see that it runs")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        print("No C++ compiler here: nothing to measure.")
        return
    torch.set_num_threads(args.threads)
    n, repeats = (100, 2) if args.smoke else (args.points, args.repeats)
    print(f"{n} points, {args.threads} threads, torch {torch.__version__}, float32\n")
    print(f"{'manifold':28s}{'eager, ms':>11s}{'compiled, ms':>14s}{'ratio':>8s}{'compilation, s':>16s}")
    for m in SPACES[:1] if args.smoke else SPACES:
        eager, compiled, seconds = measure(m, n, repeats)
        print(f"{m!r:28s}{eager:11.2f}{compiled:14.2f}{eager / compiled:8.1f}{seconds:16.0f}", flush=True)


if __name__ == "__main__":
    main()
