"""Unitary matrices, and those of determinant 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._unitary import SpectralLog, branch_of_trace_zero, elementary, principal_branch, unitary_log
from .base import check_size
from .matrix_group import MatrixGroup, adjoint, haar, polar
from .sphere import Sphere

__all__ = ["SU", "U"]


def _complex(x: Tensor) -> Tensor:
    # Not torch.complex or view_as_complex: the derivative of these makes lazy negative views, which vmap refuses.
    return x[..., 0] + 1j * x[..., 1]


def _pairs(a: Tensor) -> Tensor:
    return torch.stack([a.real, a.imag], -1)


def _basis(n: int, diagonals: Tensor) -> Tensor:
    """Orthonormal skew-Hermitian matrices, ``(k, n, n, 2)``: real and imaginary pairs, then the given diagonals."""
    i, j = torch.triu_indices(n, n, 1, device=diagonals.device)
    k = torch.arange(len(i), device=diagonals.device)
    basis = torch.zeros(2 * len(i) + len(diagonals), n, n, 2, dtype=diagonals.dtype, device=diagonals.device)
    basis[2 * k, i, j, 0], basis[2 * k, j, i, 0] = -1.0, 1.0
    basis[2 * k + 1, i, j, 1] = basis[2 * k + 1, j, i, 1] = 1.0
    basis[2 * len(i) :, :, :, 1] = math.sqrt(2) * torch.diag_embed(diagonals)
    return basis


class U(MatrixGroup):
    r"""The unitary group U(n) with the bi-invariant metric :math:`\tfrac12\mathrm{Re}\,\mathrm{tr}\,U^* V`.

    Points are stored as real pairs, ``(n, n, 2)``, the layout of ``torch.view_as_real``. The squared distance is half
    the sum of the squared angles of the eigenvalues of :math:`x^* y`. On the cut locus, where an eigenvalue is -1,
    ``log`` takes one of the two directions, the same at every call.

    Args:
        n: size of the matrices, at least 1.

    Attributes:
        n: size of the matrices.

    Raises:
        ConfigError: if ``n`` is not an integer >= 1.

    Example:
        >>> import torch
        >>> M = U(2)
        >>> M.dim, M.point_shape
        (4, (2, 2, 2))
        >>> minus = -M.identity()
        >>> M.dist(M.identity(), minus)  # two angles of pi
        tensor(3.1416)
    """

    family = "U"
    injectivity_radius = math.pi / math.sqrt(2)
    defect_formula = "max |R* R - I|"

    def __init__(self, n: int) -> None:
        check_size("U(n)", n=n)
        self.n = n
        super().__init__(n * n, (n, n, 2), n)

    def matrix(self, x: Tensor) -> Tensor:
        return _complex(x)

    def from_matrix(self, a: Tensor) -> Tensor:
        return _pairs(a)

    def algebra(self, a: Tensor) -> Tensor:
        """Skew-Hermitian part."""
        return (a - adjoint(a)) / 2

    def algebra_basis(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        return _basis(self.n, torch.eye(self.n, dtype=dtype, device=device))

    def spectral_log(self, x: Tensor, y: Tensor) -> SpectralLog:
        return unitary_log(self.relative(x, y), principal_branch, real=False)

    def project(self, x: Tensor) -> Tensor:
        """Nearest unitary matrix (polar factor)."""
        return self.from_matrix(polar(self.matrix(x)))

    def _determinant_defect(self, a: Tensor) -> Tensor:
        return torch.zeros_like(a[..., 0, 0].real)

    @property
    def volume(self) -> float:
        r"""Product of :math:`|S^{2k-1}|/\sqrt2` for k = 1, ..., n (Macdonald)."""
        return math.exp(self.log_volume)

    @property
    def log_volume(self) -> float:
        return math.fsum(Sphere(2 * k - 1).log_volume - math.log(2) / 2 for k in range(1, self.n + 1))

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        normal = torch.randn(n, *self.point_shape, generator=generator, dtype=dtype, device=device)
        return self.from_matrix(haar(self.matrix(normal)))


class SU(MatrixGroup):
    r"""The special unitary group SU(n), n >= 2, with the metric :math:`\tfrac12\mathrm{Re}\,\mathrm{tr}\,U^* V`.

    Points are stored as real pairs, ``(n, n, 2)``, the layout of ``torch.view_as_real``. SU(2) is the unit sphere
    :math:`S^3`. The logarithm is the shortest one whose angles add up to zero: where the principal angles add up to
    :math:`2\pi k`, the k largest turn around. On the cut locus ``log`` takes one of the shortest, the same at every
    call.

    Args:
        n: size of the matrices, at least 2.

    Attributes:
        n: size of the matrices.

    Raises:
        ConfigError: if ``n`` is not an integer >= 2.

    Example:
        >>> import torch
        >>> M = SU(3)
        >>> M.dim, M.point_shape
        (8, (3, 3, 2))
        >>> x, y = M.random_uniform(2, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(M.exp(x, M.log(x, y)), y, atol=1e-5)
        True
    """

    family = "SU"
    injectivity_radius = math.pi
    defect_formula = "max |R* R - I|, |det R - 1|"

    def __init__(self, n: int) -> None:
        check_size("SU(n)", 2, n=n)
        self.n = n
        super().__init__(n * n - 1, (n, n, 2), n)

    def matrix(self, x: Tensor) -> Tensor:
        return _complex(x)

    def from_matrix(self, a: Tensor) -> Tensor:
        return _pairs(a)

    def algebra(self, a: Tensor) -> Tensor:
        """Skew-Hermitian part without its trace."""
        skew = (a - adjoint(a)) / 2
        mean = skew.diagonal(0, -2, -1).mean(-1)[..., None, None]
        return skew - mean * torch.eye(self.n, dtype=a.dtype, device=a.device)

    def algebra_basis(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        # Helmert's vectors: (1, ..., 1, -k, 0, ..., 0), orthonormal and orthogonal to (1, ..., 1).
        k = torch.arange(1, self.n, dtype=dtype, device=device).unsqueeze(-1)
        place = torch.arange(self.n, dtype=dtype, device=device)
        helmert = ((place < k).to(dtype) - k * (place == k).to(dtype)) / (k * (k + 1)).sqrt()
        return _basis(self.n, helmert)

    def spectral_log(self, x: Tensor, y: Tensor) -> SpectralLog:
        return unitary_log(self.relative(x, y), branch_of_trace_zero, real=False)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._unit_determinant(super().exp(x, v))

    def _unit_determinant(self, x: Tensor) -> Tensor:
        """Unitary matrices near SU(n), turned by the n-th part of the angle of their determinant."""
        a = self.matrix(x)
        # A polynomial: torch.linalg.det of a complex matrix has wrong forward-over-reverse derivatives.
        angle = elementary(a)[..., -1].angle() / self.n
        return self.from_matrix(a * (angle.cos() - 1j * angle.sin())[..., None, None])

    def project(self, x: Tensor) -> Tensor:
        """Polar factor, turned to determinant 1."""
        return self._unit_determinant(self.from_matrix(polar(self.matrix(x))))

    def _determinant_defect(self, a: Tensor) -> Tensor:
        return (torch.linalg.det(a) - 1).abs()

    @property
    def volume(self) -> float:
        r"""That of U(n) times :math:`\sqrt{2 n}/(2\pi)`: the circle of scalars meets SU(n) in n points."""
        return math.exp(self.log_volume)

    @property
    def log_volume(self) -> float:
        return U(self.n).log_volume + math.log(2 * self.n) / 2 - math.log(2 * math.pi)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        q = haar(_complex(torch.randn(n, *self.point_shape, generator=generator, dtype=dtype, device=device)))
        return self.from_matrix(torch.cat([q[..., :1] * torch.linalg.det(q).conj()[:, None, None], q[..., 1:]], -1))
