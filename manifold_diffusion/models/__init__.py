"""Layer 7: process, network, objective and solvers in one object with fit, sample, log_prob and save_pretrained."""

from .analytic import AnalyticDiffusion, AnalyticScore
from .base import GenerativeModel
from .bridge import BridgeFit, SchrodingerBridge
from .diagnostics import ModelProbe, NoiseMixing, probe
from .diffusion import RiemannianDiffusion
from .elastic_network import ElasticNetwork
from .flow import RiemannianFlow
from .flow_map import FlowMap
from .language import FlowMapLanguageModel, LanguageFit
from .learned_kernels import AutoregressiveKernelDensity, LearnedDensity, LearnedKernelDensity
from .string import string_of

__all__ = [
    "AnalyticDiffusion",
    "AnalyticScore",
    "AutoregressiveKernelDensity",
    "BridgeFit",
    "ElasticNetwork",
    "FlowMap",
    "FlowMapLanguageModel",
    "GenerativeModel",
    "LanguageFit",
    "LearnedDensity",
    "LearnedKernelDensity",
    "ModelProbe",
    "NoiseMixing",
    "RiemannianDiffusion",
    "RiemannianFlow",
    "SchrodingerBridge",
    "probe",
    "string_of",
]
