"""Posterior samples of a diffusion model whose score and posterior are known: guidance alone, and weighted particles.

python experiments/guidance/run.py [--smoke] [--total N] [--seed S] [--out FOLDER]
"""

import argparse
import math
import time
from pathlib import Path

import torch
from numpy.polynomial.legendre import leggauss

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Sphere, Torus
from manifold_diffusion.plotting import plot
from manifold_diffusion.processes import BrownianMotion, LogSchedule
from manifold_diffusion.solvers import sample_twisted

TAU_MIN, WEIGHTS = 0.02, torch.tensor([0.4, 0.3, 0.2, 0.1])  # a model's data are noised by tau_min


def sphere():
    """Four heat kernels on S^2 seen through exp(8 (a.x - 1)): law, likelihood, its width, quadrature, features."""
    M, i, j = Sphere(2), *torch.triu_indices(3, 3)
    centres = M.project(torch.tensor([[1, 0, 0], [0, 1, 0.3], [-0.5, -0.6, 0.6], [0, 0, -1.0]]))
    law = HeatKernelMixture(M, centres, torch.tensor([0.1, 0.05, 0.2, 0.1]), WEIGHTS)
    z, w = (torch.tensor(v, dtype=torch.float32) for v in leggauss(100))
    phi, r, a = torch.arange(200) * (math.pi / 100), (1 - z**2).sqrt()[:, None], M.project(torch.tensor([0.3, 0.2, 1]))
    x = torch.stack([r * phi.cos(), r * phi.sin(), z[:, None].expand(100, 200)], -1).flatten(0, 1)
    volumes = (w * math.pi / 100).repeat_interleave(200)
    return law, lambda x: 8 * (x @ a - 1), 1 / 8, x, volumes, lambda x: torch.cat([x, x[..., i] * x[..., j]], -1)


def torus():
    """Four heat kernels on T^2; the difference of the angles is seen through a von Mises law of concentration 6."""
    centres, taus = torch.tensor([[-1, -2], [0.5, 1], [1.5, -0.5], [2.8, 2.5]]), torch.tensor([0.3, 0.2, 0.4, 0.3])
    step, mixed = torch.tensor(2 * math.pi / 150), torch.tensor([[1.0, 0, 1, 1], [0, 1, 1, -1]])
    law, angle = HeatKernelMixture(Torus(2), centres, taus, WEIGHTS), torch.arange(150) * step - math.pi
    x, features = torch.cartesian_prod(angle, angle), lambda x: torch.cat([(x @ mixed).cos(), (x @ mixed).sin()], -1)
    return law, lambda x: 6 * ((x @ mixed[:, 3] - 0.5).cos() - 1), 1 / 12, x, step**2, features


def study(case, total, steps, seed, out):
    law, log_likelihood, width, nodes, volumes, features = case()
    process = BrownianMotion(law.manifold, LogSchedule(TAU_MIN, 14.0 if case is torus else 7.0))

    def network(t, x, cond=None):
        return process.scale(t) * law.score(x, process.schedule.tau(t))

    joint = volumes * (law.log_prob(nodes, TAU_MIN) + log_likelihood(nodes)).exp()
    evidence, exact = float(joint.sum()), joint @ features(nodes) / joint.sum()
    print(f"\n{law.manifold}, exact evidence {evidence:.4f}\n")
    print("| twist | particles | error | its noise | evidence / exact | ESS | s |\n" + "| --- " * 7 + "|")
    for name, scale, w in (("none", 0.0, None), ("undamped", 1.0, None), ("damped", 1.0, width)):
        for n in (1, 4, 16, 64, 256):
            start, g = time.perf_counter(), torch.Generator().manual_seed(seed)
            sizes = {"n_chains": total // n, "n_particles": n, "steps": steps}
            result = sample_twisted(process, network, log_likelihood, **sizes, scale=scale, width=w, generator=g)
            means = (result.log_weights.exp().unsqueeze(-1) * features(result.x)).sum(1)
            noise, ratio = (means.var(0) / len(means)).sum().sqrt(), result.log_evidence.double().exp() / evidence
            print(f"| {name} | {n} | {float((means.mean(0) - exact).norm()):.4f} | {float(noise):.4f} |", end=" ")
            print(f"{float(ratio.mean()):.3g} ± {float(ratio.std() / len(ratio) ** 0.5):.1g} |", end=" ")
            print(f"{float(result.ess[-1].mean()):.1f} | {time.perf_counter() - start:.0f} |", flush=True)
            if (name, n) in (("undamped", 1), ("damped", 64)):
                path, title = out / f"{case.__name__}-{name}-{n}.png", f"Twist {name}, particles: {n}; exact posterior"
                log_density = lambda x: law.log_prob(x, TAU_MIN) + log_likelihood(x) - math.log(evidence)  # noqa: E731
                plot(law.manifold, samples=result.draw(g)[:256], log_prob=log_density, title=title, path=path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few particles, to see that everything runs")
    parser.add_argument("--total", type=int, default=24_576, help="particles per row, over all chains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/guidance"), help="folder for the pictures")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for case in (sphere, torus):
        study(case, 512 if args.smoke else args.total, 10 if args.smoke else 100, args.seed, args.out)
