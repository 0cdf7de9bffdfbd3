"""Adaptive steps meet their tolerance, and the evaluations are counted."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion.manifolds import Euclidean, Sphere
from manifold_diffusion.processes import ODETerm
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ConstantSteps,
    DormandPrince,
    GeodesicEuler,
    GeodesicHeun,
    GeodesicMultistep,
    GeodesicRK4,
    integrate,
    log_likelihood,
)

from .flows import FLOWS, NORTH, conformal, conformal_log_prob, uniform_log_prob


@pytest.mark.parametrize("name", list(FLOWS))
def test_adaptive_steps_meet_their_tolerance(name):
    flow, previous = FLOWS[name](), math.inf
    for atol in (1e-3, 1e-5, 1e-7, 1e-9):
        solution = integrate(
            flow.term, flow.manifold, flow.x, 0.0, 1.0, DormandPrince(), AdaptiveSteps(rtol=0.0, atol=atol)
        )
        error = float(flow.manifold.dist(solution.x, flow.exact(1.0)).max())
        assert error <= atol * solution.n_accepted
        assert error < previous
        previous = error


@pytest.mark.parametrize(("name", "chart"), [*((name, "ambient") for name in FLOWS), ("conformal", "normal")])
def test_heun_controls_its_error_by_the_euler_step(name, chart):
    flow, errors = FLOWS[name](), []
    for atol in (1e-2, 1e-3, 1e-4):
        solution = integrate(
            flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicHeun(chart), AdaptiveSteps(rtol=0.0, atol=atol)
        )
        errors.append(float(flow.manifold.dist(solution.x, flow.exact(1.0)).max()))
        assert errors[-1] <= atol * solution.n_accepted
    assert errors[0] > errors[1] > errors[2]


def test_likelihood_with_heun_meets_its_tolerance():
    flow = conformal()
    x = flow.exact(1.0)
    for tolerance in (1e-2, 1e-3):
        result = log_likelihood(
            flow.term, flow.manifold, x, uniform_log_prob, 1.0, 0.0, solver=GeodesicHeun(), tolerance=tolerance
        )
        assert float((result.log_prob - conformal_log_prob(x, 1.0)).abs().max()) <= 3 * tolerance


def test_relative_tolerance_alone_sets_the_error():
    flow = conformal()
    errors = [
        float(
            flow.manifold.dist(
                integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, DormandPrince(), AdaptiveSteps(rtol, 1e-14)).x,
                flow.exact(1.0),
            ).max()
        )
        for rtol in (1e-3, 1e-6)
    ]
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6


def test_steps_are_small_where_the_field_is_fast():
    M = Euclidean(1)
    pulse = ODETerm(lambda t, x: torch.exp(-((t - 0.5) ** 2) / 2e-4)[..., None].expand_as(x))
    solution = integrate(
        pulse, M, torch.zeros(1, 1, dtype=torch.float64), 0.0, 1.0, DormandPrince(), AdaptiveSteps(0.0, 1e-8)
    )
    assert abs(float(solution.x) - math.sqrt(2e-4 * math.pi)) < 1e-6
    step, middle = solution.times.diff(), (solution.times[1:] + solution.times[:-1]) / 2
    assert step[(middle - 0.5).abs() < 0.03].max() < 0.2 * step[(middle - 0.5).abs() > 0.2].max()
    assert solution.n_rejected > 0


def test_max_norm_bounds_the_worst_point_and_rms_the_typical_one():
    M, speeds = Sphere(2), torch.ones(200, 1, dtype=torch.float64)
    speeds[0] = 20.0
    spin = ODETerm(lambda t, x: speeds * torch.linalg.cross(NORTH.expand_as(x), x))
    x = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(200, 3)
    turned = torch.tensor([math.cos(20.0), math.sin(20.0), 0.0], dtype=torch.float64)
    runs = {
        norm: integrate(spin, M, x, 0.0, 1.0, DormandPrince(), AdaptiveSteps(0.0, 1e-5, norm=norm))
        for norm in ("max", "rms")
    }
    worst = {norm: float(M.dist(run.x[0], turned)) for norm, run in runs.items()}
    assert worst["max"] < 1e-5 * runs["max"].n_accepted
    assert worst["rms"] > 3 * worst["max"]
    assert runs["rms"].n_evaluations < runs["max"].n_evaluations


def test_evaluations_are_counted():
    flow, calls = conformal(), []
    term = ODETerm(lambda t, x: calls.append(1) or flow.term.velocity(t, x))
    for solver, per_step, first in (
        (GeodesicEuler(), 1, 0),
        (GeodesicHeun(), 2, 0),
        (GeodesicRK4(), 4, 0),
        (DormandPrince(), 6, 1),
        (GeodesicMultistep(1), 1, 0),
        (GeodesicMultistep(2), 1, 0),
        (GeodesicMultistep(3), 1, 1),
    ):
        calls.clear()
        solution = integrate(term, flow.manifold, flow.x, 0.0, 1.0, solver, ConstantSteps(5))
        assert solution.n_evaluations == len(calls) == 5 * per_step + first == 5 * solver.n_stages + first
        assert (solution.n_accepted, solution.n_rejected) == (5, 0)
