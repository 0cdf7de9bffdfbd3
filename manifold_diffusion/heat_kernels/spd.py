"""Brownian motion on symmetric positive definite matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import CapabilityError
from ..manifolds import SPD, Pullback
from ..manifolds._cholesky import cholesky, whiten
from ..manifolds._matrix import differentiated, eigh, log1p_values, sym, sym_exp, sym_log1p
from ._spd_tables import radial_law
from .base import HeatKernel, KernelSample, brownian_time, heat_kernel
from .pullback import PullbackKernel

__all__ = ["AffineSPDKernel"]

_CLOSE = 1e-2
"""Gap below which a divided difference of the slope is a derivative."""


class AffineSPDKernel(HeatKernel):
    r"""The heat kernel of SPD(n), n <= 3, with the affine-invariant metric.

    A function of the logarithms H of the eigenvalues of :math:`L_0^{-1} x L_0^{-\top}`, :math:`x_0 = L_0 L_0^\top`.
    SPD(1) is a line; SPD(2) is :math:`\mathbb{R} \times H^2` with curvature -1/2; the law of SPD(3) is an average of
    the law of the positive definite *complex* matrices, which is elementary, tabulated as a correction to its leading
    order.

    Sampling is exact: at the Brownian time :math:`\tau/4` the complex motion has the eigenvalues
    :math:`e^{\Lambda}`, with :math:`\Lambda` those of :math:`\sqrt{\tau/4}\, G + \tfrac\tau4 \mathrm{diag}(\rho)`, G
    from the Gaussian unitary ensemble and :math:`\rho_j = (n + 1 - 2j)/2`, and independent eigenvectors U, uniform; and
    :math:`H = 2 \log \sigma(e^{\Lambda/2} U^\top U e^{\Lambda/2})` with singular values :math:`\sigma`.
    :math:`E[x] = e^{(n+1)\tau/4} x_0`.

    Second derivatives of ``log_prob`` and first ones of ``score`` are right, also at repeated eigenvalues.

    Args:
        manifold: ``SPD(n)`` with n at most 3.

    Raises:
        CapabilityError: if n is larger.
    """

    def __init__(self, manifold: SPD) -> None:
        if manifold.n > 3:
            raise CapabilityError(
                f"{manifold!r} has no heat kernel here: for n > 3 it is an integral over n (n - 1) / 2 dimensions. "
                f"SPD({manifold.n}, 'log_euclidean') and SPD({manifold.n}, 'log_cholesky') have exact ones; "
                f"Langevin({manifold!r}) trains without one."
            )
        self.manifold = manifold
        self._law = radial_law(manifold.n)

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        # Rounding can take an ill-conditioned matrix off the manifold.
        return self.manifold.project(self._draw(x0, tau, generator)[0].to(x0.dtype))

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        x, frame, h, t = self._draw(x0, tau, generator)
        score = (frame * self._law.slope(h, t).unsqueeze(-2)) @ frame.mT
        return KernelSample(x.to(x0.dtype), sym(score).to(x0.dtype))

    def _draw(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Point, a frame F of it (x = F F^T) along the principal directions, H and the time."""
        n, batch = self.manifold.n, self.manifold.batch_shape(x0)
        p = x0.double()
        t = brownian_time(tau, p, self._law.tau_end).expand(batch)

        def normal(k: int) -> Tensor:
            return torch.randn(*batch, k, n, n, generator=generator, dtype=p.dtype, device=p.device)

        a, b, c = torch.complex(*normal(2).unbind(-3)), torch.complex(*normal(2).unbind(-3)), normal(1).squeeze(-3)
        quarter = (t / 4).unsqueeze(-1)
        drift = torch.diag_embed(quarter * torch.linspace((n - 1) / 2, (1 - n) / 2, n, dtype=p.dtype, device=p.device))
        logs = torch.linalg.eigvalsh(quarter.sqrt().unsqueeze(-1) * (a + a.mH) / 2 + drift)
        turn = torch.linalg.qr(b)[0]  # phases of its columns leave the singular values alone
        scale = (logs / 2).exp()
        singular = torch.linalg.svdvals(scale.unsqueeze(-1) * (turn.mT @ turn) * scale.unsqueeze(-2))
        h = 2 * singular.log().flip(-1)
        frame = cholesky(p) @ torch.linalg.qr(c)[0] * (h / 2).exp().unsqueeze(-2)
        return sym(frame @ frame.mT), frame, h, t

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        e, _, t = self._excess(x, x0, tau)
        if not differentiated(e):
            return self._law.log_prob(log1p_values(eigh(sym(e))[0]), t).to(x.dtype)
        a = sym_log1p(e)
        fixed = a.detach()
        h, vectors = eigh(fixed)
        # Second-order expansion of a symmetric function of eigenvalues (Lewis and Sendov, 2001).
        e = vectors.mT @ (a - fixed) @ vectors
        diagonal = e.diagonal(dim1=-2, dim2=-1)
        slope, bend, turn = self._derivatives(h, t)
        first = self._law.log_prob(h, t) + (slope * diagonal).sum(-1)
        second = (bend * diagonal.unsqueeze(-1) * diagonal.unsqueeze(-2)).sum((-2, -1)) + (turn * e * e).sum((-2, -1))
        return (first + second / 2).to(x.dtype)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        e, lower, t = self._excess(x, x0, tau)
        a = sym_log1p(e)
        fixed = a.detach()
        h, vectors = eigh(fixed)
        slope = torch.diag_embed(self._law.slope(h, t))
        if differentiated(a):
            e = vectors.mT @ (a - fixed) @ vectors
            _, bend, turn = self._derivatives(h, t)
            slope = slope + torch.diag_embed((bend * e.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)).sum(-1)) + turn * e
        half = lower @ sym_exp(a / 2)
        return sym(half @ (vectors @ slope @ vectors.mT) @ half.mT).to(x.dtype)

    def _excess(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """L0^-1 x L0^-T - I without cancellation for close points, L0 and the time."""
        lower, inverse = whiten(x0.double())
        e = inverse @ (x.double() - x0.double()) @ inverse.mT
        return e, lower, brownian_time(tau, e, self._law.tau_end)

    def _derivatives(self, h: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slope g in H, its Jacobian, and (g_i - g_j) / (H_i - H_j) off the diagonal."""
        n = self.manifold.n
        tau = tau.expand(torch.broadcast_shapes(h.shape[:-1], tau.shape)).contiguous()
        h = h.expand(*tau.shape, n).contiguous()
        slope = self._law.slope(h, tau)
        units = torch.eye(n, dtype=h.dtype, device=h.device)

        def change(direction: Tensor) -> Tensor:
            along = direction.expand_as(h).contiguous()
            return torch.func.jvp(lambda p: self._law.slope(p, tau), (h,), (along,))[1]

        bend = torch.stack([change(e) for e in units], -1)
        gap = h.unsqueeze(-1) - h.unsqueeze(-2)
        close = gap.abs() < _CLOSE
        own = bend.diagonal(dim1=-2, dim2=-1)
        limit = (own.unsqueeze(-1) + own.unsqueeze(-2)) / 2 - bend
        turn = torch.where(close, limit, (slope.unsqueeze(-1) - slope.unsqueeze(-2)) / torch.where(close, 1.0, gap))
        return slope, bend, turn * (1 - units)


@heat_kernel.register(SPD)
def _(manifold: SPD) -> HeatKernel:
    return PullbackKernel(manifold) if isinstance(manifold, Pullback) else AffineSPDKernel(manifold)
