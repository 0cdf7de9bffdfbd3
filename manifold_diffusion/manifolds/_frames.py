"""Orthonormal frames: polar factors, complements and skew matrices, smooth where their factorisations are not."""

from __future__ import annotations

import torch
from torch import Tensor

from .._safe import solve
from ._matrix import sym, sym_inverse_sqrt

__all__ = ["complement", "orthonormal", "polar", "renormalise", "skew", "skew_matrix", "uniform_frames"]


def renormalise(x: Tensor) -> Tensor:
    """One Newton step of the polar decomposition, ``(*batch, n, p)``: rounding must not pile up over a walk."""
    return 1.5 * x - 0.5 * x @ (x.mT @ x)


def orthonormal(x: Tensor) -> Tensor:
    """Nearest orthonormal frame in the Frobenius norm, ``(*batch, n, p)``: ``x (x^T x)^(-1/2)``."""
    # The Gram matrix squares the condition number: two Newton steps restore what it loses of orthonormality.
    return renormalise(renormalise(x @ sym_inverse_sqrt(x.mT @ x)))


def polar(m: Tensor, left: Tensor, values: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    r"""Polar decomposition :math:`M = S R` from a singular value decomposition that carries no derivatives.

    The factors of the decomposition are constants ``left diag(values) right^T``; the orthogonal factor is corrected by
    two Newton steps of ``left^T M right Q^T`` symmetric, which are zero but carry derivatives: the first step makes the
    first derivatives right, the second those of second order. They divide by sums of two singular values, never by
    differences.

    Args:
        m: square matrices, ``(*batch, p, p)``.
        left: left singular vectors as columns, constant.
        values: singular values, constant, ``(*batch, p)``.
        right: right singular vectors as columns, constant.

    Returns:
        The symmetric factor S and the orthogonal factor R.
    """
    total = values.unsqueeze(-1) + values.unsqueeze(-2)
    # Two vanishing singular values leave R free in their plane: it is kept. The fourth power of a rounding over their
    # sum, which two steps leave as an error, must vanish beside 1.
    free = total <= 4 * torch.finfo(values.dtype).eps ** 0.75
    weight = torch.where(free, 0.0, 1 / torch.where(free, 1.0, total))
    k, turn = left.mT @ m @ right, right.mT
    for _ in range(2):
        omega = weight * (k - k.mT)
        half = omega @ omega / 2
        k, turn = k - k @ (omega - half), turn + (omega + half) @ turn
    return sym(left @ k @ left.mT), left @ turn


def skew(a: Tensor) -> Tensor:
    """Skew part, ``(*batch, n, n)``."""
    return (a - a.mT) / 2


def complement(x: Tensor) -> Tensor:
    r"""Orthonormal basis of the complement of a frame, ``(*batch, n, p) -> (*batch, n, n - p)``.

    The last columns of :math:`H = I - Y (I - X_1^\top S)^{-1} Y^\top`, :math:`Y = X - \binom S0`, with :math:`X_1` the
    upper block of X: for every orthogonal S it is orthogonal and sends :math:`\binom S0` to X (a block Householder
    reflection). S is minus the polar factor of :math:`X_1`, a constant, so that the eigenvalues of the inverse are in
    [1/2, 1] at every X.
    """
    p = x.shape[-1]
    top = x[..., :p, :]
    u, _, vh = torch.linalg.svd(top.detach())
    s = -u @ vh
    eye = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
    y = torch.cat([top - s, x[..., p:, :]], -2)
    return eye[:, p:] - y @ solve(eye[:p, :p] - top.mT @ s, x[..., p:, :].mT)


def skew_matrix(a: Tensor, n: int) -> Tensor:
    """Skew matrix with the entries ``a``, ``(*batch, n (n - 1) / 2)``, below the diagonal, row by row."""
    index = torch.zeros(n, n, dtype=torch.long)
    rows, columns = torch.tril_indices(n, n, -1)
    size = len(rows)
    index[rows, columns] = torch.arange(1, size + 1)
    index[columns, rows] = torch.arange(size + 1, 2 * size + 1)
    padded = torch.cat([torch.zeros_like(a[..., :1]), a, -a], -1)
    return padded.index_select(-1, index.flatten().to(a.device)).unflatten(-1, (n, n))


def uniform_frames(
    count: int,
    n: int,
    p: int,
    generator: torch.Generator | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Tensor:
    """``count`` frames of the law that is invariant under rotations, ``(count, n, p)``."""
    q, r = torch.linalg.qr(torch.randn(count, n, p, generator=generator, dtype=dtype, device=device))
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype).unsqueeze(-2)
