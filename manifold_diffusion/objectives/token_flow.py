"""Cross entropy of the denoiser of noised tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from .._typing import Batch, Network
from ..processes import TokenPath
from .base import Objective, stratified_times

__all__ = ["TokenFlow"]


class TokenFlow(Objective):
    r"""Cross entropy of the tokens under the denoiser, at times uniform in the decoding error.

    .. math:: -E\,\frac1L \sum_i \log D_t(x_t)_{i,\,\mathrm{token}_i}, \qquad x_t = (1 - t)\, x_0 + t\, z

    Its minimiser is the law of each token given :math:`x_t`, which is also the mean of :math:`x_0`, so that
    :math:`(x - D_t(x))/t` is the marginal velocity.

    Args:
        process: the path of the sequences.

    Example:
        >>> import torch
        >>> from manifold_diffusion import Batch
        >>> from manifold_diffusion.networks import TokenTransformer
        >>> from manifold_diffusion.processes import TokenPath
        >>> path = TokenPath(4, 2)
        >>> batch = Batch(torch.tensor([[0, 3], [2, 1]]))  # integers; one-hot points do as well
        >>> TokenFlow(path).loss(TokenTransformer(path, width=16), batch).isfinite()
        tensor(True)

    References:
        One-step Language Modeling via Continuous Denoising, 2026, arXiv:2602.16813.
    """

    def __init__(self, process: TokenPath) -> None:
        self.process = process

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        x0 = self.process.points(batch.x)
        # In (0, 1] instead of [0, 1): at t = 0 the flow is singular.
        t = self.process.decoding_clock.time(1 - stratified_times(x0, len(x0), generator))
        x = self.process.sample(x0, t, generator).x_t
        return -(x0 * network(t, x, batch.cond).log_softmax(-1)).sum(-1).mean()
