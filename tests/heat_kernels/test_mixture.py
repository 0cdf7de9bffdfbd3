"""A mixture of heat kernels is the sum over its centres."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Product, Sphere, Torus

from .points import F64, generator


@pytest.mark.parametrize(
    "M", [Sphere(2), SO3(), Torus(2), Hyperboloid(3), Euclidean(2), Product(Sphere(2), Torus(1))], ids=repr
)
def test_mixture_is_the_sum_over_centres(M):
    g = generator(9)
    c = heat_kernel(M).sample(M.origin(dtype=F64).expand(700, *M.point_shape), 1.0, g)
    tau = torch.rand(700, generator=g, dtype=F64) * 0.1 + 0.01
    w = torch.rand(700, generator=g, dtype=F64)
    x, K = c[:5], heat_kernel(M)
    w0 = 0.1 if hasattr(M, "volume") else 0.0
    P = HeatKernelMixture(M, c, tau, w, uniform_weight=w0)
    for extra in (0.0, 0.3, torch.linspace(0.0, 0.5, 5, dtype=F64)):
        t = tau + (extra[:, None] if isinstance(extra, torch.Tensor) else extra)
        pairs = K.log_prob(x[:, None], c, t) + (w / w.sum() * (1 - w0)).log()
        parts = torch.cat([pairs, torch.full((5, 1), math.log(w0 / M.volume), dtype=F64)], 1) if w0 else pairs
        torch.testing.assert_close(P.log_prob(x, extra), parts.logsumexp(1), rtol=1e-8, atol=1e-8)
        share = parts.softmax(1)[:, :700].reshape(5, 700, *(1,) * len(M.point_shape))
        torch.testing.assert_close(P.score(x, extra), (share * K.score(x[:, None], c, t)).sum(1), rtol=1e-6, atol=1e-6)
    assert P.sample(30, 0.2, generator(1)).shape == (30, *M.point_shape)


def test_mixture_score_has_derivatives():
    M = Sphere(2)
    P = HeatKernelMixture(M, torch.eye(3, dtype=F64), 0.2)
    x = M.project(torch.tensor([[0.5, 0.4, 0.7]], dtype=F64))
    v = M.to_tangent(x, torch.tensor([[0.3, -1.0, 0.2]], dtype=F64))
    _, forward = torch.func.jvp(P.score, (x,), (v,))
    h = 1e-5
    torch.testing.assert_close(forward, (P.score(x + h * v) - P.score(x - h * v)) / (2 * h), rtol=1e-5, atol=1e-6)


def test_mixture_rejects_bad_arguments():
    c = torch.eye(3)
    with pytest.raises(ConfigError, match="uniform_weight"):
        HeatKernelMixture(Sphere(2), c, 0.1, uniform_weight=1.5)
    with pytest.raises(CapabilityError, match="uniform"):
        HeatKernelMixture(Euclidean(3), c, 0.1, uniform_weight=0.5)
    with pytest.raises(ConfigError, match="weights"):
        HeatKernelMixture(Sphere(2), c, 0.1, weights=torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ConfigError, match="one time or one per centre"):
        HeatKernelMixture(Sphere(2), c, torch.tensor([0.1, 0.2]))


def test_a_mixture_of_point_masses_needs_time() -> None:
    M = Sphere(2)
    law = HeatKernelMixture(M, torch.eye(3, dtype=F64), 0.0)
    x = law.sample(20, generator=generator(0))
    assert set(x.nonzero()[:, 1].tolist()) == {0, 1, 2} and bool((x.sum(1) == 1).all())
    with pytest.raises(ConfigError, match="positive"):
        law.log_prob(x)
    noised = law.sample(50, 0.01, generator(1))
    assert float(M.dist(law.sample_reverse(noised, 0.01, 0.0, generator(2)), noised).max()) < 1
    assert bool((law.sample_reverse(noised, 0.01, 0.0, generator(2)).abs().amax(1) == 1).all())
    with pytest.raises(ConfigError, match=">= 0"):
        HeatKernelMixture(M, torch.eye(3), -0.1)
