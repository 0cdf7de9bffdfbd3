"""The geodesic random walk for stochastic differential equations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..manifolds import Manifold
from ..processes import SDETerm
from .base import Solver, Step, expand_time

__all__ = ["GeodesicEulerMaruyama"]


@dataclass(frozen=True)
class GeodesicEulerMaruyama(Solver[SDETerm]):
    r"""Geodesic random walk. Weak order 1, one stage, no error estimate.

    .. math:: x' = \exp_x\big(h\, b(t, x) + \sqrt{|h|}\, g(t, x)\, \xi\big)

    :math:`\xi` is standard normal in the metric of the tangent space at x, so the walk converges to
    :math:`dX = b\,dt + g\,dB` with B the Brownian motion of generator :math:`\Delta/2`. For a reverse-time equation h
    is negative and the drift already holds the score. On a manifold with boundary the step is reflected where it would
    leave (:meth:`Manifold.move <manifold_diffusion.manifolds.Manifold.move>`).

    Reference:
        Jorgensen, *The central limit problem for geodesic random walks*, 1975; De Bortoli et al., *Riemannian
        score-based generative modelling*, 2022, arXiv:2202.02763.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.processes import SDETerm
        >>> from manifold_diffusion.solvers import ConstantSteps, integrate
        >>> brownian = SDETerm(drift=lambda t, x: torch.zeros_like(x), diffusion=lambda t, x: torch.ones(()))
        >>> x = torch.tensor([0.0, 0.0, 1.0]).expand(5, 3)
        >>> g = torch.Generator().manual_seed(0)
        >>> integrate(brownian, Sphere(2), x, 0.0, 1.0, GeodesicEulerMaruyama(), ConstantSteps(20), generator=g).x.shape
        torch.Size([5, 3])
    """

    order = 1
    n_stages = 1
    term_type = SDETerm

    def step(
        self,
        term: SDETerm,
        manifold: Manifold,
        t: float,
        h: float,
        x: Tensor,
        state: Any = None,
        generator: torch.Generator | None = None,
    ) -> Step:
        time = expand_time(manifold, t, x)
        noise = manifold.random_tangent(x, generator=generator)
        return Step(manifold.move(x, h * term.drift(time, x) + math.sqrt(abs(h)) * term.diffusion(time, x) * noise))
