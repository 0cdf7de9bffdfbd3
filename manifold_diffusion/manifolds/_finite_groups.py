"""Finite groups of isometries: how their elements move points, and smooth functions that don't see them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .base import Manifold
from .so3 import SO3, hat, rotation
from .sphere import Sphere
from .torus import Torus

__all__ = ["GroupAction", "group_action", "rotation_group"]

_CLOSE = 1e-8
"""Elements of a group that differ by less are the same one."""


def rotation_group(name: str) -> Tensor:
    r"""A finite group of rotations, ``(k, 3, 3)`` in float64, the identity first.

    ``"cyclic:n"`` (n rotations about z), ``"dihedral:n"`` (2n: these and half turns about x and its images),
    ``"tetrahedral"`` (12, with half turns about the coordinate axes), ``"octahedral"`` (24, signed permutations) and
    ``"icosahedral"`` (60, with half turns about the coordinate axes and a fivefold axis in the yz-plane). Up to
    conjugation these are all finite groups of rotations.

    Raises:
        ConfigError: for another name or a bad n.

    Example:
        >>> rotation_group("octahedral").shape, rotation_group("dihedral:3").shape
        (torch.Size([24, 3, 3]), torch.Size([6, 3, 3]))
    """
    kind, _, number = name.partition(":")
    cycle = [[1.0, 1.0, 1.0], 2 * math.pi / 3]
    golden = (1 + math.sqrt(5)) / 2
    generators: dict[str, list[list]] = {
        "tetrahedral": [cycle, [[0.0, 0.0, 1.0], math.pi]],
        "octahedral": [cycle, [[0.0, 0.0, 1.0], math.pi / 2]],
        "icosahedral": [cycle, [[0.0, 1.0, golden], 2 * math.pi / 5]],
    }
    if kind in ("cyclic", "dihedral"):
        if not number.isdigit() or int(number) < 1:
            raise ConfigError(f"The {kind} group needs its order n >= 1, as in '{kind}:4'; got {name!r}.")
        turns = [[[0.0, 0.0, 1.0], 2 * math.pi * k / int(number)] for k in range(int(number))]
        group = _rotations(turns)
        return torch.cat([group, group @ _rotations([[[1.0, 0.0, 0.0], math.pi]])]) if kind == "dihedral" else group
    if name not in generators:
        known = "cyclic:n, dihedral:n, tetrahedral, octahedral, icosahedral"
        raise ConfigError(f"There is no rotation group {name!r}; there are {known}.")
    return _generated(_rotations(generators[name]))


def _rotations(turns: list[list]) -> Tensor:
    axes = torch.tensor([axis for axis, _ in turns], dtype=torch.float64)
    angles = torch.tensor([angle for _, angle in turns], dtype=torch.float64)
    return rotation(angles.unsqueeze(-1) * axes / axes.norm(dim=-1, keepdim=True))


def _generated(generators: Tensor) -> Tensor:
    """All products of some rotations."""
    group = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    while True:
        products = (group.unsqueeze(1) @ generators).flatten(0, 1)
        fresh = [p for p in products if bool(((group - p).abs().amax((1, 2)) > _CLOSE).all())]
        unique: list[Tensor] = []
        for p in fresh:
            if all(float((p - q).abs().max()) > _CLOSE for q in unique):
                unique.append(p)
        if not unique:
            return group
        group = torch.cat([group, torch.stack(unique)])


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
                    f"{float(gap):.1e} from the nearest element. Give all products, the identity included."
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
        self._features = [_Harmonics(self._orbit(axis), degree) for axis, degree in self._directions()]
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


class _Harmonics:
    """The function ``sum_k P_l(R a_k . s)`` of s in an orthonormal basis, ``(*batch, 3, 3) -> (*batch, 2 l + 1)``."""

    def __init__(self, directions: Tensor, degree: int) -> None:
        n = 2 * degree + 2
        height = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # half a sphere: P_l is even or odd
        turn = math.pi * (1 + math.sqrt(5)) * torch.arange(n, dtype=torch.float64)
        radius = (1 - height.square()).sqrt()
        self.degree = degree
        self.points = torch.stack([radius * turn.cos(), radius * turn.sin(), height], -1)
        values, vectors = torch.linalg.eigh(_legendre(self.points @ self.points.mT, degree))
        self.basis = vectors[:, -(2 * degree + 1) :] / values[-(2 * degree + 1) :].sqrt()
        self.directions = directions.mT.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        cosines = self.points.to(x) @ (x @ self.directions.to(x))
        return _legendre(cosines, self.degree).sum(-1) @ self.basis.to(x)


def _legendre(c: Tensor, degree: int) -> Tensor:
    last, value = torch.ones_like(c), c
    for k in range(1, degree):
        last, value = value, ((2 * k + 1) * c * value - k * last) / (k + 1)
    return value


class _OrbitFeatures:
    r"""Mean over an orbit of the features of the kernel :math:`e^{\beta (b(x) \cdot b(y) - |b|^2)}`, projected.

    With the kernel's feature map :math:`\varphi`, :math:`|\varphi(x) - \varphi(y)|^2 = 2 - 2k(x, y) \le \beta\,
    d(x, y)^2`, the mean over an orbit and orthogonal projection shorten chords, and orbits with the same mean are equal:
    the projection onto the span of 2 dim + 1 landmarks in general position separates them (Dym and Gortler, 2022,
    arXiv:2205.02956). Divided by :math:`\sqrt\beta` chords are no longer than distances.

    Args:
        images: all images of the landmarks, embedded, ``(order, landmarks, k)``.
        least_displacement: of the group; the kernel resolves a quarter of it.
    """

    def __init__(self, images: Tensor, least_displacement: float) -> None:
        self.beta = 16 / min(least_displacement, math.pi) ** 2
        self.landmarks = images.flatten(0, 1)
        self.count = images.shape[1]
        self.square = float(images[0, 0].square().sum())
        gram = self._means(images[0])
        values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
        keep = values > 1e-5 * values[-1]
        self.basis = vectors[:, keep] / (values[keep] * self.beta).sqrt()

    def _terms(self, b: Tensor) -> Tensor:
        return (self.beta * (b @ self.landmarks.to(b).mT - self.square)).exp()

    def _means(self, b: Tensor) -> Tensor:
        return self._terms(b).unflatten(-1, (-1, self.count)).mean(-2)

    def __call__(self, b: Tensor) -> Tensor:
        """Features of embedded points."""
        return self._means(b) @ self.basis.to(b)

    def gradient(self, b: Tensor, a: Tensor) -> Tensor:
        """Gradient in ``b`` of the features times ``a``."""
        terms = self._terms(b).unflatten(-1, (-1, self.count))
        slopes = (a @ self.basis.to(b).mT).unsqueeze(-2) * terms * (self.beta / terms.shape[-2])
        return slopes.flatten(-2) @ self.landmarks.to(b)


def _sequence(n: int, k: int) -> Tensor:
    """Evenly spread points of the unit cube, ``(n, k)``: Kronecker's sequence of the generalised golden ratio."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (k + 1))
    steps = ratio ** -torch.arange(1, k + 1, dtype=torch.float64)
    return (0.5 + torch.arange(1, n + 1, dtype=torch.float64).unsqueeze(-1) * steps) % 1


def _landmark_count(dim: int, volume: float, displacement: float) -> int:
    """Landmarks that cover a volume at the resolution of the features."""
    return max(16 * dim, min(512, math.ceil(volume * (3 / min(displacement, math.pi)) ** dim)))


class Orthogonal(GroupAction):
    r"""Orthogonal matrices on a sphere, :math:`x \mapsto g x`."""

    def __init__(self, elements: Tensor, sphere: Sphere) -> None:
        super().__init__(elements)
        self._sphere = sphere
        count = _landmark_count(sphere.n, sphere.volume / self.order, self.least_displacement)
        uniform = _sequence(count, sphere.n + 1)
        landmarks = sphere.project(math.sqrt(2) * torch.erfinv(2 * uniform - 1))
        self._features = _OrbitFeatures(self.images(landmarks), self.least_displacement)

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
        count = _landmark_count(torus.n, torus.volume / self.order, self.least_displacement)
        landmarks = torus.project(2 * math.pi * _sequence(count, torus.n))
        self._features = _OrbitFeatures(torus.embed(self.images(landmarks)), self.least_displacement)

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
    if not float(defect.max()) <= _CLOSE:
        raise ConfigError(
            f"Element {int(defect.argmax())} of the group is not orthogonal: max |g^T g - I| = {float(defect.max()):.1e} "
            f"> {_CLOSE:.0e}."
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
