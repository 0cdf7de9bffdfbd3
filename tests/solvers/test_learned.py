"""Learned multistep schemes: they start as Adams-Bashforth, learn on exact scores, and are saved with a model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CheckpointError, ConfigError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Sphere
from manifold_diffusion.models.pretrained import load_model, save_model
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, LogSchedule, ODETerm
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ClockSteps,
    ConstantSteps,
    DormandPrince,
    GeodesicMultistep,
    LearnedMultistep,
    NoiseClock,
    Solver,
    fit_multistep,
    integrate,
)

from .flows import conformal, seeded

SCHEDULE = LogSchedule(4e-4, 4.0)  # noise level 0.02 to 2
CLOCKS = [None, NoiseClock(SCHEDULE), NoiseClock(SCHEDULE, 0.0)]


def mixture_flow(n: int) -> tuple[ODETerm, Tensor]:
    """The probability flow of five heat kernels on the sphere, with its exact score, and n points of noise."""
    M, g = Sphere(2), seeded()
    law = HeatKernelMixture(M, M.random_uniform(5, generator=g, dtype=torch.float64), tau=0.05)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return -SCHEDULE.rate(t)[..., None] / 2 * law.score(x, SCHEDULE.tau(t))

    return ODETerm(velocity), M.random_uniform(n, generator=g, dtype=torch.float64)


def disturbed(learned: LearnedMultistep) -> LearnedMultistep:
    with torch.no_grad():
        for p in learned.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=seeded(1), dtype=p.dtype))
    return learned


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("clock", CLOCKS, ids=str)
@pytest.mark.parametrize("history", [2, 4])
def test_a_new_one_is_adams_bashforth_bit_for_bit(dtype, clock, history):
    flow = conformal(dtype=dtype)
    learned = LearnedMultistep((1.0, 0.7, 0.45, 0.3, 0.0), history, clock)

    def end(solver: Solver) -> Tensor:
        return integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, solver, learned.controller()).x

    reference = end(GeodesicMultistep(2, clock))
    assert torch.equal(end(learned), reference)
    disturbed(learned)
    assert not torch.allclose(end(learned), reference)


def test_on_euclidean_space_it_is_a_linear_multistep_formula():
    M, x = Euclidean(3), torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    term = ODETerm(lambda t, x: torch.sin(x + t[..., None]))
    learned = disturbed(LearnedMultistep((0.0, 0.2, 0.5, 0.6, 1.0), history=3))
    times, W, slopes, y = learned.times().tolist(), learned.weights.tolist(), [], x
    for i in range(4):
        slopes.insert(0, torch.sin(y + times[i]))
        y = y + (times[i + 1] - times[i]) * sum(W[i][j] * d for j, d in enumerate(slopes[:3]))
    end = integrate(term, M, x, 0.0, 1.0, learned, learned.controller())
    torch.testing.assert_close(end.x, y, rtol=1e-13, atol=1e-13)
    assert end.n_evaluations == 4


def test_times_stay_ordered_and_the_ends_fixed():
    learned = LearnedMultistep((1.0, 0.7, 0.45, 0.0))
    torch.testing.assert_close(learned.times().tolist(), [1.0, 0.7, 0.45, 0.0])
    with torch.no_grad():
        learned.log_steps.copy_(torch.tensor([3.0, -5.0, 1.0]))
    times = learned.times().tolist()
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("clock", CLOCKS[:2], ids=str)
def test_gradients_reach_the_weights_and_the_times(clock):
    flow, learned = conformal(4), disturbed(LearnedMultistep((1.0, 0.7, 0.3, 0.0), 2, clock))

    def end(weights: Tensor, log_steps: Tensor) -> Tensor:
        del learned.weights, learned.log_steps
        learned.weights, learned.log_steps = weights, log_steps
        steps = learned.controller()
        return integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, learned, steps, differentiable=True).x

    inputs = tuple(p.detach().clone().requires_grad_() for p in (learned.weights, learned.log_steps))
    assert torch.autograd.gradcheck(end, inputs)


def test_four_learned_steps_are_three_times_closer_on_other_noise():
    """Also with an unequal plan in the clock of the noise level, where Adams-Bashforth is better already."""
    M, (term, x) = Sphere(2), mixture_flow(400)
    train, held_out = x[:100], x[100:]
    exact = integrate(term, M, held_out, 1.0, 0.0, DormandPrince(), AdaptiveSteps(1e-6, 1e-6)).x
    clock = NoiseClock(SCHEDULE)
    plans = {"equal": (ConstantSteps(4), None), "clock": (ClockSteps(4, NoiseClock(SCHEDULE, 1 / 3)), clock)}
    errors = {}
    for name, (plan, clock) in plans.items():
        fit = fit_multistep(term, M, train, plan, clock=clock, max_iterations=30)
        assert fit.error < fit.initial_error
        for kind, solver, controller in (
            ("AB2", GeodesicMultistep(2, clock), plan),
            ("learned", fit.solver, fit.solver.controller()),
        ):
            end = integrate(term, M, held_out, 1.0, 0.0, solver, controller)
            assert end.n_evaluations == 4
            errors[name, kind] = float(M.dist(end.x, exact).mean())
    assert 0.09 < errors["equal", "AB2"] < 0.15
    assert errors["equal", "learned"] < errors["equal", "AB2"] / 3
    assert errors["clock", "learned"] < errors["clock", "AB2"] / 1.5


def test_a_fit_leaves_the_model_alone_and_is_repeatable():
    M, x = SO3(), SO3().random_uniform(20, generator=seeded())
    model = nn.Linear(9, 3)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return x @ SO3.hat(model(x.flatten(-2)) * t[..., None])

    before = [p.detach().clone() for p in model.parameters()]
    fits = [fit_multistep(ODETerm(velocity), M, x, 3, max_iterations=5) for _ in range(2)]
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(fits[0].solver.weights, fits[1].solver.weights)
    assert fits[0].error < fits[0].initial_error
    assert fits[0].n_trials >= 5
    fixed = fit_multistep(ODETerm(velocity), M, x, 3, max_iterations=5, learn_times=False)
    torch.testing.assert_close(fixed.solver.times().tolist(), [1.0, 2 / 3, 1 / 3, 0.0])


def test_a_teacher_may_be_given():
    M, x = Euclidean(1), torch.linspace(1.0, 2.0, 5, dtype=torch.float64)[:, None]
    fit = fit_multistep(ODETerm(lambda t, x: x), M, x, 3, teacher=3 * x, t0=0.0, t1=1.0)
    assert fit.error < 1e-5
    end = integrate(ODETerm(lambda t, x: x), M, x, 0.0, 1.0, fit.solver, fit.solver.controller()).x
    torch.testing.assert_close(end, 3 * x, rtol=1e-5, atol=0)


class Holder(nn.Module):
    """What a model does with a sampler: an argument of its constructor, an attribute, a submodule."""

    def __init__(self, sampler: LearnedMultistep) -> None:
        super().__init__()
        self.sampler = sampler


def test_it_is_saved_and_loaded_with_a_model(tmp_path):
    learned = disturbed(LearnedMultistep((1.0, 0.6, 0.3, 0.0), 3, NoiseClock(SCHEDULE, 0.5)))
    save_model(Holder(learned), tmp_path / "model", "a card")
    loaded, _ = load_model(tmp_path / "model", trusted=[Holder.__module__.split(".")[0]])
    again = loaded.sampler
    assert isinstance(again, LearnedMultistep)
    assert (again.grid, again.history, again.clock.power) == (learned.grid, 3, 0.5)
    flow = conformal()
    ends = [integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, s, s.controller()).x for s in (learned, again)]
    assert torch.equal(*ends)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "model", trusted=[Holder.__module__.split(".")[0]])


def test_a_model_samples_with_it_and_a_sampler_is_saved_on_its_own(tmp_path):
    M, process = Sphere(2), BrownianMotion(Sphere(2))
    model = RiemannianDiffusion(M, process, TangentMLP(process, width=8, depth=1, n_frequencies=4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(2)))
    flow = process.terms(model.network).flow
    fit = fit_multistep(flow, M, process.prior.sample(50, generator=seeded(1)), clock=NoiseClock(process.schedule))
    save_model(fit.solver, tmp_path / "sampler", "four steps")
    sampler, _ = load_model(tmp_path / "sampler")
    assert isinstance(sampler, LearnedMultistep)
    fine, few, adams = (
        model.sample(100, solver=solver, steps=steps, generator=seeded(3))
        for solver, steps in (
            (DormandPrince(), AdaptiveSteps()),
            (sampler, sampler.controller()),
            (GeodesicMultistep(2, NoiseClock(process.schedule)), 4),
        )
    )
    assert float(M.dist(few, fine).mean()) < float(M.dist(adams, fine).mean()) / 2


def test_single_precision_parameters_still_fit_their_own_steps():
    flow = conformal(dtype=torch.float32)
    learned = disturbed(LearnedMultistep((1.0, 0.7, 0.3, 0.0))).float()
    end = integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, learned, learned.controller()).x
    flow.manifold.check_point(end)


def test_bad_arguments_are_refused_with_the_fix():
    flow, learned = conformal(), LearnedMultistep((1.0, 0.5, 0.0))
    with pytest.raises(ConfigError, match=r"no step from t = 1\.0.*controller=learned\.controller\(\)"):
        integrate(flow.term, flow.manifold, flow.x, 1.0, 0.0, learned, ConstantSteps(3))
    with pytest.raises(ConfigError, match="history"):
        LearnedMultistep((1.0, 0.0), history=5)
    with pytest.raises(ConfigError, match="monotone"):
        LearnedMultistep((1.0, 0.5, 0.6, 0.0))
    for arguments, words in (
        ({"steps": "four"}, "number or a plan"),
        ({"steps": 0}, "n >= 1"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"teacher": flow.x[:3]}, "one end per point"),
        ({"x_1": flow.x[:0]}, "has none"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit_multistep(**{"term": flow.term, "manifold": flow.manifold, "x_1": flow.x, **arguments})
    with pytest.raises(ManifoldError, match="teacher"):
        fit_multistep(flow.term, flow.manifold, flow.x, teacher=2 * flow.x)


def test_what_is_not_finite_raises():
    flow = conformal()
    spoiled = ODETerm(lambda t, x: torch.where(t[..., None] < 0.5, math.nan, flow.term.velocity(t, x)))
    with pytest.raises(NumericsError, match="NaN or infinite"):
        fit_multistep(spoiled, flow.manifold, flow.x, teacher=flow.x)
    # Finite values whose derivative in t is not.
    kink = ODETerm(lambda t, x: flow.term.velocity((t - t.detach()).abs().sqrt(), x))
    with pytest.raises(NumericsError, match="gradient is not finite at trial 1"):
        fit_multistep(kink, flow.manifold, flow.x, teacher=flow.x)
