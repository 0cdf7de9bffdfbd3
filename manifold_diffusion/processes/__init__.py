"""Layer 4: noise processes, t = 0 data and t = 1 noise."""

from .base import Mismatch, PathSample, Prior, Process
from .brownian import BrownianMotion
from .defaults import default_process
from .discrete import AbsorbingNoise, Denoiser, DiscreteNoise, UniformNoise
from .langevin import Langevin
from .priors import HeatPrior, Uniform, WrappedNormal
from .product import ProductProcess
from .schedules import LinearSchedule, LogSchedule, Schedule, default_schedule
from .signals import CosineSignal, LinearSignal, SignalSchedule
from .terms import ODETerm, SDETerm, Terms

__all__ = [
    "AbsorbingNoise",
    "BrownianMotion",
    "CosineSignal",
    "Denoiser",
    "DiscreteNoise",
    "HeatPrior",
    "Langevin",
    "LinearSchedule",
    "LinearSignal",
    "LogSchedule",
    "Mismatch",
    "ODETerm",
    "PathSample",
    "Prior",
    "Process",
    "ProductProcess",
    "SDETerm",
    "Schedule",
    "SignalSchedule",
    "Terms",
    "Uniform",
    "UniformNoise",
    "WrappedNormal",
    "default_process",
    "default_schedule",
]
