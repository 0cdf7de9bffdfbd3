"""Layer 7: process, network, objective and solvers in one object with fit, sample, log_prob and save_pretrained."""

<<<<<<< HEAD
from .base import GenerativeModel
=======
from .bridge import BridgeFit, SchrodingerBridge
>>>>>>> bridges
from .diffusion import RiemannianDiffusion
from .flow import RiemannianFlow
from .flow_map import FlowMap

<<<<<<< HEAD
__all__ = ["FlowMap", "GenerativeModel", "RiemannianDiffusion", "RiemannianFlow"]
=======
__all__ = ["BridgeFit", "RiemannianDiffusion", "SchrodingerBridge"]
>>>>>>> bridges
