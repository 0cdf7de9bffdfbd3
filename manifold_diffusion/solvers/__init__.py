"""Layer 5: one solver per file, step-size controllers, one driver, likelihood.

Solvers see terms and the manifold's geometry, nothing else.
"""

from ._runge_kutta import RungeKutta, Tableau
from .arc_length import arc_length, curve_point, equal_arc_length
from .base import Solver, Step, Term
from .clocks import Clock, ClockSteps, NoiseClock
from .controllers import AdaptiveSteps, ConstantSteps, GridSteps, PlannedSteps, Proposal, StepController
from .dormand_prince import DormandPrince
from .euler import GeodesicEuler
from .euler_maruyama import GeodesicEulerMaruyama
from .heun import GeodesicHeun
from .inpainting import inpaint
from .integrate import Solution, integrate
from .kappa import Kappa, PhasedKappa, RemaskingKappa, loop_times
from .learned import LearnedMultistep, MultistepFit, fit_multistep
from .likelihood import (
    DensitySolution,
    LikelihoodResult,
    concatenated,
    integrate_with_log_density,
    log_likelihood,
    sample_with_log_prob,
)
from .multistep import GeodesicMultistep
from .particles import ParticleSample, particle_filter, sample_twisted
from .predictor_corrector import MixtureReverse, PredictorCorrector, ReverseKernel, ReverseSDE
from .psi import DiscretePsi, PsiKernel, sample_psi
from .rk4 import GeodesicRK4
from .string import DiffusionString
from .string_result import Saddle, StringResult, find_saddle

__all__ = [
    "AdaptiveSteps",
    "Clock",
    "ClockSteps",
    "ConstantSteps",
    "DensitySolution",
    "DiffusionString",
    "DiscretePsi",
    "DormandPrince",
    "GeodesicEuler",
    "GeodesicEulerMaruyama",
    "GeodesicHeun",
    "GeodesicMultistep",
    "GeodesicRK4",
    "GridSteps",
    "Kappa",
    "LearnedMultistep",
    "LikelihoodResult",
    "MixtureReverse",
    "MultistepFit",
    "NoiseClock",
    "ParticleSample",
    "PhasedKappa",
    "PlannedSteps",
    "PredictorCorrector",
    "Proposal",
    "PsiKernel",
    "RemaskingKappa",
    "ReverseKernel",
    "ReverseSDE",
    "RungeKutta",
    "Saddle",
    "Solution",
    "Solver",
    "Step",
    "StepController",
    "StringResult",
    "Tableau",
    "Term",
    "arc_length",
    "concatenated",
    "curve_point",
    "equal_arc_length",
    "find_saddle",
    "fit_multistep",
    "inpaint",
    "integrate",
    "integrate_with_log_density",
    "log_likelihood",
    "loop_times",
    "particle_filter",
    "sample_psi",
    "sample_twisted",
    "sample_with_log_prob",
]
