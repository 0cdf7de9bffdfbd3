"""What the noise of a process is at time t: Brownian motion for some time, and a contraction towards the origin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError
from ..processes import BrownianMotion, Langevin, NoiseProcess, Process, ProductProcess

__all__ = ["HeatTime", "NoiseLevel", "heat_time", "noise_level"]


@dataclass(frozen=True)
class HeatTime:
    r"""A process at time t as Brownian motion: :math:`x_t = m\,b` with b at Brownian time :math:`\tau`."""

    scale: Tensor
    tau: Tensor


@singledispatch
def heat_time(process: Process, t: Tensor) -> HeatTime:
    """Contraction m and Brownian time of a process at times ``t``, ``(*batch,)``.

    Raises:
        CapabilityError: if its law at time t is not that of a Brownian motion.
    """
    raise CapabilityError(
        f"{type(process).__name__} on {process.manifold} has no closed form of one Brownian time. Use "
        "BrownianMotion(manifold), on a product too, or Langevin on Euclidean space."
    )


@heat_time.register
def _(process: BrownianMotion, t: Tensor) -> HeatTime:
    return HeatTime(torch.ones_like(t), process.schedule.tau(t))


@heat_time.register
def _(process: Langevin, t: Tensor) -> HeatTime:
    if not process.has_target:
        raise CapabilityError(
            f"Langevin on {process.manifold} is simulated: it is no Brownian motion. Use "
            f"BrownianMotion({process.manifold})."
        )
    # N(m x_0, sigma^2 (1 - m^2)) is m times N(x_0, sigma^2 (1 / m^2 - 1)).
    age = process.schedule.tau(t) / process.sigma**2
    return HeatTime(torch.exp(-age / 2), process.sigma**2 * torch.expm1(age))


@dataclass(frozen=True)
class NoiseLevel:
    r"""Noise of a process at one time; on a product each factor has its own.

    Attributes:
        scale: contraction m of the data, ``(1, *point_shape)``.
        variance: that of the noise about :math:`m x_0`, ``(1, *point_shape)``, in units in which it turns a score into
            a displacement (the weight of a factor of a product included).
        tau: Brownian time in units of the data, variance / m^2; on a product the geometric mean over the dimensions.
    """

    scale: Tensor
    variance: Tensor
    tau: float


@singledispatch
def noise_level(process: NoiseProcess, t: Tensor) -> NoiseLevel:
    """Noise of a process at time ``t``, of one element.

    Raises:
        CapabilityError: if its law at time t is not that of a Brownian motion.
    """
    heat, M = heat_time(process, t.reshape(1)), process.manifold
    shape = (1, *M.point_shape)
    scale, tau = (M.per_point(a).expand(shape) for a in (heat.scale, heat.tau))
    return NoiseLevel(scale, scale.square() * tau, float(heat.tau))


@noise_level.register
def _(process: ProductProcess, t: Tensor) -> NoiseLevel:
    M = process.manifold
    levels = [noise_level(p, t) for p in process.processes]
    weighted = [w * level.variance for level, w in zip(levels, M.weights, strict=True)]
    logs = [f.dim * torch.tensor(level.tau).log() for f, level in zip(M.factors, levels, strict=True)]
    mean = float(torch.stack(logs).sum().div(M.dim).exp())
    return NoiseLevel(M.join(*[level.scale for level in levels]), M.join(*weighted), mean)
