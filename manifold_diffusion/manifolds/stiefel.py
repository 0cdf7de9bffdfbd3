"""Orthonormal frames of a Euclidean space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ConfigError
from .._safe import log_abs_det
from ._frames import complement, orthonormal, renormalise, skew, uniform_frames
from ._stiefel_log import solve
from .base import check_size
from .capabilities import Compact, exp_or_inf
from .sphere import Sphere

__all__ = ["Stiefel"]


class Stiefel(Compact):
    r"""The Stiefel manifold of orthonormal p-frames of :math:`\mathbb{R}^n` with the canonical metric.

    A point is a matrix X, ``(n, p)``, with :math:`X^\top X = 1`; a tangent vector has :math:`A = X^\top V` skew. The
    metric is that of the quotient SO(n) / SO(n - p), :math:`\langle U, V\rangle = \mathrm{tr}\,U^\top (1 - \tfrac12 X
    X^\top) V`: p = 1 is the unit sphere, p = n - 1 is SO(n) with :math:`\tfrac12\mathrm{tr}\,U^\top V`. With
    :math:`K = V - X A`,

    .. math:: \exp_X(V) = (X, K) \exp\begin{pmatrix} A & -K^\top K \\ 1 & 0 \end{pmatrix} \begin{pmatrix} 1 \\ 0
        \end{pmatrix},

    the formula of Edelman, Arias and Smith without its QR decomposition, whose derivatives are singular at K = 0. The
    logarithm is Zimmermann's iteration and Newton steps, in float64. Parallel transport is that of a naturally
    reductive space, the exponential of a ``dim`` x ``dim`` matrix.

    Below :attr:`injectivity_radius`, a proven bound of :math:`\sqrt{4/5}\,\pi` (:math:`\pi` for p = 1 and p = n - 1),
    ``log`` is the inverse of ``exp``. Points further apart get a geodesic between them, which is the shortest one that
    the iteration finds, not provably the shortest.

    Args:
        n: dimension of the space, at least 2.
        p: number of vectors of a frame, from 1 to n - 1.

    Example:
        >>> import torch
        >>> M = Stiefel(4, 2)
        >>> x = M.origin(dtype=torch.float64)
        >>> v = 0.5 * M.random_tangent(x, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(M.log(x, M.exp(x, v)), v)
        True

    References:
        Edelman, Arias and Smith, *The geometry of algorithms with orthogonality constraints*, 1998,
        arXiv:physics/9806030. Zimmermann, *A matrix-algebraic algorithm for the Riemannian logarithm on the Stiefel
        manifold under the canonical metric*, 2017, arXiv:1604.05054. Rentmeesters, *Algorithms for data fitting on
        some common homogeneous spaces*, 2013 (the bound); Absil and Mataigne, *The ultimate upper bound on the
        injectivity radius of the Stiefel manifold*, 2024, arXiv:2403.02079 (it is at most 0.914 pi).
    """

    defect_formula = "max |x^T x - 1|"

    def __init__(self, n: int, p: int) -> None:
        check_size("Stiefel(n, p)", n=n, p=p)
        if p >= n:
            hint = " Frames of n vectors have two components; for one of them take p = n - 1." if p == n else ""
            raise ConfigError(f"Stiefel(n, p) needs 1 <= p < n; got n={n}, p={p}.{hint}")
        super().__init__(n * p - p * (p + 1) // 2, (n, p), n, p)
        self.n, self.p = n, p
        self.injectivity_radius = math.pi if p in (1, n - 1) else math.sqrt(0.8) * math.pi

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1)) - ((x.mT @ u) * (x.mT @ v)).sum((-2, -1)) / 2

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        a = x.mT @ v
        return v - x @ (a + a.mT) / 2

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        # The metric halves the squares of the same p (p - 1) / 2 directions everywhere: the density is constant.
        return torch.zeros(self.batch_shape(v), dtype=v.dtype, device=v.device)

    def project(self, x: Tensor) -> Tensor:
        """Nearest orthonormal frame (polar factor)."""
        return orthonormal(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        x, v = torch.broadcast_tensors(x, v)
        frame, generator = self._block(x, v)
        return renormalise(frame @ torch.linalg.matrix_exp(generator)[..., : self.p])

    def differential(self, x: Tensor, v: Tensor, u: Tensor) -> Tensor:
        """Derivative of ``exp(x, v)`` in the direction ``u`` of v, without automatic differentiation."""
        x, v, u = torch.broadcast_tensors(x, v, u)
        frame, generator = self._block(x, v)
        a, k = x.mT @ u, frame[..., self.p :]
        c = generator[..., self.p :, : self.p].diagonal(dim1=-2, dim2=-1)[..., :1].unsqueeze(-1)
        change = (u - x @ a) / c
        product = change.mT @ k
        row = torch.cat([a, -c * (product + product.mT)], -1)
        moved = torch.cat([row, torch.zeros_like(row)], -2)
        # The exponential of (Z, E; 0, Z) has that of Z on the diagonal and its derivative along E above.
        zero = torch.zeros_like(moved)
        pair = torch.cat([torch.cat([generator, moved], -1), torch.cat([zero, generator], -1)], -2)
        flow, size = torch.linalg.matrix_exp(pair), 2 * self.p
        image = frame @ flow[..., :size, size : size + self.p]
        return image + change @ flow[..., self.p : size, : self.p]

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        # On the manifold and tangent first: the bases, whose turns are constants, then turn no determinant.
        x = orthonormal(x)
        v = self.to_tangent(x, v)
        end = self.tangent_basis(self.exp(x, v))
        images = self.differential(x.unsqueeze(-3), v.unsqueeze(-3), self.tangent_basis(x))
        # Products with the canonically orthonormal basis: rows of end times (1 - y y^T / 2) are its dual.
        y = self.exp(x, v).unsqueeze(-3)
        dual = end - y @ (y.mT @ end) / 2
        return log_abs_det(dual.flatten(-2) @ images.flatten(-2).mT)

    def _block(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The frame (X, K) and the matrix whose exponential moves it."""
        a = x.mT @ v
        k = v - x @ a
        # Dividing K by a constant c and multiplying the block below A with it changes nothing but the balance.
        c = (k.detach() * k.detach()).sum((-2, -1), keepdim=True).sqrt().clamp_min(1.0)
        k = k / c
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device)
        top = torch.cat([a, -c * (k.mT @ k)], -1)
        bottom = torch.cat([c * eye, torch.zeros_like(a)], -1)
        return torch.cat([x, k], -1), torch.cat([top, bottom], -2)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = torch.broadcast_tensors(x, y)
        return solve(self, x.double(), y.double()).to(x.dtype)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        r"""Parallel transport along the geodesic of :meth:`log`.

        Vectors are carried along by the rotations :math:`e^{tW}` of the space whose orbit the geodesic is, and turned
        by :math:`e^{-t\Lambda}` with :math:`\Lambda V = \tfrac12 [W, V]` (naturally reductive spaces; Kobayashi and
        Nomizu, *Foundations of Differential Geometry II*, 1969, X.3).
        """
        x, y, v = torch.broadcast_tensors(x, y, v)
        w, basis = self._generator(x, self.log(x, y)), self.tangent_basis(x)
        at = x.unsqueeze(-3).expand_as(basis)
        w_, b = w.unsqueeze(-3), self._generator(at, basis)
        turned = (w_ @ b - b @ w_) @ at / 2
        # Column j: coefficients of the image of vector j. Skew in exact arithmetic, and made so.
        matrix = self.inner(at.unsqueeze(-3), basis.unsqueeze(-3), turned.unsqueeze(-4))
        coefficients = self.inner(at, basis, v.unsqueeze(-3).expand_as(basis)).unsqueeze(-1)
        coefficients = torch.linalg.matrix_exp(-skew(matrix)) @ coefficients
        return torch.linalg.matrix_exp(w) @ (coefficients.unsqueeze(-1) * basis).sum(-3)

    def _generator(self, x: Tensor, v: Tensor) -> Tensor:
        """Skew n x n matrix W with ``v = W x`` and no part in the complement of x."""
        a = x.mT @ v
        outer = (v - x @ a) @ x.mT
        return outer - outer.mT + x @ a @ x.mT

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        a = x.mT @ noise
        return noise - x @ a + x @ (a - a.mT) / math.sqrt(2)

    def tangent_basis(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device)
        rows, columns = torch.tril_indices(self.p, self.p, -1, device=x.device)
        unit = eye[rows].unsqueeze(-1) * eye[columns].unsqueeze(-2)
        normal = complement(x).mT.unsqueeze(-2).unsqueeze(-1) * eye.unsqueeze(-2)
        return torch.cat([x.unsqueeze(-3) @ (unit - unit.mT), normal.flatten(-4, -3)], -3)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The first p coordinate axes."""
        return torch.eye(self.n, self.p, dtype=dtype, device=device)

    def coordinates(self, x: Tensor) -> Tensor:
        r"""The entries divided by :math:`\sqrt 2`: never longer than the canonical distance."""
        return x.flatten(-2) / math.sqrt(2)

    def defect(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device)
        return (x.mT @ x - eye).abs().amax((-2, -1))

    @property
    def volume(self) -> float:
        return exp_or_inf(self.log_volume)

    @property
    def log_volume(self) -> float:
        # Vol SO(n) / Vol SO(n - p): a product of spheres.
        return sum(Sphere(k).log_volume for k in range(self.n - self.p, self.n))

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return uniform_frames(n, self.n, self.p, generator, dtype, device)
