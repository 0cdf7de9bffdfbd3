"""Strings between modes of mixtures of heat kernels on S^2, T^2 and SO(3), and their error where the path is known.

python experiments/string/run.py [--smoke] [--seed S] [--out FOLDER]
"""

import argparse
import math
import time
from pathlib import Path

import torch

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Sphere, Torus
from manifold_diffusion.plotting import plot_strings
from manifold_diffusion.processes import LogSchedule
from manifold_diffusion.solvers import DiffusionString

THETA, schedule = math.pi / 3, LogSchedule(1e-2, 7.0)
across = lambda x: torch.atan2(x[..., :2].norm(dim=-1), x[..., 2]) - THETA  # noqa: E731


def valley(x):  # -V: the path between the minima of V = 30 (theta - pi/3)^2 + cos 2 phi is the circle of latitude
    return -30 * across(x) ** 2 - torch.cos(2 * torch.atan2(x[..., 1], x[..., 0]))


def benchmark(smoke):
    M, gradient = Sphere(2), torch.func.grad(lambda x: valley(x).sum())
    a = torch.tensor([THETA, THETA + 0.3, THETA], dtype=torch.float64)
    start = torch.stack([torch.tensor([0, a[1].sin(), 0]), torch.tensor([-1, 0, 1]) * a.sin(), a.cos()], -1)
    print("| order | nodes | max abs(theta - pi/3) | barrier - 2 | iterations | s |\n" + "| --- " * 6 + "|")
    for order, n in [(1, 20), (3, 20)] if smoke else [(order, n) for order in (1, 3) for n in (20, 40, 80, 160)]:
        begin = time.perf_counter()
        string = DiffusionString(M, score=lambda t, x: M.to_tangent(x, gradient(x)), log_prob=valley, order=order)
        path = string.relax(start, step=0.01, n_nodes=n)
        error, barrier = float(across(path.nodes).abs().max()), path.barriers[0] - 2
        print(f"| {order} | {n} | {error:.1e} | {barrier:.0e} | {len(path.history)} |", end="")
        print(f" {time.perf_counter() - begin:.2f} |", flush=True)


def strings(name, M, smoke, seed, out):
    """Transport, path of least energy and principal curve between the ends of a ridge of five kernels."""
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=torch.float64)  # to the middle of the map
    x = {"sphere": turn[:, 2], "torus": torch.zeros(2, dtype=torch.float64), "rotations": turn}[name]
    u, v = M.tangent_basis(x)[:2]
    ridge = [M.exp(x, a * u + b * v) for a, b in [(-0.9, 0), (-0.55, 0.5), (0, 0.7), (0.55, 0.5), (0.9, 0)]]
    law = HeatKernelMixture(M, torch.stack(ridge), 0.05, torch.tensor([0.25, 0.2, 0.1, 0.2, 0.25]))
    # 20 times the reverse diffusion, once the law is as narrow as the string is long
    g = lambda t, x: M.per_point(torch.where(schedule.tau(t) < 0.2, 10 * schedule.rate(t), 0.0).sqrt())  # noqa: E731
    score = lambda t, x: law.score(x, schedule.tau(t))  # noqa: E731
    density = lambda x: law.log_prob(x, schedule.tau_min)  # noqa: E731
    string = DiffusionString(M, lambda t, x: -M.per_point(schedule.rate(t) / 2) * score(t, x), score, density)
    # Seen from t = 1 the ends may be nearer to each other the other way round: via the middle.
    size = {"n_nodes": 10 if smoke else 40, "steps": 30 if smoke else 200, "via": x.unsqueeze(0)}
    walk = {"temperature": 1.0, "n_nodes": 10, "n_walkers": 64, "rate": 0.02, "max_iterations": 5 if smoke else 500}
    nodes, energies = {}, {}
    for kind, strength in {"transport": 0.0, "minimum energy": g, "principal curve": None}.items():
        begin, generator = time.perf_counter(), torch.Generator().manual_seed(seed)
        if strength is None:  # the means of the data near the path of least energy
            path = string.relax(nodes["minimum energy"], step=0.005, generator=generator, **walk)
        else:
            path = string.evolve(ridge[0], ridge[-1], g=strength, **size)
        nodes[kind], energies[kind] = path.nodes, path.energy
        print(f"| {M} | {kind} | {path.length:.4f} | {path.barriers[0]:.4f} |", end="")
        print(f" {path.spacing:.0e} | {time.perf_counter() - begin:.0f} |", flush=True)
    options = {"log_prob": density, "title": f"From end to end of a ridge on {M}", "path": out / f"{name}.png"}
    plot_strings(M, nodes, energies=energies, **options)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few nodes and steps, to see that everything runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/string"), help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    benchmark(args.smoke)
    print("\n| manifold | string | length | barrier | spacing | s |\n" + "| --- " * 6 + "|")
    for name, M in {"sphere": Sphere(2), "torus": Torus(2), "rotations": SO3()}.items():
        strings(name, M, args.smoke, args.seed, args.out)
