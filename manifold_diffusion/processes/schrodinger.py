"""Static Schroedinger bridges: the most likely coupling of two data sets under Brownian motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ConfigError, DataError, NumericsError
from ..data.couplings import point_weights
from ..heat_kernels import HeatKernel, heat_kernel
from ..heat_kernels.mixture import draw_index
from ..manifolds import Manifold
from .base import check_range
from .bridges import BrownianBridge, Direction
from .terms import ODETerm, SDETerm

__all__ = ["SchrodingerCoupling", "SchrodingerPlan", "displacement_interpolation", "schrodinger_plan"]

_PAIRS = 1 << 18
"""Pairs evaluated at a time."""


@dataclass(frozen=True)
class SchrodingerPlan:
    r"""The Schroedinger bridge of two weighted sets of points, in closed form.

    With the weights a and b and Brownian motion of time :math:`\tau` as the reference, the coupling is
    :math:`\pi_{ij} = a_i b_j\, e^{f_i + g_j}\, p_\tau(x_{0i}, x_{1j})`. The potentials extend to every point and time,

    .. math::
        \varphi^1_t(x) = \sum_j b_j e^{g_j} p_{\tau(1-t)}(x, x_{1j}), \qquad
        \varphi^0_t(x) = \sum_i a_i e^{f_i} p_{\tau t}(x, x_{0i}),

    the marginal at time t has the density :math:`\varphi^0_t \varphi^1_t`, and the gradients of their logarithms are
    the drifts to both ends per unit of Brownian time: nothing is learned.

    Attributes:
        manifold: where the points live.
        tau: Brownian time from end to end.
        x0: points at t = 0, ``(n, *point_shape)``.
        x1: points at t = 1, ``(m, *point_shape)``.
        log_weights0: log a, ``(n,)``.
        log_weights1: log b, ``(m,)``.
        f: potential at the points of ``x0``, float64, ``(n,)``; its mean under a is that of g under b.
        g: potential at the points of ``x1``, float64, ``(m,)``.
        violation: sum of the absolute errors of the marginal weights.
        iterations: rounds of Sinkhorn's algorithm.

    References:
        Leonard, *A survey of the Schroedinger problem*, 2013, arXiv:1308.0215; Pooladian and Niles-Weed, *Plug-in
        estimation of Schroedinger bridges*, 2024, arXiv:2408.11686 (Euclidean space).
    """

    manifold: Manifold
    tau: float
    x0: Tensor
    x1: Tensor
    log_weights0: Tensor
    log_weights1: Tensor
    f: Tensor
    g: Tensor
    violation: float
    iterations: int

    def __repr__(self) -> str:
        return (
            f"SchrodingerPlan({self.manifold}, tau={self.tau:g}, {len(self.x0)} x {len(self.x1)} points, "
            f"violation={self.violation:.1e}, iterations={self.iterations})"
        )

    @property
    def log_plan(self) -> Tensor:
        """Logarithm of the coupling, float64, ``(n, m)``."""
        log_p = _pairwise(heat_kernel(self.manifold), self.x0, self.x1, self.tau)
        return (self.f + self.log_weights0).unsqueeze(1) + (self.g + self.log_weights1) + log_p

    def log_prob(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Log density at 0 < t < 1 of the bridge, with respect to the Riemannian volume, ``(*batch,)``.

        Raises:
            ManifoldError: if a point is not on the manifold.
            ConfigError: for a time outside [0, 1] (on the CPU); so do the drifts.
        """
        self.manifold.check_point(x, "x")
        return self._field(x, t, "to_0", False) + self._field(x, t, "to_1", False)

    def drift_to_1(self, x: Tensor, t: Tensor | float) -> Tensor:
        r"""Drift towards ``x1`` per unit of Brownian time, :math:`\nabla\log\varphi^1_t(x)`, for t < 1."""
        return self._field(x, t, "to_1", True)

    def drift_to_0(self, x: Tensor, t: Tensor | float) -> Tensor:
        r"""Drift towards ``x0`` per unit of Brownian time, :math:`\nabla\log\varphi^0_t(x)`, for t > 0."""
        return self._field(x, t, "to_0", True)

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Gradient of :meth:`log_prob`, the sum of the two drifts."""
        return self.drift_to_0(x, t) + self.drift_to_1(x, t)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        r"""dx/dt of the flow with the marginals of the bridge: :math:`\tau/2` times drift to 1 less drift to 0."""
        return 0.5 * self.tau * (self.drift_to_1(x, t) - self.drift_to_0(x, t))

    def flow(self) -> ODETerm:
        """The flow for a solver; between times in the open interval (0, 1)."""
        return ODETerm(lambda t, x: self.velocity(x, t))

    def sde(self, direction: Direction) -> SDETerm:
        """The diffusion for a solver: integrate ``"to_1"`` from 0 to 1, ``"to_0"`` from 1 to 0."""
        sign = _sign(direction)

        def drift(t: Tensor, x: Tensor) -> Tensor:
            return sign * self.tau * self._field(x, t, direction, True)

        return SDETerm(drift, lambda t, x: torch.tensor(self.tau**0.5, dtype=x.dtype, device=x.device))

    def sample_pairs(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """``n`` independent pairs of the coupling, two tensors ``(n, *point_shape)``.

        Raises:
            ConfigError: if ``n`` is negative.
        """
        x0 = self.x0[draw_index(self.log_weights0.exp(), n, generator)]
        return x0, self.carry(x0, "to_1", generator)

    def sample(self, n: int, t: float, generator: torch.Generator | None = None, n_steps: int | None = None) -> Tensor:
        """``n`` exact draws of the bridge at time t: a pair of the coupling, then the Brownian bridge between them."""
        bridge = BrownianBridge(self.manifold, self.tau, n_steps)
        return bridge.sample(*self.sample_pairs(n, generator), t, generator)

    def carry(self, x: Tensor, direction: Direction, generator: torch.Generator | None = None) -> Tensor:
        """Exact draw of the other end for each point, in or out of the sample: the SDE without a time step.

        Args:
            x: points at t = 0 for ``"to_1"``, at t = 1 for ``"to_0"``, ``(n, *point_shape)``.
            direction: to which end.
            generator: source of randomness.

        Returns:
            Points of ``x1`` (of ``x0``), ``(n, *point_shape)``.
        """
        ends, log_w = self._ends(direction)
        kernel, rows, index = heat_kernel(self.manifold), max(1, _PAIRS // len(ends)), []
        for part in x.split(rows):
            logits = _pairwise(kernel, part, ends, self.tau) + log_w
            index.append(torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1))
        return ends[torch.cat(index)] if index else x

    def _ends(self, direction: Direction) -> tuple[Tensor, Tensor]:
        if _sign(direction) > 0:
            return self.x1, self.g + self.log_weights1
        return self.x0, self.f + self.log_weights0

    def _field(self, x: Tensor, t: Tensor | float, direction: Direction, gradient: bool) -> Tensor:
        """Log potential or its gradient, over rows of queries, in bounded memory."""
        ends, log_w = self._ends(direction)
        kernel, batch = heat_kernel(self.manifold), self.manifold.batch_shape(x)
        flat = x.reshape(-1, *self.manifold.point_shape)
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        check_range(times)
        left = self.tau * ((1 - times) if _sign(direction) > 0 else times)
        varied = left.dim() > 0 and len(flat) > 1 and bool((left != left.flatten()[0]).any())
        left = left.expand(batch).reshape(-1) if varied else left.flatten()[:1]
        rows = max(1, _PAIRS // (len(ends) * max(1, math.prod(self.manifold.point_shape) // 4)))
        ends, log_w, out = ends.to(x), log_w.to(x), []
        for start in range(0, len(flat), rows):
            part = flat[start : start + rows]
            if varied:
                tau = left[start : start + rows].unsqueeze(1)
                log_p = kernel.log_prob(part.unsqueeze(1), ends, tau) + log_w
            else:
                tau = left
                log_p = kernel.pairwise_log_prob(part, ends, tau) + log_w
            if not gradient:
                out.append(log_p.logsumexp(1))
            elif varied:
                scores = kernel.score(part.unsqueeze(1), ends, tau)
                out.append((self.manifold.per_point(log_p.softmax(1)) * scores).sum(1))
            else:
                out.append(kernel.weighted_score(part, ends, tau, log_p.softmax(1)))
        shape = (*batch, *self.manifold.point_shape) if gradient else batch
        return torch.cat(out).reshape(shape) if out else x.new_zeros(shape)


def _sign(direction: Direction) -> int:
    if direction not in ("to_0", "to_1"):
        raise ConfigError(f"direction must be 'to_0' or 'to_1'; got {direction!r}.")
    return 1 if direction == "to_1" else -1


def _pairwise(kernel: HeatKernel, x: Tensor, y: Tensor, tau: float) -> Tensor:
    """Log densities of all pairs, in float64."""
    time = torch.full((1,), tau, dtype=x.dtype, device=x.device)
    rows = max(1, _PAIRS // max(1, len(y)))
    return torch.cat([kernel.pairwise_log_prob(part, y, time).double() for part in x.split(rows)])


def schrodinger_plan(
    manifold: Manifold,
    x0: Tensor,
    x1: Tensor,
    tau: float,
    weights0: Tensor | None = None,
    weights1: Tensor | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 10_000,
) -> SchrodingerPlan:
    r"""Coupling of two sets of points that is closest to Brownian motion, by Sinkhorn's algorithm in the log domain.

    .. math::
        \min_\pi \mathrm{KL}(\pi \,\|\, a_i\, p_\tau(x_{0i}, x_{1j})\, b_j), \qquad \pi 1 = a,\ \pi^\top 1 = b,

    that is optimal transport with the heat kernel as Gibbs kernel. As :math:`\tau \to 0` it tends to optimal transport
    of squared distance. The iteration is in float64; its rate worsens as tau falls below the squared distances.

    Args:
        manifold: a manifold with a heat kernel.
        x0: points at t = 0, ``(n, *point_shape)``.
        x1: points at t = 1, ``(m, *point_shape)``, of the same dtype.
        tau: Brownian time from end to end.
        weights0: weights >= 0 of ``x0`` with sum s, ``(n,)``; default equal. A point of weight zero takes no part.
        weights1: weights >= 0 of ``x1`` with the same sum, ``(m,)``; default equal.
        tolerance: largest sum of absolute errors of the (normalised) marginal weights.
        max_iterations: rounds until it must be reached.

    Returns:
        The plan, with weights normalised to 1.

    Raises:
        ManifoldError: if points are off the manifold or not finite.
        DataError: if weights are negative, not finite, of the wrong shape, or their totals differ.
        ConfigError: if ``tau``, ``tolerance`` or ``max_iterations`` is not positive.
        NumericsError: if the tolerance is not met.
        CapabilityError: if the manifold has no heat kernel.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> x0, x1 = torch.eye(3), -torch.eye(3)
        >>> plan = schrodinger_plan(Sphere(2), x0, x1, tau=0.5)
        >>> plan.log_plan.exp().sum(1)
        tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
        >>> plan.drift_to_1(x0, 0.5).shape
        torch.Size([3, 3])

    References:
        Cuturi, *Sinkhorn distances*, 2013, arXiv:1306.0895; Peyre and Cuturi, *Computational optimal transport*, 2019,
        arXiv:1803.00567, section 4.4.
    """
    if not (tau > 0 and math.isfinite(tau)):
        raise ConfigError(f"schrodinger_plan needs a positive and finite Brownian time tau; got {tau}.")
    if not tolerance > 0 or max_iterations < 1:
        raise ConfigError(
            f"schrodinger_plan needs tolerance > 0 and max_iterations >= 1; got {tolerance}, {max_iterations}."
        )
    kernel = heat_kernel(manifold)
    for name, points in (("x0", x0), ("x1", x1)):
        manifold.check_point(points, name)
        if points.dim() != 1 + len(manifold.point_shape) or len(points) == 0:
            raise DataError(
                f"{name} must have shape (n, {', '.join(map(str, manifold.point_shape))}) with n >= 1; got "
                f"{tuple(points.shape)}."
            )
    if x0.dtype != x1.dtype or x0.device != x1.device:
        raise DataError(f"x0 is {x0.dtype} on {x0.device}, x1 {x1.dtype} on {x1.device}. Convert one: x1.to(x0).")
    w0, w1 = point_weights(weights0, x0, "weights0"), point_weights(weights1, x1, "weights1")
    total0, total1 = float(w0.sum()), float(w1.sum())
    log_a, log_b = (w0 / total0).log(), (w1 / total1).log()
    if weights0 is not None and weights1 is not None and abs(total0 - total1) > 1e-5 * max(total0, total1):
        raise DataError(
            f"weights0 sum to {total0:.7g}, weights1 to {total1:.7g}: a coupling needs equal totals. Divide each by "
            "its sum."
        )
    log_p = _pairwise(kernel, x0, x1, float(tau))
    f, g = torch.zeros_like(log_a), -(log_p + log_a.unsqueeze(1)).logsumexp(0)
    violation, iterations = math.inf, 0
    while violation > tolerance and iterations < max_iterations:
        # The weights of x1 are right after each update of g; those of x0 say how far the iteration is. Their error
        # never grows, so that it is an upper bound after the update that follows.
        row = (log_p + (g + log_b)).logsumexp(1)
        violation = float(((f + row + log_a).exp() - log_a.exp()).abs().sum())
        f = -row
        g = -(log_p + (f + log_a).unsqueeze(1)).logsumexp(0)
        iterations += 1
    if not violation <= tolerance:
        raise NumericsError(
            f"Sinkhorn's algorithm left marginal weights wrong by {violation:.1e} in all after {max_iterations} rounds,"
            f" more than tolerance = {tolerance:.1e}. Raise max_iterations or tau = {tau:g} (few rounds are needed "
            "when it is of the order of the squared distances), or loosen tolerance."
        )
    shift = ((log_a.exp() * f).sum() - (log_b.exp() * g).sum()) / 2
    return SchrodingerPlan(manifold, float(tau), x0, x1, log_a, log_b, f - shift, g + shift, violation, iterations)


class SchrodingerCoupling:
    r"""Coupling of mini-batches by their static Schroedinger bridge: one draw of its end for each row of ``x0``.

    Args:
        manifold: a manifold with a heat kernel.
        tau: Brownian time from end to end.
        tolerance: of the marginal weights.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> couple = SchrodingerCoupling(Euclidean(1), tau=0.01)
        >>> couple(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.2], [0.1]]), torch.Generator().manual_seed(0))
        tensor([1, 0])
    """

    def __init__(self, manifold: Manifold, tau: float, tolerance: float = 1e-3) -> None:
        self.manifold, self.tau, self.tolerance = manifold, float(tau), float(tolerance)

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> Tensor:
        plan = schrodinger_plan(self.manifold, x0, x1, self.tau, tolerance=self.tolerance)
        return torch.multinomial(plan.log_plan.softmax(1), 1, generator=generator).squeeze(1)


def displacement_interpolation(manifold: Manifold, x0: Tensor, x1: Tensor, index: Tensor, t: Tensor | float) -> Tensor:
    r"""McCann's interpolation of a coupling: every pair stands at fraction t of its minimal geodesic.

    :math:`x_t = \exp_{x_0}(t \log_{x_0} x_1)`: for an optimal coupling of squared distance, and its limit the
    Schroedinger bridge of small :math:`\tau`, the geodesic of the Wasserstein space.

    Args:
        manifold: where the points live.
        x0: points at t = 0, ``(n, *point_shape)``.
        x1: points at t = 1, ``(m, *point_shape)``.
        index: which row of ``x1`` goes with each row of ``x0``, ``(n,)``, as couplings return it.
        t: fraction in [0, 1], float or ``(n,)``.

    Raises:
        DataError: if ``index`` is not one row number of ``x1`` per row of ``x0``.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> x0, x1 = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [2.0]])
        >>> displacement_interpolation(Euclidean(1), x0, x1, torch.tensor([1, 0]), 0.5).flatten()
        tensor([1., 2.])

    References:
        McCann, *A convexity principle for interacting gases*, 1997.
    """
    if index.shape != (len(x0),) or index.is_floating_point() or not bool(((index >= 0) & (index < len(x1))).all()):
        raise DataError(
            f"index must hold one row number of x1, 0 to {len(x1) - 1}, for each of the {len(x0)} rows of x0; got "
            f"{index.dtype} of shape {tuple(index.shape)}."
        )
    return manifold.geodesic(x0, x1[index], t)
