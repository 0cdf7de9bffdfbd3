"""Time and error of the evaluators of noised data against the full scan, over Brownian times and numbers of points.

python experiments/bench/analytic_score.py [--smoke] [--points N ...] [--times TAU ...] [--spaces NAME ...]
    [--queries N] [--scanned N] [--evaluators NAME ...] [--out FILE.png] [--seed N]

Data are six clusters of spread 0.3, queries are data noised to the same time. Time is CPU time per query on one thread,
best of three runs, or the first if it takes 2 s; trees and coefficients, which are computed once, are not in it.
`first` is the time of the first queries at that time, for which moments of cells are made, which are kept. The full
scan is timed on the first few queries. The error is that of the score over the larger of its length and 1/sqrt(tau),
against the full scan in float64, the largest of the scanned queries; the bound is the largest of the same.
With --out the time per query is drawn over the number of points, a line per Brownian time.
"""

import argparse
import time
from collections import defaultdict

import torch
from torch import Tensor

from manifold_diffusion import CapabilityError
from manifold_diffusion.heat_kernels import EVALUATORS, Evaluator, NoisedData
from manifold_diffusion.manifolds import SO3, Hyperboloid, Manifold, Sphere, Torus

SPACES: dict[str, Manifold] = {"sphere": Sphere(2), "torus": Torus(2), "so3": SO3(), "hyperboloid": Hyperboloid(2)}
Lines = dict[tuple[str, float], list[tuple[int, float]]]
"""Microseconds per query: of a name and a time, pairs with the number of points."""


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
    return min(times) / len(x) * 1e6


def row(data: NoisedData, tau: float, args: argparse.Namespace, generator: torch.Generator, lines: Lines) -> str:
    manifold, few = data.manifold, min(args.scanned, args.queries)
    x = data.sample(args.queries, tau, generator)
    full = data.evaluate(x[:few], tau, evaluator="full")
    base = seconds(data, x[:few], tau, "full")
    lines["full", tau].append((len(data), base))
    cells = [f"{tau:g}", f"{base:.0f} us"]
    assert full.score is not None
    unit = torch.maximum(manifold.norm(x[:few], full.score), torch.full_like(full.log_prob, tau**-0.5))
    for evaluator in args.evaluators:
        if evaluator == "golden" and tau * len(data) > 3000:  # it would sum over nearly all points, one by one
            cells.append("-")
            continue
        start = time.process_time()
        try:
            value = data.evaluate(x, tau, evaluator=evaluator)
        except CapabilityError:  # the manifold has no such evaluator
            cells.append("-")
            continue
        first = (time.process_time() - start) / len(x) * 1e6
        assert value.score is not None and value.score_error is not None
        beyond = not bool(value.score_error.isfinite().all())
        if beyond or (evaluator == "cells" and not bool((value.evaluator == EVALUATORS.index("cells")).all())):
            cells.append("out of reach")
            continue
        took = seconds(data, x, tau, evaluator)
        lines[evaluator, tau].append((len(data), took))
        error = float((manifold.norm(x[:few], value.score[:few] - full.score) / unit).max())
        bound = float((value.score_error[:few] / unit).max())
        used = ""
        if evaluator == "auto":
            counts = torch.bincount(value.evaluator, minlength=len(EVALUATORS)).tolist()
            used = ", " + " + ".join(name for name, k in zip(EVALUATORS, counts, strict=True) if k)
        cells.append(f"{took:.0f} us, first {first:.0f}, {base / took:.1f}x, {error:.0e} <= {bound:.0e}{used}")
    return "| " + " | ".join(cells) + " |"


def draw(lines: Lines, title: str, path: str) -> None:
    """Time per query of the full scan and of ``auto`` over the number of points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    times = sorted({tau for name, tau in lines if name == "auto"})
    full: dict[int, list[float]] = defaultdict(list)
    for (name, _), line in lines.items():
        for n, took in line if name == "full" else []:
            full[n].append(took)
    axes.plot(list(full), [sum(v) / len(v) for v in full.values()], "k--", label="full scan")
    for i, tau in enumerate(times):
        shade = 0.85 * i / max(1, len(times) - 1)
        axes.plot(*zip(*lines["auto", tau], strict=True), "o-", ms=3, color=(shade, 0.3, 1 - shade), label=f"{tau:g}")
    axes.set(xscale="log", yscale="log", xlabel="number of points", ylabel="microseconds per query", title=title)
    axes.grid(alpha=0.3)
    axes.legend(title="Brownian time", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    parser.add_argument("--points", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--times", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0])
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=["sphere", "torus", "so3"])
    parser.add_argument("--evaluators", nargs="+", default=["golden", "spectral", "cells", "auto"])
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--scanned", type=int, default=64, help="queries of the full scan")
    parser.add_argument("--out", help="file of the plot, .png; with more spaces the last one is drawn")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.smoke:
        args.points, args.times, args.queries, args.spaces = [3000], [1e-4, 0.1], 32, ["sphere"]
    torch.set_num_threads(1)
    for space in args.spaces:
        lines: Lines = defaultdict(list)
        for n in args.points:
            generator = torch.Generator().manual_seed(args.seed)
            data = NoisedData(SPACES[space], clusters(SPACES[space], n, generator))
            built = {}
            for evaluator in ("cells", "golden", "spectral"):
                in_auto = "auto" in args.evaluators and not (evaluator == "golden" and "cells" in built)
                if evaluator not in args.evaluators and not in_auto:
                    continue
                start = time.process_time()
                try:
                    for tau in args.times if evaluator == "spectral" else [1e-6]:
                        data.evaluate(torch.as_tensor(data.points[:1]), tau, evaluator=evaluator)
                except CapabilityError:
                    continue
                built[evaluator] = f"{evaluator} built in {time.process_time() - start:.2f} s"
            print(f"\n{', '.join([str(SPACES[space]), f'{n:,} points', *built.values()])}\n")
            print("| " + " | ".join(["tau", "full", *args.evaluators]) + " |")
            print("| " + " | ".join(["---"] * (2 + len(args.evaluators))) + " |")
            for tau in args.times:
                print(row(data, tau, args, generator, lines), flush=True)
            tree = data._evaluators.cells
            if tree is not None:
                print(f"\nCells hold {tree.nbytes / n:.0f} bytes a point, besides the points.")
        if args.out and "auto" in args.evaluators:
            draw(lines, f"Noised data on {SPACES[space]}: score and density to 1e-3", args.out)


if __name__ == "__main__":
    main()
