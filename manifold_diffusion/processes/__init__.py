"""Layer 4: noise processes, paths and bridges; t = 0 data and t = 1 noise."""

from .base import Mismatch, NoiseProcess, PathSample, Prior, Process
from .bridges import BridgeMixture, BrownianBridge
from .brownian import BrownianMotion
from .decoding_clock import DecodingClock
from .defaults import default_process
from .discrete import AbsorbingNoise, Denoiser, DiscreteNoise, UniformNoise
from .flow import GeodesicFlow, PathProcess, default_source
from .interpolant import StochasticInterpolant
from .langevin import Langevin
from .lookahead import Denoised, Glimpse, LookAhead, denoise, tempered
from .paths import CosinePath, LinearPath, LogPath, PathSchedule, PolynomialPath
from .premetric import DiffusionDistance, Premetric, PremetricFlow, SpectralDistance
from .priors import EmpiricalPrior, HeatPrior, Uniform, WrappedNormal
from .product import ProductProcess
from .schedules import LinearSchedule, LogSchedule, Schedule, default_schedule
from .schrodinger import SchrodingerCoupling, SchrodingerPlan, displacement_interpolation, schrodinger_plan
from .signals import CosineSignal, LinearSignal, SignalSchedule
from .terms import ODETerm, SDETerm, Terms
from .token_path import TokenPath

__all__ = [
    "AbsorbingNoise",
    "BridgeMixture",
    "BrownianBridge",
    "BrownianMotion",
    "CosinePath",
    "CosineSignal",
    "DecodingClock",
    "Denoised",
    "Denoiser",
    "DiffusionDistance",
    "DiscreteNoise",
    "EmpiricalPrior",
    "GeodesicFlow",
    "Glimpse",
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
    "SchrodingerCoupling",
    "SchrodingerPlan",
    "SignalSchedule",
    "SpectralDistance",
    "StochasticInterpolant",
    "Terms",
    "TokenPath",
    "Uniform",
    "UniformNoise",
    "WrappedNormal",
    "default_process",
    "default_schedule",
    "default_source",
    "denoise",
    "displacement_interpolation",
    "schrodinger_plan",
    "tempered",
]
