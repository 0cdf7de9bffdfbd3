"""Tables of the radial laws on spheres and SO(3): built once, kept on disk, looked up in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .._errors import NumericsError
from ._cache import cached_arrays
from ._compact_law import CompactLaw, RotationLaw, SphereLaw
from ._patches import Image, Patches, fit, lobatto, resample
from ._transport import chi_range, log_sphere_area, radial_transport

__all__ = ["CompactTables"]

_VERSION = 4
_CELLS, _DEGREE, _NODES, _STEPS = 24, 7, 128, 192
# Radial nodes are equally spaced in log(1 + cos r + _LAYER): dense near the cut locus, even in r at both ends.
_LAYER = 0.002


def _radial_nodes() -> np.ndarray:
    return np.linspace(math.log(_LAYER), math.log(2 + _LAYER), _NODES + 1)


@dataclass(frozen=True)
class _Torch:
    """The tables of one dtype and device."""

    inverse: Patches
    drop: Patches
    peak: Patches
    step: Patches | Image
    step_inverse: Image


class CompactTables:
    r"""Radial functions of the kernel of a sphere or of SO(3).

    All take the geometry as ``versine`` = 1 - cos r and ``coversine`` = 1 + cos r, which the embedding gives without
    cancellation and without square roots, and ``tau``; they are plain torch expressions, differentiable in all
    arguments.

    Args:
        law: the radial law.
        name: file name of the cached table.
    """

    def __init__(self, law: CompactLaw, name: str) -> None:
        self.law, self.name = law, name
        self._torch: dict[tuple[torch.dtype, torch.device], _Torch] = {}
        self._arrays: dict[str, np.ndarray] | None = None
        # Time cells are equally spaced in log(1 + tau / tau_c) with an edge at the cross-over, where two methods meet.
        self.tau_c = 0.15 / (law.m + 2)
        full = math.log1p(law.tau_max / self.tau_c)
        before = max(1, round(_CELLS * math.log1p(law.cross_over / self.tau_c) / full))
        width = math.log1p(law.cross_over / self.tau_c) / before
        self.cells = math.ceil(full / width)
        self.time_max = self.cells * width
        self.tau_end = self.tau_c * math.expm1(self.time_max)
        # Decay rate of the smooth stand-in for the peak: (2 pi (1 - exp(-k tau)) / k)^(-d/2) is 1/V at infinity.
        self.decay = 2 * math.pi * math.exp(-2 * law.log_volume / law.dim)

    # ------------------------------------------------------------------ building

    def arrays(self) -> dict[str, np.ndarray]:
        """Function values at the nodes of the table, float64, from disk or computed."""
        if self._arrays is None:
            key = {
                "version": _VERSION, "law": self.name, "tau_c": self.tau_c, "cells": self.cells,
                "time_max": self.time_max,
                "degree": _DEGREE, "nodes": _NODES, "steps": _STEPS, "layer": _LAYER, "cross_over": self.law.cross_over,
            }  # fmt: skip
            self._arrays = cached_arrays(self.name, key, self._build)
        return self._arrays

    def _build(self) -> dict[str, np.ndarray]:
        law = self.law
        width = self.time_max / self.cells
        time = (np.arange(self.cells)[:, None] + (lobatto(_DEGREE)[None] + 1) / 2) * width
        inward = np.zeros(_DEGREE + 1)
        inward[0], inward[-1] = 1e-11, -1e-11  # both sides of an edge are evaluated on their own side of the cross-over
        tau = np.maximum(self.tau_c * np.expm1(time) * (1 + inward), 1e-12).reshape(-1)
        nodes = _radial_nodes()
        r = math.pi - 2 * np.arcsin(np.sqrt(np.clip((np.exp(nodes) - _LAYER) / 2, 0, 1)))
        r[0], r[-1] = math.pi, 0.0
        values = law.evaluate(tau, r[::-1])
        inverse, drop = values.inverse[:, ::-1], values.drop[:, ::-1]
        peak = values.log_peak + law.dim / 2 * np.log(-2 * math.pi * np.expm1(-self.decay * tau) / self.decay)
        q = np.linspace(*chi_range(law.dim), _STEPS + 1)
        step = np.stack([self._step_row(*row, nodes, q) for row in zip(tau, values.log_peak, drop, strict=True)])
        shape = (self.cells, _DEGREE + 1)
        arrays = {
            "inverse": inverse.reshape(*shape, -1),
            "drop": drop.reshape(*shape, -1),
            "peak": peak.reshape(*shape, 1),
            "step": step.reshape(*shape, -1),
        }
        for k, v in arrays.items():
            if not np.isfinite(v).all():
                raise NumericsError(
                    f"The table {k} of {self.name} has {int((~np.isfinite(v)).sum())} entries that are not finite."
                )
        return arrays

    def _step_row(self, tau: float, log_peak: float, drop: np.ndarray, nodes: np.ndarray, q: np.ndarray) -> np.ndarray:
        """``r / (sqrt(tau) q)`` for one time."""
        from scipy.interpolate import make_interp_spline

        law = self.law
        spline = make_interp_spline(nodes, drop, k=7)
        s = float(law.scale(np.array(tau)))
        area = log_sphere_area(law.dim)

        def coordinate(r: np.ndarray) -> np.ndarray:
            return np.log(2 * np.cos(r / 2) ** 2 + _LAYER)

        def log_law(r: np.ndarray) -> np.ndarray:
            return log_peak - 2 * np.sin(r / 2) ** 2 / s * spline(coordinate(r)) + law.log_area(r) + area

        r_max = min(math.pi, math.sqrt(tau) * (math.sqrt(law.dim) + 14))
        return radial_transport(law.dim, log_law, r_max, q, end=math.pi) / math.sqrt(tau)

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
        if dtype == torch.float64:
            degree, spline = _DEGREE, 7
            cells = a
        else:
            degree, spline = 3, 3
            cells = {k: resample(v, _DEGREE, degree, 2) for k, v in a.items() if k != "step"}
        nodes = _radial_nodes()
        q = np.linspace(*chi_range(self.law.dim), _STEPS + 1)

        def patches(coefficients: np.ndarray, columns: np.ndarray) -> Patches:
            return Patches(coefficients, (0.0, self.time_max), (float(columns[0]), float(columns[-1])), dtype, device)

        # The peak depends on time alone: one radial cell, degree 0.
        peak = fit(np.repeat(cells["peak"], 2, -1), np.array([0.0, 1.0]), degree, 1)[..., :1]
        inverse = patches(fit(cells["inverse"], nodes, degree, spline)[None], nodes)
        return _Torch(
            inverse=inverse,
            drop=patches(fit(cells["drop"], nodes, degree, spline)[None], nodes),
            peak=patches(peak[None], np.array([0.0, 1.0])),
            step=patches(fit(a["step"], q, degree, 5)[None], q)
            if dtype == torch.float64
            else Image(a["step"][None], (0.0, self.time_max), (float(q[0]), float(q[-1])), device),
            step_inverse=Image(
                a["inverse"][None] * (2 / self.law.m), (0.0, self.time_max), (float(nodes[0]), float(nodes[-1])), device
            ),
        )

    def time(self, tau: Tensor) -> Tensor:
        """Time coordinate of the tables."""
        return (tau / self.tau_c).log1p()

    def inverse_scale(self, tau: Tensor) -> Tensor:
        """1 / s(tau)."""
        m = self.law.m
        return m / 2 / (m / 2 * tau).sinh()

    def coordinate(self, coversine: Tensor) -> Tensor:
        """Radial coordinate of the tables."""
        return (coversine + _LAYER).log()

    def pull(self, coversine: Tensor, tau: Tensor) -> Tensor:
        """Minus the radial score over sin r: what multiplies the vector of length sin r that points to the source."""
        if coversine.dim() == 0:  # derivatives of numbers without axes turn into float64 under torch.func.vmap
            return self.pull(coversine.unsqueeze(0), tau.unsqueeze(-1)).squeeze(-1)
        (inverse,) = self.tables(coversine).inverse(self.time(tau), self.coordinate(coversine))
        return self.inverse_scale(tau) / inverse

    def log_peak(self, tau: Tensor) -> Tensor:
        """Log density at the source."""
        (rest,) = self.tables(tau).peak(self.time(tau), torch.zeros_like(tau))
        late = tau.clamp_max(self.tau_end)
        return rest - self.law.dim / 2 * (-torch.expm1(-self.decay * late) * (2 * math.pi / self.decay)).log()

    def log_prob(self, versine: Tensor, coversine: Tensor, tau: Tensor) -> Tensor:
        """Log density."""
        if versine.dim() == 0:
            return self.log_prob(versine.unsqueeze(0), coversine.unsqueeze(0), tau.unsqueeze(-1)).squeeze(-1)
        (drop,) = self.tables(versine).drop(self.time(tau), self.coordinate(coversine))
        return self.log_peak(tau) - versine * self.inverse_scale(tau) * drop

    def pairwise_log_prob(self, versine: Tensor, tau: Tensor) -> Tensor:
        """Log density for a matrix ``(queries, centres)`` with a time per centre, each looked up once."""
        drop = self.tables(versine).drop.at_time(self.time(tau), self.coordinate(2 - versine))
        return self.log_peak(tau) - versine * (self.inverse_scale(tau) * drop)

    def pairwise_pull(self, versine: Tensor, tau: Tensor) -> Tensor:
        """:meth:`pull` for a matrix ``(queries, centres)`` with a time per centre."""
        return self.inverse_scale(tau) / self.tables(versine).inverse.at_time(
            self.time(tau), self.coordinate(2 - versine)
        )

    def step(self, q: Tensor, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Radius for a Gaussian tangent vector of length ``q``, its cosine, and the pull there."""
        tables, time = self.tables(q), self.time(tau)
        size = tau.clamp_max(self.tau_end).sqrt() * q
        if isinstance(tables.step, Patches):
            r = size * tables.step(time, q)[0]
            cos = r.cos()
            return r, cos, self.pull(1 + cos, tau)
        row = tables.step.row(time)
        r = size * tables.step(row, q)[0]
        cos = r.cos()
        inverse = tables.step_inverse(row, (cos + (1 + _LAYER)).log())[0]  # of (2 / m) P
        return r, cos, ((self.law.m / 2 * tau).sinh() * inverse).reciprocal()


def sphere_tables(n: int) -> CompactTables:
    """Tables of the sphere of dimension ``n >= 2``."""
    return CompactTables(SphereLaw(n), f"sphere-{n}")


def rotation_tables() -> CompactTables:
    """Tables of SO(3)."""
    return CompactTables(RotationLaw(), "so3")
