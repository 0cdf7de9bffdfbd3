"""Time measured by how many tokens a Gaussian-noised one-hot code would decode wrongly."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from .._errors import ConfigError

__all__ = ["DecodingClock"]

_LARGEST = 50.0  # signal over noise at the last knot, where the error is 1e-270
_KNOT = 0.02
_NODE = 0.05


class DecodingClock:
    r"""Decoding error of a noised one-hot code against process time, and its inverse.

    The code of token k is noised to :math:`x = (1 - t) e_k + t z`, z standard normal in :math:`\mathbb{R}^K`. The
    largest entry of x names the wrong token with a probability that depends on :math:`m = (1 - t)/t` only; in units of
    that of a blind guess it is

    .. math::

        \varepsilon(t) = \frac{K}{K-1}\,\bigl(1 - E_z[\Phi(z + m)^{K-1}]\bigr), \qquad
        \varepsilon(0) = 0,\; \varepsilon(1) = 1,

    one minus the :math:`\alpha` of the paper. For K = 2 it is :math:`2 - 2\Phi(m/\sqrt2)`. With a large vocabulary
    nearly all decoding happens in a short interval of t: at t = 1/2 the error is 0.48 for K = 2 and 0.99915 for
    K = 50,000. Times uniform in :math:`\varepsilon` spread training and sampling steps evenly over it.

    The expectation is a trapezoidal sum over 1,160 nodes, which converges geometrically (relative error below 1e-12, in
    the tail too; Gauss-Hermite with 256 nodes has 6e-7 for K = 50,000). Between knots :math:`\log\varepsilon(m)` and
    its inverse are cubic Hermite splines, which are monotone. Everything is computed in float64 and cast; below
    t = 0.02 the error is 0.

    Args:
        n_tokens: size K of the vocabulary, at least 2.

    Raises:
        ConfigError: if there are fewer than two tokens.

    Example:
        >>> clock = DecodingClock(50_000)
        >>> clock.error(torch.tensor([0.0, 0.15, 0.5, 1.0]))
        tensor([0.0000, 0.0837, 0.9991, 1.0000])
        >>> clock.time(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.1913, 1.0000])

    References:
        One-step Language Modeling via Continuous Denoising, 2026, arXiv:2602.16813.
    """

    def __init__(self, n_tokens: int) -> None:
        if n_tokens < 2:
            raise ConfigError(f"DecodingClock needs n_tokens >= 2; got {n_tokens}.")
        self.n_tokens = n_tokens

    def __repr__(self) -> str:
        return f"DecodingClock({self.n_tokens})"

    def error(self, t: Tensor) -> Tensor:
        """Decoding error in [0, 1], increasing in ``t`` in [0, 1]; differentiable."""
        ratio, depth, slope = _table(self.n_tokens, t.device)
        late = t.double() > 1 / (1 + _LARGEST)
        s = torch.where(late, t.double(), 1.0)
        return torch.where(late, (-_hermite((1 - s) / s, ratio, depth, slope)).exp(), 0.0).to(t.dtype)

    def time(self, error: Tensor) -> Tensor:
        """Process time at which the decoding error is ``error`` in [0, 1]: the inverse of :meth:`error`."""
        ratio, depth, slope = _table(self.n_tokens, error.device)
        wrong = error.double() > 0
        at = -torch.where(wrong, error.double(), 1.0).log().clamp(max=0.0)
        m = _hermite(torch.minimum(at, depth[-1]), depth, ratio, 1 / slope)
        return torch.where(wrong, 1 / (1 + m), 0.0).to(error.dtype)


@functools.lru_cache(maxsize=16)
def _arrays(n_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    r"""Knots m, :math:`-\log\varepsilon` there, and its derivative.

    In NumPy: a table that torch made inside a transform (``jvp``) would belong to it, and must not be kept.
    """
    from scipy.special import log_ndtr

    m = np.arange(0, _LARGEST + _KNOT / 2, _KNOT)
    y = np.arange(-14, 44, _NODE)  # y = z + m
    wrong = -np.expm1((n_tokens - 1) * log_ndtr(y)) * n_tokens / (n_tokens - 1)
    z = y - m[:, None]
    weight = np.exp(-0.5 * z**2) * (_NODE / math.sqrt(2 * math.pi))
    error = weight @ wrong
    error[0] = 1.0  # exactly
    return m, -np.log(error), -(weight * z) @ wrong / error


def _table(n_tokens: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The arrays as tensors."""
    m, depth, slope = (torch.from_numpy(a).to(device) for a in _arrays(n_tokens))
    return m, depth, slope


def _hermite(x: Tensor, knots: Tensor, values: Tensor, slopes: Tensor) -> Tensor:
    """Cubic Hermite spline."""
    left = (torch.searchsorted(knots, x.detach().contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    h = knots[left + 1] - knots[left]
    u = (x - knots[left]) / h
    v = 1 - u
    return (
        values[left] * v * v * (1 + 2 * u)
        + values[left + 1] * u * u * (1 + 2 * v)
        + h * u * v * (slopes[left] * v - slopes[left + 1] * u)
    )
