"""Real and complex projective spaces: lines through the origin, written as unit vectors up to sign or phase."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._safe import cos_sinc, safe_norm
from .base import check_size
from .capabilities import Spectral
from .sphere import Sphere

__all__ = ["ComplexProjective", "RealProjective"]


def skew(a: Tensor, n: int) -> Tensor:
    """Skew-symmetric matrix with the ``n (n - 1) / 2`` entries ``a`` above its diagonal, ``(*batch, n, n)``."""
    row, column = torch.triu_indices(n, n, 1, device=a.device)
    flat = torch.zeros(*a.shape[:-1], n * n, dtype=a.dtype, device=a.device)
    upper = flat.index_copy(-1, row * n + column, a).unflatten(-1, (n, n))
    return upper - upper.mT


class RealProjective(Spectral):
    r"""Real projective space :math:`\mathbb{RP}^n = S^n / \{\pm 1\}`: axes, directions without a sign.

    A point is a unit vector that stands for itself and its negative; the metric is that of the sphere, so that
    :math:`d(x, y) = \arccos |x \cdot y| \le \pi/2`. ``log`` and ``transport`` turn the second point to the side of the
    first; orthogonal vectors are taken as they are, so that ``log`` is the same at every call. :math:`\mathbb{RP}^3` is
    SO(3) in unit quaternions, with half of the rotation angle as the distance.

    Args:
        n: dimension, at least 1.

    Example:
        >>> import torch
        >>> M = RealProjective(2)
        >>> x, y = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.6, 0.0, -0.8])
        >>> M.dist(x, -x), M.dist(x, y)
        (tensor(0.), tensor(0.6435))
        >>> M.log(x, y)
        tensor([-0.6435,  0.0000,  0.0000])
    """

    isometric = True
    injectivity_radius = math.pi / 2
    defect_formula = "| |x|^2 - 1 |"

    def __init__(self, n: int) -> None:
        check_size("RealProjective(n)", n=n)
        super().__init__(n, (n + 1,), n)
        self.n = n
        self._sphere = Sphere(n)

    @staticmethod
    def _side(x: Tensor, y: Tensor) -> Tensor:
        """Sign that turns ``y`` to the side of ``x``, ``(*batch, 1)``."""
        return torch.where((x * y).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(x.dtype)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self._sphere.to_tangent(x, v)

    def project(self, x: Tensor) -> Tensor:
        return self._sphere.project(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._sphere.exp(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self._sphere.log(x, self._side(x, y) * y)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return self._sphere.dist(x, self._side(x, y) * y)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        side = self._side(x, y)
        return side * self._sphere.transport(x, side * y, v)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self._sphere.random_tangent(x, generator)

    def tangent_basis(self, x: Tensor) -> Tensor:
        return self._sphere.tangent_basis(x)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self._sphere.origin(dtype, device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._sphere.log_det_exp(x, v)

    def coordinates(self, x: Tensor) -> Tensor:
        r"""Entries of the projector :math:`x x^\top` over :math:`\sqrt 2`: an isometric embedding, chord sin(d)."""
        i, j = torch.triu_indices(self.n + 1, self.n + 1, 1, device=x.device)
        return torch.cat([x.square() / math.sqrt(2), x[..., i] * x[..., j]], -1)

    @property
    def frame_dim(self) -> int:
        return self.n * (self.n + 1) // 2

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """``A x`` with ``A`` the skew matrix of the coefficients: the velocity of a rotation."""
        return (skew(a, self.n + 1) @ x.unsqueeze(-1)).squeeze(-1)

    def defect(self, x: Tensor) -> Tensor:
        return self._sphere.defect(x)

    @property
    def volume(self) -> float:
        return self._sphere.volume / 2

    @property
    def log_volume(self) -> float:
        return self._sphere.log_volume - math.log(2)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self._sphere.random_uniform(n, generator=generator, dtype=dtype, device=device)

    # The even functions of the sphere: its even levels.

    def eigenvalues(self, n_levels: int) -> Tensor:
        return self._sphere.eigenvalues(2 * n_levels - 1)[::2]

    def multiplicities(self, n_levels: int) -> Tensor:
        return self._sphere.multiplicities(2 * n_levels - 1)[::2]

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        # Norm 1 in half of the sphere's volume.
        return 2 * self._sphere.level_sums(x, y, 2 * n_levels - 1)[..., ::2]


def hermitian(u: Tensor, v: Tensor) -> Tensor:
    r"""Hermitian product :math:`\sum_i \bar u_i v_i` as a real pair, ``(*batch, k, 2) -> (*batch, 2)``."""
    real = (u * v).sum((-2, -1))
    return torch.stack([real, (u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0]).sum(-1)], -1)


def times(c: Tensor, v: Tensor) -> Tensor:
    """Complex scalar ``(*batch, 2)`` times a complex vector ``(*batch, k, 2)``."""
    turned = torch.stack([-v[..., 1], v[..., 0]], -1)
    return c[..., None, :1] * v + c[..., None, 1:] * turned


def conjugate(c: Tensor) -> Tensor:
    """Complex conjugate of real pairs."""
    return torch.stack([c[..., 0], -c[..., 1]], -1)


class ComplexProjective(Spectral):
    r"""Complex projective space :math:`\mathbb{CP}^n = S^{2n+1} / U(1)`: pure quantum states, shapes of plane figures.

    A point is a unit vector :math:`z \in \mathbb{C}^{n+1}` up to a phase, as real pairs (``torch.view_as_real``).
    Tangent vectors are horizontal: :math:`\langle z, v\rangle = \sum_i \bar z_i v_i = 0`. The metric is Fubini-Study
    with :math:`d(z, w) = \arccos |\langle z, w\rangle| \le \pi/2`: sectional curvatures are between 1 and 4, and
    :math:`\mathbb{CP}^1` is the sphere of radius 1/2. ``log`` and ``transport`` turn the phase of the second point to
    that of the first; at the cut locus, :math:`\langle z, w\rangle = 0`, the second point is taken as it is.

    Args:
        n: complex dimension, at least 1.

    Example:
        >>> import torch
        >>> M = ComplexProjective(1)
        >>> z, w = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8j])
        >>> z, w = torch.view_as_real(z + 0j), torch.view_as_real(w)
        >>> M.dist(z, w)
        tensor(0.9273)
        >>> round(M.volume, 4)
        3.1416
    """

    isometric = True
    injectivity_radius = math.pi / 2
    defect_formula = "| |z|^2 - 1 |"

    def __init__(self, n: int) -> None:
        check_size("ComplexProjective(n)", n=n)
        super().__init__(2 * n, (n + 1, 2), n)
        self.n = n

    def _aligned(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The horizontal part of ``y`` turned to the phase of ``x``, of length sin d; cos d; the phase.

        The horizontal part of y - x is that of y, without its cancellation where the phases are close already.
        """
        product = hermitian(x, y)
        cosine = safe_norm(product, keepdim=True)
        aligned = cosine > 0
        one = torch.zeros_like(product)
        one[..., 0] = 1
        phase = torch.where(aligned, conjugate(product) / torch.where(aligned, cosine, 1.0), one)
        return times(phase, self.to_tangent(x, y - x)), cosine.squeeze(-1), phase

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1))

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v.flatten(-2))

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v - times(hermitian(x, v), x)

    def project(self, x: Tensor) -> Tensor:
        # The zero vector has no nearest point: it becomes NaN here and an error in check_point, never a silent choice.
        return x / x.square().sum((-2, -1), keepdim=True).sqrt()

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        c, k = cos_sinc((v * v).sum((-2, -1), keepdim=True))
        y = c * x + k * v
        return y / (y * y).sum((-2, -1), keepdim=True).sqrt()  # rounding must not pile up over the steps of a walk

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        v, cosine, _ = self._aligned(x, y)
        sine = safe_norm(v.flatten(-2))
        length = torch.where(sine > 0, sine, 1.0)
        return self.per_point(torch.where(sine > 0, torch.atan2(sine, cosine) / length, 1.0)) * v

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        v, cosine, _ = self._aligned(x, y)
        return torch.atan2(safe_norm(v.flatten(-2)), cosine)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        # In the phase of x it is the complex reflection along x + y, then the phase is turned back to that of y.
        _, cosine, phase = self._aligned(x, y)
        p = x + times(phase, y)
        along = hermitian(p, v) / (1 + cosine).unsqueeze(-1)
        return times(conjugate(phase), v - times(along, p))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.to_tangent(x, torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        # Columns 1..n of the unitary reflection I - w w* / (x* w), w = x +- e_0, whose column 0 is a multiple of x;
        # and i times them. The sign of Re x_0 keeps x* w away from 0.
        sign = torch.where(x[..., :1, 0] >= 0, 1.0, -1.0).to(x.dtype)
        e0 = torch.zeros_like(x)
        e0[..., 0, 0] = 1
        w = x + sign.unsqueeze(-1) * e0
        product = hermitian(x, w)
        quotient = conjugate(product) / product.square().sum(-1, keepdim=True)
        # column j: e_j - w conj(x_j) / (x* w)
        factors = times(quotient, conjugate(x[..., 1:, :]))
        columns = -times(factors, w.unsqueeze(-3))
        eye = torch.zeros(self.n, self.n + 1, 2, dtype=x.dtype, device=x.device)
        eye[:, 1:, 0] = torch.eye(self.n, dtype=x.dtype, device=x.device)
        columns = columns + eye
        return torch.cat([columns, torch.stack([-columns[..., 1], columns[..., 0]], -1)], -3)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        # The area of the sphere of radius r is proportional to sin(r)^(2n-1) cos(r).
        squared = (v * v).sum((-2, -1))
        return (2 * self.n - 2) * cos_sinc(squared)[1].abs().log() + cos_sinc(4 * squared)[1].abs().log()

    def coordinates(self, x: Tensor) -> Tensor:
        r"""Entries of the projector :math:`z z^*` over :math:`\sqrt 2`: an isometric embedding, chord sin(d)."""
        i, j = torch.triu_indices(self.n + 1, self.n + 1, 1, device=x.device)
        a, b = x[..., i, :], x[..., j, :]
        imaginary = a[..., 1] * b[..., 0] - a[..., 0] * b[..., 1]
        return torch.cat([x.square().sum(-1) / math.sqrt(2), (a * b).sum(-1), imaginary], -1)

    @property
    def frame_dim(self) -> int:
        return (self.n + 1) ** 2

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Horizontal part of ``A z``, ``A`` the skew-Hermitian matrix of the coefficients: a unitary motion's speed."""
        k = self.n + 1
        diagonal, upper, mixed = a.split([k, k * (k - 1) // 2, k * (k - 1) // 2], -1)
        i, j = torch.triu_indices(k, k, 1, device=a.device)
        flat = torch.zeros(*a.shape[:-1], k * k, dtype=a.dtype, device=a.device)
        symmetric = flat.index_copy(-1, i * k + j, mixed).index_copy(-1, j * k + i, mixed)
        symmetric = symmetric.index_copy(-1, torch.arange(k, device=a.device) * (k + 1), diagonal).unflatten(-1, (k, k))
        real, imaginary = skew(upper, k) @ x, symmetric @ x
        v = torch.stack([real[..., 0] - imaginary[..., 1], real[..., 1] + imaginary[..., 0]], -1)
        return self.to_tangent(x, v)

    def defect(self, x: Tensor) -> Tensor:
        return (x.square().sum((-2, -1)) - 1).abs()

    @property
    def volume(self) -> float:
        return math.exp(self.log_volume)

    @property
    def log_volume(self) -> float:
        return self.n * math.log(math.pi) - math.lgamma(self.n + 1)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.project(torch.randn(n, self.n + 1, 2, generator=generator, dtype=dtype, device=device))

    def eigenvalues(self, n_levels: int) -> Tensor:
        level = torch.arange(n_levels, dtype=torch.float64)
        return 4 * level * (level + self.n)

    def multiplicities(self, n_levels: int) -> Tensor:
        n = self.n
        counts = [(2 * k + n) * math.comb(k + n - 1, k) ** 2 // n for k in range(n_levels)]
        return torch.tensor([float(c) for c in counts], dtype=torch.float64)

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        # Jacobi polynomials P_k^(n-1, 0) normalised to 1 at x = y, by their three-term recurrence.
        a = self.n - 1
        c = (2 * hermitian(x, y).square().sum(-1) - 1).clamp(-1, 1)
        levels = [torch.ones_like(c), ((a + 2) * c + a) / (2 * (a + 1))]
        for k in range(1, n_levels - 1):
            last, least = levels[k], levels[k - 1]
            # P_k(1) = C(k + a, k), so that P_k / P_k(1) has the divisor (k + a + 1) instead of (k + 1).
            top = (2 * k + a + 1) * ((2 * k + a + 2) * (2 * k + a) * c + a * a) * last
            below = 2 * k * k * (2 * k + a + 2) * least
            levels.append((top - below) / (2 * (k + a + 1) ** 2 * (2 * k + a)))
        zonal = torch.stack(levels[:n_levels], -1)
        return zonal * self.multiplicities(n_levels).to(c) / self.volume
