"""Kernels of pairs of points: heat kernels, Gaussians and distances."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Sphere, Torus
from manifold_diffusion.metrics import ChordalGaussian, Energy, GeodesicGaussian, HeatGram, pairwise

from .points import S2, cloud, generator


@pytest.mark.parametrize("manifold", [Sphere(1), S2, Sphere(6), SO3()], ids=repr)
def test_where_kernels_are_tabulated_the_chord_is_twice_the_sine_of_half_the_distance(manifold):
    x, y = manifold.random_uniform(100, generator=generator(), dtype=torch.float64), cloud(manifold, 100)
    chord = (manifold.embed(x) - manifold.embed(y)).norm(dim=-1)
    assert torch.allclose(chord, 2 * (manifold.dist(x, y) / 2).sin(), atol=1e-12)


@pytest.mark.parametrize("tau", [1.0, 0.1, 6e-3, 4e-3, 1e-4])
@pytest.mark.parametrize("manifold", [S2, Sphere(5), SO3(), Torus(2), Hyperboloid(3)], ids=repr)
def test_pairwise_heat_kernel_is_the_heat_kernel(manifold, tau):
    x, y = cloud(manifold, 30, 0, 3 * tau**0.5), cloud(manifold, 40, 1, 3 * tau**0.5)
    (got,) = pairwise.heat_density(manifold, x, y, [tau])
    exact = heat_kernel(manifold).log_prob(x[:, None], y[None], tau)
    likely = exact > exact.max() - 40
    assert torch.allclose(got.log()[likely], exact[likely], atol=2e-5, rtol=0)


@pytest.mark.parametrize("gram", [HeatGram, ChordalGaussian, Energy, GeodesicGaussian])
@pytest.mark.parametrize("manifold", [S2, SO3(), Torus(2)], ids=repr)
def test_grams_are_symmetric_and_keep_the_dtype(gram, manifold):
    x = cloud(manifold, 20, dtype=torch.float32)
    k = gram(manifold)(x, x)
    assert k.dtype == torch.float32 and torch.allclose(k, k.mT, atol=2e-5)


@pytest.mark.parametrize("gram", [HeatGram(S2), ChordalGaussian(S2)], ids=repr)
def test_default_kernels_are_positive_definite_and_the_geodesic_gaussian_is_not(gram):
    angle = torch.arange(60, dtype=torch.float64) * (2 * math.pi / 60)
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)  # a great circle
    assert float(torch.linalg.eigvalsh(gram(x, x))[0]) > -1e-5
    assert float(torch.linalg.eigvalsh(GeodesicGaussian(S2, 0.1)(x, x))[0]) < -0.1


def test_heat_gram_scales_with_the_data():
    x = cloud(Euclidean(3), 400)
    small, large = HeatGram.from_data(Euclidean(3), x), HeatGram.from_data(Euclidean(3), 10 * x)
    assert torch.allclose(torch.tensor(large.taus), 100 * torch.tensor(small.taus))
    assert torch.allclose(small(x, x), large(10 * x, 10 * x), atol=1e-6)
    with pytest.raises(DataError, match="median distance is 0"):
        HeatGram.from_data(S2, torch.eye(3)[:1].expand(10, 3))
    with pytest.raises(ConfigError, match="taus"):
        HeatGram(S2, (0.1, -1.0))
