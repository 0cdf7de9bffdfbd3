"""Fixed steps: the measured order of every solver is the stated one, on every kind of manifold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from manifold_diffusion.processes import ODETerm
from manifold_diffusion.solvers import (
    ConstantSteps,
    DormandPrince,
    GeodesicEuler,
    GeodesicHeun,
    GeodesicMultistep,
    GeodesicRK4,
    Solver,
    integrate,
)
from manifold_diffusion.testing import convergence_slope

from .flows import FLOWS, Flow, conformal, swinging_frames, swinging_plane, swinging_sphere

COUNTS = {
    GeodesicEuler(): (32, 64),
    GeodesicHeun(): (24, 48),
    GeodesicRK4(): (16, 32),
    DormandPrince(): (40, 80),
    GeodesicHeun("normal"): (10, 20),
    GeodesicRK4("normal"): (6, 12),
    DormandPrince("normal"): (40, 60),
    GeodesicMultistep(1): (32, 64),
    GeodesicMultistep(2): (32, 64),
    GeodesicMultistep(3): (32, 64),
}


def measured_order(flow: Flow, solver: Solver, counts: tuple[int, ...]) -> float:
    """Of the root mean square over the points: the worst point may be one where the leading coefficient is small."""
    errors = [
        float(
            flow.manifold.dist(
                integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, solver, ConstantSteps(n)).x, flow.exact(1.0)
            ).norm()
        )
        for n in counts
    ]
    return convergence_slope(errors, [1 / n for n in counts]).order


def cases() -> list:
    out = []
    for solver in COUNTS:
        normal = getattr(solver, "chart", None) == "normal"
        for name in FLOWS:
            quick = not normal or (name == "conformal" and solver != DormandPrince("normal"))
            out.append(pytest.param(solver, name, id=f"{solver}-{name}", marks=() if quick else pytest.mark.slow))
    return out


@pytest.mark.parametrize(("solver", "name"), cases())
def test_measured_order_is_the_stated_one(solver, name):
    assert abs(measured_order(FLOWS[name](), solver, COUNTS[solver]) - solver.order) <= 0.25


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(
    "flow", [swinging_sphere, swinging_plane, pytest.param(swinging_frames, marks=pytest.mark.slow)]
)
def test_transported_history_keeps_the_order_off_geodesics(flow, order):
    assert abs(measured_order(flow(), GeodesicMultistep(order), (40, 80)) - order) <= 0.25


def test_order_test_notices_a_wrong_stage_time():
    flow = conformal()
    late = ODETerm(lambda t, x: flow.term.velocity(t + 0.01, x))
    assert measured_order(replace(flow, term=late), GeodesicRK4(), (12, 24, 48)) < 1


def test_backward_integration_undoes_forward():
    flow = conformal()
    there = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(50)).x
    back = integrate(flow.term, flow.manifold, there, 1.0, 0.0, GeodesicRK4(), ConstantSteps(50)).x
    torch.testing.assert_close(back, flow.x, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "solver", [GeodesicEuler(), GeodesicHeun(), GeodesicRK4(), DormandPrince(), GeodesicMultistep(3)], ids=str
)
def test_solvers_stay_on_the_manifold_in_float32(solver):
    flow = conformal(dtype=torch.float32)
    x = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, solver, ConstantSteps(100)).x
    assert x.dtype == torch.float32
    flow.manifold.check_point(x)
