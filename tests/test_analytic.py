"""The closed-form model is the limit of a trained one: samplers, likelihoods and guidance take it as it is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manifold_diffusion import AnalyticDiffusion
from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, ManifoldError
from manifold_diffusion._typing import Batch
from manifold_diffusion.heat_kernels import HeatKernelMixture, NoisedData
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.metrics import HeatGram, mmd_permutation_test
from manifold_diffusion.models import AnalyticScore
from manifold_diffusion.processes import BrownianMotion, HeatPrior, Langevin, LogSchedule, ProductProcess
from manifold_diffusion.solvers import MixtureReverse, PredictorCorrector, ReverseSDE, sample_psi, sample_twisted

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(M: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    origin = M.origin(dtype=F64).expand(n, *M.point_shape)
    return M.exp(origin, 0.7 * M.random_tangent(origin, generator=generator(seed))).to(dtype)


def nearest(M: Manifold, x: Tensor, points: Tensor) -> Tensor:
    return M.dist(x.unsqueeze(1), points).amin(1)


@pytest.mark.parametrize("M", [Sphere(2), Euclidean(2)], ids=repr)
@pytest.mark.parametrize("method", ["exact", "ode", "sde"])
def test_without_noise_samples_are_training_points(M: Manifold, method: str) -> None:
    points, tau = spread(M, 6), 1e-6
    process = BrownianMotion(M, LogSchedule(tau, 8.0)) if M == Sphere(2) else Langevin(M, LogSchedule(tau, 12.0))
    model = AnalyticDiffusion(M, points, process)
    x = model.sample(40, method=method, steps={"exact": None, "ode": 40, "sde": 300}[method], generator=generator())
    away = nearest(M, x, points)
    assert (
        float(away.max()) < (8 if method == "exact" else 20) * tau**0.5
    )  # a walk ends with the noise of its last step
    assert len(torch.unique(M.dist(x.unsqueeze(1), points).argmin(1))) >= 4
    noisier = AnalyticDiffusion(M, points, BrownianMotion(M, LogSchedule(1e-2, 8.0)))
    assert float(nearest(M, noisier.sample(40, generator=generator()), points).max()) > 20 * tau**0.5


@pytest.mark.parametrize("method", ["ode", "sde"])
def test_samples_are_those_of_the_kernel_density(method: str) -> None:
    M, n = Sphere(2), 600
    points = spread(M, 6)
    model = AnalyticDiffusion(M, points, BrownianMotion(M, LogSchedule(0.05, 10.0)))
    x = model.sample(n, method=method, steps=15 if method == "ode" else 60, generator=generator(1))

    def z(tau: float) -> float:
        y = HeatKernelMixture(M, points, tau).sample(n, generator=generator(2))
        result = mmd_permutation_test(x, y, HeatGram(M, taus=(0.05,)), n_permutations=100, generator=generator(3))
        return (result.mmd2 - result.null_mean) / result.null_std

    assert z(0.05) < 5
    assert z(0.2) > 5


@pytest.mark.parametrize(
    ("M", "evaluator"),
    [
        (Sphere(2), "auto"),
        (Euclidean(2), "auto"),
        *[pytest.param(M, "golden", marks=pytest.mark.slow) for M in (Sphere(2), Torus(2), Euclidean(2))],
        pytest.param(Sphere(2), "spectral", marks=pytest.mark.slow),
        pytest.param(SO3(), "auto", marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_likelihood_through_the_flow_is_the_closed_form(M: Manifold, evaluator: str) -> None:
    points = spread(M, 20)
    process = Langevin(M, LogSchedule(0.05, 20.0)) if M == Euclidean(2) else BrownianMotion(M, LogSchedule(0.05, 25.0))
    model = AnalyticDiffusion(M, points, process, evaluator=evaluator, rtol=1e-5)
    x = model.sample(3, generator=generator())
    closed = model.log_prob(x)
    torch.testing.assert_close(model.likelihood(x, tolerance=1e-5).log_prob, closed, rtol=0, atol=1e-4)
    if M != Euclidean(2):
        torch.testing.assert_close(closed, HeatKernelMixture(M, points, 0.05).log_prob(x), rtol=1e-5, atol=1e-5)


def test_scores_are_those_of_the_process() -> None:
    # Ornstein-Uhlenbeck: a mixture of normals about m x_i of variance s^2.
    M, process = Euclidean(2), Langevin(Euclidean(2), sigma=2.0)
    points, x, t = spread(M, 7), spread(M, 4, 1), torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=F64)
    model = AnalyticDiffusion(M, points, process)
    y = x.clone().requires_grad_()
    log_p = torch.logsumexp(process.log_transition(y.unsqueeze(1), points, t.unsqueeze(1)), 1) - torch.tensor(7.0).log()
    (slope,) = torch.autograd.grad(log_p.sum(), y)
    torch.testing.assert_close(model.network.log_prob(x, t), log_p.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.score(x, t), slope, rtol=1e-6, atol=1e-6)
    expected = process.velocity(process.scale(t) * slope, x, t)
    torch.testing.assert_close(model.velocity(x, t), expected, rtol=1e-6, atol=1e-6)


def test_nothing_has_a_smaller_loss() -> None:
    M = Sphere(2)
    points = spread(M, 20)
    model = AnalyticDiffusion(M, points)
    batch = Batch(points.repeat(20, 1))

    def loss(factor: float) -> float:
        def network(t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
            return factor * model.network(t, x, cond)

        return float(model.objective.loss(network, batch, generator(3)))

    assert loss(1.0) < min(loss(0.8), loss(1.2))


@pytest.mark.parametrize("M", [Sphere(2), Euclidean(2), Hyperboloid(2), Product(Sphere(2), Torus(1))], ids=repr)
def test_saved_models_are_the_same_to_the_bit(M: Manifold, tmp_path: Path) -> None:
    dtype = F64 if M == Sphere(2) else torch.float32
    data = NoisedData(M, M.project(spread(M, 10, dtype=dtype)), torch.arange(1.0, 11.0))
    model = AnalyticDiffusion(M, data, rtol=2e-3)
    model.save_pretrained(tmp_path, {"data": "ten points"})
    again = AnalyticDiffusion.from_pretrained(tmp_path)
    x = model.sample(4, generator=generator())
    assert x.dtype == dtype and torch.equal(x, again.sample(4, generator=generator()))
    assert torch.equal(model.log_prob(x), again.log_prob(x))
    assert torch.equal(model.score(x, 0.3), again.score(x, 0.3))
    assert torch.equal(again.network.weights, model.network.weights) and again.rtol == 2e-3
    assert torch.equal(model.process.prior.log_prob(x), again.process.prior.log_prob(x))
    assert "ten points" in (tmp_path / "README.md").read_text()


def test_a_removed_point_leaves_no_trace(tmp_path: Path) -> None:
    M, points = Sphere(2), spread(Sphere(2), 30)
    model, fresh = AnalyticDiffusion(M, points), AnalyticDiffusion(M, points[1:])
    x = fresh.sample(6, generator=generator())
    assert float((model.log_prob(x) - fresh.log_prob(x)).abs().max()) > 1e-9
    model.remove(torch.tensor([0]))
    torch.testing.assert_close(model.log_prob(x), fresh.log_prob(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.score(x, 0.5), fresh.score(x, 0.5), rtol=1e-12, atol=1e-12)
    assert model.data == 29 and torch.equal(model.state_dict()["network.points"], points[1:])
    model.add(points[:1])
    model.save_pretrained(tmp_path)
    assert torch.equal(AnalyticDiffusion.from_pretrained(tmp_path).log_prob(x), model.log_prob(x))


def test_a_state_that_is_loaded_is_used() -> None:
    M = Sphere(2)
    model, other = AnalyticDiffusion(M, spread(M, 10)), AnalyticDiffusion(M, spread(M, 10, 1))
    x = model.sample(4, generator=generator())
    before = model.log_prob(x)
    model.load_state_dict(other.state_dict())
    assert torch.equal(model.log_prob(x), other.log_prob(x)) and not torch.equal(model.log_prob(x), before)
    assert model.float().sample(3, generator=generator()).dtype == torch.float32


@pytest.mark.slow
def test_psi_samplers_and_guidance_take_it() -> None:
    M, points = Sphere(2), spread(Sphere(2), 5)
    process = BrownianMotion(M, LogSchedule(1e-4, 8.0))
    model = AnalyticDiffusion(M, points, process)
    start = process.prior.sample(20, generator=generator(), dtype=F64)
    walk = PredictorCorrector(process, ReverseSDE(process, model.network, max_step=0.02))
    exact = PredictorCorrector(process, MixtureReverse(process, HeatKernelMixture(M, points, 0.0)))
    for kernel in (walk, exact):
        x = sample_psi(kernel, start, 4, kappa=0.9, generator=generator(1))
        assert float(nearest(M, x, points).max()) < 0.1

    def near_the_third(x: Tensor) -> Tensor:
        return -M.dist(x, points[2]).square() / (2 * 0.05**2)

    drawn = sample_twisted(
        process, model.network, near_the_third, 4, 32, steps=100, width=0.05**2, dtype=F64, generator=generator(2)
    ).draw(generator(3))
    assert float(M.dist(drawn, points[2]).max()) < 0.1


def test_what_it_refuses() -> None:
    M, points = Sphere(2), spread(Sphere(2), 3)
    model = AnalyticDiffusion(M, points)
    with pytest.raises(CapabilityError, match="nothing to train"):
        model.fit(points)
    with pytest.raises(CapabilityError, match="BrownianMotion"):
        AnalyticDiffusion(Product(M, M), torch.cat([points, points], 1), ProductProcess(*[BrownianMotion(M)] * 2))
    with pytest.raises(CapabilityError, match="n_steps"):
        AnalyticScore(BrownianMotion(M, n_steps=5), points)
    with pytest.raises(ManifoldError, match="project"):
        AnalyticDiffusion(M, 2 * points)
    with pytest.raises(DataError, match=">= 1"):
        AnalyticDiffusion(M, 0)
    with pytest.raises(ConfigError, match="belong to"):
        AnalyticDiffusion(M, NoisedData(Sphere(3), torch.eye(4)))
    with pytest.raises(ConfigError, match="condition"):
        model.sample(2, cond=torch.zeros(2))
    with pytest.raises(ConfigError, match="'ode'"):
        model.sample(2, steps=5)
    assert model.sample(0).shape == (0, 3)


@pytest.mark.parametrize("M", [Euclidean(2), Torus(1)], ids=repr)
def test_cross_validation_stops_where_left_out_points_are_likeliest(M: Manifold) -> None:
    points = spread(M, 40)
    model = AnalyticDiffusion.cross_validated(M, points)
    schedule = model.process.schedule

    def left_out(tau: float) -> float:
        schedule = LogSchedule(tau, 10.0)
        values = [
            AnalyticDiffusion(M, torch.cat([points[:i], points[i + 1 :]]), BrownianMotion(M, schedule))
            .log_prob(points[i : i + 1])
            for i in range(len(points))
        ]  # fmt: skip
        return float(torch.cat(values).mean())

    best = left_out(schedule.tau_min)
    assert all(left_out(schedule.tau_min * factor) < best for factor in (0.5, 0.8, 1.25, 2.0))
    x = model.sample(5, method="ode", steps=5, generator=generator())
    M.check_point(x)
    assert torch.allclose(model.log_prob(x), NoisedData(M, points).log_prob(x, schedule.tau_min), atol=1e-6)


def test_cross_validation_on_uniform_points_stays_below_mixing() -> None:
    M = Torus(1)  # validation points opposite to the others: the wider the kernels the better
    points = torch.linspace(-0.5, 0.5, 20, dtype=F64)[:, None]
    schedule = AnalyticDiffusion.cross_validated(M, points, M.project(points + torch.pi)).process.schedule
    assert schedule.tau_min == schedule.tau_max / 2


def test_weights_reach_the_prior_of_an_open_space() -> None:
    M = Hyperboloid(2)
    origin = M.origin(dtype=F64)
    step = 3 * M.tangent_basis(origin)[0]
    ends = torch.stack([M.exp(origin, step), M.exp(origin, -step)])
    model = AnalyticDiffusion(M, NoisedData(M, ends, torch.tensor([0.9, 0.1])))
    x = model.sample(2000, method="ode", steps=50, generator=generator())
    near = (M.dist(x, ends[0]) < M.dist(x, ends[1])).double()
    assert abs(float(near.mean()) - 0.9) < 5 * (0.09 / 2000) ** 0.5
    prior = model.process.prior
    assert isinstance(prior, HeatPrior)
    prior.load_state_dict({"centres": prior.centres})  # a state without weights


def test_more_weighted_points_than_centres_are_drawn_by_weight() -> None:
    M, w = Euclidean(1), torch.tensor([3.0, 1.0]).repeat(500)
    prior = HeatPrior(M, 1.0, 200)
    prior.fit(torch.tensor([[1.0], [-1.0]]).repeat(500, 1), generator(), w)
    assert abs(float((prior.centres > 0).double().mean()) - 0.75) < 5 * (0.1875 / 200) ** 0.5
    assert bool((prior.weights == 1).all())


def test_options_of_the_data_are_those_of_the_model() -> None:
    M = Sphere(2)
    data = NoisedData(M, spread(M, 10), evaluator="full", rtol=1e-8)
    model = AnalyticDiffusion(M, data)
    assert (model.evaluator, model.rtol) == (model.network.law.evaluator, model.network.law.rtol) == ("full", 1e-8)
    assert AnalyticDiffusion(M, data, evaluator="golden").evaluator == "golden"
    with pytest.raises(DataError, match="NoisedData"):
        AnalyticDiffusion.cross_validated(M, data)  # pyright: ignore[reportArgumentType]


def test_a_model_of_inference_mode_can_be_used_and_changed() -> None:
    M = Sphere(2)
    with torch.inference_mode():
        model = AnalyticDiffusion(M, spread(M, 50))
        model.add(spread(M, 2, 1))
        model.to(torch.float32)
        assert model.log_prob(spread(M, 3, 2, torch.float32)).isfinite().all()
    assert model.data == 52 and not model.network.points.is_inference()


def test_a_model_is_copied_after_its_likelihood_and_loaded_in_inference_mode(tmp_path: Path) -> None:
    model = AnalyticDiffusion(Sphere(2), spread(Sphere(2), 200))
    x = model.sample(4, generator=generator())
    model.likelihood(x)  # by forward derivatives, which nothing that is kept has a part in
    known = model.log_prob(x)
    torch.testing.assert_close(copy.deepcopy(model).log_prob(x), known)
    model.save_pretrained(tmp_path)
    with torch.inference_mode():
        loaded, copied = AnalyticDiffusion.from_pretrained(tmp_path), copy.deepcopy(model)
        torch.testing.assert_close(copied.log_prob(x), known)
    torch.testing.assert_close(loaded.score(x, 0.5), model.score(x, 0.5), rtol=1e-3, atol=1e-3)  # its own evaluator


def test_centres_of_a_prior_have_the_weight_of_the_data_however_many_there_are() -> None:
    M = Hyperboloid(3)
    for n in (200, 128):
        prior = HeatPrior(M, 1.0, n_centres=256)
        prior.fit(spread(M, n), generator())
        mass = torch.zeros(n, dtype=F64).index_add(
            0, M.dist(prior.centres.unsqueeze(1), spread(M, n)).argmin(1), prior.weights
        )
        torch.testing.assert_close(mass, mass[:1].expand(n))
