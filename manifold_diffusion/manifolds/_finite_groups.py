"""Finite groups of isometries: how their elements move points."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ._invariants import Harmonics, OrbitFeatures, landmark_count, spread
from ._rotation_groups import rotation_group
from .base import Manifold
from .so3 import SO3, hat
from .sphere import Sphere
from .torus import Torus

__all__ = ["GroupAction", "group_action"]

_CLOSE = 1e-8
"""Elements of a group that differ by less are the same one."""


class GroupAction(ABC):
    """A finite group that acts freely by isometries on one manifold.

    Attributes:
        elements: the group's elements, float64, one per row; the action's own form (matrices, shifts).
        order: number of elements.
        least_displacement: shortest distance that an element other than the identity moves a point.
        homogeneous: whether the isometries that commute with the group reach every point from every other.
    """

    homogeneous: bool = False

    def __init__(self, elements: Tensor) -> None:
        self.elements = elements
        self.order = len(elements)
        self._check_closed()
        displacements = self.displacements()
        identity = int(displacements.argmin())
        moved = torch.cat([displacements[:identity], displacements[identity + 1 :]])
        self.least_displacement = float(moved.min()) if len(moved) else math.inf
        if self.least_displacement < 1e-6:
            worst = int((displacements + (torch.arange(self.order) == identity) * math.inf).nan_to_num().argmin())
            raise ConfigError(
                f"The group does not act freely: element {worst}, {elements[worst].tolist()}, fixes a point. The "
                "quotient would have singular points there and be no manifold; take a group whose elements other than "
                "the identity move every point."
            )

    def _check_closed(self) -> None:
        table = self.compose(self.elements.unsqueeze(1), self.elements.unsqueeze(0)).flatten(0, 1)
        for i, product in enumerate(table):
            gap = self.gap(self.elements, product).min()
            if float(gap) > _CLOSE:
                raise ConfigError(
                    f"The elements are not a group: the product of elements {i // self.order} and {i % self.order} is "
                    f"{float(gap):.1e} from the nearest element. Give all products, in float64, with the identity."
                )
        gaps = self.gap(self.elements.unsqueeze(1), self.elements.unsqueeze(0))
        twice = ((gaps <= _CLOSE) & ~torch.eye(self.order, dtype=torch.bool)).nonzero()
        if len(twice):
            raise ConfigError(f"The group has elements {twice[0].tolist()} twice; give each once.")

    def like(self, x: Tensor) -> Tensor:
        """The elements in the dtype and on the device of ``x``."""
        return self.elements.to(x)

    def pick(self, index: Tensor, like: Tensor) -> Tensor:
        """The elements with the numbers ``index``, ``(*batch, ...)``."""
        flat = torch.nn.functional.embedding(index, self.like(like).flatten(1))
        return flat.unflatten(-1, self.elements.shape[1:])

    @abstractmethod
    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        """Product of elements."""

    @abstractmethod
    def gap(self, g: Tensor, h: Tensor) -> Tensor:
        """Largest difference of the entries of elements."""

    @abstractmethod
    def displacements(self) -> Tensor:
        """Shortest distance that each element moves a point."""

    @abstractmethod
    def move(self, g: Tensor, x: Tensor) -> Tensor:
        """Points moved by elements; the batch shapes broadcast. Tangent vectors too, where the action is linear."""

    @abstractmethod
    def pull(self, g: Tensor, v: Tensor) -> Tensor:
        """Tangent vectors moved by the inverse elements."""

    @abstractmethod
    def closeness(self, x: Tensor, y: Tensor) -> Tensor:
        """A decreasing function of the distance of ``x`` to every image of ``y``, ``(*batch, order)``."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Smooth invariant functions that separate orbits, ``(*batch, m)``; chords are no longer than distances."""

    @property
    @abstractmethod
    def frame_dim(self) -> int:
        """Number of coefficients of :meth:`from_frame`."""

    @abstractmethod
    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Tangent vectors from coefficients, moved along when the group moves ``x``."""

    def images(self, x: Tensor) -> Tensor:
        """All images of the points, ``(order, *batch, *point_shape)``."""
        g = self.like(x)
        extra = x.dim() + 1 - self.point_dims
        return self.move(g.reshape(self.order, *(1,) * (extra - 1), *g.shape[1:]), x.unsqueeze(0))

    point_dims = 1

    def nearest(self, x: Tensor, y: Tensor) -> Tensor:
        """Number of the element that moves ``y`` closest to ``x``; of several within rounding the first."""
        closeness = self.closeness(x, y)
        slack = 32 * torch.finfo(closeness.dtype).eps
        return (closeness >= closeness.amax(-1, keepdim=True) - slack).to(closeness.dtype).argmax(-1)


class RightRotations(GroupAction):
    r"""Rotations g of an object that does not see them: :math:`R \mapsto R g`.

    The embedding: tensors of the symmetric object, turned. A direction a of the object with all its images
    :math:`a_1, \dots, a_K` gives :math:`R \mapsto \sum_k P_l(R a_k \cdot s)`, a harmonic function of s of degree l; its
    coefficients in an orthonormal basis have the inner products :math:`\sum_{j, k} P_l(R a_j \cdot S a_k)`. The chosen
    directions and degrees (Arnold, Jupp and Schaeben, *Statistics of ambiguous rotations*, 2018) have exactly the group
    as their symmetry: the map separates orbits. It is equivariant under rotations from the left, so that its metric is
    the same everywhere, and for the three polyhedral groups it is a multiple of ours.
    """

    homogeneous = True
    point_dims = 2
    frame_dim = 3  # pyright: ignore[reportAssignmentType,reportIncompatibleMethodOverride]

    def __init__(self, elements: Tensor) -> None:
        super().__init__(elements)
        self._features = [Harmonics(self._orbit(axis), degree) for axis, degree in self._directions()]
        self._weights = self._balance()

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    def gap(self, g: Tensor, h: Tensor) -> Tensor:
        return (g - h).abs().amax((-2, -1))

    def displacements(self) -> Tensor:
        return SO3().dist(torch.eye(3, dtype=torch.float64), self.elements)

    def move(self, g: Tensor, x: Tensor) -> Tensor:
        return x @ g

    def pull(self, g: Tensor, v: Tensor) -> Tensor:
        return v @ g.mT

    def closeness(self, x: Tensor, y: Tensor) -> Tensor:
        return (y.mT @ x).flatten(-2) @ self.like(x).flatten(1).mT  # tr x^T y g

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Rotation in the room by the axis vector ``a``: it commutes with rotations of the object."""
        return torch.linalg.cross(a.unsqueeze(-1).expand_as(x), x, dim=-2)

    def embed(self, x: Tensor) -> Tensor:
        return torch.cat([w * f(x) for w, f in zip(self._weights, self._features, strict=True)], -1)

    def _directions(self) -> list[tuple[Tensor, int]]:
        angles = self.displacements()
        periods = torch.where(angles > 1e-6, 2 * math.pi / angles.clamp_min(1e-6), 1.0)
        # A rotation by 2 pi / n with the largest n turns about the main axis.
        main = int(periods.argmax())
        n, axis = round(float(periods[main])), self._axis(main)
        polyhedral = {(12, 3): 3, (24, 4): 4, (60, 5): 6}
        if (self.order, n) in polyhedral:
            return [(axis, polyhedral[self.order, n])]
        across = torch.linalg.cross(axis, torch.eye(3, dtype=axis.dtype)[int(axis.abs().argmin())])
        if self.order == n:  # cyclic
            return [(axis, 1), (across / across.norm(), n)]
        flips = [self._axis(i) for i in range(self.order) if abs(float(angles[i]) - math.pi) < 1e-6]
        return [(axis, 2), (min(flips, key=lambda flip: abs(float(flip @ axis))), n)]

    def _axis(self, i: int) -> Tensor:
        if float(self.displacements()[i]) < 1e-6:
            return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
        vectors = SO3.vee(SO3().log(torch.eye(3, dtype=torch.float64), self.elements[i]))
        return vectors / vectors.norm()

    def _orbit(self, axis: Tensor) -> Tensor:
        kept: list[Tensor] = []
        for image in self.elements @ axis:
            if all(float((image - other).norm()) > 1e-6 for other in kept):
                kept.append(image)
        return torch.stack(kept)

    def _balance(self) -> list[float]:
        """Weights that bring the metric of the embedding close to ours, and nowhere above it."""
        from scipy.optimize import nnls

        one, units = torch.eye(3, dtype=torch.float64), hat(torch.eye(3, dtype=torch.float64))
        grams = []
        for f in self._features:
            slopes = torch.stack([torch.func.jvp(f, (one,), (u,))[1] for u in units])
            grams.append(slopes @ slopes.mT)
        traces = [float(g.trace()) for g in grams]
        columns = torch.stack([g.flatten() / t for g, t in zip(grams, traces, strict=True)], -1)
        shares, _ = nnls(columns.numpy(), one.flatten().numpy())
        shares = [max(float(s), 0.1 * float(max(shares))) for s in shares]  # each is needed to separate orbits
        total = (columns @ torch.tensor(shares, dtype=torch.float64)).reshape(3, 3)
        top = float(torch.linalg.eigvalsh(total)[-1])
        return [math.sqrt(s / t / top) for s, t in zip(shares, traces, strict=True)]


class Orthogonal(GroupAction):
    r"""Orthogonal matrices on a sphere, :math:`x \mapsto g x`."""

    def __init__(self, elements: Tensor, sphere: Sphere) -> None:
        super().__init__(elements)
        self._sphere = sphere
        count = landmark_count(sphere.n, sphere.volume / self.order, self.least_displacement)
        uniform = spread(count, sphere.n + 1) % 1
        landmarks = sphere.project(math.sqrt(2) * torch.erfinv(2 * uniform - 1))
        self._features = OrbitFeatures(self.images(landmarks), self.least_displacement)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return g @ h

    def gap(self, g: Tensor, h: Tensor) -> Tensor:
        return (g - h).abs().amax((-2, -1))

    def displacements(self) -> Tensor:
        # The largest x . g x is the largest eigenvalue of the symmetric part of g.
        cosine = torch.linalg.eigvalsh((self.elements + self.elements.mT) / 2)[..., -1]
        return 2 * torch.asin(((1 - cosine) / 2).clamp(0, 1).sqrt())

    def move(self, g: Tensor, x: Tensor) -> Tensor:
        return (g @ x.unsqueeze(-1)).squeeze(-1)

    def pull(self, g: Tensor, v: Tensor) -> Tensor:
        return self.move(g.mT, v)

    def closeness(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.move(self.like(y), y.unsqueeze(-2)) * x.unsqueeze(-2)).sum(-1)

    @property
    def frame_dim(self) -> int:
        return self._features.basis.shape[1]

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        """Gradient of the embedding times ``a``."""
        return self._sphere.to_tangent(x, self._features.gradient(x, a))

    def embed(self, x: Tensor) -> Tensor:
        return self._features(x)


class Translations(GroupAction):
    r"""Translations of a torus, :math:`x \mapsto x + g`."""

    homogeneous = True

    def __init__(self, elements: Tensor, torus: Torus) -> None:
        self._torus = torus
        super().__init__(torus.project(elements))
        count = landmark_count(torus.n, torus.volume / self.order, self.least_displacement)
        landmarks = torus.project(2 * math.pi * spread(count, torus.n))
        self._features = OrbitFeatures(torus.embed(self.images(landmarks)), self.least_displacement)

    def compose(self, g: Tensor, h: Tensor) -> Tensor:
        return self._torus.compose(g, h)

    def gap(self, g: Tensor, h: Tensor) -> Tensor:
        return self._torus.log(g, h).abs().amax(-1)

    def displacements(self) -> Tensor:
        return self._torus.dist(torch.zeros_like(self.elements), self.elements)

    def move(self, g: Tensor, x: Tensor) -> Tensor:
        return self._torus.exp(x, g)

    def pull(self, g: Tensor, v: Tensor) -> Tensor:
        return v

    def closeness(self, x: Tensor, y: Tensor) -> Tensor:
        return -self._torus.log(x.unsqueeze(-2), self.move(self.like(y), y.unsqueeze(-2))).square().sum(-1)

    @property
    def frame_dim(self) -> int:
        return self._torus.n

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        return a

    def embed(self, x: Tensor) -> Tensor:
        return self._features(self._torus.embed(x))


@singledispatch
def group_action(manifold: Manifold, group: Tensor | str) -> GroupAction:
    """The action of a finite group on a manifold; ``group_action.register`` adds that on another class.

    Args:
        manifold: where the group acts.
        group: its elements, or a name.

    Raises:
        CapabilityError: if no action is registered for the class of the manifold.
        ConfigError: if the elements are no group, no isometries, or fix points.
    """
    known = "SO3 (rotations from the right), Sphere (orthogonal matrices), Torus (translations)"
    raise CapabilityError(f"There is no action of a finite group on {manifold!r}. There is one on {known}.")


def _matrices(group: Tensor | str, n: int, manifold: Manifold) -> Tensor:
    if isinstance(group, str):
        raise ConfigError(f"Groups with a name act on SO3(); {manifold} needs a list of matrices; got {group!r}.")
    if group.dim() != 3 or group.shape[1:] != (n, n) or not len(group):
        raise ConfigError(f"A group on {manifold} is a list of {n} x {n} matrices; got shape {tuple(group.shape)}.")
    defect = (group.mT @ group - torch.eye(n, dtype=group.dtype)).abs().amax((1, 2))
    worst = float(defect.max())
    if not worst <= _CLOSE:
        raise ConfigError(
            f"Element {int(defect.argmax())} of the group is not orthogonal: max |g^T g - I| = {worst:.1e} > "
            f"{_CLOSE:.0e}. Give it in float64."
        )
    return group


@group_action.register
def _(manifold: SO3, group: Tensor | str) -> GroupAction:
    elements = _matrices(rotation_group(group) if isinstance(group, str) else group, 3, manifold)
    mirrored = torch.linalg.det(elements) < 0
    if bool(mirrored.any()):
        raise ConfigError(f"Element {int(mirrored.nonzero()[0])} of the group is a reflection; SO3 needs rotations.")
    return RightRotations(elements)


@group_action.register
def _(manifold: Sphere, group: Tensor | str) -> GroupAction:
    return Orthogonal(_matrices(group, manifold.n + 1, manifold), manifold)


@group_action.register
def _(manifold: Torus, group: Tensor | str) -> GroupAction:
    if isinstance(group, str) or group.dim() != 2 or group.shape[1] != manifold.n or not len(group):
        got = repr(group) if isinstance(group, str) else f"shape {tuple(group.shape)}"
        raise ConfigError(f"A group on {manifold} is a list of shifts of {manifold.n} angles; got {got}.")
    return Translations(group, manifold)
