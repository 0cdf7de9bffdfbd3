"""Subspaces of a Euclidean space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ConfigError
from .._safe import log_abs_det, safe_norm, solve
from ._frames import complement, orthonormal, polar, renormalise, skew_matrix, uniform_frames
from ._matrix import sym_arccos_over_sine, sym_cos_sinc
from .base import check_size
from .capabilities import Compact, exp_or_inf
from .sphere import Sphere

__all__ = ["Grassmann"]


class Grassmann(Compact):
    r"""The Grassmann manifold of p-dimensional subspaces of :math:`\mathbb{R}^n`.

    A point is stored as an orthonormal frame X, ``(n, p)``, of the subspace; X and XQ are the same point for every
    orthogonal Q. Tangent vectors at X are horizontal, :math:`X^\top V = 0`, with
    :math:`\langle U, V\rangle = \mathrm{tr}\,U^\top V`; X and V turn together. The distance is the root of the sum of
    the squared principal angles. With :math:`A = V^\top V`, the polar decomposition :math:`X^\top Y = S R` and
    :math:`Y' = Y R^\top`,

    .. math::
        \exp_X(V) = X \cos\sqrt A + V\, \frac{\sin\sqrt A}{\sqrt A}, \qquad
        \log_X(Y) = (Y' - X S)\, \frac{\arccos S}{\sqrt{1 - S^2}}, \qquad
        T_{X \to Y} V = \bigl(V - (X + Y')(1 + S)^{-1} Y'^\top V\bigr) R.

    Where one principal angle is pi/2 (the cut locus), ``log`` takes the geodesic whose velocity, in the plane of that
    angle, has a positive largest entry; where several are, one of the minimal geodesics.

    Args:
        n: dimension of the space, at least 2.
        p: dimension of the subspaces, from 1 to n - 1.

    Example:
        >>> import torch
        >>> M = Grassmann(3, 1)
        >>> x, y = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[-1.0], [-1.0], [0.0]]) / 2**0.5
        >>> M.dist(x, y)
        tensor(0.7854)
        >>> round(Grassmann(4, 2).volume / torch.pi**2, 12)
        2.0

    References:
        Edelman, Arias and Smith, *The geometry of algorithms with orthogonality constraints*, 1998,
        arXiv:physics/9806030. Bendokat, Zimmermann and Absil, *A Grassmann manifold handbook*, 2020, arXiv:2011.13699.
    """

    isometric = True
    injectivity_radius = math.pi / 2
    defect_formula = "max |x^T x - 1|"

    def __init__(self, n: int, p: int) -> None:
        check_size("Grassmann(n, p)", n=n, p=p)
        if p >= n:
            raise ConfigError(f"Grassmann(n, p) needs 1 <= p < n; got n={n}, p={p}.")
        super().__init__(p * (n - p), (n, p), n, p)
        self.n, self.p = n, p

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1))

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v.flatten(-2))

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - x @ (x.mT @ v)

    def project(self, x: Tensor) -> Tensor:
        """Nearest orthonormal frame (polar factor)."""
        return orthonormal(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        cos, sinc = sym_cos_sinc(v.mT @ v)
        return renormalise(x @ cos + v @ sinc)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        s, turn = self._align(x, y)
        return self._part(x, y, turn) @ turn.mT @ sym_arccos_over_sine(s)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self.norm(x, self.log(x, y))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        s, turn = self._align(x, y)
        aligned, eye = y @ turn.mT, torch.eye(self.p, dtype=x.dtype, device=x.device)
        return (v - (x + aligned) @ solve(eye + s, aligned.mT @ v)) @ turn

    def _align(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Polar decomposition ``x^T y = S R``: the cosines of the principal angles, and the turn of the frames."""
        x, y = torch.broadcast_tensors(x, y)
        m = x.mT @ y
        constant = m.detach()
        left, values, right = torch.linalg.svd(constant)
        # At an angle pi/2 the sign of a singular pair is free: that of the largest entries of its two principal vectors
        # decides.
        u, w = (x @ left).detach(), (y @ right.mT).detach()
        sign = torch.sign(_largest(u) * _largest(w))
        null = values <= 4 * torch.finfo(values.dtype).eps
        right = right * torch.where(null, sign, 1.0).unsqueeze(-1)
        return polar(m, left, values, right.mT)

    def _part(self, x: Tensor, y: Tensor, turn: Tensor) -> Tensor:
        """Part of y orthogonal to x; close frames are subtracted first, and nothing cancels."""
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device)
        return self.to_tangent(x, (y - x) - x @ (turn - eye))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.to_tangent(x, torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        normal = complement(x)
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device)
        # Vector (i, j): column i of the complement in column j.
        return (normal.mT.unsqueeze(-2).unsqueeze(-1) * eye.unsqueeze(-2)).flatten(-4, -3)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The span of the first p coordinate axes."""
        return torch.eye(self.n, self.p, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        r"""Sum of the logarithms of the distortions, by pairs of angles.

        :math:`\prod_{i<j} \mathrm{sinc}(\theta_i - \theta_j)\, \mathrm{sinc}(\theta_i + \theta_j)
        \prod_i \mathrm{sinc}(\theta_i)^{n - 2p}`, as determinants of polynomials in :math:`A = V^\top V`: the operator
        :math:`Z \mapsto Z A + A Z - 2 Z^\top A` on p x p matrices has the eigenvalues
        :math:`(\theta_i \pm \theta_j)^2` and zeros.
        """
        a = v.mT @ v
        result = (self.n - 2 * self.p) * _log_det_sinc(a)
        if self.p == 1:
            return result
        eye = torch.eye(self.p, dtype=a.dtype, device=a.device)
        # Indices (rows of the image i k) x (rows of the argument j l).
        right = eye[:, None, :, None] * a.mT[..., None, :, None, :]
        left = a[..., :, None, :, None] * eye[None, :, None, :]
        turned = eye[:, None, None, :] * a.mT[..., None, :, :, None]
        operator = (right + left - 2 * turned).flatten(-2).flatten(-3, -2)
        return result + _log_det_sinc(operator)

    def coordinates(self, x: Tensor) -> Tensor:
        r"""Entries of the projector :math:`X X^\top` divided by :math:`\sqrt 2`, those off the diagonal once, whole."""
        projector = x @ x.mT
        rows, columns = torch.triu_indices(self.n, self.n, 1, device=x.device)
        diagonal = projector.diagonal(dim1=-2, dim2=-1) / math.sqrt(2)
        return torch.cat([diagonal, projector[..., rows, columns]], -1)

    @property
    def frame_dim(self) -> int:
        return self.n * (self.n - 1) // 2

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Velocity of the subspace under an infinitesimal rotation of the space with entries ``a``."""
        return self.to_tangent(x, skew_matrix(a, self.n) @ x)

    def defect(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.p, dtype=x.dtype, device=x.device)
        return (x.mT @ x - eye).abs().amax((-2, -1))

    @property
    def volume(self) -> float:
        return exp_or_inf(self.log_volume)

    @property
    def log_volume(self) -> float:
        # Vol O(n) / (Vol O(p) Vol O(n - p)), each a product of spheres; S^0 is two points.
        log_spheres = [math.log(2.0), *[Sphere(k).log_volume for k in range(1, self.n)]]
        return sum(log_spheres[self.n - self.p :]) - sum(log_spheres[: self.p])

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return uniform_frames(n, self.n, self.p, generator, dtype, device)


def _largest(columns: Tensor) -> Tensor:
    """Entry of largest absolute value of each column, ``(*batch, n, p) -> (*batch, p)``."""
    return columns.gather(-2, columns.abs().argmax(-2, keepdim=True)).squeeze(-2)


def _log_det_sinc(t: Tensor) -> Tensor:
    r""":math:`\log|\det(\sin\sqrt T / \sqrt T)|` for a matrix with eigenvalues in [0, 100].

    Taylor series at T / 64, then :math:`\mathrm{sinc}(2z) = \cos z\, \mathrm{sinc}\, z` and :math:`\cos 2z = 2\cos^2 z
    - 1` three times: polynomials, smooth at repeated eigenvalues.
    """
    eye = torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)
    t = t / 64
    cos, sinc = eye * (1 / math.factorial(22)), eye * (1 / math.factorial(23))
    for k in range(10, -1, -1):
        cos, sinc = eye * (1 / math.factorial(2 * k)) - t @ cos, eye * (1 / math.factorial(2 * k + 1)) - t @ sinc
    for _ in range(3):
        cos, sinc = 2 * cos @ cos - eye, cos @ sinc
    return log_abs_det(sinc)
