"""What a solver sees of a process: vector fields and noise, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["ODETerm", "SDETerm", "Terms"]


@dataclass(frozen=True)
class ODETerm:
    """Right-hand side of dx/dt = velocity(t, x).

    Attributes:
        velocity: ``(t, x) -> tangent vector at x``; t is ``(*batch,)``; the derivative is along increasing t.
    """

    velocity: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SDETerm:
    """Right-hand side of dX = drift(t, X) dt + diffusion(t, X) dB, with B a Brownian motion of the metric.

    A reverse-time equation is integrated with negative dt; its drift already holds the score.

    Attributes:
        drift: ``(t, x) -> tangent vector at x``.
        diffusion: ``(t, x) ->`` a tensor that broadcasts against points.
    """

    drift: Callable[[Tensor, Tensor], Tensor]
    diffusion: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Terms:
    """The ways of running a process with a learned network.

    Attributes:
        flow: probability-flow ODE, with the same marginals as the process.
        reverse: reverse-time SDE; None where the network's output does not determine the score.
    """

    flow: ODETerm
    reverse: SDETerm | None = None
