"""The straight path from one-hot token sequences to Gaussian noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from .._typing import Network
from ..manifolds import Euclidean, Power
from .base import Mismatch, PathSample, Process, check_times
from .decoding_clock import DecodingClock
from .priors import WrappedNormal
from .terms import ODETerm, SDETerm, Terms

__all__ = ["TokenPath"]


class TokenPath(Process):
    r"""Sequences of tokens as one-hot points of ``Power(Euclidean(K), L)`` on a straight line to a standard normal.

    .. math:: x_t = (1 - t)\, x_0 + t\, z, \qquad z \sim N(0, I)

    The network predicts the *denoiser*, the law of each token given :math:`x_t`, as logits ``(*batch, L, K)``; with its
    softmax :math:`D_t(x)` the flow is :math:`dx/dt = (x - D_t(x))/t` and the score
    :math:`((1 - t) D_t(x) - x)/t^2`. Both are singular at t = 0, where the data are atoms. A flow map, from time t to
    an earlier time, is a denoiser with two times: :meth:`move`.

    The starts fill a sphere around the simplex. Noise that stays on the simplex starts all sequences at its centre,
    and their entropy collapses.

    Args:
        n_tokens: size K of the vocabulary, at least 2.
        length: tokens L of a sequence.

    Attributes:
        decoding_clock: decoding error against t; times of training and sampling are uniform in it.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> path = TokenPath(n_tokens=4, length=2)
        >>> x0 = path.points(torch.tensor([[0, 3]]))
        >>> x0
        tensor([[[1., 0., 0., 0.],
                 [0., 0., 0., 1.]]])
        >>> path.sample(x0, torch.tensor([0.5]), torch.Generator().manual_seed(0)).x_t.shape
        torch.Size([1, 2, 4])

    References:
        One-step Language Modeling via Continuous Denoising, 2026, arXiv:2602.16813 (its time is 1 - t).
    """

    prediction = "denoiser"  # pyright: ignore[reportAssignmentType]
    has_target = False
    unit: Tensor

    def __init__(self, n_tokens: int, length: int) -> None:
        super().__init__()
        if n_tokens < 2 or length < 1:
            raise ConfigError(
                f"TokenPath needs n_tokens >= 2 and length >= 1; got n_tokens={n_tokens}, length={length}."
            )
        self.n_tokens, self.length = n_tokens, length
        self.manifold = Power(Euclidean(n_tokens), length)
        self.decoding_clock = DecodingClock(n_tokens)
        self.prior = WrappedNormal(self.manifold)
        self.register_buffer("unit", torch.ones(()))  # its dtype is that of one-hot points

    def check_tokens(self, tokens: Tensor, name: str = "tokens") -> None:
        """Check that these are sequences of this path.

        Raises:
            DataError: if they are not integers ``(n, length)`` in [0, n_tokens).
        """
        kind = getattr(tokens, "dtype", type(tokens).__name__)
        if not isinstance(tokens, Tensor) or tokens.is_floating_point() or tokens.is_complex():
            raise DataError(f"{name} must be a tensor of integers, got {kind}. Convert them: torch.tensor(ids).long().")
        if tokens.dim() != 2 or tokens.shape[1] != self.length:
            raise DataError(
                f"{name} must have shape (n, {self.length}), got {tuple(tokens.shape)}. Cut the text into windows of "
                f"{self.length} tokens, or build the model with another length."
            )
        bad = (tokens < 0) | (tokens >= self.n_tokens)
        if bad.any():
            row = int(bad.any(-1).nonzero()[0])
            raise DataError(
                f"{name}: row {row} has a token outside [0, {self.n_tokens}): {tokens[row][bad[row]][0].item()}. Give "
                "the model n_tokens of the whole vocabulary."
            )

    def points(self, tokens: Tensor) -> Tensor:
        """One-hot points ``(*batch, L, K)`` of integer tokens ``(*batch, L)``; points are returned as they are."""
        if tokens.is_floating_point():
            return tokens
        return torch.nn.functional.one_hot(tokens.long(), self.n_tokens).to(self.unit.dtype)

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        check_times(t, self.manifold.batch_shape(x0))
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        s = self.manifold.per_point(t)
        return PathSample(t, x0, (1 - s) * x0 + s * noise, None, torch.ones_like(t))

    def move(self, x: Tensor, t: Tensor, to: Tensor, denoised: Tensor) -> Tensor:
        r"""Point at the time ``to`` on the line from ``x`` at ``t`` to ``denoised`` at 0.

        .. math:: X_{t,s}(x) = \tfrac{s}{t}\, x + \bigl(1 - \tfrac{s}{t}\bigr)\, \delta_{t,s}(x)

        With a two-time denoiser :math:`\delta_{t,s}` it is the flow map; with the denoiser :math:`D_t` it is a step of
        Euler's method in :math:`\log t`, exact for a constant denoiser and finite at s = 0.

        Args:
            x: points at the times ``t``, ``(*batch, L, K)``.
            t: times in (0, 1], ``(*batch,)``.
            to: times s in [0, t], ``(*batch,)``.
            denoised: points of the simplex, ``(*batch, L, K)``.
        """
        ratio = self.manifold.per_point(to / t)
        return ratio * x + (1 - ratio) * denoised

    def score(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        s = self.manifold.per_point(t)
        return ((1 - s) * output.softmax(-1) - x) / s.square()

    def velocity(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return (x - output.softmax(-1)) / self.manifold.per_point(t)

    def noise_levels(self, t: Tensor) -> Tensor:
        return t.square().unsqueeze(-1)

    def scale(self, t: Tensor) -> Tensor:
        return self.manifold.per_point(t)

    def drift_and_rate(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the linear SDE with the same marginals, which forgets its start only at t = 1: infinite there."""
        s = self.manifold.per_point(t)
        return -x / (1 - s), 2 * s / (1 - s)

    def terms(self, network: Network, cond: Tensor | None = None) -> Terms:
        def velocity(t: Tensor, x: Tensor) -> Tensor:
            return self.velocity(network(t, x, cond), x, t)

        def reverse_drift(t: Tensor, x: Tensor) -> Tensor:
            drift, rate = self.drift_and_rate(x, t)
            return drift - rate * self.score(network(t, x, cond), x, t)

        def diffusion(t: Tensor, x: Tensor) -> Tensor:
            return self.drift_and_rate(x, t)[1].sqrt()

        return Terms(ODETerm(velocity), SDETerm(reverse_drift, diffusion))

    def prior_mismatch(self, x0: Tensor, generator: torch.Generator | None = None, max_points: int = 1000) -> Mismatch:
        """None: at t = 1 the path is the prior, whatever the data."""
        return Mismatch(0.0, 0.0)

    def log_transition(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        s = self.manifold.per_point(t)
        z = (x - (1 - s) * x0) / s
        return -0.5 * z.square().sum((-2, -1)) - self.manifold.dim * (t.log() + 0.5 * math.log(2 * math.pi))
