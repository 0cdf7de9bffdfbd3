"""How many data points share in the ideal score of a noised point."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..heat_kernels import heat_kernel
from ..manifolds import Manifold, cast_points
from .pairwise import blocks

__all__ = ["effective_number", "effective_sample_size"]


def effective_sample_size(
    manifold: Manifold, data: Tensor, x: Tensor, tau: float, weights: Tensor | None = None
) -> Tensor:
    r"""Effective number of data points in the posterior of a noised point.

    .. math::
        n_{\mathrm{eff}}(x) = \frac1{\sum_i w_i(x)^2}, \qquad
        w_i(x) = \frac{p_\tau(x \mid x_i)}{\sum_j p_\tau(x \mid x_j)}

    It is 1 where one data point explains ``x`` alone, as at small noise, and n where all do alike, as at large noise
    on a compact manifold. Where it is near 1 the score of the noised data points at single training points: a model
    that reaches it there returns its data, and one that is to be new has to differ. For n points of the uniform law
    it is :math:`n / (V p_{2\tau}(x \mid x))` about, the number of points within reach of the noise.

    Args:
        manifold: a manifold with a heat kernel.
        data: data points, ``(n, *point_shape)``.
        x: noised points, ``(m, *point_shape)``.
        tau: Brownian time, a variance.
        weights: non-negative weights of the data, ``(n,)``; default equal.

    Returns:
        ``(m,)`` float64, between 1 and n.

    Raises:
        CapabilityError: if the manifold has no heat kernel.
        DataError: no data, or weights of the wrong shape.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> effective_sample_size(Sphere(2), torch.eye(3), torch.eye(3)[:1], 20.0)
        tensor([3.0000], dtype=torch.float64)

    References:
        Biroli et al., *Dynamical regimes of diffusion models*, 2024, arXiv:2402.18491 (the collapse onto data points);
        Shang et al., *Fast and scalable analytical diffusion*, 2026, arXiv:2602.16498.
    """
    manifold.check_point(data, "data")
    manifold.check_point(x, "x")
    if len(data) == 0 or (weights is not None and weights.shape != (len(data),)):
        shape = None if weights is None else tuple(weights.shape)
        raise DataError(f"There must be data, and one weight each; got {len(data)} points and weights of {shape}.")
    if not 0 < tau < float("inf"):
        raise ConfigError(f"tau, the Brownian time, must be positive and finite; got {tau}.")
    kernel, centres = heat_kernel(manifold), cast_points(manifold, data.to(x.device), torch.float64)
    x = cast_points(manifold, x, torch.float64)
    log_w = None if weights is None else weights.to(centres).log()
    out = [x.new_zeros(0)]
    for rows in blocks(len(x), len(centres)):
        log_p = kernel.pairwise_log_prob(x[rows], centres, x.new_tensor([tau]))
        if log_w is not None:
            log_p = log_p + log_w
        out.append(effective_number(log_p))
    return torch.cat(out)


def effective_number(log_weights: Tensor) -> Tensor:
    r"""Effective number :math:`(\sum_i w_i)^2 / \sum_i w_i^2` of weights, from their logs, ``(*batch, n)``."""
    return (2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)).exp()
