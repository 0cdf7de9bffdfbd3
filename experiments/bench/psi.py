"""Quality against network evaluations of Psi samplers, with exact and with biased models.

python experiments/bench/psi.py [--smoke] [--points N] [--seed N]

Tokens: two dependent tokens of four categories; the law of a sample is computed by matrices, so that its total
variation to the data has no sampling error. Sphere: a mixture of three heat kernels with its exact score; an unbiased
estimate of the chi-square divergence of counts in up to 96 cells (those that expect fewer than 5 points are one).
"""

import argparse
import itertools
import math

import torch
from torch import Tensor

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.processes import AbsorbingNoise, BrownianMotion, DiscreteNoise, LogSchedule, UniformNoise
from manifold_diffusion.solvers import DiscretePsi, Kappa, PhasedKappa, PredictorCorrector, ReverseSDE, sample_psi

KAPPAS: dict[str, float | Kappa] = {"1": 1.0, "0.95": 0.95, "0.5": 0.5, "0.5 in [0.1, 0.5]": PhasedKappa(0.5)}


def total_variation(process: DiscreteNoise, law: Tensor, power: float, steps: int, kappa: float | Kappa) -> float:
    """Between the data and the law after the steps, with the exact p(x_0 | x_t) to the given power."""
    k, n = process.n_categories, process.n_states
    words, states = (torch.tensor(list(itertools.product(range(m), repeat=2))) for m in (k, n))
    clean = torch.nn.functional.one_hot(words, k).double()

    def denoiser(t: Tensor, x: Tensor) -> Tensor:
        noised = process.marginal(clean, t[:1].expand(len(words)))
        weights = law[:, None] * noised[:, 0, x[:, 0]] * noised[:, 1, x[:, 1]]  # (words, sequences)
        p = torch.einsum("wx,wlk->xlk", weights / weights.sum(0), clean) ** power
        return p / p.sum(-1, keepdim=True)

    kernel, end = DiscretePsi(process, denoiser, torch.float64), process.terminal(law)
    now = end[states].prod(-1)
    for t, s in itertools.pairwise([1 - i / steps for i in range(steps)] + [0.0]):
        live = now > 0  # what can't be reached has no posterior
        step = kernel.transition(states[live], t, s, kappa(t, s) if callable(kappa) else kappa)
        now = now[live] @ (step[:, 0, :, None] * step[:, 1, None, :]).flatten(1)
    target = torch.nn.functional.pad(law.reshape(k, k), (0, n - k, 0, n - k))
    return 0.5 * float((now - target.flatten()).abs().sum())


def tokens(steps: list[int], seed: int) -> None:
    law = (1.5 * torch.randn(16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(0)
    print("\n| noise | denoiser | kappa | " + " | ".join(f"{n} steps" for n in steps) + " |")
    print("| --- " * (3 + len(steps)) + "|")
    for process, (name, power) in itertools.product(
        (UniformNoise(4), AbsorbingNoise(4)), {"exact": 1.0, "too flat": 0.8}.items()
    ):
        for label, kappa in KAPPAS.items():
            tv = [f"{total_variation(process, law, power, n, kappa):.4f}" for n in steps]
            print(f"| {type(process).__name__} | {name} | {label} | " + " | ".join(tv) + " |")


def cells(x: Tensor) -> Tensor:
    """Index of the cell of equal area, 8 bands by 12 sectors."""
    band = ((x[..., 2] + 1) * 4).long().clamp(0, 7)
    return band * 12 + ((torch.atan2(x[..., 1], x[..., 0]) / math.pi + 1) * 6).long().clamp(0, 11)


def sphere(steps: list[int], n: int, seed: int) -> None:
    manifold, schedule = Sphere(2), LogSchedule(1e-3, 7.0)
    process = BrownianMotion(manifold, schedule)
    centres = manifold.random_uniform(3, generator=torch.Generator().manual_seed(5))
    law = HeatKernelMixture(manifold, centres, 0.1, torch.tensor([0.2, 0.3, 0.5]))
    z, phi = torch.meshgrid(
        (torch.arange(480) + 0.5) / 240 - 1, (torch.arange(480) + 0.5) * math.pi / 240, indexing="ij"
    )
    rho = (1 - z * z).sqrt()
    grid = torch.stack([rho * phi.cos(), rho * phi.sin(), z], -1).reshape(-1, 3)
    mass = torch.bincount(cells(grid), law.log_prob(grid, 1e-3).double().exp(), 96)
    index = torch.arange(96).where(n * mass >= 5 * mass.sum(), 96)
    mass = torch.bincount(index, mass / mass.sum(), 97)
    used = mass > 0
    freedom = int(used.sum()) - 1
    print(f"\n{n:,} points; standard deviation of the divergence of exact samples {math.sqrt(2 * freedom) / n:.4f}\n")
    print("| score | kappa | " + " | ".join(f"{m} steps: evaluations, divergence" for m in steps) + " |")
    print("| --- " * (2 + len(steps)) + "|")
    for name, lost in {"exact": 0.0, "40 % too small about t = 0.45": 0.4}.items():
        for label, kappa in {**KAPPAS, "1, more steps": 1.0}.items():
            row = []
            for m in [25 * m for m in steps] if "more" in label else steps:
                count = [0]

                def network(t: Tensor, x: Tensor, cond=None, count=count, lost=lost) -> Tensor:
                    count[0] += len(x)
                    bias = 1 - lost * torch.exp(-((t - 0.45) / 0.15).square())[:, None]
                    return bias * process.scale(t) * law.score(x, schedule.tau(t[:1]))

                generator = torch.Generator().manual_seed(seed)
                kernel = PredictorCorrector(process, ReverseSDE(process, network, max_step=1 / m))
                x = sample_psi(kernel, process.prior.sample(n, generator=generator), m, kappa, generator)
                expected = n * mass[used]
                excess = torch.bincount(index[cells(x)], minlength=97)[used] - expected
                row.append(f"{count[0] / n:.0f}, {float((excess**2 / expected).sum() - freedom) / n:.4f}")
            print(f"| {name} | {label} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few points and steps")
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokens([2, 4] if args.smoke else [4, 16, 64, 256], args.seed)
    sphere([5] if args.smoke else [10, 30, 100], 300 if args.smoke else args.points, args.seed)
