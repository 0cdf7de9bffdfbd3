"""Layer 5: tangent-valued networks ``(t, x, cond=None) -> tangent vector at x``, and denoisers of tokens."""

from .embeddings import HeatFeatures, TimeEmbedding
from .factors import FactorPerceptrons
from .guidance import Autoguidance, ClassifierFree, GradientGuidance
from .mlp import TangentMLP
from .token_transformer import TokenTransformer

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "FactorPerceptrons",
    "GradientGuidance",
    "HeatFeatures",
    "TangentMLP",
    "TimeEmbedding",
    "TokenTransformer",
]
