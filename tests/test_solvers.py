"""Solvers, controllers, the driver and the likelihood, against flows with known solutions."""

from __future__ import annotations

import gc
import importlib
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Compact, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.processes import ODETerm, SDETerm
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ConstantSteps,
    DormandPrince,
    GeodesicEuler,
    GeodesicEulerMaruyama,
    GeodesicHeun,
    GeodesicRK4,
    Solver,
    integrate,
    integrate_with_log_density,
    log_likelihood,
    sample_with_log_prob,
)

NORTH = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------- flows with known solutions


@dataclass(frozen=True)
class Flow:
    manifold: Manifold
    term: ODETerm
    x: Tensor
    exact: Callable[[float], Tensor]
    log_det: Callable[[float], Tensor]  # of the map from time 0 to t: how much it stretches the volume


def conformal(n: int = 20, dtype: torch.dtype = torch.float64) -> Flow:
    """v = k(t) (e - (e.x) x) with k = 1 + sin 2t: tan(theta/2) shrinks by exp(-integral of k), the azimuth stays."""
    M, e = Sphere(2), NORTH.to(dtype)
    x = M.random_uniform(n, generator=seeded(), dtype=dtype)

    def exact(t: float) -> Tensor:
        colatitude = 2 * torch.atan2((x - e).norm(dim=-1), (x + e).norm(dim=-1))
        now = 2 * torch.atan(math.exp(-conformal_time(t)) * torch.tan(colatitude / 2))
        across = M.project(M.to_tangent(e.expand_as(x), x))
        return now.cos()[:, None] * e + now.sin()[:, None] * across

    term = ODETerm(lambda t, x: (1 + (2 * t).sin())[..., None] * M.to_tangent(x, e.expand_as(x)))
    return Flow(M, term, x, exact, lambda t: uniform_log_prob(x) - conformal_log_prob(exact(t), t))


def conformal_time(t: float) -> float:
    return t + (1 - math.cos(2 * t)) / 2


def conformal_log_prob(x: Tensor, t: float) -> Tensor:
    """Density at time t of points that were uniform at time 0."""
    r = math.tanh(conformal_time(t) / 2)
    return -math.log(4 * math.pi) + 2 * torch.log((1 - r * r) / (1 - 2 * r * x[..., 2] + r * r))


def uniform_log_prob(x: Tensor) -> Tensor:
    return x.new_full(x.shape[:-1], -math.log(4 * math.pi))


def rotation() -> Flow:
    """The Killing field v = w x x of the sphere."""
    M, w = Sphere(2), torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64)
    x = M.random_uniform(20, generator=seeded(), dtype=torch.float64)
    term = ODETerm(lambda t, x: torch.linalg.cross(w.expand_as(x), x))
    return Flow(M, term, x, lambda t: x @ torch.matrix_exp(t * SO3.hat(w)).mT, lambda t: x.new_zeros(len(x)))


def two_sided_rotation() -> Flow:
    """R' = A R + R B with skew A and B that don't commute: R(t) = exp(tA) R exp(tB)."""
    M = SO3()
    A, B = SO3.hat(torch.tensor([[0.5, -1.0, 0.3], [1.0, 0.2, 0.7]], dtype=torch.float64))
    x = M.random_uniform(10, generator=seeded(), dtype=torch.float64)
    return Flow(
        M,
        ODETerm(lambda t, x: A @ x + x @ B),
        x,
        lambda t: torch.matrix_exp(t * A) @ x @ torch.matrix_exp(t * B),
        lambda t: x.new_zeros(len(x)),
    )


def contraction(M: Manifold) -> Flow:
    """v = log_x(y): points slide along geodesics to y, at a distance that shrinks as exp(-t); any manifold."""
    y = M.origin(dtype=torch.float64)
    y = M.exp(y, 0.3 * M.random_tangent(y, generator=seeded(1))).expand(10, *M.point_shape)
    v = M.random_tangent(y, generator=seeded(2))
    v = 1.2 * v / M.norm(y, v).reshape(-1, *[1] * len(M.point_shape))
    return Flow(
        M,
        ODETerm(lambda t, x: M.log(x, y.expand_as(x))),
        M.exp(y, v),
        lambda t: M.exp(y.expand_as(v), math.exp(-t) * v),
        lambda t: M.log_det_exp(y, math.exp(-t) * v) - t * M.dim - M.log_det_exp(y, v),
    )


FLOWS = {
    "conformal": conformal,
    "rotation": rotation,
    "SO3": two_sided_rotation,
    "Hyperboloid": lambda: contraction(Hyperboloid(2)),
    "Torus": lambda: contraction(Torus(3)),
    "Product": lambda: contraction(Product(Sphere(3), Euclidean(2), weights=[1.0, 2.0])),
}
COUNTS = {
    GeodesicEuler(): (32, 64),
    GeodesicHeun(): (24, 48),
    GeodesicRK4(): (16, 32),
    DormandPrince(): (40, 80),
    GeodesicHeun("normal"): (10, 20),
    GeodesicRK4("normal"): (6, 12),
    DormandPrince("normal"): (80, 120),
}


def measured_order(flow: Flow, solver: Solver, counts: tuple[int, ...]) -> float:
    """Slope of log error against log step size, by least squares."""
    errors = [
        float(
            flow.manifold.dist(
                integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, solver, ConstantSteps(n)).x, flow.exact(1.0)
            ).max()
        )
        for n in counts
    ]
    u, v = torch.tensor(counts).double().log(), torch.tensor(errors).double().log()
    return -float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum())


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


def test_order_test_notices_a_wrong_stage_time():
    flow = conformal()
    late = ODETerm(lambda t, x: flow.term.velocity(t + 0.01, x))
    assert measured_order(replace(flow, term=late), GeodesicRK4(), (12, 24, 48)) < 1


def test_backward_integration_undoes_forward():
    flow = conformal()
    there = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(50)).x
    back = integrate(flow.term, flow.manifold, there, 1.0, 0.0, GeodesicRK4(), ConstantSteps(50)).x
    torch.testing.assert_close(back, flow.x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", [GeodesicEuler(), GeodesicHeun(), GeodesicRK4(), DormandPrince()], ids=str)
def test_solvers_stay_on_the_manifold_in_float32(solver):
    flow = conformal(dtype=torch.float32)
    x = integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, solver, ConstantSteps(100)).x
    assert x.dtype == torch.float32
    flow.manifold.check_point(x)


# ---------------------------------------------------------------------- adaptive steps


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
    ):
        calls.clear()
        solution = integrate(term, flow.manifold, flow.x, 0.0, 1.0, solver, ConstantSteps(5))
        assert solution.n_evaluations == len(calls) == 5 * per_step + first == 5 * solver.n_stages + first
        assert (solution.n_accepted, solution.n_rejected) == (5, 0)


# ---------------------------------------------------------------------- the driver


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 3)], ids=str)
@pytest.mark.parametrize("controller", [ConstantSteps(3), AdaptiveSteps()], ids=["constant", "adaptive"])
def test_any_batch_shape(batch, controller):
    M = SO3()
    x = M.random_uniform(math.prod(batch), generator=seeded()).reshape(*batch, 3, 3)
    seen = []
    term = ODETerm(lambda t, x: seen.append(t.shape) or x @ SO3.hat(torch.tensor([0.0, 0.0, 1.0])))
    solution = integrate(term, M, x, 0.0, 1.0, DormandPrince(), controller, return_trajectory=True)
    assert set(seen) == {torch.Size(batch)}
    assert solution.x.shape == x.shape
    assert solution.trajectory.shape == (solution.n_accepted + 1, *x.shape)


def test_trajectory_and_callback_follow_the_accepted_steps():
    flow, seen = conformal(), []
    solution = integrate(
        flow.term,
        flow.manifold,
        flow.x,
        0.0,
        1.0,
        GeodesicRK4(),
        ConstantSteps(4),
        return_trajectory=True,
        callback=lambda t, x: seen.append((t, x)),
    )
    assert solution.times.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [t for t, _ in seen] == [0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(solution.trajectory[0], flow.x)
    torch.testing.assert_close(solution.trajectory[1:], torch.stack([x for _, x in seen]))
    torch.testing.assert_close(solution.trajectory[2], flow.exact(0.5), rtol=0, atol=1e-3)
    assert solution.t == 1.0
    assert integrate(flow.term, flow.manifold, flow.x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(4)).trajectory is None


def test_no_time_no_steps():
    flow = conformal()
    solution = integrate(flow.term, flow.manifold, flow.x, 0.5, 0.5, GeodesicRK4(), ConstantSteps(4))
    assert solution.n_evaluations == 0
    assert torch.equal(solution.x, flow.x)


def test_progress_bar_changes_nothing(capsys):
    flow = conformal()
    runs = [
        integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, GeodesicRK4(), ConstantSteps(4), progress=p).x
        for p in (False, True)
    ]
    assert torch.equal(*runs)
    assert "t = 0.0000" in capsys.readouterr().err


def test_gradients_flow_only_when_asked():
    M, k = Euclidean(1), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    decay = ODETerm(lambda t, x: -k * x)
    x = torch.ones(1, dtype=torch.float64)
    assert not integrate(decay, M, x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(20)).x.requires_grad
    end = integrate(decay, M, x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(20), differentiable=True).x
    (slope,) = torch.autograd.grad(end, k)
    assert abs(float(slope) + math.exp(-0.7)) < 1e-6


@pytest.mark.parametrize("kind", ["ode", "sde", "likelihood"])
def test_live_memory_does_not_grow_with_the_steps(kind):
    M, most = Sphere(2), {}
    x = M.random_uniform(10, generator=seeded())

    for n in (5, 25):
        live: list[weakref.ref] = []
        peak = 0

        def field(t: Tensor, x: Tensor) -> Tensor:
            nonlocal live, peak
            v = M.to_tangent(x, NORTH.to(x.dtype).expand_as(x))
            live = [r for r in live if r() is not None]
            live.append(weakref.ref(v))
            peak = max(peak, len(live))
            return v

        gc.collect()
        if kind == "sde":
            term = SDETerm(field, lambda t, x: x.new_ones(()))
            integrate(term, M, x, 0.0, 1.0, GeodesicEulerMaruyama(), ConstantSteps(n), generator=seeded())
        elif kind == "ode":
            integrate(ODETerm(field), M, x, 0.0, 1.0, GeodesicRK4(), ConstantSteps(n))
        else:
            log_likelihood(ODETerm(field), M, x, uniform_log_prob, solver=GeodesicRK4(), controller=ConstantSteps(n))
        most[n] = peak
    assert most[25] <= most[5] <= 8


def test_live_memory_test_notices_a_trajectory():
    M, live = Euclidean(1), []

    def keep(t: float, x: Tensor) -> None:
        live.append(weakref.ref(x))

    solution = integrate(
        ODETerm(lambda t, x: -x), M, torch.ones(1), 0.0, 1.0, GeodesicEuler(), ConstantSteps(50), callback=keep
    )
    assert sum(r() is not None for r in live) <= 1
    del solution


# ---------------------------------------------------------------------- what is refused, and what fails


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


# ---------------------------------------------------------------------- stochastic equations


def brownian() -> SDETerm:
    return SDETerm(lambda t, x: torch.zeros_like(x), lambda t, x: x.new_ones(()))


def test_same_seed_same_path():
    M, x = Sphere(2), NORTH.expand(50, 3)
    runs = [
        integrate(brownian(), M, x, 0.0, 1.0, GeodesicEulerMaruyama(), ConstantSteps(10), generator=seeded(s)).x
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_euler_maruyama_converges_with_weak_order_one():
    """Brownian motion of S^2 to time 1: E[x.y] = exp(-1)."""
    M, n = Sphere(2), 400_000
    x = NORTH.float().expand(n, 3)
    counts, errors = (2, 4, 8), []
    for steps in counts:
        end = (
            integrate(
                brownian(), M, x, 0.0, 1.0, GeodesicEulerMaruyama(), ConstantSteps(steps), generator=seeded(steps)
            )
            .x[:, 2]
            .double()
        )
        errors.append(abs(float(end.mean()) - math.exp(-1)))
        assert errors[-1] > 5 * float(end.std()) / math.sqrt(n)  # the bias is measured, not the noise
    u, v = torch.tensor(counts).double().log(), torch.tensor(errors).double().log()
    assert abs(-float(((u - u.mean()) * (v - v.mean())).sum() / (u - u.mean()).square().sum()) - 1) <= 0.25


def z_score(values: Tensor, expected: float) -> float:
    values = values.double()
    return abs(float((values.mean() - expected) / (values.std() / math.sqrt(values.numel()))))


def test_langevin_dynamics_reaches_its_stationary_law():
    """dX = (kappa/2) grad(e.x) dt + dB has the von Mises-Fisher law, E[e.x] = coth kappa - 1/kappa."""
    M, kappa = Sphere(2), 2.0
    x = M.random_uniform(4000, generator=seeded(), dtype=torch.float32)
    means = {}
    for noise in (1.0, 0.8):
        term = SDETerm(
            lambda t, x: kappa / 2 * M.to_tangent(x, NORTH.float().expand_as(x)),
            lambda t, x, noise=noise: x.new_full((), noise),
        )
        end = integrate(term, M, x, 0.0, 5.0, GeodesicEulerMaruyama(), ConstantSteps(250), generator=seeded(1)).x
        means[noise] = z_score(end[:, 2], 1 / math.tanh(kappa) - 1 / kappa)
    assert means[1.0] <= 5 < means[0.8]


LOW, GROWTH = 1e-3, math.log(7.0 / 1e-3)


def brownian_time(t: Tensor) -> Tensor:
    return LOW * torch.exp(GROWTH * t)


def mixture(M: Compact, dtype: torch.dtype) -> HeatKernelMixture:
    """Three heat kernels: their law under Brownian motion is known at every time, score included."""
    centres = M.random_uniform(3, generator=seeded(5), dtype=dtype)
    return HeatKernelMixture(M, centres, tau=0.1, weights=torch.tensor([0.2, 0.3, 0.5], dtype=dtype))


def test_reverse_equation_with_the_exact_score_reproduces_the_data():
    """Backwards from the uniform law at tau = 7 the walk ends at the mixture, whose mean is known."""
    M = Sphere(2)
    law = mixture(M, torch.float32)
    mean = math.exp(-0.1 - LOW) * (law.weights[:, None] * law.centres).sum(0)
    x, z = M.random_uniform(1000, generator=seeded()), {}
    for scale in (1.0, 0.5):
        term = SDETerm(
            lambda t, x, scale=scale: -scale * GROWTH * brownian_time(t)[:, None] * law.score(x, brownian_time(t)),
            lambda t, x: (GROWTH * brownian_time(t)).sqrt()[:, None],
        )
        end = integrate(term, M, x, 1.0, 0.0, GeodesicEulerMaruyama(), ConstantSteps(150), generator=seeded(1)).x
        z[scale] = max(z_score(end[:, i], float(mean[i])) for i in range(3))
    assert z[1.0] <= 5 < z[0.5]


# ---------------------------------------------------------------------- likelihood


@pytest.mark.parametrize(
    ("dtype", "tolerance", "bound"),
    [(torch.float64, 1e-5, 1e-6), (torch.float64, 1e-3, 1e-4), (torch.float32, 1e-5, 1e-5)],
    ids=["float64", "float64-default", "float32"],
)
def test_likelihood_of_the_conformal_flow(dtype, tolerance, bound):
    flow = conformal(200, dtype)
    x = flow.exact(1.0)
    result = log_likelihood(flow.term, flow.manifold, x, uniform_log_prob, 1.0, 0.0, tolerance=tolerance)
    assert float((result.log_prob - conformal_log_prob(x, 1.0)).abs().max()) <= bound
    torch.testing.assert_close(result.x_1, flow.x, rtol=0, atol=bound)
    assert result.standard_error is None
    assert result.log_prob.dtype == dtype


def test_likelihood_by_fixed_steps():
    flow = conformal(200)
    x = flow.exact(1.0)
    result = log_likelihood(
        flow.term, flow.manifold, x, uniform_log_prob, 1.0, 0.0, solver=GeodesicRK4(), controller=ConstantSteps(25)
    )
    assert result.n_evaluations == 100
    assert float((result.log_prob - conformal_log_prob(x, 1.0)).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", list(FLOWS))
def test_density_of_known_flows(name):
    flow = FLOWS[name]()
    start = torch.zeros((), dtype=torch.float64)
    end = integrate_with_log_density(flow.term, flow.manifold, flow.x, start, 0.0, 1.0, tolerance=1e-7)
    torch.testing.assert_close(end.log_prob, -flow.log_det(1.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(end.x, flow.exact(1.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("M", [Sphere(2), Torus(2)], ids=str)
def test_likelihood_of_a_heat_kernel_mixture(M):
    """The probability flow with the exact score gives the exact density, from the data to the law at tau = 7."""
    law, errors = mixture(M, torch.float32), {}
    x = law.sample(50, tau=LOW, generator=seeded())
    for scale in (1.0, 0.97):
        flow = ODETerm(
            lambda t, x, scale=scale: -scale / 2 * GROWTH * brownian_time(t)[:, None] * law.score(x, brownian_time(t))
        )
        result = log_likelihood(flow, M, x, lambda y: law.log_prob(y, brownian_time(torch.ones(())).item()))
        errors[scale] = float((result.log_prob - law.log_prob(x, LOW)).abs().max())
    assert errors[1.0] <= 5e-3 < errors[0.97]


def test_samples_come_with_their_log_density():
    flow = conformal(200)
    result = sample_with_log_prob(flow.term, flow.manifold, flow.x, uniform_log_prob, 1.0, 0.0, tolerance=1e-6)
    torch.testing.assert_close(result.x, flow.exact(1.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.log_prob, conformal_log_prob(result.x, 1.0), rtol=0, atol=1e-6)
    again = log_likelihood(flow.term, flow.manifold, result.x, uniform_log_prob, 1.0, 0.0, tolerance=1e-6)
    torch.testing.assert_close(again.log_prob, result.log_prob, rtol=0, atol=1e-6)


def hutchinson(n: int, n_probes: int, **arguments) -> tuple[Tensor, Tensor]:
    flow = conformal(n)
    x = flow.exact(1.0)
    result = log_likelihood(
        flow.term,
        flow.manifold,
        x,
        uniform_log_prob,
        1.0,
        0.0,
        divergence="hutchinson",
        n_probes=n_probes,
        generator=seeded(3),
        **arguments,
    )
    return result.log_prob - conformal_log_prob(x, 1.0), result.standard_error


RK4 = {"solver": GeodesicRK4(), "controller": ConstantSteps(10)}


@pytest.mark.parametrize("arguments", [RK4, {}], ids=["rk4", "adaptive"])
def test_hutchinson_is_unbiased(arguments):
    error, standard_error = hutchinson(4000, 2, **arguments)
    assert z_score(error, 0.0) <= 5
    assert z_score(error, 0.1) > 5
    assert standard_error.shape == error.shape


def test_hutchinson_standard_error_is_calibrated():
    error, standard_error = hutchinson(3000, 4, **RK4)
    # E[standard_error^2] is the variance of the estimate: the ratio has a mean of 1.
    assert z_score(error.square() / standard_error.square().mean(), 1.0) <= 5
    assert z_score(error.square() / (standard_error / 1.3).square().mean(), 1.0) > 5


def test_one_probe_has_no_standard_error():
    assert hutchinson(5, 1, **RK4)[1] is None


def test_hutchinson_order_is_that_of_the_scheme():
    """Transported probes are smooth along a trajectory: the estimate for given probes converges with order 4."""
    reference = hutchinson(10, 1, solver=GeodesicRK4(), controller=ConstantSteps(48))[0]
    errors = [
        float((hutchinson(10, 1, solver=GeodesicRK4(), controller=ConstantSteps(n))[0] - reference).abs().max())
        for n in (6, 12)
    ]
    assert errors[0] / errors[1] > 2**3


@pytest.mark.parametrize("arguments", [{}, {"divergence": "hutchinson", "n_probes": 3}], ids=["exact", "hutchinson"])
def test_parts_of_the_batch_give_the_same_result(arguments):
    flow = conformal(12)
    x = flow.x.reshape(3, 4, 3)
    whole, parts = (
        log_likelihood(
            flow.term, flow.manifold, x, uniform_log_prob, batch_size=b, generator=seeded(), **RK4, **arguments
        )
        for b in (None, 5)
    )
    assert parts.log_prob.shape == (3, 4)
    torch.testing.assert_close(whole.log_prob, parts.log_prob, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.x_1, parts.x_1, rtol=0, atol=1e-12)
    assert whole.n_evaluations == parts.n_evaluations


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_likelihood_of_no_points(divergence):
    flow = conformal()
    result = log_likelihood(flow.term, flow.manifold, flow.x[:0], uniform_log_prob, divergence=divergence)
    assert result.log_prob.shape == (0,)


def test_likelihood_is_differentiable_when_asked():
    M, k = Sphere(2), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    term = ODETerm(lambda t, x: k * M.to_tangent(x, NORTH.expand_as(x)))
    x = -NORTH[None]
    log_prob = log_likelihood(term, M, x, uniform_log_prob, **RK4, differentiable=True).log_prob
    (slope,) = torch.autograd.grad(log_prob.sum(), k)
    assert abs(float(slope) - 2) < 1e-6  # the south pole stays where it is, and div v = 2k there
    assert not log_likelihood(term, M, x, uniform_log_prob, **RK4).log_prob.requires_grad


def test_likelihood_checks_its_arguments():
    flow = conformal()
    for arguments, words in (
        ({"divergence": "jacobian"}, "divergence"),
        ({"n_probes": 0}, "n_probes"),
        ({"batch_size": 0}, "batch_size"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"solver": GeodesicRK4(), "controller": AdaptiveSteps()}, "DormandPrince"),
    ):
        with pytest.raises(ConfigError, match=words):
            log_likelihood(flow.term, flow.manifold, flow.x, uniform_log_prob, **arguments)
