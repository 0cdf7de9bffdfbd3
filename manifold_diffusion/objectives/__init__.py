"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
from .bridge_matching import BridgeMatching
from .conditional import ConditionDropout
from .denoising import DenoisingScoreMatching
from .discrete import DiscreteDenoising
from .flow_map import FlowMapMatching, flow_map, flow_map_residual
from .flow_matching import FlowMatching
from .implicit import ImplicitScoreMatching
from .likelihood import LogLikelihood
from .token_flow import TokenFlow
from .token_flow_map import TokenFlowMap, eulerian_target, lagrangian_target, semigroup_target

__all__ = [
    "BridgeMatching",
    "ConditionDropout",
    "DenoisingScoreMatching",
    "DiscreteDenoising",
    "FlowMapMatching",
    "FlowMatching",
    "ImplicitScoreMatching",
    "LogLikelihood",
    "Objective",
    "TokenFlow",
    "TokenFlowMap",
    "eulerian_target",
    "flow_map",
    "flow_map_residual",
    "lagrangian_target",
    "semigroup_target",
    "stratified_times",
]
