"""Multistep schemes, clocks and grids: known formulas on Euclidean space, exact coefficients, invariance."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import ConfigError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, PoincareBall, Sphere
from manifold_diffusion.processes import BrownianMotion, LogPath, LogSchedule, ODETerm
from manifold_diffusion.solvers import (
    ClockSteps,
    ConstantSteps,
    GeodesicHeun,
    GeodesicMultistep,
    GridSteps,
    LearnedMultistep,
    NoiseClock,
    Solver,
    integrate,
)
from manifold_diffusion.solvers.multistep import adams_bashforth
from manifold_diffusion.testing import convergence_slope

from .flows import NORTH, conformal, seeded, swinging_sphere

SCHEDULE = LogSchedule(1e-2, 4.0)


def test_weights_integrate_polynomials_through_any_nodes():
    for nodes, end in (([2.0], 2.7), ([2.0, 1.4], 2.7), ([2.0, 1.4, 0.9], 2.7), ([-1.0, -0.2, 0.1], -1.5)):
        weights = adams_bashforth(nodes, end)
        for k in range(len(nodes)):
            mean = (end ** (k + 1) - nodes[0] ** (k + 1)) / (k + 1) / (end - nodes[0])
            assert abs(sum(w * s**k for w, s in zip(weights, nodes, strict=True)) - mean) < 1e-12
    torch.testing.assert_close(adams_bashforth([3.0, 2.0, 1.0], 4.0), [23 / 12, -16 / 12, 5 / 12])


def gaussian_mixture() -> tuple[Euclidean, ODETerm, Tensor]:
    """The probability flow of Brownian motion (variance exploding) from a mixture in the plane."""
    M, g = Euclidean(2), seeded()
    law = HeatKernelMixture(M, torch.randn(4, 2, generator=g, dtype=torch.float64), tau=0.1)
    process = BrownianMotion(M, SCHEDULE)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        network = SCHEDULE.tau(t).sqrt()[..., None] * law.score(x, SCHEDULE.tau(t))
        return process.velocity(network, x, t)

    return M, ODETerm(velocity), 2 * torch.randn(50, 2, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("order", [1, 2])
def test_the_noise_clock_gives_ddim_and_its_two_step_formula(order):
    M, term, x = gaussian_mixture()
    clock = NoiseClock(SCHEDULE)
    grid = (1.0, 0.8, 0.5, 0.45, 0.1, 0.0)
    y, past, last_step = x, None, math.nan
    for t, end in itertools.pairwise(grid):
        now, after = (SCHEDULE.tau(torch.tensor(s, dtype=torch.float64)).sqrt() for s in (t, end))
        # The noise that the points hold: x = x_0 + sigma * noise.
        time = x.new_full((len(x),), t)
        noise = term.velocity(time, y) * (2 * now / SCHEDULE.rate(torch.tensor(t, dtype=torch.float64)))
        step = after - now
        slope = noise if past is None or order == 1 else noise + step / (2 * last_step) * (noise - past)
        y, past, last_step = y + step * slope, noise, step
    end = integrate(term, M, x, 1.0, 0.0, GeodesicMultistep(order, clock), GridSteps(grid)).x
    torch.testing.assert_close(end, y, rtol=1e-13, atol=1e-13)
    assert float((integrate(term, M, x, 1.0, 0.0, GeodesicMultistep(order), GridSteps(grid)).x - y).norm()) > 0.1


@pytest.mark.parametrize("power", [0.0, 1 / 7, 1.0, 2.0])
def test_the_coefficient_of_the_clock_is_integrated_exactly(power):
    """v = ds/dt (w x x) turns equatorial points by s(t) - s(0): one step is exact in the clock s, and in no other."""
    M, clock = Sphere(2), NoiseClock(SCHEDULE, power)
    x = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    term = ODETerm(lambda t, x: clock.rate(t)[..., None] * torch.linalg.cross(NORTH.expand_as(x), x))
    low, high = clock.s(torch.tensor([0.0, 1.0], dtype=torch.float64))
    turned = torch.stack([(high - low).cos(), (high - low).sin(), 0 * low])
    exact = [integrate(term, M, x, 0.0, 1.0, GeodesicMultistep(p, clock), ConstantSteps(3)).x[0] for p in (1, 2, 3)]
    for end in exact:
        torch.testing.assert_close(end, turned, rtol=0, atol=1e-12)
    if power > 0:  # with power 0 this clock is a multiple of the time
        assert float(M.dist(integrate(term, M, x, 0.0, 1.0, GeodesicMultistep(), ConstantSteps(3)).x[0], turned)) > 1e-3


@pytest.mark.parametrize("schedule", [SCHEDULE, LogPath(1e-2)], ids=repr)
@pytest.mark.parametrize("power", [0.0, 1 / 7, 1.0])
def test_clocks_are_what_they_say(power, schedule):
    clock, t = NoiseClock(schedule, power), torch.linspace(0, 1, 11, dtype=torch.float64).requires_grad_()
    s = clock.s(t)
    torch.testing.assert_close(clock.t(s), t)
    torch.testing.assert_close(clock.rate(t), torch.autograd.grad(s.sum(), t)[0])
    assert from_config(to_config(clock)).power == power
    times = ClockSteps(5, clock).times(1.0, 0.0)
    steps = clock.s(torch.tensor(times, dtype=torch.float64)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(5))
    assert (times[0], times[-1]) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("order", "clock"), [(2, None), (3, None), (2, NoiseClock(SCHEDULE)), (3, NoiseClock(SCHEDULE))]
)
def test_unequal_steps_and_clocks_keep_the_order(order, clock):
    flow, errors, counts = conformal(), [], (48, 96)
    for n in counts:
        steps = ClockSteps(n, NoiseClock(SCHEDULE, 0.5))
        end = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicMultistep(order, clock), steps).x
        errors.append(float(flow.manifold.dist(end, flow.exact(1.0)).max()))
    assert abs(convergence_slope(errors, [1 / n for n in counts]).order - order) <= 0.25


@pytest.mark.parametrize(
    "solver", [GeodesicMultistep(1), GeodesicMultistep(2), GeodesicMultistep(3), LearnedMultistep((0.0, 0.3, 0.5, 1.0))]
)
def test_rotated_coordinates_give_the_rotated_solution(solver):
    flow = conformal()
    steps = solver.controller() if isinstance(solver, LearnedMultistep) else ConstantSteps(4)
    Q = SO3().random_uniform(1, generator=seeded(4), dtype=torch.float64)[0]
    rotated = ODETerm(lambda t, x: flow.term.velocity(t, x @ Q) @ Q.mT)
    ends = [
        integrate(term, flow.manifold, x, 0.0, 1.0, solver, steps).x
        for term, x in ((flow.term, flow.x), (rotated, flow.x @ Q.mT))
    ]
    torch.testing.assert_close(ends[1], ends[0] @ Q.mT, rtol=0, atol=1e-12)


def test_the_model_of_hyperbolic_space_does_not_matter():
    """Steps see the metric only; schemes that add ambient vectors see the coordinates as well."""
    H, B = Hyperboloid(2), PoincareBall(2)
    A = torch.tensor([[0.0, 0.5, 0.0], [0.5, 0.0, -1.2], [0.0, 1.2, 0.0]], dtype=torch.float64)
    pull = torch.tensor([1.25, 0.75, 0.0], dtype=torch.float64)

    def field(t: Tensor, x: Tensor) -> Tensor:
        return x @ A.mT + H.log(x, pull.expand_as(x))

    def in_the_ball(t: Tensor, y: Tensor) -> Tensor:
        x = B.to_hyperboloid(y)
        return B.vector_from_hyperboloid(x, field(t, x))

    start = H.origin(dtype=torch.float64).expand(20, 3)
    x = H.exp(start, H.random_tangent(start, generator=seeded()) / 2)

    def gap(solver: Solver) -> float:
        one = integrate(ODETerm(field), H, x, 0.0, 1.0, solver, ConstantSteps(4)).x
        other = integrate(ODETerm(in_the_ball), B, B.from_hyperboloid(x), 0.0, 1.0, solver, ConstantSteps(4)).x
        return float(H.dist(one, B.to_hyperboloid(other)).max())

    assert max(gap(GeodesicMultistep(p)) for p in (1, 2, 3)) < 1e-10
    assert gap(GeodesicHeun()) > 1e-3


@pytest.mark.parametrize("batch", [(), (0,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_batch_shape_and_dtype(batch, dtype):
    M = SO3()
    x = M.random_uniform(math.prod(batch), generator=seeded(), dtype=dtype).reshape(*batch, 3, 3)
    term = ODETerm(lambda t, x: x @ SO3.hat(x.new_tensor([0.0, 0.0, 1.0])))
    solver = GeodesicMultistep(3, NoiseClock(SCHEDULE))
    end = integrate(term, M, x, 1.0, 0.0, solver, ConstantSteps(4)).x
    assert (end.shape, end.dtype) == (x.shape, dtype)
    M.check_point(end)


def test_backward_integration_undoes_forward():
    flow = swinging_sphere()
    there = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicMultistep(3), ConstantSteps(100)).x
    back = integrate(flow.term, flow.manifold, there, 1.0, 0.0, GeodesicMultistep(3), ConstantSteps(100)).x
    torch.testing.assert_close(back, flow.x, rtol=0, atol=1e-4)


def test_grids_are_followed_and_checked():
    flow, grid = conformal(), (1.0, 0.7, 0.65, 0.0)
    solution = integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, GeodesicMultistep(), GridSteps(grid))
    assert tuple(solution.times.tolist()) == grid
    with pytest.raises(ConfigError, match=r"covers t = 1\.0 to 0\.0; the integration runs from 0\.9"):
        integrate(flow.term, flow.manifold, flow.x, 0.9, 0.0, GeodesicMultistep(), GridSteps(grid))
    for bad, words in (
        ((1.0,), "at least two"),
        ((1.0, 0.5, 0.7, 0.0), "strictly monotone"),
        ((0.0, math.nan, 1.0), "strictly monotone"),
        ((0.5, 0.5), "differs"),
    ):
        with pytest.raises(ConfigError, match=words):
            GridSteps(bad)


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="1, 2 or 3; got 4"):
        GeodesicMultistep(4)
    with pytest.raises(ConfigError, match="n >= 1"):
        ClockSteps(0, NoiseClock(SCHEDULE))
    with pytest.raises(ConfigError, match="needs a Schedule"):
        NoiseClock(lambda t: t)
    for make in (
        lambda c: GeodesicMultistep(2, c),
        lambda c: ClockSteps(4, c),
        lambda c: LearnedMultistep((1, 0), 2, c),
    ):
        with pytest.raises(ConfigError, match=r"must be a Clock.*NoiseClock\(schedule\)"):
            make(SCHEDULE)
    with pytest.raises(ConfigError, match=">= 0"):
        NoiseClock(SCHEDULE, -1.0)
