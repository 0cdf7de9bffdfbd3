"""Normal laws in the tangent spaces at data points: what tangent and learned kernels share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..manifolds import Manifold, from_coordinates, tangent_coordinates

__all__ = ["coefficients", "log_sums", "monomials", "normal_coordinates", "normal_reach", "sample_normal"]

_ROWS = 256
_NUMBERS = 1 << 18
"""Numbers that are held at a time."""


def normal_coordinates(manifold: Manifold, c: Tensor, basis: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of ``log_c(x)`` in a basis, ``(*batch, dim)``, and log determinant of exp there, ``(*batch,)``."""
    v = tangent_coordinates(manifold, c, basis, x)
    return v, manifold.log_det_exp(c, from_coordinates(manifold, basis, v))


def normal_reach(manifold: Manifold, outside: float) -> float:
    """Largest standard deviation with which a mass ``outside`` of a normal law lies beyond the injectivity radius."""
    from scipy.stats import chi

    return float(manifold.injectivity_radius / chi(manifold.dim).isf(outside))


def coefficients(means: Tensor, factors: Tensor, log_weights: Tensor) -> Tensor:
    r"""Weighted normal densities as polynomials: their logs are ``monomials(v) @ coefficients``.

    .. math:: \log w\,N(v; \mu, P^{-1})
        = \log w + \tfrac12\log\det\tfrac{P}{2\pi} - \tfrac12\mu^T P\mu + (P\mu)^T v - \tfrac12 v^T P v

    In float64: of a value its rounding is 1e-16 of the largest term, that is of :math:`\mu^T P\mu` where v is near
    the mean.

    Args:
        means: ``(n, c, dim)``.
        factors: lower Cholesky factors of the covariances, ``(n, c, dim, dim)``.
        log_weights: ``(n, c)``, or what broadcasts to it.

    Returns:
        ``(n, 1 + dim + dim (dim + 1) / 2, c)``.
    """
    dim = means.shape[-1]
    eye = torch.eye(dim, dtype=factors.dtype, device=factors.device).expand_as(factors)
    whiten = torch.linalg.solve_triangular(factors, eye, upper=False)
    precision, shift = whiten.mT @ whiten, whiten @ means.unsqueeze(-1)
    height = log_weights + whiten.diagonal(dim1=-2, dim2=-1).log().sum(-1) - dim / 2 * math.log(2 * math.pi)
    i, j = torch.triu_indices(dim, dim, device=factors.device)
    parts = [
        (height - 0.5 * shift.square().sum((-2, -1))).unsqueeze(-1),
        (whiten.mT @ shift).squeeze(-1),
        precision[..., i, j] * torch.where(i == j, -0.5, -1.0).to(precision),
    ]
    return torch.cat(parts, -1).mT


def monomials(v: Tensor) -> Tensor:
    """1, the coordinates, and their products: ``(*batch, dim) -> (*batch, 1 + dim + dim (dim + 1) / 2)``."""
    i, j = torch.triu_indices(v.shape[-1], v.shape[-1], device=v.device)
    return torch.cat([torch.ones_like(v[..., :1]), v, v[..., i] * v[..., j]], -1)


def log_sums(manifold: Manifold, centres: Tensor, basis: Tensor, laws: Tensor, x: Tensor) -> Tensor:
    """Log densities of the sums over all centres, with respect to the Riemannian volume, ``(n_points, c)``.

    Args:
        manifold: where the points live.
        centres: ``(n, *point_shape)``, float64.
        basis: orthonormal ones of the tangent spaces there, ``(n, dim, *point_shape)``.
        laws: :func:`coefficients`, ``(n, n_monomials, c)``.
        x: points, ``(n_points, *point_shape)``, float64.
    """
    n_monomials, c = laws.shape[1:]
    laws, sums = laws.contiguous(), [x.new_zeros(0, c)]
    for rows in x.split(_ROWS):
        total = x.new_full((len(rows), c), -math.inf)
        step = max(1, _NUMBERS // max(len(rows) * max(n_monomials, c), 1))
        for part, axes, law in zip(centres.split(step), basis.split(step), laws.split(step), strict=True):
            v, jacobian = normal_coordinates(manifold, part.unsqueeze(1), axes.unsqueeze(1), rows.unsqueeze(0))
            log_p = torch.bmm(monomials(v), law) - jacobian.unsqueeze(-1)
            total = torch.logaddexp(total, torch.logsumexp(log_p, 0))
        sums.append(total)
    return torch.cat(sums)


def sample_normal(
    manifold: Manifold,
    c: Tensor,
    basis: Tensor,
    means: Tensor,
    factors: Tensor,
    uniform: Tensor | None,
    generator: torch.Generator | None,
) -> Tensor:
    """A point from each of n normal laws, or from the uniform one where a mask ``uniform`` ``(n,)`` says so."""
    noise = torch.randn(means.shape, generator=generator, dtype=means.dtype, device=means.device)
    v = means + (factors @ noise.unsqueeze(-1)).squeeze(-1)
    x = manifold.exp(c, from_coordinates(manifold, basis, v))
    if uniform is None:
        return x
    even = manifold.random_uniform(len(x), generator=generator, dtype=x.dtype, device=x.device)  # type: ignore[attr-defined]
    return torch.where(manifold.per_point(uniform), even, x)
