"""How many dimensions data have near a point, seen at one noise level: from the score alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import ConfigError
from .._typing import VectorField
from ..manifolds import Manifold, divergence

__all__ = ["intrinsic_dimension"]


def intrinsic_dimension(manifold: Manifold, score: VectorField, x: Tensor, tau: Tensor | float) -> Tensor:
    r"""Local intrinsic dimension of noised data at points, from the score :math:`s = \nabla\log p_\tau`.

    Near data that fill a set of dimension d smoothly, :math:`p_\tau(x) \propto \tau^{-(n - d)/2}` as the noise
    :math:`\sqrt\tau` falls (n is the dimension of the manifold), and the heat equation :math:`\partial_\tau p =
    \tfrac12\Delta p` turns the slope into derivatives at one noise level:

    .. math::
        d(x, \tau) = n + \frac{\partial \log p_\tau(x)}{\partial \log\sqrt\tau}
                   = n + \tau\,\big(\mathrm{div}\, s(x) + |s(x)|^2\big).

    It is taken *at* data points, not at noised ones: over :math:`x \sim p_\tau` its mean is n whatever the data are,
    because :math:`\int \Delta p_\tau = 0`. At a lone point mass it is 0, at a point the data avoid it grows like
    :math:`r^2/\tau` with their distance r. Curvature changes it by :math:`O(\tau)`. The divergence is exact.

    Args:
        manifold: the manifold.
        score: Riemannian score at Brownian time ``tau``, ``(n, *point_shape) -> (n, *point_shape)``, row by row.
        x: points, ``(n, *point_shape)``.
        tau: Brownian time, a variance: float or ``(n,)``; or ``(n, *point_shape)`` or ``(1, *point_shape)``, where the
            factors of a product have their own, and then the slope is that of all of them scaled together.

    Returns:
        ``(n,)``, in the dtype of ``x``.

    Raises:
        ConfigError: a time that is not positive and finite.

    Example:
        Points of a great circle: one-dimensional under little noise, on a sphere of dimension two.

        >>> import torch
        >>> from manifold_diffusion.heat_kernels import NoisedData
        >>> from manifold_diffusion.manifolds import Sphere
        >>> a = torch.linspace(0, 2 * torch.pi, 1001, dtype=torch.float64)[:-1]
        >>> circle = torch.stack([a.cos(), a.sin(), 0 * a], -1)
        >>> data = NoisedData(Sphere(2), circle)
        >>> for tau in (1e-7, 1e-3, 7.0):
        ...     d = intrinsic_dimension(Sphere(2), lambda x, tau=tau: data.score(x, tau), circle[:5], tau)
        ...     print(round(float(d.mean()), 2))
        0.0
        1.0
        2.0

    References:
        Kamkari et al., *A geometric view of data complexity: efficient local intrinsic dimension estimation with
        diffusion models*, 2024, arXiv:2406.03537 (flat space); Stanczuk et al., *Your diffusion model secretly knows
        the dimension of the data manifold*, 2022, arXiv:2212.12611.
    """
    time = torch.as_tensor(tau, dtype=x.dtype, device=x.device)
    if not bool(((time > 0) & time.isfinite()).all()):
        raise ConfigError(f"tau, the Brownian time, must be positive and finite; got {tau}.")
    if time.dim() <= 1:
        time = manifold.per_point(time)
    v, div = divergence(manifold, lambda p: time * score(p), x)
    return (manifold.dim + div + manifold.inner(x, v / time, v)).detach()
