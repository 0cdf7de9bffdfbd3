"""Batches in a reproducible order, splits, and points that are refused before training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import CheckpointError, ConfigError, DataError, ManifoldError
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.training import EvaluationLoader, ManifoldDataModule, TrainingLoader

from .runs import assert_same, make_network, run, sphere_points


def test_loader_uses_every_point_equally_often():
    loader = TrainingLoader(torch.arange(10.0)[:, None], batch_size=4, seed=0)
    seen = torch.cat([batch.x for _ in range(5) for batch in loader]).flatten().long()
    assert torch.equal(seen.bincount(), torch.full((10,), 4))


def test_loader_shuffles_anew_in_every_pass():
    loader = TrainingLoader(torch.arange(100.0)[:, None], batch_size=100, seed=0)
    first, second = next(iter(loader)).x, next(iter(loader)).x
    assert not torch.equal(first, second) and torch.equal(first.sort(0).values, second.sort(0).values)


def test_loader_makes_full_batches_of_a_small_data_set():
    loader = TrainingLoader(torch.arange(3.0)[:, None], batch_size=8)
    assert len(loader) == 1 and next(iter(loader)).x.shape == (8, 1)


def test_processes_share_the_joint_batch():
    points = torch.arange(32.0)[:, None]
    joint = TrainingLoader(points, batch_size=8, seed=3)
    ranks = [TrainingLoader(points, batch_size=8, seed=3, rank=r, world_size=2) for r in (0, 1)]
    for whole, left, right in zip(joint, *ranks, strict=True):
        assert torch.equal(whole.x, torch.cat([left.x, right.x]))


def test_loader_continues_at_its_position():
    points = torch.arange(32.0)[:, None]
    whole = list(TrainingLoader(points, batch_size=8, seed=3, steps_per_epoch=7))
    first = TrainingLoader(points, batch_size=8, seed=3, steps_per_epoch=7)
    iterator = iter(first)
    for _ in range(3):
        next(iterator)
    second = TrainingLoader(points, batch_size=8, seed=3, steps_per_epoch=7)
    second.load_state_dict(first.state_dict())
    rest = list(second)
    assert len(rest) == 4
    assert_same([batch.x for batch in rest], [batch.x for batch in whole[3:]])


def test_loader_of_other_data_refuses_a_position():
    state = TrainingLoader(torch.zeros(10, 1), batch_size=4).state_dict()
    with pytest.raises(CheckpointError, match="n_points=10, this run has n_points=11"):
        TrainingLoader(torch.zeros(11, 1), batch_size=4).load_state_dict(state)


def test_batch_size_must_divide_among_processes():
    with pytest.raises(ConfigError, match="multiple of the number of processes, 3"):
        TrainingLoader(torch.zeros(10, 1), batch_size=4, rank=0, world_size=3)


def test_evaluation_loader_gives_each_point_once_in_order():
    points = torch.arange(10.0)[:, None]
    loader = EvaluationLoader(points, batch_size=4)
    assert len(loader) == 3 and torch.equal(torch.cat([batch.x for batch in loader]), points)


def test_split_is_deterministic_and_disjoint():
    def parts(seed: int) -> list[torch.Tensor]:
        data = ManifoldDataModule(sphere_points(100), Sphere(2), fractions=(0.8, 0.1, 0.1), split_seed=seed)
        return [data.points("train"), data.points("val"), data.points("test")]

    a, b, c = parts(0), parts(0), parts(1)
    assert_same(a, b)
    assert not torch.equal(a[0], c[0])
    assert len(torch.unique(torch.cat(a), dim=0)) == 100 and [len(part) for part in a] == [80, 10, 10]


def test_conditions_stay_with_their_points():
    points = sphere_points(40)
    data = ManifoldDataModule(points, Sphere(2), cond=points * 2, fractions=(0.5, 0.5, 0.0), batch_size=7)
    data.setup()
    for batch in (next(iter(data.train_dataloader())), next(iter(data.val_dataloader()))):
        assert batch.cond is not None and torch.equal(batch.cond, batch.x * 2)


def test_arrays_become_float32_tensors():
    data = ManifoldDataModule(np.eye(3), Sphere(2))
    assert data.points("train").dtype == torch.float32


def test_files_of_points_are_read(tmp_path):
    csv_file, npz_file = tmp_path / "places.csv", tmp_path / "places.npz"
    csv_file.write_text("lat,lon\n0,0\n0,90\n90,0\n")
    np.savez(npz_file, points=np.eye(3))
    for path in (csv_file, npz_file):
        points = ManifoldDataModule(path, Sphere(2)).points("train")
        torch.testing.assert_close(points, torch.eye(3), atol=1e-6, rtol=0)


def test_off_manifold_points_are_refused_before_training():
    points = sphere_points(50)
    points[7] *= 1.5
    network = make_network()
    with pytest.raises(ManifoldError, match=r"not on Sphere\(2\).*7"):
        run(network, data=points, manifold=Sphere(2))
    assert_same(dict(network.state_dict()), dict(make_network().state_dict()))


@pytest.mark.parametrize("manifold", [None, Sphere(2)])
def test_points_that_are_not_finite_are_refused(manifold):
    points = sphere_points(50)
    points[7, 1] = math.nan
    with pytest.raises((DataError, ManifoldError), match="7"):
        run(data=points, manifold=manifold)


def test_empty_data_are_refused():
    with pytest.raises(DataError, match="no"):
        run(data=torch.zeros(0, 3))


def test_conditions_of_another_length_are_refused():
    with pytest.raises(DataError, match=r"one row per point, \(50, cond_dim\), got \(49, 1\)"):
        run(cond=torch.zeros(49, 1))
