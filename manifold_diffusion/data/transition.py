"""What is read off a path of a protein from one state to another: progress, clashes, broken bonds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import DataError
from ..manifolds import SE3N
from .backbone import closest_approach, count_broken_bonds, count_clashes, rmsd

__all__ = ["TransitionProfile", "frame_rmsd", "transition_profile"]


@dataclass(frozen=True, eq=False)
class TransitionProfile:
    """Measures along a path of frames, each ``(n_frames,)``; lengths in ångströms, RMSD over CA after superposition.

    Attributes:
        share: part of the length of the path, in the metric of ``SE3N``, from 0 to 1.
        to_first: RMSD to the first state.
        to_last: RMSD to the last state.
        closest: least distance of two CA atoms three or more residues apart.
        clashes: number of such pairs below 3.6 Å.
        broken_bonds: number of neighbours whose CA atoms are not at the distance of a peptide bond.
    """

    share: Tensor
    to_first: Tensor
    to_last: Tensor
    closest: Tensor
    clashes: Tensor
    broken_bonds: Tensor

    @property
    def setback(self) -> float:
        """How far the path goes back: largest rise of the RMSD to the last state above its least value so far."""
        return float((self.to_last - self.to_last.cummin(0).values).max())


def transition_profile(x: Tensor, first: Tensor, last: Tensor) -> TransitionProfile:
    """Progress and soundness of a path between two states.

    Args:
        x: points of ``SE3N(n_residues)`` in their order, translations in ångströms, ``(n_frames, n_residues, 12)``.
        first: frames of the first state, ``(n_residues, 12)``.
        last: frames of the last state.

    Raises:
        DataError: if there are fewer than two frames, or another number of residues in a state.
        ManifoldError: if a point is not on the manifold.

    Example:
        A chain of three residues that is stretched until its bonds break.

        >>> import torch
        >>> M = SE3N(3)
        >>> p = torch.arange(3)[:, None] * torch.tensor([3.8, 0.0, 0.0])
        >>> x = torch.stack([M.join(torch.eye(3).expand(3, 3, 3), a * p) for a in (1.0, 1.1, 1.2)])
        >>> profile = transition_profile(x, x[0], x[-1])
        >>> profile.broken_bonds, profile.setback
        (tensor([0, 0, 2]), 0.0)
    """
    if x.dim() != 3 or len(x) < 2:
        raise DataError(f"x must have shape (n_frames, n_residues, 12) with at least 2 frames; got {tuple(x.shape)}.")
    M = SE3N(x.shape[1])
    for name, points in (("x", x), ("first", first), ("last", last)):
        M.check_point(points, name)
    length = torch.cat([x.new_zeros(1), M.dist(x[:-1], x[1:]).cumsum(0)])
    ca = M.split(x)[1]
    return TransitionProfile(
        length / length[-1],
        frame_rmsd(x, first),
        frame_rmsd(x, last),
        closest_approach(ca),
        count_clashes(ca),
        count_broken_bonds(ca),
    )


def frame_rmsd(x: Tensor, y: Tensor) -> Tensor:
    """RMSD of the CA atoms of frames after superposition, in the unit of the translations.

    Args:
        x: points of ``SE3N(n)``, ``(*batch, n, 12)``.
        y: points of ``SE3N(n)``; batch shapes broadcast, so that ``x.unsqueeze(1)`` gives all pairs.

    Example:
        >>> import torch
        >>> x = SE3N(5).origin()
        >>> frame_rmsd(x, x)
        tensor(0.)
    """
    if x.shape[-1:] != (12,) or y.shape[-1:] != (12,):
        raise DataError(f"x and y must be points of SE3N, (*batch, n, 12); got {tuple(x.shape)} and {tuple(y.shape)}.")
    return rmsd(x[..., 9:], y[..., 9:])
