"""Product processes: one process, and one schedule, per factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .._errors import ConfigError
from ..manifolds import Product
from .base import NoiseProcess, PathSample

__all__ = ["ProductProcess"]


class _ProductPrior:
    """Independent priors of the factors; the density is with respect to the weighted product volume."""

    def __init__(self, manifold: Product, processes: Sequence[NoiseProcess]) -> None:
        self._manifold, self._processes = manifold, processes
        self._log_weight = sum(f.dim / 2 * math.log(w) for f, w in zip(manifold.factors, manifold.weights, strict=True))

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return self._manifold.join(
            *[p.prior.sample(n, generator=generator, dtype=dtype, device=device) for p in self._processes]
        )

    def log_prob(self, x: Tensor) -> Tensor:
        parts = zip(self._processes, self._manifold.split(x), strict=True)
        return torch.stack([p.prior.log_prob(y) for p, y in parts]).sum(0) - self._log_weight


class ProductProcess(NoiseProcess):
    r"""Independent processes on the factors of a product manifold, each with its own schedule of the common time t.

    The law of the noise factorises, so that target, score and prior are those of the factors put together. With weights
    in the metric of the product the gradient of a factor is divided by its weight, and densities are per weighted
    volume; velocities don't change.

    Args:
        processes: one process per factor.
        weights: weights of the product metric; default 1 each.

    Raises:
        ConfigError: if there is no process.

    Example:
        >>> from manifold_diffusion.manifolds import SO3, Euclidean
        >>> from manifold_diffusion.processes import BrownianMotion, Langevin
        >>> ProductProcess(BrownianMotion(SO3()), Langevin(Euclidean(3))).manifold
        Product(SO3(), Euclidean(3))
    """

    manifold: Product

    def __init__(self, *processes: NoiseProcess, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not processes:
            raise ConfigError("ProductProcess needs one process per factor; got none.")
        for p in processes:
            if not isinstance(p, NoiseProcess):
                raise ConfigError(
                    f"ProductProcess joins noise processes; got {type(p).__name__}. A path of flow matching takes the "
                    f"product itself: GeodesicFlow(Product(...))."
                )
        self.processes = nn.ModuleList(processes)
        self.weights = weights
        self.manifold = Product(*[p.manifold for p in processes], weights=weights)
        self._parts = tuple(processes)
        self.has_target = all(p.has_target for p in processes)
        self.prior = _ProductPrior(self.manifold, self._parts)

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator | None = None) -> PathSample:
        draws = [p.sample(x, t, generator) for p, x in zip(self._parts, self.manifold.split(x0), strict=True)]
        x_t = self.manifold.join(*[d.x_t for d in draws])
        targets = [d.target for d in draws]
        target = self.manifold.join(*[g for g in targets if g is not None]) if self.has_target else None
        return PathSample(t, x0, x_t, target, torch.ones_like(t))

    def renoise(self, x: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        parts = zip(self._parts, self.manifold.split(x), strict=True)
        return self.manifold.join(*[p.renoise(y, s, t, generator) for p, y in parts])

    def mirror(self, path: PathSample) -> PathSample | None:
        if path.target is None:
            return None
        parts = zip(self._parts, *map(self.manifold.split, (path.x_0, path.x_t, path.target)), strict=True)
        images = [p.mirror(PathSample(path.t, x0, x, target, path.weight)) for p, x0, x, target in parts]
        found = [i for i in images if i is not None and i.target is not None]
        if len(found) < len(images):
            return None
        target = self.manifold.join(*[i.target for i in found if i.target is not None])
        return replace(path, x_t=self.manifold.join(*[i.x_t for i in found]), target=target)

    def _join_scalars(self, parts: Sequence[Tensor], t: Tensor) -> Tensor:
        """One per-point scalar per factor, repeated over the factor's entries of the flat tensor."""
        flat = [
            a.flatten(t.dim()).expand(*t.shape, math.prod(f.point_shape))
            for a, f in zip(parts, self.manifold.factors, strict=True)
        ]
        return torch.cat(flat, -1)

    def noise_levels(self, t: Tensor) -> Tensor:
        levels = []
        for p, f in zip(self._parts, self.manifold.factors, strict=True):
            level = p.noise_levels(t)
            size = f.coordinates(f.origin()).shape[-1]
            levels.append(level.expand(*t.shape, size))
        return torch.cat(levels, -1)

    def scale(self, t: Tensor) -> Tensor:
        # The gradient in the weighted metric is the factor's divided by its weight, hence the weight in the unit.
        return self._join_scalars([w * p.scale(t) for p, w in zip(self._parts, self.manifold.weights, strict=True)], t)

    def clock(self, t: Tensor) -> Tensor:
        # The network's output is in the units of scale, in which the weight stands for the factor's gradient.
        return self._join_scalars([p.clock(t) for p in self._parts], t)

    def drift_and_rate(self, x: Tensor, t: Tensor) -> tuple[Tensor | None, Tensor]:
        xs = self.manifold.split(x)
        parts = [p.drift_and_rate(y, t) for p, y in zip(self._parts, xs, strict=True)]
        rate = self._join_scalars([w * a for (_, a), w in zip(parts, self.manifold.weights, strict=True)], t)
        if all(b is None for b, _ in parts):
            return None, rate
        return self.manifold.join(
            *[torch.zeros_like(y) if b is None else b for (b, _), y in zip(parts, xs, strict=True)]
        ), rate

    def log_transition(self, x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        parts = zip(self._parts, self.manifold.split(x), self.manifold.split(x0), strict=True)
        log_weight = sum(
            f.dim / 2 * math.log(w) for f, w in zip(self.manifold.factors, self.manifold.weights, strict=True)
        )
        return torch.stack([p.log_transition(y, y0, t) for p, y, y0 in parts]).sum(0) - log_weight

    def fit_prior(self, x0: Tensor, generator: torch.Generator | None = None, weights: Tensor | None = None) -> None:
        for p, x in zip(self._parts, self.manifold.split(x0), strict=True):
            p.fit_prior(x, generator, weights)
