"""Curves through nodes on a manifold, and nodes at equal distances along them."""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold

__all__ = ["arc_length", "curve_point", "equal_arc_length", "respace", "spacing_deviation"]

_ROUNDING = 16.0
"""Rounding errors of the largest coordinate by which a distance of neighbours may be off: two points, and their log."""


def arc_length(manifold: Manifold, nodes: Tensor) -> Tensor:
    r"""Length of the string from its first node to each node, :math:`\sum_j d(\phi_j, \phi_{j+1})`, float64.

    Args:
        manifold: where the nodes live.
        nodes: ``(n, *point_shape)``.

    Returns:
        ``(n,)``, zero first.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> arc_length(Euclidean(1), torch.tensor([[0.0], [1.0], [3.0]]))
        tensor([0., 1., 3.], dtype=torch.float64)
    """
    steps = manifold.dist(nodes[:-1], nodes[1:]).double()
    return torch.cat([steps.new_zeros(1), steps.cumsum(0)])


def spacing_deviation(manifold: Manifold, nodes: Tensor) -> Tensor:
    r"""Largest relative deviation of the distances of neighbours from their mean, :math:`\max |d_j / \bar d - 1|`."""
    steps = manifold.dist(nodes[:-1], nodes[1:]).double()
    return (steps / steps.mean() - 1).abs().max()


def curve_point(manifold: Manifold, nodes: Tensor, position: Tensor, order: int = 3) -> Tensor:
    r"""Points of the curve through the nodes; node i is at position i.

    At position :math:`i + u`, with the node :math:`p` as base point and Lagrange's polynomials :math:`\ell_k` of the
    nearest ``order + 1`` nodes,

    .. math:: \gamma(i + u) = \exp_p\Big(\sum_k \ell_k(u)\, \log_p \phi_k\Big).

    Order 1 is the piecewise geodesic :math:`\exp_{\phi_i}(u \log_{\phi_i} \phi_{i+1})`, whose distance from a smooth
    curve through the nodes is of second order in their spacing. Order 3 interpolates in normal coordinates: fourth
    order. Both depend on the metric only, and need nodes whose neighbours (order 3: second neighbours) are closer than
    the injectivity radius.

    Args:
        manifold: where the nodes live.
        nodes: ``(m, *point_shape)``, at least two.
        position: in [0, m - 1], ``(k,)``.
        order: 1 to 3; lowered where there are too few nodes.

    Returns:
        ``(k, *point_shape)``.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> curve_point(Sphere(2), torch.eye(3)[:2], torch.tensor([0.5])).round(decimals=4)
        tensor([[0.7071, 0.7071, 0.0000]])
    """
    m, width = len(nodes), min(order + 1, len(nodes))
    cell = position.floor().long().clamp(0, m - 2)
    start = (cell - (width - 2) // 2).clamp(0, m - width)
    u = position - start
    centre = 1 if width > 2 else 0  # no node of the stencil is farther than two from it
    base = nodes[start + centre]
    v = torch.zeros_like(base)
    for k in range(width):
        if k == centre:
            continue
        weight = torch.ones_like(u)
        for j in range(width):
            if j != k:
                weight = weight * (u - j) / (k - j)
        v = v + manifold.per_point(weight.to(base)) * manifold.log(base, nodes[start + k])
    return manifold.exp(base, v)


def respace(manifold: Manifold, nodes: Tensor, n_nodes: int, order: int = 3, passes: int = 2) -> Tensor:
    """Nodes at nearly equal distances along the curve through the given ones, in a fixed number of passes.

    Each pass moves the positions on the given curve by linear interpolation of the lengths found in the pass before,
    and evaluates the curve anew, so that passes don't add interpolation errors. The end nodes stay. Nothing is asked of
    the device.
    """
    position = torch.arange(len(nodes), dtype=torch.float64, device=nodes.device)
    share = torch.linspace(0, 1, n_nodes, dtype=torch.float64, device=nodes.device)
    points = nodes
    for _ in range(passes):
        length = arc_length(manifold, points)
        position = _interpolate(share * length[-1], length, position)
        inner = curve_point(manifold, nodes, position[1:-1], order)
        points = torch.cat([nodes[:1], inner, nodes[-1:]])
    return points


def equal_arc_length(
    manifold: Manifold,
    nodes: Tensor,
    n_nodes: int | None = None,
    *,
    order: int = 3,
    tolerance: float = 1e-4,
    rounds: int = 30,
) -> Tensor:
    r"""Nodes at equal geodesic distances along the curve through the given nodes.

    Args:
        manifold: any manifold with ``exp`` and ``log``.
        nodes: ``(m, *point_shape)``, in the order of the curve, at least two.
        n_nodes: number of new nodes; default m.
        order: of the curve, see :func:`curve_point`; 1 for piecewise geodesics.
        tolerance: largest relative deviation of a distance from their mean; at least what rounding of the coordinates
            makes of it, :math:`16\,\epsilon\,\max|x| / \Delta` with the spacing :math:`\Delta`.
        rounds: of 4 passes with piecewise geodesics, where the curve alone does not reach it.

    Returns:
        ``(n_nodes, *point_shape)``; the first and the last node are the given ones.

    Raises:
        ManifoldError: if a node is not on the manifold.
        ConfigError: if there are too few nodes or they all coincide.
        NumericsError: if the tolerance is not reached.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M = Sphere(2)
        >>> x = equal_arc_length(M, torch.eye(3), 5)
        >>> M.dist(x[:-1], x[1:]).std() < 1e-4
        tensor(True)

    References:
        E, Ren and Vanden-Eijnden, *Simplified and improved string method for computing the minimum energy paths in
        barrier-crossing events*, 2007, J. Chem. Phys. 126, 164103.
    """
    n = len(nodes) if n_nodes is None else n_nodes
    check_nodes(manifold, nodes, n, "nodes")
    if order not in (1, 2, 3):
        raise ConfigError(f"order must be 1 (piecewise geodesics), 2 or 3 (cubic); got {order}.")
    if not 0 < tolerance < 1:
        raise ConfigError(f"tolerance is a relative deviation in (0, 1), such as 1e-4; got {tolerance}.")
    rounding = _rounding(nodes, float(arc_length(manifold, nodes)[-1]) / (n - 1))
    tolerance = max(tolerance, rounding)
    for passes in (2, 4, 8):
        points = respace(manifold, nodes, n, order, passes)
        deviation = float(spacing_deviation(manifold, points))
        if deviation <= tolerance:
            return points
    for _ in range(rounds):  # kinks of the curve: what is left is evened out on the geodesics between the new nodes
        points = respace(manifold, points, n, 1, 4)
        deviation = float(spacing_deviation(manifold, points))
        if deviation <= tolerance:
            return points
    raise NumericsError(
        f"The distances of the {n} nodes still differ by {deviation:.1e} of their mean; "
        f"tolerance={tolerance:.0e}. The string is folded or has too few nodes for its shape: take more nodes, "
        "order=1, or float64."
    )


def check_nodes(manifold: Manifold, nodes: Tensor, n_nodes: int, name: str) -> None:
    """Raise unless ``nodes`` are the points of a curve that ``n_nodes`` nodes can be laid on."""
    manifold.check_point(nodes, name)
    shape = manifold.batch_shape(nodes)
    if len(shape) != 1 or shape[0] < 2:
        raise ConfigError(
            f"{name} has batch shape {shape}; expected (m,) with m >= 2, the points of one curve in their order."
        )
    if not isinstance(n_nodes, Integral):
        raise ConfigError(f"The number of nodes must be a whole number; got {n_nodes!r}. For example n_nodes=50.")
    if n_nodes < 3:
        raise ConfigError(
            f"A string needs at least 3 nodes, the two ends and one between; got {n_nodes}. For example n_nodes=50."
        )
    if not float(arc_length(manifold, nodes)[-1]) > 0:
        raise ConfigError(f"All points of {name} coincide: there is no curve between them. Give two different ends.")


def _rounding(nodes: Tensor, spacing: float) -> float:
    """Relative error of a distance of neighbours that rounding of the coordinates makes."""
    rounding = _ROUNDING * torch.finfo(nodes.dtype).eps * float(nodes.abs().amax()) / spacing
    if rounding > 1:
        raise NumericsError(
            f"The nodes are {spacing:.1e} apart, no more than the rounding of their coordinates in {nodes.dtype}: the "
            "string has no shape. Take fewer nodes, or float64."
        )
    return rounding


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear interpolation in an increasing table."""
    right = torch.searchsorted(xs, x.contiguous()).clamp(1, len(xs) - 1)
    low, high = xs[right - 1], xs[right]
    gap = high - low
    part = torch.where(gap > 0, (x - low) / torch.where(gap > 0, gap, 1.0), 0.0)
    return ys[right - 1] + part * (ys[right] - ys[right - 1])
