"""Networks made of networks, whose samples follow a condition or a likelihood more closely."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..data import mark_condition
from ..processes import LookAhead, NoiseProcess, tempered

__all__ = ["Autoguidance", "ClassifierFree", "GradientGuidance"]


class ClassifierFree(nn.Module):
    r"""Classifier-free guidance: away from what the unconditional law says.

    .. math:: (1 + w)\, g(t, x, c) - w\, g(t, x, \varnothing)

    Outputs are tangent vectors at the same point, so that their combination is one, and is the score of the noised law
    tilted at that time, :math:`p_t(x \mid c)^{1+w} / p_t(x)^w`; the same holds for velocities. These laws for
    different t are not noised versions of each other: for w > 0 the samples follow neither the conditional law nor the
    tilted one at t = 0. With w = 0 they follow the conditional law.

    The network has been trained with :class:`~manifold_diffusion.objectives.ConditionDropout`. Without a condition the
    output is the unconditional one.

    Args:
        network: takes conditions with one more column, which is 1 where they are given.
        scale: w >= 0.
        interval: times between which the guidance acts; elsewhere w = 0. Large scales do least harm in the middle.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.networks import TangentMLP
        >>> from manifold_diffusion.processes import BrownianMotion
        >>> network = TangentMLP(BrownianMotion(Sphere(2)), width=16, n_frequencies=8, cond_dim=3 + 1)
        >>> guided = ClassifierFree(network, scale=2.0)
        >>> guided(torch.rand(5), torch.eye(3)[[0, 1, 2, 0, 1]], torch.ones(5, 3)).shape
        torch.Size([5, 3])

    References:
        Ho and Salimans, *Classifier-free diffusion guidance*, 2022, arXiv:2207.12598; Kynkäänniemi et al., *Applying
        guidance in a limited interval improves sample and distribution quality in diffusion models*, 2024,
        arXiv:2404.07724.
    """

    def __init__(self, network: nn.Module, scale: float = 1.0, interval: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__()
        self.network, self.scale, self.interval = network, _checked_scale(scale), _checked_interval(interval)

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Tangent vectors at ``x`` for times ``t`` ``(*batch,)`` and conditions ``(*batch, cond_dim)``, unmarked."""
        if cond is None:
            size = getattr(self.network, "cond_dim", None)
            if size is None:
                raise ConfigError("The network does not say its cond_dim. Pass a condition, or give it that attribute.")
            return self.network(t, x, x.new_zeros(*t.shape, size))
        if cond.dim() == 0 or cond.shape[:-1] != t.shape:
            raise ConfigError(
                f"cond must have shape (*batch, cond_dim) with the batch shape of t, {tuple(t.shape)}; got "
                f"{tuple(cond.shape)}. Expand one condition for all points: cond.expand(*t.shape, -1)."
            )
        size = getattr(self.network, "cond_dim", cond.shape[-1] + 1)
        if size != cond.shape[-1] + 1:
            raise ConfigError(
                f"ClassifierFree adds to the condition a column that says that it is given: a network with "
                f"cond_dim={size} takes conditions of {size - 1} numbers; got {cond.shape[-1]}. Build it with "
                f"cond_dim={cond.shape[-1] + 1} and train it with ConditionDropout."
            )
        given = torch.ones(t.shape, dtype=torch.bool, device=t.device)
        both = torch.stack([mark_condition(cond, given), mark_condition(cond, ~given)])
        strong, weak = self.network(t.expand(2, *t.shape), x.expand(2, *x.shape), both)
        return _extrapolate(strong, weak, self.scale, self.interval, t)


class Autoguidance(nn.Module):
    r"""Guidance by a worse version of the same model: away from its mistakes.

    .. math:: (1 + w)\, g(t, x, c) - w\, g_{\mathrm{weak}}(t, x, c)

    Args:
        network: the model.
        weak: a smaller network, or one trained for a shorter time, on the same data.
        scale: w >= 0.
        interval: times between which the guidance acts; elsewhere w = 0.

    Raises:
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> class Line(nn.Module):
        ...     def __init__(self, slope):
        ...         super().__init__()
        ...         self.slope = slope
        ...
        ...     def forward(self, t, x, cond=None):
        ...         return self.slope * x
        >>> Autoguidance(Line(1.0), Line(0.8), scale=0.5)(torch.zeros(1), torch.ones(1, 2))
        tensor([[1.1000, 1.1000]])

    References:
        Karras et al., *Guiding a diffusion model with a bad version of itself*, 2024, arXiv:2406.02507.
    """

    def __init__(
        self, network: nn.Module, weak: nn.Module, scale: float = 1.0, interval: Sequence[float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        _check_together("network", network, "weak network", weak)
        self.network, self.weak = network, weak
        self.scale, self.interval = _checked_scale(scale), _checked_interval(interval)

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Tangent vectors at ``x`` for times ``t`` ``(*batch,)``."""
        return _extrapolate(self.network(t, x, cond), self.weak(t, x, cond), self.scale, self.interval, t)


class GradientGuidance(nn.Module):
    r"""The score of a posterior, by the gradient of any differentiable log-likelihood (or reward).

    .. math:: g(t, x) + \sigma(t)\, \nabla_x\, s \log L\big(\hat x_0(x, t)\big)

    :math:`\hat x_0` is the estimate of the data from the noised point
    (:func:`~manifold_diffusion.processes.denoise`); the Riemannian gradient goes through it and through the network. On
    Euclidean space with s = 1 it is diffusion posterior sampling. The exact posterior score has
    :math:`\log E[L(x_0) \mid x_t = x]` in place of :math:`\log L(\hat x_0)`: the samples are biased, and no number of
    steps mends that. :func:`~manifold_diffusion.solvers.sample_twisted` corrects it by weights.

    Args:
        process: process of the network; it predicts a score.
        network: ``(t, x, cond) -> tangent vector at x``.
        log_likelihood: function of points, ``(*batch, *point_shape) -> (*batch,)``, row by row. To be saved with a
            model it must be an object whose class stores the arguments of its constructor.
        scale: s >= 0.
        width: variance of the likelihood about its maximum. If given, it counts less where the estimate is worse than
            that (:func:`~manifold_diffusion.processes.tempered`).
        interval: times between which the guidance acts.

    Raises:
        ConfigError: if an argument is out of range, or the log-likelihood has the wrong shape.
        CapabilityError: if the process's network predicts a velocity, or the process has no estimate of the data.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.networks import TangentMLP
        >>> from manifold_diffusion.processes import BrownianMotion
        >>> process = BrownianMotion(Sphere(2))
        >>> north = torch.tensor([0.0, 0.0, 1.0])
        >>> network = TangentMLP(process, width=16, n_frequencies=8)
        >>> guided = GradientGuidance(process, network, lambda x: 5 * x @ north)
        >>> guided(torch.zeros(1), torch.tensor([[1.0, 0.0, 0.0]])).detach()  # 5 sigma(0) towards north
        tensor([[0.0000, 0.0000, 0.0158]])

    References:
        Chung et al., *Diffusion posterior sampling for general noisy inverse problems*, 2022, arXiv:2209.14687.
    """

    process: NoiseProcess

    def __init__(
        self,
        process: NoiseProcess,
        network: nn.Module,
        log_likelihood: Callable[[Tensor], Tensor],
        scale: float = 1.0,
        width: float | None = None,
        interval: Sequence[float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        _check_together("process", process, "network", network)
        object.__setattr__(self, "process", process)  # not a submodule: its state is the model's
        self.network, self.log_likelihood = network, log_likelihood
        self.scale, self.width, self.interval = _checked_scale(scale), width, _checked_interval(interval)
        self._look()  # refuses what it can't guide

    def _look(self) -> LookAhead:
        return LookAhead(self.process, self.network, tempered(self.log_likelihood, self.scale, self.width))

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Tangent vectors at ``x`` for times ``t`` ``(*batch,)``."""
        seen = self._look()(t, x, cond)
        push = self.process.scale(t) * seen.gradient
        return seen.output + torch.where(_inside(self.interval, t, x), push, torch.zeros_like(push))


def _extrapolate(strong: Tensor, weak: Tensor, scale: float, interval: Sequence[float], t: Tensor) -> Tensor:
    """``(1 + w) strong - w weak``, with w = 0 outside the interval."""
    return strong + scale * _inside(interval, t, strong).to(strong.dtype) * (strong - weak)


def _inside(interval: Sequence[float], t: Tensor, x: Tensor) -> Tensor:
    """Whether the time of each point is in the interval; broadcasts against points."""
    inside = (t >= interval[0]) & (t <= interval[1])
    return inside.reshape(*t.shape, *(1,) * (x.dim() - t.dim()))


def _checked_scale(scale: float) -> float:
    if not 0 <= scale < math.inf:
        raise ConfigError(
            f"scale, the strength of the guidance, must be finite and >= 0; got {scale}. 0 is the network as it is."
        )
    return float(scale)


def _checked_interval(interval: Sequence[float]) -> tuple[float, float]:
    if len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
        raise ConfigError(f"interval must be two times, 0 <= first < last <= 1; got {interval}.")
    return float(interval[0]), float(interval[1])


def _check_together(name: str, part: object, other_name: str, other: object) -> None:
    """Raise :class:`ConfigError` if two parts say that they belong to different manifolds."""
    a, b = (getattr(p, "manifold", None) for p in (part, other))
    if a is not None and b is not None and a != b:
        raise ConfigError(f"The {name} belongs to {a}, the {other_name} to {b}. Take both on one manifold.")
