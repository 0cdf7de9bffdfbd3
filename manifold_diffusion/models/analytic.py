"""The diffusion model of a data set in closed form: no network, no training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from .._errors import CapabilityError, ConfigError, DataError
from .._tensors import untracked, version
from ..heat_kernels import Evaluator, NoisedData
from ..manifolds import Manifold
from ..metrics import KernelDensity
from ..objectives import DenoisingScoreMatching
from ..processes import BrownianMotion, NoiseProcess, ProductProcess, default_process, default_schedule
from ..solvers import LearnedMultistep, Solver, StepController
from .base import GenerativeModel
from .inputs import times_at
from .noise_time import heat_time

__all__ = ["AnalyticDiffusion", "AnalyticScore"]


class AnalyticScore(nn.Module):
    r"""The score of noised data in the units of a process: a network without weights, exact to ``rtol``.

    .. math:: g(t, x) = \sigma(t)\,\nabla\log p_t(x), \qquad p_t = \sum_i w_i\, p_t(\cdot \mid x_i)

    It minimises the loss of denoising score matching over all functions. Samplers, likelihoods, guidance and Psi
    samplers take it as they take a trained network.

    Args:
        process: ``BrownianMotion`` with a heat kernel, or ``Langevin`` on Euclidean space.
        data: points ``(n, *point_shape)``, or :class:`~manifold_diffusion.heat_kernels.NoisedData` for weighted ones,
            or the number of points that a saved state will bring.
        evaluator: see :class:`~manifold_diffusion.heat_kernels.NoisedData`; default that of ``data``, else ``"auto"``.
        rtol: error that is asked for, see :meth:`~manifold_diffusion.heat_kernels.NoisedData.evaluate`; default that of
            ``data``, else 1e-3.

    Raises:
        CapabilityError: if the process has no closed form.
        DataError: if there is no point.
        ManifoldError: if a point is not on the manifold.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.models import AnalyticScore
        >>> from manifold_diffusion.processes import BrownianMotion
        >>> network = AnalyticScore(BrownianMotion(Sphere(2)), torch.eye(3))
        >>> network(torch.tensor([0.5]), torch.tensor([[0.6, 0.8, 0.0]])).shape
        torch.Size([1, 3])
    """

    points: Tensor
    weights: Tensor

    def __init__(
        self,
        process: NoiseProcess,
        data: Tensor | NoisedData | int,
        evaluator: Evaluator | None = None,
        rtol: float | None = None,
    ) -> None:
        super().__init__()
        heat_time(process, torch.ones(1))
        M = process.manifold
        if isinstance(process, BrownianMotion) and process.n_steps is not None:
            raise CapabilityError(f"BrownianMotion on {M} is simulated, without a closed form. Leave out n_steps.")
        told = (data.evaluator, data.rtol) if isinstance(data, NoisedData) else ("auto", 1e-3)
        self.process = process
        self.evaluator: Evaluator = told[0] if evaluator is None else evaluator
        self.rtol = told[1] if rtol is None else rtol
        if isinstance(data, int):
            if data < 1:
                raise DataError(f"data, as the number of points of a saved state, must be >= 1; got {data}.")
            points, weights = M.origin().repeat(data, *(1,) * len(M.point_shape)), torch.ones(data, dtype=torch.float64)
        else:
            law = data if isinstance(data, NoisedData) else NoisedData(M, data)
            if law.manifold != M:
                raise ConfigError(f"The data belong to {law.manifold}, the process to {M}. Use one manifold.")
            if not isinstance(law.points, Tensor):
                raise DataError("A model holds its points in memory. Pass torch.as_tensor(points).")
            points, weights = law.points, law.weights
        with untracked():
            self.register_buffer("points", points.clone())
            self.register_buffer("weights", weights.clone())
        self._law: tuple[Any, NoisedData] | None = None
        if not isinstance(data, int):
            _ = self.law  # refuses bad arguments now

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        dtype = self.points.dtype
        with untracked():
            super()._apply(fn, recurse)
            if self.points.dtype != dtype:
                self.points = self.process.manifold.project(self.points)
        return self

    @property
    def data(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def law(self) -> NoisedData:
        """The data and their evaluators, at Brownian times."""
        state = (self.points, version(self.points), self.weights, version(self.weights))
        if self._law is None or any(a is not b for a, b in zip(self._law[0], state, strict=True)):
            M, options = self.process.manifold, {"evaluator": self.evaluator, "rtol": self.rtol}
            self._law = state, NoisedData(M, self.points, self.weights, **options)
        return self._law[1]

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Score at ``x`` in units of the noise, tangent at ``x``.

        Args:
            t: times, ``(*batch,)``.
            x: points, ``(*batch, *point_shape)``.
            cond: not used; must be None.
        """
        if cond is not None:
            raise ConfigError("AnalyticScore has no condition. Make one from the points of each condition.")
        heat, M = heat_time(self.process, t), self.process.manifold
        scale = M.per_point(heat.scale)
        return self.process.scale(t) * self.law.score(x / scale, heat.tau) / scale

    def log_prob(self, x: Tensor, t: Tensor, **options: Any) -> Tensor:
        """Log density of the data noised to time ``t`` ``(*batch,)``, in closed form; options of ``NoisedData``."""
        heat, M = heat_time(self.process, t), self.process.manifold
        return self.law.log_prob(x / M.per_point(heat.scale), heat.tau, **options) - M.dim * heat.scale.log()

    def add(self, points: Tensor, weights: Tensor | None = None) -> None:
        """Append points; see :meth:`~manifold_diffusion.heat_kernels.NoisedData.add`."""
        self.law.add(points, weights)
        self._take()

    def remove(self, which: Tensor) -> None:
        """Forget points, by index or mask: nothing of them is left, in the state either."""
        self.law.remove(which)
        self._take()

    def _take(self) -> None:
        law = self.law
        assert isinstance(law.points, Tensor)
        self.points, self.weights = law.points, law.weights.to(self.weights.device)
        self._law = (self.points, version(self.points), self.weights, version(self.weights)), law


class AnalyticDiffusion(GenerativeModel):
    r"""What a diffusion model of a data set tends to, in closed form: its heat-kernel density estimate.

    .. math:: p_t(x) = \sum_i w_i\, p_{\tau(t)}(x \mid x_i)

    It has the interface of a trained model. At t = 0 its law is that of the points noised by ``tau_min`` of the
    schedule, which is all the smoothing there is: as ``tau_min`` goes to zero it returns its data;
    :meth:`cross_validated` chooses it. It is an oracle for everything that is learned, a baseline that memorises, and a
    base for guidance.

    Args:
        manifold: where the data live; needs a heat kernel.
        data: points ``(n, *point_shape)``, or :class:`~manifold_diffusion.heat_kernels.NoisedData` for weighted ones,
            or the number of points that a saved state will bring.
        process: ``BrownianMotion`` or ``Langevin`` on Euclidean space; default Langevin there, Brownian motion
            elsewhere, with a prior about all points (at most 4096) where there is no uniform law.
        evaluator: see :class:`~manifold_diffusion.heat_kernels.NoisedData`; default that of ``data``, else ``"auto"``.
        rtol: error of the score that is asked for; default that of ``data``, else 1e-3.
        sampler: learned multistep scheme; made by :meth:`fit_sampler`.

    Raises:
        CapabilityError: if the process has no closed form.
        DataError: if there is no point.
        ManifoldError: if a point is not on the manifold.

    Example:
        >>> import torch
        >>> from manifold_diffusion import AnalyticDiffusion
        >>> from manifold_diffusion.manifolds import Sphere
        >>> model = AnalyticDiffusion(Sphere(2), torch.eye(3))
        >>> x = model.sample(5, generator=torch.Generator().manual_seed(0))  # a point and its noise, exactly
        >>> model.log_prob(x).shape, model.sample(5, method="ode").shape
        (torch.Size([5]), torch.Size([5, 3]))

    References:
        Shang et al., *Fast and scalable analytical diffusion*, 2026, arXiv:2602.16498.
    """

    title = "Closed-form diffusion"
    process: NoiseProcess
    network: AnalyticScore

    def __init__(
        self,
        manifold: Manifold,
        data: Tensor | NoisedData | int,
        process: NoiseProcess | None = None,
        evaluator: Evaluator | None = None,
        rtol: float | None = None,
        sampler: LearnedMultistep | None = None,
    ) -> None:
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        if process is None:
            process = default_process(manifold)
            if isinstance(process, ProductProcess | BrownianMotion):
                size = data if isinstance(data, int) else len(data)
                process = BrownianMotion(manifold, n_centres=min(size, 4096))
        if not isinstance(process, NoiseProcess):
            raise ConfigError(f"AnalyticDiffusion needs a noise process such as BrownianMotion; got {process!r}.")
        network = AnalyticScore(process, data, evaluator, rtol)
        super().__init__(manifold, process, network, DenoisingScoreMatching(process), sampler)
        self.evaluator, self.rtol = network.evaluator, network.rtol
        if not isinstance(data, int):
            generator = torch.Generator(device=network.points.device).manual_seed(0)
            weights = None if bool((network.weights == network.weights[0]).all()) else network.weights
            process.fit_prior(network.points, generator, weights)

    @classmethod
    def cross_validated(
        cls, manifold: Manifold, data: Tensor, val: Tensor | None = None, **options: Any
    ) -> AnalyticDiffusion:
        r"""The model of Brownian motion that stops at the noise level at which held-out points are likeliest.

        Without validation points each point, or an even choice of 1000, is scored under the model of the others, which
        is exact leave-one-out:

        .. math:: \tau_{\min} = \arg\max_\tau \sum_i \log \frac1{n - 1} \sum_{j \ne i} p_\tau(x_i \mid x_j)

        Args:
            manifold: where the data live; needs a heat kernel.
            data: points ``(n, *point_shape)``.
            val: validation points, to be scored instead.
            options: ``evaluator``, ``rtol`` of the model.

        Returns:
            The model; :math:`\tau_{\min}` is at least 1e-8, as repeated points would ask for none at all, and at most
            half of :math:`\tau_{\max}`.

        Raises:
            DataError: if there is one point, and no validation point.

        Example:
            >>> import torch
            >>> from manifold_diffusion import AnalyticDiffusion
            >>> from manifold_diffusion.manifolds import Sphere
            >>> M, noise = Sphere(2), torch.randn(150, 3, generator=torch.Generator().manual_seed(0))
            >>> points = M.project(torch.eye(3).repeat(50, 1) + 0.1 * noise)  # three clusters
            >>> model = AnalyticDiffusion.cross_validated(M, points)
            >>> round(model.process.schedule.tau_min ** 0.5, 2)  # standard deviation of the noise, in radians
            0.06
        """
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        if not isinstance(data, Tensor):
            raise DataError(f"cross_validated takes points, a tensor without weights; got {type(data).__name__}.")
        tau_min = KernelDensity.fit(manifold, data, val).bandwidth ** 2
        schedule = default_schedule(manifold, min(tau_min, default_schedule(manifold).tau_max / 2))
        return cls(manifold, data, BrownianMotion(manifold, schedule, n_centres=min(len(data), 4096)), **options)

    @property
    def data(self) -> int:
        """Number of points."""
        return self.network.data

    def fit(self, *args: Any, **options: Any) -> Any:
        """There is nothing to train.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(
            "AnalyticDiffusion is exact as it is and has nothing to train. Use add and remove to change its points, "
            "AnalyticDiffusion.cross_validated to choose its smoothing, or RiemannianDiffusion for a network."
        )

    def add(self, points: Tensor, weights: Tensor | None = None) -> None:
        """Append points, of weight 1 by default; the prior of a non-compact manifold stays as it is."""
        self.network.add(points, weights)

    def remove(self, which: Tensor) -> None:
        """Forget points, by index or mask.

        Density, score and samples are those of a model that was never given them. The prior at t = 1 of a non-compact
        manifold is a mixture about the points; build the model anew to take them out of it too.
        """
        self.network.remove(which)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        steps: int | StepController | None = None,
        method: Literal["exact", "ode", "sde"] = "exact",
        solver: Solver | None = None,
        cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 16384,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """Draw points: a random data point and the noise of t = 0, exactly; or through the flow or the reverse SDE.

        Args:
            n: number of points.
            steps: for the other methods, as in :meth:`GenerativeModel.sample`, like ``solver``, ``batch_size``,
                ``return_trajectory`` and ``progress``.
            method: ``"exact"``, ``"ode"`` or ``"sde"``.
            solver: a scheme.
            cond: must be None.
            generator: source of all randomness.
            batch_size: points that are integrated together.
            return_trajectory: return all states.
            progress: show a progress bar.

        Returns:
            Points ``(n, *point_shape)``, in the dtype and on the device of the data.

        Raises:
            ConfigError: if a solver, steps or a trajectory are asked for with the exact method.
        """
        if method != "exact":
            return super().sample(
                n, steps=steps, method=method, solver=solver, cond=cond, generator=generator, batch_size=batch_size,
                return_trajectory=return_trajectory, progress=progress,
            )  # fmt: skip
        if steps is not None or solver is not None or return_trajectory or cond is not None:
            raise ConfigError(
                "method='exact' draws without steps, solver, condition or trajectory. Use method='ode' or 'sde'."
            )
        if n < 0:
            raise ConfigError(f"sample needs n >= 0; got {n}.")
        start = self.network.law.choose(n, generator)
        return self.process.sample(start, times_at(self, start, 0.0), generator).x_t

    def log_prob(self, x: Tensor, cond: Tensor | None = None, **options: Any) -> Tensor:
        """Log density at t = 0 in nats, in closed form, ``(n,)``; :meth:`likelihood` goes through the flow.

        Args:
            x: points ``(n, *point_shape)``.
            cond: must be None.
            options: ``evaluator`` and ``rtol``.

        Raises:
            ManifoldError: if a point is not on the manifold.
        """
        if cond is not None:
            raise ConfigError("AnalyticDiffusion has no condition. Make one from the points of each condition.")
        self.manifold.check_point(x, "x")
        return self.network.log_prob(x, times_at(self, x, 0.0), **options)
