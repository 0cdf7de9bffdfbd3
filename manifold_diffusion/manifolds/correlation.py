"""Full-rank correlation matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from ._cholesky import asymmetry, check_definite, cholesky, indefiniteness, lift, lower_half, whiten
from ._matrix import sym
from .base import _TOLERANCE, check_size
from .euclidean import Euclidean
from .hyperboloid import Hyperboloid
from .product import Product
from .pullback import Pullback, wide

__all__ = ["Correlation"]


class Correlation(Pullback):
    r"""Positive definite n x n matrices with unit diagonal, with the poly-hyperbolic-Cholesky metric.

    Row k of the Cholesky factor L of a correlation matrix is a unit vector with :math:`L_{kk} > 0`: a point of an open
    hemisphere, which is hyperbolic space of dimension k - 1. In the hyperboloid model it has the space-like entries
    :math:`L_{kj}/L_{kk}`, j < k, and :math:`x_0 = 1/L_{kk}`. The metric makes this an isometry onto
    :math:`H^1 \times H^2 \times \dots \times H^{n-1}`, whose geodesics and heat kernel are known. For n = 2 the
    coordinate is Fisher's :math:`z = \mathrm{artanh}\,\rho`. The density of the volume is :math:`\det(x)^{-n/2}`.

    The metric is complete, without a cut locus, and of non-positive curvature. It depends on the order of the
    variables; metrics that don't (quotient-affine, off-log) need an iteration for each logarithm or exponential.

    Args:
        n: number of variables, at least 2; the dimension is n (n - 1) / 2.

    Example:
        >>> import torch
        >>> M = Correlation(2)
        >>> x, y = torch.eye(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])
        >>> M.dist(x, y), torch.atanh(torch.tensor(0.5))
        (tensor(0.5493), tensor(0.5493))

    References:
        Thanwerdas and Pennec, *Theoretically and computationally convenient geometries on full-rank correlation
        matrices*, 2022, arXiv:2201.06282.
    """

    defect_formula = "asymmetry, |diagonal - 1| or -smallest/largest eigenvalue"

    def __init__(self, n: int) -> None:
        check_size("Correlation(n)", 2, n=n)
        super().__init__(Product(Euclidean(1), *[Hyperboloid(k) for k in range(2, n)]), (n, n), n)
        self.n = n

    # A row of the triangle R = diag(L)^-1 L is (space-like entries, 1, 0, ..).

    def _join(self, first: Tensor, rows: Tensor, heights: Tensor) -> Tensor:
        """Model points (or vectors) from the first entry, the rows below, and their time-like entries."""
        parts = [first]
        for k in range(2, self.n):
            parts += [heights[..., k : k + 1], rows[..., k, :k]]
        return torch.cat(parts, -1)

    def _rows(self, z: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
        """Strict lower triangle of R (or of its change), with ``corner`` for its entry (2, 1), and heights."""
        heights = [torch.zeros_like(corner), torch.zeros_like(corner)]
        entries = [corner]
        start = 1
        for k in range(2, self.n):
            heights.append(z[..., start : start + 1])
            entries.append(z[..., start + 1 : start + 1 + k])
            start += k + 1
        i = torch.arange(self.n, device=z.device)
        index = ((i * (i - 1) // 2)[:, None] + i).clamp(0, self.n * (self.n - 1) // 2 - 1)
        return torch.cat(entries, -1)[..., index].tril(-1), torch.cat(heights, -1)

    def _unit(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """R, x_0 of every row, and the Cholesky factor, from a model point."""
        strict, heights = self._rows(z, z[..., :1].sinh())
        scale = torch.cat([torch.ones_like(heights[..., :1]), z[..., :1].cosh(), heights[..., 2:]], -1)
        rows = strict + torch.eye(self.n, dtype=z.dtype, device=z.device)
        return rows, scale, rows / scale.unsqueeze(-1)

    def chart(self, x: Tensor) -> Tensor:
        """A point of R x H^2 x .. x H^(n-1)."""
        lower = cholesky(x)
        rows = lower / lower.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        heights = (1 + rows.tril(-1).square().sum(-1)).sqrt()
        return self._join(torch.asinh(rows[..., 1, :1]), rows, heights)

    def point(self, z: Tensor) -> Tensor:
        lower = self._unit(z)[2]
        return self._with_diagonal(lower @ lower.mT, 1.0)

    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        lower, inverse = whiten(x)
        half = lower_half(inverse @ v @ inverse.mT)  # L' = L half, L_kk' / L_kk = half_kk
        scale = lower.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)
        rows = (lower / scale).tril(-1)
        change = ((lower @ half) / scale - half.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) * rows).tril(-1)
        heights = (1 + rows.square().sum(-1)).sqrt()
        rise = (rows * change).sum(-1) / heights
        return self._join(change[..., 1, :1] / heights[..., 1:2], change, rise)

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        rows, scale, lower = self._unit(self.chart(x))
        change, _ = self._rows(w, w[..., :1] * scale[..., 1:2])
        rise = (rows.tril(-1) * change).sum(-1) / scale
        moved = (change - lower * rise.unsqueeze(-1)) / scale.unsqueeze(-1)
        return self._with_diagonal(2 * sym(moved @ lower.mT), 0.0)

    def _with_diagonal(self, a: Tensor, value: float) -> Tensor:
        eye = torch.eye(self.n, dtype=a.dtype, device=a.device)
        return a * (1 - eye) + value * eye

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self._with_diagonal(sym(v), 0.0)

    def project(self, x: Tensor) -> Tensor:
        """The correlation matrix of the nearest positive definite one."""
        x = lift(x)
        scale = x.diagonal(dim1=-2, dim2=-1).rsqrt()
        return self._with_diagonal(sym(scale.unsqueeze(-1) * x * scale.unsqueeze(-2)), 1.0)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        """The density of the volume is det(x)^(-n/2)."""
        _, inverse = whiten(wide(x))
        trace = (inverse @ wide(v) @ inverse.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        return (-self.n / 2 * trace).to(v.dtype)

    def _diagonal_defect(self, x: Tensor) -> Tensor:
        return (x.diagonal(dim1=-2, dim2=-1) - 1).abs().amax(-1)

    def defect(self, x: Tensor) -> Tensor:
        return torch.maximum(torch.maximum(asymmetry(x), self._diagonal_defect(x)), indefiniteness(x))

    def check_point(self, x: Tensor, name: str = "x") -> None:
        self._check_tensor(x, name)
        if x.numel():
            x = x.detach()
            self.refuse(x, name, "max |x_ii - 1|", self._diagonal_defect(x), _TOLERANCE[x.dtype])
            check_definite(self, x, name)
