"""A transformer over noised one-hot sequences, with one time or two."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..processes import TokenPath
from .embeddings import TimeEmbedding, check_condition
from .layers import linear

__all__ = ["TokenTransformer"]

_EPSILON = 1e-5
_SHARPEST = 1e-4  # the local evidence stops growing at t = 0.01, where it is decided


def _normalise(h: Tensor) -> Tensor:
    """Zero mean and unit variance, without weights.

    torch's layer_norm (2.13) takes mean and variance as constants in nested forward mode: first derivatives are right,
    second ones silently wrong.
    """
    h = h - h.mean(-1, keepdim=True)
    return h * (h.square().mean(-1, keepdim=True) + _EPSILON).rsqrt()


def _rotate(h: Tensor) -> Tensor:
    """Rotary positions: entry pairs of position i turn by i times their frequency, so that products see distances."""
    length, half = h.shape[-2], h.shape[-1] // 2
    frequency = 100.0 ** (-torch.arange(half, dtype=h.dtype, device=h.device) / half)
    angle = torch.arange(length, dtype=h.dtype, device=h.device)[:, None] * frequency
    a, b = h.chunk(2, -1)
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1)


class _TokenBlock(nn.Module):
    """Attention and a perceptron, each normalised, scaled, shifted and gated by the context; gates start at zero."""

    def __init__(self, generator: torch.Generator, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = linear(generator, width, 3 * width)
        self.join = linear(generator, width, width)
        self.widen = linear(generator, width, 4 * width)
        self.narrow = linear(generator, 4 * width, width)
        self.context = linear(generator, width, 6 * width)
        nn.init.zeros_(self.context.weight)
        nn.init.zeros_(self.context.bias)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift, gate, scale2, shift2, gate2 = self.context(context).unsqueeze(-2).chunk(6, -1)
        h = h + gate * self.join(self._attend(_normalise(h) * (1 + scale) + shift))
        inner = nn.functional.gelu(self.widen(_normalise(h) * (1 + scale2) + shift2))
        return h + gate2 * self.narrow(inner)

    def _attend(self, h: Tensor) -> Tensor:
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for a in self.qkv(h).chunk(3, -1))
        weights = (_rotate(q) @ _rotate(k).mT / math.sqrt(q.shape[-1])).softmax(-1)
        return (weights @ v).transpose(-3, -2).flatten(-2)


class TokenTransformer(nn.Module):
    r"""Two-time denoiser of token sequences, ``(t, x, cond, to) -> logits``.

    Given the tokens, the noise of different positions is independent: the exact logits of the denoiser are
    :math:`\frac{1-t}{t^2}\, x_i` for position i, what its own entries say, plus a function of the other positions.
    The first term is built in (capped below t = 0.01) and its softmax is an input; the transformer, whose last layer
    starts at zero, learns the rest. Times enter by their decoding error, through adaptive normalisation; the second one
    through the difference of the embeddings, which vanishes for ``to = t``.

    Args:
        process: the path of the sequences: vocabulary, length and clock.
        width: features per position.
        depth: number of blocks.
        heads: attention heads; each has an even number of the features.
        time_dim: size of the embedding of a time.
        cond_dim: size of the condition; 0 for an unconditional network.
        seed: of the initial weights; nothing touches the global generator.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.processes import TokenPath
        >>> network = TokenTransformer(TokenPath(4, 2), width=16)
        >>> x = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]])
        >>> network(torch.tensor([0.5]), x).softmax(-1).detach()  # untrained: what each position says by itself
        tensor([[[0.7111, 0.0963, 0.0963, 0.0963],
                 [0.0174, 0.0174, 0.9478, 0.0174]]])

    References:
        Attention Is All You Need, 2017, arXiv:1706.03762; Scalable Diffusion Models with Transformers, 2022,
        arXiv:2212.09748, for the adaptive normalisation.
    """

    process: TokenPath

    def __init__(
        self,
        process: TokenPath,
        width: int = 128,
        depth: int = 3,
        heads: int = 4,
        time_dim: int = 16,
        cond_dim: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1 or heads < 1 or width % (2 * heads) or cond_dim < 0:
            raise ConfigError(
                "TokenTransformer needs width, depth, heads >= 1, width a multiple of 2 heads, and cond_dim >= 0; got "
                f"width={width}, depth={depth}, heads={heads}, cond_dim={cond_dim}."
            )
        object.__setattr__(self, "process", process)  # for the configuration; not a submodule: its state is the model's
        self.width, self.depth, self.heads = width, depth, heads
        self.time_dim, self.cond_dim, self.seed = time_dim, cond_dim, seed
        generator = torch.Generator().manual_seed(seed)
        self.time = TimeEmbedding(time_dim)
        self.lift = linear(generator, 2 * process.n_tokens, width)
        self.position = nn.Parameter(0.02 * torch.randn(process.length, width, generator=generator))
        self.context = linear(generator, time_dim + cond_dim, width)
        self.interval = linear(generator, time_dim, width, bias=False)
        self.blocks = nn.ModuleList(_TokenBlock(generator, width, heads) for _ in range(depth))
        self.head = linear(generator, width, process.n_tokens)
        for parameter in (self.interval.weight, self.head.weight, self.head.bias):
            nn.init.zeros_(parameter)

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, to: Tensor | None = None) -> Tensor:
        """Logits ``(*batch, L, K)`` of the denoiser.

        Args:
            t: times of the points, ``(*batch,)``.
            x: noised points, ``(*batch, L, K)``.
            cond: condition, ``(*batch, cond_dim)``.
            to: times to which the flow map goes; None for ``t``, the denoiser itself.
        """
        check_condition(cond, self.cond_dim)
        here = self.time(self.process.decoding_clock.error(t))
        context = self.context(here if cond is None else torch.cat([here, cond], -1))
        if to is not None:
            context = context + self.interval(self.time(self.process.decoding_clock.error(to)) - here)
        context = nn.functional.silu(context)
        evidence = ((1 - t) / (t.square() + _SHARPEST))[..., None, None] * x
        h = self.lift(torch.cat([x, evidence.softmax(-1)], -1)) + self.position
        for block in self.blocks:
            h = block(h, context)
        return evidence + self.head(_normalise(h))
