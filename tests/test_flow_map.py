"""Flow maps against a flow whose map, density and derivatives are known in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from manifold_diffusion._errors import CapabilityError, ConfigError, NumericsError
from manifold_diffusion._typing import Batch
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Manifold, Sphere, Torus
from manifold_diffusion.metrics import mmd_permutation_test
from manifold_diffusion.metrics.grams import HeatGram
from manifold_diffusion.models import FlowMap, RiemannianDiffusion, RiemannianFlow
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import FlowMapMatching, flow_map, flow_map_residual
from manifold_diffusion.objectives.flow_map import KINDS
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, Langevin, LinearPath, LogPath, ProductProcess

SPEED = 1.3
SPHERE = Sphere(2)
NORTH = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conformal(x: Tensor, time: Tensor) -> Tensor:
    """Flow of k (e - (e.x) x) for given times: tan(theta / 2) shrinks by exp(-k t), azimuth fixed."""
    z = x @ NORTH
    side = x - z.unsqueeze(-1) * NORTH
    half = torch.atan2(side.norm(dim=-1), 1 + z)
    theta = 2 * torch.atan(torch.exp(-SPEED * time) * half.tan())
    return theta.cos().unsqueeze(-1) * NORTH + theta.sin().unsqueeze(-1) * side / side.norm(dim=-1, keepdim=True)


class Exact(nn.Module):
    """The exact two-time network of the conformal flow in the clock s = t."""

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, end: Tensor | None = None) -> Tensor:
        end = t if end is None else end
        time = end - t
        short = time.abs() < 1e-9
        log = SPHERE.log(x, conformal(x, torch.where(short, 1.0, time)))
        jump = log / torch.where(short, 1.0, time).unsqueeze(-1)
        return torch.where(short.unsqueeze(-1), SPEED * SPHERE.to_tangent(x, NORTH.expand_as(x)), jump)


class Folded(nn.Module):
    """theta -> theta - 1.5 sin(theta): folds around the pole."""

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, end: Tensor | None = None) -> Tensor:
        return -1.5 * SPHERE.to_tangent(x, NORTH.to(x).expand_as(x))


def exact_model(network: nn.Module) -> FlowMap:
    process = GeodesicFlow(SPHERE, LinearPath())
    network.process = process  # type: ignore[assignment]
    return FlowMap(SPHERE, process, network)


def push_forward(x: Tensor, time: float) -> Tensor:
    """Log density of the uniform law carried for ``time`` by the conformal flow."""
    r = math.tanh(SPEED * time / 2)
    return 2 * torch.log((1 - r**2) / (1 - 2 * r * (x @ NORTH) + r**2)) - math.log(4 * math.pi)


@pytest.mark.parametrize("kind", ["lagrangian", "eulerian", "semigroup"])
def test_exact_flow_map_has_no_residual(kind):
    """Every characterisation vanishes at the flow map, and not at a network that is wrong by a tenth."""
    x = SPHERE.random_uniform(50, generator=generator(), dtype=torch.float64)
    start, end = torch.linspace(0.3, 1, 50, dtype=torch.float64), torch.linspace(0, 0.2, 50, dtype=torch.float64)
    process, exact = GeodesicFlow(SPHERE), Exact()
    arguments = (start, end, x, None, (start + end) / 2)

    def wrong(t, x, cond=None, end=None):
        return (1 + 0.1 * t - 0.1 * (t if end is None else end)).unsqueeze(-1) * exact(t, x, cond, end)

    assert flow_map_residual(kind, process, exact, *arguments, exact).max() < 1e-18
    assert flow_map_residual(kind, process, wrong, *arguments, exact).mean() > 1e-4


def test_mean_flow_target_is_the_network_itself_at_the_flow_map():
    """Its loss has a value only through its gradient: zero at the flow map."""
    x = SPHERE.random_uniform(20, generator=generator(), dtype=torch.float64)
    start, end = torch.linspace(0.3, 1, 20, dtype=torch.float64), torch.linspace(0, 0.2, 20, dtype=torch.float64)
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    exact = Exact()

    def gradient(value: float) -> float:
        scale.data.fill_(value)

        def network(t, x, cond=None, end=None):
            time = (t if end is None else end) - t
            return (1 + (scale - 1) * time).unsqueeze(-1) * exact(t, x, cond, end)

        loss = flow_map_residual("mean_flow", GeodesicFlow(SPHERE), network, start, end, x, None, start, exact).mean()
        return torch.autograd.grad(loss, scale)[0].item()

    assert abs(gradient(1.0)) < 1e-12
    assert gradient(1.1) > 1e-3 and gradient(0.9) < -1e-3


@pytest.mark.parametrize("process", [GeodesicFlow(SO3(), LogPath(0.1)), BrownianMotion(Torus(2))], ids=["SO3", "T2"])
def test_derivatives_of_the_map_agree_with_finite_differences(process):
    """Forward mode through network, clock and exponential map, in time and along the flow."""
    manifold: Manifold = process.manifold
    network = TangentMLP(process, width=16, n_frequencies=8, max_frequency=2.0, two_times=True).double()
    nn.init.normal_(network.head.weight, std=0.3, generator=generator())
    x = manifold.random_uniform(6, generator=generator(1), dtype=torch.float64)
    start, end = torch.linspace(0.5, 0.9, 6, dtype=torch.float64), torch.linspace(0.3, 0.4, 6, dtype=torch.float64)
    h = 1e-5

    def image(s, t, y):
        return flow_map(process, network, s, t, y).detach()

    def rate(t):
        return (process.clock(t + h) - process.clock(t - h)) / (2 * h)

    y = image(start, end, x)
    slope = (image(start, end + h, x) - image(start, end - h, x)) / (2 * h)
    error = manifold.to_tangent(y, slope) - rate(end) * network(end, y)
    lagrangian = flow_map_residual("lagrangian", process, network, start, end, x, None, start, network)
    assert torch.allclose(lagrangian, manifold.inner(y, error, error), rtol=1e-5, atol=1e-9)

    along = rate(start) * network(start, x).detach()
    ahead, behind = manifold.exp(x, h * along), manifold.exp(x, -h * along)
    slope = (image(start + h, end, ahead) - image(start - h, end, behind)) / (2 * h)
    slope = manifold.to_tangent(y, slope)
    eulerian = flow_map_residual("eulerian", process, network, start, end, x, None, start, network)
    assert torch.allclose(eulerian, manifold.inner(y, slope, slope), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 3])
def test_density_of_the_map_is_the_closed_form(steps):
    """Log determinants in tangent bases, forwards at samples and backwards by Newton's method at given points."""
    model = exact_model(Exact()).double()
    model.network.register_buffer("unit", NORTH)  # the network has no parameter to take the dtype from
    drawn = model.map_sample_with_log_prob(40, steps=steps, generator=generator())
    assert torch.allclose(drawn.log_prob, push_forward(drawn.x, -1.0), atol=1e-8)
    x = SPHERE.random_uniform(40, generator=generator(2), dtype=torch.float64)
    found = model.map_log_prob(x, steps=steps)
    assert torch.allclose(found.log_prob, push_forward(x, -1.0), atol=1e-6)
    assert SPHERE.dist(conformal(found.x_1, -torch.ones(40, dtype=torch.float64)), x).max() < 1e-7


def test_a_map_that_folds_has_no_density():
    model = exact_model(Folded())
    with pytest.raises(NumericsError, match="folds"):
        model.map_sample_with_log_prob(200, generator=generator())
    with pytest.raises(NumericsError, match="folds"):
        model.map_log_prob(SPHERE.random_uniform(5, generator=generator()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "process",
    [
        GeodesicFlow(Torus(2)),
        GeodesicFlow(SO3(), LogPath()),
        ProductProcess(BrownianMotion(Sphere(2)), BrownianMotion(Torus(1)), weights=[2.0, 1.0]),
    ],
    ids=["T2", "SO3", "product"],
)
def test_objective_has_finite_gradients(kind, process):
    manifold = process.manifold
    network = TangentMLP(process, width=16, n_frequencies=8, two_times=True)
    nn.init.normal_(network.head.weight, std=0.1, generator=generator())
    x = manifold.origin().expand(16, *manifold.point_shape)
    loss = FlowMapMatching(process, kind).loss(network, Batch(x), generator())
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in network.parameters())
    assert sum(float(p.grad.abs().sum()) for p in network.parameters()) > 0


def test_semigroup_on_flat_space_is_shortcut_consistency():
    """With the target of the network itself halfway: |F - (F1 + F2) / 2|^2 for equal halves."""
    process = GeodesicFlow(Euclidean(2))
    network = TangentMLP(process, width=8, n_frequencies=0, two_times=True).double()
    nn.init.normal_(network.head.weight, std=0.5, generator=generator())
    x = torch.randn(7, 2, dtype=torch.float64, generator=generator())
    start, end = torch.full((7,), 0.9, dtype=torch.float64), torch.full((7,), 0.1, dtype=torch.float64)
    middle = (start + end) / 2
    residual = flow_map_residual("semigroup", process, network, start, end, x, None, middle, network)
    first = network(start, x, None, middle)
    second = network(middle, x - 0.4 * first, None, end)
    expected = (network(start, x, None, end) - (first + second) / 2).square().sum(-1)
    assert torch.allclose(residual, expected, rtol=1e-9)


def test_mean_flow_on_flat_space_is_the_published_target():
    """u_target = v + (t - s) d/ds u along the flow."""
    process = GeodesicFlow(Euclidean(2))
    network = TangentMLP(process, width=8, n_frequencies=0, two_times=True).double()
    nn.init.normal_(network.head.weight, std=0.5, generator=generator())
    x = torch.randn(7, 2, dtype=torch.float64, generator=generator())
    s, t = torch.full((7,), 0.9, dtype=torch.float64), torch.full((7,), 0.1, dtype=torch.float64)
    v = network(s, x).detach()
    u, du = torch.func.jvp(lambda a, z: network(a, z, None, t), (s, x), (torch.ones_like(s), v))[:2]
    published = (u - (v + (t - s)[:, None] * du).detach()).square().sum(-1)
    residual = flow_map_residual("mean_flow", process, network, s, t, x, None, s, network)
    assert torch.allclose(residual, published, rtol=1e-9)


def test_bad_requests_are_refused(tmp_path):
    model = FlowMap(SPHERE, GeodesicFlow(SPHERE))
    with pytest.raises(ConfigError, match="steps >= 1"):
        model.sample(3, steps=0)
    with pytest.raises(ConfigError, match="fall from 1 to 0"):
        model.sample(3, times=[1.0, 0.5])
    data = SPHERE.random_uniform(8, generator=generator())
    with pytest.raises(ConfigError, match="same manifold"):
        model.fit(data, teacher=RiemannianFlow(Torus(2)), max_steps=1)
    with pytest.raises(ConfigError, match="another process"):
        model.fit(data, teacher=RiemannianFlow(SPHERE), max_steps=1)
    with pytest.raises(ConfigError, match="two_times"):
        FlowMap(SPHERE, network=TangentMLP(GeodesicFlow(SPHERE)))
    with pytest.raises(ConfigError, match="'map'"):
        model.sample(2, method="sde")  # type: ignore[arg-type]
    with pytest.raises(CapabilityError, match="multiple"):
        FlowMap(Euclidean(2), Langevin(Euclidean(2)))
    with pytest.raises(ConfigError, match="kind"):
        FlowMapMatching(GeodesicFlow(SPHERE), "euler")  # type: ignore[arg-type]


def test_saved_map_is_the_same(tmp_path):
    model = FlowMap(Torus(2))
    model.fit(Torus(2).random_uniform(64, generator=generator()), max_steps=3, progress=False)
    model.save_pretrained(tmp_path / "map")
    again = FlowMap.from_pretrained(tmp_path / "map")
    for steps in (1, 4):
        a, b = (m.sample(5, steps=steps, generator=generator()) for m in (model, again))
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), SO3()], ids=repr)
def test_distilled_map_samples_in_one_step(manifold):
    """One evaluation of a map distilled from a diffusion model; the prior itself, the control, is told apart."""
    centres = manifold.random_uniform(3, generator=generator(5))
    law = HeatKernelMixture(manifold, centres, 0.15)
    train, test = law.sample(4000, generator=generator()), law.sample(500, generator=generator(1))
    process = BrownianMotion(manifold)
    teacher = RiemannianDiffusion(manifold, process, TangentMLP(process, width=64, n_frequencies=64))
    teacher.fit(train, max_steps=400, batch_size=256, progress=False)
    network = TangentMLP(process, width=64, n_frequencies=64, two_times=True)
    student = FlowMap(manifold, process, network)
    student.fit(train, teacher=teacher, max_steps=500, batch_size=256, progress=False)
    gram = HeatGram(manifold)
    samples = student.sample(500, steps=1, generator=generator(2))
    control = student._prior_sample(500, generator(3))
    assert mmd_permutation_test(samples, test, gram, generator=generator(4)).p_value > 1e-3
    assert mmd_permutation_test(control, test, gram, generator=generator(4)).p_value < 1e-2
