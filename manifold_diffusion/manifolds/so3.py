"""Rotations of three-dimensional space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._safe import cos_sinc, safe_norm, sinc
from ._planes import cross, matrices, planes, polar_step, times
from .capabilities import LieGroup, Spectral

__all__ = ["SO3"]


def hat(w: Tensor) -> Tensor:
    """Skew matrix of an axis vector: ``hat(w) u = w x u``, ``(*batch, 3) -> (*batch, 3, 3)``."""
    x, y, z = w.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*w.shape[:-1], 3, 3)


def vee(a: Tensor) -> Tensor:
    """Axis vector of the skew part of a matrix, ``(*batch, 3, 3) -> (*batch, 3)``; inverse of :func:`hat`."""
    return torch.stack([a[..., 2, 1] - a[..., 1, 2], a[..., 0, 2] - a[..., 2, 0], a[..., 1, 0] - a[..., 0, 1]], -1) / 2


def body(x: Tensor, v: Tensor) -> Tensor:
    """Axis vector of the skew part of ``x^T v``, ``(*batch, 3)``: minus half the sum of the rows' cross products."""
    rows = torch.linalg.cross(*torch.broadcast_tensors(x, v), dim=-1)
    return -(rows[..., 0, :] + rows[..., 1, :] + rows[..., 2, :]) / 2


def times_hat(x: Tensor, w: Tensor) -> Tensor:
    """``x @ hat(w)``: the cross product of each row with ``w``, faster than a batched 3 x 3 product on a CPU."""
    return torch.linalg.cross(*torch.broadcast_tensors(x, w.unsqueeze(-2)), dim=-1)


def rotation(w: Tensor) -> Tensor:
    """Rotation by the angle ``|w|`` about ``w`` (Rodrigues), ``(*batch, 3) -> (*batch, 3, 3)``."""
    c, k = cos_sinc((w * w).sum(-1) / 4)
    return _from_quaternion(c, k.unsqueeze(-1) * w / 2)


def _from_quaternion(c: Tensor, q: Tensor) -> Tensor:
    return matrices(_rotation_planes(c, q.movedim(-1, 0)))


def _rotation_planes(c: Tensor, q: Tensor) -> Tensor:
    """Planes of the rotation of a unit quaternion: scalar part ``(*batch,)``, vector part ``(3, *batch)``."""
    x, y, z = q.unbind(0)
    a, b, d = (2 * q).unbind(0)
    xx, yy, zz, xy, xz, yz, cx, cy, cz = a * x, b * y, d * z, a * y, a * z, b * z, a * c, b * c, d * c
    entries = [1 - (yy + zz), xy - cz, xz + cy, xy + cz, 1 - (xx + zz), yz - cx, xz - cy, yz + cx, 1 - (xx + yy)]
    return torch.stack(entries).reshape(3, 3, *c.shape)


def _relative_quaternion(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Unit quaternion of ``x^T y``: scalar part >= 0, ``(*batch,)``, and vector part, ``(3, *batch)``.

    The matrix is I + x^T (y - x), so that a small rotation keeps its relative accuracy; the largest of the four
    components is found first (Shepperd's method), so that rotations by pi are as accurate as any. A rotation by exactly
    pi has the axis whose largest entry is positive.
    """
    x, y = torch.broadcast_tensors(x, y)
    m = times(planes(x).transpose(0, 1), planes(y - x))
    (d0, m01, m02), (m10, d1, m12), (m20, m21, d2) = (row.unbind(0) for row in m.unbind(0))
    s0, s1, s2 = m21 - m12, m02 - m20, m10 - m01
    t0, t1, t2 = m21 + m12, m02 + m20, m10 + m01
    # 4 c^2, 4 x^2, 4 y^2, 4 z^2 on the diagonal; row i is 4 q_i q.
    e0, e1, e2, e3 = 4 + d0 + d1 + d2, d0 - d1 - d2, d1 - d0 - d2, d2 - d0 - d1
    table = torch.stack([e0, s0, s1, s2, s0, e1, t2, t1, s1, t2, e2, t0, s2, t1, t0, e3]).reshape(4, 4, *e0.shape)
    left, right = torch.where(e0 >= e1, table[0], table[1]), torch.where(e2 >= e3, table[2], table[3])
    row = torch.where(torch.maximum(e0, e1) >= torch.maximum(e2, e3), left, right)
    row = row / (row * row).sum(0).sqrt()  # the length is at least 2
    c, q = row[0], row[1:]
    # For c = 0 the largest entry of q is positive already: the row is a positive multiple of it times q.
    sign = torch.where(c < 0, -1.0, 1.0).to(c.dtype)
    return c * sign, q * sign


class SO3(Spectral, LieGroup):
    r"""The rotation group SO(3) with the bi-invariant metric in which distance is the rotation angle.

    A tangent vector at R is :math:`R\,\Omega` with :math:`\Omega` skew;
    :math:`\langle U, V\rangle = \tfrac12 \mathrm{tr}\,U^\top V`, :math:`\exp_R(R\,\Omega) = R\,e^{\Omega}`.
    Volume :math:`8\pi^2`. ``log`` goes through the unit quaternion of :math:`R^\top S`: it has no singular branch at 0
    or pi; for a rotation by exactly pi it takes the axis whose largest entry is positive.

    Example:
        >>> import torch
        >>> M = SO3()
        >>> x = M.identity()
        >>> y = M.exp(x, M.hat(torch.tensor([0.0, 0.0, 0.5])))
        >>> M.dist(x, y)
        tensor(0.5000)
    """

    isometric = True
    injectivity_radius = math.pi
    defect_formula = "max |R^T R - I|, |det R - 1|"

    def __init__(self) -> None:
        super().__init__(3, (3, 3))

    hat = staticmethod(hat)
    vee = staticmethod(vee)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum((-2, -1)) / 2

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v.flatten(-2)) / math.sqrt(2)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return times_hat(x, body(x, v))

    def project(self, x: Tensor) -> Tensor:
        """Nearest rotation in the Frobenius norm (polar factor with determinant 1)."""
        u, _, vh = torch.linalg.svd(x)
        sign = torch.det(u @ vh).unsqueeze(-1)
        flip = torch.cat([torch.ones_like(sign), torch.ones_like(sign), sign], -1)
        return (u * flip.unsqueeze(-2)) @ vh

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        x, v = (planes(a) for a in torch.broadcast_tensors(x, v))
        w = cross(x, v, 1).sum(0) / -2  # of the skew part of x^T v, in body axes
        c, k = cos_sinc((w * w).sum(0) / 4)
        return matrices(polar_step(times(x, _rotation_planes(c, k * (w / 2)))))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        c, q = _relative_quaternion(x, y)
        half = torch.atan2(safe_norm(q, 0), c)
        return times_hat(x, (2 / sinc(half) * q).movedim(0, -1))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        c, q = _relative_quaternion(x, y)
        return 2 * torch.atan2(safe_norm(q, 0), c)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        # In body axes it is the inverse of half the rotation; (1 + c, q) is parallel to the quaternion of that half.
        x, y, v = torch.broadcast_tensors(x, y, v)
        c, q = _relative_quaternion(x, y)
        w = body(x, v).movedim(-1, 0)
        turn = cross(q, w)
        return times_hat(y, (w - turn + cross(q, turn) / (1 + c)).movedim(0, -1))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return times_hat(x, torch.randn(*x.shape[:-2], 3, generator=generator, dtype=x.dtype, device=x.device))

    def tangent_basis(self, x: Tensor) -> Tensor:
        return x.unsqueeze(-3) @ hat(torch.eye(3, dtype=x.dtype, device=x.device))

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.eye(3, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return 2 * cos_sinc((v * v).sum((-2, -1)) / 8)[1].abs().log()

    def coordinates(self, x: Tensor) -> Tensor:
        r"""The nine entries divided by :math:`\sqrt 2`, an isometric embedding."""
        return x.flatten(-2) / math.sqrt(2)

    @property
    def frame_dim(self) -> int:
        return 3

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Body-frame (left-invariant) angular velocity."""
        return times_hat(x, a)

    def defect(self, x: Tensor) -> Tensor:
        eye = torch.eye(3, dtype=x.dtype, device=x.device)
        return torch.maximum((x.mT @ x - eye).abs().amax((-2, -1)), (torch.det(x) - 1).abs())

    @property
    def volume(self) -> float:
        return 8 * math.pi**2

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        q = torch.randn(n, 4, generator=generator, dtype=dtype, device=device)
        q = q / q.norm(dim=-1, keepdim=True)
        return _from_quaternion(q[..., 0], q[..., 1:])

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def inverse(self, x: Tensor) -> Tensor:
        return x.mT

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.origin(dtype, device)

    def eigenvalues(self, n_levels: int) -> Tensor:
        level = torch.arange(n_levels, dtype=torch.float64)
        return level * (level + 1)

    def multiplicities(self, n_levels: int) -> Tensor:
        return (2 * torch.arange(n_levels, dtype=torch.float64) + 1).square()

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        # (2l + 1) chi_l(w) / volume, chi_l = 1 + 2 sum_{k <= l} cos(k w): no division by sin(w/2).
        w = self.dist(x, y).unsqueeze(-1)
        level = torch.arange(n_levels, dtype=x.dtype, device=x.device)
        waves = torch.where(level == 0, torch.ones_like(w), 2 * (level * w).cos())
        return (2 * level + 1) * waves.cumsum(-1) / self.volume
