"""Any space of geomstats as a manifold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._safe import solve
from ._geomstats_space import (
    as_tensor,
    build,
    describe,
    in_vector_space,
    inside_geomstats,
    load_geomstats,
    require_riemannian,
)
from ._rows import apply_rows
from .base import Manifold

__all__ = ["GeomstatsManifold", "from_geomstats"]


def from_geomstats(
    space: Any,
    arguments: Mapping[str, Any] | None = None,
    metric: str | None = None,
    metric_arguments: Mapping[str, Any] | None = None,
    radius: float | None = None,
) -> GeomstatsManifold:
    """A space of geomstats, with its metric, as a manifold; the arguments are those of :class:`GeomstatsManifold`.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import from_geomstats
        >>> M = from_geomstats("geomstats.geometry.poincare_half_space.PoincareHalfSpace", {"dim": 2})
        >>> x, y = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
        >>> round(float(M.dist(x, y)), 4)
        0.6931
    """
    return GeomstatsManifold(space, arguments, metric, metric_arguments, radius)


class GeomstatsManifold(Manifold):
    r"""A space of geomstats: its coordinates, its ``space.metric``, the contract of this library.

    Whatever geomstats' conventions, the base point comes first, batch shapes broadcast, and results have the dtype and
    device of the arguments: geomstats computes on the CPU in float64, where its constants live. Its code sees plain
    arrays with one batch axis; ``vmap``, ``jvp``, reverse mode and their combinations act around it.

    **Backend.** geomstats takes its backend from the environment variable ``GEOMSTATS_BACKEND`` when it is first
    imported. This class chooses ``pytorch`` if the variable is unset and geomstats isn't loaded. With another backend
    values are computed through NumPy and derivatives raise :class:`CapabilityError`.

    **What is derived.** ``dist`` is the length of ``log``; ``transport`` is geomstats' where it has a closed form, else
    the pole ladder, which is exact on symmetric spaces only. Where ``space.to_tangent`` is not orthogonal in the
    ambient Euclidean metric, :meth:`to_tangent` is the orthogonal projection onto its range, so that divergences are
    right. No capability (volume, spectrum, group) is claimed.

    Args:
        path: a space with a metric, or the import path of its class: a name in ``geomstats.geometry`` or
            ``geomstats.information_geometry``.
        arguments: keyword arguments of the class, when ``path`` is an import path.
        metric: import path of the metric to equip the space with; default its own.
        metric_arguments: keyword arguments of the metric, besides the space.
        radius: injectivity radius; default what geomstats says of the origin, infinite where it says nothing: give it
            then.

    Attributes:
        space: the space of geomstats.

    Raises:
        ManifoldError: if the space has complex points, no metric, or one that is not positive.
        ConfigError: if the class can't be imported or built.
        CapabilityError: if geomstats isn't installed.

    Example:
        >>> from manifold_diffusion.manifolds import GeomstatsManifold
        >>> GeomstatsManifold("geomstats.geometry.hypersphere.Hypersphere", {"dim": 2})
        GeomstatsManifold('geomstats.geometry.hypersphere.Hypersphere', {'dim': 2})

    References:
        Miolane et al., *Geomstats: A Python Package for Riemannian Geometry in Machine Learning*, 2020,
        arXiv:2004.04667.
    """

    defect_formula = "|x - project(x)| (inf: outside, and geomstats has no projection)"

    def __init__(
        self,
        path: Any,
        arguments: Mapping[str, Any] | None = None,
        metric: str | None = None,
        metric_arguments: Mapping[str, Any] | None = None,
        radius: float | None = None,
    ) -> None:
        self._backend = load_geomstats()
        if isinstance(path, str):
            self.space = build(path, arguments, metric, metric_arguments)
        elif arguments or metric or metric_arguments:
            raise ConfigError("arguments, metric and metric_arguments go with an import path; this is a space already.")
        else:
            self.space = path
        require_riemannian(self.space)
        found = describe(self.space)
        self._path, self.arguments, self.metric, self.metric_arguments = found or (None, None, None, None)
        args = [self._path or self.space, self.arguments, self.metric, self.metric_arguments, radius]
        while len(args) > 1 and args[-1] in (None, {}):
            args.pop()
        super().__init__(int(self.space.dim), tuple(self.space.shape), *args)
        self._size = math.prod(self.point_shape)
        # Symmetric matrices and the like: geomstats reads one triangle, and differentiates as if it had read both.
        # Arguments are projected onto the linear space first, so that values and derivatives belong together.
        self._linear = self.dim < self._size and in_vector_space(self.space)
        self._charted = self.dim == self._size or self._linear
        self._projects = self._has(lambda: self.space.projection(point=self._array(self.random_point(2))))
        self._origin = self._find_origin()
        points = torch.cat([self._origin.unsqueeze(0), self.random_point(2)])
        self._oblique = self.dim < self._size and self._is_oblique(points)
        vectors = self.to_tangent(points, torch.ones_like(points))
        self._transports = self._has(
            lambda: self.space.metric.parallel_transport(
                tangent_vec=self._array(vectors[:1]),
                base_point=self._array(points[:1]),
                end_point=self._array(points[1:2]),
            )
        )
        if radius is not None and not radius > 0:
            raise ConfigError(f"radius, the injectivity radius, must be positive; got {radius}.")
        self.radius = radius
        self.injectivity_radius = radius if radius is not None else self._default_radius()

    # ------------------------------------------------------------------ a value

    @property
    def path(self) -> str:
        """Import path of the space's class.

        Raises:
            ConfigError: if the space can't be built again from plain arguments, hence not be saved.
        """
        if self._path is None:
            raise ConfigError(
                f"{self} can't be saved: class and plain arguments don't give this space again. Build it by name: "
                "from_geomstats('geomstats.geometry.hypersphere.Hypersphere', {'dim': 2})."
            )
        return self._path

    def __hash__(self) -> int:
        return hash(self.space) if self._path is None else hash(repr(self))

    def __reduce__(self) -> Any:
        return (GeomstatsManifold, self._args) if self._path is not None else super().__reduce__()

    def __deepcopy__(self, memo: Any) -> GeomstatsManifold:
        return self  # immutable, and a space known by its identity stays equal to itself

    # ------------------------------------------------------------------ geometry

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        def product(x: Any, u: Any, v: Any) -> Any:
            return self.space.metric.inner_product(tangent_vec_a=u, tangent_vec_b=v, base_point=x)

        return self._call("inner product", product, (), x, u, v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        if self.dim == self._size:  # an open set of the ambient space
            return v
        if not self._oblique:
            return self._tangent(x, v)
        columns = self._tangent_matrix(x)  # row i is the projection P of the unit vector i, so that this is P^T
        # The orthogonal projection onto the range of P is P (P + P^T - 1)^-1.
        mixed = columns + columns.mT - torch.eye(self._size, dtype=x.dtype, device=x.device)
        flat = v.flatten(len(self.batch_shape(v))).unsqueeze(-1)
        return (solve(mixed, flat).mT @ columns).squeeze(-2).reshape(v.shape)

    def project(self, x: Tensor) -> Tensor:
        if not self._projects:
            return x
        return self._call("projection", lambda x: self.space.projection(point=x), self.point_shape, x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        def end(x: Any, v: Any) -> Any:
            return self.space.metric.exp(tangent_vec=v, base_point=x)

        return self._call("exponential map", end, self.point_shape, x, v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        def start(x: Any, y: Any) -> Any:
            return self.space.metric.log(point=y, base_point=x)

        return self._call("logarithm", start, self.point_shape, x, y)

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        if not self._transports:
            return super().transport(x, y, v)

        def moved(x: Any, y: Any, v: Any) -> Any:
            return self.space.metric.parallel_transport(tangent_vec=v, base_point=x, end_point=y)

        return self._call("parallel transport", moved, self.point_shape, x, y, v)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The identity of a group; else the first of 0, e_1 (or the identity matrix) and (1, ..., 1) in the space."""
        return self._origin.to(device=device, dtype=dtype or torch.get_default_dtype())

    @property
    def frame_dim(self) -> int:
        return self.dim if self._charted else self._size

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Tangent vector from coefficients: on an open set, where one smooth field of bases covers all, in a basis.

        An ambient vector of length 1 may be long in the metric, such as close to the boundary of a half-space.
        """
        if not self._charted:
            return super().from_frame(x, a)
        return (self.per_point(a) * self.tangent_basis(x)).sum(a.dim() - 1)

    def defect(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.new_zeros(self.batch_shape(x))
        gap = super().defect(x)
        if x.device.type == "meta":
            return gap
        with torch.no_grad(), inside_geomstats(self._backend):
            rows = self._array(x.detach().reshape(-1, *self.point_shape).to("cpu", torch.float64))
            belongs = as_tensor(self.space.belongs(point=rows)).reshape(gap.shape).to(gap.device)
        return torch.where(belongs | (gap > 0), gap, math.inf)

    def random_point(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` points of geomstats' ``random_point``: its law is geomstats', uniform on some of the compact spaces.

        Without a generator they are the same at every call. No global seed changes.
        """
        seed = 0 if generator is None else int(torch.randint(2**31, (), generator=generator))
        if self._backend == "pytorch":
            with torch.random.fork_rng(devices=[]), inside_geomstats(self._backend):
                torch.manual_seed(seed)
                points = self.space.random_point(n_samples=n)
        else:
            import numpy

            state = numpy.random.get_state()  # noqa: NPY002 - geomstats draws from the legacy global generator
            numpy.random.seed(seed)  # noqa: NPY002
            try:
                points = self.space.random_point(n_samples=n)
            finally:
                numpy.random.set_state(state)  # noqa: NPY002
        return as_tensor(points).reshape(n, *self.point_shape).to(device=device, dtype=dtype)

    def _frame(self, x: Tensor) -> Tensor:
        """The frame of the base class, with one answer: the eigenvectors of P D P, for unequal weights D.

        The eigenvalues of a projection P coincide, so that a rounding of x, such as a batch of another size brings,
        would choose other eigenvectors.
        """
        if self.dim == self._size:
            return super()._frame(x)
        x, axis, weights = x.detach(), len(self.batch_shape(x)), torch.linspace(1, 2, self._size).to(x)
        units = torch.eye(self._size, dtype=x.dtype, device=x.device).reshape(self._size, *self.point_shape)
        rows = self._project_frame(x, units.expand(*x.shape[:axis], *units.shape)).flatten(axis + 1)
        vectors = torch.linalg.eigh(rows.mT @ (weights.unsqueeze(-1) * rows))[1][..., -self.dim :].mT
        sign = torch.where((vectors * weights.square()).sum(-1, keepdim=True) < 0, -1.0, 1.0).to(x)
        return (sign * vectors).reshape(*x.shape[:axis], self.dim, *self.point_shape)

    # ------------------------------------------------------------------ calls of geomstats

    def _call(self, what: str, method: Callable[..., Any], out: tuple[int, ...], *args: Tensor) -> Tensor:
        """A method of geomstats on flat batches of plain float64 arrays on the CPU."""
        batch = torch.broadcast_shapes(*[self.batch_shape(a) for a in args])
        like, n = args[0], math.prod(batch)
        if like.device.type == "meta" or n == 0:  # no values; a function of the arguments, for vmap and derivatives
            total = sum(a.flatten(len(self.batch_shape(a))).sum(-1) for a in args)
            return torch.as_tensor(total).reshape((*batch, *(1,) * len(out))).expand((*batch, *out))

        def rows(*arrays: Tensor) -> tuple[Tensor, ...]:
            return (self._plain(what, method, (arrays[0].shape[0], *out), arrays),)

        point = self.point_shape
        flat = [a.expand(*batch, *point).reshape(n, *point).to("cpu", torch.float64) for a in args]
        return apply_rows(rows, *flat)[0].to(like.device, like.dtype).reshape((*batch, *out))

    def _plain(
        self, what: str, method: Callable[..., Any], shape: tuple[int, ...], arrays: tuple[Tensor, ...]
    ) -> Tensor:
        differentiated = torch.is_grad_enabled()
        if differentiated and self._backend != "pytorch":
            raise CapabilityError(
                f"geomstats runs on {self._backend} in this process, which has no derivatives of the {what} of {self}. "
                "Set the environment variable GEOMSTATS_BACKEND=pytorch before geomstats is first imported."
            )
        if not differentiated:
            arrays = tuple(a.detach() for a in arrays)
        try:
            # Metrics without closed forms differentiate inside, even for a value.
            with inside_geomstats(self._backend), torch.enable_grad():
                if self._linear and what not in ("projection", "tangent projection"):
                    arrays = tuple(self._flat(a) for a in arrays)
                result = method(*[self._array(a) for a in arrays])
                if result is None:  # of a metric that geomstats has not finished
                    raise NotImplementedError("it returns None")
                result = as_tensor(result)
        except NotImplementedError as error:
            raise CapabilityError(f"geomstats has no {what} for {self}: {error}") from error
        except RuntimeError as error:
            if "numpy() on Tensor that requires grad" in str(error):
                raise self._outside_autograd(what) from error
            raise
        if differentiated and not result.requires_grad:
            raise self._outside_autograd(what)
        # A method that returns its argument or a constant for the whole batch gets rows of its own.
        result = result.reshape(shape) if result.numel() == math.prod(shape) else result.expand(shape)
        result = result.to(torch.float64).clone()
        return result if differentiated else result.detach()

    def _outside_autograd(self, what: str) -> CapabilityError:
        return CapabilityError(f"geomstats computes the {what} of {self} outside autograd: torch has no derivative.")

    def _flat(self, a: Tensor) -> Tensor:
        """Projection of points or vectors onto the linear space of an open set."""
        a_ = self._array(a)
        return as_tensor(self.space.to_tangent(vector=a_, base_point=a_))

    def _array(self, x: Tensor) -> Any:
        return x if self._backend == "pytorch" else x.detach().numpy()

    def _has(self, call: Callable[[], Any]) -> bool:
        try:
            with inside_geomstats(self._backend):
                call()
        except NotImplementedError:
            return False
        return True

    def _tangent(self, x: Tensor, v: Tensor) -> Tensor:
        def tangent(x: Any, v: Any) -> Any:
            return self.space.to_tangent(vector=v, base_point=x)

        return self._call("tangent projection", tangent, self.point_shape, x, v)

    def _tangent_matrix(self, x: Tensor) -> Tensor:
        """``space.to_tangent`` of the unit vectors, ``(*batch, size, size)``."""
        units = torch.eye(self._size, dtype=x.dtype, device=x.device).reshape(self._size, *self.point_shape)
        axis = len(self.batch_shape(x))
        return self._tangent(x.unsqueeze(axis), units).flatten(axis + 1)

    def _is_oblique(self, points: Tensor) -> bool:
        matrix = self._tangent_matrix(points)
        return bool((matrix - matrix.mT).abs().amax() > 1e-8 * (1 + matrix.abs().amax()))

    def _find_origin(self) -> Tensor:
        shape, candidates = self.point_shape, []
        identity = getattr(self.space, "identity", None)
        if identity is not None and tuple(identity.shape) == shape:
            candidates.append(as_tensor(identity).to(torch.float64))
        zeros = torch.zeros(shape, dtype=torch.float64)
        first = torch.eye(*shape, dtype=torch.float64) if len(shape) == 2 else zeros.clone()
        first.view(-1)[0] = 1
        candidates += [zeros, first, torch.ones(shape, dtype=torch.float64)]
        for x in candidates:
            if self._is_regular(x):
                return x
        return self.random_point(1)[0]

    def _is_regular(self, x: Tensor) -> bool:
        import numpy

        self._oblique = False
        try:
            # A boundary point may belong, but the metric is singular there.
            with numpy.errstate(all="ignore"):
                return float(self.defect(x)) <= 1e-12 and bool(torch.isfinite(self.tangent_basis(x)).all())
        except (RuntimeError, ArithmeticError, ValueError):  # of torch.linalg, or of geomstats outside its domain
            return False

    def _default_radius(self) -> float:
        """Injectivity radius at the origin; the smallest of the factors' for a product; infinite if unknown."""
        factors = getattr(self.space, "factors", None)
        if factors is not None:
            return min(from_geomstats(f).injectivity_radius for f in factors)
        try:
            with inside_geomstats(self._backend):
                radius = self.space.metric.injectivity_radius(base_point=self._array(self._origin))
        except NotImplementedError:
            return math.inf
        return float(as_tensor(radius).min())
