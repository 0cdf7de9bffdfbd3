"""Layer 5: tangent-valued networks ``(t, x, cond=None) -> tangent vector``, denoisers of tokens, learned kernels."""

from .conditional_kernels import ConditionalKernels
from .embeddings import HeatFeatures, TimeEmbedding
from .factors import FactorPerceptrons
from .guidance import Autoguidance, ClassifierFree, GradientGuidance
from .kernel_field import KernelField, LocalKernels
from .mlp import TangentMLP
from .token_transformer import TokenTransformer

__all__ = [
    "Autoguidance",
    "ClassifierFree",
    "ConditionalKernels",
    "FactorPerceptrons",
    "GradientGuidance",
    "HeatFeatures",
    "KernelField",
    "LocalKernels",
    "TangentMLP",
    "TimeEmbedding",
    "TokenTransformer",
]
