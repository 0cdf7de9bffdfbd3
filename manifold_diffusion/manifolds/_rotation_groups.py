"""The finite groups of rotations of space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ConfigError
from .so3 import rotation

__all__ = ["rotation_group"]


def rotation_group(name: str) -> Tensor:
    r"""A finite group of rotations, ``(k, 3, 3)`` in float64, the identity first.

    ``"cyclic:n"`` (n rotations about z), ``"dihedral:n"`` (2n: these and half turns about x and its images),
    ``"tetrahedral"`` (12, with half turns about the coordinate axes), ``"octahedral"`` (24, signed permutations) and
    ``"icosahedral"`` (60, with half turns about the coordinate axes and a fivefold axis in the yz-plane). Up to
    conjugation these are all finite groups of rotations.

    Raises:
        ConfigError: for another name or a bad n.

    Example:
        >>> rotation_group("octahedral").shape, rotation_group("dihedral:3").shape
        (torch.Size([24, 3, 3]), torch.Size([6, 3, 3]))
    """
    kind, _, number = name.partition(":")
    cycle = [[1.0, 1.0, 1.0], 2 * math.pi / 3]
    golden = (1 + math.sqrt(5)) / 2
    generators: dict[str, list[list]] = {
        "tetrahedral": [cycle, [[0.0, 0.0, 1.0], math.pi]],
        "octahedral": [cycle, [[0.0, 0.0, 1.0], math.pi / 2]],
        "icosahedral": [cycle, [[0.0, 1.0, golden], 2 * math.pi / 5]],
    }
    if kind in ("cyclic", "dihedral"):
        if not number.isdigit() or int(number) < 1:
            raise ConfigError(f"The {kind} group needs its order n >= 1, as in '{kind}:4'; got {name!r}.")
        turns = [[[0.0, 0.0, 1.0], 2 * math.pi * k / int(number)] for k in range(int(number))]
        group = _rotations(turns)
        return torch.cat([group, group @ _rotations([[[1.0, 0.0, 0.0], math.pi]])]) if kind == "dihedral" else group
    if name not in generators:
        known = "cyclic:n, dihedral:n, tetrahedral, octahedral, icosahedral"
        raise ConfigError(f"There is no rotation group {name!r}; there are {known}.")
    return _generated(_rotations(generators[name]))


def _rotations(turns: list[list]) -> Tensor:
    axes = torch.tensor([axis for axis, _ in turns], dtype=torch.float64)
    angles = torch.tensor([angle for _, angle in turns], dtype=torch.float64)
    return rotation(angles.unsqueeze(-1) * axes / axes.norm(dim=-1, keepdim=True))


def _generated(generators: Tensor) -> Tensor:
    """All products of some rotations."""
    group = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    while True:
        products = (group.unsqueeze(1) @ generators).flatten(0, 1)
        fresh = [p for p in products if bool(((group - p).abs().amax((1, 2)) > 1e-8).all())]
        unique: list[Tensor] = []
        for p in fresh:
            if all(float((p - q).abs().max()) > 1e-8 for q in unique):
                unique.append(p)
        if not unique:
            return group
        group = torch.cat([group, torch.stack(unique)])
