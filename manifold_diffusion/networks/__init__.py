"""Layer 5: tangent-valued networks ``(t, x, cond=None) -> tangent vector at x``."""

from .embeddings import HeatFeatures, TimeEmbedding
from .mlp import TangentMLP

__all__ = ["HeatFeatures", "TangentMLP", "TimeEmbedding"]
