"""Compact groups of matrices with the bi-invariant metric of half the trace."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from .._safe import safe_norm, sinc
from ._characters import Family, characters, expand_determinant, levels, n_powers
from ._matrix import differentiated
from ._unitary import SpectralLog, spectral_scalar
from .capabilities import LieGroup, Spectral

__all__ = ["MatrixGroup"]


class MatrixGroup(Spectral, LieGroup):
    r"""What SO(n), U(n) and SU(n) share: the geometry of a bi-invariant metric, in body coordinates.

    A tangent vector at R is :math:`R\,\Omega` with :math:`\Omega` in the Lie algebra; the metric is :math:`\langle U,
    V\rangle = \tfrac12 \mathrm{Re}\,\mathrm{tr}\,U^* V`. Subclasses say how points are stored, which matrices are in
    the algebra, and which logarithm is the shortest.

    Attributes:
        n: size of the matrices.
        family: which representations it has: ``"SO"``, ``"SU"`` or ``"U"``.
    """

    isometric = True
    n: int
    family: Family

    # ------------------------------------------------------------------ what a group says of itself

    @abstractmethod
    def matrix(self, x: Tensor) -> Tensor:
        """Points or vectors as matrices ``(*batch, n, n)``, real or complex."""

    @abstractmethod
    def from_matrix(self, a: Tensor) -> Tensor:
        """Inverse of :meth:`matrix`."""

    @abstractmethod
    def algebra(self, a: Tensor) -> Tensor:
        """Orthogonal projection of matrices onto the Lie algebra."""

    @abstractmethod
    def algebra_basis(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Orthonormal basis of the Lie algebra, ``(dim, *point_shape)``."""

    @abstractmethod
    def spectral_log(self, x: Tensor, y: Tensor) -> SpectralLog:
        r"""Shortest logarithm of :math:`x^{-1} y`, with its eigenvalues and eigenvectors, in float64."""

    def log_volume_element(self, angles: Tensor) -> Tensor:
        r""":math:`\sum_{\alpha > 0} \log|\mathrm{sinc}(\alpha/2)|` over the positive roots; from all n eigenvalues."""
        i, j = torch.triu_indices(self.n, self.n, 1, device=angles.device)
        return sinc((angles[..., i] - angles[..., j]) / 2).abs().log().sum(-1)

    # ------------------------------------------------------------------ geometry

    def relative(self, x: Tensor, y: Tensor) -> Tensor:
        """``x^{-1} y - I`` in float64, from the difference of the points: small rotations keep their accuracy."""
        return adjoint(self.matrix(x.double())) @ self.matrix(y.double() - x.double())

    def body(self, x: Tensor, v: Tensor) -> Tensor:
        """Element of the Lie algebra that a left translation moves to ``v``, ``(*batch, n, n)``."""
        return self.algebra(adjoint(self.matrix(x)) @ self.matrix(v))

    def at(self, x: Tensor, omega: Tensor) -> Tensor:
        """Tangent vector at ``x`` of an element of the Lie algebra."""
        return self.from_matrix(self.matrix(x) @ omega)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return self._entries(u * v).sum(-1) / 2

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(self._entries(v)) / math.sqrt(2)

    def _entries(self, v: Tensor) -> Tensor:
        return v.flatten(v.dim() - len(self.point_shape))

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.at(x, self.body(x, v))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        y = self.matrix(x) @ torch.linalg.matrix_exp(self.body(x, v))
        # One Newton step of the polar decomposition keeps the columns orthonormal over the steps of a walk.
        return self.from_matrix(1.5 * y - 0.5 * y @ (adjoint(y) @ y))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self.at(x, self._logarithm(x, y))

    def _logarithm(self, x: Tensor, y: Tensor) -> Tensor:
        return self.times_i(self.spectral_log(x, y).generator, x.dtype)

    def times_i(self, hermitian: Tensor, dtype: torch.dtype) -> Tensor:
        """Element ``i H`` of the Lie algebra from a Hermitian matrix of float64, as matrices of a real dtype."""
        if len(self.point_shape) == 2:
            return (-hermitian.imag).to(dtype)
        return self.matrix(torch.stack([-hermitian.imag, hermitian.real], -1).to(dtype))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        generator = self.spectral_log(x, y).generator
        entries = torch.stack([generator.real, generator.imag], -1)
        return (safe_norm(entries.flatten(-3)) / math.sqrt(2)).to(x.dtype)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Half of the way acts from the left and half from the right: it is H W H in body axes at x."""
        half = torch.linalg.matrix_exp(self._logarithm(x, y) / 2)
        return self.from_matrix(self.matrix(x) @ half @ self.body(x, v) @ half)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        shape = (*self.batch_shape(x), self.dim)
        return self.from_frame(x, torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        return self.at(x.unsqueeze(len(self.batch_shape(x))), self.matrix(self.algebra_basis(x.dtype, x.device)))

    @property
    def frame_dim(self) -> int:
        return self.dim

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Left-invariant field: the coefficients are those in :meth:`algebra_basis`."""
        basis = self.algebra_basis(x.dtype, x.device)
        omega = (a @ basis.flatten(1)).reshape(*a.shape[:-1], *self.point_shape)
        return self.at(x, self.matrix(omega))

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        r""":math:`2 \sum_{\alpha > 0} \log|\mathrm{sinc}(\alpha/2)|`, with the roots at the eigenvalues of v."""
        hermitian = -1j * self.body(x.double(), v.double()).to(torch.complex128)
        constant = hermitian.detach()
        angles, vectors = torch.linalg.eigh(constant)
        change = vectors.mH @ (hermitian - constant) @ vectors if differentiated(hermitian) else None
        eye = torch.eye(self.n, dtype=angles.dtype, device=angles.device)
        return 2 * spectral_scalar(self.log_volume_element, angles, eye, change).to(v.dtype)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.identity(dtype, device)

    def coordinates(self, x: Tensor) -> Tensor:
        r"""The real entries divided by :math:`\sqrt 2`, an isometric embedding."""
        return self._entries(x) / math.sqrt(2)

    def defect(self, x: Tensor) -> Tensor:
        a = self.matrix(x)
        gram = a.mH @ a - torch.eye(self.n, dtype=a.dtype, device=a.device)
        return torch.maximum(gram.abs().amax((-2, -1)), self._determinant_defect(a))

    @abstractmethod
    def _determinant_defect(self, a: Tensor) -> Tensor:
        """How far the determinant is from an allowed one."""

    # ------------------------------------------------------------------ group

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        return self.from_matrix(self.matrix(x) @ self.matrix(y))

    def inverse(self, x: Tensor) -> Tensor:
        return self.from_matrix(adjoint(self.matrix(x)))

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        eye = torch.eye(self.n, dtype=dtype, device=device)
        return eye if len(self.point_shape) == 2 else torch.stack([eye, torch.zeros_like(eye)], -1)

    # ------------------------------------------------------------------ spectrum

    def eigenvalues(self, n_levels: int) -> Tensor:
        reps, level = levels(self.family, self.n, n_levels)
        return torch.from_numpy(reps.casimir[np.diff(level, prepend=-1) > 0])

    def multiplicities(self, n_levels: int) -> Tensor:
        reps, level = levels(self.family, self.n, n_levels)
        return torch.from_numpy(np.bincount(level, reps.copies * reps.dimension**2, n_levels))

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        # Matrix entries of all irreducible representations of a level: sum of dimension times character over volume.
        reps, level = levels(self.family, self.n, n_levels)
        element = adjoint(self.matrix(x)) @ self.matrix(y)
        power, sums = element, []
        for k in range(n_powers(reps)):
            sums.append(power.diagonal(0, -2, -1).sum(-1))
            power = power @ element if k + 1 < n_powers(reps) else power
        determinant = expand_determinant(element, self.n) if self.family == "U" else None
        values = characters(reps, torch.stack(sums, -1), determinant).real * torch.from_numpy(reps.dimension).to(x)
        total = torch.zeros(*values.shape[:-1], n_levels, dtype=x.dtype, device=x.device)
        return total.index_add(-1, torch.from_numpy(level).to(x.device), values) / self.volume


def adjoint(a: Tensor) -> Tensor:
    """Conjugate transpose, without a lazy conjugate, whose imaginary part would be a view that vmap refuses."""
    return (a.real - 1j * a.imag if a.is_complex() else a).mT


def polar(a: Tensor) -> Tensor:
    """Nearest unitary matrix."""
    u, _, vh = torch.linalg.svd(a)
    return u @ vh


def haar(a: Tensor) -> Tensor:
    """Haar-distributed unitary matrices from standard normal ones: QR with the phases of R's diagonal removed."""
    q, r = torch.linalg.qr(a)
    diagonal = r.diagonal(0, -2, -1)
    return q * (diagonal / diagonal.abs()).unsqueeze(-2)
