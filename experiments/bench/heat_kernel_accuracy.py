"""Measured error of the heat kernels, as a Markdown table.

python experiments/bench/heat_kernel_accuracy.py [--smoke]

Every kernel's tables are compared with the functions they tabulate, evaluated directly in extended precision or closed
form, at random radii and times between the nodes, wherever the radial law (density times the area of the geodesic
sphere) exceeds 1e-30 of its maximum.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from dataclasses import dataclass

import numpy as np
import torch

from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.heat_kernels._compact_law import CompactLaw, RotationLaw, SphereLaw
from manifold_diffusion.heat_kernels._compact_tables import CompactTables
from manifold_diffusion.heat_kernels._hyperbolic_law import HyperbolicLaw, langevin, log_ratio
from manifold_diffusion.heat_kernels._hyperbolic_tables import HyperbolicTables
from manifold_diffusion.heat_kernels._projective_law import ProjectiveLaw
from manifold_diffusion.heat_kernels.torus import wrapped_log_prob, wrapped_score
from manifold_diffusion.manifolds import ConstantCurvature, Manifold, PoincareBall


@dataclass(frozen=True)
class Reference:
    """Direct values at times (rows) and radii (columns), and where they count."""

    tau: np.ndarray
    r: np.ndarray
    log_p: np.ndarray
    score: np.ndarray
    counts: np.ndarray


def cut(log_law: np.ndarray) -> np.ndarray:
    return log_law - log_law.max(1, keepdims=True) > math.log(1e-30)


def compact_reference(law: CompactLaw, rows: int, rng: np.random.Generator) -> Reference:
    tau = np.sort(
        np.concatenate([np.geomspace(1e-6, 0.9 * law.tau_max, rows), np.geomspace(0.08, 8, rows // 2) / (law.m + 2)])
    )
    r = np.sort(
        np.concatenate([rng.uniform(0, math.pi, 150), math.pi - np.geomspace(1e-3, 0.3, 25), np.geomspace(1e-4, 1, 40)])
    )
    values, s = law.evaluate(tau, r), law.scale(tau)[:, None]
    log_p = values.log_peak[:, None] - 2 * np.sin(r / 2) ** 2 / s * values.drop
    return Reference(tau, r, log_p, -np.sin(r) / s / values.inverse, cut(log_p + law.log_area(r)))


def hyperbolic_reference(n: int, end: float, rows: int, rng: np.random.Generator) -> Reference:
    tau, rho = np.geomspace(1e-6, 0.99 * end, rows), (n - 1) / 2
    r = np.sort(np.concatenate([np.geomspace(1e-5, 20, 150), rng.uniform(0, 200, 100)]))
    v = HyperbolicLaw(n).evaluate(tau, r)
    log_p = (
        -(r**2) / (2 * tau[:, None])
        - n / 2 * np.log(2 * np.pi * tau[:, None])
        + rho * log_ratio(r)
        + tau[:, None] * v.correction
    )
    return Reference(
        tau, r, log_p, -r / tau[:, None] - rho * langevin(r) * v.pull, cut(log_p + (n - 1) * (np.log(r) - log_ratio(r)))
    )


def report(
    name: str, dtype: torch.dtype, ref: Reference, log_p: torch.Tensor, score: torch.Tensor, size: int, seconds: float
) -> None:
    keep = ref.counts
    relative = np.abs(score.double().numpy() / ref.score - 1)[keep]
    density = (np.abs(log_p.double().numpy() - ref.log_p) / np.maximum(1, np.abs(ref.log_p)))[keep]
    print(
        f"| {name} | {str(dtype).removeprefix('torch.')} | {relative.max():.1e} | {np.median(relative):.0e} | "
        f"{density.max():.1e} | "
        f"{size / 1024:.0f} kB | {seconds:.1f} s |",
        flush=True,
    )


def three_dimensions(kappa: float, tau: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log density, its derivative in r and the logarithm of sinh(c r) / c (sin) in dimension 3, in closed form."""
    c, t = np.longdouble(abs(kappa)) ** 0.5, np.longdouble(tau)
    size = np.sin(c * r) / c if kappa > 0 else np.sinh(c * r) / c
    slope = c / np.tan(c * r) if kappa > 0 else c / np.tanh(c * r)
    images = np.arange(-12, 13)[:, None, None] if kappa > 0 else np.zeros((1, 1, 1))
    s = r + 2 * np.pi * images / c
    weight = np.exp(-(s**2 - r**2) / (2 * t))
    total, rise = (s * weight).sum(0), ((1 - s**2 / t) * weight).sum(0)
    log_p = np.log(total / size) - r**2 / (2 * t) - 1.5 * np.log(2 * np.pi * t) + kappa * t / 2
    return log_p, rise / total - slope, np.log(size)


def kernel_rows(manifold: Manifold, kappa: float, tau_end: float, rows: int) -> None:
    """Errors of a kernel in dimension 3 through its public methods, at the distances of the rounded points."""
    kernel = heat_kernel(manifold)
    tau = torch.logspace(-6, math.log10(tau_end), rows, dtype=torch.float64)[:, None]
    far = 0.98 * math.pi / math.sqrt(kappa) if kappa > 0 else 7.0 / math.sqrt(-kappa)
    start, direction = (
        manifold.origin(dtype=torch.float64),
        manifold.tangent_basis(manifold.origin(dtype=torch.float64))[0],
    )
    r = torch.logspace(-4, math.log10(far), 200, dtype=torch.float64)[:, None]
    for dtype in (torch.float32, torch.float64):
        x, x0 = manifold.exp(start, r * direction).to(dtype), start.to(dtype)
        exact = manifold.dist(x.double(), x0.double()).numpy()
        log_p, score, log_size = three_dimensions(kappa, tau.numpy(), exact)
        ref = Reference(tau.numpy(), exact, log_p.astype(float), score.astype(float), cut(log_p + 2 * log_size))
        t = tau.to(dtype)
        vectors = kernel.score(x.expand(rows, *x.shape), x0, t)
        length = -manifold.inner(x, vectors, manifold.log(x, x0)) / manifold.dist(x, x0)
        report(f"{manifold}", dtype, ref, kernel.log_prob(x.expand(rows, *x.shape), x0, t), length, 0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--smoke", action="store_true", help="fewer times and no sphere above dimension 127")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    rng, rows = np.random.default_rng(0), 16 if smoke else 60
    print(
        "| manifold | dtype | score: max relative error | median "
        "| log density: max error, relative above 1 nat | tables | build |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MANIFOLD_DIFFUSION_CACHE"] = folder
        laws: list[tuple[str, CompactLaw]] = [
            (f"Sphere({n})", SphereLaw(n)) for n in ((2, 3, 9, 127) if smoke else (2, 3, 4, 9, 31, 127, 511))
        ]
        laws += [(f"ComplexProjective({n})", ProjectiveLaw(n)) for n in ((1, 4) if smoke else (1, 2, 4, 8, 16))]
        for name, law in [*laws, ("SO3()", RotationLaw())]:
            tables, ref = CompactTables(law, name), compact_reference(law, rows, rng)
            start = time.process_time()
            tables.arrays()
            seconds = time.process_time() - start
            for dtype in (torch.float32, torch.float64):
                tau, r = torch.tensor(ref.tau, dtype=dtype)[:, None], torch.tensor(ref.r)[None]
                versine, coversine, sine = (
                    a.to(dtype) for a in (2 * (r / 2).sin().square(), 2 * (r / 2).cos().square(), r.sin())
                )
                log_p = tables.log_prob(versine.expand(len(tau), -1), coversine, tau)
                t = tables.tables(tau)
                size = sum(
                    p.nbytes for p in {id(p): p for p in (t.inverse, t.drop, t.peak, t.step, t.step_inverse)}.values()
                )
                report(name, dtype, ref, log_p, -sine * tables.pull(coversine, tau), size, seconds)
        for n in (2, 3, 10) if smoke else (2, 3, 4, 10, 64):
            tables = HyperbolicTables(n)
            ref = hyperbolic_reference(n, tables.tau_end, rows, rng)
            start = time.process_time()
            tables.arrays()
            seconds = time.process_time() - start
            for dtype in (torch.float32, torch.float64):
                tau, r = torch.tensor(ref.tau, dtype=dtype)[:, None], torch.tensor(ref.r, dtype=dtype)[None]
                t = tables.tables(tau)
                size = t.drift.nbytes + t.correction.nbytes + t.step.nbytes
                report(
                    f"Hyperboloid({n})", dtype, ref, tables.log_prob(r, tau), -r * tables.pull(r, tau), size, seconds
                )
        # At later times on the sphere the images of the reference cancel.
        for manifold, kappa, end in (
            (PoincareBall(3), -1.0, 100.0),
            (ConstantCurvature(3, -0.7), -0.7, 100.0),
            (ConstantCurvature(3, 2.5), 2.5, 0.8),
            (ConstantCurvature(3, 1e-6), 1e-6, 100.0),
        ):
            kernel_rows(manifold, kappa, end, rows)
    tau, d = np.geomspace(1e-6, 50, 4 * rows), np.sort(rng.uniform(0, math.pi, 300).astype(np.float32)).astype(float)
    k = np.arange(-12, 13)[:, None, None]
    e = -((d + 2 * math.pi * k) ** 2) / (2 * tau[:, None])
    top = e.max(0)
    w = np.exp(e - top)
    log_p = top + np.log(w.sum(0)) - 0.5 * np.log(2 * np.pi * tau[:, None])
    score = -((d + 2 * math.pi * k) * w).sum(0) / w.sum(0) / tau[:, None]
    ref = Reference(tau, d, log_p.astype(float), score.astype(float), cut(log_p) & (tau[:, None] < 20))
    for dtype in (torch.float32, torch.float64):
        t, x = torch.tensor(tau, dtype=dtype)[:, None], torch.tensor(d, dtype=dtype)[None]
        report("Torus(1)", dtype, ref, wrapped_log_prob(x, t), wrapped_score(x, t), 0, 0.0)


if __name__ == "__main__":
    main()
