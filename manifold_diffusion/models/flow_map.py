"""Flow maps: samples in one evaluation of the network, or in as many as one likes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .._errors import ConfigError, NumericsError
from .._safe import log_abs_det
from ..manifolds import Manifold
from ..networks import TangentMLP
from ..objectives import FlowMapMatching, Objective, flow_map
from ..processes import GeodesicFlow, LogPath, Process
from ..solvers import (
    AdaptiveSteps,
    DensitySolution,
    DormandPrince,
    LearnedMultistep,
    LikelihoodResult,
    Solver,
    StepController,
    integrate,
)
from .base import GenerativeModel
from .inputs import check_points, conditions, in_chunks, times_at

__all__ = ["FlowMap"]


class FlowMap(GenerativeModel):
    r"""A generative model whose network jumps along the flow, :math:`X_{s,t}(x) = \exp_x((\lambda_t - \lambda_s) F)`.

    One network serves 1, 2, 4, 8, ... steps (:meth:`sample`), and its diagonal :math:`F_{s,s}` is an ordinary velocity,
    so that everything that a :class:`RiemannianFlow` offers is there as well: the flow with any solver
    (``sample(method="ode")``), the exact likelihood along it (:meth:`log_prob`). The density of the jumps themselves,
    where they are diffeomorphisms, is :meth:`map_log_prob`.

    Args:
        manifold: where the data live.
        process: gives the path and the clock; default geodesics in a logarithmic path.
        network: two-time network ``(s, x, cond, t) -> tangent vector``; default ``TangentMLP(two_times=True)``.
        objective: default :class:`~manifold_diffusion.objectives.FlowMapMatching`, Lagrangian.
        sampler: learned multistep scheme; made by :meth:`fit_sampler`.

    Raises:
        CapabilityError: if the process has no clock.
        ConfigError: if a part belongs to another manifold.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.models import FlowMap
        >>> model = FlowMap(Sphere(2))
        >>> model.sample(5, steps=1, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 3])

    References:
        Boffi et al., *Flow map matching*, 2024, arXiv:2406.07507; Davis et al., *Generalised flow maps for few-step
        generative modelling on Riemannian manifolds*, 2025, arXiv:2510.21608.
    """

    title = "Riemannian flow map"

    def __init__(
        self,
        manifold: Manifold,
        process: Process | None = None,
        network: nn.Module | None = None,
        objective: Objective | None = None,
        sampler: LearnedMultistep | None = None,
    ) -> None:
        process = process if process is not None else GeodesicFlow(manifold, LogPath(1e-2))
        network = network if network is not None else TangentMLP(process, two_times=True)
        if not getattr(network, "two_times", True):
            raise ConfigError("A flow map needs a network of two times, such as TangentMLP(process, two_times=True).")
        super().__init__(
            manifold, process, network, objective if objective is not None else FlowMapMatching(process), sampler
        )

    def fit(self, points: Any, val: Any = None, *, teacher: GenerativeModel | None = None, **options: Any):
        """Train; see :meth:`GenerativeModel.fit`.

        Args:
            points: training points.
            val: held-out points.
            teacher: a trained model whose velocity the diagonal learns (distillation); None to learn it from the data
                (self-distillation). It is frozen and not saved with the model.
            options: as in :meth:`GenerativeModel.fit`.

        Raises:
            ConfigError: if the teacher lives on another manifold, or has another process.
        """
        if teacher is None:
            return super().fit(points, val, **options)
        if teacher.manifold != self.manifold:
            raise ConfigError(
                f"The teacher lives on {teacher.manifold}, the flow map on {self.manifold}. Distil a model of the "
                "same manifold."
            )
        if teacher.process is not self.process:
            raise ConfigError(
                "The teacher has another process, whose network has other units. Build the map on the teacher's: "
                "FlowMap(teacher.manifold, teacher.process), of a process with a clock: BrownianMotion or a path."
            )
        if not isinstance(self.objective, FlowMapMatching):
            raise ConfigError(f"Distillation needs FlowMapMatching; got {type(self.objective).__name__}.")
        own, self.objective = self.objective, self.objective.with_teacher(teacher.network)
        try:
            return super().fit(points, val, **options)
        finally:
            self.objective = own

    def jump(self, x: Tensor, start: Tensor | float, end: Tensor | float, cond: Tensor | None = None) -> Tensor:
        """Points that the map carries from time ``start`` to time ``end``."""
        times = times_at(self, x, start), times_at(self, x, end)
        return flow_map(self.process, self.network, *times, x, conditions(cond, self.manifold.batch_shape(x), x))

    def _jump(self, x: Tensor, start: float, end: float, cond: Tensor | None) -> Tensor:
        shape = self.manifold.batch_shape(x)
        return flow_map(self.process, self.network, x.new_full(shape, start), x.new_full(shape, end), x, cond)

    @torch.no_grad()
    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        n: int,
        *,
        steps: int | StepController | None = None,
        method: Literal["map", "ode"] = "map",
        solver: Solver | None = None,
        times: Sequence[float] | None = None,
        cond: Tensor | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 16384,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """Draw points: by jumps, one evaluation of the network each, or along the flow of the diagonal.

        Args:
            n: number of points.
            steps: jumps, equal in t, default 1; of the flow as in :meth:`GenerativeModel.sample`.
            method: ``"map"``, or ``"ode"`` for the flow with a solver.
            solver: scheme of the flow; to be given with ``"ode"``.
            times: instead of ``steps``, the times from 1 to 0 at which jumps start and end.
            cond: condition, ``(cond_dim,)`` or ``(n, cond_dim)``.
            generator: source of the draws of the prior.
            batch_size: points that are carried together.
            return_trajectory: return all states, ``(steps + 1, n, *point_shape)``.
            progress: show a progress bar of the flow.

        Raises:
            ConfigError: if ``steps`` is less than 1.
        """
        if method not in ("map", "ode") or (solver is not None and method == "map"):
            raise ConfigError(
                f"method must be 'map' (jumps) or 'ode' (the flow, with any solver); got {method!r}, solver={solver!r}."
            )
        if method == "ode":
            flow = {"steps": steps, "solver": solver, "cond": cond, "generator": generator, "progress": progress}
            return super().sample(n, batch_size=batch_size, return_trajectory=return_trajectory, **flow)
        grid = self._grid(steps, times)
        chunks = []
        for size, part in in_chunks(self, n, cond, batch_size):
            states = [self._prior_sample(size, generator)]
            for start, end in itertools.pairwise(grid):
                states.append(self._jump(states[-1], start, end, part))
            if not bool(torch.isfinite(states[-1]).all()):
                raise NumericsError("The flow map gave points that are not finite: train it longer, or in float64.")
            chunks.append(torch.stack(states) if return_trajectory else states[-1])
        return torch.cat(chunks, 1 if return_trajectory else 0)

    # ------------------------------------------------------------------ density of the map

    def map_sample_with_log_prob(
        self,
        n: int,
        *,
        steps: int | None = None,
        cond: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> DensitySolution:
        r"""Draw points with the log density of the law that the jumps themselves generate.

        :math:`\log p(X(z)) = \log \pi(z) - \sum_i \log |\det dX_i|`, with the determinants in orthonormal bases of the
        tangent spaces, from ``dim`` derivatives a jump. It is the density of the samples where the map is one to one.

        Raises:
            NumericsError: if a determinant is not positive for some of the points: the map folds, several points have
                one image, and the formula is not their density.
        """
        grid = self._grid(steps, None)
        (part,) = (c for _, c in in_chunks(self, n, cond, max(n, 1)))
        x = self._prior_sample(n, generator)
        log_p = self.process.prior.log_prob(x)
        folded = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for start, end in itertools.pairwise(grid):
            x, log_det, sign = self._jump_with_log_det(x, start, end, part)
            log_p, folded = log_p - log_det, folded | (sign <= 0)
        self._refuse_folds(folded, len(grid) - 1)
        return DensitySolution(x, log_p, None, len(grid) - 1)

    def map_log_prob(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        *,
        steps: int | None = None,
        n_checks: int = 512,
        tolerance: float | None = None,
        generator: torch.Generator | None = None,
    ) -> LikelihoodResult:
        r"""Log density at given points of the law that the jumps generate, by inverting them.

        Each jump is inverted by Newton's method in the tangent space, started where the flow of the diagonal leads. A
        map of degree one whose determinant is positive everywhere is one to one; that it is positive is checked at the
        solutions and at ``n_checks`` draws of the prior, carried through all jumps.

        Args:
            x: points ``(n, *point_shape)``.
            cond: condition.
            steps: jumps, equal in t; default 1.
            n_checks: draws of the prior at which the sign of the determinant is looked at.
            tolerance: largest distance that the image of a solution may have from its point; default the square root of
                the precision of the dtype.
            generator: source of these draws; default a fixed seed.

        Raises:
            NumericsError: if the determinant changes sign, or a point has no preimage that Newton's method finds.
        """
        check_points(self, x, flat=True)
        grid = self._grid(steps, None)
        if len(x) == 0:
            return LikelihoodResult(x.new_zeros(0), None, x, 0)
        (part,) = (c for _, c in in_chunks(self, len(x), cond, max(len(x), 1)))
        tolerance = float(torch.finfo(x.dtype).eps ** 0.5) if tolerance is None else tolerance
        if n_checks:
            generator = generator or torch.Generator(device=x.device).manual_seed(0)
            draws = self.process.prior.sample(n_checks, generator=generator, dtype=x.dtype, device=x.device)
            checked = None if part is None else part[torch.arange(n_checks, device=x.device) % len(part)]
            folded = torch.zeros(n_checks, dtype=torch.bool, device=x.device)
            for start, end in itertools.pairwise(grid):
                draws, _, sign = self._jump_with_log_det(draws, start, end, checked)
                folded |= sign <= 0
            self._refuse_folds(folded, len(grid) - 1)
        z, log_p, evaluations = x, torch.zeros(len(x), dtype=x.dtype, device=x.device), 0
        for end, start in zip(grid[::-1], grid[-2::-1], strict=False):
            z, used = self._invert(z, start, end, part, tolerance)
            _, log_det, sign = self._jump_with_log_det(z, start, end, part)
            self._refuse_folds(sign <= 0, len(grid) - 1)
            log_p, evaluations = log_p - log_det, evaluations + used
        return LikelihoodResult(log_p + self.process.prior.log_prob(z), None, z, evaluations)

    def _invert(self, y: Tensor, start: float, end: float, cond: Tensor | None, tolerance: float) -> tuple[Tensor, int]:
        """Points that one jump carries to ``y``, and the evaluations that took."""
        manifold = self.manifold
        terms = self.process.terms(self.network, cond)
        flow = integrate(terms.flow, manifold, y, end, start, DormandPrince(), AdaptiveSteps(1e-2, 1e-3))
        z, used = flow.x, flow.n_evaluations
        image, matrix = self._jump_with_matrix(z, start, end, cond)
        gap = manifold.dist(image, y)
        for _ in range(50):
            if float(gap.max()) <= tolerance:
                return z, used
            error = self._coefficients(image, manifold.log(image, y), z)
            step = torch.linalg.lstsq(matrix, error.unsqueeze(-1)).solution.squeeze(-1)
            direction = (manifold.per_point(step) * manifold.tangent_basis(z)).sum(1)
            # Halve the step of each point until its image comes closer.
            scale = torch.ones_like(gap)
            for _ in range(8):
                trial = manifold.exp(z, manifold.per_point(scale) * direction)
                closer = manifold.dist(self._jump(trial, start, end, cond).detach(), y) < gap
                used += 1
                if bool((closer | (gap <= tolerance)).all()):
                    break
                scale = torch.where(closer, scale, 0.5 * scale)
            moves = manifold.per_point(closer & (gap > tolerance))
            z = torch.where(moves, manifold.exp(z, manifold.per_point(scale) * direction), z)
            image, matrix = self._jump_with_matrix(z, start, end, cond)
            used += 1 + manifold.dim
            new_gap = manifold.dist(image, y)
            if bool((new_gap >= gap)[gap > tolerance].all()):
                break
            gap = new_gap
        bad = gap > tolerance
        if bool(bad.any()):
            raise NumericsError(
                f"{int(bad.sum())} of {len(y)} points have no preimage under the jump from t = {start:g} to {end:g} "
                f"that Newton's method finds (largest distance left {float(gap.max()):.1e}): the map does not reach "
                "them, or folds. Use log_prob, the likelihood along the flow, or more steps."
            )
        return z, used

    def _coefficients(self, at: Tensor, v: Tensor, base: Tensor) -> Tensor:
        """Coefficients ``(n, dim)`` of tangent vectors at ``at`` in the basis at ``base``, carried there."""
        basis = self._carried_basis(base, at)
        return self.manifold.inner(at.unsqueeze(1).expand_as(basis), basis, v.unsqueeze(1).expand_as(basis))

    def _carried_basis(self, x: Tensor, y: Tensor) -> Tensor:
        """Orthonormal basis at ``y``: that at ``x``, parallel-transported, ``(n, dim, *point_shape)``."""
        basis = self.manifold.tangent_basis(x)
        return self.manifold.transport(x.unsqueeze(1).expand_as(basis), y.unsqueeze(1).expand_as(basis), basis)

    def _jump_with_matrix(self, x: Tensor, start: float, end: float, cond: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images and the matrices of the differential, ``(n, dim, dim)``, in bases that transport carries along."""
        manifold = self.manifold
        x = x.detach().contiguous()
        columns = []

        def jump(z: Tensor) -> Tensor:
            return self._jump(z, start, end, cond)

        with torch.no_grad():
            for direction in manifold.tangent_basis(x).unbind(1):
                y, image = torch.func.jvp(jump, (x,), (direction.contiguous(),))[:2]
                columns.append(image)
            basis = self._carried_basis(x, y)
            rows = [
                manifold.inner(y.unsqueeze(1).expand_as(basis), basis, c.unsqueeze(1).expand_as(basis)) for c in columns
            ]
        return y, torch.stack(rows, -1)

    def _jump_with_log_det(
        self, x: Tensor, start: float, end: float, cond: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, log |det| of the differential and its sign; transport keeps the orientation, so 1 is that of id."""
        y, matrix = self._jump_with_matrix(x, start, end, cond)
        return y, log_abs_det(matrix), torch.linalg.det(matrix).sign()

    def _refuse_folds(self, folded: Tensor, steps: int) -> None:
        if bool(folded.any()):
            raise NumericsError(
                f"The determinant of the flow map with {steps} step{'s' * (steps != 1)} is not positive at "
                f"{int(folded.sum())} of {folded.numel()} points: the map folds there and has no density by the change "
                "of variables. Use more steps, train longer, or log_prob, the likelihood along the flow."
            )

    def _grid(self, steps: Any, times: Sequence[float] | None) -> list[float]:
        if times is not None:
            grid = [float(t) for t in times]
            falling = all(a > b for a, b in itertools.pairwise(grid))
            if steps is not None or len(grid) < 2 or grid[0] != 1 or grid[-1] != 0 or not falling:
                raise ConfigError(f"times must fall from 1 to 0, without steps; got {grid}, steps={steps}.")
            return grid
        steps = 1 if steps is None else steps
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ConfigError(f"A flow map needs an integer steps >= 1; got {steps!r}.")
        return [1 - i / steps for i in range(steps)] + [0.0]
