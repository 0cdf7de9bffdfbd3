"""Random isometries of manifolds: a law asks that they commute with everything."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor

from ..manifolds import (
    SE3,
    SE3N,
    SO,
    SO3,
    SPD,
    SU,
    Ball,
    ComplexProjective,
    ConstantCurvature,
    Euclidean,
    Grassmann,
    Hemisphere,
    Hyperboloid,
    Manifold,
    PoincareBall,
    Power,
    Product,
    Pullback,
    Quotient,
    RealProjective,
    Simplex,
    Sphere,
    Stiefel,
    Torus,
    U,
)

__all__ = ["random_isometry"]

Isometry = Callable[[Tensor], Tensor]


@singledispatch
def random_isometry(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> Isometry | None:
    """A random isometry, a map of points to points, or None where none is known.

    A function dispatched on the manifold's class: ``random_isometry.register`` adds the isometries of another manifold.
    """
    return None


def _orthogonal(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).to(dtype)


@random_isometry.register
def _(manifold: Euclidean, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    turn = _orthogonal(manifold.n, dtype, generator)
    shift = torch.randn(manifold.n, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x: x @ turn + shift


@random_isometry.register
def _(manifold: Sphere, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    turn = _orthogonal(manifold.n + 1, dtype, generator)
    return lambda x: x @ turn


@random_isometry.register
def _(manifold: Torus, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    shift = manifold.random_uniform(1, generator=generator, dtype=torch.float64)[0].to(dtype)
    alike = len(set(manifold.lengths)) == 1  # coordinates of unequal periods can't be exchanged
    order = torch.randperm(manifold.n, generator=generator) if alike else torch.arange(manifold.n)
    return lambda x: manifold.project(x[..., order] + shift)


@random_isometry.register
def _(manifold: SO3, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    left, right = manifold.random_uniform(2, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x: left @ x @ right


@random_isometry.register(SO)
@random_isometry.register(SU)
@random_isometry.register(U)
def _(manifold: SO | SU | U, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    left, right = manifold.random_uniform(2, generator=generator, dtype=torch.float64).to(dtype)
    return lambda x: manifold.compose(manifold.compose(left, x), right)


@random_isometry.register(SE3)
@random_isometry.register(SE3N)
def _(manifold: SE3 | SE3N, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    """A rigid motion of space, by left translation; a rotation alone where the centre stays."""
    pose = SE3().join(
        SO3().random_uniform(1, generator=generator, dtype=torch.float64)[0],
        torch.randn(3, generator=generator, dtype=torch.float64),
    )
    if isinstance(manifold, SE3N) and manifold.centred:
        pose = pose * (torch.arange(12) < 9)
    pose = pose.to(dtype)
    return lambda x: manifold.compose(pose, x)


@random_isometry.register
def _(manifold: RealProjective, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    """A rotation, and the other representative."""
    turn = _orthogonal(manifold.n + 1, dtype, generator)
    return lambda x: -x @ turn


@random_isometry.register
def _(manifold: ComplexProjective, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    n = manifold.n + 1
    turn = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.complex128))[0]
    # Of z = x + i y the pair (x, y) is multiplied by real matrices: derivatives need no complex numbers.
    real, imaginary = turn.real.to(dtype), turn.imag.to(dtype)
    return lambda x: torch.stack(
        [x[..., 0] @ real - x[..., 1] @ imaginary, x[..., 1] @ real + x[..., 0] @ imaginary], -1
    )


@random_isometry.register
def _(manifold: Quotient, dtype: torch.dtype, generator: torch.Generator) -> Isometry | None:
    """What commutes with the group: rotations from the left on SO(3), shifts of a torus."""
    if isinstance(manifold.base, SO3):
        left = manifold.base.random_uniform(1, generator=generator, dtype=torch.float64)[0].to(dtype)
        return lambda x: left @ x
    if isinstance(manifold.base, Torus):
        torus = manifold.base
        shift = torus.random_uniform(1, generator=generator, dtype=torch.float64)[0].to(dtype)
        return lambda x: torus.project(x + shift)
    return None


@random_isometry.register
def _(manifold: Hyperboloid, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    """A rotation about the origin, then a Lorentz boost of rapidity at most 1."""
    n = manifold.n
    turn = torch.eye(n + 1, dtype=torch.float64)
    turn[1:, 1:] = _orthogonal(n, torch.float64, generator)
    axis = torch.randn(n, generator=generator, dtype=torch.float64)
    axis = axis / axis.norm()
    rapidity = float(torch.rand((), generator=generator, dtype=torch.float64))
    boost = torch.eye(n + 1, dtype=torch.float64)
    boost[0, 0] = math.cosh(rapidity)
    boost[0, 1:] = boost[1:, 0] = math.sinh(rapidity) * axis
    boost[1:, 1:] += (math.cosh(rapidity) - 1) * torch.outer(axis, axis)
    lorentz = (turn @ boost).to(dtype)
    return lambda x: x @ lorentz


@random_isometry.register
def _(manifold: ConstantCurvature, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    """An isometry of the space of unit curvature, scaled."""
    isometry = random_isometry(manifold.unit, torch.float64, generator)
    if isometry is None:
        raise TypeError(f"{manifold.unit} has isometries.")
    return lambda x: manifold.from_unit(isometry(manifold.to_unit(x.double()))).to(dtype)


@random_isometry.register
def _(manifold: PoincareBall, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    """An isometry of the hyperboloid, seen in the ball."""
    isometry = random_isometry(Hyperboloid(manifold.n), torch.float64, generator)
    if isometry is None:
        raise TypeError("Hyperboloid has isometries.")
    return lambda x: manifold.from_hyperboloid(isometry(manifold.to_hyperboloid(x.double()))).to(dtype)


@random_isometry.register
def _(manifold: Power, dtype: torch.dtype, generator: torch.Generator) -> Isometry | None:
    """An isometry of the manifold applied to all copies, which then change places."""
    isometry = random_isometry(manifold.manifold, dtype, generator)
    if isometry is None:
        return None
    order = torch.randperm(manifold.k, generator=generator)
    return lambda x: isometry(x.index_select(x.dim() - len(manifold.point_shape), order))


@random_isometry.register
def _pullback(manifold: Pullback, dtype: torch.dtype, generator: torch.Generator) -> Isometry | None:
    model = random_isometry(manifold.model, torch.float64, generator)
    if isinstance(manifold.model, Euclidean):  # a shorter shift: entries are exponentials of the chart
        turn = _orthogonal(manifold.dim, torch.float64, generator)
        shift = torch.randn(manifold.dim, generator=generator, dtype=torch.float64) / manifold.dim
        return lambda x: manifold.point(manifold.chart(x.double()) @ turn + shift).to(x.dtype)
    return None if model is None else lambda x: manifold.point(model(manifold.chart(x.double()))).to(x.dtype)


@random_isometry.register
def _(manifold: SPD, dtype: torch.dtype, generator: torch.Generator) -> Isometry | None:
    """A congruence by a rotation, a scaling of the axes and a rotation."""
    if isinstance(manifold, Pullback):
        return _pullback(manifold, dtype, generator)
    turns = [_orthogonal(manifold.n, torch.float64, generator) for _ in range(2)]
    scales = (torch.rand(manifold.n, generator=generator, dtype=torch.float64) - 0.5).exp()
    g = turns[0] * scales @ turns[1]
    return lambda x: (g @ x.double() @ g.mT).to(x.dtype)


@random_isometry.register
def _(manifold: Ball, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    turn = _orthogonal(manifold.n, dtype, generator)
    return lambda x: x @ turn


@random_isometry.register
def _(manifold: Hemisphere, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    turn = torch.eye(manifold.n + 1, dtype=dtype)  # about the pole
    turn[1:, 1:] = _orthogonal(manifold.n, dtype, generator)
    return lambda x: x @ turn


@random_isometry.register
def _(manifold: Simplex, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    order = torch.randperm(manifold.k, generator=generator)
    return lambda x: x[..., order]


@random_isometry.register(Grassmann)
@random_isometry.register(Stiefel)
def _(manifold: Grassmann | Stiefel, dtype: torch.dtype, generator: torch.Generator) -> Isometry:
    """A rotation of the space, and one of the vectors of the frame."""
    left, right = _orthogonal(manifold.n, dtype, generator), _orthogonal(manifold.p, dtype, generator)
    return lambda x: left @ x @ right


@random_isometry.register
def _(manifold: Product, dtype: torch.dtype, generator: torch.Generator) -> Isometry | None:
    maps = [random_isometry(f, dtype, generator) for f in manifold.factors]
    known = [m for m in maps if m is not None]
    if len(known) < len(maps):
        return None
    return lambda x: manifold.join(*[m(p) for m, p in zip(known, manifold.split(x), strict=True)])
