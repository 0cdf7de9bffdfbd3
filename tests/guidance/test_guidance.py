"""Guided networks: the laws that their outputs are scores of, the estimate of the data, gradients, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CapabilityError, ConfigError, DataError
from manifold_diffusion._typing import Batch
from manifold_diffusion.data import mark_condition
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Product, Sphere, Torus, gradient
from manifold_diffusion.networks import Autoguidance, ClassifierFree, GradientGuidance, TangentMLP
from manifold_diffusion.objectives import ConditionDropout, DenoisingScoreMatching
from manifold_diffusion.processes import (
    BrownianMotion,
    GeodesicFlow,
    Langevin,
    LogSchedule,
    ProductProcess,
    default_process,
    denoise,
)
from manifold_diffusion.solvers import sample_twisted

from .posteriors import seeded, sphere, z_scores

M = Sphere(2)
PROCESS = BrownianMotion(M, LogSchedule(1e-2, 7.0))
CENTRES = torch.eye(3, dtype=torch.float64)[:2]
LAWS = [HeatKernelMixture(M, c, torch.tensor([0.2], dtype=torch.float64)) for c in CENTRES.unsqueeze(1)]
BOTH = HeatKernelMixture(M, CENTRES, torch.tensor([0.2], dtype=torch.float64))


class Labelled(torch.nn.Module):
    """Exact scores of two labelled heat kernels, of both together where no label is given."""

    cond_dim = 2

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("error", torch.tensor(error, dtype=torch.float64))

    def forward(self, t, x, cond):
        tau = PROCESS.schedule.tau(t)
        scores = [law.score(x, tau) for law in (*LAWS, BOTH)]
        label, given = cond[..., :1], cond[..., 1:] > 0.5
        score = torch.where(given, torch.where(label > 0.5, scores[1], scores[0]), scores[2])
        return (1 + self.error) * PROCESS.scale(t) * score


def draw(n=6, seed=0):
    g = seeded(seed)
    return torch.rand(n, generator=g, dtype=torch.float64), M.random_uniform(n, generator=g, dtype=torch.float64)


# ---------------------------------------------------------------------- classifier-free


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0])
def test_classifier_free_guidance_is_the_score_of_the_tilted_law(scale):
    t, x = draw()
    tau, cond = PROCESS.schedule.tau(t), torch.tensor([[0.0], [1.0]] * 3, dtype=torch.float64)

    def log_tilted(y, w):
        own = torch.where(cond[:, 0] > 0.5, LAWS[1].log_prob(y, tau), LAWS[0].log_prob(y, tau))
        return (1 + w) * own - w * BOTH.log_prob(y, tau)

    guided = PROCESS.score(ClassifierFree(Labelled(), scale)(t, x, cond), x, t)
    assert torch.allclose(guided, gradient(M, lambda y: log_tilted(y, scale), x), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(guided, gradient(M, lambda y: log_tilted(y, scale + 0.1), x), rtol=1e-3, atol=1e-3)


def test_without_strength_samples_follow_the_condition_and_without_a_condition_both():
    """E[x] = c exp(-tau) of a heat kernel about c; the cost of strength: at w = 3 the mean is another."""
    end = math.exp(-0.2 - 1e-2)
    cond = torch.tensor([1.0], dtype=torch.float64)
    options = {"steps": 8, "generator": seeded()}
    guided = {w: RiemannianDiffusion(M, PROCESS, ClassifierFree(Labelled(), w)) for w in (0, 3)}
    means = {w: model.sample(600, cond=cond, **options) for w, model in guided.items()}
    assert z_scores(means[0], end * CENTRES[1]).max() <= 5 < z_scores(means[3], end * CENTRES[1]).max()
    free = RiemannianDiffusion(M, PROCESS, ClassifierFree(Labelled(), 0.0)).sample(600, **options)
    assert z_scores(free, end * CENTRES.mean(0)).max() <= 5 < z_scores(free, end * CENTRES[1]).max()


def test_guidance_acts_in_its_interval_only():
    x = draw()[1]
    t = torch.tensor([0.0, 0.2, 0.3, 0.7, 0.8, 1.0], dtype=torch.float64)
    inside = torch.tensor([False, False, True, True, False, False])
    cond, exact = torch.ones(6, 1, dtype=torch.float64), Marked(Labelled())
    for guided in (
        ClassifierFree(Labelled(), 2.0, (0.25, 0.75)),
        Autoguidance(exact, Marked(Labelled(-0.3)), 2.0, (0.25, 0.75)),
        GradientGuidance(PROCESS, exact, Towards(CENTRES[0]), interval=(0.25, 0.75)),
    ):
        moved = (guided(t, x, cond) - exact(t, x, cond)).abs().amax(-1) > 1e-9
        assert torch.equal(moved, inside)


class Marked(torch.nn.Module):
    """A network whose conditions are given."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, t, x, cond):
        return self.network(t, x, mark_condition(cond, torch.ones_like(t, dtype=torch.bool)))


class Towards:
    """Log-likelihood of a direction."""

    def __init__(self, centre, kappa=5.0):
        self.centre, self.kappa = centre, kappa

    def __call__(self, x):
        return self.kappa * (x * self.centre.to(x)).sum(-1)


def test_autoguidance_undoes_a_proportional_error():
    """An error of 0.1 against one of 0.3: w = 0.5 cancels it."""
    t, x = draw()
    cond = torch.ones(6, 1, dtype=torch.float64)
    guided = Autoguidance(Marked(Labelled(0.1)), Marked(Labelled(0.3)), 0.5)(t, x, cond)
    assert torch.allclose(guided, Marked(Labelled())(t, x, cond))


# ---------------------------------------------------------------------- its training


def test_dropped_conditions_train_both_laws():
    """Along (1 + a) * exact scores the mean loss is least at a = 0, which it is not where every condition is given."""
    label = torch.tensor([[0.0], [1.0]], dtype=torch.float64).repeat(128, 1)

    def slope(probability, given):
        objective, rows = ConditionDropout(DenoisingScoreMatching(PROCESS), probability), []
        for seed in range(20):
            x = torch.stack([law.sample(128, generator=seeded(seed)) for law in LAWS], 1).flatten(0, 1)
            networks = [lambda t, y, c, a=a: Labelled(a)(t, y, given(c)) for a in (-0.5, 0.5)]
            losses = [objective.loss(network, Batch(x, label), seeded(seed)) for network in networks]
            rows.append(losses[1] - losses[0])
        rows = torch.stack(rows)
        return float(rows.mean().abs() / (rows.std() / math.sqrt(len(rows))))

    assert slope(0.5, lambda c: c) <= 5
    # The control: a network that takes the label of no condition (0) for given.
    assert slope(0.5, lambda c: torch.cat([c[..., :1], torch.ones_like(c[..., :1])], -1)) > 5


def test_conditions_are_dropped_by_the_generator_at_the_given_rate():
    seen = []

    class Spy:
        process = PROCESS

        def loss(self, network, batch, generator=None):
            seen.append(batch.cond)
            return batch.x.sum()

    x, cond = M.random_uniform(4000, generator=seeded()), torch.full((4000, 2), 3.0)
    objective = ConditionDropout(Spy(), 0.2)
    for seed in (0, 0, 1):
        objective.loss(lambda t, x, c: x, Batch(x, cond), seeded(seed))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    given = seen[0][:, 2]
    assert ((given == 0) | (given == 1)).all() and (seen[0][:, :2] == 3 * given[:, None]).all()
    assert z_scores(given, 0.8) <= 5 < z_scores(given, 0.7)
    assert objective.process is PROCESS


@pytest.mark.slow
def test_one_network_is_trained_and_guided():
    """The whole of it through a model, saved and loaded."""
    process = BrownianMotion(M, LogSchedule(1e-2, 7.0))
    network = TangentMLP(process, width=16, n_frequencies=8, cond_dim=2)
    model = RiemannianDiffusion(M, process, network, ConditionDropout(DenoisingScoreMatching(process), 0.2))
    x = BOTH.sample(64, generator=seeded()).float()
    model.fit(x, cond=(x[:, 1:2] > x[:, :1]).float(), max_steps=3, progress=False)
    guided = RiemannianDiffusion(M, process, ClassifierFree(model.network, 1.5))
    points = guided.sample(5, cond=torch.ones(1), steps=4, generator=seeded())
    M.check_point(points)
    assert torch.isfinite(guided.log_prob(points, cond=torch.ones(1), tolerance=0.1)).all()


def test_guided_models_are_saved(tmp_path):
    network = TangentMLP(PROCESS, width=8, n_frequencies=4, cond_dim=2)
    model = RiemannianDiffusion(
        M, PROCESS, ClassifierFree(network, 1.5, (0.2, 0.9)), ConditionDropout(DenoisingScoreMatching(PROCESS), 0.3)
    )
    model.save_pretrained(tmp_path)
    loaded = RiemannianDiffusion.from_pretrained(tmp_path)
    assert (loaded.network.scale, loaded.network.interval, loaded.objective.probability) == (1.5, (0.2, 0.9), 0.3)


# ---------------------------------------------------------------------- the estimate of the data


@pytest.mark.parametrize("kind", [BrownianMotion, Langevin])
def test_the_estimate_is_exact_on_euclidean_space(kind):
    """Normal data: E[x_0 | x_t] is linear, with x_0 the data noised to tau_min."""
    process = kind(Euclidean(2), LogSchedule(0.1, 8.0))
    mean, spread = torch.tensor([1.0, -2.0], dtype=torch.float64), 0.5
    t, x = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)

    def law(t):
        if kind is Langevin:
            m = process._mean_factor(t).unsqueeze(-1)
            return m, m * m * spread + process._variance(t).unsqueeze(-1)
        return torch.ones(len(t), 1, dtype=torch.float64), spread + process.schedule.tau(t).unsqueeze(-1)

    (m, var), (m0, var0) = law(t), law(torch.zeros_like(t))
    estimate = denoise(process, -process.scale(t) * (x - m * mean) / var, x, t)
    assert torch.allclose(estimate.x, m0 * mean + m / m0 * var0 / var * (x - m * mean))
    assert torch.equal(estimate.x[0], x[0]) and float(estimate.variance[0]) == 0  # at time 0 nothing is unknown
    # Its variance is that under a flat law, which adds up inversely with the law's own.
    own, exact = var0, var0 - (m / m0 * var0) ** 2 / var
    assert torch.allclose(1 / exact[1:], 1 / own[1:] + 1 / estimate.variance[1:])


def test_on_the_sphere_the_estimate_is_right_to_first_order():
    """Against the mean of log_x(x_0) by quadrature: an error of order v^2, one order above the step itself."""
    case = sphere()
    x = M.project(torch.tensor([0.5, 0.4, 0.6], dtype=torch.float64))
    errors, steps, times = [], [], (0.01, 0.02, 0.04)
    for v in times:
        t = case.process.schedule.t(torch.tensor(0.02 + v, dtype=torch.float64))
        estimate = denoise(case.process, case.network(t, x), x, t)
        weight = case.prior * heat_kernel(M).log_prob(x.expand_as(case.points), case.points, v).exp()
        mean = (weight @ M.log(x, case.points)) / weight.sum()
        steps.append(float(mean.norm()))
        errors.append(float((M.log(x, estimate.x) - mean).norm()))
    assert errors[0] < 0.05 * steps[0]
    assert 1.6 < math.log(errors[2] / errors[0]) / math.log(times[2] / times[0]) < 2.6


def test_on_a_product_factors_are_estimated_one_by_one():
    parts = [BrownianMotion(Sphere(2), LogSchedule(1e-2, 7.0)), Langevin(Euclidean(1))]
    t = torch.full((4,), 0.4, dtype=torch.float64)
    xs = [M.random_uniform(4, generator=seeded(), dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)]
    outputs = [0.5 * M.to_tangent(xs[0], torch.ones_like(xs[0])), 0.3 * torch.ones_like(xs[1])]
    for weights in (None, [3.0, 0.2]):
        process = ProductProcess(*parts, weights=weights)
        whole = denoise(process, process.manifold.join(*outputs), process.manifold.join(*xs), t)
        rows = [denoise(p, g, x, t) for p, g, x in zip(parts, outputs, xs, strict=True)]
        assert torch.allclose(whole.x, torch.cat([r.x for r in rows], -1))
        assert torch.equal(whole.variance, torch.cat([r.variance for r in rows], -1))


# ---------------------------------------------------------------------- gradient guidance


def wave(manifold):
    """A smooth tangent field."""
    frame = torch.randn(manifold.frame_dim, generator=seeded(1), dtype=torch.float64)

    def field(t, x, cond=None):
        return manifold.from_frame(x, frame * (1 + manifold.embed(x).sum(-1, keepdim=True).sin()))

    return field


@pytest.mark.parametrize("width", [None, 0.3])
@pytest.mark.parametrize(
    "manifold", [Sphere(2), Torus(2), SO3(), Hyperboloid(2), Product(Sphere(2), Torus(1), weights=[3.0, 0.5])], ids=repr
)
def test_the_gradient_is_that_of_the_likelihood_of_the_estimate(manifold, width):
    process, network = default_process(manifold, 1e-2), wave(manifold)
    g = seeded()
    x = manifold.origin(torch.float64).expand(5, *manifold.point_shape)
    x = manifold.exp(x, 0.5 * manifold.random_tangent(x, generator=g))
    t = torch.linspace(0, 0.6, 5, dtype=torch.float64)

    def log_likelihood(y):
        return -manifold.embed(y).square().sum(-1) + manifold.embed(y)[..., 0]

    def value(y):
        estimate = denoise(process, network(t, y), y, t)
        damping = 1.0 if width is None else width / (width + estimate.variance.amax(-1))
        return 2.0 * damping * log_likelihood(estimate.x)

    with torch.no_grad():  # as in samplers
        guided = GradientGuidance(process, network, log_likelihood, 2.0, width)(t, x)
        push = process.score(guided - network(t, x), x, t)
        direction, h = manifold.random_tangent(x, generator=g), 1e-5
        slope = (value(manifold.exp(x, h * direction)) - value(manifold.exp(x, -h * direction))) / (2 * h)
    manifold.check_tangent(x, guided)
    assert torch.allclose(manifold.inner(x, push, direction), slope, rtol=1e-5, atol=1e-6)


def test_on_euclidean_space_it_is_diffusion_posterior_sampling():
    process = Langevin(Euclidean(2), LogSchedule(1e-4, 12.0))
    A, y = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    t, x = torch.tensor([0.3, 0.8], dtype=torch.float64), torch.randn(2, 2, generator=seeded(), dtype=torch.float64)

    def network(t, x, cond=None):
        return -process.scale(t) * x / (process._variance(t) + 0.3 * process._mean_factor(t) ** 2).unsqueeze(-1)

    guided = GradientGuidance(process, network, lambda z: -(z @ A.mT - y).square().sum(-1) / 2)
    # x0_hat = c(t) x here, so that the gradient is c A^T (y - A x0_hat).
    m, var = process._mean_factor(t) / process._mean_factor(t * 0), process._variance(t)
    noise = var - m**2 * process._variance(t * 0)
    c = ((1 - noise / (var + 0.3 * process._mean_factor(t) ** 2)) / m).unsqueeze(-1)
    exact = network(t, x) + process.scale(t) * c * (y - (c * x) @ A.mT) @ A
    assert torch.allclose(guided(t, x), exact)


def test_gradients_go_through_guidance_and_float32_stays():
    network = TangentMLP(PROCESS, width=8, n_frequencies=4)
    torch.nn.init.normal_(network.head.weight, generator=seeded())
    guided = GradientGuidance(PROCESS, network, Towards(CENTRES[0]))
    t, x = (a.float() for a in draw())
    out = guided(t, x)
    out.square().sum().backward()
    assert out.dtype == torch.float32 and network.head.weight.grad is not None
    assert torch.equal(out.detach(), guided(t, x).detach())
    rows = torch.vmap(lambda a, b: guided(a, b))(t, x)
    assert torch.allclose(rows, out, atol=1e-5)
    assert not any(name.startswith("process") for name in guided.state_dict())


@pytest.mark.slow
def test_the_density_of_guided_samples_is_known():
    """The flow of a guided network is a flow: what it samples integrates to one, exp(log_prob) over the sphere."""
    case = sphere()
    guided = GradientGuidance(case.process, Plain(case.network), case.log_likelihood, width=case.width)
    model = RiemannianDiffusion(M, case.process, guided)
    x = M.random_uniform(400, generator=seeded(), dtype=torch.float64)
    density = 4 * math.pi * model.log_prob(x, tolerance=0.02).exp()
    assert z_scores(density, 1.0) <= 5 < z_scores(density, 3.0)


class Plain(torch.nn.Module):
    """A function as a float64 network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("like", torch.zeros((), dtype=torch.float64))

    def forward(self, t, x, cond=None):
        return self.function(t, x)


# ---------------------------------------------------------------------- refusals


def test_bad_arguments_name_the_fix():
    network, likelihood = Labelled(), Towards(CENTRES[0])
    for scale in (-0.5, math.nan, math.inf):
        for make in (
            lambda s: ClassifierFree(network, s),
            lambda s: Autoguidance(network, network, s),
            lambda s: GradientGuidance(PROCESS, network, likelihood, s),
        ):
            with pytest.raises(ConfigError, match="scale"):
                make(scale)
    for interval in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.0,)):
        with pytest.raises(ConfigError, match="interval"):
            ClassifierFree(network, 1.0, interval)
    with pytest.raises(ConfigError, match="width"):
        GradientGuidance(PROCESS, network, likelihood, width=-1.0)
    with pytest.raises(ConfigError, match="probability"):
        ConditionDropout(DenoisingScoreMatching(PROCESS), 1.5)
    with pytest.raises(DataError, match="cond="):
        ConditionDropout(DenoisingScoreMatching(PROCESS)).loss(network, Batch(CENTRES), seeded())
    with pytest.raises(DataError, match="one entry per condition"):
        mark_condition(torch.zeros(3, 2), torch.ones(2, dtype=torch.bool))


def test_bad_conditions_and_likelihoods_name_the_fix():
    t, x = draw()
    with pytest.raises(ConfigError, match=r"cond\.expand"):
        ClassifierFree(Labelled())(t, x, torch.ones(1, dtype=torch.float64))
    with pytest.raises(ConfigError, match="cond_dim=4"):
        ClassifierFree(Labelled())(t, x, torch.ones(6, 3, dtype=torch.float64))
    with pytest.raises(ConfigError, match="cond_dim"):
        ClassifierFree(Marked(Labelled()))(t, x)
    for width in (None, 0.5):
        for bad in (lambda y: y.sum(), lambda y: y):
            with pytest.raises(ConfigError, match=r"last 1 axes"):
                GradientGuidance(PROCESS, Marked(Labelled()), bad, width=width)(t, x, torch.ones(6, 1))


def test_processes_without_a_score_or_an_estimate_are_refused():
    flow = GeodesicFlow(M)
    with pytest.raises(CapabilityError, match="ClassifierFree"):
        GradientGuidance(flow, Labelled(), Towards(CENTRES[0]))
    for scale in (0.0, 1.0):
        with pytest.raises(CapabilityError, match="BrownianMotion"):
            sample_twisted(flow, Labelled(), Towards(CENTRES[0]), 2, 4, width=None, scale=scale)
    with pytest.raises(CapabilityError, match=r"denoise\.register"):
        denoise(flow, CENTRES, CENTRES, torch.ones(2))
    walk = Langevin(Sphere(2), LogSchedule(1e-2, 7.0))
    t, x = draw()
    with pytest.raises(CapabilityError, match="BrownianMotion"):
        GradientGuidance(walk, lambda t, x, c: x * 0, Towards(CENTRES[0]))(t, x)
