r"""Draws of pinned Brownian motion, one law per manifold: each is exact.

A bridge from :math:`x_0` to :math:`x_1` stands, after Brownian time s with time r to go, at a point of density
:math:`p_s(x_0, x)\, p_r(x, x_1) / p_{s+r}(x_0, x_1)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError, NumericsError
from .._safe import sinhc
from ..manifolds import (
    SO3,
    ConstantCurvature,
    Euclidean,
    Hyperboloid,
    Manifold,
    PoincareBall,
    Power,
    Product,
    Pullback,
    Quotient,
    RealProjective,
    Sphere,
    Torus,
)
from ..manifolds.so3 import body, rotation
from .base import brownian_time, heat_kernel

__all__ = ["draw_bridge", "sample_pinned"]

_ROUNDS = 10_000
_LEAST_ROWS = 256
"""Proposals made at a time at least, so that the last rows of a rejection sampler don't take a round each."""


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

    No step size and no approximation beyond that of the heat kernel.

    Args:
        manifold: a manifold with a law registered for :func:`draw_bridge`.
        x0: start, ``(*batch, *point_shape)``.
        x1: end, ``(*batch, *point_shape)``; batches broadcast.
        tau0: Brownian time from the start to the point, float or ``(*batch,)``, positive.
        tau1: Brownian time from the point to the end, likewise.
        generator: source of randomness.

    Returns:
        Points, ``(*batch, *point_shape)``.

    Raises:
        CapabilityError: if no exact law is known.
        NumericsError: if a rejection sampler accepts too seldom.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> x0, x1 = torch.eye(3)[:2]
        >>> x = sample_pinned(Sphere(2), x0.expand(1000, 3), x1.expand(1000, 3), 0.1, 0.1)
        >>> x.shape, bool((x.mean(0) - torch.tensor([0.66, 0.66, 0.0])).abs().max() < 0.05)
        (torch.Size([1000, 3]), True)
    """
    x0, x1 = torch.broadcast_tensors(x0, x1)
    batch = manifold.batch_shape(x0)
    times = [brownian_time(tau, x0).expand(batch).reshape(-1) for tau in (tau0, tau1)]
    ends = [x.reshape(-1, *manifold.point_shape) for x in (x0, x1)]
    return draw_bridge(manifold, *ends, *times, generator).reshape(x0.shape)


@singledispatch
def draw_bridge(
    manifold: Manifold, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Exact draws of the bridge, the registry behind :func:`sample_pinned`.

    Args:
        manifold: where the bridge lives.
        x0: starts, ``(n, *point_shape)``.
        x1: ends, ``(n, *point_shape)``.
        s: Brownian time since the start, positive, ``(n,)``.
        r: Brownian time to the end, positive, ``(n,)``.
        generator: source of randomness.

    Returns:
        Points, ``(n, *point_shape)``.

    Raises:
        CapabilityError: if no exact law is registered for the manifold's class. Register one with
            ``@draw_bridge.register``.
        NumericsError: if a rejection sampler accepts too seldom.
    """
    known = ", ".join(sorted(c.__name__ for c in draw_bridge.registry if c is not object))
    raise CapabilityError(
        f"{manifold!r} has no exact draw of its Brownian bridge. Manifolds that have one: {known}. "
        "BrownianBridge(manifold, tau, n_steps=100) simulates it by a geodesic random walk of weak order 1; its "
        "density and drift are exact all the same. For the reverse of a noised law, ReverseSDE simulates."
    )


def _scaled(a: Tensor, like: Tensor) -> Tensor:
    return a.reshape(-1, *(1,) * (like.dim() - 1))


@draw_bridge.register
def _(
    manifold: Euclidean, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Gaussian: mean on the segment, variance s r / (s + r)."""
    xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    return x0 + _scaled(s / (s + r), x0) * (x1 - x0) + _scaled((s * r / (s + r)).sqrt(), x0) * xi


@draw_bridge.register
def _(
    manifold: Torus, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Winding number from its law given both ends, ``exp(-(d + k L)^2 / 2 tau)``, then the bridge of the line."""
    tau, d = s + r, manifold.log(x0, x1)
    length = torch.tensor(manifold.lengths, dtype=x0.dtype, device=x0.device)
    most = math.ceil(0.5 + 9 * math.sqrt(float(tau.max()) if len(tau) else 0.0) / min(manifold.lengths))
    turns = torch.arange(-most, most + 1, dtype=x0.dtype, device=x0.device)  # the others have mass below exp(-40)
    lifts = d.unsqueeze(-1) + length.unsqueeze(-1) * turns
    d = lifts.gather(-1, _choose(-lifts.square() / (2 * _scaled(tau, lifts)), generator).unsqueeze(-1)).squeeze(-1)
    xi = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    return manifold.exp(x0, _scaled(s / tau, x0) * d + _scaled((s * r / tau).sqrt(), x0) * xi)


def _choose(log_weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """Index along the last axis with probabilities proportional to the weights."""
    u = torch.rand(log_weights.shape, generator=generator, dtype=torch.float64, device=log_weights.device)
    return (log_weights - (-u.clamp_min(1e-300).log()).clamp_min(1e-300).log()).argmax(-1)


def _reject(
    propose: Callable[[Tensor], tuple[Tensor, Tensor]], x0: Tensor, what: str, generator: torch.Generator | None
) -> Tensor:
    """Rejection sampling of all rows.

    Args:
        propose: row numbers to proposals and the logarithms of their probabilities of acceptance.
        x0: tensor with the shape of the result.
        what: name of the law, for the error.
        generator: source of randomness.
    """
    out, pending = torch.empty_like(x0), torch.arange(len(x0), device=x0.device)
    for _ in range(_ROUNDS):
        if not len(pending):
            return out
        copies = max(1, _LEAST_ROWS // len(pending))
        x, log_accept = propose(pending.repeat_interleave(copies))
        u = torch.rand(log_accept.shape, generator=generator, dtype=torch.float64, device=x.device)
        accepted = (u.log() < log_accept).reshape(-1, copies)
        first = accepted.to(torch.uint8).argmax(1)  # the first success among a row's proposals
        found = accepted.any(1)
        x = x.reshape(-1, copies, *x0.shape[1:])[torch.arange(len(pending), device=x.device), first]
        out[pending[found]] = x[found]
        pending = pending[~found]
    raise NumericsError(
        f"{what}: {len(pending)} of {len(x0)} draws were refused {_ROUNDS} times. The ends are too far apart for exact "
        "draws; BrownianBridge(manifold, tau, n_steps=100) simulates them, or take a larger tau."
    )


@draw_bridge.register
def _(
    manifold: Sphere, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    r"""Rejection from a von Mises-Fisher law.

    The logarithm of the heat kernel of :math:`S^n` is a concave function of :math:`u = \cos\theta`, so that its tangent
    lies above it: :math:`\log p_s \le \log p_s(u_0) + G_0 (u - u_0)`, and the same for r. The sum of two tangents is
    linear in the point, a von Mises-Fisher envelope whose constant is known. Tangents are taken where the geodesic
    stands; there proposal and target agree across the geodesic to second order. Proof of concavity in
    docs/processes/bridges.md.
    """
    kernel, n = heat_kernel(manifold), manifold.n
    d = manifold.dist(x0, x1)
    level0, slope0, at0 = _tangent(manifold, d * s / (s + r), s)
    level1, slope1, at1 = _tangent(manifold, d * r / (s + r), r)
    direction = slope0.unsqueeze(-1) * x0 + slope1.unsqueeze(-1) * x1
    kappa = torch.linalg.vector_norm(direction, dim=-1)
    mean = torch.where(kappa.unsqueeze(-1) > 0, direction / kappa.clamp_min(1e-30).unsqueeze(-1), x0)
    # Ulrich's envelope of the law of 1 - cos about the mean; without cancellation for any concentration.
    b = n / (2 * kappa + (4 * kappa.square() + n * n).sqrt())

    def propose(row: Tensor) -> tuple[Tensor, Tensor]:
        xi = torch.randn(len(row), 3, n, generator=generator, dtype=x0.dtype, device=x0.device)
        z = xi[:, 0].square().sum(-1) / xi[:, :2].square().sum((-2, -1))  # Beta(n / 2, n / 2)
        c = b[row]
        versine = 2 * c * z / (1 - (1 - c) * z)
        # kappa w + n log(1 - w0 w) against its value, the maximum, at w = w0 = (1 - c) / (1 + c)
        log_accept = kappa[row] * (2 * c / (1 + c) - versine)
        log_accept = log_accept + n * (torch.log1p((1 - c) * versine / (2 * c)) - torch.log(2 / (1 + c)))
        normal = torch.randn(len(row), n + 1, generator=generator, dtype=x0.dtype, device=x0.device)
        side = torch.nn.functional.normalize(manifold.to_tangent(mean[row], normal), dim=-1)
        sine = (versine * (2 - versine)).clamp_min(0).sqrt().unsqueeze(-1)
        x = manifold.project((1 - versine).unsqueeze(-1) * mean[row] + sine * side)
        for end, t, level, slope, at in ((x0, s, level0, slope0, at0), (x1, r, level1, slope1, at1)):
            gap = (x - end[row]).square().sum(-1) / 2 - at[row]
            log_accept = log_accept + kernel.log_prob(x, end[row], t[row]) - level[row] + slope[row] * gap
        return x, log_accept

    return _reject(propose, x0, f"Brownian bridge on {manifold}", generator)


def _tangent(manifold: Sphere, distance: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Value, derivative in cos and 1 - cos where the logarithm of the kernel is linearised: near ``distance``."""
    # Any point will do; at 0 and pi the derivative in cos is a quotient of zeros.
    at = torch.maximum(distance, (0.1 * time.sqrt()).clamp_max(1.0)).clamp_max(math.pi - 1e-3)
    x0 = torch.zeros(len(at), manifold.n + 1, dtype=at.dtype, device=at.device)
    x = x0.clone()
    x0[:, 0], x[:, 0], x[:, 1] = 1, at.cos(), at.sin()
    kernel = heat_kernel(manifold)
    back = kernel.score(x, x0, time)[:, 0] / at.sin().square()  # the unit vector back has first entry sin
    return kernel.log_prob(x, x0, time), back, 2 * (at / 2).sin().square()


@draw_bridge.register
def _(manifold: SO3, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The bridge of unit quaternions, whose end is q or -q by its density: the 3-sphere at a quarter of the time."""
    sphere = Sphere(3)
    half = body(x0, manifold.log(x0, x1)) / 2
    angle = torch.linalg.vector_norm(half, dim=-1, keepdim=True)
    q1 = torch.cat([angle.cos(), torch.sinc(angle / math.pi) * half], -1)
    q0 = sphere.project(torch.eye(4, dtype=x0.dtype, device=x0.device)[0].expand_as(q1))
    q1 = _choose_end(sphere, q0, torch.stack([q1, -q1]), (s + r) / 4, generator)
    q = draw_bridge(sphere, q0, q1, s / 4, r / 4, generator)
    length = torch.linalg.vector_norm(q[:, 1:], dim=-1, keepdim=True)
    axis = torch.where(length > 0, q[:, 1:] / length.clamp_min(1e-30), 0.0)
    return x0 @ rotation(2 * torch.atan2(length, q[:, :1]) * axis)


def _choose_end(
    manifold: Manifold, x0: Tensor, images: Tensor, tau: Tensor, generator: torch.Generator | None
) -> Tensor:
    """One of the images ``(k, n, *point_shape)`` of the end, by the law of the motion above given where it ends."""
    log_p = heat_kernel(manifold).log_prob(images, x0.expand_as(images), tau.expand(len(images), -1))
    return images[_choose(log_p.mT, generator), torch.arange(len(x0), device=x0.device)]


@draw_bridge.register
def _(
    manifold: Quotient, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    end = _choose_end(manifold.base, x0, manifold.images(x1), s + r, generator)
    return draw_bridge(manifold.base, x0, end, s, r, generator)


@draw_bridge.register
def _(
    manifold: RealProjective, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    sphere = Sphere(manifold.n)
    end = _choose_end(sphere, x0, torch.stack([x1, -x1]), s + r, generator)
    return draw_bridge(sphere, x0, end, s, r, generator)


@draw_bridge.register
def _(
    manifold: Hyperboloid, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    r"""Rejection from the heat kernel of time s r / (s + r) about the point of the geodesic.

    With :math:`p_\tau = (2\pi\tau)^{-n/2} e^{-d^2/2\tau} (d/\sinh d)^\rho e^c` and :math:`f = \log(\sinh d / d)`: the
    Gaussian factors are bounded by the comparison with flat triangles of spaces of negative curvature, the volume
    factors by the convexity of f and of the distance to a geodesic, and :math:`c/\tau` lies between the extremes of
    :math:`Q = -\rho^2/2 - \rho(\rho-1)(1/\sinh^2 d - 1/d^2)/2` (Feynman and Kac).
    """
    kernel, rho = heat_kernel(manifold), (manifold.n - 1) / 2
    tau = s + r
    t, time = s / tau, s * r / tau
    d, middle = manifold.dist(x0, x1), manifold.geodesic(x0, x1, t)
    curvature = rho * (rho - 1) / 6
    least, most = -(rho**2) / 2 + min(curvature, 0.0), -(rho**2) / 2 + max(curvature, 0.0)
    volume = sinhc(d / 2).log()
    log_bound = (
        -manifold.n / 2 * (2 * math.pi * tau).log()
        - d.square() / (2 * tau)
        - 2 * rho * torch.minimum(t, 1 - t) * volume
        + tau * most
        - time * least
    )

    def propose(row: Tensor) -> tuple[Tensor, Tensor]:
        x = kernel.sample(middle[row], time[row], generator)
        target = kernel.log_prob(x, x0[row], s[row]) + kernel.log_prob(x, x1[row], r[row])
        return x, target - kernel.log_prob(x, middle[row], time[row]) - log_bound[row]

    return _reject(propose, x0, f"Brownian bridge on {manifold}", generator)


@draw_bridge.register
def _(
    manifold: PoincareBall, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    ends = manifold.to_hyperboloid(x0), manifold.to_hyperboloid(x1)
    return manifold.from_hyperboloid(draw_bridge(Hyperboloid(manifold.n), *ends, s, r, generator))


@draw_bridge.register
def _(
    manifold: ConstantCurvature, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    rate, ends = manifold.stretch**2, (manifold.to_unit(x0), manifold.to_unit(x1))
    return manifold.from_unit(draw_bridge(manifold.unit, *ends, rate * s, rate * r, generator))


@draw_bridge.register
def _(
    manifold: Pullback, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    return manifold.point(draw_bridge(manifold.model, manifold.chart(x0), manifold.chart(x1), s, r, generator))


@draw_bridge.register
def _(
    manifold: Power, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    times = s.repeat_interleave(manifold.k), r.repeat_interleave(manifold.k)
    return draw_bridge(manifold.manifold, x0.flatten(0, 1), x1.flatten(0, 1), *times, generator).reshape(x0.shape)


@draw_bridge.register
def _(
    manifold: Product, x0: Tensor, x1: Tensor, s: Tensor, r: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    parts = zip(manifold.factors, manifold.split(x0), manifold.split(x1), manifold.weights, strict=True)
    return manifold.join(*[draw_bridge(f, a, b, s / w, r / w, generator) for f, a, b, w in parts])
