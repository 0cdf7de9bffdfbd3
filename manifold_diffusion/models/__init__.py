"""Layer 7: process, network, objective and solvers in one object with fit, sample, log_prob and save_pretrained."""

from .diffusion import RiemannianDiffusion
from .language import FlowMapLanguageModel, LanguageFit

__all__ = ["FlowMapLanguageModel", "LanguageFit", "RiemannianDiffusion"]
