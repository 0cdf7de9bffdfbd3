"""What a training step costs on a manifold, relative to a Euclidean one with the same network, batch and optimiser.

python experiments/bench/step_time.py [--smoke] [--repeats N] [--threads N] [--single] [--method M] [--spaces NAME ...]

One step: draw noised points and targets, forward, backward, clip, AdamW. The steps of all spaces are interleaved, so
that a change of the machine's speed hits them alike; medians are compared. The Euclidean space has the same ambient
size, and the network the same number of inputs, so that only the geometry differs.
"""

import argparse
import statistics
import time

import torch

from manifold_diffusion import Batch
from manifold_diffusion.manifolds import (
    SE3N,
    SO3,
    SPD,
    SU,
    Euclidean,
    Hyperboloid,
    Manifold,
    Product,
    RealProjective,
    Simplex,
    Sphere,
    Torus,
    geodesic_symmetry,
)
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching, FlowMapMatching, FlowMatching
from manifold_diffusion.processes import GeodesicFlow, LogPath, default_process

SPACES = {
    "S^2": (Sphere(2), 3),
    "S^127": (Sphere(127), 128),
    "T^7": (Torus(7), 7),
    "T^128": (Torus(128), 256),
    "SO(3)": (SO3(), 9),
    "H^3": (Hyperboloid(3), 4),
    "SO(3) x R^3": (Product(SO3(), Euclidean(3)), 12),
    "SPD(3)": (SPD(3), 9),
    "SU(3)": (SU(3), 18),
    "SE(3)^64": (SE3N(64), 768),
    "RP^3": (RealProjective(3), 4),
    "simplex, 20 parts": (Simplex(20), 20),
}


class Step:
    """One optimiser step on points that are drawn once."""

    def __init__(self, manifold: Manifold, width: int, batch: int, antithetic: bool, method: str) -> None:
        self.generator = torch.Generator().manual_seed(0)
        noise, path = default_process(manifold), GeodesicFlow(manifold, LogPath(1e-2))
        process = noise if method == "diffusion" else path
        self.network = TangentMLP(process, width=width, n_frequencies=64, two_times=method == "map")
        if method == "diffusion":
            self.objective = DenoisingScoreMatching(noise, antithetic=antithetic)
        else:
            self.objective = FlowMatching(path) if method == "flow" else FlowMapMatching(path)
        self.optimizer = torch.optim.AdamW(self.network.parameters())
        origin = manifold.origin().expand(batch, *manifold.point_shape)
        self.x = manifold.move(origin, 0.5 * manifold.random_tangent(origin, generator=self.generator))

    def __call__(self) -> float:
        start = time.perf_counter()
        loss = self.objective.loss(self.network, Batch(self.x), self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two short repeats at a small size")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--single", action="store_true", help="single draws: the network sees the batch once, not in pairs"
    )
    parser.add_argument("--method", choices=("diffusion", "flow", "map"), default="diffusion", help="what is trained")
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=list(SPACES), metavar="NAME")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = [(16, 64)] if args.smoke else [(512, 4096), (128, 512)]
    repeats = 2 if args.smoke else args.repeats
    draws = "single draws" if args.single else "antithetic pairs"
    if args.method != "diffusion":
        draws = f"{args.method} along geodesics"
    print(f"torch {torch.__version__}, {args.threads} threads, {draws}, medians of {repeats} interleaved steps\n")
    print("| space | " + " | ".join(f"width {w}, batch {b}" for w, b in settings) + " |")
    print("| --- |" + " --- |" * len(settings))
    cells: dict[str, list[str]] = {name: [] for name in args.spaces}
    for width, batch in settings:
        for name in args.spaces:
            manifold, size = SPACES[name]
            pairs = (
                not args.single and geodesic_symmetry(manifold) is not None
            )  # without a mirror, single on both sides
            pair = [Step(m, width, batch, pairs, args.method) for m in (manifold, Euclidean(size))]
            for step in 5 * pair:
                step()  # warm-up, tables
            times = [[step() for step in pair] for _ in range(repeats)]
            ours, flat = (statistics.median(t) for t in zip(*times, strict=True))
            ratio = statistics.median(a / b for a, b in times)
            cells[name].append(f"{ratio:.3f} ({1e3 * ours:.2f} / {1e3 * flat:.2f} ms)")
    for name, row in cells.items():
        print(f"| {name} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
