r"""Tables of smooth functions of two variables, stored as one polynomial per cell.

Along the first variable (time) each cell is fitted by itself at its Chebyshev-Lobatto points, so that nothing in one
cell reaches the next. Along the second (radius) a spline through equally spaced nodes keeps derivatives continuous,
which divergences of the score need. A look-up is one gather of a contiguous row and two Horner sums; it is
differentiable in both variables any number of times.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .._tensors import untracked

__all__ = ["Image", "Patches", "constant", "fit", "lobatto", "resample"]


def constant(array: np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A plain tensor, to be kept, whatever transform of ``torch.func`` or inference mode runs at its first use."""
    with untracked():
        return torch.from_numpy(np.ascontiguousarray(array)).to(device=device, dtype=dtype)


def lobatto(degree: int) -> np.ndarray:
    """Chebyshev-Lobatto points in [-1, 1], ascending."""
    return -np.cos(np.pi * np.arange(degree + 1) / degree)


def _to_monomials(values: np.ndarray, degree: int) -> np.ndarray:
    """Monomial coefficients in [-1, 1] of interpolants through ``(cells, degree + 1, ...)`` at the Lobatto points."""
    inverse = np.linalg.inv(np.vander(lobatto(degree), increasing=True))
    return np.einsum("ij,cj...->ci...", inverse, values)


def fit(values: np.ndarray, columns: np.ndarray, degree: int, spline: int) -> np.ndarray:
    """Coefficients of the patches.

    Args:
        values: function values ``(cells, degree + 1, nodes)`` at the Lobatto points of each time cell and the radial
            nodes.
        columns: the equally spaced radial nodes.
        degree: polynomial degree in time.
        spline: degree of the radial spline, odd.

    Returns:
        ``(cells, nodes - 1, degree + 1, spline + 1)``, monomials of local coordinates in [-1, 1].
    """
    from scipy.interpolate import make_interp_spline

    rows = _to_monomials(values, degree)
    cells, _, nodes = rows.shape
    curve = make_interp_spline(columns, rows.reshape(-1, nodes).T, k=spline)
    middle, half = (columns[1:] + columns[:-1]) / 2, (columns[1] - columns[0]) / 2
    pieces = [
        curve.derivative(j)(middle) * half**j / math.factorial(j) if j else curve(middle) for j in range(spline + 1)
    ]
    stacked = np.stack(pieces, -1)  # (nodes - 1, cells * (degree + 1), spline + 1)
    return np.ascontiguousarray(stacked.reshape(nodes - 1, cells, degree + 1, spline + 1).transpose(1, 0, 2, 3))


def resample(values: np.ndarray, degree: int, new_degree: int, refine: int) -> np.ndarray:
    """The function at the Lobatto points of smaller cells, ``(cells * refine, new_degree + 1, nodes)``."""
    rows = _to_monomials(values, degree)
    cells, _, nodes = rows.shape
    edges = np.linspace(-1, 1, refine + 1)
    points = (edges[:-1, None] + edges[1:, None]) / 2 + lobatto(new_degree)[None, :] / refine
    powers = np.vander(points.reshape(-1), degree + 1, increasing=True)
    return np.einsum("pk,ckn->cpn", powers, rows).reshape(cells * refine, new_degree + 1, nodes)


class Patches:
    """Look-up of one or more functions that share their cells.

    Args:
        coefficients: ``(channels, cells, columns, degree + 1, spline + 1)`` from :func:`fit`.
        time_range: first and last value of the time coordinate.
        radial_range: first and last value of the radial coordinate.
        dtype: of the table and of the look-ups.
        device: of the table.
    """

    def __init__(
        self,
        coefficients: np.ndarray,
        time_range: tuple[float, float],
        radial_range: tuple[float, float],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        channels, cells, columns, p, q = coefficients.shape
        self.channels, self.cells, self.columns, self.p, self.q = channels, cells, columns, p, q
        rows = coefficients.transpose(1, 2, 3, 4, 0).reshape(cells * columns, p * q * channels)
        self.rows = constant(rows, dtype, device)
        self.time_start, self.time_scale = time_range[0], cells / (time_range[1] - time_range[0])
        self.radial_start, self.radial_scale = radial_range[0], columns / (radial_range[1] - radial_range[0])

    def locate(self, coordinate: Tensor, start: float, scale: float, cells: int) -> tuple[Tensor, Tensor]:
        """Cell number and local coordinate in [-1, 1]; outside the table the nearest edge."""
        position = ((coordinate - start) * scale).clamp(0, cells)
        cell = position.detach().floor().clamp_max(cells - 1)
        return cell, 2 * (position - cell) - 1

    def __call__(self, time: Tensor, radial: Tensor) -> tuple[Tensor, ...]:
        """The functions at broadcastable coordinates, one tensor per channel."""
        i, f = self.locate(time, self.time_start, self.time_scale, self.cells)
        j, g = self.locate(radial, self.radial_start, self.radial_scale, self.columns)
        # A NaN coordinate gives NaN, from a row that exists.
        index = (i * self.columns + j).long().clamp(0, self.cells * self.columns - 1)
        row = torch.nn.functional.embedding(index, self.rows)
        return self._evaluate(row, f, g)

    def at_time(self, time: Tensor, radial: Tensor) -> Tensor:
        """A one-channel table at coordinates ``(queries, centres)``, with times ``(centres,)`` or ``(1,)``."""
        i, f = self.locate(time, self.time_start, self.time_scale, self.cells)
        j, g = self.locate(radial, self.radial_start, self.radial_scale, self.columns)
        rows = self.rows.view(self.cells, self.columns, self.p, self.q).index_select(
            0, i.long().clamp(0, self.cells - 1)
        )
        curve = rows[:, :, self.p - 1]
        for a in range(self.p - 2, -1, -1):
            curve = rows[:, :, a] + f[:, None, None] * curve
        first = torch.arange(len(time), dtype=torch.long, device=time.device) * self.columns
        terms = torch.nn.functional.embedding(
            j.long().clamp(0, self.columns - 1) + first, curve.reshape(-1, self.q)
        ).unbind(-1)
        value = terms[-1]
        for term in reversed(terms[:-1]):
            value = torch.addcmul(term, g, value)
        return value

    def _evaluate(self, row: Tensor, f: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        terms = row.unbind(-1)  # order: power of f, power of g, channel
        out = []
        for c in range(self.channels):
            value = None
            for a in range(self.p - 1, -1, -1):
                inner = terms[(a * self.q + self.q - 1) * self.channels + c]
                for b in range(self.q - 2, -1, -1):
                    inner = terms[(a * self.q + b) * self.channels + c] + g * inner
                value = inner if value is None else inner + f * value
            assert value is not None
            out.append(value)
        return tuple(out)

    @property
    def nbytes(self) -> int:
        """Size of the table in bytes."""
        return self.rows.numel() * self.rows.element_size()


class Image:
    """Bilinear look-up on a fine grid in one fused operation: for training noise, where every launch counts.

    Args:
        values: ``(channels, cells, degree + 1, nodes)`` at the Lobatto points of each time cell and at equally spaced
            radial nodes.
        time_range: first and last value of the time coordinate.
        radial_range: first and last value of the radial coordinate.
        device: of the table.
        per_cell: grid intervals per time cell.
        columns: grid intervals along the radius.
    """

    def __init__(
        self,
        values: np.ndarray,
        time_range: tuple[float, float],
        radial_range: tuple[float, float],
        device: torch.device,
        per_cell: int = 20,
        columns: int = 512,
    ) -> None:
        from scipy.interpolate import make_interp_spline

        channels, cells, p, nodes = values.shape
        grid = np.linspace(-1, 1, per_cell + 1)[:-1]
        powers = np.vander(grid, p, increasing=True)
        rows = np.stack([_to_monomials(v, p - 1) for v in values])
        fine = np.einsum("gp,tcpn->tcgn", powers, rows).reshape(channels, cells * per_cell, nodes)
        fine = np.concatenate([fine, values[:, -1:, -1]], 1)
        at = np.linspace(0, 1, columns + 1)
        picture = make_interp_spline(np.linspace(0, 1, nodes), fine, k=5, axis=2)(at)
        self.picture = constant(picture[None], torch.float32, device)
        self.time_scale, self.time_shift = _affine(time_range)
        self.radial_scale, self.radial_shift = _affine(radial_range)

    def row(self, time: Tensor) -> Tensor:
        """Position along the time axis; shared by images with the same time range."""
        return torch.rsub(time, self.time_shift, alpha=-self.time_scale)  # shift + scale * time in one operation

    def __call__(self, row: Tensor, radial: Tensor) -> Tensor:
        """The functions, ``(channels, *batch)``, at the position of :meth:`row`; outside the table the nearest edge."""
        column = torch.rsub(radial, self.radial_shift, alpha=-self.radial_scale)
        if column.shape != row.shape:
            column, row = torch.broadcast_tensors(column, row)
        grid = torch.stack((column, row), -1).view(1, 1, -1, 2)
        out = torch.nn.functional.grid_sample(
            self.picture, grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        return out.view(self.picture.shape[1], *column.shape)

    @property
    def nbytes(self) -> int:
        """Size of the table in bytes."""
        return self.picture.numel() * 4


def _affine(interval: tuple[float, float]) -> tuple[float, float]:
    """Scale and shift that take an interval to [-1, 1]."""
    scale = 2 / (interval[1] - interval[0])
    return scale, -1 - scale * interval[0]
