"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .denoising import DenoisingScoreMatching
from .discrete import DiscreteDenoising
from .implicit import ImplicitScoreMatching

__all__ = [
    "DenoisingScoreMatching",
    "DiscreteDenoising",
    "ImplicitScoreMatching",
    "Objective",
    "stratified_times",
]
