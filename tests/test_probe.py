"""All diagnostics of a model at once: models of which it is known what they do, and the parts that some lack."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from manifold_diffusion import AnalyticDiffusion, LearnedKernelDensity, RiemannianDiffusion, RiemannianFlow
from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Euclidean, Product, Sphere, Torus
from manifold_diffusion.metrics import intrinsic_dimension
from manifold_diffusion.models import probe
from manifold_diffusion.models.noise_time import heat_time, noise_level
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, Langevin, LogSchedule, ProductProcess

S2 = Sphere(2)
SHORT = {"n_samples": 300, "n_points": 30, "n_levels": 5, "n_regions": 6, "path_steps": 16}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def truth(spread=1.0, weights=(3.0, 2.0, 1.0)):
    return HeatKernelMixture(S2, torch.eye(3), spread * torch.tensor([0.05, 0.1, 0.02]), torch.tensor(weights))


class Exact(nn.Module):
    """The score of a mixture of heat kernels, as a network."""

    def __init__(self, process, law):
        super().__init__()
        self.process, self.law = process, law
        self.register_buffer("like", torch.zeros(1))

    def forward(self, t, x, cond=None):
        return self.process.scale(t) * self.law.score(x, self.process.schedule.tau(t))


def exact_model(law):
    process = BrownianMotion(S2, LogSchedule(1e-5, 14.0))
    return RiemannianDiffusion(S2, process, Exact(process, law))


@pytest.fixture(scope="module")
def points():
    return truth().sample(600, generator=generator()).split(300)


def test_a_model_that_memorises_is_caught(points):
    train, held_out = points
    found = probe(AnalyticDiffusion(S2, train, BrownianMotion(S2, LogSchedule(1e-6, 14.0))), train, held_out, **SHORT)
    assert found.memorisation.z > 15 and found.memorisation.auc.value > 0.95
    assert found.memorisation.auc.value == pytest.approx(found.copies.auc.value, abs=0.02)
    assert found.density.test.p_value < 1e-6 and found.density.coverage(0.9) < 0.5
    assert float(found.train_dimension.median[0]) < 0.2 and float(found.held_out_dimension.median[0]) > 10
    assert float(found.effective_size.median[0]) == pytest.approx(1, abs=0.01)
    assert 1e-4 < found.effective_size.crossing(2.0) < 1
    assert not found.skipped


def test_the_true_law_passes(points):
    train, held_out = points
    found = probe(exact_model(truth()), train, held_out, **SHORT)
    assert abs(found.memorisation.z) < 4 and found.copies.z > 10
    assert found.regions.p_value > 1e-3 and found.density.test.p_value > 1e-3
    for profile in (found.train_dimension, found.held_out_dimension):
        assert float((profile.values[0] - 2).abs().max()) < 0.02  # a smooth density
        assert float((profile.values[-1] - 2).abs().max()) < 0.01  # uniform
        assert float(profile.median[2]) < 1.95  # clusters
    assert found.mismatch.kl < 1e-4 and found.noise.manifold.gap == pytest.approx(1.0)
    assert found.noise.chi_square == pytest.approx(3 * math.exp(-28), rel=1e-3)
    assert found.paths.excess.value > 0 and found.paths.quadrature_error < 0.2 * found.paths.excess.value


@pytest.mark.slow
def test_a_wrong_law_fails(points):
    found = probe(exact_model(truth(4.0, (1.0, 1.0, 4.0))), *points, **SHORT)
    assert found.memorisation.z < -4 and found.regions.p_value < 1e-6 and found.density.test.p_value < 1e-6


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(points):
    model = AnalyticDiffusion(S2, points[0])
    a, b = (probe(model, *points, **SHORT, generator=generator(4)) for _ in range(2))
    assert torch.equal(a.samples, b.samples) and a.memorisation.z == b.memorisation.z
    assert torch.equal(a.effective_size.values, b.effective_size.values)
    assert torch.equal(a.paths.energy, b.paths.energy)


def test_a_flow_has_no_noise_levels_and_says_so(points):
    model = RiemannianFlow(S2, network=TangentMLP(GeodesicFlow(S2), width=8, depth=1, n_frequencies=4))
    names = []
    found = probe(model, *points, **{**SHORT, "n_samples": 40}, report=names.append)
    assert found.held_out_dimension is None and found.noise is None and found.effective_size is None
    assert set(found.skipped) == {"held_out_dimension", "train_dimension", "effective_size", "noise"}
    assert "velocity, not a score" in found.skipped["effective_size"]
    assert len(names) == 8 and found.mismatch.kl == 0.0


def test_a_conditional_model_is_probed_at_one_condition(points):
    process = BrownianMotion(S2)
    network = TangentMLP(process, width=8, depth=1, n_frequencies=4, cond_dim=2)
    model, few = RiemannianDiffusion(S2, process, network), {**SHORT, "n_samples": 40, "n_points": 5}
    found = probe(model, *points, **few, cond=torch.zeros(2))
    assert found.held_out_dimension.values.shape == (5, 5) and len(found.samples) == 40
    with pytest.raises(ConfigError, match="cond_dim=2"):
        probe(model, *points, **few)


def test_few_points_leave_out_the_regions(points):
    few = {**SHORT, "n_samples": 6, "path_steps": 4}
    found = probe(AnalyticDiffusion(S2, points[0]), points[0], points[1][:4], **few)
    assert found.regions is None and "too few" in found.skipped["regions"]


def test_equal_training_points_leave_out_the_regions(points):
    few = {**SHORT, "n_samples": 20, "n_points": 3, "path_steps": 4}
    found = probe(AnalyticDiffusion(S2, points[0]), points[0][:1].expand(9, 3), points[1], **few)
    assert found.regions is None and "equal" in found.skipped["regions"]


def test_paths_that_diverge_are_left_out(points, monkeypatch):
    def diverge(*args):
        raise NumericsError("not finite")

    model, few = AnalyticDiffusion(S2, points[0]), {**SHORT, "n_samples": 20, "n_points": 3, "path_steps": 4}
    monkeypatch.setattr(model, "velocity", diverge)
    found = probe(model, *points, **few)
    assert found.paths is None and "raise path_steps. not finite" in found.skipped["paths"]


def test_bad_input_is_refused_before_work(points):
    model = AnalyticDiffusion(S2, points[0])
    with pytest.raises(CapabilityError, match="a LearnedKernelDensity has none"):
        probe(LearnedKernelDensity(S2, points[0]), *points)
    for options, word in (
        ({"n_samples": 1}, "n_samples"),
        ({"n_levels": 1}, "n_levels"),
        ({"path_steps": 6}, "multiple of 4"),
        ({"cond": torch.zeros(1)}, "cond_dim=0"),
    ):
        with pytest.raises(ConfigError, match=word):
            probe(model, *points, **{**SHORT, **options})
    with pytest.raises(ManifoldError, match="held_out"):
        probe(model, points[0], 2 * points[1])
    with pytest.raises(DataError, match="train"):
        probe(model, points[0][:1], points[1])


# ---------------------------------------------------------------------- noise of processes


def test_dimension_under_langevin_noise_is_that_of_brownian_motion_of_the_same_data():
    """x_t = m b, b at Brownian time (1 / m^2 - 1) sigma^2: the same answer at the same tau."""
    M, x = Euclidean(2), torch.tensor([[0.5, 0.0], [-1.0, 0.3]], dtype=torch.float64)
    process = Langevin(M, LogSchedule(1e-3, 3.0), sigma=0.7)
    model = AnalyticDiffusion(M, torch.randn(20, 2, generator=generator(), dtype=torch.float64), process)
    t = torch.tensor(0.7, dtype=torch.float64)
    noise = noise_level(process, t)
    found = intrinsic_dimension(M, lambda p: model.score(p, t), noise.scale * x, noise.variance)
    law = HeatKernelMixture(M, model.network.points, 0.0)
    assert torch.allclose(found, intrinsic_dimension(M, lambda p: law.score(p, noise.tau), x, noise.tau), atol=1e-4)
    assert not torch.allclose(found, intrinsic_dimension(M, lambda p: law.score(p, 2 * noise.tau), x, noise.tau))


@pytest.mark.parametrize("weights", [None, (2.0, 0.5)])
def test_dimension_on_a_product_is_the_sum_of_its_factors(weights):
    """Independent factors, each with its own clock: a point mass on the torus (0) and a law on the sphere."""
    factors = BrownianMotion(S2, LogSchedule(1e-3, 8.0)), BrownianMotion(Torus(1), LogSchedule(1e-5, 2.0))
    process, t = ProductProcess(*factors, weights=weights), torch.tensor(0.3, dtype=torch.float64)
    laws = (
        HeatKernelMixture(S2, torch.eye(3, dtype=torch.float64), 0.0),
        HeatKernelMixture(Torus(1), torch.zeros(1, 1, dtype=torch.float64), 0.0),
    )
    M, taus = process.manifold, [float(p.schedule.tau(t)) for p in factors]
    assert isinstance(M, Product)

    def score(p):  # the gradient in the weighted metric is that of the factor over its weight
        parts = zip(laws, M.split(p), taus, M.weights, strict=True)
        return M.join(*[law.score(y, tau) / w for law, y, tau, w in parts])

    x = M.join(torch.eye(3, dtype=torch.float64)[:2], torch.tensor([[0.0], [0.02]], dtype=torch.float64))
    noise = noise_level(process, t)
    each = [
        intrinsic_dimension(f, lambda p, law=law, tau=tau: law.score(p, tau), y, tau)
        for f, law, y, tau in zip(M.factors, laws, M.split(x), taus, strict=True)
    ]
    assert torch.allclose(intrinsic_dimension(M, score, noise.scale * x, noise.variance), sum(each), atol=1e-6)
    assert noise.tau == pytest.approx(math.exp((2 * math.log(taus[0]) + math.log(taus[1])) / 3), rel=1e-6)


def test_a_product_with_one_clock_per_factor_is_probed():
    M = Product(Torus(1), Torus(1))
    process = ProductProcess(*[BrownianMotion(Torus(1), LogSchedule(1e-3, 10.0)) for _ in range(2)])
    network = TangentMLP(process, width=8, depth=1, n_frequencies=4)
    train, held_out = (M.random_uniform(60, generator=generator(k)) for k in (0, 1))
    found = probe(RiemannianDiffusion(M, process, network), train, held_out, **{**SHORT, "n_samples": 40})
    assert float(found.effective_size.median[-1]) == pytest.approx(60, rel=1e-2)
    assert 1 <= float(found.effective_size.median[0]) < 3
    assert "one clock" in found.skipped["noise"]


def test_simulated_langevin_is_no_brownian_motion():
    with pytest.raises(CapabilityError, match="simulated"):
        heat_time(Langevin(S2), torch.ones(1))
