"""Sums of normal laws in tangent spaces against torch's distributions, term by term."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.metrics.normal_kernels import coefficients, log_sums, monomials, normal_coordinates


def _laws(n: int, c: int, dim: int, width: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    means = 0.1 * torch.randn(n, c, dim, generator=g, dtype=torch.float64)
    factors = width * torch.randn(n, c, dim, dim, generator=g, dtype=torch.float64).tril(-1)
    diagonal = width * (0.5 + torch.rand(n, c, dim, generator=g, dtype=torch.float64))
    return means, factors + torch.diag_embed(diagonal), torch.randn(n, c, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 2, 7])
@pytest.mark.parametrize("width", [1e-4, 1.0])
def test_a_normal_density_is_a_polynomial(dim: int, width: float) -> None:
    means, factors, log_weights = _laws(5, 3, dim, width)
    v = means[:, 1] + width * torch.randn(5, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = log_weights + MultivariateNormal(means, scale_tril=factors).log_prob(v.unsqueeze(1))
    ours = (monomials(v).unsqueeze(1) @ coefficients(means, factors, log_weights)).squeeze(1)
    # The rounding is that of the largest terms, here up to 1e9: means are a thousand widths away.
    whiten = torch.linalg.inv(factors)
    largest = sum((whiten @ y.unsqueeze(-1)).square().sum((-2, -1)) for y in (means, v.unsqueeze(1)))
    assert ((ours - exact).abs() < 1e-12 + 1e-14 * largest).all(), ((ours - exact).abs() / largest).max()
    assert (ours - exact)[:, 1].abs().max() < 1e-5  # the law whose density there is not nothing


def test_sums_in_blocks() -> None:
    M, g, c = Sphere(2), torch.Generator().manual_seed(0), 4
    centres, x = M.random_uniform(700, generator=g, dtype=torch.float64), M.random_uniform(300, generator=g).double()
    x, basis = M.project(x), M.tangent_basis(centres)
    means, factors, log_weights = _laws(700, c, 2, 0.2)
    v, jacobian = normal_coordinates(M, centres, basis, x.unsqueeze(1))
    terms = log_weights + MultivariateNormal(means, scale_tril=factors).log_prob(v.unsqueeze(2))
    exact = torch.logsumexp(terms - jacobian.unsqueeze(-1), 1)
    laws = coefficients(means, factors, log_weights)
    torch.testing.assert_close(log_sums(M, centres, basis, laws, x), exact, rtol=1e-10, atol=1e-10)
    assert log_sums(M, centres, basis, laws, x[:0]).shape == (0, c)
