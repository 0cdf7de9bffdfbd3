"""Laws that every manifold obeys, to test your own: ``check_manifold(MyManifold())``.

A law is a function ``(manifold, dtype, generator)`` that raises :class:`LawError` with what it measured and its
tolerance; :data:`LAWS` holds all of them. Nothing in the library imports this package.
"""

from . import calculus, geometry, numerics
from .instances import instances
from .isometries import random_isometry
from .laws import LAWS, Law, LawError, LawRecord, check_manifold, law
from .tolerances import tolerance

__all__ = [
    "LAWS",
    "Law",
    "LawError",
    "LawRecord",
    "calculus",
    "check_manifold",
    "geometry",
    "instances",
    "law",
    "numerics",
    "random_isometry",
    "tolerance",
]
