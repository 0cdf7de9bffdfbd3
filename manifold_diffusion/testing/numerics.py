"""Laws of tensors and floating point: shapes, dtypes, devices, transforms, derivatives, singular points."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from .. import manifolds
from ..manifolds import Manifold
from .laws import LawError, law, require_small
from .sampling import random_points, random_vectors, reach

__all__: list[str] = []

_DOUBLE = (torch.float64,)
Method = Callable[..., Tensor]


def _methods(manifold: Manifold) -> dict[str, tuple[Method, str]]:
    """The differentiable methods, with the kinds of their arguments: x, y points, v, u tangent vectors at x."""
    return {
        "inner": (manifold.inner, "xvu"),
        "norm": (manifold.norm, "xv"),
        "to_tangent": (manifold.to_tangent, "xv"),
        "exp": (manifold.exp, "xv"),
        "log": (manifold.log, "xy"),
        "dist": (manifold.dist, "xy"),
        "transport": (manifold.transport, "xyv"),
        "log_det_exp": (manifold.log_det_exp, "xv"),
        "coordinates": (manifold.coordinates, "x"),
        "embed": (manifold.embed, "x"),
        "tangent_basis": (manifold.tangent_basis, "x"),
    }


def _arguments(manifold: Manifold, n: int, dtype: torch.dtype, generator: torch.Generator) -> dict[str, Tensor]:
    """``n`` generic arguments of each kind, away from the singular points."""
    x = random_points(manifold, n, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0.2, 0.7 * reach(manifold)))
    v, u = (random_vectors(manifold, x, generator, 0.2, 0.7 * reach(manifold)) for _ in range(2))
    return {"x": x, "y": y, "v": v, "u": u}


def _require_equal(manifold: Manifold, name: str, what: str, got: Tensor, expected: Tensor) -> None:
    if got.shape != expected.shape:
        raise LawError(
            f"{manifold} breaks {name}: {what} has shape {tuple(got.shape)}, expected {tuple(expected.shape)}."
        )
    require_small(manifold, name, (got - expected).abs() / (1 + expected.abs()), f"relative gap of {what}")


@law()
def shape_dtype_device_kept(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Results have the shape of the contract and the dtype and device of the arguments."""
    args, n, point = _arguments(manifold, 3, dtype, generator), 3, manifold.point_shape
    vectors = {"to_tangent", "exp", "log", "transport"}
    for name, (method, kinds) in _methods(manifold).items():
        for device in ("cpu", "meta"):
            out = method(*[args[k].to(device) for k in kinds])
            if out.dtype != dtype or out.device.type != device:
                raise LawError(f"{manifold}.{name} gives {out.dtype} on {out.device} for {dtype} on {device}.")
        shape = {"tangent_basis": (n, manifold.dim, *point), "coordinates": out.shape, "embed": out.shape}
        shape = shape.get(name, (n, *point) if name in vectors else (n,))
        if out.shape != shape:
            raise LawError(f"{manifold}.{name} gives shape {tuple(out.shape)} for {n} points, expected {shape}.")
    made = {
        "random_tangent": manifold.random_tangent(args["x"], generator=generator),
        "origin": manifold.origin(dtype=dtype),
    }
    for name, out in made.items():
        if out.dtype != dtype:
            raise LawError(f"{manifold}.{name} gives {out.dtype} for {dtype}.")


@law()
def batch_is_a_loop(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """A batch of any shape, also none or empty, gives what its points give one by one; so does ``vmap``."""
    args = _arguments(manifold, 6, dtype, generator)
    for name, (method, kinds) in _methods(manifold).items():
        rows = [args[k] for k in kinds]
        whole = method(*rows)
        one = torch.stack([method(*[r[i] for r in rows]) for i in range(6)])
        _require_equal(manifold, "batch_is_a_loop", f"{name} of a batch", whole, one)
        grid = method(*[r.reshape(2, 3, *manifold.point_shape) for r in rows])
        _require_equal(manifold, "batch_is_a_loop", f"{name} of a (2, 3) batch", grid.reshape(whole.shape), whole)
        _require_equal(manifold, "batch_is_a_loop", f"{name} under vmap", torch.vmap(method)(*rows), whole)
        _require_equal(
            manifold, "batch_is_a_loop", f"{name} of an empty batch", method(*[r[:0] for r in rows]), whole[:0]
        )


@law()
def batches_broadcast(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Batch shapes of the arguments of ``inner``, ``norm``, ``exp``, ``log``, ``dist`` and ``transport`` broadcast."""
    x, y = random_points(manifold, 1, dtype, generator)[0], random_points(manifold, 3, dtype, generator)
    xs = x.expand(3, *x.shape)
    v = random_vectors(manifold, xs, generator, 0.1, 1)  # at one point
    us = v[:1].expand_as(v)
    pairs = {
        "inner": (manifold.inner(x, v[0], v), manifold.inner(xs, us, v)),
        "norm": (manifold.norm(x, v), manifold.norm(xs, v)),
        "exp": (manifold.exp(x, v), manifold.exp(xs, v)),
        "log": (manifold.log(x, y), manifold.log(xs, y)),
        "log to one point": (manifold.log(y, x), manifold.log(y, xs)),
        "dist": (manifold.dist(x, y), manifold.dist(xs, y)),
        "dist of all pairs": (manifold.dist(y.unsqueeze(1), y).diagonal(), manifold.dist(y, y)),
        "transport": (manifold.transport(x, y, v[0]), manifold.transport(xs, y, us)),
    }
    for name, (got, expected) in pairs.items():
        _require_equal(manifold, "batches_broadcast", name, got, expected)


@law(dtypes=_DOUBLE)
def derivatives_are_right(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Reverse, forward and second derivatives of ``exp``, ``log``, ``dist``, ``norm``, ``log_det_exp`` are right."""
    args = _arguments(manifold, 2, dtype, generator)
    for name in ("exp", "log", "dist", "norm", "log_det_exp"):
        method, kinds = _methods(manifold)[name]
        inputs = tuple(args[k].clone().requires_grad_() for k in kinds)
        if not method(*inputs).requires_grad:  # constant
            continue
        try:
            torch.autograd.gradcheck(
                method, inputs, check_forward_ad=name != "log_det_exp", fast_mode=True, atol=1e-5, rtol=1e-3
            )
            torch.autograd.gradgradcheck(method, inputs, fast_mode=True, atol=1e-5, rtol=1e-3)
        except RuntimeError as error:
            raise LawError(f"{manifold} breaks derivatives_are_right: {name}: {error}") from error


@law(dtypes=_DOUBLE)
def derivatives_nest(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Forward and reverse mode, nested in any order, give the same second derivatives of the methods."""
    args = _arguments(manifold, 2, dtype, generator)
    first, second = (
        {k: torch.randn(a.shape, generator=generator, dtype=dtype) for k, a in args.items()} for _ in range(2)
    )
    for name in ("exp", "log", "dist", "log_det_exp"):
        method, kinds = _methods(manifold)[name]
        weights = torch.randn(method(*[args[k] for k in kinds]).shape, generator=generator, dtype=dtype)

        def total(
            a: Tensor, b: Tensor, method: Method = method, kinds: str = kinds, weights: Tensor = weights
        ) -> Tensor:
            return (weights * method(*[args[k] + a * first[k] + b * second[k] for k in kinds])).sum()

        zero = torch.zeros((), dtype=dtype)
        found = {
            f"{outer} over {inner}": float(_MODES[outer](_MODES[inner](total, 0), 1)(zero, zero))
            for outer in _MODES
            for inner in _MODES
        }
        size = max(1.0, *map(abs, found.values()))
        for order, value in found.items():
            if not abs(value - found["reverse over reverse"]) <= 1e-6 * size:
                raise LawError(
                    f"{manifold} breaks derivatives_nest: the second derivative of {name} is {value:.6g}, {order}, "
                    f"{found['reverse over reverse']:.6g}, reverse over reverse."
                )


def _forward(function: Callable[..., Tensor], index: int) -> Callable[..., Tensor]:
    def slope(*at: Tensor) -> Tensor:
        along = [torch.ones_like(a) if i == index else torch.zeros_like(a) for i, a in enumerate(at)]
        return torch.func.jvp(function, at, tuple(along))[1]

    return slope


_MODES: dict[str, Callable[[Callable[..., Tensor], int], Callable[..., Tensor]]] = {
    "forward": _forward,
    "reverse": lambda function, index: torch.func.grad(function, argnums=index),
}


@law(dtypes=_DOUBLE)
def derivatives_at_zero(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """At v = 0 the first derivative of ``exp`` is the identity of the tangent space, the second that of a geodesic."""
    x = random_points(manifold, 8, dtype, generator)
    u, zero = random_vectors(manifold, x, generator, 0.5, 1), torch.zeros_like(x)

    def speed(t: Tensor) -> Tensor:
        return torch.func.jvp(lambda s: manifold.exp(x, manifold.per_point(s) * u), (t,), (torch.ones_like(t),))[1]

    t = torch.zeros(8, dtype=dtype)
    velocity, acceleration = torch.func.jvp(speed, (t,), (torch.ones_like(t),))[:2]
    _, image = torch.func.jvp(lambda w: manifold.exp(x, w), (zero,), (u,))[:2]
    h = 1e-3
    ahead, behind = manifold.exp(x, h * u), manifold.exp(x, -h * u)
    _require_within(manifold, "derivatives_at_zero", velocity - u, 1e-9, "d exp (u) - u along a geodesic")
    _require_within(manifold, "derivatives_at_zero", image - u, 1e-9, "d exp (u) - u")
    if not bool(((ahead - x).abs() > 1).any()):  # no jump of a periodic chart
        _require_within(
            manifold,
            "derivatives_at_zero",
            acceleration - (ahead + behind - 2 * x) / h**2,
            1e-5,
            "second derivative minus difference",
        )


def _require_within(manifold: Manifold, name: str, error: Tensor, limit: float, what: str) -> None:
    require_small(manifold, name, error.abs(), what, limit)


@law(dtypes=(torch.float32,))
def short_distances(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """float32 distances are right to 1e-3 down to 1e-5, against float64 at the same points."""
    x = random_points(manifold, 256, torch.float64, generator)
    for length in (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.99 * reach(manifold)):
        y = manifold.exp(x, random_vectors(manifold, x, generator, length, length))
        p, q = x.to(dtype), y.to(dtype)
        truth = manifold.dist(p.double(), q.double())
        got = manifold.dist(p, q).double()
        require_small(
            manifold, "short_distances", (got / truth - 1).abs(), f"relative error of dist at {length:.0e}", dtype=dtype
        )


def _singular_pairs(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coincident points, and points at the injectivity radius (or 20) or within rounding of it, in many directions."""
    base = torch.stack([manifold.origin(dtype=dtype), *random_points(manifold, 2, dtype, generator)])
    basis = manifold.tangent_basis(base)  # (3, dim, *point)
    x = base.unsqueeze(1).expand_as(basis)
    mixed = basis + basis.roll(1, 1) + 0.5 * basis.roll(2, 1)
    directions = torch.cat([basis, -basis, mixed], 1)
    x = base.unsqueeze(1).expand_as(directions)
    directions = directions / manifold.per_point(manifold.norm(x, directions))
    radius = manifold.injectivity_radius
    ends = [torch.zeros_like(x)]
    if radius < 1e6:
        ends += [radius * (1 + k * torch.finfo(dtype).eps) * directions for k in (-100, -1, 0, 1, 100)]
    else:
        # 20 from the origin, and 20 apart.
        ends += [10 * directions, 20 * directions]
    vectors = torch.cat(ends, 1).flatten(0, 1)
    starts = torch.cat([x] * len(ends), 1).flatten(0, 1)
    return starts, vectors


@law()
def singular_points_are_finite(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Values and gradients are finite at coincident points, zero vectors, the cut locus and distance 20."""
    x, v = _singular_pairs(manifold, dtype, generator)
    y = manifold.exp(x, v).detach()
    far_v = manifold.log(x, y).detach()
    zero = torch.zeros_like(v)
    for name in ("inner", "norm", "to_tangent", "exp", "log", "dist", "transport", "log_det_exp"):
        method, kinds = _methods(manifold)[name]
        for vector in (v, zero, far_v):
            chosen = {"x": x, "y": y, "v": vector, "u": vector}
            inputs = [chosen[k].clone().requires_grad_() for k in kinds]
            out = method(*inputs)
            grads = (
                torch.autograd.grad(out.sum(), inputs, allow_unused=True) if out.requires_grad else (None,) * len(kinds)
            )
            named = {
                "value": out,
                **{f"gradient in {k}": g for k, g in zip(kinds, grads, strict=True) if g is not None},
            }
            for what, tensor in named.items():
                if not bool(torch.isfinite(tensor).all()):
                    row = int((~torch.isfinite(tensor)).reshape(len(x), -1).any(1).nonzero()[0])
                    raise LawError(
                        f"{manifold} breaks singular_points_are_finite ({dtype}): the {what} of {name} is not "
                        f"finite at x = {x[row].tolist()}, y = {y[row].tolist()}, v = {vector[row].tolist()}."
                    )


@law()
def log_is_minimal_at_the_cut(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Around the injectivity radius ``log`` is the velocity of a minimal geodesic, the same at every call."""
    if manifold.injectivity_radius > 1e6:
        return
    x, v = _singular_pairs(manifold, dtype, generator)
    y = manifold.exp(x, v)
    w, name = manifold.log(x, y), "log_is_minimal_at_the_cut"
    eps = 1e-6 if dtype == torch.float64 else 2e-3
    require_small(manifold, name, (manifold.norm(x, w) - manifold.dist(x, y)).abs(), "||log_x(y)| - d(x, y)|", eps)
    require_small(
        manifold,
        name,
        manifold.norm(x, w) - manifold.norm(x, v),
        "|log_x(y)| minus the length of another geodesic",
        eps,
    )
    require_small(manifold, name, manifold.dist(manifold.exp(x, w), y), "d(exp_x(log_x(y)), y)", eps)
    require_small(manifold, name, (w - manifold.log(x, y)).abs(), "difference of two calls", 0.0)
    manifold.check_tangent(x, w)


@law(dtypes=_DOUBLE)
def manifold_is_a_value(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Equality, hash, ``repr``, pickle and deepcopy: a manifold is its class and its arguments."""
    names = {**vars(sys.modules[type(manifold).__module__]), **{n: getattr(manifolds, n) for n in manifolds.__all__}}
    names.setdefault(type(manifold).__name__, type(manifold))
    copies = {"deepcopy": copy.deepcopy(manifold), "repr": eval(repr(manifold), names)}
    cls = type(manifold)
    if getattr(sys.modules[cls.__module__], cls.__name__, None) is cls:  # a class inside a function can't be pickled
        copies["pickle"] = pickle.loads(pickle.dumps(manifold))
    for how, other in copies.items():
        if other != manifold or hash(other) != hash(manifold) or type(other) is not type(manifold):
            raise LawError(f"{manifold} breaks manifold_is_a_value: its copy by {how}, {other!r}, is not equal to it.")
