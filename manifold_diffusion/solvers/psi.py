"""Psi samplers: the reverse step mixed with a prediction of the data that is noised again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .._errors import ConfigError, NumericsError
from ..processes import Denoiser, DiscreteNoise
from .kappa import Kappa

__all__ = ["DiscretePsi", "PsiKernel", "sample_psi"]


class PsiKernel(ABC):
    r"""One step of a Psi sampler, from noise level t to s <= t.

    .. math:: \Psi(x_s \mid x_t) = \kappa\, q(x_s \mid x_t) + (1 - \kappa) \int p(x_0 \mid x_t)\, q(x_s \mid x_0)\,dx_0

    Both parts carry the law of the process at t to its law at s, hence so does the mixture, for every :math:`\kappa`:
    1 is ancestral sampling, 0 predicts the data and noises the prediction again. The second part forgets the errors of
    :math:`x_t` and draws dependent tokens again.
    """

    @abstractmethod
    def step(self, x: Tensor, t: float, s: float, kappa: float, generator: torch.Generator | None = None) -> Tensor:
        """``x_s`` from ``x_t``, of the same shape."""


@dataclass(frozen=True)
class DiscretePsi(PsiKernel):
    r"""The Psi step for tokens, each token on its own: one evaluation of the denoiser a step.

    Args:
        process: noise on tokens.
        denoiser: ``(t, x_t) -> p(x_0 | x_t)``; of a network: ``process.denoiser(network, cond)``.
        dtype: type of the times that the denoiser gets.

    Example:
        >>> import torch
        >>> from manifold_diffusion.processes import AbsorbingNoise
        >>> from manifold_diffusion.solvers import PhasedKappa, sample_psi
        >>> process = AbsorbingNoise(5)
        >>> network = lambda t, x, cond=None: torch.zeros(*x.shape, 5)
        >>> kernel = DiscretePsi(process, process.denoiser(network))
        >>> g = torch.Generator().manual_seed(0)
        >>> x = sample_psi(kernel, process.sample_prior((100, 3), g), 16, PhasedKappa(0.9), generator=g)
        >>> x.shape, int(x.max())
        (torch.Size([100, 3]), 4)
    """

    process: DiscreteNoise
    denoiser: Denoiser
    dtype: torch.dtype = torch.float32

    def transition(self, x: Tensor, t: float, s: float, kappa: float) -> Tensor:
        r"""Probabilities :math:`\Psi(x_s \mid x_t)` of each token, ``(*batch, length, n_states)``."""
        late, early = (torch.full(x.shape[:-1], a, dtype=self.dtype, device=x.device) for a in (t, s))
        p = self.denoiser(late, x)
        law = kappa * self.process.posterior(x, p, early, late)
        return law if kappa == 1 else law + (1 - kappa) * self.process.marginal(p, early)

    def step(self, x: Tensor, t: float, s: float, kappa: float, generator: torch.Generator | None = None) -> Tensor:
        law = self.transition(x, t, s, kappa)
        if not bool(law.isfinite().all()):
            raise NumericsError(
                f"The denoiser's probabilities are not finite at t = {t:.6g}: check the network, or use float64."
            )
        flat = law.reshape(-1, law.shape[-1])
        if not len(flat):
            return x
        return torch.multinomial(flat, 1, generator=generator).reshape(x.shape)


@torch.no_grad()
def sample_psi(
    kernel: PsiKernel,
    x: Tensor,
    times: int | Sequence[float],
    kappa: float | Kappa = 1.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
    callback: Callable[[float, Tensor], None] | None = None,
) -> Tensor:
    r"""Run a Psi sampler from the prior to data.

    Args:
        kernel: :class:`DiscretePsi` for tokens, :class:`PredictorCorrector` for points of a manifold.
        x: draws of the prior: tokens ``(*batch, length)`` or points ``(*batch, *point_shape)``.
        times: number of equal steps from 1 to 0, or the times themselves, non-increasing, the last one 0.
        kappa: probability of the reverse step: a number, or a function ``(t, s) -> kappa`` such as
            :class:`PhasedKappa`.
        generator: source of all randomness.
        progress: show a progress bar.
        callback: called as ``callback(s, x)`` after every step.

    Returns:
        Tokens or points at t = 0, of the shape of ``x``.

    Raises:
        ConfigError: for times that do not descend to 0, or a ``kappa`` outside [0, 1].
        NumericsError: if points or probabilities stop being finite.

    Reference:
        Deschenaux, Gulcehre and Sahoo, *The diffusion duality, chapter II: Psi-samplers and efficient curriculum*,
        2026, arXiv:2602.21185.
    """
    grid = _grid(times)
    steps = list(pairwise(grid))
    if progress:
        from tqdm.auto import tqdm

        steps = tqdm(steps, desc="psi")
    for t, s in steps:
        k = float(kappa(t, s) if callable(kappa) else kappa)
        if not 0 <= k <= 1:
            raise ConfigError(f"kappa must be in [0, 1]; got {k} for the step from t = {t:.6g} to {s:.6g}.")
        x = kernel.step(x, t, s, k, generator)
        if x.is_floating_point() and not bool(x.isfinite().all()):
            raise NumericsError(
                f"Points became NaN or infinite in the step from t = {t:.6g} to {s:.6g}. Check the network, take more "
                "steps, or use float64."
            )
        if callback is not None:
            callback(s, x)
    return x


def _grid(times: int | Sequence[float]) -> list[float]:
    if isinstance(times, int):
        if isinstance(times, bool) or times < 1:
            raise ConfigError(f"times must be a number of steps >= 1 or a sequence of times; got {times!r}.")
        return [1 - i / times for i in range(times)] + [0.0]
    grid = [float(t) for t in times]
    if len(grid) < 2 or grid[0] > 1 or grid[-1] != 0 or any(not t >= s for t, s in pairwise(grid)):
        raise ConfigError(f"times must be non-increasing, from at most 1 to 0; got {grid[:3]} ... {grid[-1:]}.")
    return grid
