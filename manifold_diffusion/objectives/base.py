"""The contract of an objective, and how its times are drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .._errors import ConfigError
from .._typing import Batch, Network
from ..processes import NoiseProcess, Process

__all__ = ["Objective", "require_noise", "stratified_times", "wrong_process"]


class Objective(ABC):
    """A loss with one method.

    Attributes:
        needs_graph: whether the loss may differentiate its network by autograd, so that validation, too, keeps a graph;
            where it does not, leaving it out saves memory.
        added_conditions: columns that the loss adds to the conditions of a batch.
    """

    needs_graph: bool = True
    added_conditions: int = 0

    @abstractmethod
    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """Mean loss of a batch, a scalar."""


def stratified_times(x: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """``n`` times, one uniform in each of ``n`` equal parts of [0, 1]: the mean of independent times, less variance."""
    u = torch.rand(n, generator=generator, dtype=x.dtype, device=x.device)
    return (torch.arange(n, dtype=x.dtype, device=x.device) + u) / n


def require_noise(process: Process, objective: Objective) -> None:
    """Raise :class:`ConfigError` unless the network of ``process`` predicts a score."""
    if not isinstance(process, NoiseProcess):
        raise wrong_process("a noise process such as BrownianMotion", process, objective)


_OBJECTIVES = {
    "score": "DenoisingScoreMatching",
    "velocity": "FlowMatching",
    "endpoint": "FlowMatching",
    "drift": "BridgeMatching",
    "denoiser": "TokenFlow",
}
"""By what the network of a process predicts."""


def wrong_process(needed: str, process: Process, objective: Objective) -> ConfigError:
    """The error of an objective for another kind of process, naming the objective for this one."""
    predicts = getattr(process, "prediction", "unknown")
    use = f" Use {_OBJECTIVES[predicts]}." if predicts in _OBJECTIVES else ""
    return ConfigError(
        f"{type(objective).__name__} needs {needed}; the network of {type(process).__name__} predicts the "
        f"{predicts}.{use}"
    )
