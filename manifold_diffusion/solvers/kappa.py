"""How often a Psi sampler takes the reverse step, and the times of its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from .._errors import ConfigError
from ..processes import LinearSignal, SignalSchedule

__all__ = ["Kappa", "PhasedKappa", "RemaskingKappa", "loop_times"]

Kappa = Callable[[float, float], float]
"""``(t, s) -> kappa`` in [0, 1] of the step from t to s <= t."""


@dataclass(frozen=True)
class PhasedKappa:
    r"""One value of :math:`\kappa` in the middle of the run, others before and after.

    The default corrects between t = 0.5 and t = 0.1, where most of a sample is decided, and is ancestral elsewhere.

    Args:
        middle: value for ``t_low <= t <= t_high``.
        high: value for larger t.
        low: value for smaller t.
        t_high: upper end of the middle.
        t_low: lower end.

    Example:
        >>> kappa = PhasedKappa(0.95)
        >>> kappa(0.8, 0.7), kappa(0.3, 0.2), kappa(0.05, 0.0)
        (1.0, 0.95, 1.0)

    Reference:
        Deschenaux, Gulcehre and Sahoo, *The diffusion duality, chapter II*, 2026, arXiv:2602.21185.
    """

    middle: float = 0.95
    high: float = 1.0
    low: float = 1.0
    t_high: float = 0.5
    t_low: float = 0.1

    def __post_init__(self) -> None:
        values, ends = (self.high, self.middle, self.low), (self.t_low, self.t_high)
        if not all(0 <= k <= 1 for k in values) or not 0 <= ends[0] <= ends[1] <= 1:
            raise ConfigError(
                f"PhasedKappa needs values in [0, 1] and 0 <= t_low <= t_high <= 1; got high, middle, low = {values}, "
                f"t_low, t_high = {ends}."
            )

    def __call__(self, t: float, s: float) -> float:
        return self.high if t > self.t_high else self.low if t < self.t_low else self.middle


@dataclass(frozen=True)
class RemaskingKappa:
    r"""The :math:`\kappa` with which absorbing noise remasks a token that is seen with probability :math:`\sigma`.

    .. math:: \kappa = 1 - \frac{\sigma}{1 - \alpha_s} \text{ clipped to } [0, 1], \qquad
        \sigma = \min(\eta, \sigma_{\max}) \text{ or } \eta\,\sigma_{\max}, \qquad
        \sigma_{\max} = \min\Big(1, \frac{1 - \alpha_s}{\alpha_t}\Big)

    With it the Psi step is the step of ReMDM as long as :math:`\sigma \le 1 - \alpha_s`, where nothing is clipped.

    Args:
        eta: strength, in [0, 1].
        mode: ``"capped"``, the minimum, or ``"rescaled"``, the product.
        signal: signal level of the process; default :class:`~manifold_diffusion.processes.LinearSignal`.

    Example:
        >>> kappa = RemaskingKappa(0.1)
        >>> round(kappa(0.6, 0.5), 12), kappa(0.05, 0.0)
        (0.8, 1.0)

    Reference:
        Wang et al., *Remasking discrete diffusion models with inference-time scaling*, 2025, arXiv:2503.00307.
    """

    eta: float
    mode: Literal["capped", "rescaled"] = "capped"
    signal: SignalSchedule | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1 or self.mode not in ("capped", "rescaled"):
            raise ConfigError(
                f"RemaskingKappa needs eta in [0, 1] and mode 'capped' or 'rescaled'; got {self.eta}, {self.mode!r}."
            )

    def __call__(self, t: float, s: float) -> float:
        times = torch.tensor([t, s], dtype=torch.float64)
        signal = self.signal if self.signal is not None else LinearSignal()
        alpha_t, noise_s = float(signal.alpha(times)[0]), float(signal.noise(times)[1])
        if noise_s == 0:  # at s = 0 both kernels are p(x_0 | x_t)
            return 1.0
        most = min(1.0, noise_s / alpha_t) if alpha_t > 0 else 1.0
        sigma = min(self.eta, most) if self.mode == "capped" else self.eta * most
        return min(max(1 - sigma / noise_s, 0.0), 1.0)


def loop_times(steps: int, level: float = 0.5, share: float = 0.5) -> list[float]:
    r"""Times of a run that waits: 1 to ``level``, then ``level`` again and again, then ``level`` to 0.

    A step from t to t changes nothing with probability :math:`\kappa` and else predicts and re-noises to the same
    level: a corrector. Needs :math:`\kappa < 1` there.

    Args:
        steps: number of steps in all.
        level: time at which to wait, in (0, 1).
        share: share of the steps that wait, in [0, 1).

    Returns:
        ``steps + 1`` times from 1 to 0.

    Example:
        >>> loop_times(6, level=0.5, share=0.34)
        [1.0, 0.75, 0.5, 0.5, 0.5, 0.25, 0.0]
    """
    wait = round(steps * share)
    down = math.ceil((steps - wait) * (1 - level))
    up = steps - wait - down
    if not (0 < level < 1 and 0 <= share < 1) or down < 1 or up < 1:
        raise ConfigError(
            f"loop_times needs level in (0, 1), share in [0, 1) and a step on both sides of the level; got "
            f"steps={steps}, level={level}, share={share}."
        )
    before = [1 - (1 - level) * i / down for i in range(down)]
    return [*before, *[level] * (wait + 1), *[level * (1 - i / up) for i in range(1, up + 1)]]
