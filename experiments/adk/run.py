"""Adenylate kinase from open to closed: strings in SE(3)^214 beside two recorded transitions.

python experiments/adk/run.py [--smoke] [--out FOLDER]     (needs pip install 'manifold-diffusion[molecules]')
"""

import argparse
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from manifold_diffusion import AnalyticDiffusion
from manifold_diffusion.data import frame_rmsd, load_adenylate_kinase, superpose, transition_profile
from manifold_diffusion.manifolds import SO3
from manifold_diffusion.models import ElasticNetwork
from manifold_diffusion.plotting import Panel, plot_panels
from manifold_diffusion.processes import BrownianMotion, LogSchedule
from manifold_diffusion.solvers import DiffusionString, GeodesicEuler

UNIT, TAU = 3.0, 4.0  # ångströms that weigh as one radian in the closed-form model, and its Brownian time at t = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few nodes and iterations, to see that everything runs")
    parser.add_argument("--out", type=Path, default=Path("runs/adk"), help="folder for the picture")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if find_spec("MDAnalysis") is None or find_spec("MDAnalysisTests") is None:
        return print("SKIPPED, nothing was run: its data need pip install 'manifold-diffusion[molecules]'")
    protein = load_adenylate_kinase()
    M, n = protein.manifold, 8 if args.smoke else 40
    middle = M.geodesic(protein.first, superpose(protein.last, protein.first), protein.first.new_tensor(0.5))
    frames = (protein.first, protein.last, *protein.recordings)
    a, b, first_run, second_run = (superpose(x, middle).float() for x in frames)
    ends, seen, held_out = torch.stack([a, b]), first_run[::2], first_run[1::2]

    def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
        return M.join(M.split(x)[0], factor * M.split(x)[1])

    model = AnalyticDiffusion(M, scaled(seen, 1 / UNIT), BrownianMotion(M, LogSchedule(TAU, 100.0)))
    network = ElasticNetwork(M, ends, cutoff=6.0, mixing=20.0)
    scores = {  # score, unit of length, step, iterations
        "geodesic": (lambda t, x: torch.zeros_like(x), 1.0, 1.0, 1),
        "elastic network": (lambda t, x: network.score(x), 1.0, 0.025, 1000),
        "closed-form diffusion": (lambda t, x: model.score(x, t), UNIT, TAU, 100),
    }
    paths = {"first recording": first_run, "second recording": second_run}
    print("\n| path | s | iterations | last move | spacing |\n" + "| --- " * 5 + "|")
    for name, (score, unit, step, iterations) in scores.items():
        start, string = time.perf_counter(), DiffusionString(M, score=score, solver=GeodesicEuler())
        options = {"step": step, "n_nodes": n, "max_iterations": min(iterations, 20 if args.smoke else iterations)}
        path = string.relax(scaled(ends, 1 / unit), **options)
        paths[name], move = scaled(path.nodes, unit), float(path.history[-1]) / path.length * (n - 1)
        took = time.perf_counter() - start
        print(f"| {name} | {took:.0f} | {len(path.history)} | {move:.0e} | {path.spacing:.0e} |", flush=True)

    profiles = {name: transition_profile(x, a, b) for name, x in paths.items()}
    print("\n| path | length | setback | clashes | closest | broken bonds | held out | second | turn |")
    print("| --- " * 9 + "|")
    for name, p in profiles.items():
        x, length = paths[name], M.dist(paths[name][:-1], paths[name][1:]).sum()
        near = [frame_rmsd(y.unsqueeze(1), x).min(1) for y in (held_out, second_run)]
        turn = SO3().dist(M.split(x[near[1].indices])[0], M.split(second_run)[0]).mean().rad2deg()
        distances = " | ".join(f"{d.values.mean():.2f} ({d.values.max():.2f})" for d in near)
        print(f"| {name} | {length:.0f} | {p.setback:.2f} | {p.clashes.max()} | {p.closest.min():.2f} |", end="")
        print(f" {p.broken_bonds.max()} | {distances} | {turn:.1f} |")

    near = {k: (p.share, frame_rmsd(paths[k].unsqueeze(1), second_run).amin(1)) for k, p in profiles.items()}
    near.pop("second recording")  # it is zero
    share, goal = "part of the length of the path", "RMSD to closed [Å]"
    panels = [
        Panel("RMSD to open [Å]", goal, {k: (p.to_first, p.to_last) for k, p in profiles.items()}),
        Panel(share, goal, {k: (p.share, p.to_last) for k, p in profiles.items()}),
        Panel(share, "RMSD to the second recording [Å]", near),
        Panel(share, "closest CA-CA [Å]", {k: (p.share, p.closest) for k, p in profiles.items()}, 3.6, "clash"),
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    options = {"dots": list(paths)[:2], "title": "Adenylate kinase, open to closed", "path": args.out / "adk.png"}
    plot_panels(panels, **options)


if __name__ == "__main__":
    main()
