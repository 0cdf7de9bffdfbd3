"""Layers that the perceptrons share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["GroupedLinear", "ModulatedBlock", "linear"]


def linear(generator: torch.Generator, n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """A linear layer with the usual initial law, uniform up to 1 / sqrt(n_in), from its own generator."""
    layer = nn.Linear(n_in, n_out, bias=bias, device="meta").to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1 / math.sqrt(n_in), 1 / math.sqrt(n_in), generator=generator)
    return layer


class GroupedLinear(nn.Module):
    """A linear layer of its own for each of k groups, ``(*batch, k, n_in) -> (*batch, k, n_out)``."""

    def __init__(self, generator: torch.Generator, k: int, n_in: int, n_out: int, bias: bool = True) -> None:
        super().__init__()
        bound = 1 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(k, n_in, n_out).uniform_(-bound, bound, generator=generator))
        shift = torch.empty(k, n_out).uniform_(-bound, bound, generator=generator) if bias else None
        self.bias = None if shift is None else nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("...ki,kio->...ko", x, self.weight)
        return y if self.bias is None else y + self.bias


class ModulatedBlock(nn.Module):
    """h + W2 silu((1 + scale) * W1 silu(h) + shift), with scale and shift linear in the context.

    Args:
        layer: makes the linear layers, as ``layer(n_in, n_out, bias=True)``.
        width: size of h.
        context: size of the context.
    """

    def __init__(self, layer: Callable[..., nn.Module], width: int, context: int) -> None:
        super().__init__()
        self.first = layer(width, width)
        self.context = layer(context, 2 * width, bias=False)
        self.second = layer(width, width)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        silu = nn.functional.silu
        scale, shift = self.context(context).chunk(2, -1)
        return h + self.second(silu(self.first(silu(h)) * (1 + scale) + shift))
