"""Denoising score matching with the exact transition kernel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._typing import Batch, Network
from ..processes import Process
from .base import Objective, stratified_times

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(Objective):
    r"""Regression of the scaled transition score, :math:`E\,\lambda\,|g_\theta(t, x_t) - \sigma(t) \nabla_{x_t} \log p_t(x_t \mid x_0)|^2`.

    Its minimiser is the scaled marginal score. On a logarithmic schedule the weight 1 is the likelihood weighting: the loss is, up to a constant, twice the
    evidence bound on the negative log-likelihood per unit of log time.
    Source: Vincent, *A connection between score matching and denoising autoencoders*, 2011; De Bortoli et al., 2022, arXiv:2202.02763; Song et al.,
    *Maximum likelihood training of score-based diffusion models*, 2021, arXiv:2101.09258.

    Args:
        process: a process with closed-form transitions.
        weighting: ``"likelihood"`` (1 in the units of the noise) or ``"balanced"`` (each noise level divided by the mean square of its
            target, so that the large ones, whose target is small, count as much).

    Raises:
        CapabilityError: if the process is simulated.
    """

    def __init__(self, process: Process, weighting: Literal["likelihood", "balanced"] = "likelihood") -> None:
        if not process.has_target:
            raise CapabilityError(
                f"DenoisingScoreMatching needs a closed-form transition; {type(process).__name__} on {process.manifold} is simulated. "
                "Use ImplicitScoreMatching."
            )
        if weighting not in ("likelihood", "balanced"):
            raise ConfigError(f"weighting must be 'likelihood' or 'balanced'; got {weighting!r}.")
        self.process, self.weighting = process, weighting

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        x0 = batch.x
        t = stratified_times(x0, len(x0), generator)
        path = self.process.sample(x0, t, generator)
        assert path.target is not None  # has_target
        error = network(path.t, path.x_t, batch.cond) - path.target
        squared = self.process.manifold.inner(path.x_t, error, error)
        if self.weighting == "balanced":
            size = self.process.manifold.inner(path.x_t, path.target, path.target)
            # A running mean over neighbouring strata of t stands for the mean square at that noise level.
            window = max(len(x0) // 16, 1)
            level = torch.nn.functional.avg_pool1d(size[None, None], window, 1, window // 2, count_include_pad=False)[0, 0, : len(x0)]
            squared = squared / (level + 0.05 * self.process.manifold.dim)
        return (path.weight * squared).mean()
