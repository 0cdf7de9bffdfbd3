"""Time and error of the evaluators of noised data against the full scan, over Brownian times and numbers of points.

python experiments/bench/analytic_score.py [--smoke] [--points N ...] [--times TAU ...] [--spaces NAME ...]
    [--queries N] [--seed N]

Data are six clusters of spread 0.3, queries are data noised to the same time. Time is CPU time per query on one thread,
best of three runs, or the first if it takes 2 s; the tree and the coefficients, which are computed once, are not in it.
The error is that of the score over the larger of its length and 1/sqrt(tau), against the full scan in float64; the
largest of all queries, beside the largest bound.
"""

import argparse
import time

import torch
from torch import Tensor

from manifold_diffusion.heat_kernels import EVALUATORS, Evaluator, NoisedData
from manifold_diffusion.manifolds import SO3, Hyperboloid, Manifold, Sphere, Torus

SPACES: dict[str, Manifold] = {"sphere": Sphere(2), "torus": Torus(2), "so3": SO3(), "hyperboloid": Hyperboloid(2)}


def clusters(manifold: Manifold, n: int, generator: torch.Generator) -> Tensor:
    """Six clusters of spread 0.3 about points at about distance 1 from the origin."""
    origin = manifold.origin(torch.float64).expand(6, *manifold.point_shape)
    centres = manifold.exp(origin, manifold.random_tangent(origin, generator=generator))
    start = centres[torch.randint(6, (n,), generator=generator)]
    return manifold.exp(start, 0.3 * manifold.random_tangent(start, generator=generator))


def seconds(data: NoisedData, x: Tensor, tau: float, evaluator: Evaluator) -> float:
    """Best of three runs, of one if it is long."""
    times: list[float] = []
    while len(times) < 3 and sum(times) < 2:
        start = time.process_time()
        data.evaluate(x, tau, evaluator=evaluator)
        times.append(time.process_time() - start)
    return min(times)


def row(data: NoisedData, tau: float, n_queries: int, generator: torch.Generator) -> str:
    manifold = data.manifold
    x = data.sample(n_queries, tau, generator)
    full = data.evaluate(x, tau, evaluator="full")
    base = seconds(data, x, tau, "full") / n_queries * 1e6
    cells = [f"{tau:g}", f"{base:.0f} us"]
    assert full.score is not None
    unit = torch.maximum(manifold.norm(x, full.score), torch.full_like(full.log_prob, tau**-0.5))
    for evaluator in ("golden", "spectral", "auto"):
        if evaluator == "golden" and tau > 1 / 32:  # it would sum over nearly all points, one by one
            cells.append("-")
            continue
        try:
            value = data.evaluate(x, tau, evaluator=evaluator)
        except TypeError:  # CapabilityError: the manifold has no such evaluator
            cells.append("-")
            continue
        assert value.score is not None and value.score_error is not None
        if not bool(value.score_error.isfinite().all()):
            cells.append("out of reach")
            continue
        took = seconds(data, x, tau, evaluator) / n_queries * 1e6
        error = float((manifold.norm(x, value.score - full.score) / unit).max())
        bound = float((value.score_error / unit).max())
        used = ""
        if evaluator == "auto":
            counts = torch.bincount(value.evaluator, minlength=3).tolist()
            used = ", " + " + ".join(name for name, k in zip(EVALUATORS, counts, strict=True) if k)
        cells.append(f"{took:.0f} us, {base / took:.1f}x, {error:.0e} <= {bound:.0e}{used}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--times", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=["sphere", "torus", "so3"])
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.smoke:
        args.points, args.times, args.queries, args.spaces = [3000], [1e-4, 0.1], 32, ["sphere"]
    torch.set_num_threads(1)
    for space in args.spaces:
        for n in args.points:
            generator = torch.Generator().manual_seed(args.seed)
            data = NoisedData(SPACES[space], clusters(SPACES[space], n, generator))
            start = time.process_time()
            data.evaluate(torch.as_tensor(data.points[:1]), 1e-6, evaluator="golden")
            built = time.process_time() - start
            print(f"\n{SPACES[space]}, {n:,} points, tree in {built:.2f} s\n")
            print("| tau | full | golden | spectral | auto |\n| --- | --- | --- | --- | --- |")
            for tau in args.times:
                print(row(data, tau, args.queries, generator), flush=True)


if __name__ == "__main__":
    main()
