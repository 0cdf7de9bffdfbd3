"""Processes against closed forms, and schedules against their definition."""

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus, gradient
from manifold_diffusion.processes import (
    BrownianMotion,
    GeodesicFlow,
    HeatPrior,
    Langevin,
    LinearSchedule,
    LogSchedule,
    ProductProcess,
    Uniform,
    WrappedNormal,
    default_process,
)

MANIFOLDS = [
    Euclidean(2),
    Sphere(2),
    Torus(3),
    SO3(),
    Hyperboloid(2),
    Product(SO3(), Euclidean(3)),
    Product(Sphere(2), Torus(1), weights=[2.0, 0.5]),
]


def points(manifold: Manifold, n: int, seed: int = 0, spread: float = 0.7) -> torch.Tensor:
    origin = manifold.origin(torch.float64).expand(n, *manifold.point_shape)
    return manifold.exp(origin, spread * manifold.random_tangent(origin, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("schedule", [LogSchedule(1e-5, 7.0), LinearSchedule(1e-3, 2.0)], ids=repr)
def test_schedule_inverse_and_rate(schedule):
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    tau = schedule.tau(t)
    assert torch.allclose(schedule.t(tau), t, atol=1e-12)
    (rate,) = torch.autograd.grad(tau.sum(), t)
    assert torch.allclose(schedule.rate(t), rate, rtol=1e-12)
    assert tau[0].item() == pytest.approx(schedule.tau_min) and tau[-1].item() == pytest.approx(schedule.tau_max)


@pytest.mark.parametrize("bad", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (1e-3, math.inf), (math.nan, 1.0)])
def test_schedule_refuses(bad):
    with pytest.raises(ConfigError, match="tau_min"):
        LogSchedule(*bad)


def test_default_schedule_mixes():
    """The mismatch from the worst case, one point, is at the level that the default promises."""
    for manifold in (Sphere(2), Sphere(127), Torus(7), SO3()):
        process = BrownianMotion(manifold)
        one = manifold.origin(torch.float64).expand(400, *manifold.point_shape)
        x = process.sample(one, torch.ones(400, dtype=torch.float64), torch.Generator().manual_seed(0)).x_t
        kl = process.log_transition(x, one, torch.ones(400, dtype=torch.float64)) + math.log(manifold.volume)
        assert abs(kl.mean()) < 1e-3
        assert kl.abs().max() < 0.05


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_target_is_scaled_gradient_of_the_transition(manifold):
    process = default_process(manifold).double()
    t = torch.linspace(0.3, 1, 7, dtype=torch.float64)
    path = process.sample(points(manifold, 7), t, torch.Generator().manual_seed(1))
    score = gradient(manifold, lambda x: process.log_transition(x, path.x_0, t), path.x_t)
    assert torch.allclose(process.score(path.target, path.x_t, t), score, rtol=1e-4, atol=1e-4)
    manifold.check_point(path.x_t)
    manifold.check_tangent(path.x_t, path.target)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_target_has_unit_scale(manifold):
    """At small noise the squared length of the target is dim on average."""
    process = default_process(manifold).double()
    t = torch.full((4000,), 0.1, dtype=torch.float64)
    path = process.sample(points(manifold, 4000, spread=0.1), t, torch.Generator().manual_seed(1))
    # Each factor is measured in its own metric.
    unit = manifold.inner(path.x_t, path.target, path.target)
    expected = (
        manifold.dim
        if not hasattr(manifold, "weights")
        else sum(w * f.dim for f, w in zip(manifold.factors, manifold.weights, strict=True))
    )
    assert abs(unit.mean() - expected) < 5 * unit.std() / math.sqrt(4000)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_flow_conserves_mass(manifold):
    """The transition density solves the continuity equation: d log p/dt = -div v - <score, v>."""
    process = default_process(manifold).double()
    x0, t = points(manifold, 5), torch.full((5,), 0.8, dtype=torch.float64)
    path = process.sample(x0, t, torch.Generator().manual_seed(2))
    x = path.x_t

    def exact(t, x, cond=None):
        return process.scale(t) * gradient(manifold, lambda y: process.log_transition(y, x0, t), x)

    _, dt_log_p = torch.func.jvp(lambda s: process.log_transition(x, x0, s), (t,), (torch.ones_like(t),))
    flow = process.terms(exact).flow
    step = 1e-5
    v = flow.velocity(t, x)
    score = exact(t, x) / process.scale(t)
    div = torch.zeros(5, dtype=torch.float64)
    basis = manifold.tangent_basis(x)
    for i in range(manifold.dim):
        e = basis[:, i]
        plus, minus = (flow.velocity(t, manifold.exp(x, s * step * e)) for s in (1, -1))
        div += manifold.inner(x, manifold.to_tangent(x, plus - minus) / (2 * step), e)
    assert torch.allclose(dt_log_p, -div - manifold.inner(x, score, v), rtol=1e-3, atol=1e-3)


def test_ornstein_uhlenbeck_moments():
    process = Langevin(Euclidean(1), LogSchedule(1e-3, 2.0), sigma=1.5)
    t = torch.full((200_000,), 0.9, dtype=torch.float64)
    x = process.sample(torch.ones(200_000, 1, dtype=torch.float64), t, torch.Generator().manual_seed(0)).x_t[:, 0]
    tau = float(process.schedule.tau(t[0]))
    mean, variance = math.exp(-tau / 4.5), 2.25 * (1 - math.exp(-tau / 2.25))
    assert abs(x.mean() - mean) < 5 * math.sqrt(variance / 200_000)
    assert abs(x.var() - variance) < 5 * variance * math.sqrt(2 / 200_000)


def test_simulated_langevin_reaches_its_prior():
    process = Langevin(Hyperboloid(2), LogSchedule(1e-3, 8.0), sigma=0.7, n_steps=80)
    x0 = points(Hyperboloid(2), 3000, spread=0.3)
    assert not process.has_target
    mismatch = process.prior_mismatch(x0, torch.Generator().manual_seed(0), max_points=3000)
    assert mismatch.kl < 5 * mismatch.standard_error
    short = Langevin(
        Hyperboloid(2), LogSchedule(1e-3, 0.05), sigma=0.7, n_steps=20
    )  # negative control: it has not mixed
    mismatch = short.prior_mismatch(x0, torch.Generator().manual_seed(0), max_points=3000)
    assert mismatch.kl > 20 * mismatch.standard_error


def test_random_walk_agrees_with_the_heat_kernel():
    """E[x . y] = exp(-tau) on S^2, with and without the kernel."""
    walk, exact = (
        BrownianMotion(Sphere(2), LogSchedule(1e-3, 1.0), n_steps=50),
        BrownianMotion(Sphere(2), LogSchedule(1e-3, 1.0)),
    )
    n = 20_000
    x0 = Sphere(2).origin(torch.float64).expand(n, 3)
    t = torch.full((n,), 0.95, dtype=torch.float64)
    for process in (walk, exact):
        cosine = (process.sample(x0, t, torch.Generator().manual_seed(0)).x_t * x0).sum(-1)
        assert abs(cosine.mean() - math.exp(-float(process.schedule.tau(t[0])))) < 5 * cosine.std() / math.sqrt(n)


def test_mismatch_is_reported_with_the_fix():
    x0 = Sphere(2).origin().expand(200, 3)
    short = BrownianMotion(Sphere(2), LogSchedule(1e-5, 0.3))
    with pytest.warns(UserWarning, match="Raise tau_max"):
        mismatch = short.report_mismatch(x0, torch.Generator().manual_seed(0))
    # One atom: the divergence is that of the heat kernel from uniform, here by the eigenfunction series.
    theta = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
    levels = torch.arange(60, dtype=torch.float64)
    coefficients = (2 * levels + 1) / (4 * math.pi) * torch.exp(-levels * (levels + 1) * 0.3 / 2)
    p = sum(
        c * torch.special.legendre_polynomial_p(theta.cos(), k)
        for c, k in zip(coefficients, levels.long(), strict=True)
    )
    kl = torch.trapezoid(p * (p * 4 * math.pi).log() * 2 * math.pi * theta.sin(), theta)
    assert abs(mismatch.kl - float(kl)) < 5 * mismatch.standard_error
    assert BrownianMotion(Sphere(2)).report_mismatch(x0, torch.Generator().manual_seed(0)).kl < 1e-3


def test_heat_prior_stands_for_the_data():
    manifold = Hyperboloid(2)
    x0 = points(manifold, 500, spread=1.5).float()
    process = BrownianMotion(manifold)
    before = process.prior_mismatch(x0, torch.Generator().manual_seed(0), 300).kl
    process.fit_prior(x0, torch.Generator().manual_seed(0))
    assert isinstance(process.prior, HeatPrior)
    after = process.prior_mismatch(x0, torch.Generator().manual_seed(0), 300)
    assert after.kl < 0.02 and before > 0.1
    assert "prior.centres" in process.state_dict()


@pytest.mark.parametrize(
    "prior", [WrappedNormal(Hyperboloid(2), 0.8), WrappedNormal(Euclidean(2), 1.3)], ids=lambda p: repr(p.manifold)
)
def test_wrapped_normal_integrates_to_one(prior):
    """Importance sampling from a wider law of the same kind."""
    wide = WrappedNormal(prior.manifold, 1.5 * prior.sigma)
    x = wide.sample(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ratio = (prior.log_prob(x) - wide.log_prob(x)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(len(x))


def test_uniform_needs_a_compact_manifold():
    with pytest.raises(CapabilityError, match="compact"):
        Uniform(Euclidean(2))


def test_product_has_a_schedule_per_factor():
    a, b = BrownianMotion(SO3(), LogSchedule(1e-4, 3.0)), Langevin(Euclidean(3), LogSchedule(1e-2, 10.0))
    process = ProductProcess(a, b)
    t = torch.tensor([0.5], dtype=torch.float64)
    levels = process.noise_levels(t)
    assert levels.shape == (1, 12)
    assert torch.allclose(levels[:, :9], a.noise_levels(t).expand(1, 9)) and torch.allclose(
        levels[:, 9:], b.noise_levels(t).expand(1, 3)
    )
    assert process.manifold == Product(SO3(), Euclidean(3))


def test_weighted_product_agrees_with_one_brownian_motion():
    """Brownian motion of a weighted product is that of the factors at tau / w: density, target and noise."""
    manifold = Product(Sphere(2), Torus(1), weights=[2.0, 0.5])
    joint = BrownianMotion(manifold, LogSchedule(1e-3, 4.0))
    split = ProductProcess(
        BrownianMotion(Sphere(2), LogSchedule(1e-3 / 2, 2.0)),
        BrownianMotion(Torus(1), LogSchedule(2e-3, 8.0)),
        weights=[2.0, 0.5],
    )
    x0, t = points(manifold, 6), torch.linspace(0.4, 1, 6, dtype=torch.float64)
    path = split.sample(x0, t, torch.Generator().manual_seed(0))
    assert torch.allclose(joint.log_transition(path.x_t, x0, t), split.log_transition(path.x_t, x0, t), atol=1e-6)
    score = heat_kernel(manifold).score(path.x_t, x0, joint.schedule.tau(t))
    assert torch.allclose(split.score(path.target, path.x_t, t), score, rtol=1e-4, atol=1e-5)
    zero = torch.zeros_like(x0)
    network = lambda t, x, cond=None: zero + x0  # noqa: E731
    a, b = (
        joint.terms(lambda t, x, cond=None: joint.scale(t) * score).flow,
        split.terms(lambda t, x, cond=None: split.scale(t) * score).flow,
    )
    assert torch.allclose(a.velocity(t, path.x_t), b.velocity(t, path.x_t), rtol=1e-9)
    sa, sb = joint.terms(network).reverse, split.terms(network).reverse
    assert torch.allclose(sa.diffusion(t, x0).expand_as(x0), sb.diffusion(t, x0).expand_as(x0), rtol=1e-9)


@pytest.mark.parametrize("process", [BrownianMotion(Sphere(2)), GeodesicFlow(Sphere(2))], ids=["noise", "flow"])
def test_bad_times_of_paths_are_refused(process):
    x = Sphere(2).origin().expand(3, 3)
    for t in (0.5, torch.ones(2), torch.tensor([0.1, -0.2, 0.3]), torch.tensor([0.1, math.nan, 0.3])):
        with pytest.raises(ConfigError, match="t must be"):
            process.sample(x, t)


def test_no_kernel_names_the_alternative():
    class Bare(Sphere):
        pass

    with pytest.raises(ConfigError, match="n_steps"):
        BrownianMotion(Sphere(2), n_steps=0)
