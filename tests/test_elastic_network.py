"""Elastic networks: energies of the loop, forces of autograd, rigid motions, and strings between symmetric states."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.data import atoms_from_frames
from manifold_diffusion.manifolds import SE3, SE3N, SO3
from manifold_diffusion.models import ElasticNetwork
from manifold_diffusion.solvers import DiffusionString, GeodesicEuler

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(n: int = 6, count: int = 2, spread: float = 0.15) -> Tensor:
    """Similar structures: a helix of CA with random rotations, moved a little."""
    M, k = SE3N(n), torch.arange(n, dtype=F64)
    p = torch.stack([2.3 * (1.75 * k).cos(), 2.3 * (1.75 * k).sin(), 1.5 * k], -1)
    x = M.join(SO3().random_uniform(n, generator=seeded(1), dtype=F64), p).expand(count, n, 12)
    return M.exp(x, spread * M.random_tangent(x, generator=seeded(2)))


def near(x: Tensor, size: float = 0.1, seed: int = 3) -> Tensor:
    M = SE3N(x.shape[-2])
    return M.exp(x, size * M.random_tangent(x, generator=seeded(seed)))


def test_energies_are_those_of_the_loop() -> None:
    x, cutoff, stiffness = states(), 6.0, 1.7
    network = ElasticNetwork(SE3N(6), x, cutoff, stiffness, mixing=0.8)
    y = near(x[0])
    atoms = atoms_from_frames(y).reshape(-1, 3)
    expected = []
    for state in atoms_from_frames(x):
        rest, total = state.reshape(-1, 3), 0.0
        for i in range(18):
            for j in range(i + 1, 18):
                length = float((rest[i] - rest[j]).norm())
                if i // 3 != j // 3 and length < cutoff:
                    total += stiffness / 2 * (float((atoms[i] - atoms[j]).norm()) - length) ** 2
        expected.append(total)
    assert torch.allclose(network.energies(y), torch.tensor(expected, dtype=F64), rtol=1e-10)
    mixed = -0.8 * math.log(sum(math.exp(-e / 0.8) for e in expected))
    assert abs(float(network.energy(y)) - mixed) < 1e-10


def test_the_score_is_the_gradient() -> None:
    M, x = SE3N(6), states()
    network = ElasticNetwork(M, x, mixing=3.0)
    y = near(x)
    score = network.score(y)
    M.check_tangent(y, score, "score")
    v = M.random_tangent(y, generator=seeded(4))
    _, slope = torch.func.jvp(lambda s: network.energy(M.exp(y, s * v)), (y.new_zeros(()),), (y.new_ones(()),))
    assert torch.allclose(-M.inner(y, score, v), slope, rtol=1e-9)
    assert not torch.allclose(M.inner(y, score, v), slope, rtol=0.1)
    assert torch.allclose(score[1], network.score(y[1]), atol=1e-12)  # a batch is the loop
    single = network.score(y.float())
    assert single.dtype == torch.float32
    assert float((single - score).abs().max()) < 1e-4 * float(score.abs().max())


def test_states_are_at_rest() -> None:
    x = states()
    one = ElasticNetwork(SE3N(6), x[:1])
    assert float(one.energy(x[0])) < 1e-20 and float(one.score(x[0]).abs().max()) < 1e-12
    assert float(one.energy(x[1])) > 0.1
    two = ElasticNetwork(SE3N(6), x, mixing=1e-3)
    assert float(two.energy(x).abs().max()) < 1e-9


def test_rigid_motions_cost_nothing() -> None:
    M, pose, x = SE3N(6), SE3(), states()
    network = ElasticNetwork(M, x)
    g = pose.join(SO3().random_uniform(1, generator=seeded(5), dtype=F64)[0], torch.tensor([1.0, -2.0, 3.0], dtype=F64))
    y = near(x[0], 0.3)
    assert torch.allclose(network.energy(pose.compose(g, y)), network.energy(y), rtol=1e-12)
    turn, (a, f) = pose.split(g)[0], M.split(network.score(y))
    assert torch.allclose(network.score(pose.compose(g, y)), M.join(turn @ a, f @ turn.mT), atol=1e-10)
    w = SO3.hat(torch.tensor([0.3, -0.5, 0.2], dtype=F64))
    r, p = M.split(y)
    rotation = M.join(w @ r, p @ w.mT)  # the velocity of a rotation of everything
    assert abs(float(M.inner(y, network.score(y), rotation))) < 1e-10


def test_atoms_that_meet_have_a_finite_score() -> None:
    M, x = SE3N(2), states(2, 1)
    network = ElasticNetwork(M, x)
    y = x[0, [0, 0]]
    assert bool(network.score(y).isfinite().all()) and float(network.energy(y)) > 0


def test_a_string_between_states_that_a_symmetry_exchanges_is_symmetric() -> None:
    """A half turn of the chain read backwards exchanges the states: the profile is its mirror image."""
    M, pose = SE3N(6), SE3()
    half_turn = pose.join(torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=F64)), torch.zeros(3, dtype=F64))

    def exchanged(x: Tensor) -> Tensor:
        return pose.compose(half_turn, x).flip(-2)

    start = states(6, 1)[0]
    start = torch.cat([start[:3], exchanged(start)[3:]])
    assert torch.allclose(exchanged(start), start)
    a = M.exp(start, 0.3 * M.random_tangent(start, generator=seeded(6)))
    ends = torch.stack([a, exchanged(a)])
    network = ElasticNetwork(M, ends, cutoff=20.0, mixing=2.0)
    string = DiffusionString(
        M, score=lambda t, x: network.score(x), log_prob=lambda x: -network.energy(x), solver=GeodesicEuler()
    )
    path = string.relax(ends, step=0.02, n_nodes=15, max_iterations=200, tolerance=1e-4)
    assert path.energy is not None and path.saddle is not None and path.spacing < 1e-4
    barrier = path.saddle.barriers[0]
    assert float((path.energy - path.energy.flip(0)).abs().max()) < 1e-4 * barrier
    assert abs(path.saddle.position - 7) < 1e-3
    straight = network.energy(M.geodesic(*ends.unsqueeze(1).expand(2, 15, 6, 12), torch.linspace(0, 1, 15, dtype=F64)))
    assert barrier < 0.99 * float(straight.max() - straight[0])  # the geodesic is no minimum-energy path


def test_bad_networks_are_refused() -> None:
    x = states()
    with pytest.raises(ConfigError, match="n_states"):
        ElasticNetwork(SE3N(6), x[0])
    with pytest.raises(ConfigError, match="cutoff > 0"):
        ElasticNetwork(SE3N(6), x, cutoff=-1.0)
    with pytest.raises(ManifoldError):
        ElasticNetwork(SE3N(6), 2 * x)
    with pytest.raises(ConfigError, match="coincide"):
        ElasticNetwork(SE3N(2), x[:1, [0, 0]])
    assert "springs of the states" in repr(ElasticNetwork(SE3N(6), x))
