r"""Spherical harmonics of degree up to a few hundred, in Cartesian form.

.. math:: Y_{lm}(x) = Q_{lm}(x_3)\,(x_1 + i x_2)^m, \qquad Q_{lm} = N_{lm}\,\frac{d^m P_l}{dz^m}

with fully normalised polynomials :math:`Q_{lm}`: neither they nor their gradients are singular at the poles,
:math:`Q_{lm}' = \sqrt{(l-m)(l+m+1)}\,Q_{l,m+1}`. Their three-term recurrence in l is stable; divided by factors that
depend on l and m alone it is :math:`R_{lm} = \alpha_{lm}\,x_3 R_{l-1,m} + R_{l-2,m}`, with :math:`R_{mm} = 1`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ...manifolds import Sphere
from .._patches import constant
from ._fourier_sums import fold, fourier_sums
from ._series import Amplitudes, Harmonics, SeriesTail, level_amplitudes, level_tail, n_terms, powers

__all__ = ["SphereHarmonics"]

_AT_A_TIME = 4096
"""Orders m times points of one step of the recurrence."""


class SphereHarmonics(Harmonics):
    """Eigenfunctions of ``Sphere(2)``; moments are :math:`c_{lm}` for m >= 0, complex ``(degree + 1, degree + 1)``."""

    max_degree = 256
    mode_cost, moment_cost = 0.005, 0.0015
    fourier_cost = 3.0, 0.4

    def __init__(self, manifold: Sphere) -> None:
        self.manifold = manifold

    def n_modes(self, degree: int) -> int:
        return (degree + 1) ** 2

    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        level = torch.arange(degree + 3 + n_terms(tau), dtype=torch.float64, device=tau.device)
        sizes = (2 * level).log1p()
        # Near the poles a rounding of the height changes the polynomials by some l^2 times as much.
        growth = 1 + level.square() / 128
        return level_tail(level <= degree, level * (level + 1), sizes, tau, self.manifold.log_volume, growth)

    def direct_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        waves = powers(torch.complex(x[:, 0], x[:, 1]), degree) * weights
        return self._summed(x[:, 2], waves, degree)

    def fourier_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        # On the circle of the colatitude Q_lm sin^m is a trigonometric polynomial of degree l, with the parity of m.
        angles = [torch.atan2(x[:, :2].norm(dim=1), x[:, 2]), torch.atan2(x[:, 1], x[:, 0])]
        theta, nodes = fold(fourier_sums(angles, weights, [degree, degree]))
        sine = theta.sin()
        waves = (nodes[m % 2, :, degree + m] * sine**m for m in range(degree + 1))
        return self._summed(theta.cos(), waves, degree)

    def _summed(self, z: Tensor, waves: Iterable[Tensor], degree: int) -> list[Tensor]:
        """Moments of points at heights z; by order, their weights times ``(x_1 + i x_2)^m``."""
        norms = _recurrence(self.max_degree)[1][: degree + 1].to(z)
        out = torch.zeros(degree + 1, degree + 1, dtype=torch.complex128, device=z.device)
        for m, wave in enumerate(waves):
            rows = self._rows(z, degree, m, m + 1)[0]
            out[m:, m] = torch.view_as_complex(rows @ torch.view_as_real(wave)) * norms[m:, m]
        return [out]

    def moments_at_a_time(self, degree: int, numbers: int) -> int:
        return 2 * numbers // (degree + 1)

    def queries_at_a_time(self, degree: int, numbers: int) -> int:
        return numbers // (8 * (degree + 1))

    def amplitudes(self, moments: list[Tensor]) -> Amplitudes:
        square = torch.view_as_real(moments[0]).square().sum(-1)
        level = torch.arange(len(square), dtype=square.dtype, device=square.device)
        norms = (2 * square.sum(1) - square[:, 0]).sqrt()
        return level_amplitudes(norms, 2 * level + 1, level * (level + 1), self.manifold.volume)

    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        l = torch.arange(degree + 1, dtype=x.dtype, device=x.device).unsqueeze(1)  # noqa: E741
        m = l.mT
        # Moments of m and -m are conjugate: both at once.
        twice = torch.where(m == 0, 1.0, 2.0) * moments[0][: degree + 1, : degree + 1].conj()
        slopes = ((l - m) * (l + m + 1)).clamp_min(0).sqrt() * twice
        slopes = pad(slopes[:, :-1], (1, 0))  # beside the Q_{l, m+1} that they multiply
        columns = torch.stack([twice.real, twice.imag, slopes.real, slopes.imag])  # (4, l, m)
        damping = (-(l * (l + 1)) * tau / 2).exp()  # (l, n) or (l, 1)
        norms = _recurrence(self.max_degree)[1][: degree + 1, : degree + 1].to(x)
        columns = (columns * norms * (damping if damping.shape[1] == 1 else 1)).permute(2, 0, 1)  # (m, 4, l)
        group, sums = max(1, _AT_A_TIME // max(len(x), 1)), []
        for first in range(0, degree + 1, group):
            stop = min(first + group, degree + 1)
            rows = self._rows(x[:, 2], degree, first, stop)  # (m, l, n)
            if damping.shape[1] > 1:
                rows = rows * damping[first:]
            sums.append(columns[first:stop, :, first:] @ rows)
        sums = torch.cat(sums)  # (m, 4, n)
        waves = powers(torch.complex(x[:, 0], x[:, 1]), degree)
        value, steep = torch.complex(sums[:, 0], sums[:, 1]), torch.complex(sums[1:, 2], sums[1:, 3])
        turn = (m.mT[1:] * value[1:] * waves[:-1]).sum(0)  # derivative by x_1 + i x_2
        gradient = torch.stack([turn.real, -turn.imag, (steep * waves[:-1]).real.sum(0)], -1)
        return (value * waves).real.sum(0), self.manifold.to_tangent(x, gradient)

    def _rows(self, z: Tensor, degree: int, first: int, stop: int) -> Tensor:
        """``R_lm(z)``, ``(m, l, n)``, for m from ``first`` up to ``stop`` and l from ``first``; zero for m > l."""
        table = _recurrence(self.max_degree)[0][: degree + 1, first:stop]
        factors = table.unsqueeze(2).to(z)
        starts = torch.eye(stop - first, dtype=z.dtype, device=z.device).unsqueeze(2)
        last = torch.zeros_like(z).expand(stop - first, -1)
        rows = [last + starts[0]]
        for l in range(first + 1, degree + 1):  # noqa: E741
            if stop - first == 1:  # one operation
                row = torch.addcmul(last, z, rows[-1], value=table[l].item())
            else:
                row = torch.addcmul(last, factors[l] * z, rows[-1])
            last = rows[-1]
            rows.append(row + starts[l - first] if l < stop else row)
        return torch.stack(rows, 1)


@cache
def _recurrence(degree: int) -> tuple[Tensor, Tensor]:
    """The factors alpha of the recurrence, and what R is multiplied by to be Q, both by l and m."""
    l, m = np.arange(degree + 1.0)[:, None], np.arange(degree + 1.0)  # noqa: E741
    with np.errstate(all="ignore"):
        a = np.sqrt((4 * l**2 - 1) / (l**2 - m**2))
        b = np.sqrt(((l - 1) ** 2 - m**2) / (4 * (l - 1) ** 2 - 1))
    scale = np.where(l >= m, 1.0, np.nan)
    for k in range(2, degree + 1):
        scale[k, : k - 1] = -scale[k - 2, : k - 1] / (a * b)[k, : k - 1]
    factors = np.zeros_like(scale)
    factors[1:] = np.where(l > m, scale * a, 0)[1:] / np.where(l > m, np.roll(scale, 1, 0), 1)[1:]
    top = np.sqrt(np.cumprod(np.r_[1, (2 * m[:-1] + 3) / (2 * m[:-1] + 2)]) / (4 * np.pi))
    norms, cpu = np.where(l >= m, top / scale, 0.0), torch.device("cpu")
    return constant(factors, torch.float64, cpu), constant(norms, torch.float64, cpu)
