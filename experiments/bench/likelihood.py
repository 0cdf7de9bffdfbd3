"""What the log density of points on the sphere costs, and how wrong it is, by solver.

python experiments/bench/likelihood.py [--smoke] [--model FOLDER] [--points N] [--train-steps N] [--threads N]

The field is a saved model's, or that of a network of width 256 trained here on the world's airports. The first row is
what other libraries do by default: 1,000 Euler steps, projected, with the trace of the full Jacobian of the projected
ambient field (vmap of jacrev). Errors are against the same network in float64 with many RK4 steps; time is for all
points.
"""

import argparse
import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion.data import load_airports, split
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import default_process
from manifold_diffusion.solvers import AdaptiveSteps, ConstantSteps, DormandPrince, GeodesicRK4


def build(args: argparse.Namespace, train: Tensor) -> RiemannianDiffusion:
    if args.model:
        return RiemannianDiffusion.from_pretrained(args.model)
    manifold = Sphere(2)
    process = default_process(manifold)
    torch.manual_seed(0)
    model = RiemannianDiffusion(manifold, process, TangentMLP(process, width=32 if args.smoke else 256))
    model.fit(train, max_steps=args.train_steps, progress=False)
    return model.eval()


@torch.no_grad()
def projected_euler(model: RiemannianDiffusion, steps: int, x: Tensor) -> tuple[Tensor, int]:
    """Log density as other libraries compute it by default."""
    manifold, h = model.manifold, 1 / steps
    flow = model.process.terms(model.network).flow

    def one(t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        v = flow.velocity(t[None], manifold.project(y)[None])[0]
        return v, v

    total = x.new_zeros(len(x))
    for i in range(steps):
        jacobian, v = vmap(jacrev(one, argnums=1, has_aux=True))(x.new_full((len(x),), i * h), x)
        total += h * jacobian.diagonal(dim1=-2, dim2=-1).sum(-1)
        x = manifold.project(x + h * v)
    return model.process.prior.log_prob(x) + total, steps


Method = Callable[[Tensor], tuple[Tensor, int]]


def methods(model: RiemannianDiffusion, steps: int) -> dict[str, Method]:
    def ours(**options: Any) -> Method:
        def run(x: Tensor) -> tuple[Tensor, int]:
            result = model.likelihood(x, **options)
            return result.log_prob, result.n_evaluations

        return run

    rows: dict[str, Method] = {
        f"projected Euler, {steps:,} steps, vmap(jacrev)": partial(projected_euler, model, steps),
    }
    for n in (15, 25, 50):
        rows[f"RK4, {n} steps"] = ours(solver=GeodesicRK4(), controller=ConstantSteps(n))
    rows["Dormand-Prince, 12 steps"] = ours(solver=DormandPrince(), controller=ConstantSteps(12))
    for tolerance in (1e-2, 1e-3, 1e-4):
        default = " (default)" if tolerance == 1e-3 else ""
        rows[f"Dormand-Prince, adaptive, tolerance {tolerance:.0e}{default}"] = ours(tolerance=tolerance)
    rows["Dormand-Prince, adaptive, tolerance 1e-03 in root mean square"] = ours(
        solver=DormandPrince(), controller=AdaptiveSteps(rtol=0.0, atol=1e-3, norm="rms")
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points, steps and training steps")
    parser.add_argument("--model", help="folder of a saved model on Sphere(2)")
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--reference-points", type=int, default=200)
    parser.add_argument("--reference-steps", type=int, default=400)
    parser.add_argument("--euler-steps", type=int, default=1000)
    parser.add_argument("--train-steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.smoke:
        args.points, args.reference_points, args.reference_steps, args.euler_steps, args.train_steps = (
            20,
            10,
            20,
            20,
            10,
        )
    parts = split(load_airports(), (0.8, 0.1, 0.1), seed=0)
    model = build(args, parts.train)
    x = parts.test[: args.points]

    exact = copy.deepcopy(model).double()
    few = exact.manifold.project(x[: args.reference_points].double())
    solver, controller = GeodesicRK4(), ConstantSteps(args.reference_steps)
    reference = exact.likelihood(few, solver=solver, controller=controller).log_prob
    print(f"torch {torch.__version__}, {args.threads} threads, {len(x)} points, errors on {len(few)} of them")
    print(f"mean log density of these: {float(reference.mean()):.4f} nats\n")
    print("| method | evaluations | mean abs error | largest | seconds | faster | error ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    first: tuple[float, float] | None = None
    for name, method in methods(model, args.euler_steps).items():
        method(x[:2])  # warm-up
        start = time.perf_counter()
        log_prob, evaluations = method(x)
        seconds = time.perf_counter() - start
        error = (log_prob[: len(few)].double() - reference).abs()
        mean = float(error.mean())
        first = first or (seconds, mean)
        print(
            f"| {name} | {evaluations} | {mean:.1e} | {float(error.max()):.1e} | {seconds:.2f} "
            f"| {first[0] / seconds:.1f} | 1/{first[1] / mean:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
