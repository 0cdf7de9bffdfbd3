"""Layer 3: data sets of points on manifolds: loaders that check every row, de-duplication, deterministic splits."""

from .arrays import load_npz, point_set
from .benchmarks import EARTH_FILES, load_earth, load_rna
from .categorical import points_to_probabilities, points_to_tokens, probabilities_to_points, tokens_to_points
from .conditions import mark_condition
from .convert import Coordinates
from .couplings import Coupling, ExactCoupling, IndependentCoupling, SinkhornCoupling, transport_plan
from .earth import latlon_to_points, load_airports, points_to_latlon
from .points import PointSet, Split, deduplicate, repeated, split
from .table import load_csv
from .text import CharacterCodec, load_python_manual

__all__ = [
    "EARTH_FILES",
    "CharacterCodec",
    "Coordinates",
    "Coupling",
    "ExactCoupling",
    "IndependentCoupling",
    "PointSet",
    "SinkhornCoupling",
    "Split",
    "deduplicate",
    "latlon_to_points",
    "load_airports",
    "load_csv",
    "load_earth",
    "load_npz",
    "load_python_manual",
    "load_rna",
    "mark_condition",
    "point_set",
    "points_to_latlon",
    "points_to_probabilities",
    "points_to_tokens",
    "probabilities_to_points",
    "repeated",
    "split",
    "tokens_to_points",
    "transport_plan",
]
