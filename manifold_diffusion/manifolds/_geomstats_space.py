"""Spaces of geomstats: its backend, and spaces to and from an import path and plain arguments."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError, ManifoldError

__all__ = [
    "as_tensor",
    "build",
    "describe",
    "in_vector_space",
    "inside_geomstats",
    "load_geomstats",
    "require_riemannian",
]

_HOMES = ("geomstats.geometry", "geomstats.information_geometry")

Description = tuple[str, dict[str, Any], str | None, dict[str, Any] | None]
"""Path and arguments of a space; path and arguments of its metric, None for the default one."""


def load_geomstats() -> str:
    """Import geomstats and name its backend; ``pytorch`` if nobody has chosen one."""
    if "geomstats" not in sys.modules:
        os.environ.setdefault("GEOMSTATS_BACKEND", "pytorch")
    default = torch.get_default_dtype()
    try:
        backend = importlib.import_module("geomstats.backend")
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"from_geomstats needs geomstats: {error}. Install it: pip install 'geomstats>=2.8'."
        ) from error
    finally:
        torch.set_default_dtype(default)  # geomstats sets torch's to float64
    return backend.__name__.rpartition(".")[2]


@contextmanager
def inside_geomstats(backend: str) -> Iterator[None]:
    """What a call of geomstats with its pytorch backend needs, undone afterwards.

    Its constants have torch's default dtype, which must be float64. Its matrix logarithm, which scipy computes, hides
    its derivative from torch, so that second derivatives and forward mode would silently miss a term: another one with
    derivatives of every order takes its place.
    """
    if backend != "pytorch":
        yield
        return
    linalg = sys.modules["geomstats.backend"].linalg
    default, logm = torch.get_default_dtype(), linalg.logm
    torch.set_default_dtype(torch.float64)
    linalg.logm = _Logm.apply
    try:
        yield
    finally:
        linalg.logm = logm
        torch.set_default_dtype(default)


class _Logm(torch.autograd.Function):
    r"""Principal logarithm of real matrices.

    Its derivative at A in the direction E is a block of a logarithm, :math:`\log\begin{pmatrix} A & E \\ 0 & A
    \end{pmatrix}`, and so are all further derivatives (Higham, *Functions of Matrices*, 2008, theorem 3.6).
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        import numpy
        import scipy.linalg

        ctx.save_for_backward(a)
        flat = a.detach().reshape(-1, *a.shape[-2:]).numpy()
        logs = numpy.stack([numpy.real(scipy.linalg.logm(m)) for m in flat]) if len(flat) else flat
        return torch.from_numpy(logs).to(a.dtype).reshape(a.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (a,) = ctx.saved_tensors
        n, transposed = a.shape[-1], a.mT  # the adjoint of the derivative at A is the derivative at its transpose
        top = torch.cat([transposed, grad], -1)
        bottom = torch.cat([torch.zeros_like(transposed), transposed], -1)
        return torch.as_tensor(_Logm.apply(torch.cat([top, bottom], -2)))[..., :n, n:]


def as_tensor(value: Any) -> Tensor:
    """A result of geomstats, which on NumPy may be a scalar, or a broadcast array that torch must not share."""
    return value if isinstance(value, Tensor) else torch.tensor(value)


def build(
    path: str,
    arguments: Mapping[str, Any] | None = None,
    metric: str | None = None,
    metric_arguments: Mapping[str, Any] | None = None,
) -> Any:
    """A space from its description.

    Raises:
        ConfigError: if a path names no class in the homes of geomstats' spaces, or the class refuses the arguments.
    """
    backend = load_geomstats()
    cls = _class(path)
    values = {name: _decoded(value) for name, value in (arguments or {}).items()}
    try:
        with inside_geomstats(backend):
            space = cls(**values)
            if metric is not None:
                extra = {name: _decoded(value) for name, value in (metric_arguments or {}).items()}
                space.equip_with_metric(_class(metric), **extra)
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} can't be built from {dict(arguments or {})}: {error}.") from error
    return space


def describe(space: Any) -> Description | None:
    """Path and arguments that give the space again, or None where there are none.

    Arguments are read from the attributes of their names; the space that they give is compared with the original.
    """
    found = _description(space)
    if found is None:
        return None
    try:
        copy = build(*found)
        return found if _agree(space, copy) else None
    except (ConfigError, NotImplementedError):
        return None


def _description(space: Any) -> Description | None:
    named = _named(space)
    if named is None:
        return None
    metric = _named(space.metric)
    try:
        if metric is not None and metric == _named(build(*named).metric):
            return (*named, None, None)
    except ConfigError:
        return None
    return None if metric is None else (*named, *metric)


def _named(thing: Any) -> tuple[str, dict[str, Any]] | None:
    """Path of the class, and its arguments from the attributes of their names."""
    cls = type(thing)
    home = sys.modules.get(cls.__module__)
    if not cls.__module__.startswith(_HOMES) or getattr(home, cls.__name__, None) is not cls:
        return None
    arguments = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name in ("self", "space", "total_space", "equip") or parameter.kind in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        ):
            continue
        try:
            value = _encoded(getattr(thing, name))
        except (AttributeError, TypeError):
            if parameter.default is inspect.Parameter.empty:
                return None
            continue  # the default, then; what comes out is compared with the original
        if parameter.default is inspect.Parameter.empty or value != parameter.default:
            arguments[name] = value
    return f"{cls.__module__}.{cls.__name__}", arguments


def _encoded(value: Any) -> Any:
    """Plain form of an argument: numbers, strings, lists of them, and spaces by their description."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_encoded(v) for v in value]
    found = _description(value) if hasattr(value, "metric") and hasattr(value, "shape") else None
    if found is None:
        raise TypeError(f"{value!r} is not plain")
    return {k: v for k, v in zip(("path", "arguments", "metric", "metric_arguments"), found, strict=True) if v}


def _decoded(value: Any) -> Any:
    if isinstance(value, Mapping) and "path" in value:
        return build(**value)
    if isinstance(value, list | tuple):
        return [_decoded(v) for v in value]
    return value


def _class(path: Any) -> Any:
    module, _, name = str(path).rpartition(".")
    if not any(module == home or module.startswith(f"{home}.") for home in _HOMES):
        raise ConfigError(
            f"path must name a class in {' or '.join(_HOMES)}, such as 'geomstats.geometry.hypersphere.Hypersphere'; "
            f"got {path!r}."
        )
    load_geomstats()
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"path {path!r} names no class: {error}.") from error
    if not isinstance(cls, type):
        raise ConfigError(f"path {path!r} is not a class.")
    return cls


def _agree(a: Any, b: Any) -> bool:
    """Whether two spaces have the same points and inner products, seen at a few points."""
    if type(a) is not type(b) or type(a.metric) is not type(b.metric) or a.shape != b.shape or a.dim != b.dim:
        return False
    import numpy

    backend = load_geomstats()
    state = numpy.random.get_state()  # noqa: NPY002 - geomstats draws from the legacy global generator
    try:
        with torch.random.fork_rng(devices=[]), inside_geomstats(backend):
            torch.manual_seed(0)
            numpy.random.seed(0)  # noqa: NPY002
            x = a.random_point(n_samples=3)
            u = a.to_tangent(vector=0 * x + 1, base_point=x)
            v = a.to_tangent(vector=x * x, base_point=x)
            first, second = (
                as_tensor(s.metric.inner_product(tangent_vec_a=u, tangent_vec_b=v, base_point=x)) for s in (a, b)
            )
            known = as_tensor(b.belongs(point=x)).all()
    finally:
        numpy.random.set_state(state)  # noqa: NPY002
    return bool(known) and torch.allclose(first.double(), second.double(), equal_nan=True)


def in_vector_space(space: Any) -> bool:
    """Whether points are those of a linear space, or of an open set of one."""
    from geomstats.geometry.base import VectorSpace, VectorSpaceOpenSet

    return isinstance(space, VectorSpace | VectorSpaceOpenSet)


def require_riemannian(space: Any) -> None:
    """Check that a space has real points and a positive metric.

    Raises:
        ManifoldError: it does not.
    """
    name = type(space).__name__
    missing = [a for a in ("dim", "shape", "belongs", "to_tangent") if not hasattr(space, a)]
    if missing:
        raise ManifoldError(
            f"{name} is not a space of geomstats: it has no {missing[0]}. Pass an instance such as Hypersphere(dim=2)."
        )
    if getattr(space, "metric", None) is None:
        raise ManifoldError(f"{name} has no metric. Equip it: space.equip_with_metric().")
    signature = getattr(space.metric, "signature", None)
    if signature is not None and len(signature) > 1 and signature[1] != 0:
        raise ManifoldError(f"The metric of {name} has signature {tuple(signature)}; a Riemannian one is positive.")
    with inside_geomstats(load_geomstats()), torch.random.fork_rng(devices=[]):
        if "complex" in str(space.random_point().dtype):
            raise ManifoldError(f"Points of {name} are complex; points of a manifold are real tensors here.")
