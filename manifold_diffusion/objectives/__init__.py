"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .bridge_matching import BridgeMatching
from .conditional import ConditionDropout
from .denoising import DenoisingScoreMatching
from .discrete import DiscreteDenoising
from .flow_map import FlowMapMatching, flow_map, flow_map_residual
from .flow_matching import FlowMatching
from .implicit import ImplicitScoreMatching

__all__ = [
    "BridgeMatching",
    "ConditionDropout",
    "DenoisingScoreMatching",
    "DiscreteDenoising",
    "FlowMapMatching",
    "FlowMatching",
    "ImplicitScoreMatching",
    "Objective",
    "flow_map",
    "flow_map_residual",
    "stratified_times",
]
