"""Geodesic symmetries: the isometries of symmetric spaces that turn every geodesic through a point around."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

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
    ``@geodesic_symmetry.register``.

    Example:
        >>> import torch
        >>> s = geodesic_symmetry(Sphere(1))
        >>> x, y = torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8])
        >>> Sphere(1).exp(x, -Sphere(1).log(x, y)), s(x, y, torch.zeros(2))[0]
        (tensor([-0.6000,  0.8000]), tensor([-0.6000,  0.8000]))
    """
    return None


@geodesic_symmetry.register
def _(manifold: Euclidean) -> Symmetry:
    return lambda x, y, v: (2 * x - y, -v)


@geodesic_symmetry.register
def _(manifold: Torus) -> Symmetry:
    return lambda x, y, v: (manifold.project(2 * x - y), -v)


@geodesic_symmetry.register
def _(manifold: Sphere) -> Symmetry:
    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * (x * y).sum(-1, keepdim=True) * x - y, 2 * (x * v).sum(-1, keepdim=True) * x - v

    return symmetry


@geodesic_symmetry.register
def _(manifold: RealProjective) -> Symmetry:
    return geodesic_symmetry(Sphere(manifold.n))  # pyright: ignore[reportReturnType]


@geodesic_symmetry.register
def _(manifold: ComplexProjective) -> Symmetry:
    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return times(2 * hermitian(x, y), x) - y, times(2 * hermitian(x, v), x) - v

    return symmetry


@geodesic_symmetry.register
def _(manifold: Quotient) -> Symmetry | None:
    # The symmetry of the manifold above takes orbits to orbits on a torus, not on SO(3) or a sphere.
    return geodesic_symmetry(manifold.base) if isinstance(manifold.base, Torus) else None


@geodesic_symmetry.register
def _(manifold: Hyperboloid) -> Symmetry:
    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        def turn(a: Tensor) -> Tensor:
            product = (x[..., 1:] * a[..., 1:]).sum(-1, keepdim=True) - x[..., :1] * a[..., :1]
            return -2 * product * x - a

        image = manifold.project(turn(y))
        return image, manifold.to_tangent(image, turn(v))

    return symmetry


@geodesic_symmetry.register
def _(manifold: PoincareBall) -> Symmetry:
    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        image = manifold.exp(x, -manifold.log(x, y))
        return image, -manifold.transport(y, image, v)  # along the geodesic through x

    return symmetry


@geodesic_symmetry.register
def _(manifold: ConstantCurvature) -> Symmetry | None:
    unit = geodesic_symmetry(manifold.unit)
    if unit is None:
        return None

    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        image, turned = unit(manifold.to_unit(x), manifold.to_unit(y), manifold.vector_to_unit(y, v))
        point = manifold.from_unit(image)
        return point, manifold.vector_from_unit(point, turned)

    return symmetry


@geodesic_symmetry.register
def _(manifold: SO3) -> Symmetry:
    return lambda x, y, v: (x @ y.mT @ x, x @ v.mT @ x)


@geodesic_symmetry.register
def _(manifold: Power) -> Symmetry | None:
    return geodesic_symmetry(manifold.manifold)  # the copies are a batch axis


@geodesic_symmetry.register
def _pullback(manifold: Pullback) -> Symmetry | None:
    model = geodesic_symmetry(manifold.model)
    if model is None:
        return None

    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        q = wide(y)
        z, w = model(manifold.chart(wide(x)), manifold.chart(q), manifold.pull(q, wide(v)))
        image = manifold.point(z)
        return image.to(y.dtype), manifold.push(image, w).to(v.dtype)

    return symmetry


@geodesic_symmetry.register
def _(manifold: SPD) -> Symmetry | None:
    if isinstance(manifold, Pullback):
        return _pullback(manifold)

    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        # x y^-1 x and -x y^-1 v y^-1 x
        _, inverse = whiten(wide(y))
        p = wide(x) @ inverse.mT
        return (p @ p.mT).to(y.dtype), -(p @ sym(inverse @ wide(v) @ inverse.mT) @ p.mT).to(v.dtype)

    return symmetry


@geodesic_symmetry.register
def _(manifold: MatrixGroup) -> Symmetry:
    def turn(x: Tensor, a: Tensor) -> Tensor:
        return manifold.compose(manifold.compose(x, manifold.inverse(a)), x)

    return lambda x, y, v: (turn(x, y), turn(x, v))


@geodesic_symmetry.register(SE3)
@geodesic_symmetry.register(SE3N)
def _(manifold: SE3 | SE3N) -> Symmetry:
    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        (r, p), (s, q), (a, u) = manifold.split(x), manifold.split(y), manifold.split(v)
        return manifold.join(r @ s.mT @ r, 2 * p - q), manifold.join(r @ a.mT @ r, -u)

    return symmetry


@geodesic_symmetry.register
def _(manifold: Grassmann) -> Symmetry:
    return lambda x, y, v: (2 * x @ (x.mT @ y) - y, 2 * x @ (x.mT @ v) - v)


@geodesic_symmetry.register
def _(manifold: Product) -> Symmetry | None:
    parts = [geodesic_symmetry(f) for f in manifold.factors]
    if any(s is None for s in parts):
        return None

    def symmetry(x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        arguments = zip(parts, manifold.split(x), manifold.split(y), manifold.split(v), strict=True)
        images = [s(*a) for s, *a in arguments if s is not None]
        return manifold.join(*[y for y, _ in images]), manifold.join(*[v for _, v in images])

    return symmetry
