"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .bridge_matching import BridgeMatching
from .denoising import DenoisingScoreMatching
from .implicit import ImplicitScoreMatching

__all__ = ["BridgeMatching", "DenoisingScoreMatching", "ImplicitScoreMatching", "Objective", "stratified_times"]
