"""A Schroedinger bridge between two data sets, learned by iterated bridge matching."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..data import Coupling
from ..manifolds import Manifold, Power, cast_points
from ..networks import TangentMLP
from ..objectives import BridgeMatching
from ..processes import BridgeMixture, EmpiricalPrior
from ..processes.bridges import Direction
from ..solvers import ConstantSteps, GeodesicEulerMaruyama, GeodesicRK4, integrate
from .card import model_card, n_parameters
from .inputs import times_at
from .pretrained import PretrainedModel

if TYPE_CHECKING:
    from ..training import FitResult

__all__ = ["BridgeFit", "SchrodingerBridge"]

_COUPLED = 1024
"""Points that a coupling sees at a time."""
_CHUNK = 16384
"""Points that are integrated together."""


@dataclass(frozen=True)
class BridgeFit:
    """What the iterations of :meth:`SchrodingerBridge.fit` came to.

    Attributes:
        to_0: a record of each fit of the network towards t = 0.
        to_1: a record of each fit of the network towards t = 1.
        pairs: the last pairs, ``(n, 2, *point_shape)``: simulated from ``x0``, or those that the last network was
            being trained on when it was interrupted.
    """

    to_0: tuple[FitResult, ...]
    to_1: tuple[FitResult, ...]
    pairs: Tensor

    @property
    def stopped_by(self) -> str:
        """``"interrupt"``, or what the last training ended with: ``"max_steps"``, ``"max_time"`` or ``"patience"``."""
        return (self.to_0 if len(self.to_0) > len(self.to_1) else self.to_1)[-1].stopped_by

    def __repr__(self) -> str:
        interrupted = ", interrupted" if self.stopped_by == "interrupt" else ""
        return f"BridgeFit({len(self.to_0)} iterations, {len(self.pairs)} pairs{interrupted})"


class SchrodingerBridge(PretrainedModel):
    r"""The Schroedinger bridge of two laws: of all diffusions that carry one into the other, the nearest to Brownian.

    Two networks hold the drifts to both ends. The iterative Markovian fitting alternates between the Markov diffusion
    of given pairs (bridge matching) and the pairs that this diffusion makes,

    .. math::
        \pi_0 = \mu \otimes \nu \ (\text{or a coupling}), \quad
        \pi_k \to \text{drift to } 0 \to \text{pairs from } x_1 \to \text{drift to } 1 \to \text{pairs from } x_0 =
        \pi_{k+1},

    whose limit is the only Markov diffusion with bridges that are Brownian: the Schroedinger bridge. Each network is
    trained on pairs whose end is data, so that errors at the ends do not add up.

    Args:
        manifold: a manifold with a heat kernel.
        tau: Brownian time from end to end: small for short paths, large for smooth drifts.
        to_0: network of the drift towards t = 0 in units of the noise; default
            :class:`~manifold_diffusion.networks.TangentMLP`.
        to_1: network of the drift towards t = 1.
        tau_min: least Brownian time to an end; default :math:`10^{-3}\tau`.
        n_steps: simulate bridges in so many steps, for manifolds without an exact draw.

    Attributes:
        metadata: what the model card says of data and metrics; saved with the model.

    Raises:
        ConfigError: for times out of range, or a network of another manifold.
        CapabilityError: if there is no heat kernel, or no exact bridge and no ``n_steps``.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> model = SchrodingerBridge(Sphere(2), tau=0.5)
        >>> x1 = Sphere(2).random_uniform(5, generator=torch.Generator().manual_seed(0))
        >>> model.sample(x1, steps=10, generator=torch.Generator().manual_seed(1)).shape
        torch.Size([5, 3])

    References:
        Shi et al., *Diffusion Schroedinger bridge matching*, 2023, arXiv:2303.16852; Thornton et al., *Riemannian
        diffusion Schroedinger bridge*, 2022, arXiv:2207.03024 (by iterative proportional fitting).
    """

    def __init__(
        self,
        manifold: Manifold,
        tau: float = 1.0,
        to_0: nn.Module | None = None,
        to_1: nn.Module | None = None,
        tau_min: float | None = None,
        n_steps: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        self.process_to_0 = BridgeMixture(manifold, tau, direction="to_0", tau_min=tau_min, n_steps=n_steps)
        self.process_to_1 = BridgeMixture(manifold, tau, direction="to_1", tau_min=tau_min, n_steps=n_steps)
        self.manifold, self.tau, self.n_steps = manifold, self.process_to_0.tau, n_steps
        self.tau_min = self.process_to_0.tau_min
        self.to_0 = to_0 if to_0 is not None else TangentMLP(self.process_to_0, seed=0)
        self.to_1 = to_1 if to_1 is not None else TangentMLP(self.process_to_1, seed=1)
        for name, network in (("to_0", self.to_0), ("to_1", self.to_1)):
            process = getattr(network, "process", None)
            if process is None:
                continue
            if process.manifold != manifold:
                raise ConfigError(
                    f"The network {name} belongs to {process.manifold}, the model to {manifold}. Build both on one "
                    "manifold."
                )
            if getattr(process, "direction", name) != name:
                raise ConfigError(
                    f"The network {name} was built on a process of direction {process.direction!r}. Build it on "
                    f"BridgeMixture({manifold}, {self.tau}, direction={name!r})."
                )
        self.metadata: dict[str, Any] = {}
        self._data: dict[str, EmpiricalPrior] = {}

    # ------------------------------------------------------------------ training

    def fit(
        self,
        x0: Tensor,
        x1: Tensor,
        *,
        iterations: int = 4,
        max_steps: int = 1000,
        coupling: Coupling | None = None,
        n_pairs: int | None = None,
        steps: int = 100,
        seed: int = 0,
        **options: Any,
    ) -> BridgeFit:
        """Iterative Markovian fitting between two data sets, with a Lightning ``Trainer`` underneath.

        Ctrl-C stops after the present step. With ``out_dir`` the same call with ``resume=True`` goes on from there, and
        ends where an uninterrupted one ends.

        Args:
            x0: data at t = 0, ``(n, *point_shape)``.
            x1: data at t = 1, ``(m, *point_shape)``.
            iterations: rounds; in each both networks are trained, starting from their weights. One round with the
                static bridge as coupling is a good start already.
            max_steps: optimiser steps of each network in each round.
            coupling: first pairing of 1,024 points at a time, such as
                :class:`~manifold_diffusion.processes.SchrodingerCoupling`; default independent.
            n_pairs: pairs that are drawn, or simulated, for each training; default as many as the larger data set.
            steps: steps of the simulation between two trainings.
            seed: of everything random.
            options: further arguments of :func:`manifold_diffusion.training.fit`, such as ``lr``, ``batch_size``; in
                ``out_dir`` each training has a folder of its own.

        Returns:
            A record of the trainings, with the last pairs.

        Raises:
            ManifoldError: if a point is not on the manifold.
            ConfigError: if a number is out of range.
            DataError: if a data set is empty.
        """
        from ..training import fit

        out_dir = options.pop("out_dir", None)
        if iterations < 1 or steps < 1 or (n_pairs is not None and n_pairs < 1):
            raise ConfigError(
                f"fit needs iterations, steps, n_pairs >= 1; got iterations={iterations}, steps={steps}, "
                f"n_pairs={n_pairs}."
            )
        for name, points in (("x0", x0), ("x1", x1)):
            self.manifold.check_point(points, name)
        like = self.like
        self._data = {"to_1": EmpiricalPrior(x0.to(like)), "to_0": EmpiricalPrior(x1.to(like))}
        generator = torch.Generator(device=like.device).manual_seed(seed)
        n = max(len(x0), len(x1)) if n_pairs is None else n_pairs
        pairs = self._first_pairs(n, coupling, generator)
        records: dict[Direction, list[FitResult]] = {"to_0": [], "to_1": []}
        both: tuple[Direction, ...] = ("to_0", "to_1")
        for k in range(iterations):
            for direction in both:
                process, network = self._parts(direction)
                objective, seed_k = BridgeMatching(process, paired=True), seed + 2 * k + (direction == "to_1")
                if out_dir is not None:
                    options["out_dir"] = Path(out_dir) / f"{k}-{direction}"
                records[direction].append(
                    fit(
                        network,
                        objective,
                        pairs,
                        manifold=Power(self.manifold, 2),
                        max_steps=max_steps,
                        seed=seed_k,
                        **options,
                    )
                )
                if records[direction][-1].stopped_by == "interrupt":
                    return BridgeFit(tuple(records["to_0"]), tuple(records["to_1"]), pairs)
                start = self._start(n, direction, generator)
                end = self.sample(start, direction=direction, steps=steps, generator=generator)
                pairs = torch.stack([end, start] if direction == "to_0" else [start, end], 1)
        return BridgeFit(tuple(records["to_0"]), tuple(records["to_1"]), pairs)

    def _first_pairs(self, n: int, coupling: Coupling | None, generator: torch.Generator) -> Tensor:
        x0, x1 = self._start(n, "to_1", generator), self._start(n, "to_0", generator)
        if coupling is not None:
            parts = zip(x0.split(_COUPLED), x1.split(_COUPLED), strict=True)
            x1 = torch.cat([b[coupling(a, b, generator)] for a, b in parts])
        return torch.stack([x0, x1], 1)

    def _start(self, n: int, direction: Direction, generator: torch.Generator | None) -> Tensor:
        """``n`` data points where a direction starts: all of them, in random order, as often as needed."""
        if direction not in self._data:
            raise ConfigError(
                "A number of points asks for data to start from, and this model keeps none (they are not saved with "
                "it). Pass the points themselves: model.sample(x1)."
            )
        if n < 0:
            raise ConfigError(f"sample needs n >= 0 points; got {n}.")
        points = cast_points(self.manifold, self._data[direction].points, self.like)
        order = [torch.randperm(len(points), generator=generator, device=points.device)] if n else []
        while sum(map(len, order)) < n:
            order.append(torch.randperm(len(points), generator=generator, device=points.device))
        return points[torch.cat(order)[:n]] if order else points[:0]

    # ------------------------------------------------------------------ the model

    def drift_to_0(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Learned drift towards t = 0 per unit of Brownian time, ``x`` any batch, ``t`` a float or ``(*batch,)``."""
        return self._drift(x, t, "to_0")

    def drift_to_1(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Learned drift towards t = 1 per unit of Brownian time."""
        return self._drift(x, t, "to_1")

    def score(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Learned score of the marginal at t, the sum of the drifts to both ends."""
        return self.drift_to_0(x, t) + self.drift_to_1(x, t)

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        r"""dx/dt of the flow with the marginals of the bridge: :math:`\tau/2` times drift to 1 less drift to 0."""
        return 0.5 * self.tau * (self.drift_to_1(x, t) - self.drift_to_0(x, t))

    @torch.no_grad()
    def sample(
        self,
        start: Tensor | int,
        *,
        direction: Direction = "to_0",
        steps: int = 100,
        method: Literal["sde", "ode"] = "sde",
        generator: torch.Generator | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
    ) -> Tensor:
        """Carry points from one end to the other.

        Args:
            start: points at t = 1 for ``"to_0"``, at t = 0 for ``"to_1"``, ``(n, *point_shape)``; or how many data
                points of the last :meth:`fit` to start from.
            direction: ``"to_0"`` (default) or ``"to_1"``.
            steps: steps of the solver, equal in t.
            method: ``"sde"``, the bridge itself (weak order 1), or ``"ode"``, the flow with the same marginals: a
                deterministic map.
            generator: source of all randomness: same seed, same result.
            return_trajectory: return all states from start to end, ``(steps + 1, n, *point_shape)``.
            progress: show a progress bar.

        Returns:
            Points ``(n, *point_shape)``, in the dtype and on the device of the networks.
        """
        if method not in ("sde", "ode"):
            raise ConfigError(f"method must be 'sde' or 'ode'; got {method!r}.")
        process, network = self._parts(direction)
        x = self._start(start, direction, generator) if isinstance(start, int) else start.to(self.like)
        partner = self.to_1 if direction == "to_0" else self.to_0
        terms = process.terms(network, partner=partner)
        term = terms.reverse if method == "sde" else terms.flow
        assert term is not None
        t0, t1 = (1.0, 0.0) if direction == "to_0" else (0.0, 1.0)
        chunks = []
        for part in x.split(_CHUNK) if len(x) else (x,):
            solution = integrate(
                term,
                self.manifold,
                part,
                t0,
                t1,
                solver=GeodesicEulerMaruyama() if method == "sde" else GeodesicRK4(),
                controller=ConstantSteps(steps),
                generator=generator,
                return_trajectory=return_trajectory,
                progress=progress,
            )
            chunks.append(solution.trajectory if return_trajectory else solution.x)
        return torch.cat(chunks, 1 if return_trajectory else 0)

    def _card(self) -> str:
        facts = [
            f"Brownian time from end to end: {self.tau:g}",
            f"networks: `{type(self.to_0).__name__}`, `{type(self.to_1).__name__}`, {n_parameters(self)}",
        ]
        example = ["x0 = model.sample(x1)  # and model.sample(x0, direction='to_1')"]
        return model_card(f"Schroedinger bridge on {self.manifold}", type(self).__name__, facts, example, self.metadata)

    # ------------------------------------------------------------------ helpers

    def _parts(self, direction: Direction) -> tuple[BridgeMixture, nn.Module]:
        if direction not in ("to_0", "to_1"):
            raise ConfigError(f"direction must be 'to_0' or 'to_1'; got {direction!r}.")
        return (self.process_to_0, self.to_0) if direction == "to_0" else (self.process_to_1, self.to_1)

    def _drift(self, x: Tensor, t: Tensor | float, direction: Direction) -> Tensor:
        process, network = self._parts(direction)
        times = times_at(self, x, t)
        return process.drift(network(times, x), times)
