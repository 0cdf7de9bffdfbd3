"""Symmetric positive definite matrices as data: triangular factors, vectors of entries, defects and refusals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ManifoldError
from ._matrix import sym
from .base import _TOLERANCE, Manifold, _dtype_name, _where

__all__ = ["asymmetry", "check_definite", "cholesky", "indefiniteness", "lift", "lower_half", "pack"]
__all__ += ["unpack", "whiten"]


def cholesky(x: Tensor) -> Tensor:
    """Lower triangular factor of the symmetric part, without a host sync; NaN where it is not positive definite.

    Rounding may have made a positive definite matrix indefinite: its diagonal is then raised by a few roundings of
    float64 or, if this is not enough, of float32, relative to each entry.
    """
    x = sym(x)
    fixed, diagonal = x.detach(), torch.diag_embed(x.detach().diagonal(dim1=-2, dim2=-1))
    raised = torch.zeros_like(fixed)
    for dtype in (torch.float64, torch.float32):
        bad = torch.linalg.cholesky_ex(fixed + raised)[1] > 0
        raised = torch.where(_column(bad), 8 * x.shape[-1] * torch.finfo(dtype).eps * diagonal, raised)
    lower, info = torch.linalg.cholesky_ex(x + raised)
    return torch.where(_column(info > 0), torch.nan, lower)


def whiten(x: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factor L of ``x`` and its inverse."""
    lower = cholesky(x)
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return lower, torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)


def lower_half(a: Tensor) -> Tensor:
    """Lower triangle with half of the diagonal: for symmetric ``a``, the B with ``B + B^T = a``."""
    return a.tril() - torch.diag_embed(a.diagonal(dim1=-2, dim2=-1) / 2)


def _column(a: Tensor) -> Tensor:
    return a.unsqueeze(-1).unsqueeze(-1)


def pack(a: Tensor) -> Tensor:
    r"""Lower triangles as vectors ``(*batch, n (n + 1) / 2)``, row by row; off the diagonal times root 2.

    For symmetric matrices it is an isometry.
    """
    n = a.shape[-1]
    row, column = torch.tril_indices(n, n, device=a.device)
    return a[..., row, column] * (1 + (math.sqrt(2) - 1) * (row != column).to(a.dtype))


def unpack(c: Tensor, n: int) -> Tensor:
    """The symmetric matrix of a vector: inverse of :func:`pack`."""
    i = torch.arange(n, device=c.device)
    high, low = torch.maximum(i[:, None], i), torch.minimum(i[:, None], i)
    return c[..., high * (high + 1) // 2 + low] * (1 + (math.sqrt(0.5) - 1) * (high != low).to(c.dtype))


# ---------------------------------------------------------------------- points from outside


def lift(x: Tensor) -> Tensor:
    """Symmetric part, with the eigenvalues that are below 10 n roundings of the largest raised to that."""
    x = sym(x)
    values, vectors = torch.linalg.eigh(x.detach())
    info = torch.finfo(x.dtype)
    size = values.abs().amax(-1, keepdim=True).clamp_min(math.sqrt(info.tiny))
    short = (10 * x.shape[-1] * info.eps * size - values).clamp_min(0)
    return x + sym((vectors * short.unsqueeze(-2)) @ vectors.mT)


def asymmetry(x: Tensor) -> Tensor:
    """Largest entry of x - x^T, relative to that of x."""
    return (x - x.mT).abs().amax((-2, -1)) / x.abs().amax((-2, -1)).clamp_min(torch.finfo(x.dtype).tiny)


def _extreme_eigenvalues(x: Tensor) -> tuple[Tensor, Tensor, float]:
    """Least and largest eigenvalue, and the ratio of them that rounding of the entries leaves undetermined."""
    values = torch.linalg.eigvalsh(sym(x.double()))
    limit = max(torch.finfo(x.dtype).eps, x.shape[-1] * torch.finfo(torch.float64).eps)
    return values[..., 0], values[..., -1], limit


def indefiniteness(x: Tensor) -> Tensor:
    """Minus the least eigenvalue over the largest, plus a rounding; 0 on positive definite matrices."""
    low, high, limit = _extreme_eigenvalues(x)
    short = torch.where(high > 0, limit - low / torch.where(high > 0, high, 1.0), 1.0)
    return torch.where(short >= 0, short, 0.0).to(x.dtype)


def check_definite(manifold: Manifold, x: Tensor, name: str) -> None:
    """Raise :class:`ManifoldError` where ``x`` is not symmetric or, to its precision, not positive definite."""
    manifold.refuse(x, name, "asymmetry max |x - x^T| / max |x|", asymmetry(x), _TOLERANCE[x.dtype])
    low, high, limit = _extreme_eigenvalues(x)
    bad = ~(low > limit * high)
    if bool(bad.any()):
        worst = torch.where(bad, low / high.abs().clamp_min(torch.finfo(x.dtype).tiny), math.inf)
        first = worst == worst.min()
        raise ManifoldError(
            f"{name} is not on {manifold}: smallest eigenvalue {float(low[first].flatten()[0]):.1e}, "
            f"needed > {limit:.0e} times the largest, {float(high[first].flatten()[0]):.1e} ({_dtype_name(x)}), "
            f"{_where(first)}, {int(bad.sum())} of {bad.numel()} points. Project first: {manifold}.project({name}), "
            "or shrink: x + c I, which suits covariances of few observations better."
        )
