"""A language model of the flow from Gaussian noise to one-hot tokens, and of its flow map: text in one step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .._errors import ConfigError, NumericsError
from ..manifolds import Manifold
from ..networks import TokenTransformer
from ..objectives import TokenFlow, TokenFlowMap
from ..processes import TokenPath
from .card import model_card, n_parameters
from .pretrained import PretrainedModel, description

if TYPE_CHECKING:
    from ..training import FitResult

__all__ = ["FlowMapLanguageModel", "LanguageFit"]

Rule = Literal["semigroup", "lagrangian", "eulerian"]


@dataclass(frozen=True)
class LanguageFit:
    """What training came to.

    Attributes:
        denoiser: run of the first phase, or None if it was left out.
        flow_map: run of the second phase, or None if it was left out.
    """

    denoiser: FitResult | None
    flow_map: FitResult | None


class FlowMapLanguageModel(PretrainedModel):
    r"""Sequences of tokens by a flow from Gaussian noise to one-hot codes, sampled in any number of steps, or one.

    One network is both models of the paper: its diagonal :math:`\delta_{t,t}` is the denoiser of the flow (FLM), with
    two times it gives the flow map (FMLM)

    .. math:: X_{t,s}(x) = \tfrac{s}{t}\, x + \bigl(1 - \tfrac{s}{t}\bigr)\, \delta_{t,s}(x), \quad 1 = \text{noise},

    whose one step from t = 1 to s = 0 draws all tokens of a sequence *jointly*: the noise decides, not a product of
    marginals. Tokens are atoms of :math:`\mathbb{R}^{L \times K}`: there is no density and no ``log_prob``.

    Args:
        n_tokens: size K of the vocabulary, at least 2.
        length: tokens L of a sequence.
        network: ``(t, x, cond, to) -> logits``; default :class:`~manifold_diffusion.networks.TokenTransformer`.
        rule: what the flow map is trained by, see :class:`~manifold_diffusion.objectives.TokenFlowMap`.

    Attributes:
        metadata: what the model card says of data and metrics; saved with the model.

    Raises:
        ConfigError: if an argument is out of range, or the network is for other sequences.

    Example:
        >>> import torch
        >>> model = FlowMapLanguageModel(n_tokens=4, length=2)
        >>> model.sample(3, steps=1, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])

    References:
        One-step Language Modeling via Continuous Denoising, 2026, arXiv:2602.16813.
    """

    def __init__(self, n_tokens: int, length: int, network: nn.Module | None = None, rule: Rule = "semigroup") -> None:
        super().__init__()
        self.process = TokenPath(n_tokens, length)
        self.n_tokens, self.length = n_tokens, length
        self.rule: Rule = rule
        self.network = network if network is not None else TokenTransformer(self.process)
        TokenFlowMap(self.process, rule)  # refuses an unknown rule now, not after the first phase
        other = getattr(getattr(self.network, "process", None), "manifold", self.manifold)
        if other != self.manifold:
            raise ConfigError(f"The network belongs to {other}, the model to {self.manifold}. Build both for one size.")
        self.metadata: dict[str, Any] = {}

    @property
    def manifold(self) -> Manifold:
        """Where the one-hot points and their noise live."""
        return self.process.manifold

    # ------------------------------------------------------------------ training

    def fit(
        self,
        tokens: Tensor,
        val: Tensor | None = None,
        *,
        denoiser_steps: int = 2000,
        map_steps: int = 2000,
        distil: bool = True,
        seed: int = 0,
        out_dir: str | Path | None = None,
        **options: Any,
    ) -> LanguageFit:
        """Train the denoiser by cross entropy, then the flow map on it, each with a Lightning ``Trainer`` underneath.

        Args:
            tokens: training sequences, integers ``(n, length)``.
            val: held-out sequences; the denoiser with the least loss on them is kept. The consistency of a flow map
                says little of its samples, so that the second phase keeps the last weights.
            denoiser_steps: optimiser steps of the first phase; 0 leaves it out.
            map_steps: optimiser steps of the second phase; 0 leaves it out.
            distil: freeze the denoiser of the first phase as the teacher of the second; False trains denoiser and
                flow map together (self-distillation), with ``denoiser_steps=0`` from the start.
            seed: of the order of the data and of the noise.
            out_dir: folder for the folders ``denoiser`` and ``flow_map`` of the two runs.
            options: further arguments of :func:`manifold_diffusion.training.fit`, such as ``batch_size`` and ``lr``.
                By default the average of the weights reaches back over a twentieth of a phase, at most 1,000 steps.

        Returns:
            A record of both runs.

        Raises:
            DataError: if tokens are not integers in [0, n_tokens) of the model's length, before any training.
            ConfigError: if both phases are left out.
        """
        from ..training import fit

        if denoiser_steps < 0 or map_steps < 0 or denoiser_steps + map_steps == 0:
            raise ConfigError(
                f"denoiser_steps and map_steps must be at least 0 and not both 0; got {denoiser_steps}, {map_steps}."
            )
        self.process.check_tokens(tokens)
        if val is not None:
            self.process.check_tokens(val, "val")
        options.setdefault("fingerprint", {"model": description(self, self.network, self.rule), "distil": distil})

        def run(
            objective: TokenFlow | TokenFlowMap, steps: int, folder: str, keep: Literal["best", "last"]
        ) -> FitResult:
            return fit(
                self.network,
                objective,
                tokens.long(),
                val=None if val is None else val.long(),
                max_steps=steps,
                seed=seed,
                out_dir=None if out_dir is None else Path(out_dir) / folder,
                **{"keep": keep, "ema_decay": min(0.999, max(0.0, 1 - 20 / steps)), **options},
            )

        first = run(TokenFlow(self.process), denoiser_steps, "denoiser", "best") if denoiser_steps else None
        if not map_steps:
            return LanguageFit(first, None)
        teacher = copy.deepcopy(self.network).requires_grad_(False) if distil else None
        second = run(TokenFlowMap(self.process, self.rule, teacher), map_steps, "flow_map", "last")
        return LanguageFit(first, second)

    # ------------------------------------------------------------------ the model

    def denoise(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Law of each token given noised points ``(n, L, K)`` at ``t`` (scalar or ``(n,)``), ``(n, L, K)``."""
        return self.network(self._times(x, t), x).softmax(-1)

    def flow_map(self, x: Tensor, t: Tensor | float, to: Tensor | float) -> Tensor:
        """Points ``(n, L, K)`` at the earlier time ``to`` of the trajectories that are at ``x`` at the time ``t``."""
        start, end = self._times(x, t), self._times(x, to)
        if bool((start <= 0).any()) or bool((end < 0).any()) or bool((end > start).any()) or bool((start > 1).any()):
            raise ConfigError("flow_map needs 0 <= to <= t <= 1 and t > 0: it goes from noise (t = 1) to data (t = 0).")
        return self.process.move(x, start, end, self.network(start, x, to=end).softmax(-1))

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        r"""Learned score :math:`\nabla\log p_t(x)` at ``x`` ``(n, L, K)`` and ``t`` in (0, 1]."""
        times = self._times(x, t)
        return self.process.score(self.network(times, x), x, times)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        """dx/dt of the flow, along increasing t: from data to noise."""
        times = self._times(x, t)
        return self.process.velocity(self.network(times, x), x, times)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        steps: int = 1,
        *,
        method: Literal["map", "ode"] = "map",
        generator: torch.Generator | None = None,
        batch_size: int = 4096,
    ) -> Tensor:
        """Draw sequences; the largest entry of the last point names the token.

        Args:
            n: number of sequences; 0 gives an empty tensor.
            steps: evaluations of the network, at times equally spaced in decoding error.
            method: ``"map"`` jumps by the flow map, ``"ode"`` integrates the flow of the denoiser (many steps).
            generator: source of all randomness: same seed, same result.
            batch_size: sequences that are drawn together; bounds the memory.

        Returns:
            Integers ``(n, length)``.

        Raises:
            ConfigError: if ``steps`` or ``batch_size`` is not positive, ``n`` is negative, or the method is unknown.
        """
        if steps < 1 or batch_size < 1 or n < 0:
            raise ConfigError(
                f"sample needs n >= 0, steps >= 1 and batch_size >= 1; got n={n}, steps={steps}, "
                f"batch_size={batch_size}."
            )
        if method not in ("map", "ode"):
            raise ConfigError(f"method must be 'map' or 'ode'; got {method!r}.")
        like = self.like
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        times = self.process.decoding_clock.time(grid).to(like)
        chunks = []
        for start in range(0, max(n, 1), batch_size):
            size = min(batch_size, n - start)
            x = self.process.prior.sample(size, generator=generator, dtype=like.dtype, device=like.device)
            for t, to in zip(
                times[:-1].expand(size, -1).unbind(-1), times[1:].expand(size, -1).unbind(-1), strict=True
            ):
                logits = self.network(t, x, to=to) if method == "map" else self.network(t, x)
                x = self.process.move(x, t, to, logits.softmax(-1))
            if not bool(x.isfinite().all()):
                lost = int((~x.isfinite()).flatten(1).any(1).sum())
                raise NumericsError(
                    f"The network's output is NaN or infinite: {lost} of {size} sequences became so. Look at its "
                    "weights, and lower the learning rate."
                )
            chunks.append(x.argmax(-1))
        return torch.cat(chunks)

    # ------------------------------------------------------------------ helpers

    def _card(self) -> str:
        facts = [
            f"network: `{type(self.network).__name__}`, {n_parameters(self.network)}",
            f"flow map trained by the rule `{self.rule}`",
        ]
        title = f"Flow map language model: {self.length} tokens of {self.n_tokens}"
        return model_card(title, type(self).__name__, facts, ["tokens = model.sample(10, steps=1)"], self.metadata)

    def _times(self, x: Tensor, t: Tensor | float) -> Tensor:
        self.manifold.check_point(x, "x")
        return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(self.manifold.batch_shape(x))
