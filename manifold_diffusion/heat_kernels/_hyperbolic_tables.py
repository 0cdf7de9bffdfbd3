"""Tables of the radial law on hyperbolic space: built once, kept on disk, looked up in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._errors import NumericsError
from ._cache import cached_arrays
from ._hyperbolic_law import HyperbolicLaw, langevin, log_ratio
from ._patches import Image, Patches, fit, lobatto, resample
from ._transport import chi_range, log_sphere_area, radial_transport

__all__ = ["HyperbolicTables", "LineLaw"]

_VERSION = 2
_CELLS, _DEGREE, _NODES, _STEPS = 24, 7, 128, 192
_RADIUS = 400.0  # end of the radial nodes; the tabulated functions are constant beyond, to 1 / r
_SHORT = 0.01  # step nodes are equally spaced in log(q + _SHORT): late times move short steps a long way


@dataclass(frozen=True)
class _Torch:
    """The tables of one dtype and device."""

    drift: Patches
    correction: Patches
    step: Patches | Image


class HyperbolicTables:
    r"""Radial functions of the kernel of :math:`H^n`, with :math:`\rho = (n-1)/2`.

    .. math::
        -\partial_r \log p = r \Big(\frac1\tau + \frac{G(r, \tau)}{\sqrt{1 + r^2}}\Big), \qquad
        \log p = -\frac{r^2}{2\tau} - \frac n2 \log 2\pi\tau + \rho \log\frac{r}{\sinh r} + \tau\, C(r, \tau).

    G and C are smooth and bounded: G is :math:`\rho/3` at the origin for short times and tends to :math:`\rho` for
    large radii, C is -1/2 for n = 3.

    Args:
        n: dimension, at least 2.
    """

    def __init__(self, n: int) -> None:
        self.dim, self.rho = n, (n - 1) / 2
        self.name = f"hyperboloid-{n}"
        self.tau_end = 150 / self.rho
        self.tau_c = 0.5 / n
        self.time_max = math.log1p(self.tau_end / self.tau_c)
        self._torch: dict[tuple[torch.dtype, torch.device], _Torch] = {}
        self._arrays: dict[str, np.ndarray] | None = None

    # ------------------------------------------------------------------ building

    def arrays(self) -> dict[str, np.ndarray]:
        """Function values at the nodes of the table, float64, from disk or computed."""
        if self._arrays is None:
            key = {
                "version": _VERSION, "n": self.dim, "tau_c": self.tau_c, "tau_end": self.tau_end, "cells": _CELLS,
                "degree": _DEGREE,
                "nodes": _NODES, "steps": _STEPS, "radius": _RADIUS, "short": _SHORT,
            }  # fmt: skip
            self._arrays = cached_arrays(self.name, key, self._build)
        return self._arrays

    def _build(self) -> dict[str, np.ndarray]:
        law = HyperbolicLaw(self.dim)
        time = (np.arange(_CELLS)[:, None] + (lobatto(_DEGREE)[None] + 1) / 2) * self.time_max / _CELLS
        tau = np.maximum(self.tau_c * np.expm1(time), 1e-9).reshape(-1)
        nodes = _radial_nodes()
        w = np.expm1(nodes)
        r = np.sqrt((w**2 + w * np.sqrt(w**2 + 4)) / 2)  # inverse of w = r^2 / sqrt(1 + r^2)
        values = law.evaluate(tau, r)
        k = np.where(r < 1e-4, 1 / 3, langevin(r) / np.where(r < 1e-4, 1.0, r))
        drift = values.pull * (self.rho * k * np.sqrt(1 + r**2))
        q = _step_nodes(self.dim)
        step = np.stack([self._step_row(*row, nodes, q) for row in zip(tau, drift, values.correction, strict=True)])
        shape = (_CELLS, _DEGREE + 1)
        arrays = {
            "drift": drift.reshape(*shape, -1),
            "correction": values.correction.reshape(*shape, -1),
            "step": step.transpose(1, 0, 2).reshape(2, *shape, -1),
        }
        for name, v in arrays.items():
            if not np.isfinite(v).all():
                raise NumericsError(
                    f"The table {name} of {self.name} has {int((~np.isfinite(v)).sum())} entries that are not finite."
                )
        return arrays

    def _step_row(
        self, tau: float, drift: np.ndarray, correction: np.ndarray, nodes: np.ndarray, q: np.ndarray
    ) -> np.ndarray:
        """``log(r / (sqrt(tau) q))`` and G at r(q) for one time."""
        from scipy.interpolate import make_interp_spline

        n = self.dim
        spline = make_interp_spline(nodes, np.stack([correction, drift], 1), k=7)
        constant = log_sphere_area(n) - n / 2 * math.log(2 * math.pi * tau)

        def log_law(r: np.ndarray) -> np.ndarray:
            ratio = log_ratio(r)
            volume = (n - 1) * (np.log(np.maximum(r, 1e-300)) - ratio)
            return constant - r**2 / (2 * tau) + self.rho * ratio + tau * spline(_coordinate(r))[:, 0] + volume

        r_max = (n - 1) * tau / 2 + math.sqrt(tau) * (math.sqrt(n) + 14)
        ratio = radial_transport(n, log_law, r_max, q, short=_SHORT)
        return np.stack([np.log(ratio / math.sqrt(tau)), spline(_coordinate(ratio * q))[:, 1]])

    # ------------------------------------------------------------------ looking up

    def tables(self, like: Tensor) -> _Torch:
        """The tables in the dtype and on the device of a tensor."""
        key = (like.dtype, like.device)
        found = self._torch.get(key)
        if found is None:
            found = self._torch[key] = self._to_torch(*key)
        return found

    def _to_torch(self, dtype: torch.dtype, device: torch.device) -> _Torch:
        a = self.arrays()
        double = dtype == torch.float64
        degree, spline = (_DEGREE, 7) if double else (3, 3)

        def patches(values: list[np.ndarray], columns: np.ndarray, order: int) -> Patches:
            rows = values if double else [resample(v, _DEGREE, degree, 2) for v in values]
            coefficients = np.stack([fit(v, columns, degree, order) for v in rows])
            return Patches(coefficients, (0.0, self.time_max), (float(columns[0]), float(columns[-1])), dtype, device)

        nodes = _radial_nodes()
        steps = np.log(_step_nodes(self.dim) + _SHORT)
        return _Torch(
            drift=patches([a["drift"]], nodes, spline),
            correction=patches([a["correction"]], nodes, spline),
            step=patches(list(a["step"]), steps, 5)
            if double
            else Image(a["step"], (0.0, self.time_max), (float(steps[0]), float(steps[-1])), device),
        )

    def time(self, tau: Tensor) -> Tensor:
        """Time coordinate of the tables."""
        return (tau / self.tau_c).log1p()

    @staticmethod
    def coordinate(r: Tensor) -> Tensor:
        """Radial coordinate of the tables, even in r."""
        squared = r.square()
        return (squared * (1 + squared).rsqrt()).log1p()

    def pull(self, r: Tensor, tau: Tensor) -> Tensor:
        """Minus the radial score over r: what multiplies the logarithm that points to the source."""
        (drift,) = self.tables(r).drift(self.time(tau), self.coordinate(r))
        return 1 / tau + drift * (1 + r.square()).rsqrt()

    def log_prob(self, r: Tensor, tau: Tensor) -> Tensor:
        """Log density."""
        (correction,) = self.tables(r).correction(self.time(tau), self.coordinate(r))
        flat = -r.square() / (2 * tau) - self.dim / 2 * (2 * math.pi * tau).log()
        return flat - self.rho * _log_sinhc(r) + tau * correction

    def pairwise_log_prob(self, r: Tensor, tau: Tensor) -> Tensor:
        """:meth:`log_prob` for a matrix ``(queries, centres)`` with a time per centre."""
        correction = self.tables(r).correction.at_time(self.time(tau), self.coordinate(r))
        flat = -r.square() / (2 * tau) - self.dim / 2 * (2 * math.pi * tau).log()
        return flat - self.rho * _log_sinhc(r) + tau * correction

    def step(self, q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Radius for a Gaussian tangent vector of length ``q``, and the pull there."""
        step, time, column = self.tables(q).step, self.time(tau), (q + _SHORT).log()
        log_stretch, drift = step(time, column) if isinstance(step, Patches) else step(step.row(time), column)
        r = tau.sqrt() * q * log_stretch.exp()
        return r, 1 / tau + drift * (1 + r.square()).rsqrt()


class LineLaw:
    """The radial law on the hyperbolic line, which is flat: the interface of the tables, in closed form."""

    tau_end = math.inf

    @staticmethod
    def pull(r: Tensor, tau: Tensor) -> Tensor:
        """Minus the radial score over r."""
        return (1 / tau).expand(torch.broadcast_shapes(r.shape, tau.shape))

    @staticmethod
    def log_prob(r: Tensor, tau: Tensor) -> Tensor:
        """Log density."""
        return -r.square() / (2 * tau) - (2 * math.pi * tau).log() / 2

    pairwise_log_prob = log_prob

    @classmethod
    def step(cls, q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Radius for a Gaussian tangent vector of length ``q``, and the pull there."""
        return tau.sqrt() * q, cls.pull(q, tau)


def _radial_nodes() -> np.ndarray:
    return np.linspace(0, _coordinate(np.array(_RADIUS)), _NODES + 1)


def _coordinate(r: np.ndarray) -> np.ndarray:
    return np.log1p(r**2 / np.sqrt(1 + r**2))


def _step_nodes(dim: int) -> np.ndarray:
    low, high = chi_range(dim)
    q = np.exp(np.linspace(math.log(low + _SHORT), math.log(high + _SHORT), _STEPS + 1)) - _SHORT
    q[0] = low
    return q


def _log_sinhc(r: Tensor) -> Tensor:
    """``log(sinh(r) / r)``, without overflow."""
    small = r < 0.5
    inner = torch.where(small, torch.ones_like(r), r)
    closed = inner + torch.log1p(-(-2 * inner).exp()) - (2 * inner).log()
    s = torch.where(small, r, torch.zeros_like(r)).square()
    terms = (1 / 6, -1 / 180, 1 / 2835, -1 / 37800, 1 / 467775, -691 / 3831077250, 2 / 127702575)
    series = torch.zeros_like(s)
    for c in reversed(terms):
        series = s * (c + series)
    return torch.where(small, series, closed)
