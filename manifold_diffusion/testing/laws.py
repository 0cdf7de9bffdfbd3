"""What a law is, and the check that runs all of them on a manifold."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import CapabilityError, ManifoldDiffusionError
from ..manifolds import Manifold
from .tolerances import Z_MAX, tolerance

__all__ = [
    "LAWS",
    "Law",
    "LawError",
    "LawRecord",
    "check_laws",
    "check_manifold",
    "law",
    "require_small",
    "require_zero_mean",
]


class LawError(ManifoldDiffusionError, AssertionError):
    """A manifold breaks a law: which one, by how much, and the tolerance."""


@dataclass(frozen=True)
class Law:
    """A law of the manifolds that have a power.

    Attributes:
        name: name of the law, the key of its tolerance.
        statement: the first line of its docstring.
        power: capability class that a manifold must have for the law to apply.
        dtypes: dtypes in which it is checked.
        check: ``check(manifold, dtype, generator)`` raises :class:`LawError`.
    """

    name: str
    statement: str
    power: type[Manifold]
    dtypes: tuple[torch.dtype, ...]
    check: Callable[[Manifold, torch.dtype, torch.Generator], None]

    def applies(self, manifold: Manifold, dtype: torch.dtype) -> bool:
        """Whether the law says something about the manifold in this dtype."""
        return isinstance(manifold, self.power) and dtype in self.dtypes

    def __call__(self, manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
        """Raise :class:`LawError` if the manifold breaks the law."""
        self.check(manifold, dtype, generator)


LAWS: dict[str, Law] = {}
"""All laws by name, in the order in which they are checked."""


def law(
    power: type[Manifold] = Manifold,
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32),
    registry: dict[str, Law] = LAWS,
) -> Callable[[Callable[..., None]], Law]:
    """Decorator that makes a law of a function ``(manifold, dtype, generator) -> None``; its name is the function's."""

    def register(check: Callable[..., None]) -> Law:
        entry = Law(check.__name__, (check.__doc__ or "").partition("\n")[0], power, dtypes, check)
        registry[entry.name] = entry
        return entry

    return register


@dataclass(frozen=True)
class LawRecord:
    """What came out of one law.

    Attributes:
        law: its name.
        dtype: the dtype in which it was checked.
        passed: whether it holds.
        seconds: what the check took.
        message: what was measured, of a law that does not hold.
        skipped: the reason why it was not checked; empty if it was. A skipped law has not passed.
    """

    law: str
    dtype: torch.dtype
    passed: bool
    seconds: float
    message: str = ""
    skipped: str = ""


def require_small(
    manifold: Manifold,
    name: str,
    error: Tensor,
    what: str,
    limit: float | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Raise :class:`LawError` if an error is above the tolerance of a law, or not a number.

    Args:
        manifold: the manifold under test.
        name: name of the law.
        error: non-negative errors, any shape.
        what: what was measured, with its unit.
        limit: tolerance; default the one of the table for the law and dtype.
        dtype: dtype that chooses the tolerance; default that of ``error``.
    """
    if error.numel() == 0:
        return
    limit = tolerance(name, dtype or error.dtype) if limit is None else limit
    worst = float(error.max())
    if not worst <= limit:  # NaN fails too
        raise LawError(
            f"{manifold} breaks {name}: {what} is {worst:.2e}, tolerance {limit:.0e} ({dtype or error.dtype})."
        )


def require_zero_mean(manifold: Manifold, name: str, samples: Tensor, what: str) -> None:
    """Raise :class:`LawError` if the mean of samples over the first axis is more than five standard errors from 0."""
    samples = samples.double().reshape(len(samples), -1)
    error = samples.std(0) / len(samples) ** 0.5
    z = samples.mean(0).abs() / error.clamp_min(1e-12)
    worst = float(z.max())
    if not worst <= Z_MAX:
        raise LawError(
            f"{manifold} breaks {name}: {what} is {worst:.1f} standard errors away from 0, tolerance {Z_MAX:.0f}."
        )


def require_mean(
    manifold: Manifold, name: str, samples: Tensor, what: str, resolution: float, expected: Tensor | float = 0.0
) -> None:
    """Require zero mean of ``samples - expected`` within five standard errors, which are below ``resolution``."""
    error = float(samples.std() / len(samples) ** 0.5)
    if not error <= resolution:
        raise LawError(f"{manifold}: {name} can't be seen: the standard error of {what} is {error:.1e}.")
    require_zero_mean(manifold, name, samples - expected, what)


def check_manifold(
    manifold: Manifold,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seed: int = 0,
    laws: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
) -> list[LawRecord]:
    """Check every law that applies to a manifold: its capability classes decide which do.

    The points come from ``random_uniform`` on a compact manifold and from ``exp(origin(), v)`` elsewhere; vectors stay
    below ``injectivity_radius`` where a law needs it.

    Args:
        manifold: the manifold under test, yours or a built-in one.
        dtypes: dtypes to check.
        seed: seed of the generators; each law has its own, so that a law fails alone as it fails among others.
        laws: names of the laws to check; default all of :data:`LAWS`.
        skip: names of laws that the manifold is known to break, each with the reason; their records carry it.

    Returns:
        One record per law and dtype.

    Raises:
        LawError: if a law does not hold; the message lists all that don't.
        CapabilityError: if a name of ``laws`` or ``skip`` is unknown, or a reason is missing.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.testing import check_manifold
        >>> [record.law for record in check_manifold(Sphere(2), laws=["exp_log_inverse"])]
        ['exp_log_inverse', 'exp_log_inverse']
    """
    return check_laws(LAWS, manifold, dtypes, seed, laws, skip)


def check_laws(
    registry: dict[str, Law],
    manifold: Manifold,
    dtypes: Sequence[torch.dtype],
    seed: int,
    laws: Sequence[str] | None,
    skip: Mapping[str, str] | None,
) -> list[LawRecord]:
    """Check the laws of a registry; see :func:`check_manifold`."""
    skip = skip or {}
    unknown = sorted((set(laws or ()) | set(skip)) - set(registry))
    if unknown:
        raise CapabilityError(f"There are no laws {unknown}; there are {sorted(registry)}.")
    silent = sorted(name for name, reason in skip.items() if not reason.strip())
    if silent:
        raise CapabilityError(f"A law is skipped for a reason: give one for {silent}.")
    records = []
    for dtype in dtypes:
        for entry in registry.values():
            if entry.applies(manifold, dtype) and (laws is None or entry.name in laws):
                if entry.name in skip:
                    records.append(LawRecord(entry.name, dtype, False, 0.0, skipped=skip[entry.name]))
                else:
                    records.append(_run(entry, manifold, dtype, seed))
    failures = [r for r in records if not (r.passed or r.skipped)]
    if failures:
        lines = "\n".join(f"  {r.law} ({str(r.dtype).removeprefix('torch.')}): {r.message}" for r in failures)
        raise LawError(f"{manifold} breaks {len(failures)} of {len(records)} laws:\n{lines}")
    return records


def _run(entry: Law, manifold: Manifold, dtype: torch.dtype, seed: int) -> LawRecord:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + zlib.crc32(entry.name.encode()))
    start = time.perf_counter()
    try:
        entry.check(manifold, dtype, generator)
        message = ""
    except LawError as error:
        message = str(error)
    except Exception as error:  # a method that raises breaks the law too, and must not hide the other failures
        message = f"{type(error).__name__}: {error}"
    return LawRecord(entry.name, dtype, not message, time.perf_counter() - start, message)
