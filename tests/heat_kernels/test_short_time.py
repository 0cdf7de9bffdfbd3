"""Manifolds without an exact kernel: the order of the random walk, the range of the short-time score, training."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import ShortTimeKernel, geodesic_random_walk, heat_kernel
from manifold_diffusion.manifolds import SO3, Grassmann, Hyperboloid, Manifold, Sphere, Stiefel, gradient
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching, ImplicitScoreMatching
from manifold_diffusion.processes import BrownianMotion, LogSchedule

from .points import generator

F64 = torch.float64


def start(m: Manifold, n: int) -> Tensor:
    return m.origin(F64).expand(n, *m.point_shape)


# ---------------------------------------------------------------------- the random walk

MOMENTS = {
    "S^2, E x.y": (Sphere(2), lambda x, y: (x * y).sum(-1), lambda tau: math.exp(-tau)),
    "SO(3), E tr": (SO3(), lambda x, y: (x * y).sum((-2, -1)), lambda tau: 3 * math.exp(-tau)),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_the_random_walk_has_weak_order_one(name: str) -> None:
    """The error of a moment that is known exactly falls as the step, within what 5 standard errors allow."""
    m, moment, exact = MOMENTS[name]
    n, tau, steps = 200_000, 1.0, [2, 4, 8]
    errors, deviations = [], []
    for k in steps:
        x0 = start(m, n)
        value = moment(geodesic_random_walk(m, x0, torch.full((n,), tau, dtype=F64), k, generator=generator(k)), x0)
        errors.append(abs(float(value.mean()) - exact(tau)))
        deviations.append(float(value.std()) / math.sqrt(n))
    assert errors[0] > 20 * deviations[0]  # two steps are wrong, and are seen to be
    low, high = errors[-1] - 5 * deviations[-1], errors[-1] + 5 * deviations[-1]
    order = math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])
    assert all(abs(o - 1) < 0.35 for o in order)
    assert low < errors[0] / 4 * 1.3 and high > errors[0] / 4 / 1.3


# ---------------------------------------------------------------------- the expansion against exact kernels

BOUNDS = {  # root mean square error of the score, in the units of the noise: twice what docs/guide/heat-kernels.md has
    Sphere(2): {1e-4: 1.2e-10, 1e-3: 1.2e-8, 1e-2: 1.2e-6, 0.1: 1.2e-4, 0.3: 1.4e-3, 0.5: 6e-3, 1.0: 0.06},
    SO3(): {1e-4: 1e-12, 1e-3: 1e-12, 1e-2: 1e-12, 0.1: 1e-12, 0.3: 1.6e-5, 0.5: 0.06, 1.0: 0.36},
    Hyperboloid(2): {1e-4: 1.2e-10, 1e-3: 1.2e-8, 1e-2: 1.2e-6, 0.1: 1e-4, 0.3: 8e-4, 0.5: 2e-3, 1.0: 6e-3},
}


@pytest.mark.parametrize("m", BOUNDS, ids=repr)
def test_range_of_the_short_time_score(m: Manifold) -> None:
    n, exact, short = 10_000, heat_kernel(m), ShortTimeKernel(m)
    for tau, bound in BOUNDS[m].items():
        x0 = start(m, n)
        x = exact.sample(x0, tau, generator())
        truth = exact.score(x, x0, tau)

        def size(error: Tensor, x: Tensor = x, tau: float = tau) -> float:
            return float((m.inner(x, error, error).mean() * tau / m.dim).sqrt())

        assert size(short.score(x, x0, tau) - truth) <= bound, tau
        if tau <= 0.3:  # without the volume factor it is worse by far
            assert size(m.log(x, x0) / tau - truth) > 20 * bound, tau


@pytest.mark.parametrize("m", [Sphere(2), SO3()], ids=repr)
def test_log_density_lacks_a_term_of_the_order_of_tau(m: Manifold) -> None:
    n, tau = 1000, 0.01
    x0 = start(m, n)
    x = heat_kernel(m).sample(x0, tau, generator())
    error = ShortTimeKernel(m).log_prob(x, x0, tau) - heat_kernel(m).log_prob(x, x0, tau)
    assert 0.05 * tau < error.abs().max() < tau


@pytest.mark.parametrize("m", [Grassmann(4, 2), Stiefel(4, 2)], ids=repr)
def test_score_is_the_gradient_of_the_log_density(m: Manifold) -> None:
    n, tau, kernel = 6, 0.2, ShortTimeKernel(m, n_steps=10)
    x0 = start(m, n)
    x = kernel.sample(x0, tau, generator())
    score = kernel.score(x, x0, tau)
    m.check_tangent(x, score)
    slope = gradient(m, lambda p: kernel.log_prob(p, x0, tau), x)
    assert m.norm(x, score - slope).max() <= 1e-8 * m.norm(x, score).max()


def test_lines_have_the_score_of_the_sphere() -> None:
    n, tau = 500, 0.05
    m, sphere = Grassmann(3, 1), Sphere(2)
    x0 = start(sphere, n)
    x = heat_kernel(sphere).sample(x0, tau, generator())
    ours = ShortTimeKernel(m).score(x.unsqueeze(-1), x0.unsqueeze(-1), tau).squeeze(-1)
    error = sphere.norm(x, ours - heat_kernel(sphere).score(x, x0, tau)) * math.sqrt(tau)
    assert error.max() <= 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("m", [Sphere(2), Grassmann(4, 2), Stiefel(4, 2)], ids=repr)
def test_score_is_finite_at_coincident_and_far_points(m: Manifold, dtype: torch.dtype) -> None:
    x0 = m.origin(dtype)
    x = torch.cat(
        [x0.unsqueeze(0), m.project(-x0).unsqueeze(0), m.random_uniform(20, generator=generator(), dtype=dtype)]
    )
    score = ShortTimeKernel(m).score(x, x0, 2.0)
    assert bool(torch.isfinite(score).all())


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize("m", [Grassmann(4, 2), pytest.param(Stiefel(4, 2), marks=pytest.mark.slow)], ids=repr)
def test_short_time_scores_train_a_model_that_has_a_likelihood(m: Manifold, tmp_path: Path) -> None:
    x0 = m.exp(m.origin().expand(128, *m.point_shape), 0.2 * m.random_tangent(start(m, 128).float(), generator()))
    process = BrownianMotion(m, LogSchedule(1e-2, 6.0), n_steps=10, target="short_time")
    assert process.has_target
    model = RiemannianDiffusion(m, process, TangentMLP(process, width=32, n_frequencies=16))
    assert isinstance(model.objective, DenoisingScoreMatching)
    result = model.fit(x0, max_steps=30, batch_size=32, lr=5e-3, log_every=1, progress=False)
    losses = [row.train_loss for row in result.history if row.train_loss is not None]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    log_p = model.log_prob(x0[:4], tolerance=0.3)
    assert log_p.mean() > -math.log(m.volume)  # better than the uniform law
    model.save_pretrained(tmp_path / "model")
    again = RiemannianDiffusion.from_pretrained(tmp_path / "model")
    assert again.process.target == "short_time"


def test_without_a_target_the_walk_trains_implicitly() -> None:
    process = BrownianMotion(Grassmann(4, 2), n_steps=5)
    assert not process.has_target
    assert isinstance(RiemannianDiffusion(Grassmann(4, 2), process).objective, ImplicitScoreMatching)
    with pytest.raises(CapabilityError, match="ImplicitScoreMatching"):
        DenoisingScoreMatching(process)


def test_simulated_mismatch_sees_a_walk_that_has_not_mixed() -> None:
    m = Grassmann(4, 2)
    x0 = start(m, 1000)
    short, long = (BrownianMotion(m, LogSchedule(1e-3, tau), n_steps=20) for tau in (0.2, 6.0))
    mismatch = short.prior_mismatch(x0, generator())
    assert mismatch.kl > 20 * mismatch.standard_error
    mismatch = long.prior_mismatch(x0, generator())
    assert mismatch.kl < 5 * mismatch.standard_error


def test_bad_parts_are_refused_with_the_alternative() -> None:
    with pytest.raises(CapabilityError, match=r"n_steps=100.*target='short_time' by DenoisingScoreMatching"):
        BrownianMotion(Grassmann(4, 2))
    with pytest.raises(ConfigError, match="target must be None or 'short_time'"):
        BrownianMotion(Sphere(2), target="short_time")
    with pytest.raises(ConfigError, match="target must be None or 'short_time'"):
        BrownianMotion(Sphere(2), n_steps=3, target="exact")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="n_steps >= 1"):
        ShortTimeKernel(Sphere(2), 0)

    class Bare(Manifold):
        inner = to_tangent = exp = log = lambda self, x, *v: v[-1]
        project = lambda self, x: x  # noqa: E731

    with pytest.raises(CapabilityError, match=r"Langevin.* has a wrapped normal as its prior"):
        BrownianMotion(Bare(2, (2,)), n_steps=3)
