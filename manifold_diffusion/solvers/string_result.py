"""What is read off a string: lengths, the profile of the energy, the saddle and its barriers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold
from .arc_length import arc_length, curve_point, spacing_deviation

__all__ = ["Saddle", "StringResult", "find_saddle", "summarise"]

LogProb = Callable[[Tensor], Tensor]

_ZOOM = 8
"""Points per spacing of the nodes among which the highest is looked for."""


@dataclass(frozen=True)
class Saddle:
    r"""The highest point of the energy :math:`-\log p` on a string.

    Attributes:
        index: the highest node.
        position: place of the saddle on the curve, in units of nodes: 12.25 is a quarter of the way from node 12.
        x: the point, ``point_shape``.
        energy: its energy in nats.
        barriers: its energy minus that of the first and of the last node, in nats. One of them is zero where the energy
            is highest at an end: the string then has no saddle.
    """

    index: int
    position: float
    x: Tensor
    energy: float
    barriers: tuple[float, float]


@dataclass(frozen=True)
class StringResult:
    r"""A string and what is known of it.

    Attributes:
        nodes: ``(n, *point_shape)``, from end to end.
        arc_length: length of the string from the first node to each, ``(n,)``, float64.
        energy: :math:`-\log p` at the nodes in nats, ``(n,)``; None without a log density.
        saddle: the highest point; None without a log density.
        spacing: largest relative deviation of the distance of two neighbours from its mean.
        history: farthest that a node moved in each iteration, ``(n_iterations,)``.
        converged: whether a static string stopped moving; None where there is nothing to converge to: strings that
            evolve in time and strings at a temperature.
    """

    nodes: Tensor
    arc_length: Tensor
    energy: Tensor | None
    saddle: Saddle | None
    spacing: float
    history: Tensor
    converged: bool | None

    @property
    def length(self) -> float:
        """Length of the whole string."""
        return float(self.arc_length[-1])

    @property
    def barriers(self) -> tuple[float, float]:
        """Height of the saddle above the first and the last node, in nats.

        Raises:
            ConfigError: without a log density.
        """
        if self.saddle is None:
            raise ConfigError(
                "This string has no energies: build it with a log density, DiffusionString(log_prob=...)."
            )
        return self.saddle.barriers

    def __repr__(self) -> str:
        text = f"StringResult({len(self.nodes)} nodes, length {self.length:.4g}, {len(self.history)} iterations"
        if self.saddle is not None:
            text += ", barriers {:.4g} and {:.4g} nats".format(*self.saddle.barriers)
        return text + (")" if self.converged is None else f", converged={self.converged})")


def summarise(
    manifold: Manifold, nodes: Tensor, log_prob: LogProb | None, order: int, history: Tensor, converged: bool | None
) -> StringResult:
    """The result for these nodes."""
    energy = saddle = None
    if log_prob is not None:
        energy = _energy(log_prob, nodes)
        saddle = find_saddle(manifold, nodes, log_prob, energy, order)
    spacing = float(spacing_deviation(manifold, nodes))
    return StringResult(nodes, arc_length(manifold, nodes), energy, saddle, spacing, history, converged)


def find_saddle(
    manifold: Manifold, nodes: Tensor, log_prob: LogProb, energy: Tensor | None = None, order: int = 3
) -> Saddle:
    r"""The highest point of :math:`-\log p` on the curve through the nodes.

    The energy is evaluated at eighths of the spacing about the highest node, also where that is an end, a parabola
    through the highest three places the maximum, and its energy is evaluated there. An error :math:`\epsilon` of the
    place costs :math:`O(\epsilon^2)` in the energy.

    Args:
        manifold: where the nodes live.
        nodes: ``(n, *point_shape)``.
        log_prob: log density, ``(k, *point_shape) -> (k,)``.
        energy: of the nodes, if it is known.
        order: of the curve, see :func:`curve_point`.

    Raises:
        NumericsError: if an energy is NaN or infinite; the message says where.
    """
    energy = _energy(log_prob, nodes) if energy is None else energy
    index = int(energy.argmax())
    position = torch.tensor([float(index)], dtype=torch.float64, device=nodes.device)
    grid = index + torch.arange(-_ZOOM, _ZOOM + 1, dtype=torch.float64, device=nodes.device) / _ZOOM
    grid = grid[(grid >= 0) & (grid <= len(nodes) - 1)]
    values = _energy(log_prob, curve_point(manifold, nodes, grid, order)).double()
    best = int(values.argmax())
    if 0 < best < len(grid) - 1:
        left, middle, right = values[best - 1 : best + 2].tolist()
        bend = left - 2 * middle + right
        shift = max(-1.0, min(1.0, 0.5 * (left - right) / bend)) if bend < 0 else 0.0
        position = grid[best : best + 1] + shift / _ZOOM
    x = curve_point(manifold, nodes, position, order)
    top = float(_energy(log_prob, x)[0])
    ends = float(energy[0]), float(energy[-1])
    return Saddle(index, float(position[0]), x[0], top, (top - ends[0], top - ends[1]))


def _energy(log_prob: LogProb, x: Tensor) -> Tensor:
    value = -torch.as_tensor(log_prob(x))
    if value.shape != x.shape[:1]:
        raise ConfigError(
            f"log_prob must give one number per point, ({len(x)},); got {tuple(value.shape)}. Reduce over the axes of "
            "the point."
        )
    bad = ~value.isfinite()
    if bool(bad.any()):
        row = int(bad.int().argmax())
        raise NumericsError(
            f"The energy is {float(value[row])} at {int(bad.sum())} of {len(x)} points of the string, first at row "
            f"{row}, x = {x[row].tolist()}. Give a string where log_prob is finite, or use float64."
        )
    return value
