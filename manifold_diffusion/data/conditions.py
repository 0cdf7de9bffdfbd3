"""Conditions that may be absent."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import DataError

__all__ = ["mark_condition"]


def mark_condition(cond: Tensor, given: Tensor) -> Tensor:
    r"""A condition with one more column that says whether it is given: ``(c, 1)``, or zeros where it is not.

    The form in which one network serves the conditional and the unconditional law: it is built with ``cond_dim`` one
    larger than the condition. The column tells an absent condition from one whose values are zero.

    Args:
        cond: conditions, ``(*batch, cond_dim)``.
        given: whether each one is given, ``(*batch,)``, boolean.

    Returns:
        ``(*batch, cond_dim + 1)``.

    Raises:
        DataError: if the shapes don't match.

    Example:
        >>> import torch
        >>> mark_condition(torch.tensor([[0.5], [0.7]]), torch.tensor([True, False]))
        tensor([[0.5000, 1.0000],
                [0.0000, 0.0000]])
    """
    if given.shape != cond.shape[:-1] or cond.dim() == 0:
        raise DataError(
            f"given must have one entry per condition; got shape {tuple(given.shape)} for conditions of shape "
            f"{tuple(cond.shape)}."
        )
    mark = given.unsqueeze(-1)
    return torch.cat([torch.where(mark, cond, torch.zeros_like(cond)), mark.to(cond.dtype)], -1)
