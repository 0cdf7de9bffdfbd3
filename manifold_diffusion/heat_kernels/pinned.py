"""Pinned Brownian motion: a point of the path between two points, drawn exactly."""

from __future__ import annotations

import math
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError, NumericsError
from ..manifolds import Euclidean, Manifold, Power, Product, Sphere, Torus
from .base import brownian_time, heat_kernel, point_scale
from .sphere import CircleKernel, SphereKernel

__all__ = ["sample_pinned"]

_MAX_ROUNDS = 10_000


def sample_pinned(
    manifold: Manifold,
    x0: Tensor,
    x1: Tensor,
    tau0: Tensor | float,
    tau1: Tensor | float,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""The point at Brownian time ``tau0`` of a Brownian motion that goes from ``x0`` to ``x1`` in ``tau0 + tau1``.

    .. math:: p(x) = \frac{p_{\tau_0}(x \mid x_0)\, p_{\tau_1}(x_1 \mid x)}{p_{\tau_0 + \tau_1}(x_1 \mid x_0)}

    No step size and no approximation beyond that of the heat kernel. On Euclidean space the law is normal about the
    geodesic point; on a torus and the circle it is a mixture of those, one per winding number. On a sphere points are
    drawn by rejection: :math:`\log p_\tau` is concave in :math:`u = \cos d(x, x_0)` (a theorem in odd dimensions, where
    the kernel is a derivative of the theta function, whose zeros in u are real and negative; checked on a grid of times
    and distances in dimensions 2, 4, 8 and 20), so that its tangents at the geodesic point bound both factors and the
    product of the bounds is a von Mises-Fisher law. On :math:`S^2` at least 0.44 of the proposals are accepted
    for points within a distance 2.5; near the antipode, where the law is a ring, fewer.

    Args:
        manifold: a Euclidean space, torus, sphere, or a product or power of those.
        x0: start, ``(*batch, *point_shape)``.
        x1: end, of the same shape.
        tau0: Brownian time from the start to the point, float or ``(*batch,)``, positive.
        tau1: Brownian time from the point to the end, likewise.
        generator: source of randomness.

    Returns:
        Points, ``(*batch, *point_shape)``.

    Raises:
        CapabilityError: for other manifolds.
        NumericsError: if the points of a sphere are so far apart that proposals keep being rejected.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> x0, x1 = torch.eye(3)[:2]
        >>> x = sample_pinned(Sphere(2), x0.expand(1000, 3), x1.expand(1000, 3), 0.1, 0.1)
        >>> x.shape, bool((x.mean(0) - torch.tensor([0.66, 0.66, 0.0])).abs().max() < 0.05)
        (torch.Size([1000, 3]), True)

    References:
        Jacobi's triple product and the Laguerre-Polya class for the concavity; Wood, *Simulation of the von Mises
        Fisher distribution*, 1994.
    """
    return _pinned(manifold, x0, x1, brownian_time(tau0, x0), brownian_time(tau1, x0), generator)


@singledispatch
def _pinned(
    manifold: Manifold, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None
) -> Tensor:
    raise CapabilityError(
        f"Pinned Brownian motion can be drawn exactly on Euclidean spaces, tori, spheres, their products and powers; "
        f"got {manifold!r}. Use the reverse SDE of the score, HeatKernelMixture.score, in small steps."
    )


def _randn_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)


@_pinned.register
def _(
    manifold: Euclidean, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None
) -> Tensor:
    return x0 + _bridge(x1 - x0, point_scale(manifold, tau0), point_scale(manifold, tau1), generator)


@_pinned.register
def _(manifold: Torus, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None) -> Tensor:
    period = manifold.period_like(x0)
    tau0, tau1 = tau0.unsqueeze(-1), tau1.unsqueeze(-1)
    d = _unwrap(manifold.log(x0, x1), tau0 + tau1, period, generator)
    return manifold.exp(x0, _bridge(d, tau0, tau1, generator))


@_pinned.register
def _(
    manifold: Product, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None
) -> Tensor:
    parts = zip(manifold.factors, manifold.weights, manifold.split(x0), manifold.split(x1), strict=True)
    return manifold.join(*[_pinned(f, y0, y1, tau0 / w, tau1 / w, generator) for f, w, y0, y1 in parts])


@_pinned.register
def _(manifold: Power, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None) -> Tensor:
    return _pinned(manifold.manifold, x0, x1, tau0.unsqueeze(-1), tau1.unsqueeze(-1), generator)


def _bridge(d: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None) -> Tensor:
    """Displacement from the start on flat space."""
    total = tau0 + tau1
    return tau0 / total * d + (tau0 * tau1 / total).sqrt() * _randn_like(d, generator)


def _unwrap(d: Tensor, tau: Tensor, period: Tensor | float, generator: torch.Generator | None) -> Tensor:
    """Displacement on the universal cover given the one on the circle: a whole number of turns is added."""
    if not d.numel():
        return d
    around = torch.as_tensor(period, dtype=d.dtype, device=d.device)
    reach = 1 + math.ceil(9 * float((tau.sqrt() / around).max()))  # nine standard deviations
    turns = torch.arange(-reach, reach + 1, dtype=d.dtype, device=d.device)
    ways = d.unsqueeze(-1) + around.unsqueeze(-1) * turns
    weights = (-ways.square() / (2 * tau.unsqueeze(-1))).softmax(-1)
    index = torch.multinomial(weights.reshape(-1, len(turns)), 1, generator=generator).reshape(*d.shape, 1)
    return ways.gather(-1, index).squeeze(-1)


@_pinned.register
def _(
    manifold: Sphere, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor, generator: torch.Generator | None
) -> Tensor:
    kernel = heat_kernel(manifold)
    if isinstance(kernel, CircleKernel):
        d = _unwrap(kernel._angle(x1, x0), tau0 + tau1, 2 * math.pi, generator)
        angle = _bridge(d, tau0, tau1, generator).unsqueeze(-1)
        return angle.cos() * x0 + angle.sin() * kernel._normal(x0)
    assert isinstance(kernel, SphereKernel)
    x0, x1 = torch.broadcast_tensors(x0, x1)
    times = [tau.expand(x0.shape[:-1]).reshape(-1) for tau in (tau0, tau1)]
    flat = _Sandwich(kernel, x0.reshape(-1, x0.shape[-1]), x1.reshape(-1, x0.shape[-1]), *times)
    return flat.sample(generator).reshape(x0.shape)


class _Sandwich:
    """Product of two heat kernels of a sphere under a von Mises-Fisher law that touches it at the geodesic point."""

    def __init__(self, kernel: SphereKernel, x0: Tensor, x1: Tensor, tau0: Tensor, tau1: Tensor) -> None:
        self.kernel, self.ends, self.times = kernel, (x0, x1), (tau0, tau1)
        manifold = kernel.manifold
        middle = manifold.geodesic(x0, x1, tau0 / (tau0 + tau1))
        self.slopes = [kernel.pull(middle, c, tau) for c, tau in zip(self.ends, self.times, strict=True)]
        self.at = [kernel.log_prob(middle, c, tau) for c, tau in zip(self.ends, self.times, strict=True)]
        self.versines = [_versine(middle, c) for c in self.ends]
        mean = sum(s.unsqueeze(-1) * c for s, c in zip(self.slopes, self.ends, strict=True))
        assert isinstance(mean, Tensor)
        self.kappa = torch.linalg.vector_norm(mean, dim=-1)
        ring = self.kappa == 0  # between antipodes halfway in time: uniform proposals
        self.mode = torch.where(ring.unsqueeze(-1), x0, mean / torch.where(ring, 1.0, self.kappa).unsqueeze(-1))

    def propose(self, rows: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Proposals for some rows, with the logarithm of their acceptance probability."""
        x, log_accept = _wood(self.mode[rows], self.kappa[rows], generator)
        for c, tau, slope, at, versine in zip(self.ends, self.times, self.slopes, self.at, self.versines, strict=True):
            bound = at[rows] + slope[rows] * (versine[rows] - _versine(x, c[rows]))
            log_accept = log_accept + self.kernel.log_prob(x, c[rows], tau[rows]) - bound
        return x, log_accept

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """Rejection; every round proposes for the points that are still without one."""
        result = torch.empty_like(self.mode)
        rows = torch.arange(len(result), device=result.device)
        for _ in range(_MAX_ROUNDS):
            if not len(rows):
                return result
            x, log_accept = self.propose(rows, generator)
            u = torch.rand(len(rows), generator=generator, dtype=x.dtype, device=x.device)
            good = u.log() <= log_accept
            result[rows[good]] = x[good]
            rows = rows[~good]
        raise NumericsError(
            f"{len(rows)} of {len(result)} points of the pinned motion were rejected {_MAX_ROUNDS} times: their ends "
            f"are nearly antipodal for the Brownian time, or not finite. Largest distance "
            f"{float(self.kernel.manifold.dist(self.ends[0][rows], self.ends[1][rows]).max()):.3g}."
        )


def _versine(x: Tensor, c: Tensor) -> Tensor:
    return (x - c).square().sum(-1) / 2


def _wood(mode: Tensor, kappa: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Proposals for the von Mises-Fisher law, with the logarithm of their acceptance probability.

    Written in the versine w = 1 - cos, which keeps its digits when the law is narrow.
    """
    n = mode.shape[-1] - 1
    xi = _randn_like(mode, generator)
    z = (1 + xi[..., 0] / torch.linalg.vector_norm(xi, dim=-1)) / 2  # Beta(n/2, n/2)
    b = n / (2 * kappa + (4 * kappa.square() + n * n).sqrt())
    w = 2 * b * z / (1 - (1 - b) * z)
    w_mode = 2 * b / (1 + b)
    # 1 - (1 - w_mode)(1 - w), and the same at w = w_mode
    cross, cross_mode = w_mode + w - w_mode * w, w_mode * (2 - w_mode)
    log_accept = kappa * (w_mode - w) + n * (cross.log() - cross_mode.log())
    side = _randn_like(mode, generator)
    side = side - (side * mode).sum(-1, keepdim=True) * mode
    side = side / torch.linalg.vector_norm(side, dim=-1, keepdim=True)
    x = (1 - w).unsqueeze(-1) * mode + (w * (2 - w)).clamp_min(0).sqrt().unsqueeze(-1) * side
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True), log_accept
