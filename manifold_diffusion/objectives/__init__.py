"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .conditional import ConditionDropout
from .denoising import DenoisingScoreMatching
from .implicit import ImplicitScoreMatching

__all__ = ["ConditionDropout", "DenoisingScoreMatching", "ImplicitScoreMatching", "Objective", "stratified_times"]
