"""The whole: a model with the exact score reproduces the exact law; a trained one comes close."""

import copy

import pytest
import torch
from torch import nn

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Product, Sphere, Torus
from manifold_diffusion.metrics import HeatGram, ks_uniform, mmd_permutation_test
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, HeatPrior, LogSchedule, default_process
from manifold_diffusion.training import ManifoldDataModule

SPACES = [Sphere(2), Torus(2), SO3(), Hyperboloid(2)]


class Oracle(nn.Module):
    """The exact scaled score of noised mixture data."""

    def __init__(self, process, law):
        super().__init__()
        self.process, self.law = process, law

    def forward(self, t, x, cond=None):
        return self.process.scale(t) * self.law.score(x, self.process.schedule.tau(t))


def oracle_model(manifold):
    generator = torch.Generator().manual_seed(3)
    origin = manifold.origin(torch.float64).expand(3, *manifold.point_shape)
    centres = manifold.exp(origin, manifold.random_tangent(origin, generator=generator))
    law = HeatKernelMixture(manifold, centres, 0.1)
    schedule = LogSchedule(1e-3, 8.0 if isinstance(manifold, Hyperboloid) else 16.0)
    process = BrownianMotion(manifold, schedule)
    if isinstance(process.prior, HeatPrior):
        process.prior = HeatPrior(
            manifold, schedule.tau_max + 0.1, 3
        )  # the terminal law of the mixture is a mixture again
        process.prior.centres.copy_(centres)
    process.double()
    network = Oracle(process, law)
    network.register_buffer("dtype_of_the_model", torch.zeros((), dtype=torch.float64))
    return RiemannianDiffusion(manifold, process, network), law


@pytest.mark.parametrize("manifold", SPACES, ids=repr)
def test_likelihood_of_the_exact_score_is_exact(manifold):
    model, law = oracle_model(manifold)
    x = law.sample(40, 1e-3, generator=torch.Generator().manual_seed(0))
    expected = law.log_prob(x, 1e-3)
    assert (model.log_prob(x, tolerance=1e-5) - expected).abs().max() < 1e-3


QUICK = (Sphere(2), "ode"), (Sphere(2), "sde"), (SO3(), "ode")
SAMPLERS = [
    pytest.param(m, method, id=f"{m}-{method}", marks=[] if (m, method) in QUICK else [pytest.mark.slow])
    for m in SPACES
    for method in ("ode", "sde")
]


@pytest.mark.parametrize(("manifold", "method"), SAMPLERS)
def test_samples_of_the_exact_score_follow_the_law(manifold, method):
    model, law = oracle_model(manifold)
    n = 1500
    x = model.sample(n, method=method, steps=20 if method == "ode" else 200, generator=torch.Generator().manual_seed(0))
    truth = law.sample(n, 1e-3, generator=torch.Generator().manual_seed(1))
    manifold.check_point(x)
    result = mmd_permutation_test(x, truth, HeatGram(manifold), generator=torch.Generator().manual_seed(2))
    assert result.p_value > 1e-3
    wider = law.sample(
        n, 0.1, generator=torch.Generator().manual_seed(1)
    )  # negative control: a little more noise is seen
    assert mmd_permutation_test(x, wider, HeatGram(manifold), generator=torch.Generator().manual_seed(2)).p_value < 0.01


def test_samples_come_with_their_density():
    model, law = oracle_model(Sphere(2))
    drawn = model.sample_with_log_prob(50, tolerance=1e-5, generator=torch.Generator().manual_seed(0))
    assert (drawn.log_prob - law.log_prob(drawn.x, 1e-3)).abs().max() < 1e-3


def test_hutchinson_likelihood_has_an_error_bar():
    model, law = oracle_model(Sphere(2))
    x = law.sample(64, 1e-3, generator=torch.Generator().manual_seed(0))
    result = model.likelihood(x, estimator="hutchinson", n_probes=8, generator=torch.Generator().manual_seed(0))
    z = (result.log_prob - law.log_prob(x, 1e-3)) / result.standard_error
    assert abs(z.mean()) < 5 / 8 and 0.5 < z.std() < 2.5


@pytest.mark.parametrize(
    "manifold", [*SPACES, Euclidean(2), pytest.param(Product(SO3(), Euclidean(2)), marks=pytest.mark.slow)], ids=repr
)
def test_sampling_contract(manifold):
    model = RiemannianDiffusion(manifold, network=None)
    nn.init.normal_(model.network.head.weight, std=0.01, generator=torch.Generator().manual_seed(0))
    steps = 40 if isinstance(manifold, Hyperboloid) else 3  # a few giant steps would leave the range of float32 there
    for method in ("ode", "sde"):
        a, b = (
            model.sample(7, method=method, steps=steps, generator=torch.Generator().manual_seed(5)) for _ in range(2)
        )
        assert torch.equal(a, b)
        path = model.sample(
            7, method=method, steps=steps, generator=torch.Generator().manual_seed(5), return_trajectory=True
        )
        assert path.shape == (steps + 1, 7, *manifold.point_shape) and torch.equal(path[-1], a)
        manifold.check_point(path)
        assert model.sample(0, method=method, steps=3).shape == (0, *manifold.point_shape)
    x = model.sample(5, steps=steps, generator=torch.Generator().manual_seed(5))
    whole, parts = (model.log_prob(x, batch_size=size, tolerance=1e-4) for size in (5, 2))
    assert torch.allclose(whole, parts, atol=1e-2)
    assert model.score(x, 0.5).shape == model.velocity(x, 0.5).shape == x.shape


def test_training_learns_a_known_density():
    """After a short training the held-out likelihood is close to that of the truth."""
    sphere = Sphere(2)
    _, law = oracle_model(sphere)
    train, test = (law.sample(n, generator=torch.Generator().manual_seed(s)).float() for n, s in ((4000, 0), (400, 1)))
    process = BrownianMotion(sphere, LogSchedule(1e-3, 7.0))
    model = RiemannianDiffusion(sphere, process, TangentMLP(process, width=64, n_frequencies=64))
    result = model.fit(train, max_steps=600, batch_size=256, progress=False)
    assert result.steps == 600
    gap = law.log_prob(test.double(), 1e-3).mean() - model.log_prob(test).mean()
    assert -0.05 < gap < 0.15
    assert "KL" in model.metadata["prior mismatch"]


def test_conditional_training_uses_the_condition():
    circle = Torus(1)
    generator = torch.Generator().manual_seed(0)
    cond = torch.randint(2, (2000, 1), generator=generator).float()
    x = circle.exp(torch.where(cond > 0, 1.5, -1.5), 0.2 * torch.randn(2000, 1, generator=generator))
    process = default_process(circle, 1e-3)
    model = RiemannianDiffusion(circle, process, TangentMLP(process, width=64, n_frequencies=64, cond_dim=1))
    model.fit(x, cond=cond, max_steps=1000, batch_size=256, progress=False)
    for value, mean in ((1.0, 1.5), (0.0, -1.5)):
        y = model.sample(300, cond=torch.tensor([value]), generator=generator)
        assert (circle.dist(y, torch.full_like(y, mean)) < 0.8).float().mean() > 0.95
    with pytest.raises(ConfigError, match="rows"):
        model.sample(3, cond=torch.zeros(2, 1))


def test_prior_fits_the_data_of_a_noncompact_manifold():
    manifold = Hyperboloid(2)
    origin = manifold.origin().expand(1000, 3)
    x = manifold.exp(origin, 0.5 * manifold.random_tangent(origin, generator=torch.Generator().manual_seed(0)))
    model = RiemannianDiffusion(manifold, network=None)
    model.fit(x, max_steps=5, progress=False)
    assert not torch.equal(model.process.prior.centres[0], manifold.origin())


def test_bad_input_is_refused_before_training():
    model = RiemannianDiffusion(Sphere(2))
    x = Sphere(2).random_uniform(50, generator=torch.Generator().manual_seed(0))
    bad = x.clone()
    bad[3] *= 1.03
    before = copy.deepcopy(model.network.state_dict())
    with pytest.raises(ManifoldError, match="row 3"):
        model.fit(bad, max_steps=5, progress=False)
    with pytest.raises(ManifoldError, match="row 3"):
        model.log_prob(bad)
    with pytest.raises(ConfigError, match="float64"):
        model.log_prob(x.double() / x.double().norm(dim=1, keepdim=True))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.network.state_dict().values(), strict=True))
    data = ManifoldDataModule(x, Sphere(2))
    with pytest.raises(ConfigError, match="val, fractions"):
        model.fit(data, x, fractions=(0.8, 0.2), max_steps=5, progress=False)
    with pytest.raises(ConfigError, match=r"Sphere\(2\), the model is on Sphere\(3\)"):
        RiemannianDiffusion(Sphere(3)).fit(data, max_steps=5, progress=False)
    with pytest.raises(ConfigError, match="belongs to"):
        RiemannianDiffusion(Sphere(3), default_process(Sphere(2)))
    with pytest.raises(ConfigError, match="method"):
        model.sample(3, method="euler")  # pyright: ignore[reportArgumentType]


def test_pit_of_untrained_model_is_uniform():
    """Distances of uniform samples from a fixed point."""
    x = RiemannianDiffusion(Sphere(2)).sample(2000, generator=torch.Generator().manual_seed(0))
    u = (1 - x[:, 2].double()) / 2
    assert ks_uniform(u).p_value > 1e-3
    assert ks_uniform(u.square()).p_value < 1e-9
