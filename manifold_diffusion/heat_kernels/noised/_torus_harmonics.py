"""Fourier series on tori: waves factorise, a sum over a box of them is one axis at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...manifolds import Torus
from ._fourier_sums import fourier_sums
from ._series import UNITS, Amplitudes, Harmonics, SeriesTail, n_terms, tail_sums

__all__ = ["TorusHarmonics"]

_MODES, _DEGREE = 1 << 22, 1023
"""Most modes, and the highest degree."""


class TorusHarmonics(Harmonics):
    r"""Waves :math:`e^{i w \cdot x}` with :math:`|w_j| \le 2\pi\,\text{degree} / \min_j L_j` on every axis.

    The moments are :math:`\sum_i w_i e^{-i w \cdot x_i}` for :math:`w_1 \ge 0`; those of -w are conjugate.
    """

    def __init__(self, manifold: Torus) -> None:
        self.manifold = manifold
        self._units = [2 * math.pi / length for length in manifold.lengths]
        most = _MODES if manifold.n <= 3 else _MODES >> 4
        self.max_degree = 1
        while self.n_modes(self.max_degree + 1) <= most and self.max_degree < _DEGREE:
            self.max_degree += 1
        self.mode_cost = {1: 0.025}.get(manifold.n, 0.0005 if manifold.n <= 4 else 0.002)
        self.moment_cost = 0.02 if manifold.n == 1 else 0.001
        if manifold.n <= 3:
            self.fourier_cost = 0.2, 0.2 * 10 ** max(0, manifold.n - 2)

    def _counts(self, degree: int) -> list[int]:
        return [int(degree * max(self._units) / u * (1 + 1e-12)) for u in self._units]

    def n_modes(self, degree: int) -> int:
        return math.prod(2 * k + 1 for k in self._counts(degree))

    def tail(self, tau: Tensor, degree: int) -> SeriesTail:
        # A wave outside the box is outside on some axis; |w| is at most the sum of the |w_j|.
        all_, all_slope, out, out_slope, kept, kept_slope = ([] for _ in range(6))
        for unit, count in zip(self._units, self._counts(degree), strict=True):
            more = count + 3 + n_terms(tau, unit)
            w = unit * torch.arange(more, dtype=torch.float64, device=tau.device)
            terms = torch.where(w == 0, 1.0, 2.0) * (-w.square() * tau.unsqueeze(1) / 2).exp()
            for a, sums in ((terms, (kept, out, all_)), (terms * w, (kept_slope, out_slope, all_slope))):
                inside, rest = tail_sums(a, count + 1)
                for collected, part in zip(sums, (inside, rest, inside + rest), strict=True):
                    collected.append(part)
        axes, volume = range(len(self._units)), self.manifold.volume

        def product(parts: list[Tensor], *swaps: tuple[int, Tensor]) -> Tensor:
            chosen = dict(swaps)
            return math.prod(chosen.get(i, parts[i]) for i in axes) + torch.zeros_like(tau)

        value = sum(product(all_, (i, out[i])) for i in axes)
        slope = sum(product(all_, (i, out_slope[i])) for i in axes) + sum(
            product(all_, (i, out[i]), (j, all_slope[j])) for i in axes for j in axes if i != j
        )
        peak, peak_slope = product(kept), sum(product(kept, (i, kept_slope[i])) for i in axes)
        parts = (value, slope, peak, UNITS * peak, UNITS * peak_slope)
        return SeriesTail(*(torch.as_tensor(a) / volume for a in parts))

    def _frequencies(self, degree: int, like: Tensor) -> list[Tensor]:
        return [
            unit * torch.arange(0 if j == 0 else -count, count + 1, dtype=like.dtype, device=like.device)
            for j, (unit, count) in enumerate(zip(self._units, self._counts(degree), strict=True))
        ]

    def direct_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        frequencies = self._frequencies(degree, x)
        first, *others = (torch.exp(-1j * x[:, j : j + 1] * w) for j, w in enumerate(frequencies))
        rest = torch.ones(len(x), 1, dtype=first.dtype, device=x.device)
        for waves in others:
            rest = (rest.unsqueeze(-1) * waves.unsqueeze(1)).flatten(1)
        sums = (weights.unsqueeze(1) * first).mT @ rest
        return [sums.reshape([len(w) for w in frequencies])]

    def fourier_moments(self, x: Tensor, weights: Tensor, degree: int) -> list[Tensor]:
        counts = self._counts(degree)
        return [fourier_sums([-u * y for u, y in zip(self._units, x.mT, strict=True)], weights, counts)[counts[0] :]]

    def amplitudes(self, moments: list[Tensor]) -> Amplitudes:
        size = moments[0].abs()
        square, shell = torch.zeros_like(size), torch.zeros_like(size)
        for j, unit in enumerate(self._units):
            count = size.shape[j] if j == 0 else size.shape[j] // 2 + 1
            start = 0 if j == 0 else 1 - count
            w = unit * torch.arange(start, count, dtype=size.dtype, device=size.device)
            w = w.reshape(-1, *[1] * (size.dim() - 1 - j)).abs()
            square, shell = square + w.square(), torch.maximum(shell, w)
        shell = (shell / max(self._units) * (1 - 1e-12)).ceil().long().flatten()
        twice = torch.full_like(size, 2 / self.manifold.volume)
        twice[0] /= 2
        value, length = (size * twice).flatten(), square.flatten().sqrt()
        zero = torch.zeros(int(shell.max()) + 1, dtype=size.dtype, device=size.device)
        least = zero.scatter_reduce(0, shell, square.flatten(), "amin", include_self=False)
        return Amplitudes(zero.index_add(0, shell, value), zero.index_add(0, shell, value * length), least)

    def queries_at_a_time(self, degree: int, numbers: int) -> int:
        # Sums over the first axis come first.
        return numbers * (2 * self._counts(degree)[0] + 1) // self.n_modes(degree)

    def evaluate(self, x: Tensor, tau: Tensor, moments: list[Tensor], degree: int) -> tuple[Tensor, Tensor]:
        frequencies = self._frequencies(degree, x)
        coefficients = moments[0]
        for j, w in enumerate(frequencies):
            extra = coefficients.shape[j] - len(w)
            start = 0 if j == 0 else extra // 2
            coefficients = coefficients.narrow(j, start, len(w))
        # Both signs of w at once: the real part counts twice, but for w_1 = 0.
        twice = (2 - (frequencies[0] == 0).to(x)) / self.manifold.volume
        sums = [coefficients]
        for j, w in enumerate(frequencies):
            waves = torch.exp(1j * x[:, j : j + 1] * w) * (-w.square() * tau.unsqueeze(1) / 2).exp()
            if j == 0:
                rest, shape = coefficients.reshape(len(w), -1), coefficients.shape[1:]
                sums = [(a @ rest).reshape(-1, *shape) for a in (waves * twice, 1j * w * waves * twice)]
            else:
                steep = _contract(sums[0], 1j * w * waves)
                sums = [_contract(a, waves) for a in sums] + [steep]
        return sums[0].real, torch.stack([a.real for a in sums[1:]], -1)


def _contract(sums: Tensor, waves: Tensor) -> Tensor:
    """Sum over the second axis."""
    return (sums * waves.reshape(*waves.shape, *(1,) * (sums.dim() - 2))).sum(1)
