"""Mass, heat equation, semigroup and gradient of the heat kernels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SO3, Hyperboloid, Sphere

from .points import F64, area, generator, names, on_geodesic, radial


@pytest.mark.parametrize("tau", [1e-5, 0.02, 0.5, 3.0])
@radial
def test_total_mass_and_first_moment(M, tau):
    hyperbolic = isinstance(M, Hyperboloid)
    end = (M.dim - 1) * tau / 2 + M.dim * tau + math.sqrt(tau) * (math.sqrt(M.dim) + 9) if hyperbolic else math.pi
    top = (
        min(end, (M.dim * tau if hyperbolic else 0) + math.sqrt(tau) * (math.sqrt(M.dim) + 9))
        if not hyperbolic
        else end
    )
    nodes, weights = np.polynomial.legendre.leggauss(300)
    r, w = (nodes + 1) / 2 * top, weights * top / 2
    x, x0 = on_geodesic(M, r)
    p = heat_kernel(M).log_prob(x, x0, tau).exp().numpy() * area(M, r) * w
    assert abs(p.sum() - 1) < 1e-7
    if isinstance(M, SO3):
        assert abs((p * (1 + 2 * np.cos(r))).sum() - 3 * math.exp(-tau)) < 3e-7
    else:
        moment, rate = (np.cosh(r), M.dim / 2) if hyperbolic else (np.cos(r), -M.dim / 2)
        assert abs((p * moment).sum() / math.exp(rate * tau) - 1) < 1e-6 / min(1, math.exp(rate * tau))


@pytest.mark.parametrize("tau", [0.003, 0.3, 1.5])
@radial
def test_heat_equation(M, tau):
    r = torch.linspace(0.3, 2.0, 12, dtype=F64) * min(1.0, 4 * math.sqrt(tau))
    K, h = heat_kernel(M), 1e-3 * tau

    def log_p(r: torch.Tensor, t: float | torch.Tensor = tau) -> torch.Tensor:
        return K.log_prob(*on_geodesic(M, r), t)

    s = 2e-3 * math.sqrt(tau)
    here, plus, minus = log_p(r), log_p(r + s), log_p(r - s)
    first, second = (plus - minus) / (2 * s), (plus - 2 * here + minus) / s**2
    time = (log_p(r, tau + h) - log_p(r, tau - h)) / (2 * h)
    cot = 1 / r.tan() if isinstance(M, Sphere) else 1 / r.tanh() if isinstance(M, Hyperboloid) else 0.5 / (r / 2).tan()
    laplacian = second + first**2 + (M.dim - 1) * cot * first
    size = second.abs() + first**2 + (M.dim - 1) * (cot * first).abs()
    assert float(((time - laplacian / 2).abs() / size).max()) < 3e-5


def test_semigroup_on_the_sphere():
    K, M = heat_kernel(Sphere(2)), Sphere(2)
    z, w = np.polynomial.legendre.leggauss(120)
    phi = np.arange(240) * 2 * math.pi / 240
    zz, pp = (torch.tensor(a, dtype=F64) for a in np.meshgrid(z, phi, indexing="ij"))
    s = (1 - zz**2).sqrt()
    nodes = torch.stack([s * pp.cos(), s * pp.sin(), zz], -1)
    weight = torch.tensor(w, dtype=F64)[:, None] * 2 * math.pi / 240
    x = M.origin(dtype=F64)
    y = torch.tensor([math.sin(1.2), 0.0, math.cos(1.2)], dtype=F64)
    both = ((K.log_prob(nodes, x, 0.1) + K.log_prob(nodes, y, 0.25)).exp() * weight).sum()
    assert abs(float(both.log() - K.log_prob(y, x, 0.35))) < 1e-7


@pytest.mark.parametrize("tau", [1e-4, 0.1, 2.0])
@names
def test_score_is_the_gradient_of_log_prob(M, tau):
    K, g = heat_kernel(M), generator(1)
    x0 = M.exp(
        M.origin(dtype=F64).expand(20, *M.point_shape),
        M.random_tangent(M.origin(dtype=F64).expand(20, *M.point_shape), g) * 0.5,
    )
    x = K.sample(x0, tau, g)
    v = M.random_tangent(x, g)
    zero = torch.zeros(20, dtype=F64)
    one = torch.ones(20, dtype=F64)

    def along(t: torch.Tensor) -> torch.Tensor:
        return K.log_prob(M.exp(x, t.reshape(-1, *(1,) * len(M.point_shape)) * v), x0, tau)

    _, slope = torch.func.jvp(along, (zero,), (one,))
    score = K.score(x, x0, tau)
    M.check_tangent(x, score)
    torch.testing.assert_close(slope, M.inner(x, score, v), rtol=1e-6, atol=1e-6 * float(M.norm(x, score).max()))


def test_geometric_kernels_agrees():
    gk = pytest.importorskip("geometric_kernels.spaces")
    from geometric_kernels.kernels import MaternGeometricKernel

    tau = 0.6
    for space, M in ((gk.Hypersphere(2), Sphere(2)), (gk.Hypersphere(3), Sphere(3)), (gk.SpecialOrthogonal(3), SO3())):
        kernel = MaternGeometricKernel(space, num=15, normalize=True)
        params = kernel.init_params()
        x, x0 = on_geodesic(M, [1e-9, 0.4, 1.0, 1.8])
        # Its squared exponential of lengthscale k weighs eigenvalue e by exp(-k^2 e / 2): Brownian time k^2. Its
        # scale is free.
        params["lengthscale"], params["nu"] = np.array([math.sqrt(tau)]), np.array([np.inf])
        k = kernel.K(params, x0[:1].numpy(), x.numpy())[0]
        log_p = heat_kernel(M).log_prob(x, x0, tau).numpy()
        np.testing.assert_allclose(np.log(k / k[0]), log_p - log_p[0], atol=1e-6)
