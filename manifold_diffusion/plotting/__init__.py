"""Layer 3: pictures of points and densities, one kind per manifold; a new manifold registers its :func:`views`.

Nothing here touches matplotlib's global state: no ``pyplot``, no ``rcParams``, no backend. Functions return a
``Figure`` and save it when they are given a ``path``.
"""

from .curves import plot_training, plot_trajectory
from .diagnostics import NoisePanel, plot_coverage, plot_noise_panels, plot_regions, plot_training_distances
from .figure import compare, plot
from .layout import save_figure
from .maps import Mollweide, Plane, PoincareDisk, Ramachandran, RotationMap
from .panels import Panel, plot_panels
from .registry import views
from .scene import Grid, Scene
from .strings import plot_strings
from .ternary import Ternary
from .views import Chart, CircularHistogram, Histogram, Map

__all__ = [
    "Chart",
    "CircularHistogram",
    "Grid",
    "Histogram",
    "Map",
    "Mollweide",
    "NoisePanel",
    "Panel",
    "Plane",
    "PoincareDisk",
    "Ramachandran",
    "RotationMap",
    "Scene",
    "Ternary",
    "compare",
    "plot",
    "plot_coverage",
    "plot_noise_panels",
    "plot_panels",
    "plot_regions",
    "plot_strings",
    "plot_training",
    "plot_training_distances",
    "plot_trajectory",
    "save_figure",
    "views",
]
