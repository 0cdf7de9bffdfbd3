"""Stochastic interpolants on symmetric spaces: geodesics with heat-kernel noise around them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..data import Coupling
from ..heat_kernels import heat_kernel
from ..manifolds import Manifold, geodesic_symmetry
from .base import Prior
from .flow import PathProcess, geodesic_point
from .paths import PathSchedule

__all__ = ["StochasticInterpolant"]

_LEAST = 1e-3
"""Least standard deviation, as a fraction of the largest: at both ends the noise vanishes, its kernel has no limit."""


class StochasticInterpolant(PathProcess):
    r"""Brownian noise of standard deviation :math:`\gamma(s) = 4 a\, s (1 - s)` about the geodesic of each pair.

    The conditional law is the heat kernel :math:`K_{\gamma^2}(m_s, \cdot)` about the point :math:`m_s` of the geodesic.
    On a symmetric space the transvections along the geodesic carry the kernel about one point to that about another,
    so that the velocity

    .. math:: u(x) = V_s(x) - \tfrac12\,\frac{d\gamma^2}{ds}\,\nabla_x \log K_{\gamma^2}(m_s, x)

    with the Killing field :math:`V_s` of the transvections satisfies the continuity equation exactly. On flat space it
    is :math:`(x_1 - x_0) + \gamma'(s)\,z` with :math:`x = m_s + \gamma z`. The noise smooths the velocity between the
    two ends. Source: Albergo, Boffi and Vanden-Eijnden, *Stochastic interpolants*, 2023, arXiv:2303.08797.

    Args:
        manifold: a symmetric space with a heat kernel.
        amplitude: the standard deviation a at the middle.
        path: fraction of the geodesic against t; default linear.
        prior: law at t = 1; as in :class:`GeodesicFlow`.
        coupling: pairing with draws of the prior; default independent.

    Raises:
        CapabilityError: if the manifold is not a symmetric space, or has no heat kernel.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> process = StochasticInterpolant(Sphere(2), amplitude=0.3)
        >>> x0 = torch.tensor([[0.0, 0.0, 1.0]])
        >>> process.sample(x0, torch.tensor([0.5]), torch.Generator().manual_seed(0)).target.shape
        torch.Size([1, 3])
    """

    def __init__(
        self,
        manifold: Manifold,
        amplitude: float = 0.2,
        path: PathSchedule | None = None,
        prior: Prior | None = None,
        coupling: Coupling | None = None,
    ) -> None:
        super().__init__()
        self._set_up(manifold, prior, path, coupling)
        if not (amplitude > 0 and math.isfinite(amplitude)):
            raise ConfigError(f"StochasticInterpolant needs amplitude > 0; got {amplitude}. GeodesicFlow has no noise.")
        self.amplitude = float(amplitude)
        self._kernel = heat_kernel(manifold)
        symmetry = geodesic_symmetry(manifold)
        if symmetry is None:
            raise CapabilityError(
                f"StochasticInterpolant needs a symmetric space, whose transvections carry heat kernels along "
                f"geodesics; {manifold} is not known as one. Use GeodesicFlow({manifold})."
            )
        self._symmetry = symmetry

    def _draw(self, x0: Tensor, x1: Tensor, s: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        manifold = self.manifold
        m, speed = geodesic_point(manifold, x0, x1, s)
        gamma = self.amplitude * (4 * s * (1 - s)).clamp(min=_LEAST)
        slope = 4 * self.amplitude * (1 - 2 * s)
        draw = self._kernel.sample_with_score(m, gamma.square(), generator)
        noise = manifold.per_point(slope * gamma) * draw.score  # half of the derivative of gamma^2
        return draw.x, self._transvection(m, speed, draw.x) - noise

    def _transvection(self, m: Tensor, speed: Tensor, x: Tensor) -> Tensor:
        """Killing field at ``x`` of the transvections that move ``m`` with velocity ``speed``.

        The transvection by h is the symmetry about m followed by that about the point half of h along the geodesic.
        """
        zero = torch.zeros_like(x)
        mirrored, _ = self._symmetry(m, x, zero)

        def moved(h: Tensor) -> Tensor:
            return self._symmetry(self.manifold.exp(m, 0.5 * h * speed), mirrored, zero)[0]

        h = torch.zeros((), dtype=x.dtype, device=x.device)
        return torch.func.jvp(moved, (h,), (torch.ones_like(h),))[1]
