"""Geodesic random walks: simulation of a diffusion where its transition has no closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..manifolds import Manifold

__all__ = ["geodesic_random_walk"]


def geodesic_random_walk(
    manifold: Manifold,
    x0: Tensor,
    tau: Tensor,
    n_steps: int,
    drift: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""End points of dX = b(X) dtau + dB after Brownian time ``tau`` (one per point), in ``n_steps`` equal steps.

    :math:`x \leftarrow \exp_x(h\, b(x) + \sqrt h\, \xi)`, of weak order 1 in h
    (Jorgensen, *The central limit problem for geodesic random walks*, 1975; De Bortoli et al., *Riemannian score-based
    generative modelling*, 2022, arXiv:2202.02763). On a manifold with boundary the steps are reflected
    (:meth:`~manifold_diffusion.manifolds.Manifold.move`), and the noise is reflected Brownian motion.

    Args:
        manifold: where the walk lives.
        x0: starting points ``(*batch, *point_shape)``.
        tau: Brownian times ``(*batch,)``.
        n_steps: number of steps.
        drift: vector field b; default none.
        generator: source of the noise.

    Returns:
        End points, shaped as ``x0``.
    """
    h = manifold.per_point(tau / n_steps)
    root = h.sqrt()
    x = x0
    for _ in range(n_steps):
        step = root * manifold.random_tangent(x, generator=generator)
        x = manifold.move(x, step if drift is None else step + h * drift(x))
    return x
