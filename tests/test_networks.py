"""Networks: tangent output, gate, zero start, conditions."""

import pytest
import torch

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Power, Product, Sphere, Torus
from manifold_diffusion.networks import HeatFeatures, TangentMLP, TimeEmbedding
from manifold_diffusion.networks.factors import factors_of
from manifold_diffusion.processes import default_process

MANIFOLDS = [
    Euclidean(2),
    Sphere(2),
    Sphere(20),
    Torus(3),
    SO3(),
    Hyperboloid(2),
    Product(SO3(), Euclidean(3), Torus(2)),
]


def batch(manifold, n=6):
    origin = manifold.origin().expand(n, *manifold.point_shape)
    x = manifold.exp(origin, manifold.random_tangent(origin, generator=torch.Generator().manual_seed(0)))
    return torch.linspace(0, 1, n), x


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_output_is_tangent_and_starts_at_zero(manifold):
    network = TangentMLP(default_process(manifold), width=16, n_frequencies=8)
    t, x = batch(manifold)
    assert (network(t, x) == 0).all()
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    v = network(t, x)
    assert v.shape == x.shape and v.dtype == x.dtype
    manifold.check_tangent(x, v)
    row = network(t[2], x[2])
    assert torch.allclose(row, v[2], atol=1e-6)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_every_parameter_learns(manifold):
    network = TangentMLP(default_process(manifold), width=16, n_frequencies=8, time_embedding="learned", cond_dim=2)
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    t, x = batch(manifold)
    network(t, x, torch.ones(6, 2)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name


def test_gate_is_the_damping_of_the_heat_semigroup():
    """On a torus the mean of a feature over the heat kernel is the wave at the centre times the gate."""
    torus, tau = Torus(2), torch.tensor(0.3, dtype=torch.float64)
    features = HeatFeatures(torus, 16, 4.0).double()
    x0 = torch.tensor([0.5, -1.0], dtype=torch.float64)
    n = 200_000
    x = x0 + tau.sqrt() * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    waves = torch.cat(features(x, torch.zeros(1, dtype=torch.float64))[1:], -1)
    expected = torch.cat(features(x0, tau.reshape(1))[1:], -1)
    error = (waves.mean(0) - expected) / (waves.std(0) / n**0.5 + 1e-12)
    assert error.abs().max() < 5
    ungated = torch.cat(features(x0, torch.zeros(1, dtype=torch.float64))[1:], -1)  # negative control
    assert ((waves.mean(0) - ungated) / (waves.std(0) / n**0.5)).abs().max() > 50


def test_frequencies_reach_the_least_noise():
    process = default_process(Sphere(2), tau_min=1e-4)
    network = TangentMLP(process, n_frequencies=2000)
    lengths = network.features.frequencies.norm(dim=1)
    assert lengths.max() <= 125.001 and lengths.max() > 110 and lengths.min() >= 0.999
    assert (Torus(3).random_frequencies(100, 20.0) % 1 == 0).all()


@pytest.mark.parametrize("kind", ["bumps", "fourier", "learned"])
def test_time_embedding_separates_times(kind):
    e = TimeEmbedding(16, kind)(torch.linspace(0, 1, 50))
    distances = torch.cdist(e, e) + torch.eye(50) * 9
    assert e.shape == (50, 16) and distances.min() > 1e-2


def test_bad_arguments_name_the_argument():
    process = default_process(Sphere(2))
    frequencies = [{"max_frequency": f} for f in (0.5, float("nan"), float("inf"))]
    for bad in ({"width": 0}, {"depth": 0}, {"n_frequencies": -1}, {"factor_width": -1}, *frequencies):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            TangentMLP(process, **bad)
    with pytest.raises(ConfigError, match="kind"):
        TimeEmbedding(16, "sinus")  # pyright: ignore[reportArgumentType]
    t, x = batch(Sphere(2))
    with pytest.raises(ConfigError, match="cond_dim"):
        TangentMLP(process, width=8)(t, x, torch.ones(6, 2))
    with pytest.raises(ConfigError, match="cond"):
        TangentMLP(process, width=8, cond_dim=2)(t, x)


def test_network_is_differentiable_forward_and_twice():
    process = default_process(SO3(), 1e-2)
    network = TangentMLP(process, width=16, n_frequencies=8).double()
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))
    t, x = batch(SO3())
    t, x = t.double(), x.double()
    direction = SO3().random_tangent(x, generator=torch.Generator().manual_seed(1))
    _, forward = torch.func.jvp(lambda y: network(t, y), (x,), (direction,))
    h = 1e-5
    central = (network(t, x + h * direction) - network(t, x - h * direction)) / (2 * h)
    assert torch.allclose(forward, central, rtol=1e-6, atol=1e-6 * float(forward.detach().abs().max()))
    (first,) = torch.autograd.grad(network(t, x.requires_grad_()).square().sum(), x, create_graph=True)
    first.square().sum().backward()
    assert torch.isfinite(network.lift.weight.grad).all()


PRODUCTS = [
    Torus(3),
    Torus(2, periods=[1.0, 3.0]),
    Power(Sphere(2), 3),
    Product(Torus(2), Power(SO3(), 2), Euclidean(2), weights=[1.0, 4.0, 0.5]),
]


@pytest.mark.parametrize("manifold", PRODUCTS, ids=repr)
def test_factors_are_columns_of_the_whole(manifold):
    """Embedding, coordinates and frame of a factor are its columns of those of the product."""
    (x,), factors = batch(manifold, 1)[1], factors_of(manifold)
    assert sum(f.manifold.dim for f in factors) == manifold.dim
    flat, coordinates, start = manifold.embed(x), manifold.coordinates(x), 0
    for f in factors:
        size = f.manifold.origin().numel()
        part = x.flatten()[start : start + size].reshape(f.manifold.point_shape)
        weight = flat[list(f.embedding)].norm() / f.manifold.embed(part).norm()  # a metric's weight scales embeddings
        assert torch.allclose(flat[list(f.embedding)], weight * f.manifold.embed(part), atol=1e-6)
        assert torch.equal(coordinates[list(f.coordinates)], f.manifold.coordinates(part))
        own = torch.zeros(manifold.frame_dim)
        own[list(f.frame)] = torch.arange(1.0, 1 + len(f.frame))
        vector = manifold.from_frame(x, own).flatten()
        alone = f.manifold.from_frame(part, torch.arange(1.0, 1 + len(f.frame)))
        assert torch.allclose(vector[start : start + size], alone.flatten(), atol=1e-6)
        assert (vector != 0).sum() == (alone != 0).sum()
        start += size
    assert start == x.numel()


@pytest.mark.parametrize("manifold", PRODUCTS, ids=repr)
def test_perceptrons_of_factors_see_their_factor_only(manifold):
    network = TangentMLP(default_process(manifold), width=8, n_frequencies=0, factor_width=8, factor_frequencies=3)
    t, x = batch(manifold)
    assert (network(t, x) == 0).all()
    generator = torch.Generator().manual_seed(0)
    assert network.factors is not None
    torch.nn.init.normal_(network.factors.head.weight, generator=generator)

    def outputs(y):
        return network.factors(y, network.process.noise_levels(t), network.time(t))

    moved = manifold.exp(x, manifold.random_tangent(x, generator=generator))
    before, start = outputs(x), 0
    for f in factors_of(manifold):
        size = f.manifold.origin().numel()
        y = x.flatten(1).clone()
        y[:, start : start + size] = moved.flatten(1)[:, start : start + size]
        changed = (outputs(y.reshape(x.shape)) - before).abs().amax(0) > 1e-6
        assert changed.nonzero().flatten().tolist() == list(f.frame)
        start += size
    network(t, x).square().sum().backward()
    torch.nn.init.normal_(network.head.weight, generator=generator)
    for name, parameter in network.factors.named_parameters():
        assert parameter.grad is not None and (parameter.grad != 0).any(), name
    _, slope = torch.func.jvp(outputs, (x,), (manifold.random_tangent(x, generator=generator),))
    assert torch.isfinite(slope).all() and (slope != 0).any()


def test_perceptrons_of_factors_need_a_product():
    with pytest.raises(ConfigError, match="one factor"):
        TangentMLP(default_process(Sphere(2)), factor_width=8)


def test_a_condition_of_the_wrong_width_is_refused():
    network = TangentMLP(default_process(Sphere(2)), width=8, n_frequencies=4, cond_dim=3)
    t, x = torch.tensor([0.5]), torch.tensor([[0.0, 0.0, 1.0]])
    for cond in (None, torch.ones(1, 2), torch.ones(1, 4)):
        with pytest.raises(ConfigError, match="cond_dim=3"):
            network(t, x, cond)
    assert network(t, x, torch.ones(1, 3)).shape == (1, 3)
