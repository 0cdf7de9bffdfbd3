"""Layer 1: geometry only.

One file a family; a newcomer adds a manifold by writing the five methods of :class:`Manifold`.
"""

from .base import Manifold, cast_points
from .boundary import Domain, Restricted
from .calculus import (
    divergence,
    divergence_along,
    from_coordinates,
    gradient,
    hutchinson_divergence,
    raise_index,
    tangent_coordinates,
)
from .capabilities import Compact, LieGroup, NoncompactSymmetric, Spectral, WithBoundary
from .constant_curvature import ConstantCurvature
from .correlation import Correlation
from .curved import (
    curved_dist,
    curved_exp,
    curved_inner,
    curved_log,
    curved_normal,
    curved_point,
    curved_transport,
)
from .domains import Ball, Box, HalfSpace, Hemisphere
from .euclidean import Euclidean
from .geomstats import GeomstatsManifold, from_geomstats
from .grassmann import Grassmann
from .hyperboloid import Hyperboloid, LorentzModel
from .poincare import PoincareBall
from .polytope import Polytope
from .power import Power
from .product import Product
from .projective import ComplexProjective, RealProjective
from .pullback import Pullback
from .quotient import Quotient, rotation_group
from .rigid import SE3, SE3N
from .simplex import Simplex
from .so3 import SO3
from .spd import SPD
from .special_orthogonal import SO
from .sphere import Sphere
from .stiefel import Stiefel
from .symmetry import Symmetry, geodesic_symmetry
from .torus import Circle, Torus
from .unitary import SU, U

__all__ = [
    "SE3",
    "SE3N",
    "SO",
    "SO3",
    "SPD",
    "SU",
    "Ball",
    "Box",
    "Circle",
    "Compact",
    "ComplexProjective",
    "ConstantCurvature",
    "Correlation",
    "Domain",
    "Euclidean",
    "GeomstatsManifold",
    "Grassmann",
    "HalfSpace",
    "Hemisphere",
    "Hyperboloid",
    "LieGroup",
    "LorentzModel",
    "Manifold",
    "NoncompactSymmetric",
    "PoincareBall",
    "Polytope",
    "Power",
    "Product",
    "Pullback",
    "Quotient",
    "RealProjective",
    "Restricted",
    "Simplex",
    "Spectral",
    "Sphere",
    "Stiefel",
    "Symmetry",
    "Torus",
    "U",
    "WithBoundary",
    "cast_points",
    "curved_dist",
    "curved_exp",
    "curved_inner",
    "curved_log",
    "curved_normal",
    "curved_point",
    "curved_transport",
    "divergence",
    "divergence_along",
    "from_coordinates",
    "from_geomstats",
    "geodesic_symmetry",
    "gradient",
    "hutchinson_divergence",
    "raise_index",
    "rotation_group",
    "tangent_coordinates",
]
