"""Layer 4: noise processes, t = 0 data and t = 1 noise."""

from .base import Mismatch, PathSample, Prior, Process
from .brownian import BrownianMotion
from .defaults import default_process
from .langevin import Langevin
from .lookahead import Denoised, Glimpse, LookAhead, denoise, tempered
from .priors import HeatPrior, Uniform, WrappedNormal
from .product import ProductProcess
from .schedules import LinearSchedule, LogSchedule, Schedule, default_schedule
from .terms import ODETerm, SDETerm, Terms

__all__ = [
    "BrownianMotion",
    "Denoised",
    "Glimpse",
    "HeatPrior",
    "Langevin",
    "LinearSchedule",
    "LogSchedule",
    "LookAhead",
    "Mismatch",
    "ODETerm",
    "PathSample",
    "Prior",
    "Process",
    "ProductProcess",
    "SDETerm",
    "Schedule",
    "Terms",
    "Uniform",
    "WrappedNormal",
    "default_process",
    "default_schedule",
    "denoise",
    "tempered",
]
