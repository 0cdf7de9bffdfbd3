"""Which manifolds have eigenfunctions written here."""

from __future__ import annotations

from functools import singledispatch

from ..._errors import CapabilityError
from ...manifolds import SO3, Manifold, Sphere, Torus
from ._hypersphere_harmonics import HypersphereHarmonics
from ._quaternion_harmonics import RotationHarmonics, ThreeSphereHarmonics
from ._series import Harmonics
from ._sphere_harmonics import SphereHarmonics
from ._torus_harmonics import TorusHarmonics

__all__ = ["harmonics"]

_LOG_VOLUME = 400.0  # a series sums multiples of 1 / volume, which have to be in the range of a float


@singledispatch
def harmonics(manifold: Manifold) -> Harmonics:
    """Eigenfunctions of a manifold.

    Raises:
        CapabilityError: where they are not written here.
    """
    raise CapabilityError(
        f"The eigenfunctions of {manifold} are not written here. Manifolds whose eigenfunctions are: "
        "Sphere(1) to Sphere(284), Torus(1) to Torus(10), SO3. "
        "Use evaluator='full', or 'golden' where the manifold has it."
    )


@harmonics.register
def _(manifold: Sphere) -> Harmonics:
    if manifold.n == 2:
        return SphereHarmonics(manifold)
    if manifold.log_volume < -_LOG_VOLUME:
        return harmonics.dispatch(Manifold)(manifold)
    return ThreeSphereHarmonics() if manifold.n == 3 else HypersphereHarmonics(manifold)


@harmonics.register
def _(manifold: SO3) -> Harmonics:
    return RotationHarmonics(manifold)


@harmonics.register
def _(manifold: Torus) -> Harmonics:
    known = manifold.n <= 10 and abs(manifold.log_volume) <= _LOG_VOLUME
    return TorusHarmonics(manifold) if known else harmonics.dispatch(Manifold)(manifold)
