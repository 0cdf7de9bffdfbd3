"""Which manifolds have eigenfunctions written here."""

from __future__ import annotations

from functools import singledispatch

from .._errors import CapabilityError
from ..manifolds import SO3, Manifold, Sphere, Torus
from ._hypersphere_harmonics import HypersphereHarmonics
from ._quaternion_harmonics import RotationHarmonics, ThreeSphereHarmonics
from ._spectral import Harmonics
from ._sphere_harmonics import SphereHarmonics
from ._torus_harmonics import TorusHarmonics

__all__ = ["harmonics"]


@singledispatch
def harmonics(manifold: Manifold) -> Harmonics:
    """Eigenfunctions of a manifold.

    Raises:
        CapabilityError: where they are not written here.
    """
    raise CapabilityError(
        f"The eigenfunctions of {manifold} are not written here. Manifolds whose eigenfunctions are: spheres, "
        "Torus(1) to Torus(10), SO3. Use evaluator='full', or 'golden' where the manifold has it."
    )


@harmonics.register
def _(manifold: Sphere) -> Harmonics:
    if manifold.n == 2:
        return SphereHarmonics(manifold)
    return ThreeSphereHarmonics() if manifold.n == 3 else HypersphereHarmonics(manifold)


@harmonics.register
def _(manifold: SO3) -> Harmonics:
    return RotationHarmonics(manifold)


@harmonics.register
def _(manifold: Torus) -> Harmonics:
    return TorusHarmonics(manifold) if manifold.n <= 10 else harmonics.dispatch(Manifold)(manifold)
