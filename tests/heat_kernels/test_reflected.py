"""Reflected heat kernels and random walks, and models on domains with boundary."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy.special import eval_legendre
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import ConfigError
from manifold_diffusion.heat_kernels import geodesic_random_walk, heat_kernel
from manifold_diffusion.manifolds import (
    SO3,
    Ball,
    Box,
    Domain,
    HalfSpace,
    Hemisphere,
    Manifold,
    Polytope,
    Product,
    Restricted,
    Sphere,
    divergence,
    gradient,
)
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, LogSchedule, default_schedule

from .points import generator

F32, F64 = torch.float32, torch.float64
TRIANGLE = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.0, 0.0, 2.0])
CAP = Restricted(Sphere(2), lambda x: x[..., -1] - 0.2)


def inner_points(m: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    origin = m.origin(dtype=dtype).expand(n, *m.point_shape)
    return m.move(origin, m.random_tangent(origin, generator=generator(seed)))


# ---------------------------------------------------------------------- heat kernels

KERNELS = [HalfSpace(2), Hemisphere(2), Hemisphere(3), Box([0.0, -1.0], [1.0, 2.0])]
kernels = pytest.mark.parametrize("m", KERNELS, ids=repr)


def test_hemisphere_agrees_with_its_legendre_series() -> None:
    K, x, x0 = (
        heat_kernel(Hemisphere(2)),
        *Hemisphere(2).random_uniform(12, generator=generator(), dtype=F64).split([11, 1]),
    )
    mirror = torch.tensor([-1.0, 1.0, 1.0], dtype=F64)
    for tau in (0.1, 0.5, 3.0):
        p = np.zeros(11)
        for level in range(80):
            weight = (2 * level + 1) / (4 * math.pi) * math.exp(-level * (level + 1) * tau / 2)
            for source in (x0, mirror * x0):
                p += weight * eval_legendre(level, (x * source).sum(-1).numpy())
        np.testing.assert_allclose(K.log_prob(x, x0, tau).exp(), p, rtol=1e-6, atol=1e-12)


def test_intervals_agree_with_forty_digits() -> None:
    m, x0 = Box([-1.0], [2.0]), 0.3
    for tau in (1e-6, 1e-3, 0.1, 0.5, 1.0, 1.2, 5.0, 30.0):
        for x in (max(-1 + 1e-6, x0 - 2.5 * math.sqrt(tau)), min(2 - 1e-6, x0 + 0.7 * math.sqrt(tau))):
            with mp.workdps(40):

                def density(y: mp.mpf, t: float = tau) -> mp.mpf:
                    images = [s + 6 * j for j in range(-12, 13) for s in (mp.mpf(x0), -2 - mp.mpf(x0))]
                    return sum(mp.exp(-((y - s) ** 2) / (2 * t)) for s in images) / mp.sqrt(2 * mp.pi * t)

                log_p = float(mp.log(density(mp.mpf(x))))
                slope = float(mp.diff(lambda y: mp.log(density(y)), mp.mpf(x)))
            for dtype, tolerance in ((F64, 1e-9), (F32, 1e-4)):
                point, source = torch.tensor([x], dtype=dtype), torch.tensor([x0], dtype=dtype)
                blur = 4 * torch.finfo(dtype).eps / tau * (1 + math.sqrt(tau)) * 3
                K = heat_kernel(m)
                assert float(K.log_prob(point, source, tau)) == pytest.approx(
                    log_p, rel=tolerance, abs=tolerance + blur
                )
                assert float(K.score(point, source, tau)) == pytest.approx(slope, rel=tolerance, abs=tolerance + blur)


@kernels
def test_kernels_are_neumann_symmetric_and_have_their_score_as_gradient(m: Domain) -> None:
    K, x, x0 = heat_kernel(m), inner_points(m, 50), inner_points(m, 50, 1)
    for tau in (0.02, 0.4):
        torch.testing.assert_close(K.log_prob(x, x0, tau), K.log_prob(x0, x, tau), rtol=1e-8, atol=1e-8)
        slope = gradient(m, lambda p, t=tau: K.log_prob(p, x0, t), x)
        torch.testing.assert_close(K.score(x, x0, tau), slope, rtol=1e-5, atol=1e-5)
        edge = m.exp(x, -m.per_point(m.boundary_distance(x)) * m.inward_normal(x))
        flow = m.inner(edge, K.score(edge, x0, tau), m.inward_normal(edge))
        assert float((flow.abs() / (1 + m.norm(edge, K.score(edge, x0, tau)))).max()) < 1e-7
    h, tau = 1e-4, 0.4
    _, laplacian = divergence(m, lambda p: K.score(p, x0, tau) * K.log_prob(p, x0, tau).exp().unsqueeze(-1), x)
    rate = (K.log_prob(x, x0, tau + h).exp() - K.log_prob(x, x0, tau - h).exp()) / (2 * h)
    torch.testing.assert_close(laplacian / 2, rate, rtol=1e-3, atol=1e-5)


@kernels
def test_samples_follow_the_kernel(m: Domain) -> None:
    """Integral of p f = mean of f: importance weights from a wider kernel, also the total mass and the semigroup."""
    K, n = heat_kernel(m), 100_000
    x0 = inner_points(m, 1)[0].expand(n, *m.point_shape)
    wide = K.sample(x0, 0.6, generator(1))
    ratio = (K.log_prob(wide, x0, 0.3) - K.log_prob(wide, x0, 0.6)).exp()
    two = K.sample(K.sample(x0, 0.1, generator(2)), 0.2, generator(3))
    features = lambda x: torch.stack([torch.ones(n, dtype=F64), x[:, 0], x[:, 1], x[:, 0] * x[:, 1].square()], -1)  # noqa: E731
    integral = features(wide) * ratio.unsqueeze(-1)

    def z(x: Tensor) -> float:
        error = (integral.var(0) + features(x).var(0)).sqrt() / math.sqrt(n)
        return float(((integral.mean(0) - features(x).mean(0)).abs() / error).max())

    for sample in (K.sample(x0, 0.3, generator(4)), two):
        assert bool(m.inside(sample).all()) and z(sample) < 5
    assert z(K.sample(x0, 0.4, generator(5))) > 5


@kernels
def test_pairs_agree_with_single_ones(m: Domain) -> None:
    K, x, c = heat_kernel(m), inner_points(m, 6), inner_points(m, 4, 1)
    tau, w = torch.tensor([0.05, 0.3, 1.0, 0.1], dtype=F64), torch.rand(6, 4, generator=generator(), dtype=F64)
    torch.testing.assert_close(K.pairwise_log_prob(x, c, tau), K.log_prob(x.unsqueeze(1), c, tau), rtol=1e-8, atol=1e-8)
    scores = (w.unsqueeze(-1) * K.score(x.unsqueeze(1), c, tau)).sum(1)
    torch.testing.assert_close(K.weighted_score(x, c, tau, w), scores, rtol=1e-6, atol=1e-6)


def test_walk_in_a_ball_agrees_with_its_series() -> None:
    # Radial Neumann eigenfunctions sin(mu r) / r with tan mu = mu: E |x|^2 after time 0.3 from the centre.
    exact, n = 0.555943825635447, 100_000
    walk = lambda steps: geodesic_random_walk(  # noqa: E731
        Ball(3), torch.zeros(n, 3), torch.full((n,), 0.3), steps, generator=generator(8)
    )
    square = walk(16).double().square().sum(-1)
    assert abs(float(square.mean()) - exact) < 5 * float(square.std()) / math.sqrt(n) + 4e-4
    coarse = walk(1).double().square().sum(-1)
    assert abs(float(coarse.mean()) - exact) > 20 * float(coarse.std()) / math.sqrt(n)


# ---------------------------------------------------------------------- models


@pytest.mark.parametrize(
    "m", [HalfSpace(2), Hemisphere(2), Box([0.0, 0.0], [1.0, 1.0]), Product(Hemisphere(2), SO3())], ids=repr
)
def test_denoising_models_train_and_sample_inside(m: Manifold) -> None:
    process = BrownianMotion(m, default_schedule(m, 1e-3), n_centres=16)
    model = RiemannianDiffusion(m, process, TangentMLP(process, width=32, n_frequencies=16))
    data = inner_points(m, 200, dtype=F32)
    model.fit(data, max_steps=20, progress=False)
    for method in ("ode", "sde"):
        m.check_point(model.sample(200, method=method, steps=10, generator=generator()))
    assert bool(torch.isfinite(model.log_prob(data[:10], tolerance=1e-2)).all())


@pytest.mark.parametrize("m", [Ball(2), TRIANGLE, CAP], ids=lambda m: type(m).__name__)
def test_simulated_models_train_and_sample_inside(m: Domain, tmp_path: Path) -> None:
    schedule = LogSchedule(1e-2, 2.0)
    process = BrownianMotion(m, schedule, n_steps=4)
    model = RiemannianDiffusion(m, process, TangentMLP(process, width=16, n_frequencies=8))
    data = inner_points(m, 100, dtype=F32)
    model.fit(data, max_steps=4, batch_size=64, progress=False)
    for method in ("ode", "sde"):
        m.check_point(model.sample(50, method=method, steps=5, generator=generator()))
    assert bool(torch.isfinite(model.log_prob(data[:5], tolerance=5e-2)).all())
    if m == CAP:
        with pytest.raises(ConfigError, match="<lambda> can't be written"):
            model.save_pretrained(tmp_path)


@pytest.mark.parametrize("m", [Hemisphere(2), Box([0.0, 0.0], [1.0, 1.0])], ids=repr)
def test_implicit_score_matching_has_no_boundary_term(m: Domain) -> None:
    """E[<score, g> + div g] = 0 for the fields of networks, and not for others."""
    K, n = heat_kernel(m), 20_000
    x0 = m.project(torch.tensor([0.1, *[0.5] * (m.point_shape[0] - 1)], dtype=F64)).expand(n, *m.point_shape)
    x = K.sample(x0, 0.2, generator(1))
    w = torch.randn(m.embed(x0[0]).shape[-1], m.frame_dim, generator=generator(2), dtype=F64)

    def z(frame: object) -> float:
        value, div = divergence(m, lambda p: frame(p, (m.embed(p) @ w + 1).sin() + 1), x)  # pyright: ignore[reportCallIssue]
        terms = m.inner(x, K.score(x, x0, 0.2), value) + div
        return float(terms.mean().abs() / terms.std() * math.sqrt(n))

    assert z(m.from_frame) < 5
    assert z(m.ambient.from_frame) > 5
