"""Paths of flow matching, couplings and their objective against closed forms."""

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion._typing import Batch
from manifold_diffusion.data import ExactCoupling, IndependentCoupling, SinkhornCoupling, transport_plan
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import (
    SO3,
    SPD,
    Euclidean,
    HalfSpace,
    Hyperboloid,
    Manifold,
    Product,
    Simplex,
    Sphere,
    Torus,
    divergence,
)
from manifold_diffusion.models import RiemannianDiffusion, RiemannianFlow
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching, FlowMatching, ImplicitScoreMatching
from manifold_diffusion.processes import (
    BrownianMotion,
    CosinePath,
    DiffusionDistance,
    GeodesicFlow,
    HeatPrior,
    LinearPath,
    LogPath,
    PolynomialPath,
    PremetricFlow,
    ProductProcess,
    SpectralDistance,
    StochasticInterpolant,
    WrappedNormal,
)
from manifold_diffusion.processes.flow import geodesic_point
from manifold_diffusion.solvers import GeodesicMultistep, NoiseClock
from manifold_diffusion.testing import instances

MANIFOLDS = [Euclidean(2), Sphere(2), Torus(3), SO3(), Hyperboloid(2), SPD(2), Product(SO3(), Euclidean(3))]
SYMMETRIC = [Euclidean(2), Sphere(2), Torus(2), SO3(), Hyperboloid(2)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(manifold: Manifold, n: int, seed: int = 0, spread: float = 0.7) -> torch.Tensor:
    origin = manifold.origin(torch.float64).expand(n, *manifold.point_shape)
    return manifold.exp(origin, spread * manifold.random_tangent(origin, generator=generator(seed)))


@pytest.mark.parametrize("path", [LinearPath(), LinearPath(0.1), PolynomialPath(2), CosinePath(), LogPath()], ids=repr)
def test_path_inverse_and_rate(path):
    t = torch.linspace(0.05, 1, 12, dtype=torch.float64, requires_grad=True)
    s = path.s(t)
    assert torch.allclose(path.t(s), t, atol=1e-7)
    assert torch.allclose(path.rate(t), torch.autograd.grad(s.sum(), t)[0], atol=1e-12)
    ends = path.s(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    assert ends == pytest.approx([path.s_min, 1.0])


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_geodesic_velocity_is_the_derivative_of_the_path(manifold):
    """Closed form against forward mode through exp, at both ends too, where the usual formulas divide by zero."""
    process, x0 = GeodesicFlow(manifold), points(manifold, 20)
    t = torch.linspace(0, 1, 20, dtype=torch.float64)
    path = process.sample(x0, t, generator())
    scaled = manifold.per_point(t)
    v = manifold.log(x0, path.x_1)
    x_t, u = torch.func.jvp(
        lambda h: manifold.exp(x0, (scaled + h) * v),
        (torch.zeros((), dtype=t.dtype),),
        (torch.ones((), dtype=t.dtype),),
    )
    assert torch.allclose(path.x_t, x_t, atol=1e-9)
    assert torch.allclose(path.target, u, atol=1e-6 * u.abs().max().item())
    assert torch.allclose(manifold.norm(path.x_t, path.target), manifold.dist(x0, path.x_1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_euclidean_flow_matching_is_the_standard_one(dtype):
    """Same draws, same loss, bit for bit: x_t = (1 - t) x_0 + t x_1 and target x_1 - x_0."""
    process = GeodesicFlow(Euclidean(3))
    x0, weight = (
        torch.randn(64, 3, dtype=dtype, generator=generator(1)),
        torch.randn(3, 3, dtype=dtype, generator=generator(2)),
    )

    def network(t, x, cond=None):
        return x @ weight * t.unsqueeze(-1)

    loss = FlowMatching(process).loss(network, Batch(x0), generator(3))
    again = generator(3)
    t = (torch.arange(64, dtype=dtype) + torch.rand(64, dtype=dtype, generator=again)) / 64
    x1 = process.prior.sample(64, generator=again, dtype=dtype)
    x_t = (1 - t)[:, None] * x0 + t[:, None] * x1
    standard = (network(t, x_t) - (x1 - x0)).square().sum(-1).mean()
    assert torch.allclose(loss, standard, rtol=1e-5 if dtype == torch.float32 else 1e-13)


def test_euclidean_score_is_that_of_the_marginal():
    """Data N(m, S^2): x_t is normal in closed form, and so are the mean velocity and the score."""
    m, spread, sigma = 1.5, 0.4, 1.3
    process = GeodesicFlow(Euclidean(1), prior=WrappedNormal(Euclidean(1), sigma))
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    x = torch.tensor([[0.3], [1.0], [-2.0]], dtype=torch.float64)
    s, mean = t[:, None], (1 - t[:, None]) * m
    variance = (1 - s) ** 2 * spread**2 + s**2 * sigma**2
    velocity = -m + (s * sigma**2 - (1 - s) * spread**2) / variance * (x - mean)
    assert torch.allclose(process.score(velocity, x, t), -(x - mean) / variance)
    for other in (GeodesicFlow(Sphere(2)), GeodesicFlow(Euclidean(1), coupling=ExactCoupling(Euclidean(1)))):
        with pytest.raises(CapabilityError, match="no score"):
            other.score(velocity, x, t)


@pytest.mark.parametrize("manifold", SYMMETRIC, ids=repr)
def test_interpolant_velocity_satisfies_the_continuity_equation(manifold):
    """d/ds log p + div u + <u, grad log p> = 0 for the kernel about a moving point, by automatic differentiation."""
    process = StochasticInterpolant(manifold, amplitude=0.5)
    x0, x1 = points(manifold, 1, 1)[0], points(manifold, 1, 2)[0]
    s0 = torch.tensor(0.3, dtype=torch.float64)
    kernel, x = heat_kernel(manifold), points(manifold, 8, 3, 0.5)

    def log_p(s, x):
        m = manifold.geodesic(x0, x1, s).expand_as(x)
        return kernel.log_prob(x, m, (process.amplitude * 4 * s * (1 - s)) ** 2)

    def field(x):
        m, speed = geodesic_point(manifold, x0, x1, s0)
        gamma = process.amplitude * 4 * s0 * (1 - s0)
        slope = 4 * process.amplitude * (1 - 2 * s0)
        m, speed = m.expand_as(x), speed.expand_as(x)
        return process._transvection(m, speed, x) - slope * gamma * kernel.score(x, m, gamma**2)

    u, div = divergence(manifold, field, x)
    h = 1e-4
    rate = (log_p(s0 + h, x) - log_p(s0 - h, x)) / (2 * h)
    score = kernel.score(x, manifold.geodesic(x0, x1, s0).expand_as(x), (process.amplitude * 4 * s0 * (1 - s0)) ** 2)
    residual = rate + div + manifold.inner(x, u, score)
    assert residual.abs().max() < 2e-5 * (1 + rate.abs().max())


def test_interpolant_on_flat_space_is_the_standard_one():
    process = StochasticInterpolant(Euclidean(2), amplitude=0.3)
    x0 = points(Euclidean(2), 50)
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    path = process.sample(x0, t, generator())
    s = t[:, None]
    gamma, slope = 0.3 * 4 * s * (1 - s), 0.3 * 4 * (1 - 2 * s)
    z = (path.x_t - (1 - s) * x0 - s * path.x_1) / gamma
    assert torch.allclose(path.target, path.x_1 - x0 + slope * z, atol=1e-9)
    assert abs(z.square().mean().item() - 1) < 0.5  # 100 squares: a standard error of 0.14


@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), SO3()], ids=repr)
@pytest.mark.parametrize("kind", [SpectralDistance, DiffusionDistance])
def test_premetric_shrinks_along_its_paths(manifold, kind):
    premetric = kind(manifold)
    process = PremetricFlow(manifold, premetric)
    x0 = manifold.random_uniform(100, generator=generator(), dtype=torch.float64)
    t = torch.linspace(0, 1, 100, dtype=torch.float64)
    path = process.sample(x0, t, generator(1))
    ratio = premetric(path.x_t, x0) / premetric(path.x_1, x0)
    assert torch.allclose(ratio, process.path.s(t), rtol=1e-4)
    if manifold == Sphere(2):  # two points determine one direction: the path is the geodesic, with another clock
        side = torch.linalg.cross(x0, path.x_1)
        assert (side * path.x_t).sum(-1).abs().max() < 1e-8
    # the target is the derivative of the premetric along the path
    grad = torch.func.jvp(lambda x: premetric(x, x0), (path.x_t,), (path.target,))[1]
    assert torch.allclose(grad, premetric(path.x_1, x0), rtol=1e-5)


def test_spectral_distance_on_the_circle_is_its_series():
    """The biharmonic distance of the circle: sum over k of (1 - cos k d) / (pi k^4) * 2."""
    x, y = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[1.5]], dtype=torch.float64)
    k = torch.arange(1, 32, dtype=torch.float64)
    series = (2 * (1 - (1.2 * k).cos()) / (math.pi * k**4)).sum().sqrt()
    assert SpectralDistance(Torus(1))(x, y).item() == pytest.approx(series.item(), rel=1e-10)


# ---------------------------------------------------------------------- couplings


def test_exact_coupling_on_a_line_is_monotone():
    """In one dimension the optimal assignment sorts both sides."""
    line = Euclidean(1)
    x0, x1 = torch.randn(40, 1, generator=generator()), torch.randn(40, 1, generator=generator(1))
    paired = x1[ExactCoupling(line)(x0, x1)]
    order = x0[:, 0].argsort()
    assert torch.equal(paired[order, 0], x1[:, 0].sort().values)


def test_couplings_cost_less_than_independent_pairs():
    sphere = Sphere(2)
    x0, x1 = (sphere.random_uniform(128, generator=generator(i)) for i in (0, 1))
    cost = {
        type(c).__name__: sphere.dist(x0, x1[c(x0, x1, generator(2))]).square().mean().item()
        for c in (
            IndependentCoupling(),
            ExactCoupling(sphere),
            SinkhornCoupling(sphere, 0.1),
            SinkhornCoupling(sphere, 1.0),
        )
    }
    sharp = sphere.dist(x0, x1[SinkhornCoupling(sphere, 0.02)(x0, x1, generator(2))]).square().mean().item()
    assert cost["ExactCoupling"] < sharp < cost["SinkhornCoupling"] < cost["IndependentCoupling"]


def test_zonal_transport_is_the_monotone_rearrangement():
    """Two laws about one axis, on the same meridians: the plan moves mass along them, latitude by latitude."""
    sphere = Sphere(2)
    angle = torch.linspace(0.3, 1.2, 12, dtype=torch.float64)
    meridian = torch.arange(5, dtype=torch.float64) * 2 * math.pi / 5

    def ring(theta):
        theta, phi = torch.meshgrid(theta, meridian, indexing="ij")
        return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1).reshape(-1, 3)

    x0, x1 = ring(angle), ring(angle + 0.25)
    index = ExactCoupling(sphere)(x0, x1[torch.randperm(60, generator=generator())])
    shuffled = x1[torch.randperm(60, generator=generator())]
    assert torch.allclose(sphere.dist(x0, shuffled[index]), torch.full((60,), 0.25, dtype=torch.float64), atol=1e-9)


def test_entropic_plan_satisfies_its_marginals():
    sphere = Sphere(2)
    x0, x1 = sphere.random_uniform(30, generator=generator()), sphere.random_uniform(20, generator=generator(1))
    a, b = torch.rand(30, generator=generator(2)), torch.rand(20, generator=generator(3))
    plan = transport_plan(sphere, x0, x1, a / a.sum(), b / b.sum(), epsilon=0.2)
    assert torch.allclose(plan.sum(1), (a / a.sum()).double(), atol=1e-6)
    assert torch.allclose(plan.sum(0), (b / b.sum()).double(), atol=1e-6)


def test_optimal_pairs_of_one_law_with_itself_move_little():
    """Data that already follow the prior: the mean path length vanishes as the batch grows."""
    sphere = Sphere(2)
    process = GeodesicFlow(sphere, coupling=ExactCoupling(sphere))
    lengths = []
    for n in (32, 512):
        path = process.sample(sphere.random_uniform(n, generator=generator()), torch.full((n,), 0.5), generator(1))
        lengths.append(sphere.norm(path.x_t, path.target).mean().item())
    assert lengths[1] < 0.5 * lengths[0] < 0.5 * math.pi / 2


def test_couplings_refuse_what_does_not_match():
    sphere = Sphere(2)
    x = sphere.random_uniform(6, generator=generator())
    with pytest.raises(DataError, match="same size"):
        ExactCoupling(sphere)(x, x[:4])
    with pytest.raises(DataError, match="mass"):
        transport_plan(sphere, x, x, torch.ones(6), 2 * torch.ones(6))
    with pytest.raises(DataError, match="non-negative"):
        transport_plan(sphere, x, x, torch.tensor([1.0, -1, 1, 1, 1, 1]), torch.ones(6))
    with pytest.raises(DataError, match=r"shape \(6,\)"):
        transport_plan(sphere, x, x, torch.ones(5), torch.ones(6))
    with pytest.raises(ConfigError, match="epsilon"):
        SinkhornCoupling(sphere, 0.0)


@pytest.mark.parametrize("couple", [ExactCoupling(Sphere(2)), SinkhornCoupling(Sphere(2))])
def test_couplings_refuse_points_off_the_manifold(couple):
    x = Sphere(2).random_uniform(6, generator=generator())
    bad = x.clone()
    bad[3] = math.nan
    for x0, x1, name in ((bad, x, "x0"), (x, bad, "x1")):
        with pytest.raises(ManifoldError, match=rf"{name} has 1 of 6 points with NaN.*3"):
            couple(x0, x1)
    with pytest.raises(ManifoldError, match="x1 is not on"):
        couple(x, 3 * x)
    with pytest.raises(ManifoldError, match="x0 has shape"):
        couple(x[:, :2], x[:, :2])
    with pytest.raises(DataError, match=r"\(n, 3\)"):
        couple(x.unsqueeze(0), x.unsqueeze(0))


@pytest.mark.parametrize("options", [{"epsilon": -0.5}, {"epsilon": 0.0}, {"epsilon": math.nan}, {"max_iterations": 0}])
def test_transport_plans_refuse_options_out_of_range(options):
    x = Sphere(2).random_uniform(6, generator=generator())
    with pytest.raises(ConfigError, match="epsilon > 0, or None"):
        transport_plan(Sphere(2), x, x, **options)


def test_exact_plans_are_checked(monkeypatch):
    import ot

    x = Sphere(2).random_uniform(6, generator=generator())
    monkeypatch.setattr(ot, "emd", lambda a, b, cost, **_: 0 * cost)
    with pytest.raises(NumericsError, match=r"off by 1.0e\+00"):
        transport_plan(Sphere(2), x, x)
    line = torch.tensor([[0.0], [1e30]])
    with pytest.raises(NumericsError, match="row 0 of x0 and row 1 of x1 is inf"):
        transport_plan(Euclidean(1), line, line)


# ---------------------------------------------------------------------- models


def test_flow_model_fits_and_is_saved(tmp_path):
    """A short fit beats the uniform law, samples look like the data, and the saved model is the same."""
    sphere = Sphere(2)
    law = HeatKernelMixture(sphere, torch.eye(3)[:2], 0.1)
    train, test = law.sample(2000, generator=generator()), law.sample(300, generator=generator(1))
    model = RiemannianFlow(sphere, GeodesicFlow(sphere, LinearPath(0.02), coupling=ExactCoupling(sphere)))
    model.fit(train, max_steps=300, batch_size=128, progress=False)
    nll = -model.log_prob(test, tolerance=1e-2).mean().item()
    assert -law.log_prob(test).mean().item() - 0.02 < nll < 1.3  # uniform: 2.53, truth 0.78
    model.save_pretrained(tmp_path / "flow")
    again = RiemannianFlow.from_pretrained(tmp_path / "flow")
    assert torch.equal(model.sample(5, generator=generator()), again.sample(5, generator=generator()))
    assert isinstance(again.process.coupling, ExactCoupling)


def test_sampler_is_learned_and_saved_with_the_model(tmp_path):
    """Four evaluations of a learned scheme are closer to the fine solution than two-step formulas, after reloading."""
    circle = Torus(1)
    process = GeodesicFlow(circle, LogPath(0.05))
    network = TangentMLP(process, width=16, n_frequencies=4, max_frequency=4.0)
    torch.nn.init.normal_(network.head.weight, std=2.0, generator=generator())
    model = RiemannianFlow(circle, process, network)
    model.fit_sampler(4, n_noise=64, max_iterations=10)
    model.save_pretrained(tmp_path / "flow")
    again = RiemannianFlow.from_pretrained(tmp_path / "flow")
    clock = NoiseClock(model.process.path)
    fine = model.sample(200, steps=100, generator=generator(7))
    learned = again.sample(200, solver=again.sampler, generator=generator(7))
    plain = model.sample(200, steps=4, solver=GeodesicMultistep(2, clock), generator=generator(7))
    assert circle.dist(learned, fine).mean() < 0.7 * circle.dist(plain, fine).mean()


def test_endpoint_prediction_gives_the_same_velocity():
    manifold = Torus(2)
    velocity = GeodesicFlow(manifold, LinearPath(0.01))
    endpoint = GeodesicFlow(manifold, LinearPath(0.01), prediction="endpoint")
    x0, t = points(manifold, 30), torch.linspace(0, 1, 30, dtype=torch.float64)
    a, b = velocity.sample(x0, t, generator()), endpoint.sample(x0, t, generator())
    near = manifold.dist(a.x_t, x0) < 3  # on the shortest way back
    assert torch.allclose(b.target[near], manifold.log(b.x_t, x0)[near], atol=1e-9)
    assert torch.allclose(velocity.velocity(a.target, a.x_t, t), endpoint.velocity(b.target, b.x_t, t), atol=1e-9)
    with pytest.raises(ConfigError, match="s_min"):
        GeodesicFlow(manifold, prediction="endpoint")


def test_heat_prior_is_fitted_to_the_data():
    plane = Hyperboloid(2)
    model = RiemannianFlow(plane, GeodesicFlow(plane, prior=HeatPrior(plane, 0.5, 16)))
    data = points(plane, 64, spread=0.3).float()
    model.fit(data, max_steps=2, progress=False)
    distance = plane.dist(model.process.prior.centres.unsqueeze(1), data.unsqueeze(0)).amin(1)
    assert distance.max() < 1e-3 and torch.isfinite(model.log_prob(data[:4], tolerance=0.1)).all()


def test_parts_that_do_not_fit_are_refused():
    sphere = Sphere(2)
    with pytest.raises(ConfigError, match="RiemannianFlow"):
        RiemannianDiffusion(sphere, GeodesicFlow(sphere))
    with pytest.raises(ConfigError, match="DenoisingScoreMatching"):
        FlowMatching(BrownianMotion(sphere))
    for objective in (DenoisingScoreMatching, ImplicitScoreMatching):
        with pytest.raises(ConfigError, match="FlowMatching"):
            objective(GeodesicFlow(sphere))
    with pytest.raises(ConfigError, match="belongs to Torus"):
        GeodesicFlow(sphere, coupling=ExactCoupling(Torus(2)))
    with pytest.raises(ConfigError, match="GeodesicFlow"):
        ProductProcess(GeodesicFlow(sphere))
    with pytest.raises(CapabilityError, match="symmetric"):
        StochasticInterpolant(Simplex(3))
    with pytest.raises(CapabilityError, match="method='ode'"):
        RiemannianFlow(sphere).sample(2, method="sde")
    with pytest.raises(CapabilityError, match="spectrum"):
        SpectralDistance(Hyperboloid(2))


def test_geodesic_paths_stay_on_every_manifold():
    """On all instances: points of the path are on the manifold, targets tangent and of the length of the geodesic."""
    for name, manifold in instances():
        if manifold == HalfSpace(2):  # no uniform law, and a wrapped normal would cross its boundary
            continue
        origin = manifold.origin(torch.float64).expand(12, *manifold.point_shape)
        x0 = manifold.move(origin, 0.2 * manifold.random_tangent(origin, generator=generator()))
        path = GeodesicFlow(manifold).sample(x0, torch.linspace(0, 1, 12, dtype=torch.float64), generator(1))
        manifold.check_point(path.x_t, name)
        manifold.check_tangent(path.x_t, path.target, name)
        length = manifold.dist(x0, path.x_1)
        assert torch.allclose(manifold.norm(path.x_t, path.target), length, rtol=1e-5, atol=1e-7), name
