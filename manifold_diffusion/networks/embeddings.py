"""Features of time and of points that networks see."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..manifolds import Manifold

__all__ = ["HeatFeatures", "TimeEmbedding", "check_condition"]

TimeKind = Literal["bumps", "fourier", "learned"]


class TimeEmbedding(nn.Module):
    r"""Embedding of process time t in [0, 1].

    ``bumps``: Gaussian bumps :math:`e^{-(t - c_i)^2 / 2 w^2}` at equally spaced centres, local in (log) time;
    ``fourier``: cosines and sines of :math:`\pi k t`; ``learned``: a sine of trained frequencies and phases, started at
    ``fourier``.

    Args:
        dim: number of features, at least 2.
        kind: which one.
    """

    grid: Tensor

    def __init__(self, dim: int = 16, kind: TimeKind = "bumps") -> None:
        super().__init__()
        if dim < 2 or kind not in ("bumps", "fourier", "learned"):
            raise ConfigError(
                f"TimeEmbedding needs dim >= 2 and kind 'bumps', 'fourier' or 'learned'; got dim={dim}, kind={kind!r}."
            )
        self.dim, self.kind = dim, kind
        if kind == "bumps":
            self.register_buffer("grid", torch.linspace(0, 1, dim))
            return
        index = torch.arange(dim)
        frequency, phase = math.pi * (1 + index // 2).float(), math.pi / 2 * (index % 2).float()
        if kind == "learned":
            self.frequency, self.phase = nn.Parameter(frequency), nn.Parameter(phase)
        else:
            self.register_buffer("frequency", frequency)
            self.register_buffer("phase", phase)

    def forward(self, t: Tensor) -> Tensor:
        """``(*batch,) -> (*batch, dim)``."""
        t = t.unsqueeze(-1)
        if self.kind == "bumps":
            return torch.exp(-0.5 * ((t - self.grid) * (self.dim - 1)).square())
        return (t * self.frequency + self.phase).sin()


class HeatFeatures(nn.Module):
    r"""Random waves on the manifold, each damped as the heat semigroup damps it.

    :math:`\cos(w \cdot x)` and :math:`\sin(w \cdot x)` of the manifold's coordinates, times :math:`e^{-|w|^2\tau/2}`:
    at noise level :math:`\tau` the network sees only the frequencies that survive in the density :math:`p_\tau`, whose
    eigen-coefficients are damped by the very same factor. Without the gate, high frequencies are noise at large
    :math:`\tau` and training fails.

    Args:
        manifold: where the points live.
        n_frequencies: number of random frequencies; 0 for none.
        max_frequency: largest length of a frequency.
        seed: of the frequencies, which are constants of the network.
    """

    frequencies: Tensor

    def __init__(self, manifold: Manifold, n_frequencies: int, max_frequency: float, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.manifold = manifold
        self.register_buffer("frequencies", manifold.random_frequencies(n_frequencies, max_frequency, generator))
        self.register_buffer("squares", self.frequencies.square())
        self.dim = manifold.embed(manifold.origin()).shape[-1] + 2 * n_frequencies

    squares: Tensor

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        """Features of points ``x`` at noise levels ``noise``, ``(*batch, 1)`` or ``(*batch, k)``.

        Returns:
            Tensors ``(*batch, m)`` of ``dim`` entries in all, to be concatenated: embedding, cosines, sines.
        """
        phase = self.manifold.coordinates(x) @ self.frequencies.mT
        damping = noise * self.squares.sum(-1) if noise.shape[-1] == 1 else noise @ self.squares.mT
        return self.manifold.embed(x), *gated_waves(phase, damping)


def gated_waves(phase: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    r"""Cosines and sines of phases, times :math:`e^{-\text{damping}/2}`."""
    # Beyond exp(-30) = 1e-13 a wave is gone; smaller gates would be denormal numbers, which are slow.
    gate = torch.exp(-0.5 * damping.clamp(max=60.0))
    return gate * phase.cos(), gate * phase.sin()


def check_condition(cond: Tensor | None, cond_dim: int) -> None:
    """Raise :class:`ConfigError` unless ``cond`` is what a network built with ``cond_dim`` takes."""
    if (0 if cond is None else cond.shape[-1]) != cond_dim:
        raise ConfigError(
            f"The network was built with cond_dim={cond_dim}; got "
            f"{'no cond' if cond is None else f'cond of shape {tuple(cond.shape)}'}. Give one row of {cond_dim} "
            "numbers per point, or build it with another cond_dim."
        )
