"""Layer 4: noise processes, paths and bridges; t = 0 data and t = 1 noise."""

<<<<<<< HEAD
from .base import Mismatch, NoiseProcess, PathSample, Prior, Process
=======
from .base import Mismatch, PathSample, Prior, Process
from .bridge_laws import draw_bridge
from .bridges import BridgeMixture, BrownianBridge
>>>>>>> bridges
from .brownian import BrownianMotion
from .defaults import default_process
from .discrete import AbsorbingNoise, Denoiser, DiscreteNoise, UniformNoise
from .flow import GeodesicFlow, PathProcess, default_source
from .interpolant import StochasticInterpolant
from .langevin import Langevin
<<<<<<< HEAD
from .lookahead import Denoised, Glimpse, LookAhead, denoise, tempered
from .paths import CosinePath, LinearPath, LogPath, PathSchedule, PolynomialPath
from .premetric import DiffusionDistance, Premetric, PremetricFlow, SpectralDistance
from .priors import HeatPrior, Uniform, WrappedNormal
from .product import ProductProcess
from .schedules import LinearSchedule, LogSchedule, Schedule, default_schedule
from .signals import CosineSignal, LinearSignal, SignalSchedule
from .terms import ODETerm, SDETerm, Terms

__all__ = [
    "AbsorbingNoise",
    "BrownianMotion",
    "CosinePath",
    "CosineSignal",
    "Denoised",
    "Denoiser",
    "DiffusionDistance",
    "DiscreteNoise",
    "GeodesicFlow",
    "Glimpse",
=======
from .priors import EmpiricalPrior, HeatPrior, Uniform, WrappedNormal
from .product import ProductProcess
from .schedules import LinearSchedule, LogSchedule, Schedule, default_schedule
from .schrodinger import SchrodingerCoupling, SchrodingerPlan, displacement_interpolation, schrodinger_plan
from .terms import ODETerm, SDETerm, Terms

__all__ = [
    "BridgeMixture",
    "BrownianBridge",
    "BrownianMotion",
    "EmpiricalPrior",
>>>>>>> bridges
    "HeatPrior",
    "Langevin",
    "LinearPath",
    "LinearSchedule",
    "LinearSignal",
    "LogPath",
    "LogSchedule",
    "LookAhead",
    "Mismatch",
    "NoiseProcess",
    "ODETerm",
    "PathProcess",
    "PathSample",
    "PathSchedule",
    "PolynomialPath",
    "Premetric",
    "PremetricFlow",
    "Prior",
    "Process",
    "ProductProcess",
    "SDETerm",
    "Schedule",
<<<<<<< HEAD
    "SignalSchedule",
    "SpectralDistance",
    "StochasticInterpolant",
=======
    "SchrodingerCoupling",
    "SchrodingerPlan",
>>>>>>> bridges
    "Terms",
    "Uniform",
    "UniformNoise",
    "WrappedNormal",
    "default_process",
    "default_schedule",
<<<<<<< HEAD
    "default_source",
    "denoise",
    "tempered",
=======
    "displacement_interpolation",
    "draw_bridge",
    "schrodinger_plan",
>>>>>>> bridges
]
