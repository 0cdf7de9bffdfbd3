"""The contract of a solver: one step of one scheme, on terms and a manifold's geometry, nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from ..manifolds import Manifold
from ..processes import ODETerm, SDETerm

__all__ = ["Solver", "Step", "Term", "expand_time"]

Term = ODETerm | SDETerm
TermT = TypeVar("TermT", ODETerm, SDETerm)


@dataclass(frozen=True)
class Step:
    """What one step of a solver produced.

    Attributes:
        x: the new points, ``(*batch, *point_shape)``.
        state: what the solver hands to its next step, or None.
        error: estimate of the local error as a tangent vector at the old points, or None.
        displacement: how far the step moved, as a tangent vector at the old points, or None.
    """

    x: Tensor
    state: Any = None
    error: Tensor | None = None
    displacement: Tensor | None = None


class Solver(ABC, Generic[TermT]):
    """One step of a numerical scheme on a manifold.

    A new solver is one file: a class with the four facts below and a ``step``; :func:`integrate` does the rest.

    Attributes:
        order: order of convergence (for a stochastic scheme the weak order).
        n_stages: evaluations of the term per step.
        term_type: the terms it solves, :class:`ODETerm` or :class:`SDETerm`.
        has_error_estimate: whether a step returns ``error`` and ``displacement``, which :class:`AdaptiveSteps` needs.
    """

    order: ClassVar[int]
    n_stages: ClassVar[int]
    term_type: ClassVar[type]
    has_error_estimate: ClassVar[bool] = False

    def init(self, term: TermT, manifold: Manifold, t: float, x: Tensor) -> Any:
        """State handed to the first step; None unless a scheme reuses evaluations from step to step."""
        return None

    @abstractmethod
    def step(
        self,
        term: TermT,
        manifold: Manifold,
        t: float,
        h: float,
        x: Tensor,
        state: Any = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        """One step from time ``t`` to ``t + h``.

        Args:
            term: right-hand side.
            manifold: where ``x`` lives.
            t: current time.
            h: signed step; negative when time runs backwards.
            x: points, ``(*batch, *point_shape)``.
            state: ``state`` of the step before, or what ``init`` returned.
            generator: source of randomness of a stochastic scheme.
        """


def expand_time(manifold: Manifold, t: float, x: Tensor) -> Tensor:
    """The time ``t`` as a tensor ``(*batch,)`` with the dtype and device of ``x``."""
    return x.new_full(manifold.batch_shape(x), t)
