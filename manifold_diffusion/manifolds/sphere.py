"""The unit sphere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._safe import cos_sinc, dot, safe_norm, safe_sqrt
from .base import check_size
from .capabilities import Spectral

__all__ = ["Sphere"]


class Sphere(Spectral):
    r"""The unit sphere :math:`S^n = \{x \in \mathbb{R}^{n+1} : |x| = 1\}` with the metric of its embedding.

    :math:`\exp_x(v) = \cos|v|\, x + \sin|v|\, v/|v|` and :math:`d(x, y) = 2\,\mathrm{atan2}(|x-y|, |x+y|)`, which keeps
    its relative accuracy at both ends. At antipodes ``log`` points along the first vector of ``tangent_basis(x)``.

    Args:
        n: dimension, at least 1.

    Example:
        >>> import torch
        >>> M = Sphere(2)
        >>> x, y = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> M.log(x, y)
        tensor([1.5708, 0.0000, 0.0000])
        >>> round(M.volume, 4)
        12.5664
    """

    isometric = True
    injectivity_radius = math.pi
    defect_formula = "| |x|^2 - 1 |"

    def __init__(self, n: int) -> None:
        check_size("Sphere(n)", n=n)
        super().__init__(n, (n + 1,), n)
        self.n = n

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return dot(u, v)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.addcmul(v, dot(x, v, keepdim=True), x, value=-1)

    def project(self, x: Tensor) -> Tensor:
        # The zero vector has no nearest point: it becomes NaN here and an error in check_point, never a silent choice.
        return x / x.norm(dim=-1, keepdim=True)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        c, k = cos_sinc(dot(v, v, keepdim=True))
        y = c * x + k * v
        return y / dot(y, y, keepdim=True).sqrt()  # rounding must not pile up over the steps of a walk

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        v, ratio, _ = self.toward(x, y)
        return ratio * v

    def toward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A tangent vector ``v`` along the geodesic from ``x`` to ``y``, what takes it to ``log``, and the distance.

        ``v`` is the part of ``y`` that is orthogonal to ``x``, or at antipodes a fixed unit vector; ratio and distance
        are ``(*batch, 1)``.
        """
        cosine = dot(x, y, keepdim=True)
        sign = torch.where(cosine < 0, -1.0, 1.0).to(x.dtype)
        # The projection kills x, so y may be replaced by y - x or y + x, whichever is small: no cancellation at either
        # end.
        v = self.to_tangent(x, torch.addcmul(y, sign, x, value=-1))
        squared = dot(v, v, keepdim=True)
        # Within one rounding of the antipode v is noise. There the direction is that of a fixed vector.
        pole = (squared <= torch.finfo(x.dtype).eps ** 2) & (cosine < 0)
        v = self._or_first_tangent(x, v, pole)
        sine = torch.where(pole, 0.0, safe_sqrt(squared))
        length, angle = torch.where(sine > 0, sine, 1.0), torch.atan2(sine, cosine)
        return v, torch.where((sine > 0) | pole, angle / length, 1.0), angle

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return 2 * torch.atan2(safe_norm(x - y), safe_norm(x + y))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        # For v orthogonal to x it is the reflection along x + y; at antipodes, along the direction of log.
        p = x + y
        squared = dot(p, p, keepdim=True)
        pole = squared <= (4 * torch.finfo(x.dtype).eps) ** 2
        p = self._or_first_tangent(x, p, pole)
        along = dot(p, v, keepdim=True) / torch.where(pole, 1.0, squared)
        return torch.addcmul(v, along, p, value=-2)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.to_tangent(x, torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        # Columns 1..n of the Householder reflection that sends e_0 to -sign(x_0) x.
        sign = torch.where(x[..., :1] >= 0, 1.0, -1.0).to(x.dtype)
        e0 = torch.zeros_like(x)
        e0[..., 0] = 1
        w = x + sign * e0
        eye = torch.eye(self.n + 1, dtype=x.dtype, device=x.device)[1:]
        return eye - x[..., 1:, None] * w[..., None, :] / (1 + x[..., :1].abs())[..., None]

    def _or_first_tangent(self, x: Tensor, v: Tensor, zero: Tensor) -> Tensor:
        """``v``, and where it is nothing but rounding the first vector of :meth:`tangent_basis`."""
        # The vector is k x but for its first two entries, and added: few passes over many coordinates.
        one = zero.to(x.dtype)
        k = -one * x[..., 1:2] / (1 + x[..., :1].abs())
        sign = torch.where(x[..., :1] >= 0, 1.0, -1.0).to(x.dtype)
        v = torch.addcmul(v, k, x)
        return torch.cat([v[..., :2] + torch.cat([k * sign, one], -1), v[..., 2:]], -1)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        north = torch.zeros(self.n + 1, dtype=dtype, device=device)
        north[-1] = 1
        return north

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return (self.n - 1) * cos_sinc(dot(v, v))[1].abs().log()

    def defect(self, x: Tensor) -> Tensor:
        return (x.square().sum(-1) - 1).abs()

    @property
    def volume(self) -> float:
        return math.exp(self.log_volume)

    @property
    def log_volume(self) -> float:
        return math.log(2) + (self.n + 1) / 2 * math.log(math.pi) - math.lgamma((self.n + 1) / 2)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self.project(torch.randn(n, self.n + 1, generator=generator, dtype=dtype, device=device))

    def eigenvalues(self, n_levels: int) -> Tensor:
        level = torch.arange(n_levels, dtype=torch.float64)
        return level * (level + self.n - 1)

    def multiplicities(self, n_levels: int) -> Tensor:
        n = self.n
        if n == 1:
            return torch.tensor([1.0] + [2.0] * (n_levels - 1), dtype=torch.float64)[:n_levels]
        counts = [math.comb(n + k, n) - (math.comb(n + k - 2, n) if k >= 2 else 0) for k in range(n_levels)]
        return torch.tensor([float(c) for c in counts], dtype=torch.float64)

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        # Zonal polynomials normalised to 1 at x = y (Chebyshev for n = 1, Gegenbauer above), by their three-term
        # recurrence.
        c = dot(x, y).clamp(-1, 1)
        n = self.n
        levels = [torch.ones_like(c), c]
        for k in range(1, n_levels - 1):
            levels.append(((2 * k + n - 1) * c * levels[k] - k * levels[k - 1]) / (k + n - 1))
        zonal = torch.stack(levels[:n_levels], -1)
        return zonal * self.multiplicities(n_levels).to(c) / self.volume
