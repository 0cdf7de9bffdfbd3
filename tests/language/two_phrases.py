"""The language of two phrases, "New York" and "San Diego": four tokens, two positions, everything in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifold_diffusion.processes import TokenPath

PATH = TokenPath(4, 2)
TOKENS = torch.tensor([[0, 1], [2, 3]])  # New York, San Diego
PHRASES = torch.nn.functional.one_hot(TOKENS, 4).double()


def sign(x: Tensor) -> Tensor:
    """Which phrase the noise decides for: the flow keeps the side of the plane between the two."""
    return (x * (PHRASES[0] - PHRASES[1]).to(x)).sum((-2, -1)) > 0


def valid(tokens: Tensor) -> float:
    """Share of sequences that are one of the phrases."""
    return float((tokens[:, None] == TOKENS).all(-1).any(-1).double().mean())


def denoiser(t: Tensor, to: Tensor, x: Tensor) -> Tensor:
    """Mean of the two phrases given x: posterior weights of two Gaussians with equal priors."""
    evidence = (1 - t) / t.square() * (x * (PHRASES[0] - PHRASES[1])).sum((-2, -1))
    p = evidence.sigmoid()[..., None, None]
    return p * PHRASES[0] + (1 - p) * PHRASES[1]


def flow(t: Tensor, to: Tensor, x: Tensor, steps: int = 60) -> Tensor:
    """Exact flow from t to ``to > 0``: RK4 in log t, where dx/dlog t = x - D is smooth."""

    def rhs(level: Tensor, y: Tensor) -> Tensor:
        time = level.exp()
        return y - denoiser(time, time, y)

    level, h = t.log(), (to.log() - t.log()) / steps
    wide = h[..., None, None]
    for _ in range(steps):
        a = rhs(level, x)
        b = rhs(level + h / 2, x + wide / 2 * a)
        c = rhs(level + h / 2, x + wide / 2 * b)
        d = rhs(level + h, x + wide * c)
        x, level = x + wide / 6 * (a + 2 * b + 2 * c + d), level + h
    return x


def delta(t: Tensor, to: Tensor, x: Tensor) -> Tensor:
    """Exact two-time denoiser, from the exact flow; for ``to`` well below t."""
    ratio = (to / t)[..., None, None]
    return (flow(t, to, x) - ratio * x) / (1 - ratio)


def exact_network(t: Tensor, x: Tensor, cond: Tensor | None = None, to: Tensor | None = None) -> Tensor:
    """Logits of the exact denoiser, of one time or two, as a network gives them."""
    y = x.double()
    law = denoiser(t.double(), t.double(), y)
    if to is not None:
        apart = (1 - to / t) > 1e-6
        earlier = torch.where(apart, to, t / 2).double()
        law = torch.where(apart[..., None, None], delta(t.double(), earlier, y), law)
    return (law.clamp(min=0) + math.exp(-300)).log().to(x)
