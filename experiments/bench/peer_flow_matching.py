"""Riemannian flow matching here and in the package flow_matching: step time, sampling time, quality per evaluation.

python experiments/bench/peer_flow_matching.py [--smoke] [--steps N] [--seeds S ...] [--space sphere|torus]
    [--points FILE]

The peer is installed for this comparison only: pip install --no-deps flow_matching==1.0.10 torchdiffeq (its licence is
not free). Both train the same network (a perceptron on the points and the time, of the same initial weights) with the
same optimiser, batch and number of steps on the same points, geodesic paths from the uniform law. Quality is the MMD of
the few-step papers between held-out points and as many samples, over its floor, that of training points: ratios of
means over seeds (split, weights, batches, noise) and 20 draws. The next rows are what this library would take: a
logarithmic path, heat features, two-step formulas; the same model with a scheme learned for each number of evaluations
from its own fine solution; and a flow map.
"""

import argparse
import importlib.util
import statistics
import time
from pathlib import Path

import torch

from manifold_diffusion import Batch, metrics
from manifold_diffusion.data import Split, load_airports, load_csv, split
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Manifold, Sphere, Torus
from manifold_diffusion.models import FlowMap, RiemannianFlow
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import GeodesicFlow, LinearPath, LogPath
from manifold_diffusion.solvers import ClockSteps, GeodesicMultistep, NoiseClock, integrate

EVALUATIONS = (1, 2, 4, 8, 16, 32, 64)
LEARNED = "ours, learned scheme"


class Ours:
    """Flow matching of this library, or a flow map, which jumps in as many steps as there are evaluations."""

    def __init__(
        self, manifold: Manifold, path: LinearPath | LogPath, frequencies: int, seed: int, is_map: bool = False
    ) -> None:
        process = GeodesicFlow(manifold, path)
        self.network = TangentMLP(process, n_frequencies=frequencies, max_frequency=300.0, two_times=is_map, seed=seed)
        self.model = (FlowMap if is_map else RiemannianFlow)(manifold, process, self.network)
        self.clock, self.is_map = NoiseClock(path), is_map
        self.spacing = NoiseClock(path, 1 / 3) if path.s_min > 0 else self.clock

    def loss(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return self.model.objective.loss(self.network, Batch(x), generator)

    def sample(self, x_1: torch.Tensor, k: int) -> torch.Tensor:
        if self.is_map:
            x = x_1
            for i in range(k):
                x = self.model.jump(x, 1 - i / k, 1 - (i + 1) / k)  # type: ignore[operator]
            return x
        flow = self.model.process.terms(self.network).flow
        solver, steps = GeodesicMultistep(2, self.clock), ClockSteps(k, self.spacing)
        return integrate(flow, self.model.manifold, x_1, 1.0, 0.0, solver, steps).x


class Learned:
    """The samples of a trained flow by schemes that are fitted to it, one for each number of evaluations."""

    def __init__(self, ours: Ours) -> None:
        self.ours, self.solvers = ours, {}

    def sample(self, x_1: torch.Tensor, k: int) -> torch.Tensor:
        model = self.ours.model
        if k not in self.solvers:
            self.solvers[k] = model.fit_sampler(ClockSteps(k, self.ours.spacing)).solver
        flow, solver = model.process.terms(self.ours.network).flow, self.solvers[k]
        return integrate(flow, model.manifold, x_1, 1.0, 0.0, solver, solver.controller()).x


class Peer:
    """flow_matching 1.0.10, as in its example of Riemannian flow matching; its time runs from noise to data."""

    def __init__(self, manifold: Manifold, method: str, seed: int) -> None:
        from flow_matching.path import GeodesicProbPath  # pyright: ignore[reportMissingImports]
        from flow_matching.path.scheduler import CondOTScheduler  # pyright: ignore[reportMissingImports]
        from flow_matching.solver import RiemannianODESolver  # pyright: ignore[reportMissingImports]
        from flow_matching.utils import manifolds  # pyright: ignore[reportMissingImports]

        theirs = manifolds.FlatTorus() if manifold == Torus(manifold.dim) else manifolds.Sphere()
        self.manifold, self.wraps, self.method = manifold, manifold == Torus(manifold.dim), method
        self.path = GeodesicProbPath(CondOTScheduler(), theirs)
        self.network = TangentMLP(GeodesicFlow(manifold), n_frequencies=0, seed=seed)
        self.solver = RiemannianODESolver(theirs, lambda x, t: self._velocity(x, t))

    def _velocity(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.network(1 - t.reshape(-1).expand(len(x)), x)

    def loss(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        noise = self.manifold.random_uniform(len(x), generator=generator)  # type: ignore[attr-defined]
        draw = self.path.sample(noise, x, torch.rand(len(x), generator=generator))
        return (self._velocity(draw.x_t, draw.t) - draw.dx_t).square().mean()

    def sample(self, x_1: torch.Tensor, k: int) -> torch.Tensor:
        stages = {"euler": 1, "midpoint": 2, "rk4": 4}[self.method]
        grid = torch.linspace(0, 1, k // stages + 1)
        x = self.solver.sample(x_1, step_size=None, method=self.method, time_grid=grid)
        return self.manifold.project(x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few points and steps")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--space", choices=("sphere", "torus"), default="sphere")
    parser.add_argument("--points", type=Path, help="a CSV file of places; default: the world's airports")
    args = parser.parse_args()
    if args.space == "sphere":
        manifold: Manifold = Sphere(2)
        points = (load_csv(args.points, manifold) if args.points else load_airports()).points
    else:
        manifold = Torus(2)
        centres = manifold.random_uniform(8, generator=torch.Generator().manual_seed(1))
        points = HeatKernelMixture(manifold, centres, 0.02).sample(9000, generator=torch.Generator().manual_seed(2))
    if importlib.util.find_spec("flow_matching") is None:
        print("flow_matching is not installed: its rows are left out.")
    steps, draws, seeds = (3, 1, [0]) if args.smoke else (args.steps, 20, args.seeds)
    results = []
    for seed in seeds:
        results.append(compare(manifold, split(points, seed=seed), steps, 64 if args.smoke else 512, seed, draws))
        print(f"{manifold}, {len(points)} points, {steps} steps, seeds {list(seeds[: len(results)])}\n")
        print(table(results), flush=True)


def compare(manifold: Manifold, parts: Split, steps: int, size: int, seed: int, draws: int) -> dict[str, dict]:
    """Train and sample all methods of one seed: milliseconds of a step, of a sample, and MMD against evaluations."""
    trained: dict[str, Ours | Peer] = {
        "ours, the peer's set-up": Ours(manifold, LinearPath(), 0, seed),
        "ours, its own set-up": Ours(manifold, LogPath(3e-3), 256, seed),
        "ours, flow map": Ours(manifold, LogPath(3e-3), 256, seed, is_map=True),
    }
    models: dict[str, Ours | Peer | Learned] = dict(trained)
    models[LEARNED] = Learned(trained["ours, its own set-up"])  # type: ignore[arg-type]
    if importlib.util.find_spec("flow_matching") is not None:
        trained["flow_matching, euler"] = Peer(manifold, "euler", seed)
        models["flow_matching, euler"] = trained["flow_matching, euler"]
        models |= {f"flow_matching, {m}": Peer(manifold, m, seed) for m in ("midpoint", "rk4")}
    times = train(trained, parts.train, steps, size, seed)
    test, generator = parts.test, torch.Generator().manual_seed(seed)
    n = len(test)

    def mmd(x: torch.Tensor) -> float:
        return metrics.mmd_published(x, test, manifold)

    floor = statistics.mean(
        mmd(parts.train[torch.randperm(len(parts.train), generator=generator)[:n]]) for _ in range(draws)
    )
    rows = {}
    for name, model in models.items():
        if isinstance(model, Peer) and model is not trained["flow_matching, euler"]:
            model.network.load_state_dict(trained["flow_matching, euler"].network.state_dict())
        rows[name] = row = {"floor": floor, "step": times.get(name), "mmd": {}}
        for k in EVALUATIONS:
            least = {"midpoint": 2, "rk4": 4}.get(getattr(model, "method", ""), 1)
            if k < least or (name == LEARNED and not 2 <= k <= 16):
                continue
            values, seconds = [], []
            for _ in range(draws):
                noise = manifold.random_uniform(n, generator=generator)  # type: ignore[attr-defined]
                start = time.perf_counter()
                with torch.no_grad() if values else torch.enable_grad():  # the first draw may fit a scheme
                    x = model.sample(noise, k).detach()
                seconds.append(time.perf_counter() - start)
                values.append(mmd(x))
            row["mmd"][k], row["sample"] = statistics.mean(values), 1e6 * statistics.median(seconds) / (n * k)
    return rows


def table(results: list[dict[str, dict]]) -> str:
    """Means over the seeds."""
    lines = ["| method | ms per training step | ms per 1,000 samples and evaluation | "]
    lines[0] += " | ".join(map(str, EVALUATIONS)) + " |"
    lines.append("| --- | --- | --- |" + " --- |" * len(EVALUATIONS))
    for name, first in results[0].items():
        rows = [result[name] for result in results]
        floor = statistics.mean(row["floor"] for row in rows)
        step = "" if first["step"] is None else f"{statistics.mean(row['step'] for row in rows):.2f}"
        cells = [
            f"{statistics.mean(row['mmd'][k] for row in rows) / floor:.2f}" if k in first["mmd"] else ""
            for k in EVALUATIONS
        ]
        sample = statistics.mean(row["sample"] for row in rows)
        lines.append(f"| {name} | {step} | {sample:.2f} | {' | '.join(cells)} |")
    floors = [result["ours, flow map"]["floor"] for result in results]
    return "\n".join([*lines, "", f"MMD over its floor, {statistics.mean(floors):.4f}", ""])


def train(models: dict[str, Ours | Peer], points: torch.Tensor, steps: int, size: int, seed: int) -> dict[str, float]:
    """Train all models step by step in turn; the median milliseconds of a step of each."""
    runs = []
    for model in models.values():
        optimiser = torch.optim.AdamW(model.network.parameters(), 2e-3, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        runs.append((model, optimiser, schedule, torch.Generator().manual_seed(seed)))
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(steps):
        for (model, optimiser, schedule, generator), spent in zip(runs, seconds, strict=True):
            batch = points[torch.randint(len(points), (size,), generator=generator)]
            start = time.perf_counter()
            optimiser.zero_grad()
            model.loss(batch, generator).backward()
            torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            spent.append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(spent) for name, spent in zip(models, seconds, strict=True)}


if __name__ == "__main__":
    main()
