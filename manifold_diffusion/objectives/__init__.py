"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .denoising import DenoisingScoreMatching
from .flow_matching import FlowMatching
from .implicit import ImplicitScoreMatching

__all__ = ["DenoisingScoreMatching", "FlowMatching", "ImplicitScoreMatching", "Objective", "stratified_times"]
