"""Layer 5: tangent-valued networks ``(t, x, cond=None) -> tangent vector at x``."""

from .embeddings import HeatFeatures, TimeEmbedding
from .guidance import Autoguidance, ClassifierFree, GradientGuidance
from .mlp import TangentMLP

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "GradientGuidance",
    "HeatFeatures",
    "TangentMLP",
    "TimeEmbedding",
]
