"""How exact each law must be: one number per dtype, and a table of the laws that need another one, with the reason."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["DEFAULT", "OVERRIDES", "Z_MAX", "Override", "tolerance"]

DEFAULT = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest error of a law, in the unit that the law states (a length, a relative error)."""

Z_MAX = 5.0
"""Largest deviation of a statistic from its expectation, in standard errors: a false alarm in 2 million draws."""


class Override(NamedTuple):
    """Another tolerance, and why."""

    float64: float
    float32: float
    reason: str


OVERRIDES: dict[str, Override] = {
    "log_exp_inverse": Override(
        1e-7, 3e-3, "close to the cut locus a rounding of y turns the geodesic by eps / distance to the cut"
    ),
    "dist_is_norm_of_log": Override(1e-8, 1e-3, "the two may use different closed forms; relative to eps + dist"),
    "transport_of_velocity": Override(
        1e-7, 3e-3, "a rounding of the points turns the geodesic by eps / distance to the cut"
    ),
    "transport_inverse": Override(1e-8, 1e-3, "two transports along geodesics that rounding turns"),
    "transport_isometry": Override(
        1e-8, 1e-3, "the default transport is a pole ladder, which divides by a step of 0.1"
    ),
    "log_det_exp_definition": Override(1e-8, 2e-3, "both sides are logarithms of determinants of derivatives"),
    "gradient_of_squared_distance": Override(
        1e-8, 1e-3, "the derivative of a logarithm loses one factor of the distance"
    ),
    "laplacian_is_geodesic": Override(
        1e-6, 1.0, "the reference is a five-point difference along geodesics, step 1e-2; float64 only"
    ),
    "level_sums_are_eigenfunctions": Override(1e-8, 2e-3, "two derivatives, relative to eigenvalue times diagonal"),
    "short_distances": Override(1e-6, 1e-3, "relative, down to 1e-5, against float64 at the same points"),
}


def tolerance(law: str, dtype: torch.dtype) -> float:
    """Tolerance of a law in a dtype."""
    if law not in OVERRIDES:
        return DEFAULT[dtype]
    override = OVERRIDES[law]
    return override.float64 if dtype == torch.float64 else override.float32
