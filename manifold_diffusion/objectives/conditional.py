"""Training one network on the conditional and the unconditional law."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from .._typing import Batch, Network
from ..data import mark_condition
from .base import Objective

__all__ = ["ConditionDropout"]


class ConditionDropout(Objective):
    r"""Any objective, with the condition of each row withheld with a given probability.

    .. math:: E_{m}\, \mathrm{loss}\big(\theta;\, x, (m\,c, m)\big), \qquad m \sim \mathrm{Bernoulli}(1 - p)

    The network learns the law of x given c where the last column of its condition is 1, and the law of x where it is 0:
    the two that :class:`~manifold_diffusion.networks.ClassifierFree` combines. It is built with ``cond_dim`` one larger
    than the condition. The rows are drawn from the objective's generator, so that a resumed run drops the same ones.

    Args:
        objective: the loss.
        probability: of withholding a condition, in [0, 1]; 0.1 to 0.2 is usual.

    Raises:
        ConfigError: if the probability is out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.networks import TangentMLP
        >>> from manifold_diffusion.objectives import DenoisingScoreMatching
        >>> from manifold_diffusion.processes import BrownianMotion
        >>> process = BrownianMotion(Sphere(2))
        >>> objective = ConditionDropout(DenoisingScoreMatching(process), 0.1)
        >>> network = TangentMLP(process, width=16, n_frequencies=8, cond_dim=3 + 1)
        >>> g = torch.Generator().manual_seed(0)
        >>> x = Sphere(2).random_uniform(8, generator=g)
        >>> objective.loss(network, Batch(x, torch.randn(8, 3, generator=g)), g).shape
        torch.Size([])

    References:
        Ho and Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598.
    """

    added_conditions = 1

    def __init__(self, objective: Objective, probability: float = 0.1) -> None:
        if not 0 <= probability <= 1:
            raise ConfigError(
                f"probability, of withholding a condition, must be in [0, 1]; got {probability}. For example 0.1."
            )
        self.objective, self.probability = objective, float(probability)
        self.needs_graph = getattr(objective, "needs_graph", True)
        if hasattr(objective, "process"):
            self.process = objective.process  # pyright: ignore[reportAttributeAccessIssue]  # checked by models

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        if batch.cond is None:
            raise DataError("ConditionDropout needs conditions; the batch has none. Pass cond= with the points.")
        draw = torch.rand(len(batch.cond), generator=generator, dtype=batch.x.dtype, device=batch.x.device)
        marked = mark_condition(batch.cond, draw >= self.probability)
        return self.objective.loss(network, Batch(batch.x, marked), generator)
