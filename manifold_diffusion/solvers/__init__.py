"""Layer 5: one solver per file, step-size controllers, one driver, likelihood.

Solvers see terms and the manifold's geometry, nothing else.
"""

from ._runge_kutta import RungeKutta, Tableau
from .base import Solver, Step, Term
from .controllers import AdaptiveSteps, ConstantSteps, Proposal, StepController
from .dormand_prince import DormandPrince
from .euler import GeodesicEuler
from .euler_maruyama import GeodesicEulerMaruyama
from .heun import GeodesicHeun
from .inpainting import inpaint
from .integrate import Solution, integrate
from .likelihood import (
    DensitySolution,
    LikelihoodResult,
    integrate_with_log_density,
    log_likelihood,
    sample_with_log_prob,
)
from .particles import ParticleSample, particle_filter, sample_twisted
from .rk4 import GeodesicRK4

__all__ = [
    "AdaptiveSteps",
    "ConstantSteps",
    "DensitySolution",
    "DormandPrince",
    "GeodesicEuler",
    "GeodesicEulerMaruyama",
    "GeodesicHeun",
    "GeodesicRK4",
    "LikelihoodResult",
    "ParticleSample",
    "Proposal",
    "RungeKutta",
    "Solution",
    "Solver",
    "Step",
    "StepController",
    "Tableau",
    "Term",
    "inpaint",
    "integrate",
    "integrate_with_log_density",
    "log_likelihood",
    "particle_filter",
    "sample_twisted",
    "sample_with_log_prob",
]
