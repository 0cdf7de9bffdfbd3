"""Inner products along a short last axis: torch's sum of products, and the product with a vector of ones that we use.

python experiments/bench/short_products.py [--smoke] [--rows N ...] [--threads N]

Both are timed in turn on the same vectors; the ratio of medians is reported, forward alone and with the gradient.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from manifold_diffusion._safe import dot


def summed(x: Tensor, y: Tensor) -> Tensor:
    """What ``dot`` replaces."""
    return (x * y).sum(-1)


def ratio(run: Callable[[Callable[[Tensor, Tensor], Tensor]], object], repeats: int) -> float:
    """Median time of the sum over that of ``dot``."""
    times: dict[Callable[[Tensor, Tensor], Tensor], list[float]] = {summed: [], dot: []}
    for _ in range(repeats):
        for function, seen in times.items():
            start = time.perf_counter()
            run(function)
            seen.append(time.perf_counter() - start)
    return statistics.median(times[summed]) / statistics.median(times[dot])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few rows, once")
    parser.add_argument("--rows", nargs="+", type=int, default=[2048, 16384, 262144])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows, repeats = ([4096], 3) if args.smoke else (args.rows, 50)
    print(f"torch {torch.__version__}, {args.threads} threads, time of the sum over that of dot\n")
    print("| dtype | length | " + " | ".join(f"{n:,} rows | with gradient" for n in rows) + " |")
    print("| --- | --- |" + " --- | --- |" * len(rows))
    for dtype in (torch.float32, torch.float64):
        for size in (2, 3, 4, 5):
            cells = []
            for n in rows:
                x, y = torch.randn(2, n, size, dtype=dtype, generator=torch.Generator().manual_seed(0))
                z = x.clone().requires_grad_()
                cells.append(ratio(lambda f, x=x, y=y: f(x, y), repeats))
                cells.append(ratio(lambda f, z=z, y=y: torch.autograd.grad(f(z, y).sum(), z), repeats))
            print(f"| {str(dtype).removeprefix('torch.')} | {size} | {' | '.join(f'{c:.2f}' for c in cells)} |")


if __name__ == "__main__":
    main()
