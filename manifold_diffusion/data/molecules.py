"""Structures and trajectories of proteins, read by MDAnalysis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._errors import ConfigError, DataError
from ..manifolds import SE3N
from .backbone import frames_from_atoms

__all__ = ["ProteinTransition", "load_adenylate_kinase", "read_backbone"]


@dataclass(frozen=True, eq=False)
class ProteinTransition:
    """Two states of a protein and recordings of how it goes from one to the other.

    Attributes:
        manifold: ``SE3N(n_residues)``; translations in ångströms.
        first: frames of the first state, ``(n_residues, 12)``.
        last: frames of the last state, ``(n_residues, 12)``.
        recordings: frames of each recording in the order of time from first to last, ``(n_frames, n_residues, 12)``.
        source: where they come from, to cite.
    """

    manifold: SE3N
    first: Tensor
    last: Tensor
    recordings: tuple[Tensor, ...]
    source: str


def read_backbone(universe: Any, selection: str = "protein") -> Tensor:
    """Backbone atoms of all frames of a trajectory.

    Args:
        universe: an ``MDAnalysis.Universe``.
        selection: which residues, in the language of MDAnalysis; each must have one N, one CA and one C.

    Returns:
        Positions of N, CA and C in ångströms, ``(n_frames, n_residues, 3, 3)``, float64.

    Raises:
        DataError: if the selection is empty, or a residue does not have these three atoms once each.
    """
    residues = universe.select_atoms(selection).residues
    if len(residues) == 0:
        raise DataError(f"The selection {selection!r} has no residue. Try selection='all'.")
    index = []
    for residue in residues:
        for name in ("N", "CA", "C"):
            found = [atom.index for atom in residue.atoms if atom.name == name]
            if len(found) != 1:
                raise DataError(
                    f"Residue {residue.resname} {residue.resid} has {len(found)} atoms named {name}; expected 1. Leave "
                    "it out by the selection, or choose one of its alternate locations."
                )
            index += found
    frames = [torch.tensor(step.positions[index], dtype=torch.float64) for step in universe.trajectory]
    return torch.stack(frames).reshape(len(frames), len(residues), 3, 3)


def load_adenylate_kinase() -> ProteinTransition:
    """Adenylate kinase from open (4AKE) to closed (1AKE), from the test data of MDAnalysis.

    214 residues; both crystal structures, and two recordings of 98 and 102 frames by dynamic importance sampling
    (DIMS): molecular dynamics that is pushed from one structure to the other, neither at equilibrium nor with physical
    times. They were run from closed to open; here their order is reversed.

    Raises:
        ConfigError: if MDAnalysis or MDAnalysisTests is missing (``pip install 'manifold-diffusion[molecules]'``).

    References:
        Beckstein, Denning, Perilla and Woolf, *Zipping and unzipping of adenylate kinase*, 2009, J. Mol. Biol. 394, 160
        (first recording); Seyler, Kumar, Thorpe and Beckstein, *Path similarity analysis*, 2015, PLoS Comput. Biol. 11,
        e1004568 (second recording); Gowers et al., *MDAnalysis*, 2016, Proc. 15th Python in Science Conf., 98.
    """
    try:
        import MDAnalysis as library  # pyright: ignore[reportMissingImports]
        from MDAnalysisTests import datafiles as files  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"load_adenylate_kinase needs MDAnalysis and its test data: {error}. Install them: pip install "
            "'manifold-diffusion[molecules]'."
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a PDB file without elements, and of times that a DCD file does not tell
        read = [
            frames_from_atoms(read_backbone(library.Universe(*paths)))
            for paths in (
                [files.PDB_small],
                [files.PDB_closed],
                [files.PSF, files.DCD],
                [files.PSF, files.DCD2],
            )
        ]
    source = f"MDAnalysisTests {library.__version__} (4AKE, 1AKE, DIMS), https://www.mdanalysis.org"
    opened, closed, *runs = read
    return ProteinTransition(SE3N(opened.shape[1]), opened[0], closed[0], tuple(x.flip(0) for x in runs), source)
