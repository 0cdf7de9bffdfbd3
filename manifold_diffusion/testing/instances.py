"""The manifolds on which every law runs."""

from __future__ import annotations

import math

from ..manifolds import (
    SE3,
    SE3N,
    SO,
    SO3,
    SPD,
    SU,
    Ball,
    Box,
    ComplexProjective,
    ConstantCurvature,
    Correlation,
    Euclidean,
    Grassmann,
    HalfSpace,
    Hemisphere,
    Hyperboloid,
    Manifold,
    PoincareBall,
    Polytope,
    Power,
    Product,
    Quotient,
    RealProjective,
    Simplex,
    Sphere,
    Stiefel,
    Torus,
    U,
)

__all__ = ["instances"]

# Powers of the rotation by 2 pi / 3 in both planes of R^4, and of the shift by (pi, pi / 2).
_LENS = [
    [[c, -s, 0, 0], [s, c, 0, 0], [0, 0, c, -s], [0, 0, s, c]]
    for c, s in ((1.0, 0.0), (-0.5, math.sqrt(0.75)), (-0.5, -math.sqrt(0.75)))
]
_SHIFTS = [[0.0, 0.0], [math.pi, math.pi / 2], [0.0, math.pi], [math.pi, -math.pi / 2]]


def instances(power: type[Manifold] = Manifold) -> list[tuple[str, Manifold]]:
    """Pairs ``(id, manifold)`` of built-in manifolds with a power, for ``pytest.mark.parametrize``.

    Args:
        power: capability class that the manifolds must have; default all.

    Example:
        >>> from manifold_diffusion.manifolds import LieGroup
        >>> [name for name, _ in instances(LieGroup)][:2]
        ['Torus(1)', 'Torus(3)']
    """
    manifolds = [
        Euclidean(1),
        Euclidean(3),
        Sphere(1),
        Sphere(2),
        Sphere(7),
        Torus(1),
        Torus(3),
        Torus(2, periods=[3.0, 20.0]),
        SO3(),
        SO(4),
        U(2),
        SU(3),
        SE3(),
        SE3N(3, True),
        Hyperboloid(1),
        Hyperboloid(2),
        Hyperboloid(5),
        ConstantCurvature(2, -0.7),
        ConstantCurvature(3, 0.0),
        ConstantCurvature(2, 2.5),
        PoincareBall(1),
        PoincareBall(3),
        Power(SO3(), 2),
        Power(Hyperboloid(2), 3),
        SPD(2),
        SPD(3),
        SPD(2, "log_euclidean"),
        SPD(3, "log_cholesky"),
        Correlation(3),
        HalfSpace(2),
        Hemisphere(2),
        Box([0.0, -1.0], [1.0, 2.0]),
        Ball(3),
        Polytope([[-1.0, 0.0], [0.0, -1.0], [1.0, 2.0]], [0.0, 0.0, 2.0]),
        Simplex(2),
        Simplex(4),
        Grassmann(4, 2),
        Grassmann(5, 3),
        Stiefel(4, 2),
        Product(SO3(), Euclidean(3)),
        Product(Sphere(2), Torus(1), weights=[2.0, 0.5]),
        Product(Product(Hyperboloid(2), Sphere(1)), Euclidean(1), weights=[1.0, 3.0]),
        RealProjective(1),
        RealProjective(3),
        ComplexProjective(1),
        ComplexProjective(2),
        Quotient(SO3(), "dihedral:3"),
        Quotient(Sphere(3), _LENS),
        Quotient(Torus(2), _SHIFTS),
    ]
    return [(repr(m), m) for m in manifolds if isinstance(m, power)]
