"""Power(M, k) is Product(M, ..., M), with the copies as a batch axis."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import (
    SO3,
    Compact,
    Euclidean,
    Hyperboloid,
    LieGroup,
    Manifold,
    Power,
    Product,
    Sphere,
    Torus,
    divergence,
    geodesic_symmetry,
)
from manifold_diffusion.plotting import plot
from manifold_diffusion.processes import BrownianMotion, Langevin, ProductProcess, default_process, default_schedule

from .draws import seeded

F64 = torch.float64
COPIED = [
    Sphere(2),
    SO3(),
    Hyperboloid(2),
    Torus(2, periods=[1.0, 3.0]),
    Product(Sphere(1), Euclidean(2), weights=[2, 1]),
]
copied = pytest.mark.parametrize("m", COPIED, ids=repr)


def pair(m: Manifold) -> tuple[Power, Product]:
    return Power(m, 3), Product(m, m, m)


def points(m: Manifold, n: int, seed: int) -> Tensor:
    origin = m.origin(dtype=F64).expand(n, *m.point_shape)
    return m.exp(origin, 0.4 * m.random_tangent(origin, generator=seeded(seed)))


@copied
def test_methods_are_those_of_the_product(m: Manifold) -> None:
    power, product = pair(m)
    x, y = points(power, 8, 1), points(power, 8, 2)
    v, u = (0.3 * power.random_tangent(x, generator=seeded(s)) for s in (3, 4))
    flat = {id(a): a.flatten(1) for a in (x, y, v, u)}

    for name, args in {
        "inner": (x, u, v), "norm": (x, v), "dist": (x, y), "exp": (x, v), "log": (x, y), "transport": (x, y, v),
        "to_tangent": (x, v), "project": (x,), "log_det_exp": (x, v), "divergence_correction": (x, v),
        "tangent_basis": (x,), "coordinates": (x,), "embed": (x,), "defect": (x,),
    }.items():  # fmt: skip
        got = getattr(power, name)(*args)
        expected = getattr(product, name)(*[flat[id(a)] for a in args])
        torch.testing.assert_close(got.reshape(expected.shape), expected, rtol=1e-12, atol=1e-12, msg=name)
    a = torch.randn(8, power.frame_dim, generator=seeded(5), dtype=F64)
    torch.testing.assert_close(power.from_frame(x, a).flatten(1), product.from_frame(flat[id(x)], a))
    assert (power.dim, power.frame_dim, power.isometric) == (product.dim, product.frame_dim, product.isometric)
    assert power.injectivity_radius == product.injectivity_radius
    assert power.random_frequencies(5, 4.0, seeded()).shape == product.random_frequencies(5, 4.0, seeded()).shape


@copied
def test_kernel_is_that_of_the_product(m: Manifold) -> None:
    power, product = pair(m)
    k, reference = heat_kernel(power), heat_kernel(product)
    x0 = points(power, 6, 1)
    for tau in (1e-3, 0.4, torch.linspace(0.01, 2, 6, dtype=F64)):
        s = k.sample_with_score(x0, tau, seeded(2))
        x, flat, start = s.x, s.x.flatten(1), x0.flatten(1)
        torch.testing.assert_close(k.log_prob(x, x0, tau), reference.log_prob(flat, start, tau))
        torch.testing.assert_close(k.score(x, x0, tau).flatten(1), reference.score(flat, start, tau))
        torch.testing.assert_close(s.score, k.score(x, x0, tau), rtol=1e-5, atol=1e-5)
        assert k.sample(x0, tau, seeded(3)).shape == x0.shape
    centres, times = x0[:4], torch.linspace(0.1, 1, 4, dtype=F64)
    expected = torch.stack([k.log_prob(x, c.expand_as(x), t) for c, t in zip(centres, times, strict=True)], 1)
    torch.testing.assert_close(k.pairwise_log_prob(x, centres, times), expected)


def test_divergence_is_that_of_the_product() -> None:
    power, product = pair(Sphere(2))
    x = points(power, 5, 1)
    w = torch.randn(9, 9, generator=seeded(2), dtype=F64)
    div = divergence(power, lambda p: power.to_tangent(p, (p.flatten(-2) @ w).sin().reshape(p.shape)), x)[1]
    expected = divergence(product, lambda p: product.to_tangent(p, (p @ w).sin()), x.flatten(1))[1]
    torch.testing.assert_close(div, expected)


def test_capabilities_follow_the_manifold() -> None:
    kinds = {m: (isinstance(m, Compact), isinstance(m, LieGroup)) for m in (Power(c, 2) for c in COPIED)}
    assert list(kinds.values()) == [(True, False), (True, True), (False, False), (True, True), (False, False)]
    g = Power(SO3(), 4)
    x, y = g.random_uniform(2, generator=seeded(), dtype=F64)
    torch.testing.assert_close(g.compose(x, g.inverse(x)), g.identity(dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(g.compose(x, y), x @ y)
    assert g.volume == pytest.approx(SO3().volume ** 4)


def test_a_volume_beyond_the_range_of_floats_has_a_logarithm() -> None:
    m = Power(SO3(), 500)
    assert m.volume == math.inf and m.log_volume == pytest.approx(500 * math.log(8 * math.pi**2))
    x = m.random_uniform(2, generator=seeded())
    prior = BrownianMotion(m).prior
    torch.testing.assert_close(prior.log_prob(x), torch.full((2,), -m.log_volume))
    wide = Product(*[SO3()] * 3, weights=[2.0, 1.0, 1.0])
    assert wide.log_volume == pytest.approx(math.log(wide.volume))


def test_processes_of_powers() -> None:
    assert isinstance(default_process(Power(Euclidean(3), 4)), Langevin)
    assert isinstance(default_process(Power(SO3(), 4)), BrownianMotion)
    assert default_schedule(Power(Sphere(2), 5)).tau_max == default_schedule(Sphere(2)).tau_max
    process = ProductProcess(BrownianMotion(Power(SO3(), 2)), Langevin(Power(Euclidean(3), 2)))
    m = process.manifold
    x0 = points(m, 4, 1).float()
    path = process.sample(x0, torch.full((4,), 0.4), seeded(2))
    assert path.target is not None and path.target.shape == x0.shape == (4, 24)
    m.check_tangent(path.x_t, path.target)


def test_ornstein_uhlenbeck_on_a_power_is_that_of_flat_space() -> None:
    copies, flat = Langevin(Power(Euclidean(2), 3)), Langevin(Euclidean(6))
    x0 = torch.randn(5, 3, 2, generator=seeded(1), dtype=F64)
    t = torch.linspace(0.1, 0.9, 5, dtype=F64)
    path, reference = copies.sample(x0, t, seeded(2)), flat.sample(x0.flatten(1), t, seeded(2))
    torch.testing.assert_close(path.x_t.flatten(1), reference.x_t)
    expected = flat.log_transition(reference.x_t, x0.flatten(1), t)
    torch.testing.assert_close(copies.log_transition(path.x_t, x0, t), expected)


def test_symmetry_is_that_of_each_copy() -> None:
    m = Power(Hyperboloid(2), 3)
    x, y = points(m, 6, 1), points(m, 6, 2)
    v = m.random_tangent(y, generator=seeded(3))
    symmetry = geodesic_symmetry(m)
    assert symmetry is not None
    image, turned = symmetry(x, y, v)
    torch.testing.assert_close(image, m.exp(x, -m.log(x, y)))
    torch.testing.assert_close(m.norm(image, turned), m.norm(y, v))
    assert geodesic_symmetry(Power(Product(Sphere(2), Sphere(1)), 2)) is not None


@pytest.mark.parametrize("m", [Power(SO3(), 2), Power(Euclidean(2), 2), Power(Hyperboloid(2), 2)], ids=repr)
def test_model_trains_and_has_a_likelihood(m: Power, tmp_path: Path) -> None:
    data = heat_kernel(m).sample(m.origin().expand(128, *m.point_shape), 0.05, seeded(1))
    model = RiemannianDiffusion(m)
    model.fit(data, max_steps=20, batch_size=64, progress=False)
    assert bool(torch.isfinite(model.log_prob(data[:3])).all())
    model.save_pretrained(tmp_path / "model")
    again = RiemannianDiffusion.from_pretrained(tmp_path / "model")
    assert again.manifold == m
    plot(m, samples=data, path=tmp_path / "picture.png", resolution=16)


def test_mixture_on_a_power_is_the_sum_over_centres() -> None:
    m = Power(Sphere(2), 2)
    centres, x = points(m, 3, 1), points(m, 5, 2)
    log_p = torch.stack([heat_kernel(m).log_prob(x, c.expand_as(x), 0.2) for c in centres]).logsumexp(0) - math.log(3)
    mixture = HeatKernelMixture(m, centres, 0.2)
    torch.testing.assert_close(mixture.log_prob(x), log_p)
    assert mixture.score(x, 0.1).shape == x.shape


def test_configuration_round_trip() -> None:
    m = Power(Product(SO3(), Euclidean(3)), 7)
    assert from_config(to_config(m)) == m and repr(m) == "Power(Product(SO3(), Euclidean(3)), 7)"
    assert Power(SO3(), 2) != Power(SO3(), 3)


def test_impossible_powers_are_refused() -> None:
    with pytest.raises(ConfigError, match="k >= 1"):
        Power(SO3(), 0)
    with pytest.raises(ConfigError, match="needs a Manifold"):
        Power(3, 2)  # pyright: ignore[reportArgumentType]

    class Line(Euclidean.__base__):
        inner, to_tangent, project, exp, log = (
            getattr(Euclidean, n) for n in ("inner", "to_tangent", "project", "exp", "log")
        )

    with pytest.raises(CapabilityError, match="no heat kernel"):
        heat_kernel(Power(Line(1, (1,)), 2))
