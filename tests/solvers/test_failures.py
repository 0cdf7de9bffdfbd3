"""Arguments that are refused, and integrations that fail with the time and the rows in the message."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, ManifoldError, NumericsError
from manifold_diffusion.manifolds import Euclidean
from manifold_diffusion.processes import ODETerm, SDETerm
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ConstantSteps,
    DormandPrince,
    GeodesicEulerMaruyama,
    GeodesicHeun,
    GeodesicRK4,
    integrate,
    log_likelihood,
)

from .flows import conformal, uniform_log_prob


def test_illegal_combinations_are_refused_with_the_fix():
    M, x = Euclidean(1), torch.ones(1)
    ode, sde = ODETerm(lambda t, x: -x), SDETerm(lambda t, x: -x, lambda t, x: torch.ones(()))
    for term, solver, controller, words in (
        (
            sde,
            GeodesicHeun(),
            ConstantSteps(5),
            r"GeodesicHeun .*noise.*solver=GeodesicEulerMaruyama\(\), controller=ConstantSteps",
        ),
        (ode, GeodesicEulerMaruyama(), ConstantSteps(5), r"got an ODETerm.*solver=GeodesicEuler\(\)"),
        (sde, GeodesicEulerMaruyama(), AdaptiveSteps(), r"bias the law.*ConstantSteps"),
        (ode, GeodesicRK4(), AdaptiveSteps(), r"GeodesicRK4 has none.*solver=DormandPrince\(\)"),
        (lambda t, x: -x, GeodesicRK4(), ConstantSteps(5), r"Wrap a function: ODETerm"),
        (ode, "rk4", ConstantSteps(5), r"solver=GeodesicRK4\(\)"),
        (ode, GeodesicRK4(), 50, r"controller=ConstantSteps\(50\)"),
    ):
        with pytest.raises(ConfigError, match=words):
            integrate(term, M, x, 0.0, 1.0, solver, controller)
    with pytest.raises(ConfigError, match="finite times"):
        integrate(ode, M, x, 0.0, math.nan, GeodesicRK4(), ConstantSteps(5))


@pytest.mark.parametrize("n", [0, -3, 2.5, True])
def test_constant_steps_needs_a_positive_integer(n):
    with pytest.raises(ConfigError, match="n >= 1"):
        ConstantSteps(n)


@pytest.mark.parametrize(
    "arguments",
    [
        {"atol": 0.0},
        {"rtol": -1.0},
        {"atol": math.nan},
        {"norm": "mean"},
        {"first_step": 2.0},
        {"min_step": 0.0},
        {"max_steps": 0},
        {"safety": 1.5},
    ],
    ids=str,
)
def test_adaptive_steps_checks_its_arguments(arguments):
    with pytest.raises(ConfigError, match="AdaptiveSteps"):
        AdaptiveSteps(**arguments)


def test_charts_are_checked():
    with pytest.raises(ConfigError, match="chart"):
        GeodesicRK4("polar")


def test_points_off_the_manifold_are_refused():
    flow = conformal()
    with pytest.raises(ManifoldError, match="not on"):
        integrate(flow.term, flow.manifold, 1.1 * flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(5))


def spoiled(rows: int) -> ODETerm:
    """A field whose first rows are NaN after t = 0.5."""
    flow = conformal()

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        bad = (t > 0.5) & (torch.arange(len(x)) < rows)
        return torch.where(bad[:, None], math.nan, flow.term.velocity(t, x))

    return ODETerm(velocity)


def test_non_finite_states_raise_and_name_time_and_rows():
    flow = conformal()
    with pytest.raises(NumericsError, match=r"3 of 20 points .* t = 0\.6"):
        integrate(spoiled(3), flow.manifold, flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(10))
    with pytest.raises(NumericsError, match=r"just after t = 0\.5.*3 of 20 points"):
        integrate(spoiled(3), flow.manifold, flow.x, 0.0, 1.0, DormandPrince(), AdaptiveSteps())
    with pytest.raises(NumericsError, match=r"points .* t = 0\.[56]"):
        log_likelihood(
            spoiled(3), flow.manifold, flow.x, uniform_log_prob, solver=GeodesicRK4(), controller=ConstantSteps(10)
        )


def test_lazy_check_names_the_first_bad_step(monkeypatch):
    """On an accelerator the points are looked at every 32 steps only; the time in the message is right all the same."""
    module = importlib.import_module("manifold_diffusion.solvers.integrate")  # the package's name is the function
    eager = module._FiniteCheck.__init__

    def lazy(self, manifold, x):
        eager(self, manifold, x)
        self.lazy = True

    monkeypatch.setattr(module._FiniteCheck, "__init__", lazy)
    flow = conformal()
    for n, time in ((10, r"0\.6"), (100, r"0\.51")):
        with pytest.raises(NumericsError, match=rf"3 of 20 points .* t = {time}\."):
            integrate(spoiled(3), flow.manifold, flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(n))
    good = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(100))
    assert good.n_accepted == 100


def test_unreachable_tolerances_raise():
    M, x = Euclidean(1), torch.zeros(1, dtype=torch.float64)
    jump = ODETerm(lambda t, x: torch.where(t[..., None] > 0.3, 1.0, 0.0).to(x) + 0 * x)
    with pytest.raises(NumericsError, match=r"step size fell.*t = 0\.3"):
        integrate(jump, M, x, 0.0, 1.0, DormandPrince(), AdaptiveSteps(0.0, 1e-12, min_step=1e-6))
    with pytest.raises(NumericsError, match="max_steps=3"):
        integrate(
            ODETerm(lambda t, x: (50 * t).sin()[..., None] + 0 * x),
            M,
            x,
            0.0,
            1.0,
            DormandPrince(),
            AdaptiveSteps(0.0, 1e-10, max_steps=3),
        )
