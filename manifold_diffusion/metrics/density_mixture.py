"""Mixtures of densities of any kind, weighted on validation points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .._errors import ConfigError
from ..heat_kernels.mixture import draw_index
from ..manifolds import Manifold
from .estimate import Estimate
from .mixture_weights import stacked_weights

__all__ = ["Density", "DensityMixture"]


class Density(Protocol):
    """What has a normalised log density and can be sampled: a trained model, a kernel density."""

    def log_prob(self, x: Tensor, /) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``."""
        ...

    def sample(self, n: int, /, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points."""
        ...


@dataclass(frozen=True, eq=False)
class DensityMixture:
    r"""A mixture :math:`p(x) = \sum_j w_j\, p_j(x)` of densities on one manifold: again exact, again easy to sample.

    A network is smooth where data are few, a kernel density sharp where they are many; which is trusted how far is
    found on validation points. The members have to be normalised and fitted without these points (weights of kernel
    mixtures may come from them: they are few).

    Attributes:
        members: the densities.
        weights: one per member, positive or zero, of sum one.
        val_nll: negative log-likelihood of the validation points; None where weights were given.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.metrics import AdaptiveKernelDensity, KernelMixture
        >>> M, g = Sphere(2), torch.Generator().manual_seed(0)
        >>> train, val = M.random_uniform(200, generator=g), M.random_uniform(100, generator=g)
        >>> members = [kind.fit(M, train, val) for kind in (KernelMixture, AdaptiveKernelDensity)]
        >>> mixture = DensityMixture.fit(members, val)
        >>> mixture.log_prob(val).shape, mixture.sample(5, generator=g).shape
        (torch.Size([100]), torch.Size([5, 3]))

    Reference:
        Smyth and Wolpert, *Linearly combining density estimators via stacking*, 1999.
    """

    members: tuple[Density, ...]
    weights: tuple[float, ...]
    val_nll: Estimate | None = None

    def __post_init__(self) -> None:
        total = sum(self.weights)
        if len(self.weights) != len(self.members) or not self.members:
            raise ConfigError(
                f"DensityMixture needs one weight per member; got {len(self.weights)} for {len(self.members)}."
            )
        if not all(w >= 0 and math.isfinite(w) for w in self.weights) or abs(total - 1) > 1e-6:
            raise ConfigError(f"The weights of a DensityMixture are >= 0 with sum 1; got {self.weights}.")
        _check_manifolds(self.members)

    @classmethod
    def fit(cls, members: Sequence[Density], val: Tensor) -> DensityMixture:
        """Find the weights by :func:`stacked_weights` on validation points.

        Raises:
            ConfigError: without members, or if two are on different manifolds.
            DataError: if a member's density is NaN or infinite at a validation point, or all vanish at one.
        """
        if not members:
            raise ConfigError("DensityMixture needs at least one member.")
        _check_manifolds(members)
        matrix = torch.stack([member.log_prob(val).double() for member in members], 1)
        weights, value = stacked_weights(matrix)
        return cls(tuple(members), weights, value)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``."""
        used = [(member, w) for member, w in zip(self.members, self.weights, strict=True) if w > 0]
        parts = torch.stack([member.log_prob(x).double() + math.log(w) for member, w in used], -1)
        return torch.logsumexp(parts, -1).to(x.dtype)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points, ``(n, *point_shape)``, in random order."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        device = "cpu" if generator is None else generator.device
        member = draw_index(weights.to(device), n, generator)
        parts = [
            density.sample(int(count), generator=generator)
            for density, count in zip(self.members, member.bincount(minlength=len(self.members)), strict=True)
            if count > 0
        ]
        x = torch.cat(parts) if parts else self.members[0].sample(0, generator=generator)
        return x[torch.randperm(n, generator=generator, device=device).to(x.device)]


def _check_manifolds(members: Sequence[Density]) -> None:
    """Refuse densities on different manifolds, of those that tell theirs."""
    named = [getattr(member, "manifold", None) for member in members]
    told = [manifold for manifold in named if isinstance(manifold, Manifold)]
    if any(manifold != told[0] for manifold in told):
        raise ConfigError(f"The members of a DensityMixture live on one manifold; got {', '.join(map(str, told))}.")
