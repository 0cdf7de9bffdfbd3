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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few nodes and iterations, to see that everything runs")
    parser.add_argument("--unit", type=float, default=3.0, help="ångströms that weigh as a radian in the diffusion")
    parser.add_argument("--tau", type=float, default=4.0, help="Brownian time of the diffusion at t = 0")
    parser.add_argument("--out", type=Path, default=Path("runs/adk"), help="folder for the picture")
    args = parser.parse_args()
    if find_spec("MDAnalysis") is None or find_spec("MDAnalysisTests") is None:
        return print("SKIPPED, nothing was run: its data need pip install 'manifold-diffusion[molecules]'")
    protein = load_adenylate_kinase()
    M, n_nodes, most = protein.manifold, *((8, 20) if args.smoke else (40, 1000))
    middle = M.geodesic(protein.first, superpose(protein.last, protein.first), protein.first.new_tensor(0.5))
    frames = (protein.first, protein.last, *protein.recordings)
    opened, closed, first_run, second_run = (superpose(x, middle).float() for x in frames)
    ends, seen, held_out = torch.stack([opened, closed]), first_run[::2], first_run[1::2]
    between = M.geodesic(seen[:-1], seen[1:], seen.new_full((len(seen) - 1,), 0.5))
    scaled = lambda x, factor: M.join(M.split(x)[0], factor * M.split(x)[1])  # noqa: E731
    model = AnalyticDiffusion(M, scaled(seen, 1 / args.unit), BrownianMotion(M, LogSchedule(args.tau, 25 * args.tau)))
    network = ElasticNetwork(M, ends, cutoff=6.0, mixing=20.0)
    strings = {  # score, unit of length, step, iterations at most
        "geodesic": (lambda t, x: torch.zeros_like(x), 1.0, 1.0, 1),
        "elastic network": (lambda t, x: network.score(x), 1.0, 0.025, 1000),
        "closed-form diffusion": (lambda t, x: model.score(x, t), args.unit, args.tau, 100),
    }
    joined = torch.stack([seen[:-1], between], 1).flatten(0, 1)  # the frames seen and the middles between them
    paths = {"first recording": joined, "second recording": second_run}
    print("| string | s | iterations | last move | spacing |\n" + "| --- " * 5 + "|")
    for name, (score, unit, step, iterations) in strings.items():
        start, string = time.perf_counter(), DiffusionString(M, score=score, solver=GeodesicEuler())
        path = string.relax(scaled(ends, 1 / unit), step=step, n_nodes=n_nodes, max_iterations=min(iterations, most))
        paths[name], move = scaled(path.nodes, unit), float(path.history[-1]) / path.length * (n_nodes - 1)
        print(f"| {name} | {time.perf_counter() - start:.0f} | {len(path.history)} | {move:.0e} | {path.spacing:.0e} |")

    profiles = {name: transition_profile(x, opened, closed) for name, x in paths.items()}
    heads = "path | length | setback | clashes | closest | broken bonds | held out | second | turn"
    print(f"\n| {heads} |\n" + "| --- " * 9 + "|")
    for name, p in profiles.items():
        x, length = paths[name], M.dist(paths[name][:-1], paths[name][1:]).sum()
        near = [frame_rmsd(y.unsqueeze(1), x).min(1) for y in (held_out, second_run)]
        turn = SO3().dist(M.split(x[near[1].indices])[0], M.split(second_run)[0]).mean().rad2deg()
        rmsd = " | ".join(f"{d.values.mean():.2f} ({d.values.max():.2f})" for d in near)
        print(f"| {name} | {length:.0f} | {p.setback:.2f} | {p.clashes.max()} | {p.closest.min():.2f} |", end="")
        print(f" {p.broken_bonds.max()} | {rmsd} | {turn:.1f} |")
    near = {k: (p.share, frame_rmsd(paths[k].unsqueeze(1), second_run).amin(1)) for k, p in profiles.items()}
    del near["second recording"]  # it is zero
    share, goal = "part of the length of the path", "RMSD to closed [Å]"
    panels = [
        Panel("RMSD to open [Å]", goal, {k: (p.to_first, p.to_last) for k, p in profiles.items()}),
        Panel(share, goal, {k: (p.share, p.to_last) for k, p in profiles.items()}),
        Panel(share, "RMSD to the second recording [Å]", near),
        Panel(share, "closest CA-CA [Å]", {k: (p.share, p.closest) for k, p in profiles.items()}, 3.6, "clashes below"),
    ]
    args.out.mkdir(parents=True, exist_ok=True)
    plot_panels(panels, dots=list(paths)[:2], title="Adenylate kinase, open to closed", path=args.out / "adk.png")


if __name__ == "__main__":
    main()
