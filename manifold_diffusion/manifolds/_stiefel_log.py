r"""The logarithm of the Stiefel manifold with the canonical metric.

In an orthonormal basis (X, Q) of the span of both frames, Y is the first block column of a rotation, and every geodesic
from X to Y belongs to a completion of it: the generator of the rotation has a lower right block C, and the geodesic is
one of the quotient where C = 0. Zimmermann's iteration turns the free columns by :math:`e^{-C}`, which is gradient
descent of half the squared length of the generator (step 1 is safe, since the Hessian of half a squared distance is at
most 1 in non-negative curvature). It starts at the completion that is nearest to the identity. Newton steps of
:math:`\exp_X(V) = Y` finish what is linear convergence.

Derivatives are those of the implicit function: from the solution, a constant, each further Newton step with a constant
Jacobian makes the derivatives of one more order right.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._frames import complement, orthonormal, skew
from ._matrix import differentiated

if TYPE_CHECKING:
    from .stiefel import Stiefel

__all__ = ["rotation_log", "solve"]

_DESCENT_STEPS, _JACOBIANS, _STEPS_EACH = 40, 2, 3
_DAMPING = 1e-14  # of squared singular values: an antipode is a conjugate point, and its Newton step stays finite


def solve(manifold: Stiefel, x: Tensor, y: Tensor) -> Tensor:
    """Velocity V of a short geodesic from x to y (float64)."""
    x, y = orthonormal(x), orthonormal(y)
    start, end = x.detach(), y.detach()
    basis, end_basis = manifold.tangent_basis(start), manifold.tangent_basis(end)
    v = _descend(start, end)
    gap = end - manifold.exp(start, v)
    inverse = torch.zeros(())
    for _ in range(_JACOBIANS):
        inverse = _inverse_derivative(manifold, start, v, basis, end_basis)
        for _ in range(_STEPS_EACH):
            trial = v + _step(inverse, gap, basis, end_basis)
            gap_there = end - manifold.exp(start, trial)
            # From a pair that has not converged a Newton step may go anywhere: it must come closer.
            better = _size(gap_there) < _size(gap)
            v, gap = torch.where(better, trial, v), torch.where(better, gap_there, gap)
    if differentiated(x) or differentiated(y):
        for _ in range(2):
            v = manifold.to_tangent(x, v)
            v = v + _step(inverse, y - manifold.exp(x, v), basis, end_basis)
        v = manifold.to_tangent(x, v)
    return v


def _size(gap: Tensor) -> Tensor:
    return gap.square().sum((-2, -1), keepdim=True)


def _step(inverse: Tensor, gap: Tensor, basis: Tensor, end_basis: Tensor) -> Tensor:
    """Newton step of ``exp(x, v) = y``, a tangent vector at x."""
    coefficients = inverse @ (end_basis * gap.unsqueeze(-3)).sum((-2, -1)).unsqueeze(-1)
    return (coefficients.unsqueeze(-1) * basis).sum(-3)


def _inverse_derivative(manifold: Stiefel, x: Tensor, v: Tensor, basis: Tensor, end_basis: Tensor) -> Tensor:
    """From ambient inner products with the basis at the end to coefficients of the change of velocity."""
    images = manifold.differential(x.unsqueeze(-3), v.unsqueeze(-3), basis)
    matrix = end_basis.flatten(-2) @ images.flatten(-2).mT
    eye = torch.eye(manifold.dim, dtype=x.dtype, device=x.device)
    return torch.linalg.solve(matrix.mT @ matrix + _DAMPING * eye, matrix.mT)


def _descend(x: Tensor, y: Tensor) -> Tensor:
    """Zimmermann's iteration (constants)."""
    p = x.shape[-1]
    q = complement(x)
    lower = q.mT @ y
    if q.shape[-1] > p:  # the part of the complement that y needs
        q = q @ torch.linalg.svd(lower, full_matrices=False)[0]
        lower = q.mT @ y
    first = torch.cat([x.mT @ y, lower], -2)
    rest = _nearest_completion(first)
    eye = torch.eye(rest.shape[-1], dtype=x.dtype, device=x.device)
    for _ in range(_DESCENT_STEPS if len(eye) > 1 else 0):
        half = rotation_log(torch.cat([first, rest], -1))[..., p:, p:] / 2
        rest = rest @ torch.linalg.solve(eye + half, eye - half)  # Cayley's transform, close to exp(-C)
    generator = rotation_log(torch.cat([first, rest], -1))
    return x @ generator[..., :p, :p] + q @ generator[..., p:, :p]


def _nearest_completion(first: Tensor) -> Tensor:
    """Columns that complete a frame to the rotation nearest to the identity."""
    p = first.shape[-1]
    rest = complement(first)
    u, _, vh = torch.linalg.svd(rest[..., p:, :])
    turn = vh.mT @ u.mT
    # The least singular direction is turned over if the determinant asks for it.
    sign = torch.linalg.det(torch.cat([first, rest @ turn], -1)).sign().unsqueeze(-1)
    flip = torch.cat([torch.ones_like(u[..., 0, 1:]), sign], -1)
    return rest @ (vh.mT * flip.unsqueeze(-2)) @ u.mT


def rotation_log(w: Tensor) -> Tensor:
    r"""Skew logarithm of rotations, angles in [0, pi]; values only, no derivatives.

    The symmetric part has the eigenvalues :math:`\cos\theta` in pairs; in its eigenbasis the skew part, which is
    :math:`\sin\theta`, is scaled by :math:`\theta/\sin\theta`. Pairs of half turns have no skew part: there the
    eigenvectors are paired, in the order in which they come.
    """
    c, u = torch.linalg.eigh((w + w.mT) / 2)
    s = u.mT @ skew(w) @ u
    n = c.shape[-1]
    half_turn = c < -1 + 1e-13
    c = c.clamp(-1, 1)
    sine = (1 - c * c).sqrt()
    tiny = sine < 1e-7
    scale = torch.where(tiny, 1.0, c.arccos() / torch.where(tiny, 1.0, sine))
    result = s * (scale.unsqueeze(-1) + scale.unsqueeze(-2)) / 2
    pairs = torch.zeros(n, n, dtype=w.dtype, device=w.device)
    index = torch.arange(0, n - 1, 2, device=w.device)
    pairs[index + 1, index], pairs[index, index + 1] = math.pi, -math.pi
    both = half_turn.unsqueeze(-1) & half_turn.unsqueeze(-2)
    sign = torch.where(s * pairs < 0, -1.0, 1.0).to(w.dtype)
    return u @ torch.where(both, sign * pairs, result) @ u.mT
