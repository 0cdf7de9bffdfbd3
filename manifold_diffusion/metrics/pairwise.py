"""Heat kernels between all pairs of two sets of points, in bounded memory.

On spheres and SO(3) the kernel is a function of the chord, which a matrix product gives for all pairs: it is read from
a table, of the density in the squared chord at Brownian times of at least 0.005 and of its smooth factor in the chord
below (relative error below 1e-5). Elsewhere the exact kernel is evaluated, in the dtype of the points. Sums over
centres drop the pairs that can't contribute, by a bound from the chord.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, singledispatch

import torch
from torch import Tensor

from .._errors import DataError, NumericsError
from ..heat_kernels import heat_kernel
from ..manifolds import SO3, Manifold, Sphere, cast_points

__all__ = ["blocks", "heat_density", "log_density", "log_density_grid", "over_batch", "squared_chord"]

_BLOCK = 1 << 18
"""Pairs that are in memory at a time."""

_NODES = 1 << 16
_REFINE = 16
_WIDE_TAU = 5e-3
_MARGIN = 30.0
"""A dropped pair is below exp(-30) of the largest: 23,000 of them change a log density by 2e-9."""


def blocks(n: int, m: int) -> Iterator[slice]:
    """Slices of ``range(n)`` of so many rows that a block of ``rows x m`` pairs stays small."""
    rows = max(1, _BLOCK // max(m, 1))
    for start in range(0, n, rows):
        yield slice(start, min(start + rows, n))


def squared_chord(e: Tensor, f: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of rows, ``(n, k), (m, k) -> (n, m)``; in float64 accurate to 1e-15."""
    cross = torch.addmm(e.square().sum(1, keepdim=True) + f.square().sum(1), e, f.mT, alpha=-2)
    return cross.clamp_min_(0)


def over_batch(manifold: Manifold, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A log density of rows, ``(n, *point_shape) -> (n,)``, at points of any batch shape: ``(*batch,)``."""
    return log_prob(x.reshape(-1, *manifold.point_shape)).reshape(manifold.batch_shape(x))


# ---------------------------------------------------------------------- tables in the chord


@singledispatch
def _half_chord(manifold: Manifold) -> bool:
    """Whether the heat kernel is a function of the distance r, and the chord of ``embed`` is ``2 sin(r / 2)``."""
    return False


@_half_chord.register(Sphere)
@_half_chord.register(SO3)
def _(manifold: Manifold) -> bool:
    return True


@lru_cache(maxsize=32)
def _table(manifold: Manifold, tau: float) -> Tensor:
    """Values at equidistant nodes of the density in chord^2, or of its smooth factor in the chord.

    The differences to the next node are the imaginary parts, so that one look-up gives both.
    """
    wide = tau >= _WIDE_TAU
    node = torch.linspace(0, 1, _NODES // _REFINE + 1, dtype=torch.float64)
    chord = 2 * (node.sqrt() if wide else node)
    r = 2 * torch.asin(chord / 2)
    origin = manifold.origin(dtype=torch.float64)
    direction = manifold.tangent_basis(origin)[0]
    points = manifold.exp(origin.expand(len(r), *manifold.point_shape), r.reshape(-1, *(1,) * origin.dim()) * direction)
    log_prob = heat_kernel(manifold).log_prob(points, origin, tau)
    values = _refine(log_prob.exp() if wide else log_prob + chord.square() / (2 * tau))
    return torch.complex(values, torch.cat([values.diff(), values.new_zeros(1)]))


def _refine(coarse: Tensor) -> Tensor:
    """Insert nodes by cubic Lagrange interpolation, which is local: a bad node spoils the next intervals only."""
    last = len(coarse) - 1
    position = torch.arange(last * _REFINE + 1, dtype=torch.float64) / _REFINE
    first = (position.floor() - 1).clamp(0, last - 3)
    u, i = position - first, first.long()
    return (
        -(u - 1) * (u - 2) * (u - 3) / 6 * coarse[i]
        + u * (u - 2) * (u - 3) / 2 * coarse[i + 1]
        - u * (u - 1) * (u - 3) / 2 * coarse[i + 2]
        + u * (u - 1) * (u - 2) / 6 * coarse[i + 3]
    )


def _interpolate(table: Tensor, position: Tensor) -> Tensor:
    node = position.long().clamp_(max=_NODES)
    found = table.to(position.device).take(node)
    return torch.addcmul(found.real, found.imag, position - node)


def _density(table: Tensor, s: Tensor) -> Tensor:
    """Density at squared chords, for tau of at least 0.005."""
    return _interpolate(table, s * (_NODES / 4))


def _log_density(table: Tensor, s: Tensor, tau: float) -> Tensor:
    """Log density at squared chords, for tau below 0.005."""
    return _interpolate(table, s.sqrt() * (_NODES / 2)) - s / (2 * tau)


def heat_density(manifold: Manifold, x: Tensor, y: Tensor, taus: Sequence[float]) -> list[Tensor]:
    """Heat kernel of all pairs, one matrix ``(n, m)`` per time, in the dtype of ``x``; the caller keeps n m small."""
    if not _half_chord(manifold):
        kernel = heat_kernel(manifold)
        return [kernel.pairwise_log_prob(x, y, x.new_tensor([tau])).exp() for tau in taus]
    s = squared_chord(manifold.embed(x.double()), manifold.embed(y.double()))
    out = []
    for tau in taus:
        table = _table(manifold, tau)
        out.append((_density(table, s) if tau >= _WIDE_TAU else _log_density(table, s, tau).exp()).to(x.dtype))
    return out


# ---------------------------------------------------------------------- sums over centres


def log_density_grid(
    manifold: Manifold, x: Tensor, centres: Tensor, taus: Sequence[float], own: Tensor | None = None
) -> Tensor:
    r"""Log kernel densities :math:`\log\frac1m \sum_k K(x_i, c_k, \tau_j)` of several bandwidths.

    Float64, ``(n, len(taus))``; a density below ``exp(-700)`` may come out as that.

    Args:
        manifold: the manifold.
        x: points, ``(n, *point_shape)``.
        centres: ``(m, *point_shape)``.
        taus: Brownian times.
        own: index of a centre that each point leaves out, ``(n,)``, the others being m - 1; default none.
    """
    if not _half_chord(manifold):
        return torch.stack([log_density(manifold, x, centres, tau, own=own) for tau in taus], 1)
    n_seen = _summed(centres, own)
    e, f = (manifold.embed(cast_points(manifold, points, torch.float64)) for points in (x, centres))
    order = sorted(range(len(taus)), key=lambda j: -taus[j])
    wide = [j for j in order if taus[j] >= _WIDE_TAU]
    narrow = order[len(wide) :]
    tables = [_table(manifold, float(tau)) for tau in taus]
    out = e.new_empty(len(x), len(taus))
    for rows in blocks(len(x), len(centres)):
        s = squared_chord(e[rows], f)
        left_out = _left_out(own, rows)
        for j in wide:
            density = _density(tables[j], s)
            density[left_out] = 0.0
            out[rows, j] = density.sum(1).clamp_min(1e-304).log()
        if not narrow:
            continue
        s[left_out] = math.inf
        nearest = s.amin(1)
        near = s <= (nearest + 2 * taus[narrow[0]] * _margin(manifold)).unsqueeze(1)
        s, row = s[near], near.nonzero()[:, 0]
        excess = s - nearest.take(row)
        for j in narrow:  # from the widest to the narrowest: the pairs of each are among those of the one before
            keep = (excess <= 2 * taus[j] * _margin(manifold)).nonzero()[:, 0]
            s, row, excess = s.take(keep), row.take(keep), excess.take(keep)
            out[rows, j] = _logsumexp(_log_density(tables[j], s, taus[j]), row, len(nearest))
    return _finite(out - math.log(n_seen))


def log_density(
    manifold: Manifold,
    x: Tensor,
    centres: Tensor,
    tau: Tensor | float,
    log_weights: Tensor | None = None,
    log_floor: float | None = None,
    own: Tensor | None = None,
) -> Tensor:
    r"""Log of a mixture of heat kernels, :math:`\log\big(e^{f} + \sum_k w_k K(x_i, c_k, \tau_k)\big)`, ``(n,)``.

    Args:
        manifold: the manifold.
        x: points, ``(n, *point_shape)``.
        centres: ``(m, *point_shape)``.
        tau: Brownian time, one for all or ``(m,)``.
        log_weights: ``(m,)``; default ``-log m``, or ``-log(m - 1)`` with ``own``.
        log_floor: log density f of a constant part, such as a uniform component; None for none.
        own: index of a centre that each point leaves out, ``(n,)``; default none.

    Raises:
        DataError: one centre, to be left out.
        NumericsError: a result that is not finite.
    """
    centres = centres.to(x)  # the exact kernel is evaluated in the dtype of x, the bound in float64
    e, f = (manifold.embed(cast_points(manifold, points, torch.float64)) for points in (x, centres))
    kernel, m = heat_kernel(manifold), len(centres)
    taus = torch.as_tensor(tau, dtype=torch.float64, device=x.device).expand(m)
    log_w = torch.full_like(taus, -math.log(_summed(centres, own))) if log_weights is None else log_weights.double()
    # The leading order of w_k K is exp(b_k - distance^2 / (2 tau_k)); the volume factor that it lacks is what the
    # margin holds 2 n spare for.
    b = log_w - manifold.dim / 2 * (2 * math.pi * taus).log()
    margin = _margin(manifold)
    out = []
    for rows in blocks(len(x), m):
        s = squared_chord(e[rows], f)
        s[_left_out(own, rows)] = math.inf
        if log_floor is not None:
            keep = s <= 2 * taus * (b - log_floor + margin)
        else:
            a = torch.addcmul(b, s, -0.5 / taus)
            best = a.argmax(1)
            # The distance of the best centre, not its chord: a bound that is not too high, so that nothing of weight is
            # dropped.
            reached = b[best] - 0.5 / taus[best] * manifold.dist(x[rows], centres[best]).double().square()
            keep = a >= (reached - margin).unsqueeze(1)
        i, k = keep.nonzero(as_tuple=True)
        parts = [
            kernel.log_prob(x[rows][i[p]], centres[k[p]], taus[k[p]].to(x.dtype)) + log_w[k[p]]
            for p in blocks(len(i), 1)
        ]
        out.append(_logsumexp(torch.cat(parts) if parts else s.new_zeros(0), i, len(s)))
    total = torch.cat(out) if out else e.new_zeros(0)
    return _finite(total if log_floor is None else torch.logaddexp(total, torch.full_like(total, log_floor)))


def _left_out(own: Tensor | None, rows: slice) -> tuple[Tensor, Tensor]:
    """Where, in a block of pairs, the centres stand that their points leave out."""
    centre = torch.zeros(0, dtype=torch.long) if own is None else own[rows]
    return torch.arange(len(centre), device=centre.device), centre


def _summed(centres: Tensor, own: Tensor | None) -> int:
    """Number of centres that each point sees."""
    if own is not None and len(centres) < 2:
        raise DataError("One point leaves no other for leave-one-out. Pass validation points.")
    return len(centres) - (own is not None)


def _margin(manifold: Manifold) -> float:
    return _MARGIN + 2 * manifold.dim


def _logsumexp(values: Tensor, row: Tensor, n: int) -> Tensor:
    """Log of the sum of exponentials of the values of each row, ``(n,)``; -inf for a row without any."""
    top = values.new_full((n,), -math.inf).scatter_reduce(0, row, values, "amax")
    base = torch.where(top.isfinite(), top, torch.zeros_like(top))
    return base + torch.zeros_like(top).index_add(0, row, (values - base[row]).exp()).log()


def _finite(log_p: Tensor) -> Tensor:
    bad = ~log_p.isfinite()
    if bad.any():
        row = [int(i) for i in bad.nonzero()[0]]
        raise NumericsError(
            f"{int(bad.sum())} of {bad.numel()} log densities are not finite, first at {row}: "
            f"{float(log_p[tuple(row)])}."
        )
    return log_p
