r"""Maps from the length of a Gaussian tangent vector to the radius of a Brownian motion.

If :math:`\xi` is standard normal in the tangent space, :math:`q = |\xi|` follows the chi law with d degrees of freedom;
the increasing map :math:`r(q)` with :math:`F_\tau(r(q)) = F_\chi(q)` gives a radius with the law of the kernel. In flat
space it is :math:`\sqrt\tau\, q`, so on a curved space :math:`r / (\sqrt\tau\, q)` is a smooth table, close to 1 for
short times, and the direction :math:`\xi / q` comes from the same draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from .._errors import NumericsError

if TYPE_CHECKING:
    from scipy.interpolate import BSpline

__all__ = ["chi_range", "log_sphere_area", "radial_transport"]


def chi_range(dim: int) -> tuple[float, float]:
    """Interval of q outside of which the chi law has less than 1e-12 of its mass (above) and 1e-13 (below)."""
    low = math.sqrt(dim) - 7.5
    return (low if low > 1 else 0.0), math.sqrt(dim) + 6.6


def log_sphere_area(dim: int) -> float:
    """Logarithm of the area of the unit sphere in R^dim."""
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)


def radial_transport(
    dim: int,
    log_law: Callable[[np.ndarray], np.ndarray],
    r_max: float,
    q: np.ndarray,
    end: float = math.inf,
    short: float = math.inf,
    cells: int = 160,
) -> np.ndarray:
    """The ratio r(q) / q of one law, with its limit at q = 0.

    Args:
        dim: degrees of freedom of the chi law.
        log_law: log density of the radius with respect to dr, normalised.
        r_max: the law has no mass beyond.
        q: where to evaluate, ascending.
        end: largest radius of the manifold; the map tends to it when q grows.
        short: the map is interpolated in log(q + short): small for laws that carry short steps a long way.
        cells: panels of the quadrature.

    Returns:
        ``r(q) / q``.

    Raises:
        NumericsError: if the law is not finite or its mass is not 1.
    """
    from scipy.interpolate import make_interp_spline
    from scipy.special import gammainccinv, gammaincinv

    coarse = np.linspace(0, r_max, 802)
    values = log_law(coarse[1:-1])
    keep = np.flatnonzero(values > values.max() - 80)
    low, high = float(coarse[keep[0]]), float(coarse[keep[-1] + 2])
    edges = np.linspace(low, high, cells + 1)
    if high >= end:
        # q grows like the root of -log(end - r): panels shrink geometrically towards the end.
        tail = edges[-1] - edges[-5]
        edges = np.concatenate([edges[:-4], end - tail * np.geomspace(0.85, 1e-12, 100)])
    points, weights = np.polynomial.legendre.leggauss(8)
    half = np.diff(edges) / 2
    nodes = (edges[:-1, None] + edges[1:, None]) / 2 + half[:, None] * points
    mass = (np.exp(log_law(nodes.reshape(-1)).reshape(nodes.shape)) @ weights) * half
    total = float(mass.sum())
    if not abs(total - 1) < 1e-6:
        raise NumericsError(
            f"A radial law of dimension {dim} has mass {total} instead of 1: its table can't be trusted."
        )
    below = np.concatenate([[0.0], mass.cumsum()]) / total
    above = np.concatenate([mass[::-1].cumsum()[::-1], [0.0]]) / total
    with np.errstate(all="ignore"):
        chi = np.sqrt(2 * np.where(below < 0.5, gammaincinv(dim / 2, below), gammainccinv(dim / 2, above)))
    good = np.isfinite(chi) & (chi < q[-1] + 2) & (np.diff(chi, prepend=-1.0) > 1e-9)
    if low > 0:
        good[0] = False
    chi, edges = chi[good], edges[good]
    height = np.log(end - edges) if high >= end else edges
    warp = (lambda a: np.log(a + short)) if short < math.inf else (lambda a: a)
    curve = make_interp_spline(warp(chi), height, k=5)
    inside = np.clip(q, chi[0], None)  # below the first panel, if there is such a q, the ratio stays
    inside = np.where(inside > 0, inside, 1e-9)
    value = curve(warp(inside))
    return np.where(
        inside > 1e-9, (end - np.exp(value) if high >= end else value) / inside, _slope(curve, warp, short, end, high)
    )


def _slope(curve: BSpline, warp: Callable[[np.ndarray], np.ndarray], short: float, end: float, high: float) -> float:
    """Derivative of r(q) at 0."""
    inner = float(curve.derivative()(warp(np.array(0.0)))) / (short if short < math.inf else 1.0)
    return -end * inner if high >= end else inner
