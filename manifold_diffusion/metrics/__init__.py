"""Layer 3: how good a model is: likelihoods and densities to beat, two-sample tests, n-grams, diagnostics."""

from .calibration import (
    DensityCalibration,
    RegionCalibration,
    density_calibration,
    farthest_points,
    nearest_centre,
    region_calibration,
)
from .classifier import C2STResult, c2st
from .density_mixture import Density, DensityMixture
from .estimate import Estimate, nll
from .grams import ChordalGaussian, Energy, GeodesicGaussian, Gram, HeatGram
from .intrinsic_dimension import intrinsic_dimension
from .kernel_density import AdaptiveKernelDensity, KernelDensity, KernelMixture
from .memorisation import Memorisation, memorisation, nearest_distance
from .mixing import Mixing, chi_square_from_uniform, mixing, total_variation_from_uniform
from .mixture_weights import stacked_weights
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
from .noise_profile import NoiseProfile
from .pit import KSResult, distance_pit, ks_uniform
from .posterior_weights import effective_number, effective_sample_size
from .straightness import Straightness, straightness
from .tangent_kernel import TangentKernelMixture, TangentShape

__all__ = [
    "AdaptiveKernelDensity",
    "C2STResult",
    "ChordalGaussian",
    "Density",
    "DensityCalibration",
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
    "Memorisation",
    "Mixing",
    "NGramModel",
    "NoiseProfile",
    "PermutationResult",
    "RegionCalibration",
    "Straightness",
    "TangentKernelMixture",
    "TangentShape",
    "c2st",
    "chi_square_from_uniform",
    "density_calibration",
    "distance_pit",
    "distinct",
    "effective_number",
    "effective_sample_size",
    "farthest_points",
    "intrinsic_dimension",
    "ks_uniform",
    "memorisation",
    "mixing",
    "mmd2_biased",
    "mmd2_unbiased",
    "mmd_permutation_test",
    "mmd_published",
    "nearest_centre",
    "nearest_distance",
    "nll",
    "real_vs_real_floor",
    "region_calibration",
    "stacked_weights",
    "straightness",
    "total_variation_from_uniform",
    "unigram_entropy",
]
