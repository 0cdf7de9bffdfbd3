"""Perceptrons that each see one factor of a product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, singledispatch

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..manifolds import Manifold, Power, Product, Torus
from .embeddings import gated_waves
from .layers import GroupedLinear, ModulatedBlock

__all__ = ["Factor", "FactorPerceptrons", "factors_of"]


@dataclass(frozen=True)
class Factor:
    """A factor of a manifold that splits no further.

    Attributes:
        manifold: the factor.
        embedding: its entries of ``embed`` of the whole.
        coordinates: its entries of ``coordinates``.
        frame: its coefficients in ``from_frame``.
    """

    manifold: Manifold
    embedding: tuple[int, ...]
    coordinates: tuple[int, ...]
    frame: tuple[int, ...]


@singledispatch
def factors_of(manifold: Manifold) -> list[Factor]:
    """The irreducible factors of tori, powers and products, in order; of another manifold itself alone.

    Example:
        >>> from manifold_diffusion.manifolds import SO3, Power, Product, Torus
        >>> [f.manifold for f in factors_of(Product(Torus(2), Power(SO3(), 2)))]
        [Torus(1), Torus(1), SO3(), SO3()]
    """
    return [Factor(manifold, *(tuple(range(n)) for n in _sizes(manifold)))]


@factors_of.register
def _(manifold: Torus) -> list[Factor]:
    n, periods = manifold.n, manifold.periods or (None,) * manifold.n
    return [Factor(Torus(1, period), (i, n + i), (i,), (i,)) for i, period in enumerate(periods)]


@factors_of.register
def _(manifold: Power) -> list[Factor]:
    return _side_by_side([manifold.manifold] * manifold.k)


@factors_of.register
def _(manifold: Product) -> list[Factor]:
    return _side_by_side(manifold.factors)


def _side_by_side(parts: Sequence[Manifold]) -> list[Factor]:
    """Factors of manifolds whose embeddings, coordinates and frames are concatenated."""
    found, offset = [], (0, 0, 0)
    for part in parts:
        for f in factors_of(part):
            columns = zip((f.embedding, f.coordinates, f.frame), offset, strict=True)
            found.append(Factor(f.manifold, *(tuple(i + start for i in column) for column, start in columns)))
        offset = tuple(a + b for a, b in zip(offset, _sizes(part), strict=True))
    return found


def _sizes(manifold: Manifold) -> tuple[int, int, int]:
    """Number of entries of ``embed``, ``coordinates`` and ``from_frame``."""
    x = manifold.origin()
    return manifold.embed(x).shape[-1], manifold.coordinates(x).shape[-1], manifold.frame_dim


class _Columns(nn.Module):
    """Each factor's entries of a flat tensor, ``(*batch, n) -> (*batch, k, m)``, zeros after the shorter ones."""

    index: Tensor
    mask: Tensor

    def __init__(self, columns: list[tuple[int, ...]]) -> None:
        super().__init__()
        size = max(map(len, columns))
        self.register_buffer("index", torch.tensor([[*c, *(0,) * (size - len(c))] for c in columns]), persistent=False)
        ragged = torch.tensor([[i < len(c) for i in range(size)] for c in columns])
        self.register_buffer("mask", ragged, persistent=False)
        self.ragged = not bool(ragged.all())
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        y = x[..., self.index]
        return torch.where(self.mask, y, 0.0) if self.ragged else y


class FactorPerceptrons(nn.Module):
    r"""One small perceptron per factor of a manifold, :math:`a_i(t, x_i)`: the first-order terms of a score.

    The score of independent factors is :math:`s(x)_i = s_i(x_i)`. A network of the whole has to discover that
    factor i does not depend on the others from data that fill their space ever more thinly as factors are added;
    these perceptrons know it. Added to a network of the whole they leave it the dependence only. Features are the
    factor's embedding and random waves on it, damped by the heat semigroup; all factors are evaluated at once.

    Args:
        manifold: a torus, a power, or a product of at least two factors.
        context: size of the context (embedding of time, condition).
        width: of each perceptron.
        depth: number of residual blocks.
        n_frequencies: random waves per factor; 0 for none.
        max_frequency: largest length of a frequency.
        generator: of the frequencies and the initial weights; the last layer starts at zero.

    Raises:
        ConfigError: if the manifold is not a product.
    """

    frequencies: Tensor
    out: Tensor

    def __init__(
        self,
        manifold: Manifold,
        context: int,
        width: int,
        depth: int,
        n_frequencies: int,
        max_frequency: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        factors = factors_of(manifold)
        if len(factors) < 2:
            raise ConfigError(
                f"factor_width > 0 needs a product of manifolds; {manifold} has one factor. Leave it at 0."
            )
        self.manifold, k = manifold, len(factors)
        self.embedding = _Columns([f.embedding for f in factors])
        self.coordinates = _Columns([f.coordinates for f in factors])
        waves = torch.zeros(k, n_frequencies, self.coordinates.size)
        for i, f in enumerate(factors):
            waves[i, :, : len(f.coordinates)] = f.manifold.random_frequencies(n_frequencies, max_frequency, generator)
        self.register_buffer("frequencies", waves)
        # Where each coefficient of the frame lies among the (k, widest) outputs.
        widest = max(len(f.frame) for f in factors)
        order = sorted((column, i * widest + j) for i, f in enumerate(factors) for j, column in enumerate(f.frame))
        self.register_buffer("out", torch.tensor([place for _, place in order]), persistent=False)
        layer = partial(GroupedLinear, generator, k)
        self.lift = layer(self.embedding.size + 2 * n_frequencies + context, width)
        self.blocks = nn.ModuleList(ModulatedBlock(layer, width, context) for _ in range(depth))
        self.head = layer(width, widest)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Coefficients ``(*batch, frame_dim)`` for points, their noise levels and the context ``(*batch, c)``."""
        waves = self.frequencies
        phase = torch.einsum("...kc,knc->...kn", self.coordinates(self.manifold.coordinates(x)), waves)
        levels = noise.unsqueeze(-1) if noise.shape[-1] == 1 else self.coordinates(noise)
        damping = (levels.unsqueeze(-2) * waves.square()).sum(-1)
        context = context.unsqueeze(-2).expand(*phase.shape[:-1], context.shape[-1])
        features = [self.embedding(self.manifold.embed(x)), *gated_waves(phase, damping), context]
        h = self.lift(torch.cat(features, -1))
        for block in self.blocks:
            h = block(h, context)
        return self.head(nn.functional.silu(h)).flatten(-2)[..., self.out]
