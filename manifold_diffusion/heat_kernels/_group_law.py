r"""The heat kernel of a compact matrix group as a function on its maximal torus.

Two sums, each exact where it converges fast. Images, for short times, over the unit lattice :math:`\Gamma`:

.. math:: p_\tau(e^H) = \frac{e^{|\rho|^2\tau/2}}{(2\pi\tau)^{d/2}} \sum_{\gamma\in\Gamma} \prod_{\alpha>0}
    \frac{\alpha(H+\gamma)/2}{\sin(\alpha(H+\gamma)/2)}\, e^{-|H+\gamma|^2/2\tau},

characters, for long ones: :math:`p = \frac1V \sum_\lambda d_\lambda\, \chi_\lambda\, e^{-c_\lambda\tau/2}`. (Urakawa,
*The heat equation on a compact Lie group*, 1975; Camporesi, *Harmonic analysis and propagators on homogeneous spaces*,
1990.)

The terms of the first sum have poles where a root is a multiple of :math:`2\pi` (repeated eigenvalues), which cancel:
the sum is an entire function of H. It is evaluated as the mean of its values at nodes of a circle :math:`H + z v`,
:math:`|z| = r`, in the complexified torus (Cauchy's mean value), off all poles. With r below the scale on which the
Gaussians vary, the trapezoid rule with 24 nodes is exact to rounding, and nothing cancels but what is small.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from .._safe import readable, safe_sqrt
from ..manifolds._characters import Irreps, characters, irreps, n_powers
from ..manifolds.matrix_group import MatrixGroup

__all__ = ["GroupLaw"]

_NODES = 24
_SLOPE, _CURVATURE = 2.5, 0.8
"""Radius of the circle: at most 2.5 in units of the slope of the exponents, 2.5^24 / 24! = 6e-15, and at most 0.8 in
units of the width of the Gaussians, (0.8^2 / 2)^12 / 12! = 2e-15."""

_CROSS_OVER = {"SO": 1.0, "SU": 0.5, "U": 0.4}
"""Brownian time at which the two sums change over; ``tests/heat_kernels/test_groups.py`` compares them around it."""

_TAIL = 42.0
"""Characters of weight below exp(-42) at the cross-over are left out."""


class GroupLaw:
    """Log density of Brownian motion from the identity, as a function of the angles.

    Angles are the n eigenangles for U(n) and SU(n), and the floor(n/2) angles of rotation for SO(n).

    Args:
        group: the group.

    Attributes:
        weights: matrix that gives the n eigenangles from the angles, an array ``(n, m)``.
        rho_squared: squared length of half the sum of the positive roots.
    """

    def __init__(self, group: MatrixGroup) -> None:
        self.group = group
        n, rotation = group.n, group.family == "SO"
        m = n // 2 if rotation else n
        self.metric = 1.0 if rotation else 0.5
        roots = []
        for i, j in itertools.combinations(range(m), 2):
            for sign in (-1.0, 1.0) if rotation else (-1.0,):
                row = [0.0] * m
                row[i], row[j] = 1.0, sign
                roots.append(row)
        if rotation and n % 2:
            roots += np.eye(m).tolist()
        # Arrays: tensors made inside a transform could not leave it.
        self.roots = np.array(roots, dtype=np.float64).reshape(len(roots), m)
        self.rho_squared = float(np.square(self.roots.sum(0) / 2).sum() / self.metric)
        offsets = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=m)))
        if group.family == "SU":
            offsets = offsets[offsets.sum(-1) == 0]
        self.offsets = offsets
        self.signs = 1 - 2 * ((offsets @ self.roots.T).sum(-1) % 2)
        # No root vanishes on it, and no two have the same value: the poles on a line through H are apart.
        direction = np.array([1.0, -0.31, 0.47, -0.83, 0.17, 0.72])[:m]
        if group.family == "SU":
            direction = direction - direction.mean()
        self.direction = direction / math.sqrt(self.metric * np.square(direction).sum())
        eye = np.eye(m)
        self.weights = np.concatenate([eye, np.zeros((n - 2 * m, m)), -eye[::-1]]) if rotation else eye
        self.cross_over = _CROSS_OVER[group.family]
        self._reps: Irreps | None = None

    @property
    def reps(self) -> Irreps:
        """The representations that count at and above the cross-over."""
        if self._reps is None:
            half = self.cross_over / 2
            bound = _TAIL / half
            while True:  # d^2 exp(-c tau / 2) is below the tail beyond the bound, with d at most a power of c
                found = irreps(self.group.family, self.group.n, bound)
                log_weight = 2 * np.log(found.dimension) - half * found.casimir
                if not (log_weight[found.casimir > 0.9 * bound] > -_TAIL).any():
                    break
                bound *= 1.25
            self._reps = found[log_weight > -_TAIL]
        return self._reps

    def log_prob(self, angles: Tensor, tau: Tensor) -> Tensor:
        """Log density at ``angles``, ``(*batch, m)``, for ``tau`` of shape ``(*batch,)``, both float64."""
        early = tau <= self.cross_over
        if tau.device.type == "cpu" and readable(tau):
            if bool(early.all()):
                return self.images(angles, tau)
            if not bool(early.any()):
                return self.series(angles, tau)
            if early.shape == angles.shape[:-1]:
                parts = [self.images(angles[early], tau[early]), self.series(angles[~early], tau[~early])]
                place = torch.cat([early.flatten().nonzero(), (~early).flatten().nonzero()]).squeeze(-1).argsort()
                return torch.cat(parts)[place].reshape(early.shape)
        short = self.images(angles, torch.where(early, tau, self.cross_over))
        return torch.where(early, short, self.series(angles, torch.where(early, self.cross_over, tau)))

    def images(self, angles: Tensor, tau: Tensor) -> Tensor:
        """The sum over the unit lattice."""
        device = angles.device
        arrays = (self.roots, self.offsets, self.signs, self.direction)
        roots, offsets, signs, v = (torch.from_numpy(a).to(device) for a in arrays)
        square = (angles.detach().square().sum(-1) * self.metric).detach()
        time = tau.detach()
        radius = 1 / (safe_sqrt(square) / (_SLOPE * time) + 1 / (_CURVATURE * time.sqrt()))
        if len(self.roots):
            radius = radius.clamp_max(0.7 / np.abs(self.roots @ self.direction).max())
        # Conjugate nodes give conjugate values: half of the circle is enough.
        phase = (
            torch.arange(_NODES // 2, dtype=torch.float64, device=device) * (2 * math.pi / _NODES) + math.pi / _NODES
        )
        circle = torch.polar(torch.ones_like(phase), phase)
        x = angles.unsqueeze(-2) + (radius.unsqueeze(-1) * circle).unsqueeze(-1) * v  # (*batch, nodes, m)
        shift = 2 * math.pi * offsets
        # |x + s|^2 = x.x + 2 x.s + s.s, over 2 tau; the nearest image is the reference of the exponents.
        nearest = (angles.unsqueeze(-2) + shift).square().sum(-1).amin(-1).detach()
        squares = (x * x).sum(-1, keepdim=True) + 2 * (x @ shift.mT.to(x.dtype)) + shift.square().sum(-1)
        exponent = -(self.metric / 2) * (squares - nearest[..., None, None]) / tau[..., None, None]
        terms = signs * exponent.exp()
        alpha = x @ roots.mT.to(x.dtype)  # (*batch, nodes, roots)
        far = shift @ roots.mT
        for k in range(len(self.roots)):
            terms = terms * ((alpha[..., k : k + 1] + far[:, k]) / 2)
        denominator = (alpha / 2).sin().prod(-1) if len(self.roots) else 1.0
        mean = (terms.sum(-1) / denominator).real.mean(-1)
        log_scale = self.rho_squared * tau / 2 - self.group.dim / 2 * (2 * math.pi * tau).log()
        return mean.log() + log_scale - self.metric / 2 * nearest / tau

    def series(self, angles: Tensor, tau: Tensor) -> Tensor:
        """The sum over the characters."""
        reps = self.reps
        full = angles @ torch.from_numpy(self.weights).to(angles.device).mT
        power = torch.arange(1, n_powers(reps) + 1, dtype=torch.float64, device=angles.device)
        waves = full.unsqueeze(-2) * power.unsqueeze(-1)
        if self.group.family == "SO":
            values = characters(reps, waves.cos().sum(-1))
        else:
            determinant = full.sum(-1)
            values = characters(
                reps,
                waves.cos().sum(-1) + 1j * waves.sin().sum(-1),
                determinant.cos() + 1j * determinant.sin(),
            ).real
        casimir, dimension = (torch.from_numpy(a).to(angles.device) for a in (reps.casimir, reps.dimension))
        decay = (-casimir * tau.unsqueeze(-1) / 2).exp()
        return (dimension * values * decay).sum(-1).log() - self.group.log_volume

    def log_peak(self, tau: Tensor) -> Tensor:
        """Log density at the identity, its maximum, for late times."""
        reps = self.reps
        squares, casimir = (torch.from_numpy(a).to(tau.device) for a in (reps.copies * reps.dimension**2, reps.casimir))
        return (squares * (-casimir * tau.unsqueeze(-1) / 2).exp()).sum(-1).log() - self.group.log_volume
