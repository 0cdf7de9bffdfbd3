"""Time of exp, log and dist of rotations, ours and geomstats', on the same points in the same run.

    python experiments/bench/geometry_speed.py [--smoke] [--points N]

geomstats is timed on a part of the points, as its logarithm takes milliseconds per matrix; its time is scaled up.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("GEOMSTATS_BACKEND", "numpy")

import geomstats.backend as gs  # pyright: ignore[reportMissingImports]
import torch
from geomstats.geometry.special_orthogonal import SpecialOrthogonal

from manifold_diffusion.manifolds import SO, SO3


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Best of some repeats, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def compare(manifold: SO3 | SO, n: int, part: int, repeats: int) -> None:
    """Print a row of the table per method."""
    generator = torch.Generator().manual_seed(0)
    metric: Any = SpecialOrthogonal(n=manifold.point_shape[0]).metric
    x = manifold.random_uniform(n, generator=generator, dtype=torch.float64)
    v = 0.5 * manifold.random_tangent(x, generator)
    y = manifold.exp(x, v)
    gx, gv, gy = (gs.array(a[:part].numpy()) for a in (x, v, y))
    scale = float(manifold.norm(x[0], v[0])) / float(metric.norm(gv[0], base_point=gx[0]))
    rows: dict[str, tuple[Callable[[], torch.Tensor], Callable[[], Any], float]] = {
        "exp": (lambda: manifold.exp(x, v), lambda: metric.exp(tangent_vec=gv, base_point=gx), 1.0),
        "log": (lambda: manifold.log(x, y), lambda: metric.log(point=gy, base_point=gx), 1.0),
        "dist": (lambda: manifold.dist(x, y), lambda: metric.dist(point_a=gx, point_b=gy), scale),
    }
    for name, (ours, theirs, factor) in rows.items():
        gap = float((ours()[:part] - factor * torch.as_tensor(gs.to_numpy(theirs()))).abs().max())
        fast, slow = seconds(ours, repeats), seconds(theirs, 1) * n / part
        row = (str(manifold), name, f"{fast * 1e3:.1f}", f"{slow * 1e3:.0f}", f"{slow / fast:.0f}", f"{gap:.0e}")
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="100 points")
    parser.add_argument("--points", type=int, default=10_000, help="points per call")
    args = parser.parse_args()
    torch.set_num_threads(1)
    n, repeats = (100, 1) if args.smoke else (args.points, 20)
    part = min(n, 300)
    print(f"{n} points, float64, one thread, best of {repeats}; geomstats on {part} of them, scaled\n")
    print("| manifold | method | ours, ms | geomstats, ms | ratio | largest gap |")
    print("| --- | --- | --- | --- | --- | --- |")
    for manifold in (SO3(), SO(4)):
        compare(manifold, n, part, repeats)


if __name__ == "__main__":
    main()
