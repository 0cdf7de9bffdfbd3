"""Kernels along the data, and mixtures of densities: quadrature, closed forms, invariance, samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Power, Product, Sphere, Torus
from manifold_diffusion.metrics import (
    AdaptiveKernelDensity,
    DensityMixture,
    KernelDensity,
    KernelMixture,
    TangentKernelMixture,
)
from manifold_diffusion.models import LearnedKernelDensity

from .points import S2, cloud, generator

MANIFOLDS = [S2, Sphere(4), Torus(2), SO3(), Hyperboloid(2), Euclidean(3), Product(S2, Euclidean(1)), Power(S2, 2)]


def fitted(manifold, n=120, dtype=torch.float64, **options):
    train, val = cloud(manifold, n, 0, dtype=dtype), cloud(manifold, n // 2, 1, dtype=dtype)
    return TangentKernelMixture.fit(manifold, train, val, **{"floors": (0.1,), **options})


def circle(n, seed, noise=5e-3):
    """Points near the latitude 0.8."""
    g = generator(seed)
    phi = 2 * math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    theta = 0.8 + noise * torch.randn(n, generator=g, dtype=torch.float64)
    return torch.stack([theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos()], -1)


def test_integrates_to_one_on_the_sphere():
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(80))
    azimuth = torch.arange(160, dtype=torch.float64) * (2 * math.pi / 160)
    z, phi = nodes[:, None], azimuth[None]
    rho = (1 - z * z).sqrt()
    grid = torch.stack([rho * phi.cos(), rho * phi.sin(), z.expand(80, 160)], -1).reshape(-1, 3)
    density = TangentKernelMixture.fit(S2, cloud(S2, 60), cloud(S2, 30, 1), (5, 20), (0.3, 3.0), (0.15,))
    mass = (density.log_prob(grid).exp().reshape(80, 160).sum(1) * weights).sum() * (2 * math.pi / 160)
    assert float(mass) == pytest.approx(1, abs=1e-6)


def test_integrates_to_one_on_the_torus_however_wide():
    """Uniform data: neighbours' covariances beyond the injectivity radius are cut."""
    torus, g = Torus(2), generator()
    train = torus.random_uniform(40, generator=g, dtype=torch.float64)
    density = TangentKernelMixture.fit(torus, train, train[:10], (30,), (10.0,), (0.1,))
    line = torch.arange(200, dtype=torch.float64) * (2 * math.pi / 200) - math.pi + 0.01
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    assert float(density.log_prob(grid).exp().mean()) * (2 * math.pi) ** 2 == pytest.approx(1, abs=1e-6)


def test_floors_are_cut_where_the_space_is_smaller():
    torus = Torus(1, [0.01])
    train = torus.random_uniform(40, generator=generator(), dtype=torch.float64)
    density = TangentKernelMixture.fit(torus, train, train[:10])
    line = 0.01 * ((torch.arange(400, dtype=torch.float64) + 0.5) / 400 - 0.5)
    assert float(density.log_prob(line[:, None]).exp().mean()) * 0.01 == pytest.approx(1, abs=1e-9)


def test_in_flat_space_it_is_the_mixture_of_normals_with_the_neighbours_covariances():
    M = Euclidean(3)
    density = fitted(M, neighbours=(4, 9), factors=(0.5,))
    c, x = density.centres, cloud(M, 15, 2)
    order = torch.cdist(c, c).argsort(1)[:, 1:]
    expected = torch.zeros(15, dtype=torch.float64)
    for shape, weight in zip(density.shapes, density.weights, strict=True):
        local = c[order[:, : shape.neighbours]] - c[:, None]
        covariance = 0.5 * local.mT @ local / shape.neighbours + 0.01 * torch.eye(3, dtype=torch.float64)
        law = torch.distributions.MultivariateNormal(c, covariance)
        expected += weight * law.log_prob(x[:, None]).exp().mean(1)
    assert density.uniform_weight == 0
    assert torch.allclose(density.log_prob(x).exp(), expected, rtol=1e-9)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_samples_follow_the_density(manifold):
    """With m = (p + q) / 2, E_p[q / m] = E_q[p / m]: both are the integral of p q / m."""
    density = fitted(manifold)
    x = density.sample(1500, generator=generator(3))
    manifold.check_point(x)
    other = fitted(manifold, neighbours=(10,), factors=(0.3,), floors=(0.15,))
    ratio = (other.log_prob(x) - torch.logaddexp(other.log_prob(x), density.log_prob(x)) + math.log(2)).exp()
    y = other.sample(1500, generator=generator(4))
    back = (density.log_prob(y) - torch.logaddexp(other.log_prob(y), density.log_prob(y)) + math.log(2)).exp()
    z = (ratio.mean() - back.mean()) / (ratio.var() / 1500 + back.var() / 1500).sqrt()
    assert z.abs() < 5
    far = manifold.exp(y, 0.5 * manifold.random_tangent(y, generator=generator(5)))  # negative control
    off = (density.log_prob(far) - torch.logaddexp(other.log_prob(far), density.log_prob(far)) + math.log(2)).exp()
    assert ((ratio.mean() - off.mean()) / (ratio.var() / 1500 + off.var() / 1500).sqrt()).abs() > 5


def test_moves_with_the_data():
    rotation = SO3().random_uniform(1, generator=generator(), dtype=torch.float64)[0]
    train, val, x = cloud(S2, 80), cloud(S2, 40, 1), cloud(S2, 30, 2)
    one = TangentKernelMixture.fit(S2, train, val, (6,), (0.5,), (0.05,))
    two = TangentKernelMixture.fit(S2, train @ rotation.mT, val @ rotation.mT, (6,), (0.5,), (0.05,))
    assert torch.allclose(one.log_prob(x), two.log_prob(x @ rotation.mT), atol=1e-8)


def test_data_on_a_curve_gain_from_kernels_along_it():
    train, val, test = circle(400, 0), circle(200, 1), circle(1000, 2)
    along, round_ = (kind.fit(S2, train, val) for kind in (TangentKernelMixture, KernelMixture))
    gain = along.log_prob(test) - round_.log_prob(test)
    assert gain.mean() > 0.15 and gain.mean() > 5 * gain.std() / 1000**0.5
    scattered = S2.random_uniform(600, generator=generator(), dtype=torch.float64)  # nothing to gain
    train, val, test = scattered.split(200)
    along, round_ = (kind.fit(S2, train, val) for kind in (TangentKernelMixture, KernelMixture))
    assert (along.log_prob(test) - round_.log_prob(test)).mean() < 0.05


def test_repeated_points_and_single_precision():
    train = circle(100, 0).repeat(3, 1)
    density = TangentKernelMixture.fit(S2, train, circle(50, 1), neighbours=(2, 5))
    assert torch.isfinite(density.log_prob(train)).all()
    single = TangentKernelMixture.fit(S2, train.float(), circle(50, 1).float(), neighbours=(2, 5))
    assert single.log_prob(train.float()).dtype == torch.float32 and single.sample(3).dtype == torch.float32
    assert torch.allclose(single.log_prob(train.float()).double(), density.log_prob(train), atol=1e-2)


def test_bad_input_is_refused():
    x = cloud(S2, 10)
    with pytest.raises(DataError, match="too few"):
        TangentKernelMixture.fit(S2, x[:3], x, neighbours=(5,))
    with pytest.raises(ConfigError, match="floors"):
        TangentKernelMixture.fit(S2, x, x, floors=(1e-6,))
    with pytest.raises(ConfigError, match="neighbours must be"):
        TangentKernelMixture.fit(S2, x, x, neighbours=())
    with pytest.raises(ManifoldError):
        TangentKernelMixture.fit(S2, 2 * x, x)
    with pytest.raises(ManifoldError):
        fitted(S2).log_prob(2 * x)


# ---------------------------------------------------------------------- mixtures of densities


def test_mixture_of_densities_finds_what_the_points_come_from():
    a, b = fitted(S2, floors=(0.05,)), fitted(S2, neighbours=(40,), factors=(3.0,), floors=(0.4,))
    truth = DensityMixture((a, b), (0.3, 0.7))
    val = truth.sample(2000, generator=generator(7))
    found = DensityMixture.fit([a, b], val)
    share = a.log_prob(val).exp() / truth.log_prob(val).exp()
    error = share.std() / 2000**0.5 / (share - b.log_prob(val).exp() / truth.log_prob(val).exp()).square().mean()
    assert abs(found.weights[0] - 0.3) < 5 * float(error)
    assert found.val_nll is not None and found.val_nll.value <= -float(truth.log_prob(val).mean()) + 1e-9
    assert torch.allclose(
        truth.log_prob(val).exp(), 0.3 * a.log_prob(val).exp() + 0.7 * b.log_prob(val).exp(), rtol=1e-6
    )


def test_mixture_of_densities_is_no_worse_than_its_members():
    train, val = circle(200, 0), circle(200, 1)
    members = [kind.fit(S2, train, val) for kind in (KernelMixture, AdaptiveKernelDensity, TangentKernelMixture)]
    mixture = DensityMixture.fit(members, val)
    assert mixture.val_nll is not None
    assert mixture.val_nll.value <= min(member.val_nll.value for member in members) + 1e-6


def test_mixture_of_densities_refuses_what_it_cannot_weigh():
    class Broken:
        def __init__(self, value):
            self.value = value

        def log_prob(self, x):
            return torch.full((len(x),), self.value)

        def sample(self, n, *, generator=None):
            return cloud(S2, n)

    x = cloud(S2, 10)
    for members, message in (
        ([Broken(math.nan)], "Member 0"),
        ([Broken(-math.inf)], "vanish"),
        ([Broken(0.0), Broken(math.inf)], "Member 1"),
    ):
        with pytest.raises(DataError, match=message):
            DensityMixture.fit(members, x)
    with pytest.raises(ConfigError, match="at least one"):
        DensityMixture.fit([], x)
    with pytest.raises(ConfigError, match="sum 1"):
        DensityMixture((Broken(0.0),), (0.5,))
    other = Torus(3).random_uniform(20, generator=generator())
    members = [KernelMixture.fit(S2, x, x), Broken(0.0), KernelMixture.fit(Torus(3), other, other)]
    with pytest.raises(ConfigError, match=r"one manifold; got Sphere\(2\), Torus\(3\)"):
        DensityMixture.fit(members, x)


# ---------------------------------------------------------------------- all densities

DENSITIES = {
    **{kind.__name__: kind.fit for kind in (KernelDensity, KernelMixture, AdaptiveKernelDensity, TangentKernelMixture)},
    "HeatKernelMixture": lambda M, train, val: KernelMixture.fit(M, train, val).mixture,
    "DensityMixture": lambda M, train, val: DensityMixture.fit(
        [KernelDensity.fit(M, train, val), TangentKernelMixture.fit(M, train, val)], val
    ),
    "LearnedKernelDensity": lambda M, train, val: LearnedKernelDensity(M, train),
}


@pytest.mark.parametrize("M", [S2, Torus(4), SO3(), Hyperboloid(2)], ids=repr)
@pytest.mark.parametrize("fit", DENSITIES.values(), ids=DENSITIES)
def test_any_batch_of_points_and_any_number_of_samples(fit, M):
    x = cloud(M, 24, 1)
    density = fit(M, cloud(M, 40), x)
    rows = density.log_prob(x)
    assert rows.shape == (24,)
    for batch in ((4, 6), (2, 1, 12)):
        shaped = density.log_prob(x.reshape(*batch, *M.point_shape))
        torch.testing.assert_close(shaped, rows.reshape(batch), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(density.log_prob(x[5]), rows[5], rtol=1e-9, atol=1e-9)
    assert density.log_prob(x[:0]).shape == (0,)
    none = density.sample(0, generator=generator())
    assert none.shape == (0, *M.point_shape)
    assert none.dtype == x.dtype
    with pytest.raises(ConfigError, match="n >= 0"):
        density.sample(-1)
