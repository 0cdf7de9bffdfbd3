"""Properties that hypothesis looks for counterexamples to: points, vectors and scales of its choice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import CapabilityError
from ..manifolds import Manifold
from .laws import LawError, LawRecord
from .sampling import reach

__all__ = ["PROPERTIES", "Draw", "check_properties", "draws"]

_LIMIT = {torch.float64: 1e-7, torch.float32: 3e-3}
"""Largest error of a property: lengths are relative, and come within 1 % of the cut locus."""

_LENGTHS = (0.0, 1e-12, 1e-8, 1e-6, 1e-4, 1e-2, 0.1, 0.3, 0.6, 0.9, 1.0)
_SHAPES = ((), (1,), (3,), (2, 2), (0,))


@dataclass(frozen=True)
class Draw:
    """Arguments of a property, all with the same batch shape.

    Attributes:
        x: points.
        v: tangent vectors at ``x``, no longer than 0.99 of the injectivity radius or 3.
        u: tangent vectors at ``x`` of another direction, of length 1.
    """

    x: Tensor
    v: Tensor
    u: Tensor


def draws(manifold: Manifold, dtype: torch.dtype = torch.float64) -> Any:
    """A hypothesis strategy of :class:`Draw`: points around the origin, vectors of any direction and length.

    Lengths run over eleven scales from zero to close to the cut locus, batch shapes over none, empty and nested;
    directions come from a seed, or from ``tangent_basis``, where entries vanish. A counterexample shrinks towards one
    point, the origin, and the zero vector.

    Raises:
        CapabilityError: if hypothesis isn't installed.
    """
    st = _hypothesis().strategies

    @st.composite
    def build(draw: Callable[[Any], Any]) -> Draw:
        shape = draw(st.sampled_from(_SHAPES))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        along_basis = draw(st.booleans())
        longest = reach(manifold)
        x = manifold.origin(dtype=dtype).expand(*shape, *manifold.point_shape)
        start = draw(st.sampled_from(_LENGTHS)) * min(1.5, longest)
        x = manifold.exp(x, _vector(manifold, x, start, along_basis, generator))
        v = _vector(manifold, x, draw(st.sampled_from(_LENGTHS)) * longest, along_basis, generator)
        return Draw(x, v, _vector(manifold, x, 1.0, False, generator))

    return build()


def _vector(manifold: Manifold, x: Tensor, length: float, along_basis: bool, generator: torch.Generator) -> Tensor:
    if along_basis:
        axis = len(manifold.batch_shape(x))
        index = int(torch.randint(manifold.dim, (), generator=generator))
        v = manifold.tangent_basis(x).select(axis, index)
    else:
        v = manifold.random_tangent(x, generator=generator)
    norm = manifold.norm(x, v)
    return manifold.per_point(length / torch.where(norm > 0, norm, torch.ones_like(norm))) * v


def _log_inverts_exp(m: Manifold, d: Draw) -> Tensor:
    back = m.log(d.x, m.exp(d.x, d.v))
    return m.norm(d.x, m.to_tangent(d.x, back - d.v)) / (1 + m.norm(d.x, d.v))


def _distance_is_the_length(m: Manifold, d: Draw) -> Tensor:
    return (m.dist(d.x, m.exp(d.x, d.v)) - m.norm(d.x, d.v)).abs()


def _distance_is_symmetric(m: Manifold, d: Draw) -> Tensor:
    y = m.exp(d.x, d.v)
    return (m.dist(d.x, y) - m.dist(y, d.x)).abs()


def _geodesic_splits_its_length(m: Manifold, d: Draw) -> Tensor:
    y = m.exp(d.x, d.v)
    middle, length = m.geodesic(d.x, y, 0.3), m.dist(d.x, y)
    return (m.dist(d.x, middle) - 0.3 * length).abs() + (m.dist(middle, y) - 0.7 * length).abs()


def _transport_keeps_lengths(m: Manifold, d: Draw) -> Tensor:
    y = m.exp(d.x, 0.8 * d.v)
    return (m.norm(y, m.transport(d.x, y, d.u)) - 1).abs()


def _points_are_projected_onto_themselves(m: Manifold, d: Draw) -> Tensor:
    y = m.exp(d.x, d.v)
    return m.defect(y) / (1 + y.abs().flatten(len(m.batch_shape(y))).amax(-1))


PROPERTIES: dict[str, Callable[[Manifold, Draw], Tensor]] = {
    "log_inverts_exp": _log_inverts_exp,
    "distance_is_the_length": _distance_is_the_length,
    "distance_is_symmetric": _distance_is_symmetric,
    "geodesic_splits_its_length": _geodesic_splits_its_length,
    "transport_keeps_lengths": _transport_keeps_lengths,
    "points_are_projected_onto_themselves": _points_are_projected_onto_themselves,
}
"""Properties by name: the errors ``(*batch,)`` at a draw, which must stay below 1e-7 (float64) or 3e-3 (float32)."""


def check_properties(
    manifold: Manifold,
    examples: int = 50,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    properties: Sequence[str] | None = None,
) -> list[LawRecord]:
    """Let hypothesis look for points, vectors and scales at which a property fails, and shrink what it finds.

    The laws of :func:`check_manifold` check fixed scales on many points at once; this looks at the corners. The search
    is the same in every run.

    Args:
        manifold: the manifold under test.
        examples: draws per property and dtype.
        dtypes: dtypes to check.
        properties: names; default all of :data:`PROPERTIES`.

    Returns:
        One record per property and dtype.

    Raises:
        LawError: if a property does not hold; the message has the simplest counterexample of each.
        CapabilityError: if hypothesis isn't installed, or a name is unknown.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.testing import check_properties
        >>> len(check_properties(Sphere(2), examples=5, properties=["log_inverts_exp"]))
        2
    """
    hypothesis = _hypothesis()
    unknown = sorted(set(properties or ()) - set(PROPERTIES))
    if unknown:
        raise CapabilityError(f"There are no properties {unknown}; there are {sorted(PROPERTIES)}.")
    records = []
    for dtype in dtypes:
        for name in properties or PROPERTIES:
            start = time.perf_counter()
            message = _search(hypothesis, manifold, name, dtype, examples)
            records.append(LawRecord(name, dtype, not message, time.perf_counter() - start, message))
    failures = [r for r in records if not r.passed]
    if failures:
        lines = "\n".join(f"  {r.law} ({str(r.dtype).removeprefix('torch.')}): {r.message}" for r in failures)
        raise LawError(f"{manifold} breaks {len(failures)} of {len(records)} properties:\n{lines}")
    return records


def _search(hypothesis: Any, manifold: Manifold, name: str, dtype: torch.dtype, examples: int) -> str:
    """The simplest counterexample, or nothing."""
    found: dict[str, str] = {}

    def one(drawn: Draw) -> None:
        error = PROPERTIES[name](manifold, drawn)
        worst = float(error.max()) if error.numel() else 0.0
        if not worst <= _LIMIT[dtype]:  # NaN fails too
            row = int(error.reshape(-1).nan_to_num(torch.inf).argmax())
            x, v = (a.reshape(-1, *manifold.point_shape)[row].tolist() for a in (drawn.x, drawn.v))
            found["last"] = f"{worst:.1e} > {_LIMIT[dtype]:.0e} at x = {x}, v = {v}, batch {tuple(error.shape)}"
            raise LawError(found["last"])

    quiet = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        quiet(hypothesis.given(draws(manifold, dtype))(one))()
    except LawError:
        return found["last"]
    except Exception as error:  # a method that raises breaks the property too, and must not hide the others
        return f"{type(error).__name__}: {error}"
    return ""


def _hypothesis() -> Any:
    try:
        import hypothesis
        import hypothesis.strategies
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"check_properties needs hypothesis: {error}. Install it: pip install 'hypothesis>=6.100'"
        ) from error
    return hypothesis
