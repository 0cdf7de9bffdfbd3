"""What models check of their input, before any work starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._config import to_config
from .._errors import ConfigError, DataError
from .._safe import readable
from ..manifolds import Manifold, cast_points
from ..processes import Process

if TYPE_CHECKING:
    from .base import GenerativeModel
    from .pretrained import PretrainedModel

__all__ = [
    "check_estimator",
    "check_network",
    "check_points",
    "conditions",
    "in_chunks",
    "in_own_dtype",
    "same_process",
    "times_at",
]


def check_points(model: PretrainedModel, x: Tensor, flat: bool = False) -> None:
    """Raise unless points are on the manifold of the model, in its dtype, and, if ``flat``, ``(n, *point_shape)``."""
    model.manifold.check_point(x, "x")
    if flat and len(model.manifold.batch_shape(x)) != 1:
        raise DataError(
            f"x must have shape (n, {', '.join(map(str, model.manifold.point_shape))}); got {tuple(x.shape)}."
        )
    if x.dtype != model.like.dtype:
        raise ConfigError(
            f"x is {x.dtype}, the model {model.like.dtype}. Convert one: M.project(x.to({model.like.dtype})), or "
            f"model.to({x.dtype})."
        )


def times_at(model: PretrainedModel, x: Tensor, t: Tensor | float) -> Tensor:
    """Times of points, ``(*batch,)``; both are checked, unless a transform of ``torch.func`` or the compiler looks on.

    Raises:
        ManifoldError: if a point is not on the manifold.
        ConfigError: for a time outside [0, 1], or of another shape than the points'.
    """
    if not isinstance(x, Tensor):
        raise ConfigError(f"x must be a tensor of points; got {type(x).__name__}.")
    times, shape = torch.as_tensor(t, dtype=x.dtype, device=x.device), model.manifold.batch_shape(x)
    if times.dim() and times.shape != shape:
        raise ConfigError(
            f"t must be a number or have the shape of the batch, {tuple(shape)}; got {tuple(times.shape)}."
        )
    if readable(x) and readable(times):
        check_points(model, x)
        if not bool(((times >= 0) & (times <= 1)).all()):
            raise ConfigError(f"t must be in [0, 1], from data to noise; got {t}.")
    return times.expand(shape)


def conditions(cond: Tensor | None, shape: Sequence[int], like: Tensor) -> Tensor | None:
    """Conditions ``(*shape, cond_dim)`` of the points of a batch, from one for all or one for each; None for none."""
    if cond is None:
        return None
    if not isinstance(cond, Tensor) or cond.dim() == 0 or (cond.dim() > 1 and cond.shape[:-1] != tuple(shape)):
        got = f"a tensor of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else repr(cond)
        each = ", ".join([*map(str, shape), "cond_dim"])
        raise ConfigError(
            f"cond must be a tensor (cond_dim,) for all rows, or with a row per point, ({each}); got {got}."
        )
    return (cond.expand(*shape, -1) if cond.dim() == 1 else cond).to(like)


def in_chunks(
    model: PretrainedModel, n: int, cond: Tensor | None, batch_size: int
) -> Iterator[tuple[int, Tensor | None]]:
    """Sizes of the parts of a batch, with their conditions; one empty part for an empty batch."""
    if n < 0 or batch_size < 1:
        raise ConfigError(f"A batch needs n >= 0 and batch_size >= 1; got n={n}, batch_size={batch_size}.")
    cond = conditions(cond, (n,), model.like)
    for start in range(0, max(n, 1), batch_size):
        size = min(batch_size, n - start)
        yield size, None if cond is None else cond[start : start + size]


def in_own_dtype(model: PretrainedModel, points: Any, name: str, manifold: Manifold | None = None) -> Any:
    """Points that are a tensor of another floating-point dtype, in the model's; they are on its manifold by default."""
    manifold = model.manifold if manifold is None else manifold
    if not isinstance(points, Tensor) or points.dtype == model.like.dtype or not points.is_floating_point():
        return points
    manifold.check_point(points, name)
    return cast_points(manifold, points, model.like.dtype)


def check_estimator(estimator: str) -> None:
    """Raise unless there is such an estimator of the divergence."""
    if estimator not in ("exact", "hutchinson"):
        raise ConfigError(f'estimator must be "exact" or "hutchinson"; got {estimator!r}.')


def check_network(model: GenerativeModel, x: Tensor, cond: Tensor | None = None) -> None:
    """Call the network once on a few points, so that one of the wrong kind fails before any training.

    Args:
        model: whose network is called.
        x: points, ``(n, *point_shape)``.
        cond: conditions of all points, of which only the shape counts; None for none.

    Raises:
        ConfigError: unless it takes the conditions and returns a tangent vector per point.
    """
    network, training = model.network, model.network.training
    if cond is not None:
        width, added = getattr(network, "cond_dim", None), getattr(model.objective, "added_conditions", None)
        if cond.dim() != 2 or (width and added is not None and cond.shape[1] != width - added):
            columns = "cond_dim" if width is None or added is None else width - added
            raise ConfigError(
                f"cond must have shape ({len(cond)}, {columns}), a row per point; got {tuple(cond.shape)}. "
                f"{type(network).__name__} has cond_dim={width}."
            )
        cond = x.new_zeros(len(x), width or cond.shape[-1])  # objectives may add columns to the conditions
    with torch.no_grad():
        output = network.eval()(x.new_full((len(x),), 0.5), x, cond)
    network.train(training)
    if not isinstance(output, Tensor) or output.shape != x.shape:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"The network must return a tangent vector per point, {tuple(x.shape)}; {type(network).__name__} gave "
            f"{got}."
        )


def same_process(a: Process, b: Process) -> bool:
    """Whether two processes are one, or have one configuration; those of a class without one count as the same."""
    if a is b or type(a) is not type(b):
        return a is b
    try:
        return to_config(a) == to_config(b)
    except ConfigError:
        return True
