"""Geodesic symmetries: the isometries of symmetric spaces that turn every geodesic through a point around."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, singledispatch

from torch import Tensor

from ._cholesky import whiten
from ._matrix import sym
from .base import Manifold
from .constant_curvature import ConstantCurvature
from .euclidean import Euclidean
from .grassmann import Grassmann
from .hyperboloid import Hyperboloid
from .matrix_group import MatrixGroup
from .poincare import PoincareBall
from .power import Power
from .product import Product
from .projective import ComplexProjective, RealProjective, hermitian, times
from .pullback import Pullback, wide
from .quotient import Quotient
from .rigid import SE3, SE3N
from .so3 import SO3
from .spd import SPD
from .sphere import Sphere
from .torus import Torus

__all__ = ["Symmetry", "geodesic_symmetry"]

Symmetry = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(x, y, v) -> (s_x(y), d s_x(v))``, with v a tangent vector at y."""


@singledispatch
def geodesic_symmetry(manifold: Manifold) -> Symmetry | None:
    r"""The symmetry :math:`s_x(y) = \exp_x(-\log_x y)` and its differential, or None where it is not an isometry.

    On a symmetric space the law of Brownian motion from x is invariant under :math:`s_x`: every sample comes with a
    mirror image, and the score there is the image of the score. A manifold of one's own registers with
    ``@geodesic_symmetry.register``; what it returns must be a function of a module or a ``partial`` of one, or models
    that hold it can't be pickled.

    Example:
        >>> import torch
        >>> s = geodesic_symmetry(Sphere(1))
        >>> x, y = torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8])
        >>> Sphere(1).exp(x, -Sphere(1).log(x, y)), s(x, y, torch.zeros(2))[0]
        (tensor([-0.6000,  0.8000]), tensor([-0.6000,  0.8000]))
    """
    return None


def _flat(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x - y, -v


@geodesic_symmetry.register
def _(manifold: Euclidean) -> Symmetry:
    return _flat


def _on_torus(manifold: Torus, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return manifold.project(2 * x - y), -v


@geodesic_symmetry.register
def _(manifold: Torus) -> Symmetry:
    return partial(_on_torus, manifold)


def _on_sphere(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * (x * y).sum(-1, keepdim=True) * x - y, 2 * (x * v).sum(-1, keepdim=True) * x - v


@geodesic_symmetry.register
def _(manifold: Sphere) -> Symmetry:
    return _on_sphere


@geodesic_symmetry.register
def _(manifold: RealProjective) -> Symmetry:
    return _on_sphere


def _on_complex_projective(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return times(2 * hermitian(x, y), x) - y, times(2 * hermitian(x, v), x) - v


@geodesic_symmetry.register
def _(manifold: ComplexProjective) -> Symmetry:
    return _on_complex_projective


@geodesic_symmetry.register
def _(manifold: Quotient) -> Symmetry | None:
    # The symmetry of the manifold above takes orbits to orbits on a torus, not on SO(3) or a sphere.
    return geodesic_symmetry(manifold.base) if isinstance(manifold.base, Torus) else None


def _on_hyperboloid(manifold: Hyperboloid, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    def turn(a: Tensor) -> Tensor:
        product = (x[..., 1:] * a[..., 1:]).sum(-1, keepdim=True) - x[..., :1] * a[..., :1]
        return -2 * product * x - a

    image = manifold.project(turn(y))
    return image, manifold.to_tangent(image, turn(v))


@geodesic_symmetry.register
def _(manifold: Hyperboloid) -> Symmetry:
    return partial(_on_hyperboloid, manifold)


def _on_ball(manifold: PoincareBall, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    image = manifold.exp(x, -manifold.log(x, y))
    return image, -manifold.transport(y, image, v)  # along the geodesic through x


@geodesic_symmetry.register
def _(manifold: PoincareBall) -> Symmetry:
    return partial(_on_ball, manifold)


def _stretched(manifold: ConstantCurvature, unit: Symmetry, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    image, turned = unit(manifold.to_unit(x), manifold.to_unit(y), manifold.vector_to_unit(y, v))
    point = manifold.from_unit(image)
    return point, manifold.vector_from_unit(point, turned)


@geodesic_symmetry.register
def _(manifold: ConstantCurvature) -> Symmetry | None:
    unit = geodesic_symmetry(manifold.unit)
    return None if unit is None else partial(_stretched, manifold, unit)


def _of_rotations(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return x @ y.mT @ x, x @ v.mT @ x


@geodesic_symmetry.register
def _(manifold: SO3) -> Symmetry:
    return _of_rotations


@geodesic_symmetry.register
def _(manifold: Power) -> Symmetry | None:
    return geodesic_symmetry(manifold.manifold)  # the copies are a batch axis


def _pulled_back(manifold: Pullback, model: Symmetry, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    q = wide(y)
    z, w = model(manifold.chart(wide(x)), manifold.chart(q), manifold.pull(q, wide(v)))
    image = manifold.point(z)
    return image.to(y.dtype), manifold.push(image, w).to(v.dtype)


@geodesic_symmetry.register
def _pullback(manifold: Pullback) -> Symmetry | None:
    model = geodesic_symmetry(manifold.model)
    return None if model is None else partial(_pulled_back, manifold, model)


def _on_spd(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    # x y^-1 x and -x y^-1 v y^-1 x
    _, inverse = whiten(wide(y))
    p = wide(x) @ inverse.mT
    return (p @ p.mT).to(y.dtype), -(p @ sym(inverse @ wide(v) @ inverse.mT) @ p.mT).to(v.dtype)


@geodesic_symmetry.register
def _(manifold: SPD) -> Symmetry | None:
    return _pullback(manifold) if isinstance(manifold, Pullback) else _on_spd


def _on_group(manifold: MatrixGroup, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    def turn(a: Tensor) -> Tensor:
        return manifold.compose(manifold.compose(x, manifold.inverse(a)), x)

    return turn(y), turn(v)


@geodesic_symmetry.register
def _(manifold: MatrixGroup) -> Symmetry:
    return partial(_on_group, manifold)


def _on_frames(manifold: SE3 | SE3N, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    (r, p), (s, q), (a, u) = manifold.split(x), manifold.split(y), manifold.split(v)
    return manifold.join(r @ s.mT @ r, 2 * p - q), manifold.join(r @ a.mT @ r, -u)


@geodesic_symmetry.register(SE3)
@geodesic_symmetry.register(SE3N)
def _(manifold: SE3 | SE3N) -> Symmetry:
    return partial(_on_frames, manifold)


def _on_planes(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * x @ (x.mT @ y) - y, 2 * x @ (x.mT @ v) - v


@geodesic_symmetry.register
def _(manifold: Grassmann) -> Symmetry:
    return _on_planes


def _on_product(manifold: Product, parts: list[Symmetry], x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    arguments = zip(parts, manifold.split(x), manifold.split(y), manifold.split(v), strict=True)
    images = [s(*a) for s, *a in arguments]
    return manifold.join(*[y for y, _ in images]), manifold.join(*[v for _, v in images])


@geodesic_symmetry.register
def _(manifold: Product) -> Symmetry | None:
    parts = [s for f in manifold.factors if (s := geodesic_symmetry(f)) is not None]
    return partial(_on_product, manifold, parts) if len(parts) == len(manifold.factors) else None
