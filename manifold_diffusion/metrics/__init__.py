"""Layer 3: how good a model is: likelihood with its error, two-sample tests, kernel densities to beat, n-grams."""

from .classifier import C2STResult, c2st
from .density_mixture import Density, DensityMixture, stacked_weights
from .estimate import Estimate, nll
from .grams import ChordalGaussian, Energy, GeodesicGaussian, Gram, HeatGram
from .kernel_density import AdaptiveKernelDensity, KernelDensity, KernelMixture
from .mmd import (
    FloorResult,
    PermutationResult,
    mmd2_biased,
    mmd2_unbiased,
    mmd_permutation_test,
    mmd_published,
    real_vs_real_floor,
)
from .ngram import NGramModel, distinct, unigram_entropy
from .pit import KSResult, distance_pit, ks_uniform
from .tangent_kernel import TangentKernelMixture, TangentShape

__all__ = [
    "AdaptiveKernelDensity",
    "C2STResult",
    "ChordalGaussian",
    "Density",
    "DensityMixture",
    "Energy",
    "Estimate",
    "FloorResult",
    "GeodesicGaussian",
    "Gram",
    "HeatGram",
    "KSResult",
    "KernelDensity",
    "KernelMixture",
    "NGramModel",
    "PermutationResult",
    "TangentKernelMixture",
    "TangentShape",
    "c2st",
    "distance_pit",
    "distinct",
    "ks_uniform",
    "mmd2_biased",
    "mmd2_unbiased",
    "mmd_permutation_test",
    "mmd_published",
    "nll",
    "real_vs_real_floor",
    "stacked_weights",
    "unigram_entropy",
]
