"""Brownian motion on the rotation group."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import SO3
from ..manifolds._planes import cross, planes
from ._compact_tables import rotation_tables
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel, in_chunks

__all__ = ["SO3Kernel"]


def _towards(x: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Skew part of ``x^T x0`` as an axis vector of length sin w, 1 - cos w and 1 + cos w, without cancellation."""
    difference = x0 - x
    axis, versine = SO3.vee(x.mT @ difference), difference.square().sum((-2, -1)) / 4
    # 1 + cos w = sin^2 w / (1 - cos w) keeps its relative accuracy beside rotations by pi.
    return axis, versine, torch.where(versine < 1, 2 - versine, axis.square().sum(-1) / versine.clamp_min(0.5))


def _versine(x: Tensor, centres: Tensor) -> Tensor:
    """1 - cos w of every pair, ``(queries, centres)``; the product is in float64: short times divide its error."""
    a, b = x.flatten(1).double(), centres.flatten(1).double()
    pairs = torch.addmm(b.square().sum(-1), a, b.mT, beta=0.25, alpha=-0.5)
    return (pairs + a.square().sum(-1, keepdim=True) / 4).to(x.dtype).clamp(0, 2)


@heat_kernel.register(SO3)
class SO3Kernel(HeatKernel):
    r"""The heat kernel of SO(3) with the metric in which distance is the rotation angle (isotropic Gaussian on SO(3)).

    .. math::
        p_\tau(\omega) = \frac1{8\pi^2} \sum_l (2l+1)\, e^{-l(l+1)\tau/2}\,
        \frac{\sin((l+\frac12)\omega)}{\sin(\omega/2)}
        = \frac{e^{\tau/8}}{(2\pi\tau)^{3/2}} \sum_k \frac{\omega_k/2}{\sin(\omega_k/2)}\, e^{-\omega_k^2/2\tau},
        \quad \omega_k = \omega + 2\pi k

    Images are summed below tau = 0.25, characters in integers of hundreds of bits above; a score is one look-up times
    the skew part of
    :math:`R^\top R_0`, and is finite and right at rotations by pi. :math:`E[\mathrm{tr}\, R_0^\top R] = 3 e^{-\tau}`.

    Args:
        manifold: ``SO3()``.
    """

    def __init__(self, manifold: SO3) -> None:
        self.manifold = manifold
        self._radial = rotation_tables()

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        return self.sample_with_score(x0, tau, generator).x

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        _, versine, coversine = _towards(x, x0)
        return self._radial.log_prob(versine, coversine, brownian_time(tau, x))

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        axis, _, coversine = _towards(x, x0)
        pull = self._radial.pull(coversine, brownian_time(tau, x))
        return x @ SO3.hat(pull.unsqueeze(-1) * axis)

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        return self._radial.pairwise_log_prob(_versine(x, centres), tau)

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        pull = (weights * self._radial.pairwise_pull(_versine(x, centres), tau)).double()
        mean = (pull @ centres.flatten(1).double()).reshape(x.shape)
        return self.manifold.to_tangent(x, (mean - pull.sum(-1)[:, None, None] * x).to(x.dtype))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        def draw(x0: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
            xi = torch.randn(3, *x0.shape[:-2], generator=generator, dtype=x0.dtype, device=x0.device)
            q = (xi * xi).sum(0).sqrt().clamp_min(1e-30)
            r, cos, pull = self._radial.step(q, tau)
            axis, sin = (xi / q).unsqueeze(0), r.sin()
            # Rows of x0 hat(axis) are cross products; R = I + sin hat(axis) + (1 - cos) hat(axis)^2.
            start = planes(x0)
            once = cross(start, axis, 1)
            twice = cross(once, axis, 1)
            x = torch.addcmul(torch.addcmul(start, sin, once), 2 * (r / 2).sin().square(), twice)
            # Score: -pull sin x hat(axis), and x hat(axis) = cos once + sin twice.
            score = (-pull * sin) * torch.addcmul(cos * once, sin, twice)
            # Views, not `matrices`: the copy is made once, into the whole batch.
            return x.movedim((0, 1), (-2, -1)), score.movedim((0, 1), (-2, -1))

        return in_chunks(draw, x0, brownian_time(tau, x0), tuple(x0.shape[:-2]))
