"""The driver: batch shapes, trajectories, gradients, and memory that does not grow with the steps."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor

from manifold_diffusion.manifolds import SO3, Euclidean, Sphere
from manifold_diffusion.processes import ODETerm, SDETerm
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ConstantSteps,
    DormandPrince,
    GeodesicEuler,
    GeodesicEulerMaruyama,
    GeodesicMultistep,
    GeodesicRK4,
    integrate,
    log_likelihood,
)

from .flows import NORTH, conformal, seeded, uniform_log_prob


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


@pytest.mark.parametrize("kind", ["ode", "multistep", "sde", "likelihood"])
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
        elif kind == "multistep":
            integrate(ODETerm(field), M, x, 0.0, 1.0, GeodesicMultistep(3), ConstantSteps(n))
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
