"""Strings between two points under a trained model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..processes import NoiseProcess
from ..solvers import DiffusionString, StringResult

if TYPE_CHECKING:
    from .base import GenerativeModel

__all__ = ["evolve_string", "string_of"]


def string_of(model: GenerativeModel, cond: Tensor | None = None, energy: bool = True) -> DiffusionString:
    """The string method with the velocity, the score and the exact likelihood of a model.

    Args:
        model: any model; without a score it does pure transport only.
        cond: condition of the network, ``(cond_dim,)``.
        energy: whether strings get an energy profile, which solves an equation per node.
    """
    if cond is not None and cond.dim() != 1:
        raise ConfigError(f"A string has one condition, of shape (cond_dim,); got {tuple(cond.shape)}.")

    def per_point(x: Tensor) -> Tensor | None:
        return None if cond is None else cond.expand(*model.manifold.batch_shape(x), -1)

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return model.velocity(x, t, per_point(x))

    def score(t: Tensor, x: Tensor) -> Tensor:
        return model.score(x, t, per_point(x))

    def log_prob(x: Tensor) -> Tensor:
        return model.log_prob(x, cond)

    return DiffusionString(model.manifold, velocity, score, log_prob if energy else None)


def evolve_string(
    model: GenerativeModel,
    x_a: Tensor,
    x_b: Tensor,
    *,
    strength: float = 0.0,
    g: float | Callable[[Tensor, Tensor], Tensor] | None = None,
    cond: Tensor | None = None,
    energy: bool = True,
    **options: Any,
) -> StringResult:
    """See :meth:`GenerativeModel.string <manifold_diffusion.models.GenerativeModel.string>`."""
    if not 0 <= strength < math.inf or (strength > 0 and g is not None):
        raise ConfigError(f"Give strength >= 0 or g, not both; got strength={strength}, g={g}.")
    process = model.process
    if strength > 0:
        if not isinstance(process, NoiseProcess):
            raise CapabilityError(
                f"{type(model).__name__} with {type(process).__name__} has no score: its strings are those of pure "
                "transport, strength=0. Use RiemannianDiffusion for minimum-energy paths and principal curves, or give "
                "g where the process has a score (flat space with a normal prior)."
            )
        noise = process

        def amplitude(t: Tensor, x: Tensor) -> Tensor:
            return (strength / 2 * noise.drift_and_rate(x, t)[1]).sqrt()

        g = amplitude
    return string_of(model, cond, energy).evolve(x_a, x_b, g=0.0 if g is None else g, **options)
