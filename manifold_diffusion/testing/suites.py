"""All suites in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from .._errors import CapabilityError
from ..manifolds import Manifold
from .kernels import KERNEL_LAWS, check_heat_kernel, has_kernel
from .laws import LAWS, LawError, LawRecord, check_manifold
from .properties import PROPERTIES, check_properties

__all__ = ["check_all"]


def check_all(
    manifold: Manifold,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seed: int = 0,
    examples: int = 50,
    skip: Mapping[str, str] | None = None,
) -> list[LawRecord]:
    """The laws of geometry, those of the heat kernel if there is one, and hypothesis' search for counterexamples.

    Args:
        manifold: the manifold under test, yours or a built-in one.
        dtypes: dtypes to check.
        seed: seed of the laws' generators.
        examples: draws of hypothesis per property and dtype.
        skip: names of laws and properties that the manifold is known to break, each with the reason.

    Returns:
        One record per law or property and dtype; those skipped carry their reason.

    Raises:
        LawError: if anything does not hold; the message lists all of it.
        CapabilityError: if hypothesis isn't installed, a name is unknown, or a reason is missing.

    Example:
        >>> from manifold_diffusion.manifolds import Euclidean
        >>> from manifold_diffusion.testing import check_all
        >>> all(record.passed for record in check_all(Euclidean(2), examples=5))
        True
    """
    skip = skip or {}
    unknown = sorted(set(skip) - set(LAWS) - set(KERNEL_LAWS) - set(PROPERTIES))
    if unknown:
        raise CapabilityError(f"There are no laws or properties {unknown}.")

    def reasons(names: Mapping[str, object]) -> dict[str, str]:
        return {name: reason for name, reason in skip.items() if name in names}

    wanted = [name for name in PROPERTIES if name not in skip]
    suites: list[Callable[[], list[LawRecord]]] = [lambda: check_manifold(manifold, dtypes, seed, skip=reasons(LAWS))]
    if wanted:
        suites.append(lambda: check_properties(manifold, examples, dtypes, wanted))
    if has_kernel(manifold):
        suites.append(lambda: check_heat_kernel(manifold, dtypes, seed, skip=reasons(KERNEL_LAWS)))
    records, failures = [], []
    for suite in suites:
        try:
            records += suite()
        except LawError as error:
            failures.append(str(error))
    if failures:
        raise LawError("\n".join(failures))
    left_out = reasons(PROPERTIES).items()
    return records + [LawRecord(name, dtype, False, 0.0, skipped=why) for name, why in left_out for dtype in dtypes]
