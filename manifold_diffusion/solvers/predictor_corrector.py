"""The Psi step on a manifold: the reverse process, or the reverse process to cleaner points and exact noise back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._typing import Network
from ..heat_kernels import HeatKernelMixture
from ..processes import BrownianMotion, NoiseProcess, Process
from .controllers import ConstantSteps
from .euler_maruyama import GeodesicEulerMaruyama
from .integrate import integrate
from .psi import PsiKernel

__all__ = ["MixtureReverse", "PredictorCorrector", "ReverseKernel", "ReverseSDE"]

ReverseKernel = Callable[[Tensor, float, float, Tensor | None, torch.Generator | None], Tensor]
"""``(x, t, s, cond, generator) -> x_s`` given ``x_t = x``, with s < t."""


@dataclass(frozen=True)
class ReverseSDE:
    r"""The reverse process of a learned score, by geodesic random walks.

    An approximation: of weak order 1 in ``max_step``, and as good as the score. A prediction :math:`x_0` by one long
    step, the mean of the posterior, is the same call with ``max_step=1``; it is cheap and has neither the right spread
    nor the right mean.

    Args:
        process: noise process.
        network: its network, ``(t, x, cond) -> tangent``.
        max_step: longest step in t.
    """

    process: Process
    network: Network
    max_step: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.max_step <= 1:
            raise ConfigError(f"max_step is a length of time in (0, 1]; got {self.max_step}.")

    def __call__(
        self, x: Tensor, t: float, s: float, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        steps = ConstantSteps(max(1, math.ceil((t - s) / self.max_step - 1e-9)))
        term = self.process.terms(self.network, cond).reverse
        if term is None:
            raise CapabilityError(
                f"{type(self.process).__name__} has no reverse SDE: its network does not determine the score."
            )
        return integrate(term, self.process.manifold, x, t, s, GeodesicEulerMaruyama(), steps, generator).x


@dataclass(frozen=True)
class MixtureReverse:
    r"""The exact reverse kernel :math:`p(x_s \mid x_t)` of a Brownian motion whose data are a mixture of heat kernels.

    With data points as centres and a small ``tau`` it is that of the empirical law.

    Args:
        process: the Brownian motion.
        law: law of the data, before the process's ``tau_min``.
    """

    process: BrownianMotion
    law: HeatKernelMixture

    def __post_init__(self) -> None:
        if not isinstance(self.law, HeatKernelMixture):
            raise ConfigError(
                f"law must be a HeatKernelMixture, of points with HeatKernelMixture(manifold, points, tau); got "
                f"{type(self.law).__name__}."
            )
        if self.law.manifold != self.process.manifold:
            raise ConfigError(f"The law lives on {self.law.manifold}, the process on {self.process.manifold}.")

    def __call__(
        self, x: Tensor, t: float, s: float, cond: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        late, early = self.process.schedule.tau(torch.tensor([t, s], dtype=torch.float64)).tolist()
        return self.law.sample_reverse(x, late, early, generator)


@dataclass(frozen=True)
class PredictorCorrector(PsiKernel):
    r"""The Psi step on a manifold.

    A point takes the reverse kernel from t to s with probability :math:`\kappa`; else it goes on to a cleaner time
    :math:`s' = (1 - \text{depth})\,s` and is noised from :math:`s'` back to s by the process itself:

    .. math:: x_{s'} \sim p(x_{s'} \mid x_t), \qquad x_s \sim p_{\tau(s) - \tau(s')}(x_s \mid x_{s'})

    Depth 1 is the Psi sampler proper, :math:`x_{s'} = x_0`. For every depth the marginals stay those of the reverse
    kernel: what is exact stays exact. The noise is drawn from the heat kernel and adds no error.

    Args:
        process: a process that can :meth:`~manifold_diffusion.processes.NoiseProcess.renoise`: Brownian motion, a
            product of such, or Langevin on Euclidean space.
        reverse: :class:`ReverseSDE` of a network, :class:`MixtureReverse`, or a function
            ``(x, t, s, cond, generator) -> x_s``.
        cond: condition of each point, ``(*batch, cond_dim)``.
        depth: how far towards the data a corrected point goes, in (0, 1].

    Example:
        >>> import torch
        >>> from manifold_diffusion.heat_kernels import HeatKernelMixture
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.processes import BrownianMotion
        >>> from manifold_diffusion.solvers import MixtureReverse, sample_psi
        >>> process, law = BrownianMotion(Sphere(2)), HeatKernelMixture(Sphere(2), torch.eye(3), tau=0.1)
        >>> kernel = PredictorCorrector(process, MixtureReverse(process, law))
        >>> g = torch.Generator().manual_seed(0)
        >>> sample_psi(kernel, process.prior.sample(50, generator=g), 4, kappa=0.5, generator=g).shape
        torch.Size([50, 3])
    """

    process: NoiseProcess
    reverse: ReverseKernel
    cond: Tensor | None = None
    depth: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.depth <= 1:
            raise ConfigError(f"depth must be in (0, 1]; got {self.depth}. Depth 1 goes to the data.")

    def step(self, x: Tensor, t: float, s: float, kappa: float, generator: torch.Generator | None = None) -> Tensor:
        shape = self.process.manifold.batch_shape(x)
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=x.device)
        straight, result = u < kappa, x.clone()
        if t > s and bool(straight.any()):
            result[straight] = self.reverse(x[straight], t, s, self._part(straight), generator)
        around = ~straight
        if bool(around.any()):
            clean = (1 - self.depth) * s
            y = x[around] if clean == t else self.reverse(x[around], t, clean, self._part(around), generator)
            if clean < s:
                times = (torch.full(y.shape[:1], a, dtype=y.dtype, device=y.device) for a in (clean, s))
                y = self.process.renoise(y, *times, generator=generator)
            result[around] = y
        return result

    def _part(self, rows: Tensor) -> Tensor | None:
        return None if self.cond is None else self.cond[rows]
