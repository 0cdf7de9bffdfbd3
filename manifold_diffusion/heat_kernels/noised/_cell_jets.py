r"""Sums of a zonal kernel over a cell, from moments of its points.

With the centre c of a cell, an orthonormal frame E of its tangent space, :math:`\xi = E^T y`, :math:`s = c \cdot y -
1`, :math:`a = E^T x` and :math:`b = c \cdot x` the inner product is :math:`x \cdot y = b + a \cdot \xi + b\,s`. Count
:math:`\xi` as of degree 1 and s, which is :math:`-|\xi|^2/2` to leading order, as of degree 2. To degree M

.. math::
    \sum_i w_i F(x \cdot y_i) = \sum_{|\alpha| + 2j \le M} F^{(|\alpha| + j)}(b)\, \frac{a^\alpha b^j}{\alpha!\, j!}\,
    \mu_{\alpha j} + R, \qquad \mu_{\alpha j} = \sum_i w_i\, \xi_i^\alpha s_i^j.

Derivatives of F are positive and at most :math:`G\kappa^m` (:mod:`._zonal_jet`): the terms of one point are dominated
by those of :math:`G e^{Xt + Yt^2}` in powers of t, with :math:`X = \kappa|a||\xi|` and :math:`Y = \kappa|b||s|`, so
that for any :math:`\lambda \ge 1` the rest is at most :math:`\lambda^{-M-1} G e^{X\lambda + Y\lambda^2}`. Let
:math:`\delta` and h be the largest :math:`|\xi_i|` and :math:`|s_i|`, and take
:math:`\lambda_i = \lambda\delta/|\xi_i|` for each point:

.. math::
    |R| \le w A\, \lambda^{-M-1} G\, e^{\kappa (|a|\delta\lambda + |b| h \lambda^2)}, \qquad
    A = \sum_i \frac{w_i}w \Big(\frac{|\xi_i|}\delta\Big)^{M+1},

and for the gradient :math:`\kappa\,(|a| (1 + h\lambda^2) + \delta\lambda)` times as much.

Where :math:`|a|` is large, terms of alternating signs make this far too much. A power series about -1 with positive
coefficients has :math:`|F(u)| \le F(|1 + u| - 1)`. With :math:`\xi` times z and s times :math:`z^2`, of modulus
:math:`\lambda > 1`, and b > 0,

.. math::
    |1 + u| - 1 - b \le D = q + \frac{p^2}{8q}\ [p \le 4q], \quad p - q\ [p \ge 4q], \quad
    + \frac{b h^2\lambda^2}2 + \frac{m^2}{2(1 + b - m)}, \qquad
    p = |a|\delta\lambda, \quad q = \frac{b\,\delta^2\lambda^2}2, \quad m = p + b h \lambda^2,

the largest real part, for :math:`|\xi|^2/2 \le |s| \le |\xi|^2/2 + h^2/2`, and the squared imaginary part. By Cauchy's
estimate of the coefficients :math:`|R| \le w A\, \lambda^{-M-1} (1 - 1/\lambda)^{-1} G\, e^{\kappa D}`, with the same
factor for the gradient: it grows in the angle like Hermite functions, :math:`e^{\theta^2/4\tau}`. The smaller one of
both bounds is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ..._safe import dot
from ._cell_tree import expand_ranges
from ._zonal_jet import angle_squared, zonal_jet

__all__ = ["CellJets"]

_POINTS = 1 << 13
"""Points whose monomials are made at a time."""


class CellJets:
    """Moments up to a degree, and what follows from them.

    Args:
        n: dimension of the sphere.
        degree: M.
    """

    def __init__(self, n: int, degree: int) -> None:
        self.n, self.degree = n, degree
        self.kernel = zonal_jet(n, degree + 2)
        self._excess = max(0.0, self.kernel.high - n * (n - 1) / 12)  # of F itself over G
        alphas = [a for a in product(range(degree + 1), repeat=n) if sum(a) <= degree]
        alphas.sort(key=sum)
        # The powers of s one after the other: those of a power j are the first of all, up to the degree M - 2 j.
        indices: list[tuple[int, ...]] = []
        for j in range(degree // 2 + 1):
            indices += [(*a, j) for a in alphas if sum(a) + 2 * j <= degree]
        number = {i: row for row, i in enumerate(indices)}
        self.size = len(indices)
        others = [i[1:] for i in indices if i[0] == 0]
        self._first, self._others, self._flat = (
            _steps(list(exponents)) for exponents in (((k,) for k in range(degree + 1)), others, alphas)
        )
        self._products = torch.tensor([i[0] * len(others) + others.index(i[1:]) for i in indices])
        self._up_to = [sum(sum(a) <= m for a in alphas) for m in range(degree + 1)]
        # Rows with a component lowered by one, in the order of what they are lowered to: the first of all again.
        raised = [[number[(*a[:k], a[k] + 1, *a[k + 1 :], 0)] for a in alphas if sum(a) < degree] for k in range(n)]
        self._raised = [torch.tensor(rows) for rows in raised]

    def moments(self, points: Tensor, weights: Tensor, centres: Tensor, start: np.ndarray, count: np.ndarray) -> Tensor:
        """Moments of cells, ``(cells, size)``: products of the powers of one coordinate and those of the others.

        Args:
            points: unit vectors, ``(n, d)``.
            weights: theirs.
            centres: of the cells.
            start: the first point of each cell.
            count: numbers of points of the cells.
        """
        out = torch.zeros(len(count), self.size, dtype=torch.float64)
        pieces, cells = expand_ranges(np.zeros_like(count), -(-count // _POINTS))
        first, length = start[cells] + pieces * _POINTS, np.minimum(count[cells] - pieces * _POINTS, _POINTS)
        # Pieces of about one length are padded to the same one, by an eighth at most.
        step = 2 ** np.maximum(np.log2(length).astype(int) - 3, 0)
        padded = -(-length // step) * step
        for size in np.unique(padded).tolist():
            of_size = torch.from_numpy(np.flatnonzero(padded == size))
            for part in of_size.split(max(1, _POINTS // size)):
                begin, cell = torch.from_numpy(first)[part, None], torch.from_numpy(cells)[part]
                inside = torch.arange(size) < torch.from_numpy(length)[part, None]
                rows = torch.where(inside, begin + torch.arange(size), begin).reshape(-1)
                w = weights[rows] * inside.reshape(-1)
                one = torch.ones_like(w)
                versine, _, xi = _local(points[rows], centres[cell].repeat_interleave(size, 0))
                left, right = (
                    _monomials(variables, scale, steps, in_place=True).reshape(-1, len(part), size)
                    for variables, scale, steps in ((xi[:1], w, self._first), ([*xi[1:], -versine], one, self._others))
                )
                products = torch.bmm(left.permute(1, 0, 2), right.permute(1, 2, 0)).flatten(1)
                out.index_add_(0, cell, products.index_select(1, self._products))
        return out

    def sums(
        self, x: Tensor, centres: Tensor, moments: Tensor, tau: Tensor, log_unit: Tensor, want_score: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Sums of pairs of a query and a cell over ``exp(log_unit)``, and their gradients in space, ``(pairs, d)``.

        Args:
            x: unit vectors, ``(pairs, d)``.
            centres: of the cells, ``(pairs, d)``.
            moments: theirs, ``(pairs, size)``.
            tau: times, ``(pairs,)`` or ``(1,)``.
            log_unit: logarithms of what counts as 1, ``(pairs,)``.
            want_score: whether gradients are needed.
        """
        versine, turn, a = _local(x, centres)
        b = 1 - versine
        orders = self.degree + (2 if want_score else 1)
        logs = self.kernel.log_derivatives(*angle_squared(versine), tau, orders)
        f = (logs - log_unit).exp()
        powers = _monomials(a, torch.ones_like(b), self._flat, divided=True)
        mu = moments.mT.contiguous()
        heights = self._heights(b, f)
        inner = self._inner(heights, mu)
        value = (powers * inner).sum(0)
        if not want_score:
            return value, None
        raised = powers[: len(self._raised[0])]
        slopes = [(raised * inner.index_select(0, rows.to(x.device))).sum(0) for rows in self._raised]
        steep = self._heights(b, f[1:])
        for j in range(1, len(steep)):
            steep[j] = [up + low for up, low in zip(steep[j], heights[j - 1][1:], strict=False)]
        along = (powers * self._inner(steep, mu)).sum(0)
        flat = torch.stack([*slopes, torch.zeros_like(b)], 1)
        return value, _reflect(flat, *turn) + along.unsqueeze(1) * centres

    def single(self, x: Tensor, points: Tensor, tau: Tensor, log_unit: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel of pairs of points over ``exp(log_unit)``, and its derivative in the inner product."""
        difference = x - points
        versine = dot(difference, difference) / 2
        logs = self.kernel.log_derivatives(*angle_squared(versine), tau, 2)
        value, slope = (logs - log_unit).exp()
        return value, slope

    def log_rest(
        self, theta: Tensor, log_ratio: Tensor, log_majorant: Tensor, tau: Tensor, spread: Tensor, depth: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logarithms of the bounds of R and of its gradient, for w A = 1.

        Args:
            theta: angles between the queries and the centres.
            log_ratio: log(theta / sin(theta)).
            log_majorant: log G.
            tau: times.
            spread: largest distances of points of the cells from the axes of the centres.
            depth: largest heights of the points below the centres.
        """
        k = self.degree + 1
        kappa, sine, cosine = log_ratio.exp() / tau, theta * (-log_ratio).exp(), theta.cos()

        def bounds(scale: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
            rest = log_majorant - k * scale.log() + exponent
            return rest, rest + (kappa * (sine * (1 + scale.square() * depth) + scale * spread)).log()

        x = theta * spread / tau
        y = kappa * cosine.abs() * depth
        scale = (2 * k / (x + (x.square() + 8 * k * y).sqrt()).clamp_min(1e-300)).clamp(1, 1e8)
        real = bounds(scale, scale * (x + scale * y))
        # The bound with complex numbers, at the best lambda but for small terms.
        y = kappa * cosine * spread.square() / 2
        scale = (k / (2 * y)).sqrt()
        scale = torch.where(4 * y * scale >= x, scale, 2 * k / (x + (x.square() - 8 * k * y).clamp_min(0).sqrt()))
        scale = scale.clamp(1.01, 1e8)
        lift = torch.where(4 * y * scale >= x, y * scale.square() + x.square() / (8 * y), scale * (x - y * scale))
        side = sine * spread * scale + cosine * depth * scale.square()
        lift = lift + kappa * cosine * depth.square() / 2 * scale.square()
        lift = lift + kappa * side.square() / (2 * (1 + cosine - side)) + tau * self._excess - (-1 / scale).log1p()
        known = (cosine > 0) & (side < 1 + cosine) & lift.isfinite()
        whole = bounds(scale, torch.where(known, lift, math.inf))
        return torch.minimum(real[0], whole[0]), torch.minimum(real[1], whole[1])

    def _heights(self, b: Tensor, f: Tensor) -> list[list[Tensor]]:
        """``b^j F^(m + j) / j!`` by j and m."""
        rows, scale = [list(f[: self.degree + 1])], torch.ones_like(b)
        for j in range(1, self.degree // 2 + 1):
            scale = scale * b / j
            rows.append([scale * f[m + j] for m in range(self.degree - 2 * j + 1)])
        return rows

    def _inner(self, heights: list[list[Tensor]], moments: Tensor) -> Tensor:
        """Moments ``(size, pairs)`` summed over the powers of s, ``(flat, pairs)``, with factors by j and degree."""
        blocks, first = [], 0
        for j, row in enumerate(heights):
            start = first
            for m, height in enumerate(row):
                stop = first + self._up_to[m]
                part = moments[start:stop]
                if j == 0:
                    blocks.append(part * height)
                else:
                    blocks[m] = torch.addcmul(blocks[m], part, height)
                start = stop
            first = start
        return torch.cat(blocks)


def _steps(exponents: Sequence[tuple[int, ...]]) -> list[tuple[int, int, int]]:
    """How to get a monomial from an earlier one, for all but the first: its number, the variable, and its power."""
    steps = []
    for e in exponents[1:]:
        k = max(k for k, power in enumerate(e) if power)
        steps.append((exponents.index((*e[:k], 0, *e[k + 1 :])), k, e[k]))
    return steps


def _monomials(
    variables: Sequence[Tensor],
    start: Tensor,
    steps: list[tuple[int, int, int]],
    divided: bool = False,
    in_place: bool = False,
) -> Tensor:
    """``start`` times all monomials, a row each.

    Args:
        variables: the coordinates.
        start: the first row.
        steps: of :func:`_steps`.
        divided: whether by the factorials of their exponents.
        in_place: a third of the time, without derivatives.
    """
    powers = [[v] for v in variables]
    for v, row in zip(variables, powers, strict=True):
        for k in range(2, 1 + max(power for _, _, power in steps)):
            row.append(row[-1] * (v / k if divided else v))
    out = start.new_empty(1 + len(steps), *start.shape) if in_place else None
    rows = [start if out is None else out[0].copy_(start)]
    for n, (parent, k, power) in enumerate(steps, 1):
        rows.append(torch.mul(rows[parent], powers[k][power - 1], out=None if out is None else out[n]))
    return torch.stack(rows) if out is None else out


def _local(x: Tensor, centres: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor], list[Tensor]]:
    """1 - x . c, the reflection of :func:`_reflect`, and the components of x orthogonal to c.

    The reflection takes the last axis to plus or minus the centre; of the difference, so that nothing cancels.
    """
    last = centres[:, -1]
    axis = torch.cat([centres[:, :-1], (last + torch.where(last < 0, -1.0, 1.0)).unsqueeze(1)], 1)
    turn = axis, 1 / (1 + last.abs())
    difference = x - centres
    return dot(difference, difference) / 2, turn, list(_reflect(difference, *turn)[:, :-1].unbind(1))


def _reflect(v: Tensor, axis: Tensor, factor: Tensor) -> Tensor:
    return v - (dot(v, axis) * factor).unsqueeze(1) * axis
