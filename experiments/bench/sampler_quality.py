"""How close samplers come to the exact solution of the probability flow, against network evaluations, on exact scores.

python experiments/bench/sampler_quality.py [--smoke] [--problems S2 ...] [--points N] [--train-points N] [--seed N]

Each problem is a mixture of five heat kernels under Brownian motion, whose score is known at every noise level, from
noise level 0.02 to the default prior. A table holds the mean geodesic distance of the end points to those of
Dormand-Prince at a tolerance of 1e-6. An adaptive row gives its best error with at most so many evaluations, over a
list of tolerances. Learned schemes are fitted on other noise than they are judged on.
"""

import argparse
import time

import torch
from torch import Tensor

from manifold_diffusion import NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Compact, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.processes import LogSchedule, ODETerm, default_schedule
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ClockSteps,
    ConstantSteps,
    DormandPrince,
    GeodesicEuler,
    GeodesicHeun,
    GeodesicMultistep,
    GeodesicRK4,
    NoiseClock,
    Solver,
    StepController,
    fit_multistep,
    integrate,
)

PROBLEMS: dict[str, Manifold] = {
    "S2": Sphere(2),
    "T2": Torus(2),
    "SO3": SO3(),
    "H2": Hyperboloid(2),
    "S2xR": Product(Sphere(2), Euclidean(1)),
    "S15": Sphere(15),
}
TOLERANCES = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)


def problem(M: Manifold, generator: torch.Generator) -> tuple[LogSchedule, HeatKernelMixture, ODETerm]:
    schedule = LogSchedule(4e-4, default_schedule(M).tau_max)
    if isinstance(M, Compact):
        centres = M.random_uniform(5, generator=generator, dtype=torch.float64)
    else:
        start = M.origin(dtype=torch.float64).expand(5, *M.point_shape)
        centres = M.exp(start, M.random_tangent(start, generator=generator))
    law = HeatKernelMixture(M, centres, tau=0.05)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        t = t.flatten()[0]  # shared by the batch
        return -schedule.rate(t) / 2 * law.score(x, schedule.tau(t))

    return schedule, law, ODETerm(velocity)


def report(name: str, args: argparse.Namespace, counts: tuple[int, ...]) -> None:
    start, M, generator = time.perf_counter(), PROBLEMS[name], torch.Generator().manual_seed(args.seed)
    schedule, law, term = problem(M, generator)
    x = law.sample(args.points + args.train_points, schedule.tau_max, generator)
    noise, train = x[: args.points], x[args.points :]
    exact = integrate(term, M, noise, 1.0, 0.0, DormandPrince(), AdaptiveSteps(1e-6, 1e-6)).x
    sigma, spacing = NoiseClock(schedule), NoiseClock(schedule, 1 / 3)

    def run(solver: Solver, controller: StepController) -> tuple[int, float]:
        try:
            end = integrate(term, M, noise, 1.0, 0.0, solver, controller)
        except NumericsError:  # left the range of floats
            return 0, float("inf")
        return end.n_evaluations, float(M.dist(end.x, exact).mean())

    def show(label: str, cells: list[float | None]) -> None:
        print(f"| {label} | " + " | ".join("-" if c is None else f"{c:.2g}" for c in cells) + " |", flush=True)

    print(f"\n{M!r}, noise level 0.02 to {schedule.tau_max**0.5:.2f}\n")
    print("| evaluations | " + " | ".join(map(str, counts)) + " |\n" + "| --- " * (len(counts) + 1) + "|")
    for label, solver, per_step, first, even in (
        ("Euler", GeodesicEuler(), 1, 0, False),
        ("Heun", GeodesicHeun(), 2, 0, False),
        ("RK4", GeodesicRK4(), 4, 0, False),
        ("AB2", GeodesicMultistep(2), 1, 0, False),
        ("AB3", GeodesicMultistep(3), 1, 1, False),
        ("clock, order 1 (DDIM)", GeodesicMultistep(1, sigma), 1, 0, False),
        ("clock, order 2", GeodesicMultistep(2, sigma), 1, 0, False),
        ("Heun, steps in $\\sigma^{1/3}$", GeodesicHeun(), 2, 0, True),
        ("AB2, steps in $\\sigma^{1/3}$", GeodesicMultistep(2), 1, 0, True),
        ("clock, order 1, steps in $\\sigma^{1/3}$", GeodesicMultistep(1, sigma), 1, 0, True),
        ("clock, order 2, steps in $\\sigma^{1/3}$", GeodesicMultistep(2, sigma), 1, 0, True),
        ("clock, order 3, steps in $\\sigma^{1/3}$", GeodesicMultistep(3, sigma), 1, 1, True),
    ):
        steps = [(n - first) // per_step if n % per_step == 0 else None for n in counts]
        plans = [None if k is None else ClockSteps(k, spacing) if even else ConstantSteps(k) for k in steps]
        show(label, [None if plan is None else run(solver, plan)[1] for plan in plans])
    for label, solver in (("Heun 2(1), adaptive", GeodesicHeun()), ("Dormand-Prince, adaptive", DormandPrince())):
        runs = [run(solver, AdaptiveSteps(rtol=0.0, atol=a)) for a in TOLERANCES[:: 3 if args.smoke else 1]]
        show(label, [min((e for k, e in runs if 0 < k <= n), default=None) for n in counts])
    fits = [
        fit_multistep(term, M, train, ClockSteps(n, spacing), clock=sigma) if n <= args.learned_steps else None
        for n in counts
    ]
    show("learned", [None if fit is None else run(fit.solver, fit.solver.controller())[1] for fit in fits])
    print(f"\n{time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="two problems, a few points and evaluations")
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--points", type=int, default=500, help="points that the schemes are judged on")
    parser.add_argument("--train-points", type=int, default=256, help="noise that learned schemes are fitted on")
    parser.add_argument("--learned-steps", type=int, default=12, help="most steps of a learned scheme")
    parser.add_argument("--seed", type=int, default=0)
    args, counts = parser.parse_args(), (4, 6, 8, 12, 16, 32, 64)
    if args.smoke:
        args.problems, args.points, args.train_points, args.learned_steps, counts = ["S2", "T2"], 10, 10, 4, (4, 8)
    print(f"torch {torch.__version__}, seed {args.seed}, {args.points} points, {args.train_points} to learn from")
    for name in args.problems:
        report(name, args, counts)


if __name__ == "__main__":
    main()
