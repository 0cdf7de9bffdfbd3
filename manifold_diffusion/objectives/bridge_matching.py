"""Bridge matching: regression of the drift of Brownian bridges between coupled points."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import ConfigError
from .._typing import Batch, Network
from ..processes import BridgeMixture
from .base import Objective, stratified_times

__all__ = ["BridgeMatching"]


class BridgeMatching(Objective):
    r"""Regression of the bridge's drift towards one end, in units of the noise that is left.

    .. math:: E\,|g_\theta(t, x_t) - \sigma(t)\,\nabla_{x_t} \log p_{\sigma^2(t)}(x_t, x_1)|^2,
        \qquad \sigma^2(t) = \tau (1 - t)

    (to t = 1; to t = 0 the end is :math:`x_0` and :math:`\sigma^2 = \tau t`). The minimiser is the scaled drift of the
    Markovian projection, the diffusion with the marginals of the mixture of bridges. In units of the noise, uniform
    times weight the drifts by :math:`\sigma^2(t)`. Each step draws new bridges; nothing is simulated where the draw is
    exact.

    Args:
        process: the mixture of bridges; its direction says which drift is learned.
        paired: whether a batch holds pairs, points ``(n, 2, *point_shape)`` of ``Power(M, 2)``, instead of data that
            the process pairs with its prior.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.processes import EmpiricalPrior
        >>> process = BridgeMixture(Euclidean(2), 1.0, EmpiricalPrior(torch.ones(3, 2)))
        >>> batch = Batch(torch.zeros(8, 2))
        >>> BridgeMatching(process).loss(lambda t, x, cond: 0 * x, batch, torch.Generator().manual_seed(0)).shape
        torch.Size([])

    References:
        Shi et al., *Diffusion Schroedinger bridge matching*, 2023, arXiv:2303.16852.
    """

    def __init__(self, process: BridgeMixture, paired: bool = False) -> None:
        if not isinstance(process, BridgeMixture):
            raise ConfigError(f"BridgeMatching needs a BridgeMixture; got {type(process).__name__}.")
        if not paired and process.prior is None:
            raise ConfigError(
                "BridgeMatching needs a law at t = 1: BridgeMixture(M, tau, prior=EmpiricalPrior(x1)), or batches of "
                "pairs, paired=True."
            )
        self.process, self.paired = process, paired

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        t = stratified_times(batch.x, len(batch.x), generator)
        if self.paired:
            path = self.process.sample_pairs(batch.x[:, 0], batch.x[:, 1], t, generator)
        else:
            path = self.process.sample(batch.x, t, generator)
        assert path.target is not None
        error = network(path.t, path.x_t, batch.cond) - path.target
        return (path.weight * self.process.manifold.inner(path.x_t, error, error)).mean()
