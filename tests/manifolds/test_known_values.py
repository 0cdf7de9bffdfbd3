"""Divergences, gradients, volumes, spectra and chords against their known values."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion import AnalyticDiffusion, RiemannianFlow
from manifold_diffusion.heat_kernels._group_law import GroupLaw
from manifold_diffusion.manifolds import (
    SO,
    SO3,
    SU,
    Ball,
    Box,
    Compact,
    ComplexProjective,
    ConstantCurvature,
    Euclidean,
    Grassmann,
    Hemisphere,
    Hyperboloid,
    Manifold,
    Power,
    Product,
    RealProjective,
    Simplex,
    Spectral,
    Sphere,
    Stiefel,
    Torus,
    U,
    divergence,
    gradient,
)
from manifold_diffusion.testing import instances

from .draws import BUILT_IN, F64, points, seeded


def test_divergence_of_known_fields() -> None:
    e = torch.tensor([0.3, -0.5, 0.8, 0.1], dtype=F64)
    sphere, hyperboloid = Sphere(3), Hyperboloid(3)
    x = sphere.random_uniform(16, generator=seeded(), dtype=F64)
    _, div = divergence(sphere, lambda p: sphere.to_tangent(p, e.expand_as(p)), x)
    torch.testing.assert_close(div, -3 * (x @ e))
    # On the hyperboloid x itself spans the normal space with <x, x> = -1: div P e = +n <x, e>.
    y = points(hyperboloid, 16)
    _, div = divergence(hyperboloid, lambda p: hyperboloid.to_tangent(p, e.expand_as(p)), y)
    torch.testing.assert_close(div, 3 * ((y[:, 1:] * e[1:]).sum(-1) - y[:, 0] * e[0]))
    rotation_field = SO3()
    r = rotation_field.random_uniform(16, generator=seeded(), dtype=F64)
    _, div = divergence(rotation_field, lambda p: rotation_field.from_frame(p, e[:3].expand(*p.shape[:-2], 3)), r)
    torch.testing.assert_close(div, torch.zeros(16, dtype=F64), atol=1e-12, rtol=0)


def test_gradient_of_a_linear_function() -> None:
    m, x = Sphere(2), Sphere(2).random_uniform(8, generator=seeded(), dtype=F64)
    e = torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    torch.testing.assert_close(gradient(m, lambda p: p @ e, x), m.to_tangent(x, e.expand_as(x)))


@pytest.mark.parametrize(
    ("m", "volume"),
    [
        (Sphere(1), 2 * math.pi),
        (Sphere(2), 4 * math.pi),
        (Sphere(3), 2 * math.pi**2),
        (Torus(3), (2 * math.pi) ** 3),
        (SO3(), 8 * math.pi**2),
    ],
    ids=str,
)
def test_volume(m: Compact, volume: float) -> None:
    assert m.volume == pytest.approx(volume, rel=1e-12)


@pytest.mark.parametrize("m", [pytest.param(m, id=name) for name, m in instances(Spectral)])
def test_eigenvalues_obey_the_law_of_weyl(m: Spectral) -> None:
    # N(lambda) ~ omega_d volume lambda^(d/2) / (2 pi)^d with an error of a boundary term: loose, but it ties volume to
    # spectrum.
    levels = 40 if m.dim < 3 else 16
    count = float(m.multiplicities(levels).sum() - m.multiplicities(levels)[-1] / 2)
    ball = math.pi ** (m.dim / 2) / math.gamma(m.dim / 2 + 1)
    # Curvature moves the spectrum of a sphere and of a group.
    shift = ((m.dim - 1) / 2) ** 2 if isinstance(m, Sphere) else 0.0
    if isinstance(m, SO | SU | U):
        shift = GroupLaw(m).rho_squared
    weyl = ball * m.volume * float(m.eigenvalues(levels)[-1] + shift) ** (m.dim / 2) / (2 * math.pi) ** m.dim
    assert count / weyl == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("m", [*BUILT_IN, Product(Sphere(2), Euclidean(1), weights=[2.0, 0.5])])
def test_chord_of_the_embedding_never_exceeds_the_distance(m: Manifold) -> None:
    x, y = points(m, 300, seed=0, spread=2.0), points(m, 300, seed=1, spread=2.0)
    chord = (m.embed(x) - m.embed(y)).norm(dim=-1)
    assert float((chord - m.dist(x, y)).max()) < 1e-9
    near = m.exp(x, 1e-4 * m.random_tangent(x, generator=seeded(2)))
    assert float((m.embed(x) - m.embed(near)).abs().amax(-1).min()) > 1e-9


@pytest.mark.parametrize(
    "build",
    [
        Sphere, Torus, RealProjective, ComplexProjective, Simplex, Hemisphere, Ball,
        lambda n: Box([0.0] * n, [3.0] * n), lambda n: ConstantCurvature(n, 1e-4),
        lambda n: Product(Sphere(n), Torus(n), weights=[1e-3, 1e3]),
        lambda n: Stiefel(n, n - 1), lambda n: Grassmann(n, n // 2), lambda n: Power(Sphere(2), n),
    ],
)  # fmt: skip
def test_log_volume_is_finite_where_the_volume_is_out_of_range(build) -> None:
    small = build(4)
    assert small.log_volume == pytest.approx(math.log(small.volume), rel=1e-12)
    large = build(700 if build(2).dim <= 4 else 60)
    assert math.isfinite(large.log_volume) and large.volume >= 0


def test_densities_in_high_dimension_are_finite() -> None:
    flat = RiemannianFlow(Torus(400))
    log_p = flat.log_prob(torch.zeros(1, 400), estimator="hutchinson")
    torch.testing.assert_close(log_p, torch.tensor([-400 * math.log(2 * math.pi)]))
    for n in (168, 455):
        x = Sphere(n).random_uniform(8, generator=seeded())
        assert bool(AnalyticDiffusion(Sphere(n), x).log_prob(x[:1]).isfinite())
