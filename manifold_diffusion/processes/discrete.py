"""Noise on sequences of tokens: uniform and absorbing, with exact posteriors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from .._typing import Network
from .base import check_range
from .signals import LinearSignal, SignalSchedule

__all__ = ["AbsorbingNoise", "Denoiser", "DiscreteNoise", "UniformNoise"]

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(t, x_t) -> p(x_0 | x_t)`` of every token: times ``(*batch,)``, tokens and probabilities as below."""


class DiscreteNoise(ABC):
    r"""Noise that acts on every token of a sequence alone, from data (t = 0) to noise (t = 1).

    A Markov chain in continuous time: a token survives until t with probability :math:`\alpha(t)`, given by a
    :class:`SignalSchedule`, else it has been replaced.

    .. math::
        q(x_s \mid x_t) = \sum_{x_0} p(x_0 \mid x_t)\, q(x_s \mid x_t, x_0), \qquad
        q(x_s \mid x_t, x_0) = \frac{q(x_t \mid x_s)\, q(x_s \mid x_0)}{q(x_t \mid x_0)}, \qquad s \le t

    Not a :class:`Process`: its points are tokens ``(*batch, length)``, int64 from 0 to ``n_categories - 1``, which have
    no tangent space, hence no score, no velocity and no terms. Times are ``(*batch,)`` as everywhere. Probabilities of
    clean tokens have shape ``(*batch, length, n_categories)``, those of noised ones ``(*batch, length, n_states)``.

    **What a network predicts.** Logits ``(*batch, length, n_categories)`` of what the *other* tokens say of a clean
    token. :meth:`denoise` adds the token's own evidence, :math:`\log q(x_t \mid x_0)`, which is known: by the
    independence of the noise the softmax of the sum is :math:`p(x_0 \mid x_t)`.

    Args:
        n_categories: number K of categories of the data, at least 2.
        signal: signal level against t; default :class:`LinearSignal`.

    Raises:
        ConfigError: for fewer than two categories, or a signal that does not fall from 1 to 0.
    """

    def __init__(self, n_categories: int, signal: SignalSchedule | None = None) -> None:
        if isinstance(n_categories, bool) or not isinstance(n_categories, int) or n_categories < 2:
            raise ConfigError(f"{type(self).__name__} needs an integer n_categories >= 2; got {n_categories!r}.")
        self.n_categories = n_categories
        self.signal = signal if signal is not None else LinearSignal()
        ends = self.signal.alpha(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        if not (abs(ends[0] - 1) <= 1e-6 and 0 <= ends[1] <= 1e-6):
            raise ConfigError(
                f"The signal level must fall from 1 at t = 0 to 0 at t = 1, or the prior and the evidence bound are "
                f"wrong; {self.signal!r} goes from {ends[0]:.6g} to {ends[1]:.6g}."
            )

    @property
    @abstractmethod
    def n_states(self) -> int:
        """States of a noised token."""

    @abstractmethod
    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Noised tokens ``(*batch, length)`` at times ``t`` ``(*batch,)`` from clean ones.

        Raises:
            ConfigError: if a time is not from 0 to 1.
        """

    @abstractmethod
    def terminal(self, like: Tensor) -> Tensor:
        """Law of a token at t = 1, whatever it was: ``(n_states,)``, with the dtype and device of ``like``."""

    @abstractmethod
    def _jump(self, probabilities: Tensor, stay: Tensor, leave: Tensor) -> Tensor:
        """Law of the state after noise that replaces a token with probability ``leave = 1 - stay``."""

    @abstractmethod
    def _clean(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _posterior(self, x_t: Tensor, p: Tensor, s: Tensor, t: Tensor) -> Tensor: ...

    # ------------------------------------------------------------------ what follows

    def log_prob(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Log probability of the noised sequence given the clean one, ``(*batch,)``; minus infinity if impossible."""
        self.check_tokens(x0, "x0")
        self.check_tokens(x_t, "x_t", noised=True)
        law = self.marginal(_one_hot(x0, self.n_categories, t), t)
        return law.gather(-1, x_t.unsqueeze(-1)).squeeze(-1).log().sum(-1)

    def transition_matrix(self, s: Tensor, t: Tensor) -> Tensor:
        """Probabilities ``(*batch, n_states, n_states)`` of the state at t (column) given that at s <= t (row).

        Raises:
            ConfigError: if the times are in the wrong order or not from 0 to 1.
        """
        _check_order(s, t)
        stay, leave = self._between(s, t)
        states = torch.eye(self.n_states, dtype=t.dtype, device=t.device)
        return self._jump(states, stay[..., None, None], leave[..., None, None])

    def marginal(self, x0_probabilities: Tensor, t: Tensor) -> Tensor:
        r"""Law of each noised token, :math:`\sum_{x_0} p(x_0)\, q(x_t \mid x_0)`, ``(*batch, length, n_states)``.

        Args:
            x0_probabilities: of the clean tokens, ``(*batch, length, n_categories)``.
            t: times, ``(*batch,)``.
        """
        p = self._check_probabilities(x0_probabilities)
        check_range(t)
        return self._jump(self._embed(p), *(_column(a.to(p)) for a in (self.signal.alpha(t), self.signal.noise(t))))

    def denoise(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        r""":math:`p(x_0 \mid x_t) \propto e^{\text{logits}}\, q(x_t \mid x_0)`, ``(*batch, length, n_categories)``.

        Args:
            logits: output of the network, ``(*batch, length, n_categories)``.
            x_t: noised tokens, ``(*batch, length)``.
            t: times, ``(*batch,)``.
        """
        check_range(t)
        return self._clean(self._check_probabilities(logits, "logits"), x_t, t.to(logits))

    def denoiser(self, network: Network, cond: Tensor | None = None) -> Denoiser:
        r"""The network's :math:`p(x_0 \mid x_t)` as a function ``(t, x_t)``: what samplers see."""
        return lambda t, x: self.denoise(network(t, x, cond), x, t)

    def posterior(self, x_t: Tensor, x0_probabilities: Tensor, s: Tensor, t: Tensor) -> Tensor:
        r"""Exact :math:`q(x_s \mid x_t)` of each token, ``(*batch, length, n_states)``.

        Args:
            x_t: noised tokens, ``(*batch, length)``.
            x0_probabilities: :math:`p(x_0 \mid x_t)`, ``(*batch, length, n_categories)``.
            s: earlier times, ``(*batch,)``.
            t: times of ``x_t``, ``(*batch,)``, s <= t and t > 0.

        Raises:
            ConfigError: if the times are in the wrong order, or the probabilities have the wrong shape.
        """
        p = self._check_probabilities(x0_probabilities)
        _check_order(s, t, positive=True)
        return self._posterior(x_t, p, s.to(p), t.to(p))

    def sample_prior(
        self, shape: Sequence[int], generator: torch.Generator | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Tokens ``shape = (*batch, length)`` of the law at t = 1."""
        one = torch.ones(tuple(shape)[:-1], device=device)
        return self.sample(torch.zeros(tuple(shape), dtype=torch.int64, device=device), one, generator)

    def check_tokens(self, x: Tensor, name: str = "x", noised: bool = False) -> None:
        """Raise :class:`DataError` unless ``x`` are tokens; the range is looked at on the CPU only."""
        k = self.n_states if noised else self.n_categories
        if x.dtype != torch.int64 or x.dim() < 1:
            raise DataError(
                f"{name} must be tokens (*batch, length) of dtype int64; got {tuple(x.shape)} of {x.dtype}. "
                "Convert them: x.long()."
            )
        if x.device.type == "cpu" and x.numel() and not (0 <= int(x.min()) and int(x.max()) < k):
            raise DataError(
                f"{name} must be tokens from 0 to {k - 1} for {self}; got {int(x.min())} to {int(x.max())}. "
                "Raise n_categories, or map the tokens."
            )

    def _between(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities that a token of time s is still there at t, and that it is not."""
        alpha_s = self.signal.alpha(s).clamp_min(torch.finfo(s.dtype).tiny)  # s = t = 1: nothing left to lose
        gap = self.signal.noise(t) - self.signal.noise(s)
        return torch.where(gap > 0, self.signal.alpha(t) / alpha_s, 1.0), gap / alpha_s

    def _embed(self, p: Tensor) -> Tensor:
        """Probabilities of clean tokens as probabilities of states."""
        return torch.nn.functional.pad(p, (0, self.n_states - self.n_categories))

    def _check_probabilities(self, p: Tensor, name: str = "x0_probabilities") -> Tensor:
        if p.dim() < 2 or p.shape[-1] != self.n_categories or not p.is_floating_point():
            raise ConfigError(
                f"{name} must be floats of shape (*batch, length, {self.n_categories}) for {self}; got "
                f"{tuple(p.shape)} of {p.dtype}."
            )
        return p

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_categories}, {self.signal!r})"


class UniformNoise(DiscreteNoise):
    r"""A token is replaced by one of the K categories, all equally likely.

    .. math:: q(x_t \mid x_0) = \alpha(t)\,[x_t = x_0] + (1 - \alpha(t))/K

    Reference:
        Austin et al., *Structured denoising diffusion models in discrete state-spaces*, 2021, arXiv:2107.03006.

    Args:
        n_categories: number K of categories.
        signal: signal level against t; default :class:`LinearSignal`.

    Example:
        >>> import torch
        >>> noise = UniformNoise(3)
        >>> x_t, t = torch.tensor([[2, 2]]), torch.tensor([0.5])
        >>> p = noise.denoise(torch.zeros(1, 2, 3), x_t, t)  # nothing known but the token itself
        >>> p[0, 0]
        tensor([0.1667, 0.1667, 0.6667])
        >>> noise.posterior(x_t, p, torch.tensor([0.25]), t)[0, 0]
        tensor([0.1111, 0.1111, 0.7778])
    """

    @property
    def n_states(self) -> int:
        return self.n_categories

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.check_tokens(x0, "x0")
        check_range(t)
        u = torch.rand(x0.shape, generator=generator, dtype=t.dtype, device=x0.device)
        other = torch.randint(self.n_categories, x0.shape, generator=generator, device=x0.device)
        return torch.where(u < self.signal.alpha(t).unsqueeze(-1), x0, other)

    def terminal(self, like: Tensor) -> Tensor:
        return like.new_full((self.n_categories,), 1 / self.n_categories)

    def _jump(self, probabilities: Tensor, stay: Tensor, leave: Tensor) -> Tensor:
        return stay * probabilities + leave / self.n_categories * probabilities.sum(-1, keepdim=True)

    def _clean(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        # log q(x_t | x_0) up to a constant; at t = 0 it is large but finite, and the token is itself.
        noise = self.signal.noise(t).clamp_min(torch.finfo(t.dtype).eps ** 4)
        evidence = torch.log1p(self.n_categories * self.signal.alpha(t) / noise).unsqueeze(-1).expand(x_t.shape)
        return logits.scatter_add(-1, x_t.unsqueeze(-1), evidence.unsqueeze(-1)).softmax(-1)

    def _posterior(self, x_t: Tensor, p: Tensor, s: Tensor, t: Tensor) -> Tensor:
        here = _one_hot(x_t, self.n_categories, p)
        rest = _column(self.signal.noise(t)) / self.n_categories
        weighted = p / (_column(self.signal.alpha(t)) * here + rest).clamp_min(torch.finfo(p.dtype).tiny)
        stay, leave = map(_column, self._between(s, t))
        backward = stay * here + leave / self.n_categories  # q(x_t | x_s) as a function of x_s
        return backward * self._jump(weighted, _column(self.signal.alpha(s)), _column(self.signal.noise(s)))


class AbsorbingNoise(DiscreteNoise):
    r"""A token is replaced by a mask, the state ``n_categories``, and stays one.

    .. math:: q(x_t \mid x_0) = \alpha(t)\,[x_t = x_0] + (1 - \alpha(t))\,[x_t = \text{mask}]

    A token that is seen is clean: :meth:`denoise` and :meth:`posterior` keep it.

    Reference:
        Sahoo et al., *Simple and effective masked diffusion language models*, 2024, arXiv:2406.07524.

    Args:
        n_categories: number K of categories, without the mask.
        signal: signal level against t; default :class:`LinearSignal`.

    Example:
        >>> import torch
        >>> noise = AbsorbingNoise(3)
        >>> x_t, t = torch.tensor([[2, noise.mask]]), torch.tensor([0.5])
        >>> p = noise.denoise(torch.zeros(1, 2, 3), x_t, t)
        >>> noise.posterior(x_t, p, torch.tensor([0.25]), t)[0]
        tensor([[0.0000, 0.0000, 1.0000, 0.0000],
                [0.1667, 0.1667, 0.1667, 0.5000]])
    """

    @property
    def n_states(self) -> int:
        return self.n_categories + 1

    @property
    def mask(self) -> int:
        """The state of a token that is lost."""
        return self.n_categories

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        self.check_tokens(x0, "x0")
        check_range(t)
        u = torch.rand(x0.shape, generator=generator, dtype=t.dtype, device=x0.device)
        return x0.masked_fill(u >= self.signal.alpha(t).unsqueeze(-1), self.mask)

    def terminal(self, like: Tensor) -> Tensor:
        return self._embed(like.new_zeros(self.n_categories)) + _one_hot(
            torch.tensor(self.mask, device=like.device), self.n_states, like
        )

    def _jump(self, probabilities: Tensor, stay: Tensor, leave: Tensor) -> Tensor:
        clean, masked = stay * probabilities[..., :-1], probabilities[..., -1:]
        return torch.cat([clean, masked + leave * probabilities[..., :-1].sum(-1, keepdim=True)], -1)

    def _clean(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._carry_over(logits.softmax(-1), x_t)

    def _carry_over(self, p: Tensor, x_t: Tensor) -> Tensor:
        """Clean tokens are known where they are seen."""
        seen = _one_hot(x_t, self.n_states, p)[..., :-1]
        return torch.where((x_t == self.mask).unsqueeze(-1), p, seen)

    def _posterior(self, x_t: Tensor, p: Tensor, s: Tensor, t: Tensor) -> Tensor:
        noise_t = self.signal.noise(t).clamp_min(torch.finfo(t.dtype).tiny)  # at t = 0 no token is masked
        still = _column(self.signal.noise(s) / noise_t)
        masked = self._jump(self._embed(p), 1 - still, still)
        return torch.where((x_t == self.mask).unsqueeze(-1), masked, _one_hot(x_t, self.n_states, p))


def _check_order(s: Tensor, t: Tensor, positive: bool = False) -> None:
    """Raise :class:`ConfigError` unless 0 <= s <= t <= 1, and t > 0 if asked for; on the CPU only."""
    right = (s >= 0) & (s <= t) & (t <= 1)
    right = right & (t > 0) if positive else right
    if t.device.type == "cpu" and not bool(right.all()):
        raise ConfigError(
            f"Times must have 0 <= s <= t <= 1{' and t > 0' if positive else ''}: s is the earlier one, nearer to the "
            f"data; got s from {float(s.min())} to {float(s.max())}, t from {float(t.min())} to {float(t.max())}."
        )


def _column(a: Tensor) -> Tensor:
    """A number per sequence, shaped to multiply ``(*batch, length, states)``."""
    return a[..., None, None]


def _one_hot(x: Tensor, size: int, like: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(x, size).to(like.dtype)
