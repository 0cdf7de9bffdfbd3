"""Brownian motion on hyperbolic space."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Hyperboloid
from ._hyperbolic_tables import HyperbolicTables, LineLaw
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel, in_chunks

__all__ = ["HyperboloidKernel"]


@heat_kernel.register(Hyperboloid)
class HyperboloidKernel(HeatKernel):
    r"""The heat kernel of :math:`H^n`.

    For n = 1, a line, it is Gaussian in the distance; for n = 3 it is
    :math:`(2\pi\tau)^{-3/2} \frac{r}{\sinh r} e^{-\tau/2 - r^2/2\tau}`; in other dimensions its radial law comes from
    the derivatives of :math:`e^{-r^2/2\tau}` in :math:`\cosh r` (n odd) or an Abel integral of them (n even), to
    machine precision, and is tabulated. :math:`E[\cosh r] = e^{n\tau/2}`.

    Brownian motion drifts to infinity at the speed (n-1)/2. The time is limited to 300/(n-1). Squares of float32
    coordinates overflow at r = 44 from the origin, of float64 ones at r = 355: points that get there are not
    representable.

    Args:
        manifold: a ``Hyperboloid(n)``.

    Attributes:
        radial: the law of the distance, which other charts of the space share.
    """

    def __init__(self, manifold: Hyperboloid) -> None:
        self.manifold = manifold
        self.radial: HyperbolicTables | LineLaw = HyperbolicTables(manifold.n) if manifold.n > 1 else LineLaw()

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        t = brownian_time(tau, x, self.radial.tau_end)
        return self.radial.log_prob(self.manifold.dist(x, x0), t)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        t = brownian_time(tau, x, self.radial.tau_end)
        return self.radial.pull(self.manifold.dist(x, x0), t).unsqueeze(-1) * self.manifold.log(x, x0)

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self.radial.pairwise_log_prob(self.manifold.dist(x.unsqueeze(1), centres), tau)

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        def draw(x0: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            xi = torch.randn(*x0.shape[:-1], self.manifold.n, generator=generator, dtype=x0.dtype, device=x0.device)
            q = torch.linalg.vector_norm(xi, dim=-1, keepdim=True).clamp_min(1e-30)
            r, pull = (a.unsqueeze(-1) for a in self.radial.step(q.squeeze(-1), tau))
            space = x0[..., 1:]
            # Unit vector: parallel transport of (0, xi / q) from the origin to x0. Only the space-like entries are
            # needed, the others follow.
            unit = xi / q
            tangent = torch.addcmul(unit, (space * unit).sum(-1, keepdim=True) / (1 + x0[..., :1]), space)
            cosh, sinh = r.cosh(), r.sinh()
            x = torch.addcmul(cosh * space, sinh, tangent)
            # The geodesic's velocity at x, reversed, has length r times the pull.
            score = -(pull * r) * torch.addcmul(sinh * space, cosh, tangent)
            height = (1 + x.square().sum(-1, keepdim=True)).sqrt()
            lift = (x * score).sum(-1, keepdim=True) / height
            return torch.cat([height, x], -1), torch.cat([lift, score], -1)

        return in_chunks(draw, x0, brownian_time(tau, x0, self.radial.tau_end), tuple(x0.shape[:-1]))
