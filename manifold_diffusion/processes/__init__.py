"""Layer 4: noise processes, t = 0 data and t = 1 noise."""

from .base import Mismatch, PathSample, Prior, Process
from .bridge_laws import draw_bridge
from .bridges import BridgeMixture, BrownianBridge
from .brownian import BrownianMotion
from .defaults import default_process
from .langevin import Langevin
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
    "SchrodingerCoupling",
    "SchrodingerPlan",
    "Terms",
    "Uniform",
    "WrappedNormal",
    "default_process",
    "default_schedule",
    "displacement_interpolation",
    "draw_bridge",
    "schrodinger_plan",
]
