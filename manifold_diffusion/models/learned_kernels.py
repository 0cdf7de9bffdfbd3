"""Kernel densities that are learned: kernels in all dimensions, and angle by angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .._config import to_config
from .._errors import ConfigError, DataError
from .._tensors import kept_rows
from ..manifolds import Manifold
from ..networks import ConditionalKernels, KernelField
from ..networks.conditional_kernels import REGRESSIONS
from ..networks.kernel_field import NARROW
from ..objectives import LogLikelihood
from .card import model_card, n_parameters
from .pretrained import PretrainedModel

if TYPE_CHECKING:
    from ..training import FitResult

__all__ = ["AutoregressiveKernelDensity", "LearnedDensity", "LearnedKernelDensity"]


_DEFAULTS = {"weight_decay": 0.01, "ema_decay": 0.98}


class LearnedDensity(PretrainedModel):
    """A density on top of data points that a network knows by their neighbourhoods only, trained by leaving points out.

    The likelihood is a sum, exact and without an ODE; points can be added or forgotten after training.

    Attributes:
        network: the density, with its ``centres``.
        title: what the model card calls it.
        defaults: what :meth:`fit` passes on unless told otherwise, the size of batches apart.
    """

    network: KernelField | ConditionalKernels
    title: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]

    @property
    def training_defaults(self) -> dict[str, Any]:
        """Arguments of :func:`manifold_diffusion.training.fit` that :meth:`fit` gives unless told otherwise."""
        return {**self.defaults, "batch_size": self._batch_size(None)}

    @property
    def reach(self) -> int:
        """The largest number of neighbours that are asked."""
        return self.network.reach

    @property
    def _about(self) -> str:
        """What the model card says beside the number of points."""
        raise NotImplementedError

    @property
    def data(self) -> int:
        """Number of points."""
        return len(self.network.centres)

    def fit(
        self, val: Tensor | None = None, *, max_steps: int | None = None, batch_size: int | None = None, **options: Any
    ) -> FitResult:
        """Train on the model's own points, each under others that don't contain it, with Lightning underneath.

        Args:
            val: held-out points; the weights with the greatest likelihood of them are kept, those before training
                included. More steps than needed overfit, so that it is worth having.
            max_steps: optimiser steps; the default is the class's, as are those of ``lr``, ``weight_decay``,
                ``ema_decay`` and ``val_every`` (:attr:`defaults`).
            batch_size: points that are scored at a time.
            options: further arguments of :func:`manifold_diffusion.training.fit`.

        Raises:
            ConfigError: if a batch leaves too few of the points as centres.
            CheckpointError: if the run that is resumed had other points.
        """
        from ..training import fit

        held_out = val if isinstance(val, Tensor) else None
        given = {"fingerprint": {"model": to_config(self)}, **self.training_defaults, **options}
        given["batch_size"] = self._batch_size(batch_size)
        if max_steps is not None:
            given["max_steps"] = max_steps
        start = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        result = fit(self.network, LogLikelihood(), self.network.centres, manifold=self.manifold, val=val, **given)
        return result if held_out is None else self._or_start(result, start, held_out)

    def _or_start(self, result: FitResult, start: dict[str, Tensor], val: Tensor) -> FitResult:
        """Back to the weights before training where no validated ones predict the held-out points better."""
        if result.kept != "best" or result.monitor != "val_loss" or result.best_value is None:
            return result
        trained = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        self.network.load_state_dict(start, strict=False)
        loss = -float(self.log_prob(val.to(self.network.centres.device)).mean())
        if loss <= result.best_value:
            return replace(result, best_step=0, best_value=loss)
        self.network.load_state_dict(trained, strict=False)
        return result

    def _batch_size(self, asked: int | None) -> int:
        return min(256, self.data) if asked is None else asked

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``.

        Raises:
            ManifoldError: if a point is not on the manifold.
        """
        self.manifold.check_point(x, "x")
        return self.network.log_prob(x)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, *point_shape)``: no solver, no steps.

        Raises:
            ConfigError: if ``n`` is negative.
        """
        return self.network.sample(n, generator)

    def add(self, points: Tensor) -> None:
        """Append points; the kernels of those around them change with the neighbourhoods.

        Raises:
            ManifoldError: if a point is not on the manifold.
            DataError: if the points are not ``(n, *point_shape)``.
        """
        self.manifold.check_point(points, "points")
        if points.dim() != self.network.centres.dim():
            raise DataError(f"points must have shape (n, *{self.manifold.point_shape}); got {tuple(points.shape)}.")
        self.network.centres = torch.cat([self.network.centres, points.to(self.network.centres)])

    def remove(self, which: Tensor) -> None:
        """Forget points, by index or mask; of the weights, which were learned from them too, nothing is forgotten.

        Raises:
            DataError: if fewer than 8 points would be left, or than twice as many as the neighbours that are asked; if
                an index is out of range, or a mask has another length.
        """
        keep = kept_rows(which, self.data).to(self.network.centres.device)
        left, fewest = int(keep.sum()), max(8, 2 * self.reach)
        if left < fewest:
            raise DataError(f"{left} points would be left, fewer than the {fewest} needed. Build another model.")
        self.network.centres = self.network.centres[keep]

    def _card(self) -> str:
        facts = [f"{self.data:,} points, {self._about}", f"network: {n_parameters(self.network)}"]
        title = f"{self.title} on {self.manifold}"
        return model_card(title, type(self).__name__, facts, ["x = model.sample(1000)"], self.metadata)


class LearnedKernelDensity(LearnedDensity):
    r"""A kernel density with kernels that a network shapes, trained to predict points that were left out.

    It corrects a closed-form density and stays one: the likelihood is a sum, exact and without an ODE, samples are a
    data point and a normal draw, and points can be added or forgotten after training, since the network knows them by
    their neighbourhoods only (:class:`~manifold_diffusion.networks.KernelField` has the formula).

    Args:
        manifold: where the data live; needs ``log`` and the determinant of ``exp``.
        data: training points ``(n, *point_shape)``, or the number of points that a saved state will bring.
        scales: numbers of neighbours whose moments make the kernels.
        components: kernels per point whose shapes are learned.
        narrow: standard deviations of further kernels at each point, for near and exact repeats.
        width: of the perceptron.
        seed: of its initial weights.

    Attributes:
        metadata: what the model card says of data and metrics; saved with the model.

    Raises:
        ManifoldError: if a point is not on the manifold.
        DataError: if there are fewer than 8 points.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.models import LearnedKernelDensity
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> model = LearnedKernelDensity(M, M.random_uniform(100, generator=g))
        >>> result = model.fit(max_steps=5, progress=False)
        >>> x = model.sample(5, generator=g)
        >>> model.log_prob(x).shape
        torch.Size([5])

    References:
        Vincent and Bengio, *Manifold Parzen windows*, 2002; Bengio, Larochelle and Vincent, *Non-local manifold Parzen
        windows*, 2005 (a network that gives the kernels, in Euclidean space).
    """

    title = "Learned kernel density"
    defaults: ClassVar[Mapping[str, Any]] = {**_DEFAULTS, "max_steps": 400, "lr": 5e-3, "val_every": 25}

    def __init__(
        self,
        manifold: Manifold,
        data: Tensor | int,
        scales: Sequence[int] = (3, 6, 12, 24, 48, 96),
        components: int = 3,
        narrow: Sequence[float] = NARROW,
        width: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(manifold, Manifold):
            raise ConfigError(f"manifold must be a Manifold such as Sphere(2); got {manifold!r}.")
        self.manifold, self.components, self.width, self.seed = manifold, components, width, seed
        self.network = KernelField(manifold, data, scales, components, narrow, width, seed=seed)
        self.scales, self.narrow = self.network.scales, self.network.narrow
        self.metadata = {}

    @property
    def _about(self) -> str:
        return f"{self.components + len(self.narrow)} kernels at each"

    def _batch_size(self, asked: int | None) -> int:
        """A batch is left out as a whole: by default an eighth of the points, at most 512."""
        size = asked if asked is not None else max(1, min(512, self.data // 8))
        if size > self.data // 2:
            raise ConfigError(f"batch_size={size} leaves too few of {self.data} points as centres. Take at most half.")
        return size


class AutoregressiveKernelDensity(LearnedDensity):
    r"""A density on a torus, angle by angle: kernels at the neighbours by the angles before, moved along regressions.

    Where angles determine each other (torsions of a chain), the conditional density of the next is narrow and its
    centre moves with those before: a local regression follows it with far fewer points than kernels need in all
    dimensions (:class:`~manifold_diffusion.networks.ConditionalKernels` has the formula). The likelihood is a product
    of sums, exact and without an ODE; samples are drawn angle by angle; points can be added or forgotten.

    Args:
        manifold: a :class:`~manifold_diffusion.manifolds.Torus` of at least two angles.
        data: training points ``(n, n_angles)``, or the number of points that a saved state will bring.
        orders: of the angles, each a permutation; default the given one and its reverse. The density is the mean over
            the orders.
        neighbours: centres whose kernels are not moved, for each angle.
        regressions: pairs of a number of centres and a ridge; more of them and wider ones cost time, and are worth it
            where there are thousands of points.
        components: bandwidths and widths per regression, and without one.
        width: of the perceptrons.
        seed: of their initial weights.

    Attributes:
        metadata: what the model card says of data and metrics; saved with the model.

    Raises:
        CapabilityError: on other manifolds.
        ManifoldError: if a point is not on the manifold.
        DataError: if there are fewer than 8 points.
        ConfigError: if an argument is out of range.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Torus
        >>> from manifold_diffusion.models import AutoregressiveKernelDensity
        >>> M, g = Torus(3), torch.Generator().manual_seed(0)
        >>> model = AutoregressiveKernelDensity(M, M.random_uniform(100, generator=g))
        >>> result = model.fit(max_steps=5, progress=False)
        >>> x = model.sample(5, generator=g)
        >>> model.log_prob(x).shape
        torch.Size([5])
    """

    title = "Autoregressive kernel density"
    defaults: ClassVar[Mapping[str, Any]] = {**_DEFAULTS, "max_steps": 500, "lr": 3e-3, "val_every": 100}

    def __init__(
        self,
        manifold: Manifold,
        data: Tensor | int,
        orders: Sequence[Sequence[int]] | None = None,
        neighbours: int = 64,
        regressions: Sequence[tuple[int, float]] = REGRESSIONS,
        components: int = 2,
        width: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.manifold, self.components, self.width, self.seed = manifold, components, width, seed
        self.network = ConditionalKernels(manifold, data, orders, neighbours, regressions, components, width, seed)
        self.orders, self.neighbours = self.network.orders, self.network.neighbours
        self.regressions = self.network.regressions
        self.metadata = {}

    @property
    def _about(self) -> str:
        return f"orders of the angles: {', '.join(str(order) for order in self.orders)}"
