"""The contract of a manifold: five methods to write, and what follows from them."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, ManifoldError
from .._safe import log_abs_det, safe_sqrt

__all__ = ["Manifold", "check_size"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def check_size(name: str, least: int = 1, **sizes: object) -> None:
    """Raise :class:`ConfigError` unless the sizes, by their names, are integers of at least ``least``."""
    for key, n in sizes.items():
        if not isinstance(n, int) or isinstance(n, bool) or n < least:
            raise ConfigError(f"{name} needs an integer {key} >= {least}; got {n!r}.")


class Manifold(ABC):
    r"""A Riemannian manifold: points are tensors ``(*batch, *point_shape)``, tangent vectors have their point's shape.

    A new manifold writes the five abstract methods and calls ``super().__init__(dim, point_shape, *args)``, where
    ``args`` are its constructor arguments (they give equality, hashing and ``repr``). Everything else is derived, and
    can be overridden where a closed form is faster or more accurate. Extra powers are the capability classes
    :class:`~manifold_diffusion.manifolds.Compact` and others of ``capabilities.py``.

    Batch shapes of the arguments of ``inner``, ``norm``, ``exp``, ``log``, ``dist`` and ``transport`` broadcast.
    Methods don't check their input (see :meth:`check_point`), keep its dtype and device, and work under ``torch.func``
    (``jvp``, ``vmap``) and double backward.

    Attributes:
        dim: dimension of the manifold.
        point_shape: shape of one point.
        isometric: whether :meth:`divergence_correction` is zero. True for a metric that is a constant bilinear form of
            the ambient entries (Euclidean or Minkowski) in which :meth:`to_tangent` is orthogonal. Leave it False when
            in doubt: that is right for every metric.
        injectivity_radius: below this length, tangent vectors and geodesics correspond: ``log(x, exp(x, v)) = v``.
            Infinite by default.
    """

    dim: int
    point_shape: tuple[int, ...]
    isometric: bool = False
    injectivity_radius: float = math.inf

    defect_formula = "|x - project(x)|"
    """What :meth:`defect` measures, for error messages."""

    def __init__(self, dim: int, point_shape: tuple[int, ...], *args: Any) -> None:
        inherited = type(self).__init__ is Manifold.__init__
        if not args and not inherited and (own := list(inspect.signature(type(self)).parameters)):
            raise ConfigError(
                f"{type(self).__name__} takes {', '.join(own)}, and must hand them on: super().__init__(dim, "
                f"point_shape, {', '.join(own)}). Instances are equal, and share a heat kernel, if these are."
            )
        self.dim = dim
        self.point_shape = tuple(point_shape)
        self._args = args

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(a) for a in self._args)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifold) and type(self) is type(other) and self._args == other._args

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._args))

    # ------------------------------------------------------------------ the five methods to write

    @abstractmethod
    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        r"""Riemannian inner product :math:`\langle u, v\rangle_x`.

        Args:
            x: points, ``(*batch, *point_shape)``.
            u: tangent vectors at ``x``.
            v: tangent vectors at ``x``.

        Returns:
            ``(*batch,)``.
        """

    @abstractmethod
    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Orthogonal projection, in the ambient metric, of an ambient vector onto the tangent space at ``x``.

        The ambient metric is the Euclidean one of the entries; another constant form (Minkowski) only where
        :attr:`isometric` is True. Where the tangent space is the same at all points it may be the manifold's own
        metric, extended to ambient vectors: derivatives of tangent fields are then tangent as they are.
        """

    @abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """Nearby point of the manifold, for an ambient point close to it."""

    @abstractmethod
    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        r"""Exponential map :math:`\exp_x(v)`: where the geodesic from ``x`` with velocity ``v`` stands at time 1."""

    @abstractmethod
    def log(self, x: Tensor, y: Tensor) -> Tensor:
        r"""Logarithm :math:`\log_x(y)`: initial velocity of the minimal geodesic from ``x`` to ``y``.

        At the cut locus it is one of the minimal geodesics, finite, and the same at every call.
        """

    # ------------------------------------------------------------------ what follows from them

    def move(self, x: Tensor, v: Tensor) -> Tensor:
        """Where a particle that starts at ``x`` with velocity ``v`` is at time 1: what steps of random walks call.

        It is :meth:`exp`; on a manifold :class:`WithBoundary`, whose geodesics may end, the particle is reflected.
        """
        return self.exp(x, v)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        """Length of a tangent vector, ``(*batch,)``; its gradient at the zero vector is zero."""
        return safe_sqrt(self.inner(x, v, v))

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        """Geodesic distance, ``(*batch,)``."""
        return self.norm(x, self.log(x, y))

    def geodesic(self, x: Tensor, y: Tensor, t: Tensor | float) -> Tensor:
        """Point at fraction ``t`` (scalar or ``(*batch,)``) of the minimal geodesic from ``x`` (0) to ``y`` (1)."""
        return self.exp(x, self.per_point(torch.as_tensor(t, dtype=x.dtype, device=x.device)) * self.log(x, y))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of ``v`` from ``x`` to ``y`` along the minimal geodesic.

        The default is one step of the pole ladder, which is exact on symmetric spaces for any step
        (Guigui and Pennec, *Numerical accuracy of ladder schemes for parallel transport on manifolds*, 2020,
        arXiv:2007.07585).
        """
        length = self.per_point(self.norm(x, v))
        scale = 0.1 / torch.where(length > 0, length, torch.ones_like(length))
        middle = self.geodesic(x, y, 0.5)
        mirrored = self.exp(middle, -self.log(middle, self.exp(x, scale * v)))
        return -self.log(y, mirrored) / scale

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Standard normal tangent vector: its ``dim`` coefficients in an orthonormal basis at ``x`` are N(0, 1)."""
        basis = self.tangent_basis(x)
        shape = basis.shape[: basis.dim() - len(self.point_shape)]
        coefficients = torch.randn(shape, generator=generator, dtype=x.dtype, device=x.device)
        return (self.per_point(coefficients) * basis).sum(len(shape) - 1)

    def tangent_basis(self, x: Tensor) -> Tensor:
        """Orthonormal basis of the tangent space, ``(*batch, dim, *point_shape)``.

        The default orthonormalises a Euclidean frame of the tangent space by the Cholesky factor of its Gram matrix: a
        smooth field of bases around ``x``, so that derivatives in ``x`` are right.
        """
        frame = self._project_frame(x, self._frame(x))
        factor = torch.linalg.cholesky(self._gram(x, frame))
        rows = torch.linalg.solve_triangular(factor, frame.flatten(len(self.batch_shape(x)) + 1), upper=False)
        return rows.reshape(frame.shape)

    def divergence_correction(self, x: Tensor, v: Tensor) -> Tensor:
        r"""What the trace of the ambient derivative lacks to the divergence: :math:`v[\log\rho]`, ``(*batch,)``.

        With :math:`P` the projection :meth:`to_tangent` and :math:`\rho` the density of the Riemannian volume with
        respect to the area that the ambient Euclidean metric gives,

        .. math:: \mathrm{div}\, v = \mathrm{tr}(P \circ Dv) + v[\log\rho], \qquad
            \rho = \sqrt{\det \langle f_i, f_j\rangle_x / \det (f_i \cdot f_j)}

        for any frame :math:`f_i` of the tangent space. The first term is the divergence of the submanifold of Euclidean
        space, the second the change of measure: no Christoffel symbols, and one forward-mode product of a ``dim`` x
        ``dim`` determinant. In a metric that is a constant form of the ambient entries :math:`\rho` is constant, and
        :attr:`isometric` says so at no cost. Override it where :math:`\rho` is known: the upper half-plane has
        :math:`\rho = y^{-2}`, hence :math:`-2 v_y / y`.

        Compared with a covariant derivative, which needs the derivatives of the whole metric tensor or a transport, it
        is a scalar that does not depend on the frame. It needs :meth:`to_tangent` to be the Euclidean projection.

        Args:
            x: points.
            v: tangent vectors at ``x``.
        """
        if self.isometric:
            return torch.zeros(self.batch_shape(v), dtype=v.dtype, device=v.device)
        frame = self._frame(x)

        def log_density(p: Tensor) -> Tensor:
            f = self._project_frame(p, frame)
            flat = f.flatten(len(self.batch_shape(p)) + 1)
            return (log_abs_det(self._gram(p, f)) - log_abs_det(flat @ flat.mT)) / 2

        # Contiguous, as forward mode refuses expanded tensors; cast, as torch promotes its derivatives of float32
        # scalars to float64.
        return torch.func.jvp(log_density, (x.contiguous(),), (v.contiguous(),))[1].to(v.dtype)

    def _frame(self, x: Tensor) -> Tensor:
        """Euclidean-orthonormal frame, ``(*batch, dim, *point_shape)``, a constant for derivatives."""
        x, size, batch = x.detach(), math.prod(self.point_shape), self.batch_shape(x)
        units = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *self.point_shape)
        if self.dim == size:
            return units.expand(*batch, *units.shape)
        rows = self._project_frame(x, units.expand(*batch, *units.shape)).flatten(len(batch) + 1)
        # The range of the projection: rows.T @ rows has dim positive eigenvalues (1 for an orthogonal projection).
        vectors = torch.linalg.eigh(rows.mT @ rows)[1][..., -self.dim :].mT
        return vectors.reshape(*batch, self.dim, *self.point_shape)

    def _project_frame(self, x: Tensor, frame: Tensor) -> Tensor:
        return self.to_tangent(x.unsqueeze(len(self.batch_shape(x))).expand_as(frame), frame)

    def _gram(self, x: Tensor, frame: Tensor) -> Tensor:
        """Inner products of the vectors of a frame, ``(*batch, k, k)``."""
        axis = len(self.batch_shape(x))
        rows, columns = torch.broadcast_tensors(frame.unsqueeze(axis + 1), frame.unsqueeze(axis))
        return self.inner(x.unsqueeze(axis).unsqueeze(axis).expand_as(rows), rows, columns)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """A reference point, ``point_shape``: centre of the wrapped normal, corner of test grids.

        Default: ``project`` of (1, 0, ..., 0).
        """
        first = torch.zeros(math.prod(self.point_shape), dtype=dtype, device=device)
        first[0] = 1
        return self.project(first.reshape(self.point_shape))

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        r"""Logarithm of the volume distortion of the exponential map, :math:`\log |\det d(\exp_x)_v|`, ``(*batch,)``.

        The density of ``exp_x(v)`` is the density of ``v`` divided by this factor. The default differentiates ``exp``
        in ``dim`` directions and compares orthonormal bases at both ends.
        """
        axis = len(self.batch_shape(v))
        directions = self.tangent_basis(x).movedim(axis, 0)
        end = self.tangent_basis(self.exp(x, v))

        def column(direction: Tensor) -> Tensor:
            y, image = torch.func.jvp(lambda w: self.exp(x, w), (v.contiguous(),), (direction,))[:2]
            return self.inner(y.unsqueeze(axis).expand_as(end), end, image.unsqueeze(axis).expand_as(end))

        return log_abs_det(torch.vmap(column, out_dims=-1)(directions)).to(v.dtype)

    # ------------------------------------------------------------------ coordinates for networks

    def coordinates(self, x: Tensor) -> Tensor:
        """Flat coordinates ``(*batch, k)``, close to isometric, whose waves :meth:`random_frequencies` draws.

        Default: the ambient entries.
        """
        return x.flatten(len(self.batch_shape(x)))

    def embed(self, x: Tensor) -> Tensor:
        r"""Smooth injective map to :math:`\mathbb{R}^m`, ``(*batch, m)``, with :math:`|e(x) - e(y)| \le d(x, y)`.

        What networks see, and where chordal distances are taken. Default: :meth:`coordinates`; override it where they
        jump (charts) or overstate distances.
        """
        return self.coordinates(x)

    @property
    def frame_dim(self) -> int:
        """Number of coefficients that :meth:`from_frame` takes."""
        return math.prod(self.point_shape)

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Tangent vector at ``x`` from coefficients ``a``, ``(*batch, frame_dim)``: smooth, linear and onto.

        Default: projection of an ambient vector.
        """
        return self.to_tangent(x, a.reshape(*a.shape[:-1], *self.point_shape))

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        """Frequencies of random waves, ``(n, k)``: isotropic directions, log-uniform length in [1, max_frequency].

        A frequency ``w`` belongs to the waves ``cos(w . coordinates(x))`` and ``sin(w . coordinates(x))``.

        The heat semigroup damps such a wave by about ``exp(-|w|^2 tau / 2)``.
        """
        k = self.coordinates(self.origin()).shape[-1]
        directions = torch.randn(n, k, generator=generator, dtype=torch.float64)
        directions = directions / directions.norm(dim=-1, keepdim=True)
        length = max_frequency ** torch.rand(n, 1, generator=generator, dtype=torch.float64)
        return (directions * length).to(torch.get_default_dtype())

    # ------------------------------------------------------------------ checks

    def batch_shape(self, x: Tensor) -> tuple[int, ...]:
        """Batch shape of a tensor of points or tangent vectors."""
        return tuple(x.shape[: x.dim() - len(self.point_shape)])

    def defect(self, x: Tensor) -> Tensor:
        """How far each point is from the manifold, ``(*batch,)``; see :attr:`defect_formula`."""
        error = (x - self.project(x)).abs()
        return error.flatten(len(self.batch_shape(x))).amax(-1)

    def check_point(self, x: Tensor, name: str = "x") -> None:
        """Raise :class:`ManifoldError` unless ``x`` are finite points of the manifold, to its dtype's tolerance."""
        self._check_tensor(x, name)
        if x.numel() == 0:
            return
        x = x.detach()
        formula = self.defect_formula.removeprefix("max ")
        self.refuse(x, name, f"max {formula}", self.defect(x), _TOLERANCE[x.dtype])

    def refuse(self, x: Tensor, name: str, what: str, amount: Tensor, limit: float, fix: str = "") -> None:
        """Raise :class:`ManifoldError` if an amount is above its limit: by how much, in which row and entry, the fix.

        Args:
            x: points.
            name: what the caller calls them.
            what: formula of the amount.
            amount: of each point, ``(*batch,)``.
            limit: largest amount that is allowed.
            fix: further advice, after that to project.
        """
        bad = amount > limit
        if not bool(bad.any()):
            return
        worst = amount.max()
        point = x.reshape(-1, *self.point_shape)[int(amount.flatten().argmax())]
        gap = (point - self.project(point)).abs()
        entry, by = tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape)), float(gap.max())
        farthest = f", most in entry {entry[0] if len(entry) == 1 else entry}: {by:.1e} from its projection"
        raise ManifoldError(
            f"{name} is not on {self}: {what} = {float(worst):.1e} > {limit:.0e} ({_dtype_name(x)}), "
            f"{_where(amount == worst)}, {int(bad.sum())} of {bad.numel()} points{farthest if by > 0 else ''}. "
            f"Project first: {self}.project({name}){fix}."
        )

    def check_tangent(self, x: Tensor, v: Tensor, name: str = "v") -> None:
        """Raise :class:`ManifoldError` unless ``v`` are finite tangent vectors at ``x``."""
        self._check_tensor(v, name)
        if v.shape != x.shape:
            raise ManifoldError(
                f"{name} has shape {tuple(v.shape)}; a tangent vector has its point's shape {tuple(x.shape)}."
            )
        if v.numel() == 0:
            return
        x, v = x.detach(), v.detach()
        flat = (v - self.to_tangent(x, v)).abs().reshape(*self.batch_shape(x), -1).amax(-1)
        size = v.abs().reshape(*self.batch_shape(x), -1).amax(-1)
        point = x.abs().reshape(*self.batch_shape(x), -1).amax(-1)
        defect, tolerance = flat / (1 + size) / (1 + point).square(), 10 * _TOLERANCE[v.dtype]
        if float(defect.max()) > tolerance:
            raise ManifoldError(
                f"{name} is not tangent to {self} at x: relative normal part {float(defect.max()):.1e} > "
                f"{tolerance:.0e} ({_dtype_name(v)}), {_where(defect == defect.max())}. "
                f"Project first: {self}.to_tangent(x, {name})."
            )

    def _check_tensor(self, x: Tensor, name: str) -> None:
        if not isinstance(x, Tensor):
            raise ManifoldError(
                f"{name} must be a torch.Tensor; got {type(x).__name__}. Convert it: torch.as_tensor({name})."
            )
        if x.dtype not in _TOLERANCE:
            raise ManifoldError(f"{name} must have a floating dtype; got {_dtype_name(x)}. Convert it: {name}.float().")
        k = len(self.point_shape)
        if x.dim() < k or tuple(x.shape[x.dim() - k :]) != self.point_shape:
            raise ManifoldError(
                f"{name} has shape {tuple(x.shape)}; points of {self} have shape "
                f"(*batch, {', '.join(map(str, self.point_shape))})."
            )
        bad = ~torch.isfinite(x).flatten(len(self.batch_shape(x))).all(-1)
        if bad.any():
            raise ManifoldError(
                f"{name} has {int(bad.sum())} of {bad.numel()} points with NaN or infinite entries, {_where(bad)}. "
                "Drop or repair them first."
            )

    def per_point(self, a: Tensor) -> Tensor:
        """Append the singleton axes that let a per-point scalar multiply points or tangent vectors."""
        return a.reshape(*a.shape, *(1,) * len(self.point_shape))


def cast_points(manifold: Manifold, x: Tensor, like: Tensor | torch.dtype) -> Tensor:
    """Points in another dtype (and on the device, of a tensor ``like``): to fewer digits or more, on the manifold."""
    y = x.to(like)
    return y if y.dtype == x.dtype else manifold.project(y)


def _dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _where(mask: Tensor) -> str:
    """Name of the first point that a mask over the batch marks."""
    index = mask.nonzero()[0].tolist()
    return "it is the only point" if not index else f"first at row {index[0] if len(index) == 1 else tuple(index)}"
