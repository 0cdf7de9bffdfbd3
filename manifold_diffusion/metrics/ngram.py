"""Text quality without a pretrained judge: perplexity under an n-gram model, entropy, diversity."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from .estimate import Estimate

__all__ = ["NGramModel", "distinct", "unigram_entropy"]


class NGramModel:
    r"""Interpolated n-gram model of token sequences with the smoothing of Witten and Bell.

    .. math::

        p(w \mid h) = \frac{c(hw) + T(h)\, p(w \mid h')}{c(h) + T(h)}

    with c the counts, T(h) the number of different tokens that follow the context h, and h' the context without its
    oldest token. Below the unigrams is the uniform law; a context that was never seen leaves all to h'. At the start of
    a sequence contexts are shorter.

    Make one with :meth:`fit`. A low perplexity alone proves nothing: a sampler that repeats frequent words
    has it too. Read it beside :func:`unigram_entropy` and :func:`distinct`, and beside real text.

    Args:
        n_tokens: size K of the vocabulary.
        order: length of the n-grams, context included; ``n_tokens ** order`` below 2^62.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> text = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 1]])
        >>> model = NGramModel(n_tokens=3, order=2).fit(text)
        >>> model.log_prob(torch.tensor([[0, 1, 2]])).exp()
        tensor([[0.4667, 0.8933, 0.0167]], dtype=torch.float64)
        >>> print(model.perplexity(torch.tensor([[0, 1, 0, 1]])))
        1.327 ± nan

    References:
        The zero-frequency problem: estimating the probabilities of novel events in adaptive text compression, 1991.
    """

    def __init__(self, n_tokens: int, order: int = 4) -> None:
        if n_tokens < 2 or order < 1 or n_tokens**order >= 2**62:
            raise ConfigError(
                f"NGramModel needs n_tokens >= 2, order >= 1 and n_tokens ** order < 2^62; got n_tokens={n_tokens}, "
                f"order={order}."
            )
        self.n_tokens, self.order = n_tokens, order
        self._grams: list[tuple[Tensor, Tensor]] = []  # of length 1, 2, ...: codes in order, counts
        self._contexts: list[tuple[Tensor, Tensor, Tensor]] = []  # codes, counts, followers

    def fit(self, tokens: Tensor) -> Self:
        """Count the n-grams of sequences ``(n, L)``; n-grams don't cross from one to the next."""
        tokens = self._check(tokens)
        self._grams, self._contexts = [], []
        for k in range(1, self.order + 1):
            codes, counts = torch.unique(self._codes(tokens, k).reshape(-1), return_counts=True)
            contexts, followers = torch.unique_consecutive(codes // self.n_tokens, return_counts=True)
            owner = torch.repeat_interleave(torch.arange(len(contexts)), followers)
            totals = torch.zeros(len(contexts), dtype=torch.int64).index_add_(0, owner, counts)
            self._grams.append((codes, counts))
            self._contexts.append((contexts, totals, followers))
        return self

    def log_prob(self, tokens: Tensor) -> Tensor:
        """Log probability of each token given those before it in its sequence, in nats, ``(n, L)`` float64."""
        if not self._grams:
            raise ConfigError("The n-gram model has no counts yet. Call fit(tokens) first.")
        tokens = self._check(tokens)
        p = torch.full(tokens.shape, 1 / self.n_tokens, dtype=torch.float64)
        for k in range(1, min(self.order, tokens.shape[1]) + 1):
            codes = self._codes(tokens, k)
            count = _look_up(codes, *self._grams[k - 1])
            contexts, totals, followers = self._contexts[k - 1]
            total = _look_up(codes // self.n_tokens, contexts, totals)
            new = _look_up(codes // self.n_tokens, contexts, followers)
            shorter, seen = p[:, k - 1 :], total > 0
            longer = (count + new * shorter) / torch.where(seen, total + new, 1.0)
            p = torch.cat([p[:, : k - 1], torch.where(seen, longer, shorter)], 1)
        return p.log()

    def perplexity(self, tokens: Tensor) -> Estimate:
        r""":math:`\exp(-\frac1{nL} \sum \log p)`, with the standard error of independent sequences."""
        mean = Estimate.mean(-self.log_prob(tokens).mean(1))
        value = float(torch.tensor(mean.value, dtype=torch.float64).exp())
        return Estimate(value, value * mean.standard_error)

    def _check(self, tokens: Tensor) -> Tensor:
        _check_integers(tokens, self.n_tokens)
        return tokens.detach().cpu().long()

    def _codes(self, tokens: Tensor, k: int) -> Tensor:
        """The k-grams of sequences as integers in base ``n_tokens``, oldest token first, ``(n, L - k + 1)``."""
        width = max(tokens.shape[1] - k + 1, 0)
        code = torch.zeros(len(tokens), width, dtype=torch.int64)
        for j in range(k):
            code = code * self.n_tokens + tokens[:, j : j + width]
        return code


def unigram_entropy(tokens: Tensor, n_tokens: int) -> Estimate:
    r"""Entropy :math:`-\sum_k f_k \log f_k` in nats of the token frequencies of a sequence, averaged over sequences.

    It falls when samples repeat themselves.

    Args:
        tokens: integers ``(n, L)``.
        n_tokens: size of the vocabulary.

    Raises:
        DataError: tokens that are not integers of shape ``(n, L)`` in ``[0, n_tokens)``.

    Example:
        >>> import torch
        >>> print(unigram_entropy(torch.tensor([[0, 1], [2, 2]]), 3))
        0.347 ± 0.347
    """
    _check_integers(tokens, n_tokens)
    frequency = torch.nn.functional.one_hot(tokens.long(), n_tokens).double().mean(1)
    return Estimate.mean(-torch.special.xlogy(frequency, frequency).sum(-1))


def distinct(tokens: Tensor, n: int) -> float:
    """Share of different n-grams among all n-grams of sequences ``(rows, L)``: 1 if none occurs twice.

    It depends on the number of sequences; compare equal numbers only.

    Example:
        >>> import torch
        >>> distinct(torch.tensor([[0, 1, 0, 1]]), 2)
        0.6666666666666666
    """
    _check_integers(tokens)
    if not 1 <= n <= tokens.shape[1]:
        raise ConfigError(f"n must lie in [1, {tokens.shape[1]}], the length of the sequences; got {n}.")
    grams = tokens.unfold(1, n, 1).reshape(-1, n)
    return len(torch.unique(grams, dim=0)) / len(grams)


def _check_integers(tokens: Tensor, n_tokens: int | None = None) -> None:
    if tokens.dim() != 2 or tokens.is_floating_point() or len(tokens) == 0:
        raise DataError(f"tokens must be integers of shape (n, L), n >= 1; got {tuple(tokens.shape)} {tokens.dtype}.")
    if n_tokens is None or tokens.numel() == 0:
        return
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= n_tokens:
        raise DataError(
            f"tokens must lie in [0, {n_tokens}), got {least} to {most}. Check the tokenizer, or raise n_tokens."
        )


def _look_up(codes: Tensor, known: Tensor, values: Tensor) -> Tensor:
    """Values at the codes, zero for unknown ones."""
    if len(known) == 0:
        return torch.zeros(codes.shape, dtype=torch.float64)
    at = torch.searchsorted(known, codes.contiguous()).clamp(max=len(known) - 1)
    return torch.where(known[at] == codes, values[at], 0).double()
