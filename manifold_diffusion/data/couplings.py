"""Which draw of the prior each point of a batch is paired with."""

from __future__ import annotations

import math
import warnings
from typing import Protocol

import torch
from torch import Tensor

from .._errors import ConfigError, DataError, NumericsError
from ..heat_kernels.mixture import are_weights
from ..manifolds import Manifold

__all__ = ["Coupling", "ExactCoupling", "IndependentCoupling", "SinkhornCoupling", "transport_plan"]


class Coupling(Protocol):
    """Pairing of two batches of the same size."""

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Index ``(n,)``: row i of ``x0`` is paired with row ``index[i]`` of ``x1``; ``x0`` keeps its order."""
        ...


class IndependentCoupling:
    """Rows as they come: the product law."""

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> Tensor:
        _same_size(x0, x1)
        return torch.arange(len(x0), device=x0.device)


class ExactCoupling:
    r"""Optimal transport between the batches for the squared geodesic distance: an assignment.

    Paths of optimally paired points cross less, so that the marginal velocity is straighter and fewer steps sample it.
    The pairing of a batch is biased towards the one of the two laws as the batch grows. Source: Tong et al., *Improving
    and generalizing flow-based generative models with minibatch optimal transport*, 2023, arXiv:2302.00482; Pooladian
    et al., *Multisample flow matching*, 2023, arXiv:2304.14772. Solved by POT's network simplex on the CPU.

    Args:
        manifold: where the points live.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> x = torch.tensor([[0.0], [1.0], [2.0]])
        >>> ExactCoupling(Euclidean(1))(x, torch.tensor([[2.5], [0.5], [1.5]]))
        tensor([1, 2, 0])
    """

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> Tensor:
        _same_size(x0, x1)
        plan = transport_plan(self.manifold, x0, x1)
        return plan.argmax(1).to(x0.device)  # a vertex of the Birkhoff polytope: one entry per row


class SinkhornCoupling:
    r"""Entropic optimal transport between the batches: partners are drawn from the rows of the plan.

    The plan minimises :math:`\langle P, d^2\rangle + \epsilon\,\mathrm{KL}(P \mid \tfrac1n \otimes \tfrac1n)`; with
    the cost :math:`d^2/2` and :math:`\epsilon = \tau` (here :math:`2\tau`) it is the small-time limit of a Schrodinger
    bridge. Computed in the log domain by POT.

    Args:
        manifold: where the points live.
        epsilon: regularisation, in the units of a squared distance.
        max_iterations: most iterations.

    Raises:
        ConfigError: if ``epsilon`` is not positive.
    """

    def __init__(self, manifold: Manifold, epsilon: float = 0.05, max_iterations: int = 1000) -> None:
        if not (epsilon > 0 and math.isfinite(epsilon)) or max_iterations < 1:
            raise ConfigError(
                f"SinkhornCoupling needs epsilon > 0 and max_iterations >= 1; got {epsilon}, {max_iterations}. "
                "ExactCoupling has no regularisation."
            )
        self.manifold, self.epsilon, self.max_iterations = manifold, float(epsilon), max_iterations

    def __call__(self, x0: Tensor, x1: Tensor, generator: torch.Generator | None = None) -> Tensor:
        _same_size(x0, x1)
        plan = transport_plan(self.manifold, x0, x1, epsilon=self.epsilon, max_iterations=self.max_iterations)
        rows = plan.clamp(min=0).to(x0.device)
        return torch.multinomial(rows, 1, generator=generator).squeeze(1)


def transport_plan(
    manifold: Manifold,
    x0: Tensor,
    x1: Tensor,
    weights0: Tensor | None = None,
    weights1: Tensor | None = None,
    epsilon: float | None = None,
    max_iterations: int = 1000,
) -> Tensor:
    """Transport plan between two weighted samples for the squared geodesic distance, ``(n, m)``, float64 on the CPU.

    Args:
        manifold: where the points live.
        x0: ``(n, *point_shape)``.
        x1: ``(m, *point_shape)``.
        weights0: non-negative weights of ``x0``; default equal, summing to one.
        weights1: the same for ``x1``; of the same total.
        epsilon: entropic regularisation, in the units of a squared distance; None for the exact plan.
        max_iterations: most Sinkhorn iterations.

    Raises:
        ManifoldError: if points are off the manifold or not finite.
        DataError: an empty sample or one of the wrong batch shape, or weights that are negative, not finite, of the
            wrong length or of another total.
        ConfigError: if ``epsilon`` or ``max_iterations`` is not positive.
        NumericsError: if a distance is not finite, or the plan does not have the marginals.
    """
    import ot

    if (epsilon is not None and not (epsilon > 0 and math.isfinite(epsilon))) or max_iterations < 1:
        raise ConfigError(
            "transport_plan needs epsilon > 0, or None for the exact plan, and max_iterations >= 1; got "
            f"{epsilon}, {max_iterations}."
        )
    for name, points in (("x0", x0), ("x1", x1)):
        manifold.check_point(points, name)
        if len(manifold.batch_shape(points)) != 1 or len(points) == 0:
            raise DataError(
                f"{name} must have shape (n, {', '.join(map(str, manifold.point_shape))}) with n >= 1: a transport "
                f"plan needs points on both sides; got {tuple(points.shape)}."
            )
    a, b = point_weights(weights0, x0, "weights0").cpu(), point_weights(weights1, x1, "weights1").cpu()
    if not math.isclose(float(a.sum()), float(b.sum()), rel_tol=1e-6):
        raise DataError(
            f"weights0 sum to {float(a.sum()):.6g}, weights1 to {float(b.sum()):.6g}: mass can't be created. Divide "
            "each by its sum."
        )
    b = b * (a.sum() / b.sum())
    cost = manifold.dist(x0.detach().unsqueeze(1), x1.detach().unsqueeze(0)).square().double().cpu()
    if not bool(cost.isfinite().all()):
        i, j = (int(k) for k in (~cost.isfinite()).nonzero()[0])
        raise NumericsError(
            f"The squared distance of row {i} of x0 and row {j} of x1 is {float(cost[i, j])}. Compute in float64, or "
            "scale the data."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whether it converged is checked below
        if epsilon is None:
            plan = ot.emd(a.numpy(), b.numpy(), cost.numpy(), numItermax=10_000_000)
        else:
            plan = ot.sinkhorn(
                a.numpy(),
                b.numpy(),
                cost.numpy(),
                reg=epsilon,
                method="sinkhorn_log",
                numItermax=max_iterations,
                stopThr=1e-7,
            )
    plan = torch.from_numpy(plan)
    error = max(float((plan.sum(1) - a).abs().sum()), float((plan.sum(0) - b).abs().sum())) / float(a.sum())
    if epsilon is None and not error < 1e-6:
        raise NumericsError(
            f"The marginals of the exact plan are off by {error:.1e} of the mass: the network simplex did not "
            "converge. Take fewer points, or Sinkhorn's plan with epsilon > 0."
        )
    if epsilon is not None and not error < 1e-2:
        raise NumericsError(
            f"Sinkhorn's marginals are off by {error:.1e} of the mass after {max_iterations} iterations at "
            f"epsilon = {epsilon:g}. Raise epsilon or max_iterations, or take the exact plan."
        )
    return plan


def point_weights(weights: Tensor | None, x: Tensor, name: str) -> Tensor:
    """Weights ``(n,)`` of points, float64, on their device; equal ones that sum to one by default.

    Raises:
        DataError: if a weight is negative or not finite, all are zero, or there is not one per point.
    """
    if weights is None:
        return torch.full((len(x),), 1 / len(x), dtype=torch.float64, device=x.device)
    w = weights.detach().to(dtype=torch.float64, device=x.device)
    if not are_weights(w, len(x)):
        raise DataError(
            f"{name} must be finite, non-negative and not all zero, one per point, shape ({len(x)},); got shape "
            f"{tuple(w.shape)}" + (f", least {float(w.min()):.3g}." if w.numel() else ".")
        )
    return w


def _same_size(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape:
        raise DataError(
            f"A coupling pairs batches of the same size; got {tuple(x0.shape)} and {tuple(x1.shape)}. Draw as many "
            "points of one as of the other."
        )
