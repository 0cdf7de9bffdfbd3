"""Tensors that outlive a call, and rows that are taken out of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ._errors import DataError

__all__ = ["kept_rows", "untracked", "version"]


@contextmanager
def untracked() -> Iterator[None]:
    """Context for what is kept or handed to NumPy: no ``torch.func`` transform, graph or inference mode has a part."""
    functorch = torch._C._DisableFuncTorch()  # pyright: ignore[reportAttributeAccessIssue]
    with functorch, torch.inference_mode(False), torch.no_grad():
        yield


def version(x: Tensor) -> int:
    """How often a tensor has been changed in place; of one of inference mode, which does not count, 0."""
    return 0 if x.is_inference() else x._version


def kept_rows(which: Tensor, n: int) -> Tensor:
    """Mask of the rows that stay when those of an index or mask go.

    Raises:
        DataError: if an index is out of range, or a mask has another length.
    """
    which = torch.as_tensor(which).cpu()
    if which.dtype == torch.bool:
        bad = which.shape != (n,)
    else:
        bad = which.is_floating_point() and which.numel() > 0
        which = which.long()  # of 8 bits it would be taken for a mask
        bad = bad or bool(((which < -n) | (which >= n)).any())
    if bad:
        raise DataError(f"which must be a mask of {n} entries, or indices below {n}; got {which.dtype}, {which.shape}.")
    kept = torch.ones(n, dtype=torch.bool)
    kept[which] = False
    return kept
