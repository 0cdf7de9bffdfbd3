"""Riemannian diffusion models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..manifolds import Manifold
from ..networks import TangentMLP
from ..objectives import DenoisingScoreMatching, ImplicitScoreMatching, Objective
from ..processes import NoiseProcess, default_process
from ..solvers import LearnedMultistep, inpaint, sample_twisted
from .base import GenerativeModel
from .inputs import in_own_dtype

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
    process: NoiseProcess

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

    def sample_conditional(
        self,
        n: int,
        log_likelihood: Callable[[Tensor], Tensor],
        *,
        width: float | None,
        n_particles: int = 64,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw points from the posterior of the model and a likelihood, exact as the number of particles grows.

        Args:
            n: number of points, each from a particle filter of its own.
            log_likelihood: differentiable function of points, ``(*batch, *point_shape) -> (*batch,)``.
            width: variance of the likelihood about its maximum, in units of squared distance, roughly; None for no
                damping of the twist.
            n_particles: particles per point.
            generator: source of all randomness.
            options: ``steps``, ``scale``, ``cond``, ``ess_threshold`` of
                :func:`~manifold_diffusion.solvers.sample_twisted`, which also returns weights and the evidence.

        Raises:
            ConfigError: if an argument is out of range or has the wrong shape.
            NumericsError: if weights stop being finite.
        """
        like = self.like
        options = {"width": width, "dtype": like.dtype, "device": like.device, "generator": generator, **options}
        return sample_twisted(self.process, self.network, log_likelihood, n, n_particles, **options).draw(generator)

    def inpaint(
        self,
        n: int,
        known: Sequence[Tensor | None],
        *,
        n_particles: int = 64,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        """Draw the unknown factors of a product given the known ones; see :func:`~manifold_diffusion.solvers.inpaint`.

        Args:
            n: number of points, each from a particle filter of its own.
            known: one entry per factor: its value, or None where it is unknown.
            n_particles: particles per point.
            generator: source of all randomness.
            options: ``steps``, ``cond``, ``ess_threshold``.
        """
        options = {"generator": generator, **options}
        factors = getattr(self.manifold, "factors", [])
        if len(factors) == len(known):
            pairs = enumerate(zip(known, factors, strict=True))
            known = [None if a is None else in_own_dtype(self, a, f"known value {i}", m) for i, (a, m) in pairs]
        return inpaint(self.process, self.network, known, n, n_particles, **options).draw(generator)
