"""Learn the Schroedinger bridge of two known laws on the sphere, and compare its drifts with the exact ones.

python experiments/bridges/run.py [--smoke] [--steps N] [--seed S] [--out FOLDER]
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.metrics import HeatGram, mmd_permutation_test
from manifold_diffusion.models import SchrodingerBridge
from manifold_diffusion.plotting import plot, save_figure
from manifold_diffusion.processes import SchrodingerCoupling, schrodinger_plan

S2, TAU = Sphere(2), 0.5
NORTH = S2.project(torch.tensor([[0.5, 0.3, 0.8], [-0.6, 0.2, 0.7]]).double())
SOUTH = S2.project(torch.tensor([[0.8, 0.0, -0.5], [-0.4, 0.7, -0.5], [-0.4, -0.8, -0.4]]).double())


def exact_bridge(mu: HeatKernelMixture, nu: HeatKernelMixture, n: int):
    """The bridge of the laws themselves, on n points of a golden spiral, of equal areas."""
    u, phi = (2 * torch.arange(n).double() + 1) / n - 1, torch.pi * (1 + 5**0.5) * torch.arange(n).double()
    x = torch.stack([(1 - u * u).sqrt() * phi.cos(), (1 - u * u).sqrt() * phi.sin(), u], -1)
    return schrodinger_plan(S2, x, x, TAU, *(law.log_prob(x).softmax(0) for law in (mu, nu)), tolerance=1e-6)


def drift_error(model, truth, generator: torch.Generator) -> float:
    """Relative root mean square of the errors of both drifts, in units of the noise left, over the exact marginals."""
    error = size = 0.0
    for t in (0.1, 0.3, 0.5, 0.7, 0.9):
        x = truth.sample(1000, t, generator)
        for name, left in (("drift_to_1", 1 - t), ("drift_to_0", t)):
            exact, found = (getattr(bridge, name)(x, t).detach() for bridge in (truth, model))
            error, size = error + left * (found - exact).square().sum(), size + left * exact.square().sum()
    return float(error / size) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps, to see that everything runs")
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps of each network in each round")
    parser.add_argument("--seed", type=int, default=0, help="of the data, the training and the samples")
    parser.add_argument("--out", type=Path, default=Path("runs/bridges"), help="folder for the model and the picture")
    args, start = parser.parse_args(), time.perf_counter()
    g = torch.Generator().manual_seed(args.seed)
    steps, n, nodes = (5, 100, 300) if args.smoke else (args.steps, 4000, 2000)
    mu, nu = HeatKernelMixture(S2, NORTH, 0.05), HeatKernelMixture(S2, SOUTH, 0.05)
    x0, x1, fresh = mu.sample(n, generator=g), nu.sample(n, generator=g), nu.sample(n, generator=g)
    truth, plan = exact_bridge(mu, nu, nodes), schrodinger_plan(S2, x0[:2000], x1[:2000], TAU, tolerance=1e-4)
    print(f"{truth}: E[x0.x1] = {(truth.log_plan.exp() * (truth.x0 @ truth.x1.mT)).sum():.4f}")
    rows: list[tuple] = [("static bridge of the data", plan, torch.stack(plan.sample_pairs(n, g), 1))]
    static = SchrodingerCoupling(S2, TAU)
    for name, coupling, k in (("static start", static, 1), ("independent", None, 1), ("independent", None, 3)):
        model = SchrodingerBridge(S2, TAU)
        fit = model.fit(x0.float(), x1.float(), iterations=k, max_steps=steps, coupling=coupling, seed=args.seed)
        rows.append((f"learned, {name}, rounds: {k}", model.double(), S2.project(fit.pairs.double())))
    for name, bridge, pairs in rows:
        test = mmd_permutation_test(pairs[:2000, 1], fresh[:2000], HeatGram(S2), generator=g)
        cosine = float((pairs[:, 0] * pairs[:, 1]).sum(-1).mean())
        print(f"{name:34s} drift error {drift_error(bridge, truth, g):.3f}  E[x0.x1] {cosine:.4f}  ends: {test}")
    axes = (figure := Figure(figsize=(13, 6.5))).subplots(2, 3)
    path = model.sample(x0[:1000], direction="to_1", generator=g, return_trajectory=True)
    for (above, below), t in zip(axes.T, (0.0, 0.5, 1.0), strict=True):
        law = {0.0: mu.log_prob, 1.0: nu.log_prob}.get(t, lambda x, t=t: truth.log_prob(S2.project(x), t))
        plot(S2, log_prob=lambda x, law=law: law(x.double()), ax=above, resolution=24 if args.smoke else 120)
        plot(S2, samples=path[round(100 * t)], ax=below)
        above.set_title(f"t = {t:g}: exact density")
        below.set_title(f"t = {t:g}: learned, from data at t = 0")
    model.save_pretrained(args.out / "model", {"seed": args.seed, "laws": "two and three heat kernels of time 0.05"})
    save_figure(figure, args.out / "bridges.png")
    print(f"Picture: {args.out / 'bridges.png'}   {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
