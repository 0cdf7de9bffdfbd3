"""Brownian motion on SO(n), U(n) and SU(n)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import CapabilityError
from ..manifolds import SO, SU, U
from ..manifolds._matrix import differentiated
from ..manifolds._unitary import spectral_scalar, spectral_slopes
from ._group_law import GroupLaw
from .base import HeatKernel, brownian_time, heat_kernel

__all__ = ["MatrixGroupKernel"]

_LARGEST = {"SO": 6, "SU": 6, "U": 4}
_ACCEPTANCE = 0.5
_NEGLIGIBLE = 1e-20


@heat_kernel.register(SO)
@heat_kernel.register(SU)
@heat_kernel.register(U)
class MatrixGroupKernel(HeatKernel):
    r"""The heat kernel of SO(n) and SU(n), n <= 6, and U(n), n <= 4.

    The density is a function of the eigenangles of :math:`x_0^{-1} x`: a sum over the unit lattice of the maximal torus
    at short times, over characters at long ones, both without the singularities at repeated eigenvalues. The score is
    its gradient in the angles, carried by the eigenvectors. All is computed in float64; derivatives of ``log_prob`` of
    first and second order and of ``score`` of first order are right, also at repeated eigenvalues.

    Samples are exact in law. A Gaussian vector X of the Lie algebra with variance s, accepted with probability
    :math:`\prod_{\alpha>0} \mathrm{sinc}(\alpha(X)/2)`, has the law of the heat kernel at time s under the exponential
    map, up to the vectors with a root beyond :math:`2\pi`, where the product may be negative: steps are so short that
    these have probability below 1e-20. A time is split into equal steps; from the time on at which the peak of the
    density is four times the uniform one, uniform points are accepted with probability density / peak instead.

    Args:
        manifold: the group.

    Raises:
        CapabilityError: if n is above the range in which the kernel has been verified.
    """

    def __init__(self, manifold: SO | SU | U) -> None:
        largest = _LARGEST[manifold.family]
        if manifold.n > largest:
            raise CapabilityError(
                f"The heat kernel of {manifold.family}(n) is there for n <= {largest}; got {manifold!r}. "
                f"BrownianMotion({manifold!r}, n_steps=100) simulates it by a geodesic random walk, to be trained with "
                "ImplicitScoreMatching."
            )
        self.manifold = manifold
        self._law = GroupLaw(manifold)
        self._longest_step: float | None = None
        self._late: float | None = None

    # ------------------------------------------------------------------ density

    def _frame(self, x: Tensor, x0: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Angles, eigenvectors, the change of the logarithm that carries derivatives, and the time; all broadcast."""
        log = self.manifold.spectral_log(x0, x)
        angles, vectors = log.angles, log.vectors
        if self.manifold.family == "SO":  # mirrored pairs: the non-negative half first
            order = angles.argsort(-1, descending=True)
            angles = angles.gather(-1, order)
            vectors = vectors.gather(-1, order.unsqueeze(-2).expand_as(vectors))
        change = None
        if differentiated(log.generator):
            change = vectors.mH @ (log.generator - log.generator.detach()) @ vectors
        tau = tau.double()
        batch = torch.broadcast_shapes(angles.shape[:-1], tau.shape)
        angles = angles[..., : self._law.weights.shape[1]]
        return angles.expand(*batch, angles.shape[-1]), vectors, change, tau.expand(batch)

    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        angles, _, change, time = self._frame(x, x0, brownian_time(tau, x))
        weights = torch.from_numpy(self._law.weights).to(x.device)
        value = spectral_scalar(
            lambda a: self._law.log_prob(a, time), angles, weights, change, time.detach().clamp_max(1.0)
        )
        return value.to(x.dtype)

    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        angles, vectors, change, time = self._frame(x, x0, brownian_time(tau, x))
        weights = torch.from_numpy(self._law.weights).to(x.device)
        full = weights / weights.square().sum(0)

        def log_prob(a: Tensor) -> Tensor:
            return self._law.log_prob(a, time)

        if change is None:
            value, pull = torch.func.vjp(log_prob, angles)[:2]
            inner = torch.diag_embed(pull(torch.ones_like(value))[0] @ full.mT).to(vectors.dtype)
        else:
            gradient, hessian, slopes = spectral_slopes(log_prob, angles, weights, time.detach().clamp_max(1.0))
            moved = change.diagonal(0, -2, -1).real @ full
            gradient = gradient + (hessian @ moved.unsqueeze(-1)).squeeze(-1)
            off = change - torch.diag_embed(change.diagonal(0, -2, -1))
            inner = torch.diag_embed(gradient @ full.mT) + slopes * off
        # The metric is half the trace: the gradient has twice the slopes.
        hermitian = 2 * vectors @ inner @ vectors.mH
        omega = self.manifold.algebra(self.manifold.times_i(hermitian, x.dtype))
        return self.manifold.at(x, omega)

    # ------------------------------------------------------------------ sampling

    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        batch = self.manifold.batch_shape(x0)
        x = x0.reshape(-1, *self.manifold.point_shape)
        time = brownian_time(tau, x0).expand(batch).reshape(-1)
        if len(x) == 0:
            return x0.clone()
        late = time > self._late_time()
        early = (~late).nonzero()[:, 0]
        moved = x.clone()
        if len(early):
            step, at = time[early], x[early]
            count = max(1, math.ceil(float(step.max()) / self._step_limit()))
            for _ in range(count):
                at = self.manifold.exp(at, self._increment(at, step / count, generator))
            moved[early] = at
        rest = late.nonzero()[:, 0]
        if len(rest):
            moved[rest] = self.manifold.compose(x[rest], self._mixed(time[rest], generator))
        return moved.reshape(x0.shape)

    def _step_limit(self) -> float:
        """Longest step: half of the vectors are accepted, and a root beyond 2 pi has probability below 1e-20."""
        if self._longest_step is None:
            from scipy.stats import chi2

            law = self._law
            limit = 2 * math.log(1 / _ACCEPTANCE) / law.rho_squared if law.rho_squared else math.inf
            if len(law.roots):
                # A root is at most its length times |X|, and |X|^2 / s is chi-squared.
                length = float((law.roots**2).sum(-1).max()) / law.metric
                limit = min(limit, 4 * math.pi**2 / length / float(chi2.isf(_NEGLIGIBLE, self.manifold.dim)))
            self._longest_step = limit
        return self._longest_step

    def _late_time(self) -> float:
        """Time from which the density is at most four times the uniform one, not before the cross-over."""
        if self._late is None:
            if not len(self._law.roots):  # a flat torus: one Gaussian step reaches any time
                return math.inf
            low, high = self._law.cross_over, 50.0

            def peak(t: float) -> float:
                return float(self._law.log_peak(torch.tensor(t, dtype=torch.float64))) + self.manifold.log_volume

            for _ in range(40):
                middle = (low + high) / 2
                low, high = (middle, high) if peak(middle) > math.log(4) else (low, middle)
            self._late = high
        return self._late

    def _increment(self, x: Tensor, time: Tensor, generator: torch.Generator | None) -> Tensor:
        """Tangent vectors at ``x`` whose images have the law of a short time."""
        group = self.manifold
        coefficients = torch.zeros(len(x), group.dim, dtype=x.dtype, device=x.device)
        basis = group.algebra_basis(torch.float64, x.device).flatten(1)
        pending = torch.arange(len(x), device=x.device)
        while len(pending):
            xi = torch.randn(len(pending), group.dim, generator=generator, dtype=x.dtype, device=x.device)
            xi = xi * time[pending, None].sqrt()
            omega = group.matrix((xi.double() @ basis).reshape(len(pending), *group.point_shape))
            angles = torch.linalg.eigvalsh(-1j * omega.to(torch.complex128))
            ratio = group.log_volume_element(angles)
            widest = angles[:, -1] + angles[:, -2] if group.family == "SO" else angles[:, -1] - angles[:, 0]
            u = torch.rand(len(pending), generator=generator, dtype=torch.float64, device=x.device)
            accepted = (u.log() < ratio) & (widest < 2 * math.pi)
            coefficients[pending[accepted]] = xi[accepted]
            pending = pending[~accepted]
        return group.from_frame(x, coefficients)

    def _mixed(self, time: Tensor, generator: torch.Generator | None) -> Tensor:
        """Group elements at late times, started at the identity."""
        group, like = self.manifold, {"dtype": time.dtype, "device": time.device}
        one = group.identity(**like)
        out = one.expand(len(time), *group.point_shape).clone()
        pending = torch.arange(len(time), device=time.device)
        while len(pending):
            y = group.random_uniform(len(pending), generator=generator, **like)
            now = time[pending].double()
            log_ratio = self.log_prob(y, one, time[pending]).double() - self._law.log_peak(now)
            u = torch.rand(len(pending), generator=generator, dtype=torch.float64, device=time.device)
            accepted = u.log() < log_ratio
            out[pending[accepted]] = y[accepted]
            pending = pending[~accepted]
        return out
