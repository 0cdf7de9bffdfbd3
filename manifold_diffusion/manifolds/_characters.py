r"""Irreducible representations of SO(n), SU(n) and U(n): Casimir eigenvalues, dimensions and characters.

With the metric of half the trace the eigenvalue of :math:`-\Delta` on the matrix entries of the representation of
highest weight :math:`\lambda` is :math:`|\lambda + \rho|^2 - |\rho|^2`. Characters are the determinants of Jacobi and
Trudi in the complete symmetric functions :math:`h_k` of the eigenvalues, for rotations in :math:`h_{\lambda_i - i + j}
- h_{\lambda_i - i - j}` (Fulton and Harris, *Representation Theory*, 1991, appendix A): polynomials in the traces of
powers, with no denominator that vanishes at repeated eigenvalues.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Family", "Irreps", "characters", "expand_determinant", "irreps", "levels", "n_powers"]

Family = Literal["SO", "SU", "U"]


@dataclass(frozen=True)
class Irreps:
    """Representations, the mirrored pairs of SO(2m) together.

    Arrays, as tensors made inside a transform would stay in it.

    Attributes:
        family: SO, SU or U.
        n: size of the matrices.
        weights: partitions, ``(L, rank)``, ints.
        shifts: powers of the determinant that multiply the characters (U only), ``(L,)``.
        casimir: eigenvalues of minus the Laplacian, ascending, ``(L,)``, float64.
        dimension: dimension of one representation, ``(L,)``, float64.
        copies: 2 for a mirrored pair, whose character is the sum of both, else 1, ``(L,)``.
    """

    family: Family
    n: int
    weights: np.ndarray
    shifts: np.ndarray
    casimir: np.ndarray
    dimension: np.ndarray
    copies: np.ndarray

    def __getitem__(self, keep: np.ndarray) -> Irreps:
        """Those that a mask marks."""
        fields = (self.weights, self.shifts, self.casimir, self.dimension, self.copies)
        return Irreps(self.family, self.n, *[f[keep] for f in fields])


def _partitions(length: int, largest: int) -> Iterator[tuple[int, ...]]:
    if length == 0:
        yield ()
        return
    for first in range(largest + 1):
        for rest in _partitions(length - 1, first):
            yield (first, *rest)


def _rotation(n: int, bound: float) -> list[tuple[float, tuple[int, ...], int, float, int]]:
    rank, rho = n // 2, [n / 2 - i for i in range(1, n // 2 + 1)]
    largest = 0
    while (largest + 1) * (largest + 1 + n - 2) <= bound:
        largest += 1
    rows = []
    for part in _partitions(rank, largest):
        high = [a + b for a, b in zip(part, rho, strict=True)]
        casimir = sum(a * a for a in high) - sum(b * b for b in rho)
        if casimir > bound:
            continue
        ratio = 1.0
        for i in range(rank):
            for j in range(i):
                ratio *= (high[j] ** 2 - high[i] ** 2) / (rho[j] ** 2 - rho[i] ** 2)
            if n % 2:
                ratio *= high[i] / rho[i]
        rows.append((casimir, part, 0, round(ratio), 2 if n % 2 == 0 and part[-1] > 0 else 1))
    return rows


def _unitary(n: int, bound: float, special: bool) -> list[tuple[float, tuple[int, ...], int, float, int]]:
    rho = [(n + 1) / 2 - i for i in range(1, n + 1)]
    largest = 0
    while (largest + 1) ** 2 + 2 * (largest + 1) * (n - 1) <= bound:
        largest += 1
    rows = []
    for part in _partitions(n - 1, largest):
        full, size = (*part, 0), sum(part)
        high = [a + b for a, b in zip(full, rho, strict=True)]
        casimir = 2 * (sum(a * a for a in high) - sum(b * b for b in rho)) - 2 * size * size / n
        if casimir > bound + 1e-9:
            continue
        ratio = 1.0
        for i in range(n):
            for j in range(i):
                ratio *= (high[j] - high[i]) / (rho[j] - rho[i])
        if special:
            rows.append((casimir, part, 0, round(ratio), 1))
            continue
        reach = math.isqrt(int(n * bound / 2) + 1) + 1
        for shift in range(-(reach + size) // n - 1, (reach - size) // n + 2):
            value = casimir + 2 / n * (size + n * shift) ** 2
            if value <= bound + 1e-9:
                rows.append((value, part, shift, round(ratio), 1))
    return rows


@lru_cache(maxsize=64)
def irreps(family: Family, n: int, bound: float) -> Irreps:
    """All representations with Casimir eigenvalue at most ``bound``, ascending."""
    rows = sorted(_rotation(n, bound) if family == "SO" else _unitary(n, bound, family == "SU"))
    casimir, weights, shifts, dimension, copies = zip(*rows, strict=True)
    rank = len(weights[0])
    return Irreps(
        family,
        n,
        np.array(weights, dtype=np.int64).reshape(len(rows), rank),
        np.array(shifts, dtype=np.int64),
        np.array(casimir, dtype=np.float64),
        np.array(dimension, dtype=np.float64),
        np.array(copies, dtype=np.float64),
    )


@lru_cache(maxsize=64)
def levels(family: Family, n: int, n_levels: int) -> tuple[Irreps, np.ndarray]:
    """Representations of the first ``n_levels`` distinct eigenvalues, and the level of each."""
    bound = 4.0 * n
    while True:
        found = irreps(family, n, bound)
        level = np.cumsum(np.diff(found.casimir, prepend=found.casimir[:1]) > 1e-6)
        if level[-1] + 1 >= n_levels:
            return found[level < n_levels], level[level < n_levels]
        bound *= 1.5


def characters(reps: Irreps, power_sums: Tensor, determinant: Tensor | None = None) -> Tensor:
    """Characters, ``(*batch, L)``: real for rotations, else complex.

    Args:
        reps: the representations.
        power_sums: traces of the powers 1, ..., K of a group element, ``(*batch, K)``, K >= :func:`n_powers`.
        determinant: determinant of the element, ``(*batch,)``: for U(n).
    """
    device, rank = power_sums.device, reps.weights.shape[1]
    one = torch.ones_like(power_sums[..., 0])
    complete = [one]
    for k in range(1, n_powers(reps) + 1):
        terms = [power_sums[..., i - 1] * complete[k - i] for i in range(1, k + 1)]
        complete.append(torch.stack(terms).sum(0) / k)
    # h of a negative index is zero: those indices point to a zero appended at the end.
    table = torch.stack([*complete, torch.zeros_like(one)], -1)
    place = np.arange(1, rank + 1)
    base = reps.weights[:, :, None] - place[:, None]  # lambda_i - i, (L, rank, 1)

    def entry(index: np.ndarray) -> Tensor:
        return table[..., torch.from_numpy(np.where(index < 0, len(complete), index)).to(device)]

    matrix = entry(base + place)
    if reps.family == "SO":
        matrix = matrix - entry(base - place)
    result = expand_determinant(matrix, rank) if rank else one.unsqueeze(-1).expand(*one.shape, len(reps.casimir))
    if reps.family == "U" and determinant is not None:
        result = result * _powers(determinant, reps.shifts)
    return result


def _powers(determinant: Tensor, shifts: np.ndarray) -> Tensor:
    """Integer powers of numbers of modulus 1, ``(*batch, L)``."""
    table = [torch.ones_like(determinant)]
    for _ in range(int(np.abs(shifts).max())):
        table.append(table[-1] * determinant)
    powers = torch.from_numpy(shifts).to(determinant.device)
    chosen = torch.stack(table, -1)[..., powers.abs()]
    return torch.where(powers < 0, chosen.real - 1j * chosen.imag, chosen)


def n_powers(reps: Irreps) -> int:
    """Number of power sums that the characters need."""
    return int(reps.weights.max()) + reps.weights.shape[1] if reps.weights.size else 1


def expand_determinant(a: Tensor, size: int) -> Tensor:
    """Determinant by expansion, without divisions: its derivatives are right where it vanishes.

    ``torch.linalg.det`` (2.13) of a complex matrix has wrong forward-over-reverse derivatives.
    """
    minors: dict[tuple[int, ...], Tensor] = {(c,): a[..., 0, c] for c in range(size)}
    for row in range(1, size):
        larger: dict[tuple[int, ...], Tensor] = {}
        for columns in combinations(range(size), row + 1):
            terms = [
                (-1) ** (row + k) * a[..., row, c] * minors[columns[:k] + columns[k + 1 :]]
                for k, c in enumerate(columns)
            ]
            larger[columns] = torch.stack(terms).sum(0)
        minors = larger
    return minors[tuple(range(size))]
