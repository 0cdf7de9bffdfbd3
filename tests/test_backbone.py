"""Backbones: frames and atoms, superposition against roma and scipy, clashes and bonds of chains that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError
from manifold_diffusion.data import (
    atoms_from_frames,
    closest_approach,
    count_broken_bonds,
    count_clashes,
    frame_rmsd,
    frames_from_atoms,
    rmsd,
    superpose,
    superposition,
    transition_profile,
)
from manifold_diffusion.manifolds import SE3, SE3N, SO3

F64 = torch.float64
POSE = SE3()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chains(n: int, count: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Random frames with any rotation, 4 Å from each other."""
    r = SO3().random_uniform(n * count, generator=seeded(seed), dtype=F64).reshape(count, n, 3, 3)
    return POSE.join(r, 4 * torch.randn(count, n, 3, generator=seeded(seed + 1), dtype=F64)).to(dtype)


def motion(seed: int = 7, dtype: torch.dtype = F64) -> Tensor:
    return chains(1, 1, seed, dtype)[0, 0]


def moved(g: Tensor, x: Tensor) -> Tensor:
    r, p = POSE.split(g)
    return x @ r.mT + p


def helix(n: int) -> Tensor:
    """CA atoms of an alpha helix: 100 degrees and 1.5 Å per residue, radius 2.3 Å."""
    turn = torch.arange(n, dtype=F64) * math.radians(100)
    return torch.stack([2.3 * turn.cos(), 2.3 * turn.sin(), 1.5 * torch.arange(n, dtype=F64)], -1)


# ------------------------------------------------------------------ frames and atoms


@pytest.mark.parametrize(("dtype", "error"), [(F64, 1e-13), (torch.float32, 2e-6)])
def test_frames_make_atoms_that_make_the_frames(dtype: torch.dtype, error: float) -> None:
    x = chains(50, 4, dtype=dtype)
    back = frames_from_atoms(atoms_from_frames(x))
    SE3N(50).check_point(back, "back")
    assert back.dtype == dtype
    assert float((back - x).abs().max()) < error * float(x.abs().max())


def test_atoms_have_ideal_geometry() -> None:
    n, ca, c = atoms_from_frames(chains(30, 2)).unbind(-2)
    assert torch.allclose((n - ca).norm(dim=-1), torch.tensor(1.459, dtype=F64))
    assert torch.allclose((c - ca).norm(dim=-1), torch.tensor(1.525, dtype=F64))
    cosine = ((n - ca) * (c - ca)).sum(-1) / (1.459 * 1.525)
    assert torch.allclose(cosine.acos().rad2deg(), torch.tensor(111.0, dtype=F64))


def test_frames_move_with_the_atoms_and_not_with_a_mirror() -> None:
    atoms, g = torch.randn(3, 20, 3, 3, generator=seeded(), dtype=F64), motion()
    x = frames_from_atoms(atoms)
    assert torch.allclose(frames_from_atoms(moved(g, atoms)), POSE.compose(g, x), atol=1e-12)
    mirrored = frames_from_atoms(-atoms)
    assert float(torch.det(POSE.split(mirrored)[0]).min()) > 0.999
    assert not torch.allclose(mirrored, -x, atol=0.1)


def test_the_frame_of_the_docstring() -> None:
    """e1 points to C, N is in the half-plane of e2, whatever the bond lengths."""
    r, p = POSE.split(frames_from_atoms(torch.tensor([[[-3.0, 5.0, 1.0], [1.0, 1.0, 1.0], [9.0, 1.0, 1.0]]])))
    assert torch.equal(p, torch.ones(1, 3))
    assert torch.allclose(r[0], torch.eye(3))


@pytest.mark.parametrize(
    "residue", [[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[1.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[math.nan, 0, 0]] * 3]
)
def test_a_residue_without_a_frame_is_named(residue: list[list[float]]) -> None:
    atoms = torch.randn(5, 3, 3, generator=seeded())
    atoms[3] = torch.tensor(residue)
    with pytest.raises(DataError, match="1 of 5 residues have no frame, first at residue 3"):
        frames_from_atoms(atoms)


# ------------------------------------------------------------------ superposition


def test_superposition_is_that_of_roma_and_scipy() -> None:
    roma, rotation = pytest.importorskip("roma"), pytest.importorskip("scipy.spatial.transform").Rotation
    a, b = (torch.randn(6, 40, 3, generator=seeded(k), dtype=F64) + k for k in (1, 2))
    r, p = POSE.split(superposition(a, b))
    their_r, their_p = roma.rigid_points_registration(a, b)
    assert torch.allclose(r, their_r, atol=1e-10) and torch.allclose(p, their_p, atol=1e-10)
    for k in range(len(a)):
        x, y = (np.asarray(v[k] - v[k].mean(0)) for v in (a, b))
        _, distance = rotation.align_vectors(y, x)
        assert abs(float(rmsd(a[k], b[k])) - distance / math.sqrt(40)) < 1e-10


@pytest.mark.parametrize(("dtype", "error"), [(F64, 1e-12), (torch.float32, 1e-5)])
def test_a_motion_is_found(dtype: torch.dtype, error: float) -> None:
    x, g = chains(30, 2, dtype=dtype), motion(dtype=dtype)
    found = superposition(x[..., 9:], moved(g, x[..., 9:]))
    assert float((found - g).abs().max()) < error * 10
    assert float(frame_rmsd(x, POSE.compose(g, x)).max()) < error * 10
    assert float((superpose(POSE.compose(g, x), x) - x).abs().max()) < error * 20


def test_a_mirror_image_is_not_superposed_by_a_reflection() -> None:
    a = torch.randn(30, 3, generator=seeded(), dtype=F64)
    r, _ = POSE.split(superposition(a, -a))
    assert abs(float(torch.det(r)) - 1) < 1e-12
    assert float(rmsd(a, -a)) > 0.5  # a reflection would give zero


def test_no_other_motion_is_better() -> None:
    a, b = (torch.randn(12, 3, generator=seeded(k), dtype=F64) for k in (1, 2))
    best = superposition(a, b)
    tangent = POSE.random_tangent(best.expand(200, 12), generator=seeded(3))
    others = POSE.exp(best, 0.05 * tangent)
    r, p = POSE.split(others)
    distance = (a @ r.mT + p.unsqueeze(-2) - b).square().sum(-1).mean(-1).sqrt()
    assert float(distance.min()) > float(rmsd(a, b))


def test_points_on_a_line_have_a_rotation() -> None:
    line = torch.arange(5.0)[:, None] * torch.eye(3)[0]
    assert float(rmsd(line, 2 + line @ torch.eye(3).roll(1, 0))) < 1e-6
    same = torch.ones(4, 3)
    assert bool(superposition(same, same).isfinite().all()) and float(rmsd(same, same)) == 0


def test_all_pairs_are_the_loop() -> None:
    x, y = chains(9, 4), chains(9, 3, seed=5)
    table = frame_rmsd(x.unsqueeze(1), y)
    assert table.shape == (4, 3)
    assert torch.allclose(table[2, 1], frame_rmsd(x[2], y[1]))


def test_bad_structures_are_refused() -> None:
    a = torch.zeros(4, 3)
    with pytest.raises(DataError, match="4 points and b 5"):
        superposition(a, torch.zeros(5, 3))
    with pytest.raises(DataError, match="not finite"):
        rmsd(a, a + math.nan)
    with pytest.raises(DataError, match=r"\(\*batch, n, 3\)"):
        rmsd(a[0], a)
    with pytest.raises(DataError, match=r"12\): points of SE3N"):
        atoms_from_frames(torch.zeros(4, 11))
    with pytest.raises(DataError, match="points of SE3N"):
        frame_rmsd(a, a)


# ------------------------------------------------------------------ clashes and bonds


def test_a_helix_is_sound() -> None:
    ca = helix(40)
    assert int(count_clashes(ca)) == 0 and int(count_broken_bonds(ca)) == 0
    assert abs(float(closest_approach(ca)) - float((ca[3] - ca[0]).norm())) < 1e-12
    two = torch.cat([ca, ca + torch.tensor([3.0, 0.0, 0.0], dtype=F64)])  # another helix through it
    assert int(count_clashes(two)) >= 40
    assert int(count_broken_bonds(two)) == 1  # from the end of the first to the start of the second


def test_clashes_are_those_of_the_loop() -> None:
    ca = 2 * torch.randn(3, 25, 3, generator=seeded(), dtype=F64).cumsum(-2)
    for below, apart in ((3.6, 3), (5.0, 1)):
        pairs = [(i, j) for i in range(25) for j in range(i + apart, 25)]
        for k in range(3):
            d = torch.stack([(ca[k, i] - ca[k, j]).norm() for i, j in pairs])
            assert int(count_clashes(ca, below, apart)[k]) == int((d < below).sum()) > 0
            assert torch.allclose(closest_approach(ca, apart)[k], d.min())


def test_bonds_are_trans_or_cis() -> None:
    lengths = torch.tensor([3.8, 3.45, 4.15, 2.95, 2.6, 3.3, 4.25, 2.5, 0.0])
    ca = torch.cat([torch.zeros(1), lengths.cumsum(0)])[:, None] * torch.eye(3)[0]
    assert int(count_broken_bonds(ca)) == 3
    assert int(count_broken_bonds(ca, 0.1)) == 7
    assert int(count_broken_bonds(torch.full((3, 3), math.nan))) == 2


def test_bad_thresholds_are_refused() -> None:
    with pytest.raises(ConfigError, match="below > 0"):
        count_clashes(helix(5), below=0.0)
    with pytest.raises(ConfigError, match="apart >= 1"):
        closest_approach(helix(5), apart=0)
    with pytest.raises(ConfigError, match="tolerance > 0"):
        count_broken_bonds(helix(5), 0.0)
    assert float(closest_approach(helix(3))) == math.inf


# ------------------------------------------------------------------ transitions


def test_the_profile_of_a_known_path() -> None:
    """A helix that is stretched along its axis, once straight on and once with a step back."""
    M, axis = SE3N(12), torch.tensor([1.0, 1.0, 0.0], dtype=F64)
    stretched = [
        POSE.join(torch.eye(3, dtype=F64).expand(12, 3, 3), helix(12) * (axis + a * torch.eye(3, dtype=F64)[2]))
        for a in (1.0, 1.1, 1.2, 1.3)
    ]
    x = torch.stack(stretched)
    p = transition_profile(x, x[0], x[-1])
    assert torch.allclose(p.share, torch.arange(4, dtype=F64) / 3)
    assert p.setback == 0 and float(p.to_last[-1]) < 1e-6 and torch.allclose(p.to_first, p.to_last.flip(0), atol=0.05)
    back = transition_profile(x[[0, 2, 1, 3]], x[0], x[-1])
    assert abs(back.setback - float(p.to_last[1] - p.to_last[2])) < 1e-9 and back.setback > 0.1
    turned = POSE.compose(motion(), x)
    assert torch.allclose(transition_profile(turned, x[0], x[-1]).to_last, p.to_last, atol=1e-6)
    with pytest.raises(DataError, match="at least 2 frames"):
        transition_profile(x[:1], x[0], x[-1])
    with pytest.raises(ManifoldError):
        transition_profile(x, x[0][:5], x[-1])
    assert M.dist(x[0], x[1]) > 0
