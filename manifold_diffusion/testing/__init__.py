"""Laws that every manifold and every heat kernel obeys, to test your own: :func:`check_all` runs all of them.

:func:`check_manifold` runs the laws of geometry, :func:`check_heat_kernel` those of a heat kernel, and
:func:`check_properties` lets hypothesis look for counterexamples; :func:`convergence_slope` measures the order of a
scheme.

A law is a function ``(manifold, dtype, generator)`` that raises :class:`LawError` with what it measured and its
tolerance; :data:`LAWS` and :data:`KERNEL_LAWS` hold all of them. Nothing in the library imports this package.
"""

from . import calculus, geometry, numerics
from .instances import instances
from .isometries import random_isometry
from .kernels import KERNEL_LAWS, check_heat_kernel
from .laws import LAWS, Law, LawError, LawRecord, check_manifold, law
from .properties import PROPERTIES, Draw, check_properties, draws
from .slopes import Slope, convergence_slope
from .suites import check_all
from .tolerances import tolerance

__all__ = [
    "KERNEL_LAWS",
    "LAWS",
    "PROPERTIES",
    "Draw",
    "Law",
    "LawError",
    "LawRecord",
    "Slope",
    "calculus",
    "check_all",
    "check_heat_kernel",
    "check_manifold",
    "check_properties",
    "convergence_slope",
    "draws",
    "geometry",
    "instances",
    "law",
    "numerics",
    "random_isometry",
    "tolerance",
]
