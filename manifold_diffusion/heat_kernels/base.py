"""The contract of a heat kernel, and the function that finds the kernel of a manifold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, SupportsIndex, TypeVar

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._safe import readable
from ..manifolds import Manifold

__all__ = ["HeatKernel", "KernelSample", "brownian_time", "heat_kernel"]


@dataclass(frozen=True)
class KernelSample:
    """A point of a Brownian motion and the score of its law there.

    Attributes:
        x: points, ``(*batch, *point_shape)``.
        score: Riemannian gradient in ``x`` of the log density, tangent at ``x``.
    """

    x: Tensor
    score: Tensor


class HeatKernel(ABC):
    r"""Law of Brownian motion on a manifold at Brownian time :math:`\tau`, started at :math:`x_0`.

    The density :math:`p_\tau(x \mid x_0)` is with respect to the Riemannian volume and solves :math:`\partial_\tau p =
    \tfrac12 \Delta p`, so that on :math:`\mathbb{R}^n` it is :math:`N(x_0, \tau I)`. ``tau`` is a float or a tensor
    that broadcasts to the batch shape; it must be positive and finite.

    A new kernel writes ``sample``, ``log_prob`` and ``score``, passes ``tau`` through :func:`brownian_time`, and
    registers itself with ``@heat_kernel.register(MyManifold)``.

    Attributes:
        manifold: where the Brownian motion lives.
        terms_per_pair: terms that are summed for one density, where they are many: what looks at all pairs of points
            then takes fewer points.
        exact_targets: whether the targets of :meth:`sample_with_score` are :meth:`score` at the samples; if not, their
            mean given the sample is, which is all that regression needs.
    """

    terms_per_pair: int = 1
    exact_targets: bool = True
    manifold: Any  # the class of manifold that the kernel is registered for

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # The kernel of a manifold stays the only one in copies and pickles, which don't hold its tables.
        if heat_kernel.holds(self):
            return _kernel_of, (self.manifold,)
        return super().__reduce_ex__(protocol)

    @abstractmethod
    def sample(self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
        """Points of the law started at ``x0``.

        Args:
            x0: starting points, ``(*batch, *point_shape)``.
            tau: Brownian time, float or broadcastable to ``(*batch,)``.
            generator: source of randomness; default: torch's global one.

        Returns:
            Points, ``(*batch, *point_shape)``.
        """

    @abstractmethod
    def log_prob(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        """Log density in nats with respect to the Riemannian volume, ``(*batch,)``; the arguments broadcast."""

    @abstractmethod
    def score(self, x: Tensor, x0: Tensor, tau: Tensor | float) -> Tensor:
        """Riemannian gradient of ``log_prob`` in ``x``: a tangent vector at ``x``, ``(*batch, *point_shape)``."""

    def sample_with_score(
        self, x0: Tensor, tau: Tensor | float, generator: torch.Generator | None = None
    ) -> KernelSample:
        """A sample and the score at it: what denoising score matching needs, cheaper than the two calls."""
        x = self.sample(x0, tau, generator)
        return KernelSample(x, self.score(x, x0, tau))

    def pairwise_log_prob(self, x: Tensor, centres: Tensor, tau: Tensor) -> Tensor:
        """Log density of every pair, ``(queries, centres)``.

        Args:
            x: queries, ``(queries, *point_shape)``.
            centres: starting points, ``(centres, *point_shape)``.
            tau: Brownian time per centre, ``(centres,)`` or ``(1,)``, positive (not checked).
        """
        return self.log_prob(x.unsqueeze(1), centres, tau)

    def weighted_score(self, x: Tensor, centres: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
        """Sum over the centres of ``weights`` (``(queries, centres)``) times the score, ``(queries, *point_shape)``."""
        return (self.manifold.per_point(weights) * self.score(x.unsqueeze(1), centres, tau)).sum(1)

    def __repr__(self) -> str:
        return f"heat_kernel({self.manifold})"


def brownian_time(tau: Tensor | float, like: Tensor, largest: float = math.inf) -> Tensor:
    """``tau`` as a tensor with the dtype and device of ``like``, checked to be positive and finite.

    Values on an accelerator, and those seen inside ``vmap`` or a compiled graph, are not looked at: reading them would
    stop the stream. A bad one gives NaN there, which losses and solvers report.

    Args:
        tau: Brownian time, float or tensor.
        like: tensor whose dtype and device the result has.
        largest: end of the kernel's range, for kernels that have one.

    Raises:
        ConfigError: if ``tau`` is zero, negative, infinite, NaN or above ``largest``.
    """
    if isinstance(tau, Tensor):
        if tau.device.type == "cpu" and tau.numel() and readable(tau):
            low, high = torch.aminmax(tau.detach())
            _check(low.item(), high.item(), largest)
        return tau if tau.dtype == like.dtype and tau.device == like.device else tau.to(like)
    value = float(tau)
    _check(value, value, largest)
    return torch.tensor(value, dtype=like.dtype, device=like.device)


def _check(low: float, high: float, largest: float) -> None:
    if not (low > 0 and high < math.inf):  # a NaN fails the first comparison
        bad = low if not low > 0 else high
        raise ConfigError(
            f"tau, the Brownian time, must be positive and finite; got {bad}. "
            "It is a variance: on R^n the law is N(x0, tau I)."
        )
    if high > largest:
        raise ConfigError(
            f"tau = {high} is beyond the range of this kernel, (0, {largest:g}]: the points would not be representable."
        )


_CHUNK = 1 << 15


def in_chunks(
    draw: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x0: Tensor, tau: Tensor, batch: tuple[int, ...]
) -> KernelSample:
    """``draw(x0, tau)`` for flat pieces of a large batch, whose temporaries then stay in the processor's cache."""
    n = math.prod(batch)
    if n <= 2 * _CHUNK or x0.device.type != "cpu" or torch.compiler.is_compiling():
        x, score = draw(x0, tau)
        return KernelSample(x.contiguous(), score.contiguous())
    point = x0.shape[len(batch) :]
    x, score = x0.new_empty(n, *point), x0.new_empty(n, *point)
    flat, times = x0.reshape(n, *point), tau.expand(batch).reshape(n)
    for i in range(0, n, _CHUNK):
        x[i : i + _CHUNK], score[i : i + _CHUNK] = draw(flat[i : i + _CHUNK], times[i : i + _CHUNK])
    return KernelSample(x.reshape(x0.shape), score.reshape(x0.shape))


_Factory = TypeVar("_Factory", bound=Callable[[Any], HeatKernel])


@singledispatch
def _build(manifold: Manifold) -> HeatKernel:
    known = ", ".join(sorted(c.__name__ for c in _build.registry if c is not object))
    raise CapabilityError(
        f"{manifold!r} has no heat kernel. Manifolds that have one: {known}. Register your own with "
        f"@heat_kernel.register({type(manifold).__name__}), or train with implicit score matching, which needs none."
    )


class _HeatKernelFunction:
    """``heat_kernel(manifold)``: a dispatch on the manifold's class that keeps the kernels it made."""

    def __init__(self) -> None:
        self._kernels: dict[Manifold, HeatKernel] = {}

    def __call__(self, manifold: Manifold) -> HeatKernel:
        """The heat kernel of a manifold, the same object at every call.

        Raises:
            CapabilityError: if no kernel is registered for the manifold's class.

        Example:
            >>> import torch
            >>> from manifold_diffusion.heat_kernels import heat_kernel
            >>> from manifold_diffusion.manifolds import Sphere
            >>> K = heat_kernel(Sphere(2))
            >>> north = torch.tensor([0.0, 0.0, 1.0])
            >>> x = K.sample(north.expand(1000, 3), 0.5)
            >>> x.shape, K.log_prob(x, north, 0.5).shape
            (torch.Size([1000, 3]), torch.Size([1000]))
        """
        kernel = self._kernels.get(manifold)
        if kernel is None:
            kernel = self._kernels[manifold] = _build(manifold)
        return kernel

    def holds(self, kernel: HeatKernel) -> bool:
        """Whether a kernel is the one that its manifold has here."""
        return self._kernels.get(getattr(kernel, "manifold", None)) is kernel  # pyright: ignore[reportArgumentType]

    def register(self, cls: type[Manifold]) -> Callable[[_Factory], _Factory]:
        """Decorator of the function (or kernel class) that takes a manifold of class ``cls`` and returns its kernel."""

        def decorator(factory: _Factory) -> _Factory:
            _build.register(cls)(factory)
            self._kernels = {m: k for m, k in self._kernels.items() if not isinstance(m, cls)}
            return factory

        return decorator


heat_kernel = _HeatKernelFunction()


def _kernel_of(manifold: Manifold) -> HeatKernel:
    return heat_kernel(manifold)
