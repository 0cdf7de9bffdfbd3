"""Walkers in the Voronoi cells of a string, and nodes that follow their means."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Manifold
from ..processes import SDETerm
from .euler_maruyama import GeodesicEulerMaruyama

__all__ = ["alike", "follow", "walk_in_cells"]

_WALK = GeodesicEulerMaruyama()

_SMOOTH = 16.0
"""Strength of the damping in :func:`follow`: from 15 on all waves are damped at every spacing, the ends included."""
_TENSION = 3.0
"""Strength of the tension in :func:`follow`: 1 takes off what the law grows by, 3 holds against noise as well."""
_WIDE = 1 / 6
"""A law is wide if its width is more than so much of a string's length: tension then holds the string straight."""


def walk_in_cells(
    manifold: Manifold,
    term: SDETerm,
    t: float,
    h: float,
    walkers: Tensor,
    nodes: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """One step of the walkers ``(n, w, *point_shape)``; one that would leave the Voronoi cell of its node stays.

    The cells move with the nodes. A walker that its cell has left behind may only come closer to it.
    """
    moved = _WALK.step(term, manifold, t, h, walkers, generator=generator).x
    outside, was_outside = _outside(manifold, moved, nodes), _outside(manifold, walkers, nodes)
    stay = (outside > 0) & (outside >= was_outside)
    return torch.where(manifold.per_point(stay), walkers, moved)


def _outside(manifold: Manifold, walkers: Tensor, nodes: Tensor) -> Tensor:
    """How much farther a walker is from its own node than from the nearest one, ``(n, w)``: 0 in its cell."""
    distance = manifold.dist(walkers.unsqueeze(2), nodes)
    return distance.diagonal(dim1=0, dim2=2).mT - distance.amin(-1)


def alike(manifold: Manifold, nodes: Tensor) -> Tensor:
    """The same nodes, each between the ends written as its neighbour before it writes it.

    Where a point has several representatives (subspaces, quotients) neighbours may have unlike ones, and their tangent
    vectors can't be compared by their entries.
    """
    rows = [nodes[0]]
    for x in nodes[1:-1]:
        rows.append(manifold.exp(rows[-1], manifold.log(rows[-1], x)))
    return torch.stack([*rows, nodes[-1]])


def follow(manifold: Manifold, nodes: Tensor, walkers: Tensor, rate: float) -> Tensor:
    r"""The nodes, moved by ``rate`` towards the mean of their walkers across the string, and smoothed.

    .. math:: \phi \leftarrow \exp_\phi w, \quad
        (1 + \kappa D + \lambda T)\,w = \eta\,P\,\overline{u - \tfrac12 s^2 \gamma''} - (\kappa D + \lambda T)\,\phi,
        \qquad u = \log_\phi x, \quad s = \langle u, \tau\rangle,

    with the projection P across the tangent :math:`\tau`; along the string equal spacing decides. The term with
    :math:`\gamma''` takes off what the curve itself bends away from its tangent where the walker is: a cell has a
    length, and the mean of an arc is not on the arc.

    D is the part of the nodes that no cubic through five neighbours follows, T minus their second difference. Without D
    principal curves are unstable on scales below the width of the law across them: in a tube of standard deviation
    :math:`\sigma` the cells on the outside of a bend are wider, so that a wave of wave number k grows by
    :math:`\eta(k^2\sigma^2 - 1)` in a step. With :math:`\kappa = 16\,\eta\,(\sigma/\Delta)^4`, :math:`\Delta` the
    spacing, all waves are damped, and a smooth curve is shifted by :math:`1.4\,\sigma^4\gamma''''` only. The bow of a
    whole string of length L, a parabola, has no D and grows where :math:`\sigma > L/\sqrt{12}`: from
    :math:`\sigma_c = L/6` on, :math:`\kappa` has :math:`\sigma_c` for :math:`\sigma`, and the tension is
    :math:`\lambda = 3\,\eta\,(\sigma^2 - \sigma_c^2)/\Delta^2`. The solution w is that of an implicit step, in the
    entries of tangent vectors: stable for every spacing, and zero where the right side is.
    """
    u = manifold.log(nodes.unsqueeze(1), walkers)
    centre = nodes[1:-1]
    ahead, behind = manifold.log(centre, nodes[2:]), manifold.log(centre, nodes[:-2])
    secant, spacing = ahead - behind, manifold.norm(centre, ahead)
    tangent = (secant / manifold.per_point(manifold.norm(centre, secant))).unsqueeze(1)
    bend = ((ahead + behind) / manifold.per_point(spacing * spacing)).unsqueeze(1)
    at, inner = centre.unsqueeze(1), u[1:-1]
    along = manifold.inner(at, inner, tangent.expand_as(inner))
    residual = inner - manifold.per_point(along * along / 2) * bend
    across = residual - manifold.per_point(manifold.inner(at, residual, tangent.expand_as(inner))) * tangent
    # Two walkers are independent: the mean of <a, b>^2 is the squared norm of the covariance, in any dimension.
    fourth = manifold.inner(at, across, across.roll(1, 1)).square().mean()
    variance = fourth.double().sqrt() / spacing.double().mean() ** 2  # in units of the spacing
    resolved = variance.clamp(max=(_WIDE * (len(nodes) - 1)) ** 2)
    damping = _SMOOTH * rate * resolved**2 * _cubic_misfit(len(nodes), nodes.device)
    damping = damping + _TENSION * rate * (variance - resolved) * _second_difference(len(nodes), nodes.device)
    push = rate * torch.cat([u[:1].mean(1), across.mean(1), u[-1:].mean(1)])
    return manifold.exp(nodes, _implicit(manifold, nodes, push, damping))


def _implicit(manifold: Manifold, nodes: Tensor, push: Tensor, damping: Tensor) -> Tensor:
    """The move w of :func:`follow` for a matrix ``(n, n)`` of damping; between the ends, as if they stayed.

    In float64: a strong damping divides what rounding leaves of high differences by what is left of smooth waves.
    """
    x = manifold.project(nodes.double())
    n, pull = len(nodes), torch.zeros_like(x)
    for shift in range(-3, 4):
        row = torch.arange(n, device=nodes.device)
        column = (row + shift).clamp(0, n - 1)
        weight = torch.where(column == row + shift, damping[row, column], 0.0)
        pull = pull + manifold.per_point(weight) * manifold.log(x, x[column])
    right = (push.double() - pull).flatten(1)
    matrix = torch.eye(n, dtype=damping.dtype, device=damping.device) + damping
    inner = torch.linalg.solve_ex(matrix[1:-1, 1:-1], right[1:-1])[0]
    move = torch.cat([right[:1], inner, right[-1:]]).reshape(nodes.shape)
    return manifold.to_tangent(nodes, move.to(nodes))


def _cubic_misfit(n: int, device: torch.device) -> Tensor:
    """What no cubic through five neighbours follows, ``(n, n)``: their fourth difference by 6/70.

    Next to an end it is the third difference with the same weight, and zero at the ends.
    """
    second = _second_difference(n, device)
    slope = second[2:-1] - second[1:-2]  # no change of the second difference beyond the ends
    zero = second[:1]
    return 6 / 70 * torch.cat([zero, torch.cat([zero, slope]) - torch.cat([slope, zero]), zero])


def _second_difference(n: int, device: torch.device) -> Tensor:
    """Minus the second difference, ``(n, n)``, zero at the ends."""
    second = torch.zeros(n, n, dtype=torch.float64, device=device)
    row = torch.arange(1, n - 1, device=device)
    second[row, row], second[row, row - 1], second[row, row + 1] = 2.0, -1.0, -1.0
    return second
