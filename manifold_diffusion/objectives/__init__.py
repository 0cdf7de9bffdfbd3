"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .denoising import DenoisingScoreMatching
from .implicit import ImplicitScoreMatching
from .token_flow import TokenFlow
from .token_flow_map import TokenFlowMap, eulerian_target, lagrangian_target, semigroup_target

__all__ = [
    "DenoisingScoreMatching",
    "ImplicitScoreMatching",
    "Objective",
    "TokenFlow",
    "TokenFlowMap",
    "eulerian_target",
    "lagrangian_target",
    "semigroup_target",
    "stratified_times",
]
