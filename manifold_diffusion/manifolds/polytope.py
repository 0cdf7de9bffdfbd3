"""Bounded polytopes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from .boundary import MAX_BOUNCES, Domain
from .capabilities import Compact
from .euclidean import Euclidean

__all__ = ["Polytope"]


class Polytope(Domain, Compact):
    r"""The bounded polytope :math:`\{x \in \mathbb{R}^n : A x \le b\}` with an inside, n from 2.

    Reflected steps are followed from face to face. The uniform law and the volume are exact, from a triangulation of
    the vertices (by qhull, practical up to some thousand vertices). The heat kernel has no closed form: the noise is a
    reflected random walk (``BrownianMotion(M, n_steps=...)``), trained with implicit score matching. An axis-aligned
    box is better taken as :class:`Box`, which has one.

    Args:
        A: normals of the faces as rows, ``(m, n)``, pointing outwards; of any length.
        b: right-hand sides, ``(m,)``.

    Raises:
        ConfigError: for shapes that don't match, a zero row, or a polytope that is empty, flat or unbounded.

    Example:
        >>> import torch
        >>> triangle = Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]], [0.0, 0.0, 1.0])
        >>> round(triangle.volume, 6)
        0.5
        >>> triangle.reflect(torch.tensor([0.25, 0.25]), torch.tensor([-0.5, 0.0]))
        tensor([0.2500, 0.2500])
    """

    defect_formula = "max((A x - b) / |A|)"

    def __init__(self, A: Sequence[Sequence[float]], b: Sequence[float]) -> None:
        rows, right = (np.asarray(a.tolist() if isinstance(a, Tensor) else a, dtype=float) for a in (A, b))
        if rows.ndim != 2 or right.shape != rows.shape[:1] or rows.shape[1] < 2:
            raise ConfigError(
                f"Polytope(A, b) needs A of shape (m, n) with n >= 2 and b of shape (m,); got {rows.shape} and "
                f"{right.shape}. An interval is Box([l], [u])."
            )
        length = np.linalg.norm(rows, axis=1)
        if not (np.isfinite(rows).all() and np.isfinite(right).all() and (length > 0).all()):
            raise ConfigError("Polytope(A, b) needs finite numbers and no zero row in A.")
        self.A, self.b = tuple(map(tuple, rows.tolist())), tuple(right.tolist())
        super().__init__(Euclidean(rows.shape[1]), self.A, self.b)
        self._normals = torch.as_tensor(rows / length[:, None])
        self._offsets = torch.as_tensor(right / length)
        self._centre, inradius = self._inner_ball()
        self.layer = 0.04 * inradius

    def _inner_ball(self) -> tuple[Tensor, float]:
        """Centre and radius of the largest ball inside, by linear programming."""
        from scipy.optimize import linprog

        normals, offsets, n = self._normals.numpy(), self._offsets.numpy(), self.dim
        box = [linprog(sign * e, normals, offsets, bounds=[(None, None)] * n) for e in np.eye(n) for sign in (1, -1)]
        if any(result.status == 3 for result in box):
            raise ConfigError(
                "The polytope is unbounded: A x <= b does not bound every direction. Add faces; a half-space is "
                "HalfSpace(n), any other domain Restricted(Euclidean(n), ...)."
            )
        rows = np.hstack([normals, np.ones((len(normals), 1))])
        result = linprog([*[0.0] * n, -1.0], rows, offsets, bounds=[(None, None)] * n + [(0, None)])
        if result.status != 0 or result.x[-1] < 1e-9 * (1 + np.abs(result.x[:-1]).max()):
            raise ConfigError("The polytope has no inside: no point satisfies A x < b.")
        return torch.as_tensor(result.x[:-1]), float(result.x[-1])

    @cached_property
    def vertices(self) -> Tensor:
        """The vertices, ``(k, n)``, float64."""
        from scipy.spatial import HalfspaceIntersection

        halves = torch.cat([self._normals, -self._offsets.unsqueeze(1)], 1).numpy()
        corners = HalfspaceIntersection(halves, self._centre.numpy()).intersections
        return torch.as_tensor(np.unique(corners.round(12), axis=0))

    @cached_property
    def _pieces(self) -> tuple[Tensor, Tensor]:
        """Corners of the simplices of a triangulation, ``(s, n + 1, n)``, and their volumes."""
        from scipy.spatial import Delaunay

        corners = self.vertices[torch.as_tensor(Delaunay(self.vertices.numpy()).simplices).long()]
        edges = corners[:, 1:] - corners[:, :1]
        return corners, torch.linalg.det(edges).abs() / torch.arange(1, self.dim + 1, dtype=torch.float64).prod()

    @property
    def diameter(self) -> float:
        """Largest distance of two points."""
        return float(torch.cdist(self.vertices, self.vertices).max())

    def slack(self, x: Tensor) -> Tensor:
        """Distances to the planes of the faces."""
        return self._offsets.to(x) - x @ self._normals.to(x).mT

    def slack_gradients(self, x: Tensor) -> Tensor:
        return -self._normals.to(x).expand(*x.shape[:-1], *self._normals.shape)

    def boundary_distance(self, x: Tensor) -> Tensor:
        return self.slack(x).amin(-1)

    def project(self, x: Tensor) -> Tensor:
        """Points outside are pulled towards the centre of the largest ball inside, onto the boundary."""
        centre = self._centre.to(x)
        d = x - centre
        along = d @ self._normals.to(x).mT
        room = self.slack(centre)
        reach = torch.where(along > 0, room / torch.where(along > 0, along, 1.0), torch.inf).amin(-1, keepdim=True)
        eps = torch.finfo(x.dtype).eps
        return torch.where(reach < 1, centre + (1 - 4 * eps) * reach.clamp_max(1.0) * d, x)

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        x, v = torch.broadcast_tensors(x, v)
        normals = self._normals.to(x)
        for _ in range(MAX_BOUNCES):
            rate = v @ normals.mT
            hits = torch.where(rate > 0, self.slack(x).clamp_min(0) / torch.where(rate > 0, rate, 1.0), torch.inf)
            time, face = hits.min(-1, keepdim=True)
            bounced = time < 1
            step = time.clamp_max(1.0)
            x = x + step * v
            if not bool(bounced.any()):
                return self.project(x)
            n = normals[face.squeeze(-1)]
            turned = v - 2 * (v * n).sum(-1, keepdim=True) * n
            v = torch.where(bounced, (1 - step) * turned, 0.0)
        raise NumericsError(
            f"A step on {self} had not ended after {MAX_BOUNCES} reflections: it is too long for the polytope. "
            "Take shorter steps."
        )

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """Centre of the largest ball inside."""
        return self._centre.to(dtype=dtype or torch.get_default_dtype(), device=device)

    @property
    def volume(self) -> float:
        return float(self._pieces[1].sum())

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        corners, volumes = self._pieces
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=device)
        bounds = (volumes.cumsum(0) / volumes.sum()).to(u.device)
        index = torch.searchsorted(bounds, u).clamp_max(len(volumes) - 1)
        # Exponential variables over their sum are uniform barycentric coordinates.
        weight = -torch.rand(n, self.dim + 1, generator=generator, dtype=dtype, device=device).clamp_min(1e-30).log()
        weight = weight / weight.sum(-1, keepdim=True)
        return (weight.unsqueeze(-1) * corners.to(weight)[index]).sum(1)
