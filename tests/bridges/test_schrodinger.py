"""Static Schroedinger bridges: potentials, marginals and drifts in closed form."""

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Grassmann, Hyperboloid, Sphere, Torus, divergence, gradient
from manifold_diffusion.processes import SchrodingerCoupling, displacement_interpolation, schrodinger_plan
from manifold_diffusion.solvers import ConstantSteps, GeodesicEulerMaruyama, integrate

SPACES = [Euclidean(2), Torus(2), Sphere(2), SO3(), Hyperboloid(2)]


def circle_grid(n=64):
    x = torch.arange(n, dtype=torch.float64).unsqueeze(1) * 2 * math.pi / n - math.pi + 0.01
    return x, torch.full((n,), 2 * math.pi / n, dtype=torch.float64)


def sphere_grid(n=20):
    u, w = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(n))
    phi = torch.arange(2 * n, dtype=torch.float64) * math.pi / n
    s = (1 - u * u).sqrt().unsqueeze(1)
    x = torch.stack([s * phi.cos(), s * phi.sin(), u.unsqueeze(1).expand(-1, 2 * n)], -1)
    return x.reshape(-1, 3), (w * math.pi / n).repeat_interleave(2 * n)


def two_sets(manifold, n=30, m=40, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    origin = manifold.origin(dtype)
    x0 = heat_kernel(manifold).sample(origin.expand(n, *manifold.point_shape), 0.1, generator)
    x1 = heat_kernel(manifold).sample(origin.expand(m, *manifold.point_shape), 0.8, generator)
    weights = torch.rand(m, generator=generator, dtype=dtype)
    return x0, x1, weights / weights.sum()


@pytest.mark.parametrize(
    "manifold, grid, centre, accuracy",
    [(Torus(1), circle_grid, [0.5], 1e-13), (Sphere(2), sphere_grid, [0.6, 0.0, 0.8], 1e-10)],  # series, and tables
    ids=["S1", "S2"],
)
def test_between_a_law_and_its_diffusion_the_bridge_is_brownian_motion(manifold, grid, centre, accuracy):
    (x, weight), tau = grid(), 0.5
    law = HeatKernelMixture(manifold, torch.tensor([centre], dtype=torch.float64), 0.3)
    start = weight * law.log_prob(x).exp()
    end = weight * law.log_prob(x, tau).exp()
    plan = schrodinger_plan(manifold, x, x, tau, start, end / end.sum() * start.sum(), tolerance=1e-10)
    assert plan.iterations <= 2
    # Relative to the law of Brownian motion at t = 1.
    for potential in (plan.f, plan.g + law.log_prob(x, tau)):
        assert float(potential.max() - potential.min()) < accuracy
    # Negative control: the law at another time.
    other = weight * law.log_prob(x, 0.5 * tau).exp()
    plan = schrodinger_plan(manifold, x, x, tau, start, other / other.sum() * start.sum())
    assert float(plan.f.max() - plan.f.min()) > 0.1
    # The drift of the reference motion is zero where the bridge is the reference.
    exact = schrodinger_plan(manifold, x, x, tau, start, end / end.sum() * start.sum())
    assert float(exact.drift_to_1(x, 0.3).abs().max()) < 1e-8 < 0.1 < float(plan.drift_to_1(x, 0.3).abs().max())


def test_gaussian_laws_on_the_line_have_the_closed_form():
    """Covariance c with c^2 + tau c = s0^2 s1^2, linear drifts, Gaussian marginals."""
    tau, m0, m1, s0, s1 = 0.7, -1.0, 0.8, 0.5, 0.9
    grid = torch.linspace(-8, 8, 401, dtype=torch.float64)
    a, b = (torch.exp(-((grid - m) ** 2) / (2 * s * s)) for m, s in ((m0, s0), (m1, s1)))
    points = grid.unsqueeze(1)
    plan = schrodinger_plan(Euclidean(1), points, points, tau, a / a.sum(), b / b.sum(), tolerance=1e-12)
    pi = plan.log_plan.exp()
    covariance = float(((grid - m0).unsqueeze(1) * (grid - m1) * pi).sum())
    c = (math.sqrt(4 * s0**2 * s1**2 + tau**2) - tau) / 2
    assert abs(covariance - c) < 1e-8
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    for t in (0.2, 0.5, 0.9):
        mean = (1 - t) * m0 + t * m1
        variance = (1 - t) ** 2 * s0**2 + t**2 * s1**2 + 2 * t * (1 - t) * c + tau * t * (1 - t)
        expected = -((x[:, 0] - mean) ** 2) / (2 * variance) - 0.5 * math.log(2 * math.pi * variance)
        torch.testing.assert_close(plan.log_prob(x, t), expected, rtol=1e-7, atol=1e-7)
        end = m1 + ((1 - t) * c + t * s1**2) / variance * (x - mean)
        torch.testing.assert_close(plan.drift_to_1(x, t), (end - x) / (tau * (1 - t)), rtol=1e-6, atol=1e-7)
        begin = m0 + ((1 - t) * s0**2 + t * c) / variance * (x - mean)
        torch.testing.assert_close(plan.drift_to_0(x, t), (begin - x) / (tau * t), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("manifold", SPACES, ids=repr)
def test_marginals_and_derivatives(manifold, dtype):
    x0, x1, weights = two_sets(manifold, dtype=dtype)
    plan = schrodinger_plan(manifold, x0, x1, 0.6, weights1=weights, tolerance=1e-10)
    pi = plan.log_plan.exp()
    torch.testing.assert_close(pi.sum(0), weights.double() / weights.double().sum(), rtol=0, atol=1e-12)
    assert float((pi.sum(1) - 1 / 30).abs().sum()) < 1e-10 and plan.violation < 1e-10
    if dtype == torch.float32:
        assert plan.drift_to_1(x0, 0.5).dtype == dtype
        return
    x = plan.sample(6, 0.4, torch.Generator().manual_seed(0))
    times = torch.linspace(0.3, 0.6, 6, dtype=dtype)
    slope = gradient(manifold, lambda p: plan.log_prob(p, times), x)
    score = plan.score(x, times)
    assert float(manifold.norm(x, slope - score).max()) < 1e-4 * float(manifold.norm(x, score).max())
    # One time for all, and a time per point, in one batch or alone.
    torch.testing.assert_close(plan.score(x, times)[2], plan.score(x[2], float(times[2])), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(plan.log_prob(x, times)[2], plan.log_prob(x[2], float(times[2])), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("manifold", SPACES, ids=repr)
def test_the_flow_carries_the_marginals(manifold):
    """Continuity equation: d log p / dt + div v + <v, score> = 0."""
    x0, x1, weights = two_sets(manifold)
    plan, t, h = schrodinger_plan(manifold, x0, x1, 0.6, weights1=weights), 0.45, 1e-4
    x = plan.sample(5, t, torch.Generator().manual_seed(0))
    rate = (plan.log_prob(x, t + h) - plan.log_prob(x, t - h)) / (2 * h)
    v, div = divergence(manifold, lambda p: plan.velocity(p, t), x)
    transport = manifold.inner(x, v, plan.score(x, t))
    assert float((rate + div + transport).abs().max()) < 1e-3 * float(rate.abs().max() + div.abs().max())
    assert float((rate - div - transport).abs().max()) > 0.1


def test_exact_draws_have_the_marginals():
    manifold, n = Sphere(2), 4000
    grid, weight = sphere_grid(60)
    x0, x1, weights = two_sets(manifold)
    plan = schrodinger_plan(manifold, x0, x1, 0.4, weights1=weights)
    generator = torch.Generator().manual_seed(0)
    density = plan.log_prob(grid, 0.3).exp() * weight
    assert abs(float(density.sum()) - 1) < 1e-8
    x = plan.sample(n, 0.3, generator)
    late = plan.sample(n, 0.8, generator)
    for k in range(3):
        mean, noise = float((density * grid[:, k]).sum()), float(x[:, k].std()) / n**0.5
        assert abs(float(x[:, k].mean()) - mean) < 5 * noise
    assert abs(float(late[:, 0].mean() - (density * grid[:, 0]).sum())) > 5 * noise
    # Carried points: from x0 the ends have the weights of x1, and back.
    ends = plan.carry(x0[torch.randint(30, (n,), generator=generator)], "to_1", generator)
    counts = (ends.unsqueeze(1) == x1).all(-1).double().mean(0)
    assert float(((counts - weights) / (weights * (1 - weights) / n).sqrt()).abs().max()) < 5
    back = plan.carry(x1, "to_0", generator)
    assert bool((back.unsqueeze(1) == x0).all(-1).any(1).all())


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["to_0", "to_1"])
def test_the_equation_ends_at_the_data(direction):
    manifold, n = Sphere(2), 4000
    x0, x1, weights = two_sets(manifold)
    plan = schrodinger_plan(manifold, x0, x1, 0.4, weights1=weights)
    generator = torch.Generator().manual_seed(0)
    start = plan.sample_pairs(n, generator)[0 if direction == "to_1" else 1]
    t0, t1 = (0.0, 0.9) if direction == "to_1" else (1.0, 0.1)
    x = integrate(
        plan.sde(direction), manifold, start, t0, t1, GeodesicEulerMaruyama(), ConstantSteps(150), generator=generator
    ).x
    exact = plan.sample(n, t1, generator)
    for k in range(3):
        noise = float((x[:, k].var() + exact[:, k].var()) / n) ** 0.5
        assert abs(float(x[:, k].mean() - exact[:, k].mean())) < 5 * noise
    assert abs(float(start[:, 0].mean() - exact[:, 0].mean())) > 5 * noise


def test_the_limit_of_small_times_is_optimal_transport():
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    x1 = 3 + 2 * torch.randn(40, 1, generator=generator, dtype=torch.float64)
    plan = schrodinger_plan(Euclidean(1), x0, x1, 0.005, tolerance=1e-4, max_iterations=50_000)
    middle = (plan.log_plan.softmax(1) @ x1)[:, 0]
    monotone = x1[:, 0].sort().values[x0[:, 0].argsort().argsort()]
    assert float((middle - monotone).abs().mean()) < 0.1
    index = SchrodingerCoupling(Euclidean(1), 0.02)(x0, x1, generator)
    assert float((x0 - x1[index]).square().mean()) < 1.02 * float((x0[:, 0] - monotone).square().mean())
    assert float((x0 - x1).square().mean()) > 1.3 * float((x0[:, 0] - monotone).square().mean())


def test_displacement_interpolation():
    x0, x1 = torch.eye(3), torch.eye(3).roll(1, 0)
    index = torch.tensor([2, 0, 1])
    torch.testing.assert_close(displacement_interpolation(Sphere(2), x0, x1, index, 0.0), x0)
    torch.testing.assert_close(displacement_interpolation(Sphere(2), x0, x1, index, 1.0), x1[index])
    half = displacement_interpolation(Sphere(2), x0, x1, index, torch.full((3,), 0.5))
    torch.testing.assert_close(Sphere(2).dist(x0, half), Sphere(2).dist(x0, x1[index]) / 2)
    for bad in (torch.tensor([0, 1]), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0, 1, 3]), torch.tensor([0, -1, 2])):
        with pytest.raises(DataError, match="index"):
            displacement_interpolation(Sphere(2), x0, x1, bad, 0.5)


def test_points_without_weight_take_no_part():
    x0, x1, weights = two_sets(Sphere(2))
    weights = torch.where(torch.arange(40) < 10, 0.0, weights)
    plan = schrodinger_plan(Sphere(2), x0, x1, 0.5, weights1=weights)
    alone = schrodinger_plan(Sphere(2), x0, x1[10:], 0.5, weights1=weights[10:])
    torch.testing.assert_close(plan.drift_to_1(x0, 0.2), alone.drift_to_1(x0, 0.2), rtol=1e-6, atol=1e-6)
    assert bool((plan.log_plan[:, :10].exp() == 0).all())


def test_bad_input_is_refused():
    x0, x1, weights = two_sets(Sphere(2))
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="tau"):
            schrodinger_plan(Sphere(2), x0, x1, tau)
    for options in ({"tolerance": 0.0}, {"max_iterations": 0}):
        with pytest.raises(ConfigError, match="tolerance"):
            schrodinger_plan(Sphere(2), x0, x1, 1.0, **options)
    negative = weights.clone()
    negative[3] = -0.1
    for bad in (negative, weights * math.nan, weights[:5], weights.unsqueeze(1), torch.zeros(40), torch.empty(0)):
        with pytest.raises(DataError, match="weights1"):
            schrodinger_plan(Sphere(2), x0, x1, 1.0, weights1=bad)
    with pytest.raises(DataError, match="equal totals"):
        schrodinger_plan(Sphere(2), x0, x1, 1.0, torch.full((30,), 1 / 30), 2 * weights)
    with pytest.raises(DataError, match="shape"):
        schrodinger_plan(Sphere(2), x0.unsqueeze(0), x1, 1.0)
    with pytest.raises(DataError, match="n >= 1"):
        schrodinger_plan(Sphere(2), x0[:0], x1, 1.0)
    with pytest.raises(DataError, match="Convert"):
        schrodinger_plan(Sphere(2), x0.float(), x1, 1.0)
    with pytest.raises(ManifoldError):
        schrodinger_plan(Sphere(2), 2 * x0, x1, 1.0)
    with pytest.raises(ManifoldError, match="NaN"):
        schrodinger_plan(Sphere(2), x0 * math.nan, x1, 1.0)
    plan = schrodinger_plan(Sphere(2), x0, x1, 1.0)
    for t in (-0.5, 1.5, math.nan):
        for method in (plan.log_prob, plan.drift_to_0, plan.drift_to_1, plan.score, plan.velocity):
            with pytest.raises(ConfigError, match="t must be"):
                method(x0, t)
    with pytest.raises(ManifoldError):
        plan.log_prob(2 * x0, 0.5)
    with pytest.raises(CapabilityError, match="heat kernel"):
        schrodinger_plan(Grassmann(4, 2), x0, x1, 1.0)
    with pytest.raises(NumericsError, match="max_iterations"):
        schrodinger_plan(Sphere(2), x0, x1, 0.01, tolerance=1e-12, max_iterations=3)
    with pytest.raises(ConfigError, match="direction"):
        schrodinger_plan(Sphere(2), x0, x1, 1.0).carry(x0, "up")


@pytest.mark.parametrize("n_steps", [None, 10])
def test_samples_of_no_points(n_steps):
    M = Sphere(2)
    x0, x1, _ = two_sets(M, 10, 12)
    plan = schrodinger_plan(M, x0, x1, 1.0)
    assert plan.sample(0, 0.5, n_steps=n_steps).shape == (0, 3)
    assert [x.shape for x in plan.sample_pairs(0)] == [(0, 3), (0, 3)]
    with pytest.raises(ConfigError, match="n >= 0"):
        plan.sample(-1, 0.5, n_steps=n_steps)
