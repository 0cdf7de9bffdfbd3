"""Which process a manifold gets when none is named."""

from __future__ import annotations

from functools import singledispatch

from .._errors import CapabilityError
from ..manifolds import SPD, Euclidean, Manifold, Power, Product
from .base import NoiseProcess
from .brownian import BrownianMotion
from .langevin import Langevin
from .product import ProductProcess
from .schedules import LogSchedule, default_schedule

__all__ = ["default_process"]


@singledispatch
def default_process(manifold: Manifold, tau_min: float = 1e-5) -> NoiseProcess:
    """Brownian motion with the exact heat kernel; Ornstein-Uhlenbeck on Euclidean space; on a product, per factor.

    On a power all copies share one process and one schedule.
    """
    return BrownianMotion(manifold, default_schedule(manifold, tau_min))


@default_process.register
def _(manifold: Euclidean, tau_min: float = 1e-5) -> NoiseProcess:
    return Langevin(manifold, LogSchedule(tau_min, 12.0))


@default_process.register
def _(manifold: Power, tau_min: float = 1e-5) -> NoiseProcess:
    copy = default_process(manifold.manifold, tau_min)
    if isinstance(copy, Langevin):
        return Langevin(manifold, copy.schedule)
    return BrownianMotion(manifold, default_schedule(manifold, tau_min))


@default_process.register
def _(manifold: Product, tau_min: float = 1e-5) -> NoiseProcess:
    weights = None if all(w == 1 for w in manifold.weights) else manifold.weights
    return ProductProcess(*[default_process(f, tau_min) for f in manifold.factors], weights=weights)


@default_process.register
def _(manifold: SPD, tau_min: float = 1e-5) -> NoiseProcess:
    """Langevin where there is no heat kernel: the affine-invariant metric with n > 3."""
    try:
        return BrownianMotion(manifold, default_schedule(manifold, tau_min))
    except CapabilityError:
        return Langevin(manifold, LogSchedule(tau_min, 12.0))
