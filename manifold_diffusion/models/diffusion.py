"""Riemannian diffusion models."""

from __future__ import annotations

from torch import nn

from .._errors import ConfigError
from ..manifolds import Manifold
from ..networks import TangentMLP
from ..objectives import DenoisingScoreMatching, ImplicitScoreMatching, Objective
from ..processes import NoiseProcess, default_process
from ..solvers import LearnedMultistep
from .base import GenerativeModel

__all__ = ["RiemannianDiffusion"]


class RiemannianDiffusion(GenerativeModel):
    r"""A generative model of data on a manifold, with exact likelihood. Every part has a default and can be swapped.

    Args:
        manifold: where the data live.
        process: noise process; default :func:`~manifold_diffusion.processes.default_process`.
        network: ``(t, x, cond) -> tangent vector``, the score in units of the noise; default
            :class:`~manifold_diffusion.networks.TangentMLP`.
        objective: loss; default denoising score matching, implicit score matching where the process is simulated.
        sampler: learned multistep scheme; made by :meth:`fit_sampler`.

    Attributes:
        metadata: what the model card says of data and metrics; saved with the model.

    Raises:
        ConfigError: if a part belongs to another manifold, or the process is not a noise process.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> model = RiemannianDiffusion(Sphere(2))
        >>> x = model.sample(5, generator=torch.Generator().manual_seed(0))
        >>> x.shape
        torch.Size([5, 3])
        >>> model.log_prob(x)  # untrained: the uniform law, -log(4 pi)
        tensor([-2.5310, -2.5310, -2.5310, -2.5310, -2.5310])
    """

    title = "Riemannian diffusion"

    def __init__(
        self,
        manifold: Manifold,
        process: NoiseProcess | None = None,
        network: nn.Module | None = None,
        objective: Objective | None = None,
        sampler: LearnedMultistep | None = None,
    ) -> None:
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        process = process if process is not None else default_process(manifold)
        if not isinstance(process, NoiseProcess):
            raise ConfigError(
                f"RiemannianDiffusion needs a noise process such as BrownianMotion; got {type(process).__name__}. "
                "Use RiemannianFlow for paths of flow matching."
            )
        network = network if network is not None else TangentMLP(process)
        if objective is None:
            objective = (DenoisingScoreMatching if process.has_target else ImplicitScoreMatching)(process)
        super().__init__(manifold, process, network, objective, sampler)
