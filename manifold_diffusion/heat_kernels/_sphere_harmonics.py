r"""Spherical harmonics of degree up to about a hundred, in Cartesian form.

.. math:: Y_{lm}(x) = Q_{lm}(x_3)\,(x_1 + i x_2)^m, \qquad Q_{lm} = N_{lm}\,\frac{d^m P_l}{dz^m}

with fully normalised polynomials :math:`Q_{lm}`: their three-term recurrence in l is stable, and neither they nor their
gradients are singular at the poles: :math:`Q_{lm}' = \sqrt{(l-m)(l+m+1)}\,Q_{l,m+1}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..manifolds import Sphere
from ._spectral import Harmonics, SeriesTail, level_tail, n_terms

__all__ = ["SphereHarmonics"]


class SphereHarmonics(Harmonics):
    """Eigenfunctions of ``Sphere(2)``; moments are :math:`c_{lm}` for m >= 0, complex ``(degree + 1, degree + 1)``."""

    max_degree = 96
    mode_cost, moment_cost = 0.03, 0.004

    def __init__(self, manifold: Sphere) -> None:
        self.manifold = manifold

    def n_modes(self, degree: int) -> int:
        return (degree + 1) ** 2

    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        level = torch.arange(degree + 3 + n_terms(tau), dtype=torch.float64, device=tau.device)
        sizes = (2 * level).log1p()
        return level_tail(level <= degree, level * (level + 1), sizes, tau, self.manifold.log_volume)

    def moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        waves = weights * self._powers(x, degree)
        real, imag = waves.real.contiguous(), waves.imag.contiguous()
        out = torch.zeros(degree + 1, degree + 1, dtype=waves.dtype, device=x.device)
        for l, row in enumerate(self._rows(x, degree)):  # noqa: E741
            parts = [(row * a[: l + 1]).sum(1) for a in (real, imag)]
            out[l, : l + 1] = torch.complex(parts[0], parts[1])
        return [out]

    def moments_at_a_time(self, degree: int, numbers: int) -> int:
        return numbers // (8 * (degree + 1))

    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        l = torch.arange(degree + 1, dtype=x.dtype, device=x.device).unsqueeze(1)  # noqa: E741
        m = l.mT
        # Moments of m and -m are conjugate: both at once.
        twice = torch.where(m == 0, 1.0, 2.0) * moments[0][: degree + 1, : degree + 1].conj()
        slopes = ((l - m) * (l + m + 1)).clamp_min(0).sqrt() * twice
        slopes = pad(slopes[:, :-1], (1, 0))  # beside the Q_{l, m+1} that they multiply
        columns = torch.stack([twice.real, twice.imag, slopes.real, slopes.imag])  # (4, l, m)
        damping = (-(l * (l + 1)) * tau / 2).exp()  # (l, n) or (l, 1)
        table = self._polynomials(x, degree)  # (m, l, n)
        if damping.shape[1] == 1:
            columns = columns * damping
        else:
            table = table * damping
        sums = columns.permute(2, 0, 1) @ table  # (m, 4, n)
        waves = self._powers(x, degree)
        value, steep = torch.complex(sums[:, 0], sums[:, 1]), torch.complex(sums[1:, 2], sums[1:, 3])
        turn = (m.mT[1:] * value[1:] * waves[:-1]).sum(0)  # derivative by x_1 + i x_2
        gradient = torch.stack([turn.real, -turn.imag, (steep * waves[:-1]).real.sum(0)], -1)
        return (value * waves).real.sum(0), self.manifold.to_tangent(x, gradient)

    @staticmethod
    def _powers(x: Tensor, degree: int) -> Tensor:
        """``(x_1 + i x_2)^m``, ``(degree + 1, n)``."""
        zeta = torch.complex(x[:, 0], x[:, 1])
        powers = [torch.ones_like(zeta)]
        for _ in range(degree):
            powers.append(powers[-1] * zeta)
        return torch.stack(powers)

    def _polynomials(self, x: Tensor, degree: int) -> Tensor:
        """Fully normalised ``Q_lm(x_3)``, zero for m > l: ``(m, l, n)``."""
        return torch.stack([pad(row, (0, 0, 0, degree + 1 - len(row))) for row in self._rows(x, degree)], 1)

    @staticmethod
    def _rows(x: Tensor, degree: int) -> Iterator[Tensor]:
        """Fully normalised ``Q_lm(x_3)`` of one l after the other, ``(l + 1, n)``."""
        z = x[:, 2]
        top = math.sqrt(1 / (4 * math.pi))
        last, now = torch.zeros_like(z).unsqueeze(0), torch.full_like(z, top).unsqueeze(0)
        yield now
        for l in range(1, degree + 1):  # noqa: E741
            m = torch.arange(l, dtype=x.dtype, device=x.device).unsqueeze(1)
            a = ((4 * l * l - 1) / (l * l - m * m)).sqrt()
            row = a * z * now
            if l > 1:
                m, square = m[:-1], (l - 1) ** 2
                b = ((square - m * m) / (4 * square - 1)).sqrt()
                row = torch.cat([row[:-1] - a[:-1] * b * last, row[-1:]])
            top *= math.sqrt((2 * l + 1) / (2 * l))
            last, now = now, torch.cat([row, torch.full_like(z, top).unsqueeze(0)])
            yield now
