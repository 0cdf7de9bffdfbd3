"""The string method: curves between two points that follow a flow, a score, and noise at a temperature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, NumericsError
from ..manifolds import Manifold
from ..processes import ODETerm, SDETerm
from ._string_watch import StringWatch
from ._walkers import alike, follow, walk_in_cells
from .arc_length import check_nodes, equal_arc_length
from .base import Solver, expand_time
from .controllers import ConstantSteps
from .integrate import check_combination, integrate
from .rk4 import GeodesicRK4
from .string_result import StringResult, summarise

__all__ = ["DiffusionString"]

Field = Callable[[Tensor, Tensor], Tensor]

_PUSHED = 0.3
"""Spacings that a force may push across a string at rest, in a step."""


@dataclass(frozen=True)
class DiffusionString:
    r"""Strings between two points of a manifold, under the velocity and the score of a generative model.

    Points follow the probability flow from t = 1 to t = 0, and in addition the score, with noise:

    .. math:: dX = (v_t - g^2 \nabla\log p_t)\,dt + \sqrt{2 T}\, g\, dB, \qquad dt < 0,

    with v the velocity along increasing t and B of generator :math:`\Delta/2`. At T = 1 the marginals are those of the
    model for every g. The nodes of a string are kept at equal distances, which leaves three limits:

    ===================  ========================  =====================================================================
    transport            ``g = 0``                 image under the flow of the geodesic between the encoded ends
    minimum-energy path  ``g > 0, T = 0``          curve along whose normals the score vanishes, for large g
    principal curve      ``g > 0, T > 0``          each node is the mean of walkers that stay in its Voronoi cell
    ===================  ========================  =====================================================================

    :meth:`evolve` goes from noise to data; :meth:`relax` is the classical string method, at a fixed time or with any
    force.

    Args:
        manifold: any manifold with ``exp`` and ``log``.
        velocity: dx/dt along increasing t, ``(t, x) -> tangent vector``, t ``(*batch,)``; None for static strings.
        score: ``(t, x) -> tangent vector``, or a force :math:`-\nabla V`; None for transport only.
        log_prob: log density for the energy profile, or -V, ``(k, *point_shape) -> (k,)``; None for no profile.
        solver: scheme of one step of the nodes; default :class:`GeodesicRK4`.
        order: of the curve through the nodes: 1 for piecewise geodesics, 3 (default) for cubics in normal coordinates.

    Raises:
        ConfigError: if a function belongs to another manifold, there is none, or the order is out of range.

    Example:
        Between the two modes of a mixture of heat kernels on the sphere: a great circle, by symmetry.

        >>> import torch
        >>> from manifold_diffusion.heat_kernels import HeatKernelMixture
        >>> from manifold_diffusion.manifolds import Sphere
        >>> law = HeatKernelMixture(Sphere(2), torch.eye(3, dtype=torch.float64)[:2], tau=0.3)
        >>> string = DiffusionString(Sphere(2), score=lambda t, x: law.score(x), log_prob=law.log_prob)
        >>> path = string.relax(law.centres, step=0.05, n_nodes=20, free_ends=True)
        >>> path.converged, [round(b, 4) for b in path.saddle.barriers]
        (True, [0.3041, 0.3041])

    References:
        Moreau, Coeurdoux, Ferre and Vanden-Eijnden, *Probing the geometry of diffusion models with the string method*,
        2026, arXiv:2602.22122; E, Ren and Vanden-Eijnden, *Simplified and improved string method*, 2007,
        J. Chem. Phys. 126, 164103; Vanden-Eijnden and Venturoli, *Revisiting the finite temperature string method*,
        2009, J. Chem. Phys. 130, 194103.
    """

    manifold: Manifold
    velocity: Field | None = None
    score: Field | None = None
    log_prob: Callable[[Tensor], Tensor] | None = None
    solver: Solver[Any] = field(default_factory=GeodesicRK4)
    order: int = 3

    def __post_init__(self) -> None:
        if self.velocity is None and self.score is None:
            raise ConfigError("A string needs a velocity, a score or both: DiffusionString(manifold, velocity, score).")
        if self.order not in (1, 2, 3):
            raise ConfigError(f"order must be 1 (piecewise geodesics), 2 or 3 (cubic); got {self.order}.")
        for name in ("velocity", "score", "log_prob"):
            part = getattr(self, name)
            other = getattr(getattr(part, "__self__", part), "manifold", self.manifold)
            if other != self.manifold:
                raise ConfigError(
                    f"{name} belongs to {other}, the string to {self.manifold}. Build both on one manifold."
                )
        check_combination(ODETerm(self._score), self.solver, ConstantSteps(1))

    # ------------------------------------------------------------------ the two kinds of string

    @torch.no_grad()
    def evolve(
        self,
        x_a: Tensor,
        x_b: Tensor,
        *,
        n_nodes: int = 50,
        steps: int = 200,
        g: float | Field = 0.0,
        via: Tensor | None = None,
        temperature: float = 0.0,
        n_walkers: int = 32,
        rate: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> StringResult:
        r"""A string from noise to data, whose ends are two given points.

        The ends are carried to t = 1 by the flow, joined by a geodesic there, and follow the same trajectories back; so
        the string ends at the given points. Ends that are close may be far apart at t = 1, and the geodesic between
        them lead around the other side of a compact manifold: ``via`` decides. At a temperature a step is split: the
        flow carries nodes and walkers, the walkers take a step of Langevin dynamics, and the nodes move by ``rate``
        towards their means.

        Args:
            x_a: first end, ``point_shape``.
            x_b: last end, ``point_shape``.
            n_nodes: nodes, the ends included.
            steps: steps, equal in t. A minimum-energy path needs :math:`g^2 h |\nabla^2 \log p_t| < 2.7`, walkers less
                than 1.
            g: strength of the score against the flow; a number or ``(t, x) ->`` a tensor that broadcasts against
                points. :math:`g^2 = a/2` is that of the reverse-time diffusion of a noise process with rate a.
            via: points between the ends, ``(k, *point_shape)``, that the initial string passes through, carried to
                t = 1 as well: which way round it goes where several ways lead from end to end.
            temperature: T >= 0; walkers sample :math:`p_t^{1/T}` for large g.
            n_walkers: walkers per node.
            rate: part of the way to the mean of the walkers that a node goes in a step.
            generator: source of the noise.

        Raises:
            ManifoldError: if an end is not on the manifold or a field is not tangent.
            ConfigError: for arguments out of range.
            CapabilityError: without a velocity, or with g > 0 and no score.
            NumericsError: if the string diverges; the message says where.
        """
        if self.velocity is None:
            raise CapabilityError(
                "A string that evolves from noise to data needs a velocity; this one has a score only. Use relax, or "
                "DiffusionString(manifold, velocity, score)."
            )
        if steps < 1:
            raise ConfigError(f"evolve needs steps >= 1; got {steps}. For example steps=200.")
        still = not callable(g) and g == 0
        if not callable(g) and not 0 <= g < math.inf:
            raise ConfigError(f"g must be finite and >= 0, or a function (t, x) -> tensor; got {g}.")
        if not still and self.score is None:
            raise CapabilityError(
                "This string has a velocity and no score: it does pure transport only, g=0. Give a score for "
                "minimum-energy paths and principal curves."
            )
        if still and temperature > 0:
            raise ConfigError(f"temperature={temperature} has no effect with g=0: noise is sqrt(2 T) g. Give g > 0.")
        walkers = self._walkers(temperature, n_walkers, rate)
        ends = self._points(x_a, x_b, via, n_nodes)
        flow = ODETerm(self.velocity)
        self._check_field("velocity", flow.velocity, 0.0, ends)
        path = integrate(
            flow, self.manifold, ends, 0.0, 1.0, self.solver, ConstantSteps(steps), return_trajectory=True
        ).trajectory
        assert path is not None
        nodes = equal_arc_length(self.manifold, path[-1], n_nodes, order=1)
        if not still:
            self._check_field("score", self._score, 1.0, nodes)
        term = flow if still or walkers else ODETerm(lambda t, x: flow.velocity(t, x) - self._push(g, t, x))
        walk = SDETerm(lambda t, x: self._push(g, t, x), lambda t, x: math.sqrt(2 * temperature) * _at(g, t, x))
        nodes, crowd = self._crowd(nodes, walkers)
        watch = StringWatch(self.manifold)
        for k in reversed(range(steps)):
            t, t_next = (k + 1) / steps, k / steps
            moved = self.solver.step(term, self.manifold, t, t_next - t, nodes).x
            if crowd is not None:
                crowd = self.solver.step(flow, self.manifold, t, t_next - t, crowd).x
                crowd = walk_in_cells(self.manifold, walk, t_next, t - t_next, crowd, moved, generator)
                moved = follow(self.manifold, moved, crowd, rate)
            moved = torch.cat([path[k][:1], moved[1:-1], path[k][-1:]])
            nodes = watch.keep(f"t = {t_next:.4g}", nodes, moved, self.order)
        return self._finish(watch, nodes, None)

    @torch.no_grad()
    def relax(
        self,
        start: Tensor,
        *,
        step: float,
        n_nodes: int = 50,
        t: float = 0.0,
        max_iterations: int = 2000,
        tolerance: float | None = None,
        free_ends: bool = False,
        temperature: float = 0.0,
        n_walkers: int = 32,
        rate: float = 0.01,
        generator: torch.Generator | None = None,
    ) -> StringResult:
        r"""The classical string method: the string moves with the score at one time, or any force, until it rests.

        .. math:: \phi \leftarrow \Phi_h(\phi),\quad \dot\Phi = \nabla\log p_t(\Phi), \quad \text{then equal spacing}.

        The limit is a minimum-energy path: the force is tangent to it. Steps are those of the flow to fourth order and
        the curve between nodes is cubic, so that neither the step nor the spacing shifts the limit to first order.

        At a temperature, ``max_iterations`` steps of walkers are taken, and the limit is the principal curve of
        :math:`p_t^{1/T}`: each node the mean of its Voronoi cell. The standard deviation of a node about it is about
        that of the law across the string times :math:`\sqrt{\text{rate} / (h \lambda\, n_{walkers})}` with
        :math:`\lambda` the curvature of the energy there.

        Args:
            start: points of the initial string, ``(m, *point_shape)``, joined by geodesics; two for a geodesic.
            step: h, with :math:`h |\nabla^2 \log p| < 2.7`, at a temperature well below 1.
            n_nodes: nodes, the ends included.
            t: time at which the score is taken.
            max_iterations: iterations, at most.
            tolerance: stop when no node moves farther in an iteration, in units of the spacing; default 1e-7 in
                float64, 1e-4 in float32.
            free_ends: whether the ends move as well, into minima; else they stay. At a temperature their cells have no
                end, and the means of these lie in the tails of the law.
            temperature: T >= 0; 0 for the minimum-energy path.
            n_walkers: walkers per node.
            rate: part of the way to the mean of the walkers that a node goes in an iteration.
            generator: source of the noise.

        Raises:
            ManifoldError: if a point is not on the manifold or the score is not tangent.
            ConfigError: for arguments out of range.
            CapabilityError: without a score.
            NumericsError: if the string diverges, or the step is too large.
        """
        if self.score is None:
            raise CapabilityError("A static string needs a score or a force: DiffusionString(manifold, score=...).")
        if not 0 < step < math.inf or max_iterations < 1:
            raise ConfigError(
                f"relax needs step > 0 and max_iterations >= 1; got step={step}, max_iterations={max_iterations}. "
                "Start with a step of one over the largest curvature of the energy."
            )
        if not 0 <= t <= 1:
            raise ConfigError(f"t is a time in [0, 1], 0 for the data and 1 for the noise; got {t}.")
        walkers = self._walkers(temperature, n_walkers, rate)
        check_nodes(self.manifold, start, n_nodes, "start")
        nodes = equal_arc_length(self.manifold, start, n_nodes, order=1)
        self._check_field("score", self._score, t, nodes)
        term = ODETerm(lambda _, x: self._score(expand_time(self.manifold, t, x), x))
        walk = SDETerm(term.velocity, lambda _, x: x.new_tensor(math.sqrt(2 * temperature)))
        nodes, crowd = self._crowd(nodes, walkers)
        watch = StringWatch(self.manifold, tolerance, _default_tolerance(nodes), settles=not walkers)
        for k in range(1, max_iterations + 1):
            if crowd is None:
                moved = self.solver.step(term, self.manifold, 0.0, step, nodes).x
            else:
                crowd = walk_in_cells(self.manifold, walk, 0.0, step, crowd, nodes, generator)
                moved = follow(self.manifold, nodes, crowd, rate)
            if not free_ends:
                moved = torch.cat([nodes[:1], moved[1:-1], nodes[-1:]])
            nodes = watch.keep(f"iteration {k}", nodes, moved, self.order)
            if watch.settled:
                break
        if watch.settled:
            self._check_at_rest(nodes, step * self._score(expand_time(self.manifold, t, nodes), nodes))
        return self._finish(watch, nodes, None if walkers else watch.settled)

    # ------------------------------------------------------------------ fields and checks

    def _score(self, t: Tensor, x: Tensor) -> Tensor:
        assert self.score is not None
        return self.score(t, x)

    def _push(self, g: float | Field, t: Tensor, x: Tensor) -> Tensor:
        """g^2 times the score."""
        amplitude = _at(g, t, x)
        return amplitude * amplitude * self._score(t, x)

    def _crowd(self, nodes: Tensor, walkers: int) -> tuple[Tensor, Tensor | None]:
        """The nodes, and so many walkers at each, ``(n, w, *point_shape)``; None for none."""
        if not walkers:
            return nodes, None
        nodes = alike(self.manifold, nodes)
        return nodes, nodes.unsqueeze(1).expand(len(nodes), walkers, *self.manifold.point_shape)

    def _points(self, x_a: Tensor, x_b: Tensor, via: Tensor | None, n_nodes: int) -> Tensor:
        """The ends and what is between them, checked, ``(2 + k, *point_shape)``."""
        for name, x in (("x_a", x_a), ("x_b", x_b)):
            self.manifold.check_point(x, name)
            if self.manifold.batch_shape(x):
                raise ConfigError(
                    f"{name} is one end of a string, a single point of shape {self.manifold.point_shape}; got "
                    f"{tuple(x.shape)}. Call evolve once per pair."
                )
        inner = x_a.new_empty(0, *x_a.shape) if via is None else via
        self.manifold.check_point(inner, "via")
        if len(self.manifold.batch_shape(inner)) != 1:
            raise ConfigError(f"via has shape {tuple(inner.shape)}; expected (k, *point_shape), points in their order.")
        points = torch.cat([x_a.unsqueeze(0), inner, x_b.unsqueeze(0)])
        check_nodes(self.manifold, points, n_nodes, "ends")
        return points

    def _walkers(self, temperature: float, n_walkers: int, rate: float) -> int:
        """Walkers per node, 0 without a temperature."""
        if not 0 <= temperature < math.inf:
            raise ConfigError(
                f"temperature must be finite and >= 0 (0: minimum-energy path, 1: principal curve of the law); got "
                f"{temperature}."
            )
        if temperature == 0:
            return 0
        if n_walkers < 1 or not 0 < rate <= 1:
            raise ConfigError(
                f"A string at a temperature needs n_walkers >= 1 and rate in (0, 1]; got n_walkers={n_walkers}, "
                f"rate={rate}."
            )
        return n_walkers

    def _check_field(self, name: str, function: Field, t: float, x: Tensor) -> None:
        self.manifold.check_tangent(x, function(expand_time(self.manifold, t, x), x), name)

    def _check_at_rest(self, nodes: Tensor, push: Tensor) -> None:
        """Raise where a scheme beyond its stability has come to rest although the force pushes across the string."""
        M, x, push = self.manifold, nodes[1:-1], push[1:-1]
        ahead, behind = M.log(x, nodes[2:]), M.log(x, nodes[:-2])
        tangent = (ahead - behind) / M.per_point(M.norm(x, ahead - behind))
        across = M.norm(x, push - M.per_point(M.inner(x, push, tangent)) * tangent) / M.norm(x, ahead)
        if float(across.max()) > _PUSHED:
            raise NumericsError(
                f"The string rests at node {int(across.argmax()) + 1} although the score would push it across by "
                f"{float(across.max()):.2g} spacings in a step: the step is too large. Try a tenth of it."
            )

    def _finish(self, watch: StringWatch, nodes: Tensor, converged: bool | None) -> StringResult:
        watch.finish(nodes)
        nodes = equal_arc_length(self.manifold, nodes, order=self.order)
        return summarise(self.manifold, nodes, self.log_prob, self.order, watch.history(), converged)


def _at(g: float | Field, t: Tensor, x: Tensor) -> Tensor:
    return g(t, x) if callable(g) else x.new_tensor(g)


def _default_tolerance(x: Tensor) -> float:
    return 1e-7 if x.dtype == torch.float64 else 1e-4
