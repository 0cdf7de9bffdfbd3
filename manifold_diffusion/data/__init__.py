"""Layer 3: data sets of points on manifolds: loaders that check every row, de-duplication, deterministic splits."""

from .arrays import load_npz, point_set
from .backbone import (
    atoms_from_frames,
    closest_approach,
    count_broken_bonds,
    count_clashes,
    frames_from_atoms,
    rmsd,
    superpose,
    superposition,
)
from .benchmarks import EARTH_FILES, load_earth, load_rna
from .categorical import points_to_probabilities, points_to_tokens, probabilities_to_points, tokens_to_points
from .conditions import mark_condition
from .convert import Coordinates
from .couplings import Coupling, ExactCoupling, IndependentCoupling, SinkhornCoupling, transport_plan
from .earth import latlon_to_points, load_airports, points_to_latlon
from .molecules import ProteinTransition, load_adenylate_kinase, read_backbone
from .points import PointSet, Split, deduplicate, repeated, split
from .table import load_csv
from .text import CharacterCodec, load_python_manual
from .transition import TransitionProfile, frame_rmsd, transition_profile

__all__ = [
    "EARTH_FILES",
    "CharacterCodec",
    "Coordinates",
    "Coupling",
    "ExactCoupling",
    "IndependentCoupling",
    "PointSet",
    "ProteinTransition",
    "SinkhornCoupling",
    "Split",
    "TransitionProfile",
    "atoms_from_frames",
    "closest_approach",
    "count_broken_bonds",
    "count_clashes",
    "deduplicate",
    "frame_rmsd",
    "frames_from_atoms",
    "latlon_to_points",
    "load_adenylate_kinase",
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
    "read_backbone",
    "repeated",
    "rmsd",
    "split",
    "superpose",
    "superposition",
    "tokens_to_points",
    "transition_profile",
    "transport_plan",
]
