"""One row of the comparison: train a method on a data set, take its likelihood and the MMD of its samples."""

import time
from pathlib import Path

import torch
from methods import build, draw, learned
from spaces import Space

from manifold_diffusion import metrics

EVALUATIONS = (1, 2, 4, 8, 100)
LEARNED = (4, 8)
POINTS = 20_000  # samples per MMD, in 4 to 20 draws, fewer beyond 8 dimensions; one draw of 500 varies by a quarter


def measure(name: str, method: str, space: Space, seed: int, effort: float, limit: int, folder: Path) -> dict:
    train, val, test = (part[:limit] for part in space.parts(seed))
    generator, start = torch.Generator().manual_seed(seed), time.perf_counter()
    model, steps = build(method, space, seed), max(2, round(effort * space.steps))
    options = {"weight_decay": space.weight_decay, "out_dir": folder, "resume": effort > 0, "overwrite": True}
    result = model.fit(train, val, max_steps=steps, seed=seed, **options)
    scored = test[: space.n_likelihood]

    def mmd(x: torch.Tensor) -> float:
        return metrics.mmd_published(space.seen(x), space.seen(test), space.where_seen)

    order = torch.randperm(len(train), generator=generator)
    pieces = [train[i] for i in order.split(len(test)) if len(i) == len(test)]
    draws = min(20, max(4, 8 * POINTS // (len(test) * max(8, space.manifold.dim)))) if effort > 0 else 2
    curves = {str(k): [mmd(draw(model, len(test), k, generator)) for _ in range(draws)] for k in EVALUATIONS}
    for k in () if method == "map" else LEARNED if effort > 0 else LEARNED[:1]:
        sampler = learned(model, k)
        curves[f"{k} learned"] = [mmd(sampler(len(test), generator)) for _ in range(draws)]
    facts = {"data": name, "method": method, "seed": seed, "steps": steps, "training_s": result.elapsed}
    facts["nll"] = -float(model.log_prob(scored, tolerance=3e-3).mean())
    if space.manifold.dim < 8:
        facts["kde"] = -float(metrics.KernelMixture.fit(space.manifold, train, val).log_prob(scored).mean())
    if space.truth is not None:
        facts["truth"] = -float(space.truth(seed)(scored).mean())
    facts["floor"] = sum(map(mmd, pieces)) / len(pieces)
    facts["mmd"] = {k: sum(values) / len(values) for k, values in curves.items()}
    print(f"{name}, {method}, seed {seed}: NLL {facts['nll']:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return facts
