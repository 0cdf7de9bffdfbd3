"""Eigenfunctions on spheres and tori of more than three dimensions."""

import math

import pytest
import torch
from scipy.special import eval_gegenbauer

from manifold_diffusion.heat_kernels import HeatKernelMixture, NoisedData
from manifold_diffusion.heat_kernels.noised._hypersphere_harmonics import HypersphereHarmonics
from manifold_diffusion.manifolds import Manifold, Sphere, Torus


@pytest.mark.parametrize("n", [2, 4, 7])
def test_addition_theorem(n: int) -> None:
    M, g = Sphere(n), torch.Generator().manual_seed(0)
    H, alpha, volume = HypersphereHarmonics(M), (n - 1) / 2, math.exp(M.log_volume)
    x, y = (M.random_uniform(6, generator=g, dtype=torch.float64) for _ in range(2))
    u = (x @ y.T).numpy()
    levels = zip(H._levels(x, H.max_degree), H._levels(y, H.max_degree), strict=True)
    for degree, (a, b) in enumerate(levels):
        zonal = torch.as_tensor(eval_gegenbauer(degree, alpha, u) / eval_gegenbauer(degree, alpha, 1.0))
        size = a.shape[1] / volume
        torch.testing.assert_close(a @ b.T, size * zonal, rtol=0, atol=1e-12 * size)
        assert degree == 0 or (a @ b.T - size * zonal.flip(0)).abs().max() > 1e-3 * size


@pytest.mark.parametrize("M", [Sphere(4), Sphere(6), Torus(5)], ids=str)
def test_series_agrees_with_the_derivative_of_the_mixture(M: Manifold) -> None:
    g = torch.Generator().manual_seed(0)
    points, x = (M.random_uniform(n, generator=g, dtype=torch.float64) for n in (200, 10))  # type: ignore[attr-defined]
    tau = 3.0 if isinstance(M, Torus) else 1.0
    data = NoisedData(M, points)
    value = data.evaluate(x, tau, evaluator="spectral", rtol=1e-6)
    mixture = HeatKernelMixture(M, points, 0.0)
    y = x.clone().requires_grad_()
    log_p = mixture.log_prob(y, tau)
    (slope,) = torch.autograd.grad(log_p.sum(), y)
    score = M.to_tangent(x, slope)
    assert value.score is not None and value.score_error is not None
    assert ((value.log_prob - log_p).abs() <= value.log_prob_error + 1e-10).all()
    error = (value.score - score).norm(dim=-1)
    assert (error <= value.score_error + 1e-10).all() and error.max() < 1e-5
    assert float((value.score - score.roll(1, 0)).norm(dim=-1).max()) > 1e-3
    auto = data.evaluate(x, 6.0)
    torch.testing.assert_close(auto.log_prob, mixture.log_prob(x, 6.0), rtol=0, atol=1e-3)
