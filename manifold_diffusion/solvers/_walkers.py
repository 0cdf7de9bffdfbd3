"""Walkers in the Voronoi cells of a string, and nodes that follow their means."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Manifold
from ..processes import SDETerm
from .euler_maruyama import GeodesicEulerMaruyama

__all__ = ["follow", "walk_in_cells"]

_WALK = GeodesicEulerMaruyama()

_SMOOTH = 8.0
"""Of :func:`follow`. Stability needs 2.9 inside, more next to the ends: 8 is stable for spacings above sigma / 2."""


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


def follow(manifold: Manifold, nodes: Tensor, walkers: Tensor, rate: float) -> Tensor:
    r"""The nodes, moved by ``rate`` towards the mean of their walkers across the string.

    .. math:: \phi \leftarrow \exp_\phi\big(\eta\,P\,\overline{u - \tfrac12 s^2 \gamma''} - \kappa\,D\big), \qquad
        u = \log_\phi x, \quad s = \langle u, \tau\rangle,

    with the projection P across the tangent :math:`\tau`; along the string equal spacing decides. The second term takes
    off what the curve itself bends away from its tangent where the walker is: a cell has a length, and the mean of an
    arc is not on the arc. D is the part of the nodes that no cubic through five neighbours
    follows. Without it principal curves are unstable on scales below the width of the law across them: in a tube of
    standard deviation :math:`\sigma` the cells on the outside of a bend are wider, so that a wave of wave number k is
    multiplied by :math:`1 - \eta + \eta k^2 \sigma^2`. With :math:`\kappa = 8 \eta\,\sigma^4/\Delta^4`, :math:`\Delta`
    the spacing, all waves are damped, and a smooth curve is shifted by :math:`0.7\,\sigma^4\gamma''''` only.
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
    kappa = (_SMOOTH * rate * fourth / spacing.mean() ** 4).clamp(max=1.0)
    move = torch.cat([u[:1].mean(1), across.mean(1), u[-1:].mean(1)])
    return manifold.exp(nodes, rate * move - kappa * _roughness(manifold, nodes))


def _roughness(manifold: Manifold, nodes: Tensor) -> Tensor:
    """What no cubic through five neighbours follows, as a tangent vector: their fourth difference by 6/70.

    Next to an end it is the third difference with the same weight, and zero at the ends.
    """
    n = len(nodes)
    rough = torch.zeros_like(nodes)
    if n < 5:
        return rough
    weights = nodes.new_tensor(n * [[1.0, -4.0, 6.0, -4.0, 1.0]])
    weights[1] = nodes.new_tensor([-1.0, 3.0, -3.0, 1.0, 0.0])
    weights[-2] = weights[1].flip(0)
    first = (torch.arange(n, device=nodes.device) - 2).clamp(0, n - 5)
    for k in range(5):
        rough = rough + manifold.per_point(weights[:, k]) * manifold.log(nodes, nodes[first + k])
    rough[0], rough[-1] = 0.0, 0.0
    return rough * (6 / 70)
