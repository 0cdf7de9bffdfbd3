"""Layer 4: noise processes, t = 0 data and t = 1 noise."""

from .base import Mismatch, PathSample, Prior, Process
from .brownian import BrownianMotion
from .decoding_clock import DecodingClock
from .defaults import default_process
from .langevin import Langevin
from .priors import HeatPrior, Uniform, WrappedNormal
from .product import ProductProcess
from .schedules import LinearSchedule, LogSchedule, Schedule, default_schedule
from .terms import ODETerm, SDETerm, Terms
from .token_path import TokenPath

__all__ = [
    "BrownianMotion",
    "DecodingClock",
    "HeatPrior",
    "Langevin",
    "LinearSchedule",
    "LogSchedule",
    "Mismatch",
    "ODETerm",
    "PathSample",
    "Prior",
    "Process",
    "ProductProcess",
    "SDETerm",
    "Schedule",
    "Terms",
    "TokenPath",
    "Uniform",
    "WrappedNormal",
    "default_process",
    "default_schedule",
]
