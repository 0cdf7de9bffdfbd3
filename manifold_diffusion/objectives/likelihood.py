"""Maximum likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from .._typing import Batch, Network
from .base import Objective

__all__ = ["LogLikelihood"]


class LogLikelihood(Objective):
    """The mean negative log density ``-network(x)`` of a batch, in nats, for networks that are densities.

    Validation keeps no graph: it may sum over pairs of points by the million.
    """

    needs_graph = False

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        return -network(batch.x).mean()
