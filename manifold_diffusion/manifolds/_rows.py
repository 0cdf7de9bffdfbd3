"""Row-wise functions of another library as operations of torch: derivatives of any order, ``jvp`` and ``vmap``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError

__all__ = ["apply_rows"]

Rows = Callable[..., tuple[Tensor, ...]]
"""A function of tensors ``(rows, ...)`` that treats each row alone and returns tensors ``(rows, ...)``."""


def apply_rows(function: Rows, *args: Tensor) -> tuple[Tensor, ...]:
    """``function(*args)``, where the function only ever sees plain tensors with one batch axis.

    Code written for plain tensors looks at values (``if (x > 0).any()``, boolean indexing), which ``torch.func``
    refuses inside its transforms. Here the transforms stop at this call: ``vmap`` becomes more rows, and derivatives
    are row-wise functions of their own, made by running reverse mode inside them.

    Args:
        function: row-wise; differentiable by reverse mode as often as derivatives are asked for.
        args: tensors with the same number of rows.
    """
    return _Rows.apply(function, *args)  # pyright: ignore[reportReturnType]


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(function: Rows, *args: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return function(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.function = inputs[0]
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        args = ctx.saved_tensors
        return None, *apply_rows(_pullback(ctx.function, len(args)), *args, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        args = ctx.saved_tensors
        moved = [torch.zeros_like(a) if t is None else t for a, t in zip(args, tangents[1:], strict=True)]
        return apply_rows(_pushforward(ctx.function, len(args)), *args, *moved)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], function: Rows, *args: Tensor) -> tuple[Any, Any]:
        n, stacked = info.batch_size, []
        for a, d in zip(args, in_dims[1:], strict=True):
            whole = a.expand(n, *a.shape) if d is None else a.movedim(d, 0)
            stacked.append(whole.flatten(0, 1))
        out = apply_rows(function, *stacked)
        return tuple(o.unflatten(0, (n, -1) if n else (0, 0)) for o in out), (0,) * len(out)


def _tracked(args: tuple[Tensor, ...], outer: bool) -> list[Tensor]:
    """Inputs that a derivative can be taken in, connected to the caller's graph where there is one."""
    return [a.view_as(a) if outer and a.requires_grad else a.detach().requires_grad_() for a in args]


def _zeros_for_none(values: Any, like: Any) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(b) if a is None else a for a, b in zip(values, like, strict=True))


def _require_differentiable_twice(outputs: Iterable[Tensor]) -> None:
    """Refuse a graph with a hand-written derivative: for the next one it is a constant, a term silently lost."""
    stack, seen = [o.grad_fn for o in outputs], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        written = getattr(type(node), "_forward_cls", None)
        if written is not None and not written.__module__.startswith((__package__ or "", "torch.")):
            raise CapabilityError(
                f"{written.__module__}.{written.__name__} writes its own derivative, which torch can't differentiate "
                "again: forward mode and second derivatives are not available through it."
            )
        stack.extend(next_node for next_node, _ in node.next_functions)


def _pullback(function: Rows, n: int) -> Rows:
    """``(inputs, cotangents) -> cotangents of the inputs``."""

    def pulled(*args: Tensor) -> tuple[Tensor, ...]:
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = _tracked(args[:n], outer)
            pairs = [(o, c) for o, c in zip(function(*inputs), args[n:], strict=True) if o.requires_grad]
            if outer:
                _require_differentiable_twice([o for o, _ in pairs])
            if not pairs:
                return _zeros_for_none([None] * n, inputs)
            outputs, cotangents = zip(*pairs, strict=True)
            grads = torch.autograd.grad(outputs, inputs, cotangents, create_graph=outer, allow_unused=True)
            return _zeros_for_none(grads, inputs)

    return pulled


def _pushforward(function: Rows, n: int) -> Rows:
    """``(inputs, tangents) -> tangents of the outputs``: the pullback is linear, and this is its transpose."""

    def pushed(*args: Tensor) -> tuple[Tensor, ...]:
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            inputs = _tracked(args[:n], outer)
            outputs = function(*inputs)
            dummies = [torch.zeros_like(o).requires_grad_() for o in outputs]
            kept = [(o, d) for o, d in zip(outputs, dummies, strict=True) if o.requires_grad]
            if not kept:
                return tuple(torch.zeros_like(o) for o in outputs)
            used, seeds = zip(*kept, strict=True)
            _require_differentiable_twice(used)
            grads = torch.autograd.grad(used, inputs, seeds, create_graph=True, allow_unused=True)
            linear = [(g, t) for g, t in zip(grads, args[n:], strict=True) if g is not None and g.requires_grad]
            if not linear:
                return tuple(torch.zeros_like(o) for o in outputs)
            rows, tangents = zip(*linear, strict=True)
            moved = torch.autograd.grad(rows, dummies, tangents, create_graph=outer, allow_unused=True)
            return _zeros_for_none(moved, outputs)

    return pushed
