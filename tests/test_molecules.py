"""Proteins that MDAnalysis reads: adenylate kinase against MDAnalysis's own numbers, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.data import (
    ProteinTransition,
    atoms_from_frames,
    frame_rmsd,
    frames_from_atoms,
    load_adenylate_kinase,
    read_backbone,
    transition_profile,
)

LIBRARY = "needs pip install 'manifold-diffusion[molecules]'"


class Universe:
    """What :func:`read_backbone` uses of a universe: residues of named atoms, and two frames of positions."""

    def __init__(self, names: list[list[str]]) -> None:
        numbers = iter(range(sum(map(len, names))))
        self.residues = [
            SimpleNamespace(resname="ALA", resid=k, atoms=[SimpleNamespace(name=a, index=next(numbers)) for a in atoms])
            for k, atoms in enumerate(names)
        ]
        generator = np.random.default_rng(0)
        count = sum(map(len, names))
        self.trajectory = [SimpleNamespace(positions=generator.normal(size=(count, 3))) for _ in range(2)]

    def select_atoms(self, selection: str) -> Any:
        return SimpleNamespace(residues=self.residues if selection == "protein" else [])


def test_atoms_are_put_in_order() -> None:
    universe = Universe([["O", "C", "CA", "N"], ["N", "H", "CA", "CB", "C"]])
    atoms = read_backbone(universe)
    assert atoms.shape == (2, 2, 3, 3) and atoms.dtype == torch.float64
    expected = universe.trajectory[1].positions[[3, 2, 1, 4, 6, 8]].reshape(2, 3, 3)
    assert np.array_equal(atoms[1].numpy(), expected)


def test_an_incomplete_residue_is_named() -> None:
    with pytest.raises(DataError, match="Residue ALA 1 has 0 atoms named CA"):
        read_backbone(Universe([["N", "CA", "C"], ["N", "C"]]))
    with pytest.raises(DataError, match="has 2 atoms named C;"):
        read_backbone(Universe([["N", "CA", "C", "C"]]))
    with pytest.raises(DataError, match="no residue"):
        read_backbone(Universe([["N", "CA", "C"]]), "nucleic")


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(ConfigError, match=r"pip install 'manifold-diffusion\[molecules\]'"):
        load_adenylate_kinase()


@pytest.fixture(scope="module")
def protein() -> ProteinTransition:
    pytest.importorskip("MDAnalysis", reason=LIBRARY)
    pytest.importorskip("MDAnalysisTests", reason=LIBRARY)
    return load_adenylate_kinase()


def test_adenylate_kinase(protein: ProteinTransition) -> None:
    assert protein.manifold.n_residues == 214
    assert [x.shape for x in protein.recordings] == [(98, 214, 12), (102, 214, 12)]
    for x in protein.recordings:
        protein.manifold.check_point(x, "recording")
        p = transition_profile(x, protein.first, protein.last)
        assert float(p.to_first[0]) < 0.6 and float(p.to_last[-1]) < 0.6  # from the first state to the last
        assert p.setback < 0.1 and int(p.clashes.max()) == 0 and int(p.broken_bonds.max()) == 0
        backwards = transition_profile(x.flip(0), protein.first, protein.last)
        assert backwards.setback > 6  # the control


def test_rmsd_is_that_of_mdanalysis(protein: ProteinTransition) -> None:
    from MDAnalysis.analysis.rms import rmsd  # pyright: ignore[reportMissingImports]

    first, last = protein.first[:, 9:], protein.last[:, 9:]
    assert abs(float(frame_rmsd(protein.first, protein.last)) - rmsd(first, last, superposition=True)) < 1e-5
    run = protein.recordings[0]
    ours = frame_rmsd(run, protein.last)
    theirs = [rmsd(x, last, superposition=True) for x in run[..., 9:]]
    assert float((ours - torch.tensor(theirs)).abs().max()) < 1e-5
    assert rmsd(first, last, superposition=False) > 7  # the control: without superposition another number


def test_ideal_atoms_are_near_the_measured_ones(protein: ProteinTransition) -> None:
    from MDAnalysis import Universe as Read  # pyright: ignore[reportMissingImports]
    from MDAnalysisTests.datafiles import PDB_small  # pyright: ignore[reportMissingImports]

    atoms = read_backbone(Read(PDB_small))[0]
    frames = frames_from_atoms(atoms)
    assert torch.equal(frames, protein.first)
    away = (atoms_from_frames(frames) - atoms).norm(dim=-1)
    assert float(away[:, 1].max()) == 0 and float(away.max()) < 0.25 and float(away.mean()) < 0.05
