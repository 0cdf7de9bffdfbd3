"""Which manifolds are spheres, or spheres modulo a sign, of a dimension small enough for cells."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import singledispatch

import torch
from torch import Tensor

from ..._errors import CapabilityError
from ...manifolds import SO3, Manifold, Sphere
from ._quaternion_harmonics import RotationHarmonics

__all__ = ["RoundSpace", "round_space"]


class RoundSpace(ABC):
    """A manifold as unit vectors.

    Attributes:
        n: dimension.
        signs: unit vectors of one point: itself, or both signs.
        slowdown: Brownian time over that on the unit sphere.
        log_scale: logarithm of the density over the sum of those on the unit sphere.
    """

    n: int
    signs: tuple[float, ...] = (1.0,)
    slowdown: float = 1.0
    log_scale: float = 0.0

    @abstractmethod
    def unit_vectors(self, x: Tensor) -> Tensor:
        """``(k, n + 1)``, float64."""

    @abstractmethod
    def tangent(self, x: Tensor, q: Tensor, gradient: Tensor) -> Tensor:
        """Tangent vector at ``x``, of unit vector ``q``, of the gradient of a function of unit vectors."""


class SphereRound(RoundSpace):
    """The sphere as it is."""

    def __init__(self, manifold: Sphere) -> None:
        self.manifold, self.n = manifold, manifold.n

    def unit_vectors(self, x: Tensor) -> Tensor:
        return self.manifold.project(x.double())

    def tangent(self, x: Tensor, q: Tensor, gradient: Tensor) -> Tensor:
        return self.manifold.to_tangent(q, gradient)


class RotationRound(RoundSpace):
    """Rotations as unit quaternions, whose angle is half that of the rotation."""

    n, signs, slowdown = 3, (1.0, -1.0), 4.0
    log_scale = -math.log(8)  # lengths are doubled in three dimensions

    def __init__(self, manifold: SO3) -> None:
        self.manifold, self._harmonics = manifold, RotationHarmonics(manifold)

    def unit_vectors(self, x: Tensor) -> Tensor:
        q = self._harmonics.quaternion(x.double())
        return q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)

    def tangent(self, x: Tensor, q: Tensor, gradient: Tensor) -> Tensor:
        w, i, j, k = q.unbind(-1)
        # x i, x j, x k: a rotation by the angle a about an axis moves the quaternion by a / 2.
        frame = torch.stack([-i, w, k, -j, -j, -k, w, i, -k, j, -i, w], -1).reshape(-1, 3, 4)
        return self.manifold.from_frame(x.double(), (gradient.unsqueeze(-2) * frame).sum(-1) / 2)


@singledispatch
def round_space(manifold: Manifold) -> RoundSpace:
    """A manifold as unit vectors.

    Raises:
        CapabilityError: where it is not one.
    """
    raise CapabilityError(
        f"Cells are expanded in inner products of unit vectors, which {manifold} does not have. Manifolds that have "
        "them: Sphere(2), Sphere(3), SO3. Use evaluator='full', or 'golden' where the manifold has it."
    )


@round_space.register
def _(manifold: Sphere) -> RoundSpace:
    return SphereRound(manifold) if manifold.n in (2, 3) else round_space.dispatch(Manifold)(manifold)


@round_space.register
def _(manifold: SO3) -> RoundSpace:
    return RotationRound(manifold)
