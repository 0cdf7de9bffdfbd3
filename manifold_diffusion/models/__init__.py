"""Layer 7: process, network, objective and solvers in one object with fit, sample, log_prob and save_pretrained."""

from .bridge import BridgeFit, SchrodingerBridge
from .diffusion import RiemannianDiffusion

__all__ = ["BridgeFit", "RiemannianDiffusion", "SchrodingerBridge"]
