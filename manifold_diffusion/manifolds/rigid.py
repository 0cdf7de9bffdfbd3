"""Rigid motions of space: one pose, and chains of residue frames."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ManifoldError
from .._safe import safe_norm
from .base import Manifold, check_size
from .so3 import SO3

__all__ = ["SE3", "SE3N"]

_ROTATION = SO3()


class _Poses(Manifold):
    """Geometry of one or many poses: everything happens in the last axis, 9 entries of R and then 3 of p."""

    isometric = True
    injectivity_radius = math.pi

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rotations ``(..., 3, 3)`` and translations ``(..., 3)`` of poses, or the parts of tangent vectors."""
        return x[..., :9].reshape(*x.shape[:-1], 3, 3), x[..., 9:]

    def join(self, rotation: Tensor, translation: Tensor) -> Tensor:
        """Inverse of :meth:`split`; batch shapes broadcast."""
        flat = rotation.flatten(-2)
        batch = torch.broadcast_shapes(flat.shape[:-1], translation.shape[:-1])
        return torch.cat([flat.expand(*batch, 9), translation.expand(*batch, 3)], -1)

    def to_homogeneous(self, x: Tensor) -> Tensor:
        """Matrices :math:`(R, p; 0, 1)`, ``(..., 4, 4)``."""
        rotation, translation = self.split(x)
        top = torch.cat([rotation, translation.unsqueeze(-1)], -1)
        last = torch.zeros_like(top[..., :1, :])
        last[..., 3] = 1
        return torch.cat([top, last], -2)

    def from_homogeneous(self, a: Tensor) -> Tensor:
        """Inverse of :meth:`to_homogeneous`.

        Raises:
            ManifoldError: if the matrices are not 4 x 4.
        """
        if a.shape[-2:] != (4, 4):
            raise ManifoldError(f"Homogeneous matrices have shape (..., 4, 4); got {tuple(a.shape)}.")
        return self.join(a[..., :3, :3], a[..., :3, 3])

    def _flow(self, translation: Tensor) -> Tensor:
        """Part of a translation that is allowed."""
        return translation

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        product = u * v
        return self._per_point_sum(product[..., :9].sum(-1) / 2 + product[..., 9:].sum(-1))

    def _per_point_sum(self, a: Tensor) -> Tensor:
        """Sum over the residues, if there is an axis of them."""
        return a.sum(-1) if len(self.point_shape) == 2 else a

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        scaled = torch.cat([v[..., :9] / math.sqrt(2), v[..., 9:]], -1)
        return safe_norm(scaled.flatten(v.dim() - len(self.point_shape)))

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        (r, _), (a, p) = self.split(x), self.split(v)
        return self.join(_ROTATION.to_tangent(r, a), self._flow(p))

    def project(self, x: Tensor) -> Tensor:
        """Nearest rotations, and the translations in the space."""
        r, p = self.split(x)
        return self.join(_ROTATION.project(r), self._flow(p))

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        (r, p), (a, u) = self.split(x), self.split(v)
        return self.join(_ROTATION.exp(r, a), p + u)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        (r, p), (s, q) = self.split(x), self.split(y)
        return self.join(_ROTATION.log(r, s), q - p)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        (r, p), (s, q) = self.split(x), self.split(y)
        parts = torch.cat([_ROTATION.dist(r, s).unsqueeze(-1), q - p], -1)
        return safe_norm(parts.flatten(parts.dim() - len(self.point_shape)))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        (r, _), (s, _), (a, u) = self.split(x), self.split(y), self.split(v)
        return self.join(_ROTATION.transport(r, s, a), u)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r, p = self.split(x)
        a = _ROTATION.random_tangent(r, generator)
        u = torch.randn(p.shape, generator=generator, dtype=x.dtype, device=x.device)
        return self.join(a, self._flow(u))

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        (r, _), (a, _) = self.split(x), self.split(v)
        return self._per_point_sum(_ROTATION.log_det_exp(r, a))

    def coordinates(self, x: Tensor) -> Tensor:
        r"""The nine entries of each rotation divided by :math:`\sqrt 2`, and the translation: isometric."""
        return torch.cat([x[..., :9] / math.sqrt(2), x[..., 9:]], -1).flatten(x.dim() - len(self.point_shape))

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        one = torch.cat(
            [torch.eye(3, dtype=dtype, device=device).flatten(), torch.zeros(3, dtype=dtype, device=device)]
        )
        return one.expand(self.point_shape).clone()

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Angular velocities in body axes, linear ones in the axes of space."""
        twist = a.reshape(*a.shape[:-1], *self.point_shape[:-1], 6)
        r, _ = self.split(x)
        return self.join(_ROTATION.from_frame(r, twist[..., :3]), self._flow(twist[..., 3:]))

    @property
    def frame_dim(self) -> int:
        return 6 * math.prod(self.point_shape) // 12

    # ------------------------------------------------------------------ group

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        """Pose y in the frame of x: :math:`(R, p)(S, q) = (RS, p + Rq)`."""
        (r, p), (s, q) = self.split(x), self.split(y)
        return self.join(r @ s, p + (r @ q.unsqueeze(-1)).squeeze(-1))

    def inverse(self, x: Tensor) -> Tensor:
        r""":math:`(R, p)^{-1} = (R^\top, -R^\top p)`."""
        r, p = self.split(x)
        return self.join(r.mT, -(r.mT @ p.unsqueeze(-1)).squeeze(-1))

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Neutral element, ``point_shape``."""
        return self.origin(dtype, device)


class SE3(_Poses):
    r"""The group of rigid motions SE(3) with the left-invariant product metric :math:`|\omega|^2 + |\dot p|^2`.

    A point is a flat tensor ``(12,)``: the nine entries of the rotation R, row by row, and the translation p;
    :meth:`split`, :meth:`join`, :meth:`to_homogeneous` and :meth:`from_homogeneous` convert. As a Riemannian manifold
    it is the product :math:`SO(3) \times \mathbb{R}^3`: geodesics turn and move at constant speeds (they are not
    screws), and left translations :meth:`compose` are isometries. SE(3) has no bi-invariant metric: right translations
    are not isometries, and it is not a :class:`LieGroup` in the sense of this library.

    Example:
        >>> import torch
        >>> M = SE3()
        >>> x = M.join(torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
        >>> M.dist(M.identity(), x), M.compose(x, x)[9:]
        (tensor(1.), tensor([2., 0., 0.]))
    """

    defect_formula = "max |R^T R - I|, |det R - 1|"

    def __init__(self) -> None:
        super().__init__(6, (12,))

    def tangent_basis(self, x: Tensor) -> Tensor:
        eye = torch.eye(6, dtype=x.dtype, device=x.device)
        return self.from_frame(x.unsqueeze(-2), eye.expand(*x.shape[:-1], 6, 6))

    def defect(self, x: Tensor) -> Tensor:
        return _ROTATION.defect(self.split(x)[0])

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        """A third of the waves see the rotation, a third the translation, the others both."""
        waves = super().random_frequencies(n, max_frequency, generator)
        kind = torch.randint(3, (n, 1), generator=generator)
        place = torch.arange(12)
        seen = torch.where(kind == 0, place < 9, torch.where(kind == 1, place >= 9, place >= 0))
        length = waves.norm(dim=-1, keepdim=True)
        waves = waves * seen
        return waves * (length / waves.norm(dim=-1, keepdim=True))


class SE3N(_Poses):
    r"""Chains of rigid frames, :math:`SE(3)^n`: one pose per residue, with the left-invariant product metric.

    Points have shape ``(n_residues, 12)``; each row is a point of :class:`SE3`. With ``centred=True`` the mean of the
    translations is zero: what is left of a chain when its place in space does not matter; the dimension is
    :math:`6n - 3`, and the metric, the noise and the densities are those of the subspace.

    Args:
        n_residues: number of poses, at least 1 (2 if centred).
        centred: whether the translations have mean zero.

    Raises:
        ConfigError: if ``n_residues`` is not such an integer.

    Example:
        >>> import torch
        >>> M = SE3N(5, centred=True)
        >>> M.dim, M.point_shape
        (27, (5, 12))
        >>> x = M.project(torch.randn(5, 12, generator=torch.Generator().manual_seed(0)))
        >>> bool(M.split(x)[1].mean(0).abs().max() < 1e-6)
        True
    """

    def __init__(self, n_residues: int, centred: bool = False) -> None:
        least = 2 if centred else 1
        check_size(f"SE3N(n_residues, centred={centred})", least, n_residues=n_residues)
        self.n_residues, self.centred = n_residues, bool(centred)
        self.defect_formula = "max |R^T R - I|, |det R - 1|" + (
            ", |mean of the translations| / (1 + their largest entry)" if centred else ""
        )
        super().__init__(6 * n_residues - (3 if centred else 0), (n_residues, 12), n_residues, self.centred)

    def _flow(self, translation: Tensor) -> Tensor:
        return translation - translation.mean(-2, keepdim=True) if self.centred else translation

    def tangent_basis(self, x: Tensor) -> Tensor:
        n, batch = self.n_residues, x.shape[:-2]
        eye = torch.eye(n, dtype=x.dtype, device=x.device)
        r, _ = self.split(x)
        turns = _ROTATION.tangent_basis(r).flatten(-2)  # (*batch, n, 3, 9)
        turns = (turns.unsqueeze(-3) * eye[:, :, None, None]).movedim(-2, -3).reshape(*batch, 3 * n, n, 9)
        rows = self._directions(x)
        shifts = rows[:, None, :, None] * torch.eye(3, dtype=x.dtype, device=x.device)[:, None, :]
        shifts = shifts.reshape(3 * len(rows), n, 3).expand(*batch, 3 * len(rows), n, 3)
        pad = torch.nn.functional.pad
        return torch.cat([pad(turns, (0, 3)), pad(shifts, (9, 0))], -3)

    def _directions(self, like: Tensor) -> Tensor:
        """Orthonormal rows that span the allowed translations along one axis; Helmert's if centred."""
        n = self.n_residues
        if not self.centred:
            return torch.eye(n, dtype=like.dtype, device=like.device)
        k = torch.arange(1, n, dtype=like.dtype, device=like.device).unsqueeze(-1)
        place = torch.arange(n, dtype=like.dtype, device=like.device)
        return ((place < k).to(like.dtype) - k * (place == k).to(like.dtype)) / (k * (k + 1)).sqrt()

    def defect(self, x: Tensor) -> Tensor:
        r, p = self.split(x)
        worst = _ROTATION.defect(r).amax(-1)
        if not self.centred:
            return worst
        return torch.maximum(worst, p.mean(-2).abs().amax(-1) / (1 + p.abs().amax((-2, -1))))

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        """Half of the waves see one residue, the others all of them."""
        blocks = torch.stack(
            [SE3().random_frequencies(n, max_frequency, generator) for _ in range(self.n_residues)], 1
        )  # (n, residues, 12)
        only = torch.randint(self.n_residues, (n, 1, 1), generator=generator)
        mixed = torch.rand(n, 1, 1, generator=generator) < 0.5
        place = torch.arange(self.n_residues)[:, None]
        return torch.where(mixed | (place == only), blocks, torch.zeros_like(blocks)).flatten(1)
