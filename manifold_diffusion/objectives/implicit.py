"""Implicit score matching: no transition density needed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .._errors import ConfigError
from .._typing import Batch, Network
from ..manifolds import divergence, hutchinson_divergence
from ..processes import NoiseProcess
from .base import Objective, require_noise, stratified_times

__all__ = ["ImplicitScoreMatching"]


class ImplicitScoreMatching(Objective):
    r"""Half the denoising loss up to a constant, without the transition density.

    .. math:: E\,[\,\tfrac12 |g_\theta|^2 + \sigma(t)\,\mathrm{div}\, g_\theta\,](t, x_t)

    By Stokes' theorem on a manifold without boundary, or for fields that don't cross it, such as those of networks
    whose head is ``manifold.from_frame`` (the default). It needs samples of :math:`x_t` only, hence serves manifolds
    without a heat kernel and simulated processes. The exact divergence costs ``dim`` derivative products,
    Hutchinson's estimate ``n_probes``. Source: Hyvarinen, *Estimation of non-normalized statistical models by score
    matching*, 2005; Huang et al.,
    *Riemannian diffusion models*, 2022, arXiv:2208.07949.

    Args:
        process: any noise process.
        divergence: ``"exact"`` or ``"hutchinson"``.
        n_probes: probes of the estimate.
    """

    def __init__(
        self, process: NoiseProcess, divergence: Literal["exact", "hutchinson"] = "exact", n_probes: int = 1
    ) -> None:
        require_noise(process, self)
        if divergence not in ("exact", "hutchinson") or n_probes < 1:
            raise ConfigError(
                f"divergence must be 'exact' or 'hutchinson', n_probes >= 1; got {divergence!r}, {n_probes}."
            )
        self.process, self.divergence, self.n_probes = process, divergence, n_probes

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        manifold, x0 = self.process.manifold, batch.x
        t = stratified_times(x0, len(x0), generator)
        path = self.process.sample(x0, t, generator)

        scale = self.process.scale(t)  # inside the divergence: on a product each factor has its own

        def field(x: Tensor) -> Tensor:
            return scale * network(t, x, batch.cond)

        if self.divergence == "exact":
            value, div = divergence(manifold, field, path.x_t)
        else:
            value, probes = hutchinson_divergence(manifold, field, path.x_t, self.n_probes, generator)
            div = probes.mean(0)
        g = value / scale
        return (path.weight * (0.5 * manifold.inner(path.x_t, g, g) + div)).mean()
