"""Riemannian flow matching models."""

from __future__ import annotations

from torch import nn

from ..manifolds import Manifold
from ..networks import TangentMLP
from ..objectives import FlowMatching, Objective
from ..processes import GeodesicFlow, PathProcess
from ..solvers import LearnedMultistep
from .base import GenerativeModel

__all__ = ["RiemannianFlow"]


class RiemannianFlow(GenerativeModel):
    r"""A model trained by flow matching: a velocity field that carries a prior to the data, with exact likelihood.

    It has the interface of :class:`RiemannianDiffusion`. Its paths need no heat kernel, only ``exp`` and ``log``, and
    any prior that can be sampled.

    Args:
        manifold: where the data live.
        process: paths; default :class:`~manifold_diffusion.processes.GeodesicFlow` from a uniform prior (a wrapped
            normal where there is none).
        network: ``(t, x, cond) -> tangent vector``, the velocity per unit of the path; default
            :class:`~manifold_diffusion.networks.TangentMLP`.
        objective: loss; default :class:`~manifold_diffusion.objectives.FlowMatching`.
        sampler: learned multistep scheme; made by :meth:`fit_sampler`.

    Raises:
        ConfigError: if a part belongs to another manifold.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Torus
        >>> from manifold_diffusion.models import RiemannianFlow
        >>> model = RiemannianFlow(Torus(2))
        >>> model.sample(5, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])

    References:
        Chen and Lipman, *Flow matching on general geometries*, 2023, arXiv:2302.03660.
    """

    title = "Riemannian flow matching"

    def __init__(
        self,
        manifold: Manifold,
        process: PathProcess | None = None,
        network: nn.Module | None = None,
        objective: Objective | None = None,
        sampler: LearnedMultistep | None = None,
    ) -> None:
        process = process if process is not None else GeodesicFlow(manifold)
        network = network if network is not None else TangentMLP(process)
        super().__init__(
            manifold, process, network, objective if objective is not None else FlowMatching(process), sampler
        )
