"""The default network: a residual perceptron with tangent output."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..processes import Process
from .embeddings import HeatFeatures, TimeEmbedding, TimeKind, check_condition
from .factors import FactorPerceptrons
from .layers import ModulatedBlock, linear

__all__ = ["TangentMLP"]


class TangentMLP(nn.Module):
    r"""Residual multilayer perceptron ``(t, x, cond) -> tangent vector at x`` on heat-gated features.

    The input is the manifold's embedding and :class:`HeatFeatures`; time (and the condition) scale and shift every
    block; the last layer starts at zero and its coefficients are turned into a tangent vector by
    ``manifold.from_frame``.

    Args:
        process: the process that the network serves: it gives the manifold and the noise level at each time.
        width: width of the hidden layers.
        depth: number of residual blocks.
        n_frequencies: number of random waves; 0 leaves the embedding alone.
        max_frequency: largest frequency; default 1.25 over the least noise, :math:`\sigma(0)` or, of a drift to the
            other end, :math:`\sigma(1)`: beyond it even that damps a wave by a half.
        time_dim: size of the time embedding.
        time_embedding: ``"bumps"``, ``"fourier"`` or ``"learned"``.
        cond_dim: size of the condition; 0 for an unconditional network.
        factor_width: width of perceptrons that each see one factor of a product
            (:class:`~manifold_diffusion.networks.FactorPerceptrons`), whose outputs are added; 0 for none.
        factor_frequencies: random waves of each of them.
        two_times: whether the network also sees the time at which a step ends, as flow maps need; the call is then
            ``(t, x, cond, end)``, and ``end`` is t where it is left out.
        seed: of the random frequencies and of the initial weights; nothing touches the global generator.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.processes import BrownianMotion
        >>> network = TangentMLP(BrownianMotion(Sphere(2)), width=32)
        >>> network(torch.tensor([0.5]), torch.tensor([[0.0, 0.0, 1.0]])).detach()
        tensor([[0., 0., 0.]])
    """

    process: Process

    def __init__(
        self,
        process: Process,
        width: int = 128,
        depth: int = 2,
        n_frequencies: int = 512,
        max_frequency: float | None = None,
        time_dim: int = 16,
        time_embedding: TimeKind = "bumps",
        cond_dim: int = 0,
        factor_width: int = 0,
        factor_frequencies: int = 16,
        two_times: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"n_frequencies": n_frequencies, "cond_dim": cond_dim, "factor_width": factor_width}
        sizes |= {"factor_frequencies": factor_frequencies}
        if width < 1 or depth < 1 or min(sizes.values()) < 0:
            raise ConfigError(
                f"TangentMLP needs width, depth >= 1 and {', '.join(sizes)} >= 0; got "
                f"{', '.join(f'{name}={n}' for name, n in {'width': width, 'depth': depth, **sizes}.items())}."
            )
        if max_frequency is None:
            least = process.noise_levels(torch.tensor([0.0, 1.0])).min().item()
            max_frequency = max(1.25 / math.sqrt(least), 1.0)
        if not 1 <= max_frequency < math.inf:
            raise ConfigError(f"TangentMLP needs a finite max_frequency >= 1; got {max_frequency}.")
        object.__setattr__(self, "process", process)  # for the configuration; not a submodule: its state is the model's
        self.manifold = process.manifold
        self.width, self.depth, self.n_frequencies, self.max_frequency = width, depth, n_frequencies, max_frequency
        self.time_dim, self.time_embedding, self.cond_dim, self.seed = time_dim, time_embedding, cond_dim, seed
        self.two_times, self.factor_width, self.factor_frequencies = two_times, factor_width, factor_frequencies
        self.features = HeatFeatures(process.manifold, n_frequencies, max_frequency, seed)
        self.time = TimeEmbedding(time_dim, time_embedding)
        context = (2 if two_times else 1) * time_dim + cond_dim
        generator = torch.Generator().manual_seed(seed)
        self.lift = linear(generator, self.features.dim + context, width)
        self.blocks = nn.ModuleList(ModulatedBlock(partial(linear, generator), width, context) for _ in range(depth))
        self.head = linear(generator, width, self.manifold.frame_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.factors = None
        if factor_width:
            self.factors = FactorPerceptrons(
                self.manifold, context, factor_width, depth, factor_frequencies, max_frequency, generator
            )

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, end: Tensor | None = None) -> Tensor:
        """Tangent vectors at ``x`` for times ``t`` ``(*batch,)`` and conditions ``(*batch, cond_dim)``."""
        check_condition(cond, self.cond_dim)
        if end is not None and not self.two_times:
            raise ConfigError("The network sees one time; a flow map needs TangentMLP(process, two_times=True).")
        context = self.time(t)
        if self.two_times:
            context = torch.cat([context, context if end is None else self.time(end)], -1)
        if cond is not None:
            context = torch.cat([context, cond], -1)
        noise = self.process.noise_levels(t)
        h = self.lift(torch.cat([*self.features(x, noise), context], -1))
        for block in self.blocks:
            h = block(h, context)
        coefficients = self.head(nn.functional.silu(h))
        if self.factors is not None:
            coefficients = coefficients + self.factors(x, noise, context)
        return self.manifold.from_frame(x, coefficients)
