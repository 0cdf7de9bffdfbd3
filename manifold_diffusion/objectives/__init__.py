"""Layer 5: losses for networks."""

from .base import Objective, stratified_times
<<<<<<< HEAD
from .conditional import ConditionDropout
=======
from .bridge_matching import BridgeMatching
>>>>>>> bridges
from .denoising import DenoisingScoreMatching
from .discrete import DiscreteDenoising
from .flow_map import FlowMapMatching, flow_map, flow_map_residual
from .flow_matching import FlowMatching
from .implicit import ImplicitScoreMatching

<<<<<<< HEAD
__all__ = [
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
=======
__all__ = ["BridgeMatching", "DenoisingScoreMatching", "ImplicitScoreMatching", "Objective", "stratified_times"]
>>>>>>> bridges
