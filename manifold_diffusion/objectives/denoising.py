"""Denoising score matching with the exact transition kernel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._typing import Batch, Network
from ..processes import NoiseProcess, PathSample
from .base import Objective, require_noise, stratified_times

__all__ = ["DenoisingScoreMatching"]


class DenoisingScoreMatching(Objective):
    r"""Regression of the transition score in units of the noise.

    .. math:: E\,\lambda\,|g_\theta(t, x_t) - \sigma(t) \nabla_{x_t} \log p_t(x_t \mid x_0)|^2

    Its minimiser is the scaled marginal score. On a logarithmic schedule the weight 1 is the likelihood weighting: the
    loss is, up to a constant, twice the evidence bound on the negative log-likelihood per unit of log time. Source:
    Vincent, *A connection between score matching and denoising autoencoders*, 2011; De Bortoli et al., 2022,
    arXiv:2202.02763; Song et al.,
    *Maximum likelihood training of score-based diffusion models*, 2021, arXiv:2101.09258.

    Antithetic pairs: each draw is used together with its mirror image about the data point, which is equally likely and
    has the opposite target. At small noise the two targets nearly cancel in the gradient of everything that varies
    slowly over the noise: half the data, less variance.

    Args:
        process: a process with closed-form transitions.
        weighting: ``"likelihood"`` (1 in the units of the noise) or ``"balanced"`` (each noise level divided by the
            mean square of its target, so that the large ones, whose target is small, count as much).
        antithetic: use pairs where the process has them; the network then sees twice the batch.

    Raises:
        CapabilityError: if the process is simulated.
    """

    def __init__(
        self,
        process: NoiseProcess,
        weighting: Literal["likelihood", "balanced"] = "likelihood",
        antithetic: bool = True,
    ) -> None:
        require_noise(process, self)
        if not process.has_target:
            raise CapabilityError(
                f"DenoisingScoreMatching needs a closed-form transition; {type(process).__name__} on "
                f"{process.manifold} is simulated. Use ImplicitScoreMatching."
            )
        if weighting not in ("likelihood", "balanced"):
            raise ConfigError(f"weighting must be 'likelihood' or 'balanced'; got {weighting!r}.")
        self.process, self.weighting, self.antithetic = process, weighting, antithetic

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        t = stratified_times(batch.x, len(batch.x), generator)
        path = self.process.sample(batch.x, t, generator)
        draws = [path, self.process.mirror(path) if self.antithetic else None]
        pairs = [(d.x_t, d.target) for d in draws if d is not None and d.target is not None]
        x_t, target = torch.cat([x for x, _ in pairs]), torch.cat([g for _, g in pairs])
        cond = None if batch.cond is None else torch.cat([batch.cond] * len(pairs))
        error = network(torch.cat([t] * len(pairs)), x_t, cond) - target
        squared = self.process.manifold.inner(x_t, error, error).reshape(-1, len(t))
        weight = path.weight if self.weighting == "likelihood" else path.weight * self._balance(path)
        return (weight * squared).mean()

    def _balance(self, path: PathSample) -> Tensor:
        """Inverse of the mean square of the target at each noise level, from the neighbouring strata of t."""
        assert path.target is not None
        size = self.process.manifold.inner(path.x_t, path.target, path.target)
        window = max(len(size) // 16, 1)
        level = torch.nn.functional.avg_pool1d(size[None, None], window, 1, window // 2, count_include_pad=False)
        return 1 / (level[0, 0, : len(size)] + 0.05 * self.process.manifold.dim)
