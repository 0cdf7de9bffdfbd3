"""The simplex of probability vectors with the metric of Fisher and Rao."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._safe import cos_sinc, safe_norm, safe_sqrt
from .base import check_size
from .capabilities import Compact, WithBoundary
from .sphere import Sphere

__all__ = ["Simplex"]

_FLOOR = 1e-30
"""Entries below it count as it: metric and tangent vectors then make sense on the faces, too."""

_LAYER = 0.05
"""Width of the layer, in the root of an entry, in which ``from_frame`` fades out what would cross a face."""


class Simplex(WithBoundary, Compact):
    r"""Probability vectors with **k categories**: dimension **k - 1**, points of shape ``(k,)`` that sum to 1.

    The metric is the one of Fisher and Rao, :math:`\langle u, v\rangle_p = \sum_i u_i v_i / p_i`. By
    :math:`p \mapsto 2\sqrt p` it is isometric to the positive orthant of the sphere of radius 2, and everything is
    computed there: with :math:`y = \sqrt p`, distances are twice the angle,
    :math:`d(p, q) = 4\,\mathrm{atan2}(|y - y'|, |y + y'|) \le \pi`. Volume: half of that of the unit sphere
    :math:`S^{k-1}`.

    The faces :math:`p_i = 0` are the boundary. A great circle that leaves the orthant is folded back by
    :math:`p = s^2/4`: ``exp`` itself is the billiard, for vectors of any length, and equal to ``reflect``. Entries
    below 1e-30 count as 1e-30, so that points on faces have a metric and tangent vectors; ``project`` mirrors negative
    entries and divides by the sum.

    Args:
        k: number of categories, at least 2. (Papers on Fisher-Rao flows count dimensions: their simplex of dimension d
            is ``Simplex(d + 1)``.)

    Example:
        >>> import torch
        >>> M = Simplex(3)
        >>> M.dim, M.point_shape
        (2, (3,))
        >>> M.dist(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5]))
        tensor(3.1416)

    References:
        Rao, *Information and the accuracy attainable in the estimation of statistical parameters*, 1945; Davis et al.,
        *Fisher flow matching for generative modeling over discrete data*, 2024, arXiv:2405.14664.
    """

    injectivity_radius = math.pi
    defect_formula = "max(|sum(p) - 1|, -min(p))"

    def __init__(self, k: int) -> None:
        check_size("Simplex(k) of k categories", 2, k=k)
        super().__init__(k - 1, (k,), k)
        self.k = k
        self._sphere = Sphere(k - 1)

    # ------------------------------------------------------------------ the chart

    def to_sphere(self, p: Tensor) -> Tensor:
        r"""Isometry onto the positive orthant of the sphere of radius 2, :math:`2\sqrt p`."""
        return 2 * _root(p)

    def from_sphere(self, s: Tensor) -> Tensor:
        r""":math:`s^2 / |s|^2`, for points s of a sphere of any radius: folds the sphere onto the simplex."""
        square = s * s
        return square / square.sum(-1, keepdim=True)

    # ------------------------------------------------------------------ geometry

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        root = _root(x)
        return ((u / root) * (v / root)).sum(-1)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        # Orthogonal in the metric of Fisher and Rao. The Euclidean projection, v - mean(v), would add a rounding of the
        # large entries to the small ones, whose unit of length is sqrt(p_i).
        return v - x * v.sum(-1, keepdim=True)

    def project(self, x: Tensor) -> Tensor:
        size = x.abs()
        return (size / size.sum(-1, keepdim=True)).clamp_min(_FLOOR)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        root = _root(x)
        return self._sphere.exp(root, v / (2 * root)).square()

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        return self.exp(x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        a, b = _root(x), _root(y)
        cosine = (a * b).sum(-1, keepdim=True)
        chord = (y - x) / (a + b)  # b - a, without cancellation
        z = self._sphere.to_tangent(a, chord)
        sine = safe_sqrt((z * z).sum(-1, keepdim=True))
        positive = sine > 0
        angle = torch.where(positive, torch.atan2(sine, cosine) / torch.where(positive, sine, 1.0), 1.0)
        return 2 * angle * a * z

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        total = _root(x) + _root(y)
        return 4 * torch.atan2(safe_norm((x - y) / total), safe_norm(total))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        a, b = _root(x), _root(y)
        return b * self._sphere.transport(a, b, v / a)

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        root = _root(x)
        return root * self._sphere.random_tangent(root, generator)

    def tangent_basis(self, x: Tensor) -> Tensor:
        root = _root(x)
        return root.unsqueeze(-2) * self._sphere.tangent_basis(root)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        # The volume has the density prod p_i^(-1/2) with respect to the area of the plane sum p_i = 1.
        return -0.5 * (v / x.clamp_min(_FLOOR)).sum(-1)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return (self.k - 2) * cos_sinc(self.inner(x, v, v) / 4)[1].abs().log()

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The centre, all categories equally likely."""
        return torch.full((self.k,), 1 / self.k, dtype=dtype, device=device)

    # ------------------------------------------------------------------ coordinates for networks

    def coordinates(self, x: Tensor) -> Tensor:
        """:meth:`to_sphere`."""
        return self.to_sphere(x)

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        r"""Gradient-like vector :math:`\sqrt{p_i}\, w_i` with :math:`w` the tangent part of :math:`h(\sqrt{p_i})\,a_i`.

        :math:`h(y) = y / \sqrt{y^2 + 0.05^2}` fades out what would cross a face, so that every field of a network obeys
        the Neumann condition, as every score does.
        """
        root = _root(x)
        faded = a * root / (x + _LAYER**2).clamp_min(_LAYER**2).sqrt()
        return root * self._sphere.to_tangent(root, faded)

    # ------------------------------------------------------------------ boundary

    def slack(self, x: Tensor) -> Tensor:
        """The entries of ``x``."""
        return x

    def boundary_distance(self, x: Tensor) -> Tensor:
        """Distance to the nearest face, that of the least entry: twice the angle whose sine is its root."""
        return 2 * torch.asin(_root(x).amin(-1).clamp_max(1.0))

    def inward_normal(self, x: Tensor) -> Tensor:
        root = _root(x)
        least = torch.nn.functional.one_hot(x.argmin(-1), self.k).to(x)
        w = self._sphere.to_tangent(root, least)
        return root * w / safe_norm(w, keepdim=True)

    def defect(self, x: Tensor) -> Tensor:
        return torch.maximum((x.sum(-1) - 1).abs(), -x.amin(-1))

    # ------------------------------------------------------------------ the uniform law

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
        """Points of the Riemannian volume: the law Dirichlet(1/2, ..., 1/2), squares of a uniform unit vector."""
        return self._sphere.random_uniform(n, generator=generator, dtype=dtype, device=device).square()


def _root(x: Tensor) -> Tensor:
    return x.clamp_min(_FLOOR).sqrt()
