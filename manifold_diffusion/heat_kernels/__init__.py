"""Layer 2: heat kernels: ``heat_kernel(M)`` samples, scores and evaluates the law of Brownian motion on ``M``."""

from .base import HeatKernel, KernelSample, brownian_time, heat_kernel
from .compact_group import MatrixGroupKernel
from .constant_curvature import ConstantCurvatureKernel
from .euclidean import EuclideanKernel
from .hyperboloid import HyperboloidKernel
from .mixture import HeatKernelMixture
from .noised import EVALUATORS, Evaluator, NoisedData, NoisedValue
from .pinned import draw_bridge, sample_pinned
from .poincare import PoincareBallKernel
from .power import PowerKernel
from .product import ProductKernel
from .projective import ComplexProjectiveKernel
from .pullback import PullbackKernel
from .quotient import ImageKernel
from .reflected import BoxKernel, MirrorKernel
from .rigid import RigidKernel
from .short_time import ShortTimeKernel
from .simplex import SimplexKernel
from .so3 import SO3Kernel
from .spd import AffineSPDKernel
from .sphere import CircleKernel, SphereKernel
from .torus import TorusKernel
from .walk import geodesic_random_walk

__all__ = [
    "EVALUATORS",
    "AffineSPDKernel",
    "BoxKernel",
    "CircleKernel",
    "ComplexProjectiveKernel",
    "ConstantCurvatureKernel",
    "EuclideanKernel",
    "Evaluator",
    "HeatKernel",
    "HeatKernelMixture",
    "HyperboloidKernel",
    "ImageKernel",
    "KernelSample",
    "MatrixGroupKernel",
    "MirrorKernel",
    "NoisedData",
    "NoisedValue",
    "PoincareBallKernel",
    "PowerKernel",
    "ProductKernel",
    "PullbackKernel",
    "RigidKernel",
    "SO3Kernel",
    "ShortTimeKernel",
    "SimplexKernel",
    "SphereKernel",
    "TorusKernel",
    "brownian_time",
    "draw_bridge",
    "geodesic_random_walk",
    "heat_kernel",
    "sample_pinned",
]
