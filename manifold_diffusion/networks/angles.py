"""The parts of a density that goes angle by angle: its centres, the first angle, an angle given some others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import CapabilityError
from .._tensors import version
from ..heat_kernels.mixture import draw_index
from ..heat_kernels.torus import wrap_angle
from ..manifolds import Manifold, Torus
from ..metrics.kernel_density import BANDWIDTHS, FLOOR
from ..metrics.mixture_weights import em_weights
from ..metrics.neighbours import without_own
from .kernel_field import LIMIT, standardised
from .layers import linear

__all__ = ["ROWS", "AngleCentres", "FirstAngle", "Look", "NextAngle", "lengths_of"]

FIRST = BANDWIDTHS[:6]
"""Bandwidths of the kernels of the first angle, in radians: 0.5 to 0.01."""

N_WAVES = math.ceil(8 / min(FIRST))
"""The next wave is damped by exp(-32) even by the narrowest of these kernels."""

ROWS = 1024
"""Points whose neighbourhoods are in memory at a time."""

_TINY = FLOOR**2

_LEAST = 1e-6
"""Smallest share of the uniform law in the density of an angle."""


@dataclass(frozen=True)
class Look:
    """What the centres nearest to n points, by the angles before, say of the next angle; float32 but for ``base``."""

    offsets: Tensor  # (n, k, n_given): from the centres to the points
    squares: Tensor  # (n, k): squared distances
    base: Tensor  # (n,): the angle at the nearest centre, float64
    features: Tensor  # (n, n_features)
    targets: tuple[Tensor, ...]  # what the nearest predict, less base, without and by each regression: (n, k_m)

    def __getitem__(self, rows: Tensor) -> Look:
        *single, targets = vars(self).values()
        return Look(*(value[rows] for value in single), targets=tuple(values[rows] for values in targets))


class AngleCentres:
    """The centres in float64, a tree for each set of angles, and what each centre is told by the others.

    Attributes:
        centres: ``(n, n_angles)``.
        left_out: filled in training only.
    """

    def __init__(self, manifold: Manifold, centres: Tensor) -> None:
        self._source, self._version = centres, version(centres)
        self.centres, self.lengths = manifold.project(centres.double()), lengths_of(manifold)
        self.left_out: list[tuple[Tensor, list[Look]]] | None = None
        self._trees: dict[tuple[int, ...], Any] = {}
        self._waves: dict[int, Tensor] = {}

    def of(self, centres: Tensor) -> bool:
        """Whether these are the centres, unchanged."""
        return self._source is centres and self._version == version(centres)

    def nearest(self, angles: Sequence[int], x: Tensor, k: int, own: Tensor | None = None) -> Tensor:
        """Indices of the k centres nearest to points by some of the angles, without a centre of each, ``(n, k)``."""
        from scipy.spatial import KDTree

        key = tuple(sorted(angles))
        torus = Torus(len(key), [self.lengths[i] for i in key])
        if key not in self._trees:
            self._trees[key] = KDTree(torus.in_box(self.centres[:, key]).cpu().numpy(), boxsize=torus.lengths)
        query = torus.in_box(x[:, key]).cpu().numpy()
        index = self._trees[key].query(query, k=range(1, k + 1 + (own is not None)))[1]
        found = torch.as_tensor(index, device=x.device)
        return found if own is None else without_own(found, own)

    def waves(self, angle: int, n: int) -> Tensor:
        """Means over the centres of the first n cosines, then sines, of an angle."""
        if angle not in self._waves:
            y = self.centres[:, angle]
            sums = [_waves(rows, self.lengths[angle], n).sum(0) for rows in y.split(ROWS)]
            self._waves[angle] = torch.stack(sums).sum(0) / len(y)
        return self._waves[angle]


class FirstAngle(nn.Module):
    r"""The density of an angle by itself: kernels of several bandwidths at all centres, and the uniform law, mixed.

    .. math::
        p(y) = \frac1L \Bigl(1 + 2 \sum_{m \ge 1} \sum_h w_h\, e^{-\omega_m^2 h^2 / 2}\,
        \mathrm{Re}\, \bar c_m e^{i \omega_m y}\Bigr), \quad \omega_m = 2 \pi m / L

    c are the Fourier coefficients of the centres: a sum over all of them, exact to rounding, at a cost per point that
    does not grow with their number.

    Args:
        lengths: periods of all angles.
        target: index of the angle.
    """

    weights: Tensor

    def __init__(self, lengths: Sequence[float], target: int) -> None:
        super().__init__()
        self.target, self.length = target, lengths[target]
        self.register_buffer("weights", torch.full((len(FIRST) + 1,), 1 / (len(FIRST) + 1), dtype=torch.float64))

    def fit(self, around: AngleCentres) -> None:
        """Find the weights, on centres left out one at a time."""
        weights, _ = em_weights(self._left_out(around))
        weights = weights.clamp_min(_LEAST)
        self.weights.copy_(weights / weights.sum())

    def forward(self, around: AngleCentres, x: Tensor) -> Tensor:
        """Log density of the angle at points ``(n, n_angles)``, float64."""
        return torch.logsumexp(self._logs(self._sums(around, x)) + self.weights.log(), 1)

    def left_out(self, around: AngleCentres) -> Tensor:
        """Log density of the angle of each centre under the others."""
        return torch.logsumexp(self._left_out(around) + self.weights.log(), 1)

    def draw(self, around: AngleCentres, n: int, generator: torch.Generator | None) -> Tensor:
        """``n`` angles, float64."""
        y, kind = around.centres[:, self.target], draw_index(self.weights, n, generator)
        centre = torch.randint(len(y), (n,), generator=generator, device=y.device)
        noise = torch.randn(n, generator=generator, dtype=y.dtype, device=y.device)
        u = torch.rand(n, generator=generator, dtype=y.dtype, device=y.device)
        widths = y.new_tensor([*FIRST, 0.0]) * self.length / (2 * math.pi)
        return torch.where(kind == len(FIRST), self.length * u, y[centre] + widths[kind] * noise)

    def _left_out(self, around: AngleCentres) -> Tensor:
        """Log densities of the parts at the centres, each without its own kernel."""
        n, own = len(around.centres), (1 + 2 * self._damping.sum(1)) / self.length
        return self._logs((n * self._sums(around, around.centres) - own) / (n - 1))

    def _logs(self, densities: Tensor) -> Tensor:
        """Log densities of the kernels of each bandwidth and of the uniform law, ``(n, n_bandwidths + 1)``."""
        uniform = torch.full_like(densities[:, :1], 1 / self.length)
        return torch.cat([densities.clamp_min(0), uniform], 1).log()

    def _sums(self, around: AngleCentres, x: Tensor) -> Tensor:
        """Densities of the kernels of each bandwidth, ``(n, n_bandwidths)``, to an absolute error of 1e-14."""
        mean, damping = around.waves(self.target, N_WAVES), self._damping.repeat(1, 2).mT
        parts = [(_waves(y, self.length, N_WAVES) * mean) @ damping for y in x[:, self.target].split(ROWS)]
        return (1 + 2 * torch.cat(parts)) / self.length

    @property
    def _damping(self) -> Tensor:
        m = torch.arange(1, N_WAVES + 1, dtype=torch.float64, device=self.weights.device)
        widths = torch.tensor(FIRST, dtype=torch.float64, device=self.weights.device)
        return (-0.5 * (m * widths.unsqueeze(1)).square()).exp()


class NextAngle(nn.Module):
    """The density of an angle given some others.

    Args:
        lengths: periods of all angles.
        given: indices of the angles that are given.
        target: index of the angle.
        neighbours, regressions, components, width: as of :class:`ConditionalKernels`.
        generator: of the initial weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        lengths: Sequence[float],
        given: Sequence[int],
        target: int,
        neighbours: int,
        regressions: Sequence[tuple[int, float]],
        components: int,
        width: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.given, self.target, self.neighbours = list(given), target, neighbours
        self.regressions, self.reach = list(regressions), max([neighbours, *(k for k, _ in regressions)])
        self.lengths, self.length, self.components = [lengths[i] for i in given], lengths[target], components
        self.counts = sorted({min(2**i, self.reach) for i in range(self.reach.bit_length() + 1)})
        kinds = components * (1 + len(regressions))
        n_features = 2 * len(self.counts) - 1 + len(regressions)
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.first, self.second = linear(generator, n_features, width), linear(generator, width, width)
        self.last = linear(generator, width, 3 * kinds + 1)
        start = torch.zeros(3 * kinds + 1)
        start[:kinds] = torch.linspace(-2, 0, components).repeat(1 + len(regressions))
        start[kinds : 2 * kinds] = torch.linspace(-5, -2, components).repeat(1 + len(regressions))
        self.last.weight.data.mul_(0.1)
        self.last.bias.data.copy_(start)
        self.metric = nn.Parameter(torch.zeros(kinds, len(self.given)))

    def standardise(self, features: Tensor) -> None:
        """Take mean and standard deviation of the features from those of all centres."""
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0) + 1e-3)

    @torch.no_grad()
    def look(self, around: AngleCentres, x: Tensor, own: Tensor | None = None) -> Look:
        """What the centres near to points ``(n, n_angles)`` say, without a centre of each if ``own`` tells it."""
        chunks = range(0, max(len(x), 1), ROWS)
        parts = [self._look(around, x[i : i + ROWS], None if own is None else own[i : i + ROWS]) for i in chunks]
        *single, targets = zip(*(vars(part).values() for part in parts), strict=True)
        whole = tuple(torch.cat(values) for values in zip(*targets, strict=True))
        return Look(*(torch.cat(values) for values in single), targets=whole)

    def _look(self, around: AngleCentres, x: Tensor, own: Tensor | None) -> Look:
        near = around.centres[around.nearest(self.given, x, self.reach, own)]
        offsets = wrap_angle(x[:, None, self.given] - near[..., self.given], x.new_tensor(self.lengths))
        squares = offsets.square().sum(-1)
        base = near[:, 0, self.target]
        angles = wrap_angle(near[..., self.target] - base.unsqueeze(1), self.length)
        targets, residuals = [angles[:, : self.neighbours]], []
        for k, ridge in self.regressions:
            weights = torch.softmax(-2 * squares[:, :k] / (squares[:, k - 1 : k] + _TINY), 1)
            z, y = -offsets[:, :k], angles[:, :k]
            z = z - torch.einsum("nk,nka->na", weights, z).unsqueeze(1)
            y = y - torch.einsum("nk,nk->n", weights, y).unsqueeze(1)
            moments = torch.einsum("nk,nka,nkb->nab", weights, z, z)
            size = ridge * moments.diagonal(dim1=-2, dim2=-1).mean(-1) + 0.1 * _TINY
            moments = moments + size[:, None, None] * torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
            slopes = torch.linalg.solve(moments, torch.einsum("nk,nka,nk->na", weights, z, y))
            targets.append(angles[:, :k] + torch.einsum("nka,na->nk", offsets[:, :k], slopes))
            residuals.append((weights * (y - torch.einsum("nka,na->nk", z, slopes)).square()).sum(1))
        reach = [squares[:, k - 1] for k in self.counts]
        spread = [angles[:, :k].square().mean(1) for k in self.counts[1:]]
        features = 0.5 * (torch.stack([*reach, *spread, *residuals], 1) + _TINY).log()
        dtype = self.metric.dtype
        told = tuple(wrap_angle(values, self.length).to(dtype) for values in targets)
        return Look(offsets.to(dtype), squares.to(dtype), base, features.to(dtype), told)

    def _laws(self, look: Look) -> tuple[list[Tensor], Tensor, Tensor]:
        """Log weights of the centres ``(n, components, k_m)``, without and by each regression; widths; log shares.

        Widths are those of all components ``(n, m)``; the last share is the uniform law's.
        """
        h = nn.functional.silu(self.first(standardised(look.features, self.mean, self.std)))
        out = self.last(h + nn.functional.silu(self.second(h)))
        bandwidth, width, share = out.tensor_split([len(self.metric), 2 * len(self.metric)], -1)
        unit = look.squares[:, min(8, self.reach) - 1, None]
        scale = unit * (2 * bandwidth.clamp(max=LIMIT)).exp() + _TINY
        squares = look.offsets.square().mT
        asked = [targets.shape[-1] for targets in look.targets]
        parts = zip(asked, self.metric.exp().split(self.components), self._by_kind(-0.5 / scale), strict=True)
        log_w = [(metric @ squares[..., :k] * factor).log_softmax(-1) for k, metric, factor in parts]
        width = self.length / (2 * math.pi) * width.clamp(max=10).exp() + FLOOR
        kernels, uniform = share[:, :-1], share[:, -1:]
        uniform = uniform.maximum(kernels.logsumexp(1, keepdim=True) + math.log(_LEAST))
        return log_w, width, torch.cat([kernels, uniform], 1).log_softmax(1)

    def _by_kind(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values of all components ``(n, m)``, without and by each regression: ``(n, components, 1)``."""
        return values.unsqueeze(-1).split(self.components, 1)

    def forward(self, look: Look, x: Tensor) -> Tensor:
        """Log densities of the angle at points ``(n, n_angles)``, float64, whose neighbourhoods are ``look``."""
        log_w, s, share = self._laws(look)
        y = (x[:, self.target] - look.base).to(self.metric.dtype)[:, None, None]
        gaps = [wrap_angle(y - targets.unsqueeze(1), self.length).square() for targets in look.targets]
        kernels = zip(log_w, gaps, self._by_kind(-0.5 / s.square()), strict=True)
        sums = torch.cat([torch.logsumexp(torch.addcmul(w, gap, factor), -1) for w, gap, factor in kernels], 1)
        mass = torch.erf(self.length / 2 / (math.sqrt(2) * s))  # within half a turn
        parts = sums - (s * mass * math.sqrt(2 * math.pi)).log()
        uniform = torch.full_like(parts[:, :1], -math.log(self.length))
        return torch.logsumexp(share + torch.cat([parts, uniform], 1), 1).double()

    def draw(self, look: Look, generator: torch.Generator | None) -> Tensor:
        """An angle for each of n neighbourhoods, ``(n,)``, float64."""
        parts, s, share = self._laws(look)
        s, share = s.double(), share.double()
        n, m, rows = len(share), share.shape[1] - 1, torch.arange(len(share), device=share.device)
        if not n:
            return look.base
        log_w = torch.cat([_padded(values, self.reach, -math.inf) for values in parts], 1).double()
        targets = torch.stack([_padded(values, self.reach, 0.0) for values in look.targets], 1)
        kind = torch.multinomial(share.exp(), 1, generator=generator).squeeze(1)
        used = kind.clamp(max=m - 1)
        centre = torch.multinomial(log_w[rows, used].exp(), 1, generator=generator).squeeze(1)
        u = 2 * torch.rand(n, generator=generator, dtype=s.dtype, device=s.device) - 1
        width = math.sqrt(2) * s[rows, used]
        noise = width * torch.erfinv(u * torch.erf(self.length / 2 / width))
        y = look.base + targets[rows, used // self.components, centre] + noise
        return torch.where(kind == m, self.length / 2 * u, y)


@singledispatch
def lengths_of(manifold: Manifold) -> tuple[float, ...]:
    """Periods of a torus."""
    raise CapabilityError(f"ConditionalKernels needs a Torus, whose angles have an order; got {manifold!r}.")


@lengths_of.register
def _(manifold: Torus) -> tuple[float, ...]:
    return manifold.lengths


def _waves(y: Tensor, length: float, n: int) -> Tensor:
    """The first n cosines, then sines, of angles ``(m,)``: ``(m, 2 n)``."""
    phase = 2 * math.pi / length * y.unsqueeze(1) * torch.arange(1, n + 1, dtype=y.dtype, device=y.device)
    return torch.cat([phase.cos(), phase.sin()], 1)


def _padded(values: Tensor, size: int, by: float) -> Tensor:
    """Values with a last axis of a size."""
    return nn.functional.pad(values, (0, size - values.shape[-1]), value=by)
