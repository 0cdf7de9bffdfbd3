"""Colour ranges that outliers can't spoil, and a hue circle of constant lightness for angles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.colors import ListedColormap

__all__ = ["colour_range", "hue_wheel", "mass_levels"]

MIN_SPAN = 0.5
"""Smallest colour range in nats: a density that is flat up to numerical error must look flat."""


def mass_levels(values: np.ndarray, volume: np.ndarray | None, masses: list[float]) -> list[float]:
    """Levels of the log density above which the given fractions of the mass lie (highest-density regions)."""
    weight = np.ones_like(values) if volume is None else volume
    order = np.argsort(-values)
    mass = np.cumsum((weight * np.exp(values - values.max()))[order])
    position = np.searchsorted(mass, np.asarray(masses) * mass[-1])
    return [float(v) for v in values[order][position.clip(0, len(values) - 1)]]


def colour_range(values: np.ndarray, volume: np.ndarray | None = None) -> tuple[float, float]:
    """Range of the colours of a log density: between the levels that hold 0.5 % and 99.9 % of the mass."""
    if not np.isfinite(values).any():
        return -MIN_SPAN / 2, MIN_SPAN / 2
    high, low = mass_levels(values, volume, [0.005, 0.999])
    middle, span = (high + low) / 2, max(high - low, MIN_SPAN)
    return middle - span / 2, middle + span / 2


def hue_wheel() -> ListedColormap:
    """Cyclic colour map of constant lightness and chroma.

    References:
        Ottosson, *A perceptual color space for image processing* (OKLab), 2020.
    """
    from matplotlib.colors import ListedColormap

    h = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    a, b = 0.125 * np.cos(h), 0.125 * np.sin(h)
    lightness = 0.68
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        -1,
    ).clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return ListedColormap(rgb, name="hue wheel")
