"""Heat kernels at bad times, at all radii, in the far tail, at large times and under vmap."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.heat_kernels.torus import wrapped_log_prob, wrapped_score
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Sphere, Torus

from .points import F64, generator, names, on_geodesic


@pytest.mark.parametrize(
    "tau", [0.0, -1.0, math.nan, math.inf, torch.tensor([0.1, -0.1]), torch.tensor([0.1, math.nan])]
)
def test_bad_times_raise(tau):
    x0 = Sphere(2).origin().expand(2, 3)
    for call in (lambda K: K.sample(x0, tau), lambda K: K.log_prob(x0, x0, tau), lambda K: K.score(x0, x0, tau)):
        with pytest.raises(ConfigError, match="positive and finite"):
            call(heat_kernel(Sphere(2)))


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@names
def test_everything_is_finite_at_all_radii_and_times(M, dtype):
    far = (
        20.0
        if isinstance(M, Hyperboloid) and dtype == F64
        else 8.0
        if isinstance(M, Hyperboloid | Euclidean)
        else math.pi
    )
    r = [0.0, 1e-8, 1e-3, 0.5, 2.0, 3.0, min(far, math.pi - 1e-4), far]
    x, x0 = on_geodesic(M, r, dtype)
    for tau in (1e-6, 1e-3, 0.1, 1.0, 30.0):
        y = x.clone().requires_grad_()
        log_p, score = heat_kernel(M).log_prob(y, x0, tau), heat_kernel(M).score(y, x0, tau)
        (gradient,) = torch.autograd.grad(log_p.sum() + score.sum(), y)
        assert all(bool(torch.isfinite(a).all()) for a in (log_p, score, gradient)), (M, tau)


def test_far_tail_points_to_the_source_with_the_leading_slope():
    x, x0 = on_geodesic(Sphere(2), [2.0])
    for tau in (1e-6, 1e-3):
        assert abs(float(Sphere(2).norm(x, heat_kernel(Sphere(2)).score(x, x0, tau))) * tau / 2.0 - 1) < 0.01


def test_law_becomes_uniform_on_compact_manifolds():
    for M in (Sphere(2), Sphere(9), SO3(), Torus(2)):
        x, x0 = on_geodesic(M, [0.1, 1.0, 3.0])
        torch.testing.assert_close(
            heat_kernel(M).log_prob(x, x0, 60.0), torch.full((3,), -math.log(M.volume), dtype=F64), rtol=1e-9, atol=1e-9
        )


def test_vmap_and_broadcasting_agree_with_a_loop():
    for M in (Sphere(2), SO3(), Hyperboloid(2)):
        K = heat_kernel(M)
        x, x0 = on_geodesic(M, [0.2, 0.9, 1.7])
        tau = torch.tensor([0.1, 0.5, 1.0], dtype=F64)
        loop = torch.stack([K.log_prob(x[i], x0[i], float(tau[i])) for i in range(3)])
        torch.testing.assert_close(K.log_prob(x, x0, tau), loop)
        torch.testing.assert_close(torch.func.vmap(K.log_prob)(x, x0, tau), loop)
        assert K.score(x[:, None], x0[None], tau).shape == (3, 3, *M.point_shape)


@pytest.mark.parametrize("M", [Sphere(2), SO3()], ids=str)
def test_jacobians_under_vmap_keep_single_precision(M):
    K, (x, x0) = heat_kernel(M), (M.origin(), M.origin())
    x = torch.stack([M.exp(x, 0.5 * M.random_tangent(x, generator(seed))) for seed in range(2)])
    for f in (lambda q: K.log_prob(q, x0, 0.3), lambda q: K.score(q, x0, 0.3)):
        jacobian = torch.func.vmap(torch.func.jacfwd(f))(x)
        loop = torch.stack([torch.func.jacrev(f)(q) for q in x])
        torch.testing.assert_close(jacobian, loop, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("function", [wrapped_log_prob, wrapped_score])
def test_the_series_of_an_angle_that_is_not_taken_leaves_gradients_alone(function):
    """In float32 its few terms vanished exactly at an angle about 2.817 for tau = 0.5, where images are summed."""
    first = int(2.8170 * 2**22)  # all float32 numbers of [2.8170, 2.8174]
    d = (torch.arange(first, first + 1700) / 2**22).requires_grad_()
    tau = torch.full((), 0.5)
    (slope,) = torch.autograd.grad(function(d, tau).sum(), d)
    exact = d.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(function(exact, tau.double()).sum(), exact)
    assert torch.allclose(slope.double(), expected, rtol=1e-5)
