"""Symmetric positive definite matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from .._errors import ConfigError
from .._safe import safe_norm
from ._cholesky import asymmetry, check_definite, cholesky, indefiniteness, lift, lower_half, pack, unpack, whiten
from ._frechet import dexp, dlog, log_sinhc_pairs
from ._matrix import sym, sym_exp, sym_log, sym_log1p, sym_sqrt
from .base import Manifold, check_size
from .capabilities import NoncompactSymmetric
from .euclidean import Euclidean
from .pullback import Pullback, wide

__all__ = ["SPD", "Metric"]

Metric = Literal["affine", "log_euclidean", "log_cholesky"]


class SPD(Manifold):
    r"""Symmetric positive definite n x n matrices, with one of three metrics. A point is the matrix itself.

    ``"affine"``: the affine-invariant metric :math:`\langle u, v\rangle_x = \mathrm{tr}(x^{-1} u\, x^{-1} v)`, for
    which every congruence :math:`x \mapsto g x g^\top` is an isometry; a symmetric space of non-positive curvature.
    With the Cholesky factor :math:`x = L L^\top`, :math:`\exp_x(v) = L \exp(L^{-1} v L^{-\top}) L^\top`, and the
    distance is the norm of the logarithms of the eigenvalues of :math:`L^{-1} y L^{-\top}`.

    ``"log_euclidean"``: the flat metric in which the matrix logarithm is an isometry onto the symmetric matrices with
    the Frobenius norm; invariant under rotations, scalings and inversion.

    ``"log_cholesky"``: the flat metric in which the Cholesky factor with the logarithm of its diagonal is an isometry,
    :math:`d^2 = \sum_{i>j} (L_{ij} - K_{ij})^2 + \sum_i \log^2(L_{ii}/K_{ii})`; the cheapest, and free of eigenvalue
    problems, but it depends on the order of the rows.

    Factorisations run in float64, whatever the dtype of the points.

    Args:
        n: size of the matrices, at least 1; the dimension is n (n + 1) / 2.
        metric: one of the three names.

    Example:
        >>> import torch
        >>> M = SPD(2)
        >>> x, y = torch.eye(2), torch.diag(torch.tensor([4.0, 1.0]))
        >>> M.dist(x, y), M.geodesic(x, y, 0.5).diagonal()
        (tensor(1.3863), tensor([2., 1.]))

    References:
        Pennec, Fillard and Ayache, *A Riemannian framework for tensor computing*, 2006.
        Arsigny, Fillard, Pennec and Ayache, *Geometric means in a novel vector space structure on symmetric
        positive-definite matrices*, 2007.
        Lin, *Riemannian geometry of symmetric positive definite matrices via Cholesky decomposition*, 2019,
        arXiv:1908.09326.
    """

    defect_formula = "asymmetry or -smallest/largest eigenvalue"
    n: int
    metric: Metric

    if TYPE_CHECKING:  # SPD(..) makes one of the final classes below: for type checkers it is not abstract

        def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor: ...

        def exp(self, x: Tensor, v: Tensor) -> Tensor: ...

        def log(self, x: Tensor, y: Tensor) -> Tensor: ...

    def __new__(cls, n: int, metric: Metric = "affine") -> SPD:
        if metric not in _METRICS:
            raise ConfigError(f"SPD has the metrics {', '.join(map(repr, _METRICS))}; got metric={metric!r}.")
        return super().__new__(_METRICS[metric])  # pyright: ignore[reportArgumentType]

    def __init__(self, n: int, metric: Metric = "affine") -> None:
        check_size("SPD(n)", n=n)
        Manifold.__init__(self, n * (n + 1) // 2, (n, n), n, metric)
        self.n, self.metric = n, metric

    def __repr__(self) -> str:
        return f"SPD({self.n})" if self.metric == "affine" else f"SPD({self.n}, {self.metric!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return SPD, (self.n, self.metric)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return sym(v)

    def project(self, x: Tensor) -> Tensor:
        """Symmetric part, with eigenvalues at least a few roundings of the largest."""
        return lift(x)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.eye(self.n, dtype=dtype, device=device)

    def defect(self, x: Tensor) -> Tensor:
        return torch.maximum(asymmetry(x), indefiniteness(x))

    def check_point(self, x: Tensor, name: str = "x") -> None:
        self._check_tensor(x, name)
        if x.numel():
            check_definite(self, x.detach(), name)


class _AffineSPD(SPD, NoncompactSymmetric):
    """The affine-invariant metric."""

    def __init__(self, n: int, metric: Metric = "affine") -> None:
        super().__init__(n, metric)
        self.rho_squared = n * (n * n - 1) / 48

    def _framed(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Cholesky factor L, and L^-1 v L^-T."""
        lower, inverse = whiten(wide(x))
        return lower, sym(inverse @ wide(v) @ inverse.mT)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        _, inverse = whiten(wide(x))
        a = inverse @ wide(u) @ inverse.mT
        b = a if v is u else inverse @ wide(v) @ inverse.mT
        return (a * b).sum((-2, -1)).to(x.dtype)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(self._framed(x, v)[1].flatten(-2)).to(x.dtype)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        lower, a = self._framed(x, v)
        return sym(lower @ sym_exp(a) @ lower.mT).to(x.dtype)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        # L^-1 y L^-T - I without cancellation for close points
        lower, a = self._framed(x, wide(y) - wide(x))
        return sym(lower @ sym_log1p(a) @ lower.mT).to(x.dtype)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_norm(sym_log1p(self._framed(x, wide(y) - wide(x))[1]).flatten(-2)).to(x.dtype)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        # E v E^T with E = (y x^-1)^(1/2) = L (L^-1 y L^-T)^(1/2) L^-1
        lower, inverse = whiten(wide(x))
        half = lower @ sym_sqrt(inverse @ wide(y) @ inverse.mT) @ inverse
        return sym(half @ wide(v) @ half.mT).to(x.dtype)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = (*self.batch_shape(x), self.dim)
        return self.from_frame(x, torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        return self.from_frame(x.unsqueeze(-3), torch.eye(self.dim, dtype=x.dtype, device=x.device))

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        """The density of the volume is det(x)^(-(n+1)/2)."""
        trace = self._framed(x, v)[1].diagonal(dim1=-2, dim2=-1).sum(-1)
        return (-(self.n + 1) / 2 * trace).to(v.dtype)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return log_sinhc_pairs(self._framed(x, v)[1]).to(v.dtype)

    def coordinates(self, x: Tensor) -> Tensor:
        """Entries of log(x): distances between them are never above those of the metric, and equal from the origin."""
        return pack(sym_log(wide(x))).to(x.dtype)

    @property
    def frame_dim(self) -> int:
        return self.dim

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Coefficients in the orthonormal frame L E_k L^T, with x = L L^T."""
        lower = cholesky(wide(x))
        return sym(lower @ unpack(wide(a), self.n) @ lower.mT).to(x.dtype)


class _LogEuclideanSPD(SPD, Pullback):
    """The pull-back of symmetric matrices by the logarithm."""

    def __init__(self, n: int, metric: Metric = "log_euclidean") -> None:
        super().__init__(n, metric)
        self.model = Euclidean(self.dim)

    def chart(self, x: Tensor) -> Tensor:
        """Entries of log(x), those off the diagonal times root 2."""
        return pack(sym_log(x))

    def point(self, z: Tensor) -> Tensor:
        return sym_exp(unpack(z, self.n))

    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        return pack(dlog(x, v))

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        return dexp(sym_log(x), unpack(w, self.n))

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        r"""The density of the volume is det(x)^(-(n+1)/2) over the product of sinh(d/2) / (d/2), d gaps of log(x)."""
        p, u = wide(x), wide(v)
        _, inverse = whiten(p)
        trace = (inverse @ u @ inverse.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
        gaps = torch.func.jvp(log_sinhc_pairs, (sym_log(p),), (dlog(p, u),))[1]
        return (-(self.n + 1) / 2 * trace - gaps).to(v.dtype)


class _LogCholeskySPD(SPD, Pullback):
    """The pull-back of lower triangular matrices by the Cholesky factor with the logarithm of its diagonal."""

    def __init__(self, n: int, metric: Metric = "log_cholesky") -> None:
        super().__init__(n, metric)
        self.model = Euclidean(self.dim)

    def _entries(self, strict: Tensor, diagonal: Tensor) -> Tensor:
        row, column = torch.tril_indices(self.n, self.n, device=strict.device)
        return (strict.tril(-1) + torch.diag_embed(diagonal))[..., row, column]

    def _triangle(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Strict lower triangle and diagonal."""
        i = torch.arange(self.n, device=z.device)
        full = z[..., (i * (i + 1) // 2)[:, None] + torch.minimum(i, i[:, None])]
        return full.tril(-1), full.diagonal(dim1=-2, dim2=-1)

    def chart(self, x: Tensor) -> Tensor:
        """Entries of the Cholesky factor, row by row, with the logarithm of its diagonal."""
        lower = cholesky(x)
        return self._entries(lower, lower.diagonal(dim1=-2, dim2=-1).log())

    def point(self, z: Tensor) -> Tensor:
        strict, diagonal = self._triangle(z)
        lower = strict + torch.diag_embed(diagonal.exp())
        return lower @ lower.mT

    def pull(self, x: Tensor, v: Tensor) -> Tensor:
        lower, inverse = whiten(x)
        half = lower_half(inverse @ v @ inverse.mT)  # L' = L half
        return self._entries(lower @ half, half.diagonal(dim1=-2, dim2=-1))

    def push(self, x: Tensor, w: Tensor) -> Tensor:
        lower = cholesky(x)
        strict, diagonal = self._triangle(w)
        change = strict + torch.diag_embed(diagonal * lower.diagonal(dim1=-2, dim2=-1))
        return 2 * sym(change @ lower.mT)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        """The density of the volume is the product of L_jj^(-(n + 2 - j)), j = 1 .. n."""
        _, inverse = whiten(wide(x))
        slopes = (inverse @ wide(v) @ inverse.mT).diagonal(dim1=-2, dim2=-1) / 2  # L_jj' / L_jj
        powers = torch.arange(self.n + 1, 1, -1, dtype=torch.float64, device=x.device)
        return -(slopes * powers).sum(-1).to(v.dtype)


_METRICS: dict[str, type[SPD]] = {
    "affine": _AffineSPD,
    "log_euclidean": _LogEuclideanSPD,
    "log_cholesky": _LogCholeskySPD,
}
