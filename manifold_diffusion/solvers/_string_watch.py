"""Watches a string: whether it is finite, whole and at rest, asking the device now and then only."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold
from .arc_length import respace

__all__ = ["StringWatch"]

_EVERY = 16
"""Iterations between two questions to the device."""
_STRAIGHT = 0.6
"""A string whose every second node gives less of its length than this is a zigzag: independent points give 0.5."""
_STILL_JUMPING = 0.1
"""A node that still moves so many spacings in the last of all iterations: the string has gone nowhere."""


class StringWatch:
    """Keeps what happened in each iteration on the device, and raises when it was wrong.

    Args:
        manifold: where the string lives.
        tolerance: at rest when no node moves farther than that, in units of the spacing.
        default_tolerance: if it is None.
        settles: whether the string is expected to come to rest.
    """

    def __init__(
        self,
        manifold: Manifold,
        tolerance: float | None = None,
        default_tolerance: float = 0.0,
        settles: bool = False,
    ) -> None:
        if tolerance is not None and not tolerance > 0:
            raise ConfigError(f"tolerance must be positive, a part of the spacing such as 1e-6; got {tolerance}.")
        self.manifold, self.settles = manifold, settles
        self.tolerance = default_tolerance if tolerance is None else tolerance
        self.settled = False
        self._labels: list[str] = []
        self._pending: list[Tensor] = []
        self._moves: list[Tensor] = []

    def keep(self, label: str, old: Tensor, moved: Tensor, order: int) -> Tensor:
        """Record one iteration, from the nodes before it and after the step; returns the latter at equal distances."""
        M = self.manifold
        bad = ~moved.isfinite().flatten(1).all(-1)
        if moved.device.type == "cpu" and bool(bad.any()):  # before a matrix function of NaN raises an error of its own
            self._fail(label, int(bad.int().argmax()), len(moved))
        new = respace(M, moved, len(moved), order)
        jump = M.dist(old, new).amax()
        neighbours, second = M.dist(new[:-1], new[1:]), M.dist(new[:-2], new[2:])
        straight = second.sum() / (neighbours[:-1] + neighbours[1:]).sum()
        first_bad = torch.where(bad.any(), bad.int().argmax(), -1).to(jump)
        self._pending.append(torch.stack([jump, neighbours.mean(), straight, first_bad]))
        self._labels.append(label)
        if len(self._pending) >= _EVERY:
            self._look(new)
        return new

    def finish(self, nodes: Tensor) -> None:
        """Look at what has not been looked at, and at how the string ended."""
        self._look(nodes)
        if not self.settles or self.settled or not self._moves:
            return
        jump, spacing = self._moves[-1][-1, :2].tolist()
        if jump > _STILL_JUMPING * spacing:
            raise NumericsError(
                f"After {sum(map(len, self._moves))} iterations a node of the string still moves by "
                f"{jump / spacing:.2g} of the spacing in each: the step is too large (step times the largest curvature "
                "of the energy must be below 2.7), or the iterations too few. Try a tenth of the step first."
            )

    def history(self) -> Tensor:
        """Farthest that a node moved in each iteration."""
        return torch.cat(self._moves)[:, 0]

    def _look(self, nodes: Tensor) -> None:
        if not self._pending:
            return
        rows, labels = torch.stack(self._pending), self._labels
        self._moves.append(rows)
        self._pending, self._labels = [], []
        table = rows.tolist()
        for label, (_, _, straight, first_bad) in zip(labels, table, strict=True):
            if first_bad >= 0:
                self._fail(label, int(first_bad), len(nodes))
            if len(nodes) >= 5 and not straight > _STRAIGHT:
                raise NumericsError(
                    f"The string fell apart at {label}: the distances of its second neighbours are {straight:.2f} of "
                    "the way along the string, that of a smooth one 1. The step is too large for the curvature of the "
                    "energy: take smaller or more steps, or lower g."
                )
        if self.settles:
            self.settled = table[-1][0] <= self.tolerance * table[-1][1]

    def _fail(self, label: str, node: int, n: int) -> NoReturn:
        raise NumericsError(
            f"Node {node} of {n} became NaN or infinite at {label}. The score or the velocity is not finite there, or "
            "the step is too large: take more or smaller steps, lower g, or use float64."
        )
