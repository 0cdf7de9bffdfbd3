"""Rotations of n-dimensional space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._safe import cos_sinc, sinc
from ._planes import matrices, planes, polar_step, times
from ._unitary import SpectralLog, branch_at_pi, unitary_log
from .base import check_size
from .matrix_group import MatrixGroup, haar
from .sphere import Sphere

__all__ = ["SO"]


class SO(MatrixGroup):
    r"""The rotation group SO(n), n >= 2, with the bi-invariant metric :math:`\tfrac12\mathrm{tr}\,U^\top V`.

    The distance is the root of the sum of the squared angles of rotation in the invariant planes; for n = 3 it is the
    geometry of :class:`SO3`, which is faster there. Points are matrices ``(n, n)``. ``log`` goes through the Cayley
    transform; it is accurate for any angles, repeated ones included. On the cut locus, where a plane turns by pi, it
    takes one of the two directions, the same at every call.

    Args:
        n: size of the matrices, at least 2.

    Attributes:
        n: size of the matrices.

    Raises:
        ConfigError: if ``n`` is not an integer >= 2.

    Example:
        >>> import torch
        >>> M = SO(4)
        >>> M.dim, M.point_shape
        (6, (4, 4))
        >>> x, y = M.random_uniform(2, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(M.exp(x, M.log(x, y)), y, atol=1e-5)
        True
    """

    family = "SO"
    injectivity_radius = math.pi
    defect_formula = "max |R^T R - I|, |det R - 1|"

    def __init__(self, n: int) -> None:
        check_size("SO(n)", 2, n=n)
        self.n = n
        super().__init__(n * (n - 1) // 2, (n, n), n)

    def matrix(self, x: Tensor) -> Tensor:
        return x

    def from_matrix(self, a: Tensor) -> Tensor:
        return a

    def algebra(self, a: Tensor) -> Tensor:
        """Skew part."""
        return (a - a.mT) / 2

    def algebra_basis(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        i, j = torch.triu_indices(self.n, self.n, 1, device=device)
        basis = torch.zeros(self.dim, self.n, self.n, dtype=dtype, device=device)
        k = torch.arange(self.dim, device=device)
        basis[k, i, j] = -1
        basis[k, j, i] = 1
        return basis

    def spectral_log(self, x: Tensor, y: Tensor) -> SpectralLog:
        return unitary_log(self.relative(x, y), branch_at_pi, real=True)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return _exp_in_four_dimensions(*torch.broadcast_tensors(x, v)) if self.n == 4 else super().exp(x, v)

    def log_volume_element(self, angles: Tensor) -> Tensor:
        # All differences of the n eigenvalues, mirrored pairs, are the roots twice and the doubled angles.
        return super().log_volume_element(angles) / 2 - sinc(angles).abs().log().sum(-1) / 4

    def project(self, x: Tensor) -> Tensor:
        """Nearest rotation in the Frobenius norm (polar factor with determinant 1)."""
        u, _, vh = torch.linalg.svd(x)
        last = torch.cat([torch.ones_like(x[..., 0, 1:]), torch.det(u @ vh).unsqueeze(-1)], -1)
        return (u * last.unsqueeze(-2)) @ vh

    def _determinant_defect(self, a: Tensor) -> Tensor:
        return (torch.det(a) - 1).abs()

    @property
    def volume(self) -> float:
        r"""Product of the areas of the unit spheres :math:`S^1, \dots, S^{n-1}` (Macdonald)."""
        return math.exp(self.log_volume)

    @property
    def log_volume(self) -> float:
        return math.fsum(Sphere(k).log_volume for k in range(1, self.n))

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        q = haar(torch.randn(n, self.n, self.n, generator=generator, dtype=dtype, device=device))
        return torch.cat([q[..., :1] * torch.det(q)[:, None, None].sign(), q[..., 1:]], -1)


def _exp_in_four_dimensions(x: Tensor, v: Tensor) -> Tensor:
    """``x exp(x^T v)`` in closed form.

    A skew matrix is the sum of a self-dual and an anti-self-dual one; the two commute and their squares are
    multiples of -I, so that each has the exponential cos t + sinc t times it.
    """
    x, v = planes(x), planes(v)

    def entry(i: int, j: int) -> Tensor:
        """Twice an entry of the skew part of x^T v."""
        return (x[:, i] * v[:, j] - x[:, j] * v[:, i]).sum(0)

    first = torch.stack([entry(0, 1), entry(0, 2), entry(0, 3)])
    last = torch.stack([entry(2, 3), -entry(1, 3), entry(1, 2)])
    dual = torch.stack([first + last, first - last]) / 4  # (2, 3, *batch)
    c, s = cos_sinc((dual * dual).sum(1))
    (c, d), (p, q) = c.unbind(0), (s.unsqueeze(1) * dual).unbind(0)
    (p1, p2, p3), (q1, q2, q3) = p.unbind(0), q.unbind(0)
    left = [c, p1, p2, p3, -p1, c, p3, -p2, -p2, -p3, c, p1, -p3, p2, -p1, c]
    right = [d, q1, q2, q3, -q1, d, -q3, q2, -q2, q3, d, -q1, -q3, -q2, q1, d]
    y = x
    for factor in (left, right):
        y = times(y, torch.stack(factor).reshape(4, 4, *c.shape))
    return matrices(polar_step(y))
