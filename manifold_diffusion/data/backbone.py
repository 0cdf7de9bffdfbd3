"""Protein backbones as chains of rigid frames: atoms and frames, superposition, clashes and broken bonds."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import SE3, SO3

__all__ = [
    "atoms_from_frames",
    "closest_approach",
    "count_broken_bonds",
    "count_clashes",
    "frames_from_atoms",
    "rmsd",
    "superpose",
    "superposition",
]

_POSE = SE3()

_N_CA, _CA_C, _N_CA_C = 1.459, 1.525, math.radians(111.0)
"""Ideal bond lengths in angstroms and the angle between them (Engh and Huber 2001, all residues but Gly and Pro)."""

_THINNEST = 1e-3
"""Least sine of the angle at CA: below it the three atoms are taken to be on a line."""


def frames_from_atoms(atoms: Tensor) -> Tensor:
    r"""Frames of the residues of a backbone: the translation is CA, the rotation that of the plane N-CA-C.

    .. math:: e_1 = \frac{C - C_\alpha}{|C - C_\alpha|}, \quad
        e_2 \propto (N - C_\alpha) - \langle N - C_\alpha, e_1\rangle\, e_1, \quad e_3 = e_1 \times e_2, \qquad
        R = (e_1, e_2, e_3)

    It commutes with rigid motions g: the frames of :math:`g \cdot` atoms are ``SE3().compose(g, frames)``. Lengths may
    have any unit, which is then that of the translations. With ångströms the metric of ``SE3N`` is close to the mean
    square displacement of the backbone atoms, which are 1.5 Å from CA.

    Args:
        atoms: positions of N, CA and C, in this order, of each residue, ``(*batch, n_residues, 3, 3)``.

    Returns:
        Points of ``SE3N(n_residues)``, ``(*batch, n_residues, 12)``.

    Raises:
        DataError: if an atom is not finite, or the three atoms of a residue are on one line.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SE3N
        >>> atoms = torch.tensor([[[-0.5, 1.4, 0.0], [0.0, 0.0, 0.0], [1.5, 0.0, 0.0]]])
        >>> bool((frames_from_atoms(atoms) == SE3N(1).origin()).all())
        True

    References:
        Jumper et al., *Highly accurate protein structure prediction with AlphaFold*, 2021, Nature 596, 583 (frames).
    """
    _check_shape("atoms", atoms, (3, 3), "N, CA and C of each residue")
    n, ca, c = atoms.unbind(-2)
    first, second = c - ca, n - ca
    e1 = first / first.norm(dim=-1, keepdim=True)
    flat = second - (second * e1).sum(-1, keepdim=True) * e1
    height = flat.norm(dim=-1, keepdim=True)
    good = (height > _THINNEST * second.norm(dim=-1, keepdim=True)) & atoms.isfinite().all(-1).all(-1, keepdim=True)
    if not bool(good.all()):
        row = int((~good).reshape(-1).nonzero()[0])
        raise DataError(
            f"atoms: {int((~good).sum())} of {good.numel()} residues have no frame, first at residue {row} (counted "
            f"over all chains): N, CA, C = {atoms.reshape(-1, 3, 3)[row].tolist()} are not finite, coincide or are on "
            "one line. Leave such residues out."
        )
    e2 = flat / height
    return _POSE.join(torch.stack([e1, e2, torch.linalg.cross(e1, e2)], -1), ca)


def atoms_from_frames(x: Tensor) -> Tensor:
    """Backbone atoms of frames, with ideal bond lengths and angles.

    N-CA is 1.459 Å, CA-C 1.525 Å, and N-CA-C 111.0 degrees. ``frames_from_atoms`` gives the frames back; CA is exact,
    N and C of a measured structure move by a few hundredths of an ångström.

    Args:
        x: points of ``SE3N(n_residues)``, translations in ångströms, ``(*batch, n_residues, 12)``.

    Returns:
        Positions of N, CA and C in ångströms, ``(*batch, n_residues, 3, 3)``.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SE3N
        >>> atoms_from_frames(SE3N(4).origin()).norm(dim=-1)[0]
        tensor([1.4590, 0.0000, 1.5250])

    References:
        Engh and Huber, *Structure quality and target parameters*, 2001, Int. Tables for Crystallography F, 382.
    """
    _check_shape("x", x, (12,), "points of SE3N")
    r, p = _POSE.split(x)
    ideal = x.new_tensor(
        [[_N_CA * math.cos(_N_CA_C), _N_CA * math.sin(_N_CA_C), 0.0], [0.0, 0.0, 0.0], [_CA_C, 0.0, 0.0]]
    )
    return p.unsqueeze(-2) + ideal @ r.mT


def superposition(a: Tensor, b: Tensor) -> Tensor:
    r"""The rigid motion g that brings points nearest to others: the least :math:`\sum_i |g \cdot a_i - b_i|^2`.

    The rotation is the nearest one to the covariance (Kabsch): never a reflection. Where the points of a structure are
    on one line it is one of several.

    Args:
        a: positions to move, ``(*batch, n, 3)``.
        b: where to, ``(*batch, n, 3)``; batch shapes broadcast.

    Returns:
        Points of ``SE3()``, ``(*batch, 12)``.

    Raises:
        DataError: if the numbers of points differ, or a position is not finite.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SE3
        >>> a = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
        >>> SE3().split(superposition(a, a + 2.0))[1].round(decimals=4)
        tensor([2., 2., 2.])

    References:
        Kabsch, *A solution for the best rotation to relate two sets of vectors*, 1976, Acta Cryst. A 32, 922.
    """
    _check_shape("a", a, (3,), "positions")
    _check_shape("b", b, (3,), "positions")
    if a.shape[-2] != b.shape[-2]:
        raise DataError(f"a has {a.shape[-2]} points and b {b.shape[-2]}: give the same atoms of both structures.")
    for name, x in (("a", a), ("b", b)):
        if not bool(x.isfinite().all()):
            raise DataError(f"{name} has positions that are not finite. Leave those atoms out of both structures.")
    from_, to = a.mean(-2, keepdim=True), b.mean(-2, keepdim=True)
    rotation = SO3().project((b - to).mT @ (a - from_))
    return _POSE.join(rotation, to.squeeze(-2) - (rotation @ from_.mT).squeeze(-1))


def superpose(x: Tensor, target: Tensor) -> Tensor:
    """Frames moved as one rigid body, so that their CA atoms come nearest to those of other frames.

    Args:
        x: points of ``SE3N(n)``, ``(*batch, n, 12)``.
        target: points of ``SE3N(n)``; batch shapes broadcast.

    Returns:
        The moved frames.

    Raises:
        DataError: if the numbers of residues differ, or a translation is not finite.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SE3, SE3N
        >>> M, generator = SE3N(9), torch.Generator().manual_seed(0)
        >>> x = M.exp(M.origin(), M.random_tangent(M.origin(), generator))
        >>> quarter = torch.tensor([0.0, -1, 0, 1, 0, 0, 0, 0, 1, 5, 6, 7])  # a turn and a shift
        >>> bool(M.dist(superpose(SE3().compose(quarter, x), x), x) < 1e-4)
        True
    """
    _check_shape("x", x, (12,), "points of SE3N")
    _check_shape("target", target, (12,), "points of SE3N")
    g = superposition(_POSE.split(x)[1], _POSE.split(target)[1])
    return _POSE.compose(g.unsqueeze(-2), x)


def rmsd(a: Tensor, b: Tensor) -> Tensor:
    r"""Root-mean-square distance after superposition, :math:`\min_g \sqrt{\frac1n \sum_i |g \cdot a_i - b_i|^2}`.

    Args:
        a: positions, ``(*batch, n, 3)``.
        b: positions of the same atoms; batch shapes broadcast.

    Returns:
        ``(*batch,)``, in the unit of the positions.

    Raises:
        DataError: if the numbers of points differ, or a position is not finite.

    Example:
        >>> import torch
        >>> square = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
        >>> rmsd(2 * square, square.roll(1, 0))
        tensor(1.)
    """
    r, p = _POSE.split(superposition(a, b))
    moved = a @ r.mT + p.unsqueeze(-2)
    return (moved - b).square().sum(-1).mean(-1).sqrt()


def count_clashes(ca: Tensor, below: float = 3.6, apart: int = 3) -> Tensor:
    """Pairs of CA atoms that are too close, at least ``apart`` residues from each other along the chain.

    Args:
        ca: positions of CA in ångströms, ``(*batch, n, 3)``.
        below: a pair that is closer clashes.
        apart: nearer neighbours along the chain are not looked at.

    Returns:
        Number of pairs, ``(*batch,)``, int64.

    Raises:
        ConfigError: if ``below`` or ``apart`` is not positive.

    Example:
        A straight chain, and the same one folded back on itself.

        >>> import torch
        >>> chain = torch.arange(6)[:, None] * torch.tensor([3.8, 0.0, 0.0])
        >>> count_clashes(chain), count_clashes(torch.cat([chain, chain.flip(0) + torch.eye(3)[1]]))
        (tensor(0), tensor(5))
    """
    _check_shape("ca", ca, (3,), "positions of CA")
    if not below > 0:
        raise ConfigError(f"count_clashes needs below > 0, in ångströms; got {below}.")
    return (_distances(ca, apart) < below).sum((-2, -1))


def closest_approach(ca: Tensor, apart: int = 3) -> Tensor:
    """Least distance of two CA atoms that are at least ``apart`` residues from each other along the chain.

    Args:
        ca: positions of CA, ``(*batch, n, 3)``.
        apart: nearer neighbours along the chain are not looked at.

    Returns:
        ``(*batch,)``, infinite where the chain has no such pair.

    Raises:
        ConfigError: if ``apart`` is not positive.

    Example:
        >>> import torch
        >>> closest_approach(torch.arange(6)[:, None] * torch.tensor([3.8, 0.0, 0.0]))
        tensor(11.4000)
    """
    _check_shape("ca", ca, (3,), "positions of CA")
    return _distances(ca, apart).amin((-2, -1))


def _distances(ca: Tensor, apart: int) -> Tensor:
    """Distances of all pairs, infinite for those that are nearer along the chain, and once for each pair."""
    if apart < 1:
        raise ConfigError(f"A pair of CA atoms is apart >= 1 residues from each other; got apart={apart}.")
    distance = torch.cdist(ca, ca, compute_mode="donot_use_mm_for_euclid_dist")
    far = torch.ones(ca.shape[-2], ca.shape[-2], dtype=torch.bool, device=ca.device).triu(apart)
    return torch.where(far, distance, torch.inf)


def count_broken_bonds(ca: Tensor, tolerance: float = 0.4) -> Tensor:
    """Neighbours along the chain whose CA atoms are not at the distance of a peptide bond.

    A bond counts as whole within ``tolerance`` of 3.80 Å (trans) or of 2.95 Å (cis).

    Args:
        ca: positions of CA in ångströms, ``(*batch, n, 3)``.
        tolerance: in ångströms.

    Returns:
        Number of bonds, ``(*batch,)``, int64.

    Raises:
        ConfigError: if ``tolerance`` is not positive.

    Example:
        >>> import torch
        >>> count_broken_bonds(torch.tensor([0.0, 3.8, 7.6, 10.5, 15.5])[:, None] * torch.eye(3)[0])
        tensor(1)
    """
    _check_shape("ca", ca, (3,), "positions of CA")
    if not tolerance > 0:
        raise ConfigError(f"count_broken_bonds needs tolerance > 0, in ångströms; got {tolerance}.")
    length = (ca[..., 1:, :] - ca[..., :-1, :]).norm(dim=-1)
    off = torch.minimum((length - 3.80).abs(), (length - 2.95).abs())
    return (~(off <= tolerance)).sum(-1)


def _check_shape(name: str, x: Tensor, shape: tuple[int, ...], what: str) -> None:
    if x.dim() < 1 + len(shape) or x.shape[-len(shape) :] != shape or x.shape[-1 - len(shape)] < 1:
        raise DataError(
            f"{name} must have shape (*batch, n, {', '.join(map(str, shape))}): {what}; got {tuple(x.shape)}."
        )
