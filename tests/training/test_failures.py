"""What goes wrong: losses and disks that fail, checkpoints that don't fit, arguments that are refused."""

from __future__ import annotations

import errno
import math
import os

import pytest
import torch
from torch import nn

from manifold_diffusion._errors import CheckpointError, ConfigError, NumericsError
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.training import read_checkpoint

from .runs import VAL, Denoise, assert_same, make_network, run


def test_nan_loss_names_the_step_and_leaves_the_last_checkpoint(tmp_path):
    class Breaks(Denoise):
        calls = 0

        def loss(self, network, batch, generator=None):
            self.calls += 1
            return super().loss(network, batch, generator) * (math.nan if self.calls == 13 else 1.0)

    network = make_network()
    with pytest.raises(NumericsError, match=r"loss is nan at step 12 .*smaller lr"):
        run(network, Breaks(), out_dir=tmp_path, checkpoint_every=5)
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 10


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    class Breaks(Denoise):
        """A finite loss whose gradient is not: the derivative of sqrt at 0."""

        def loss(self, network, batch, generator=None):
            return super().loss(network, batch, generator) + (0 * network[0].weight).abs().sum().sqrt()

    with pytest.raises(NumericsError, match="weight is not finite"):
        run(objective=Breaks(), out_dir=tmp_path, checkpoint_every=1)
    assert not (tmp_path / "last.ckpt").exists()


def test_metric_that_is_not_finite_is_an_error():
    with pytest.raises(NumericsError, match="val_metric is inf at step 8"):
        run(val=VAL, val_metric=lambda network: math.inf)


def test_full_disk_keeps_the_previous_checkpoint_and_the_training(tmp_path, monkeypatch):
    real, calls = os.replace, []

    def full(source, target):
        if str(target).endswith("last.ckpt"):
            calls.append(target)
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    network = make_network()
    with pytest.warns(UserWarning, match=r"could not be written.*No space left on device"):
        result = run(network, out_dir=tmp_path, checkpoint_every=10)
    assert result.steps == 30
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 10
    assert [path.name for path in tmp_path.glob(".*")] == []
    expected = make_network()
    run(expected)
    assert_same(dict(network.state_dict()), dict(expected.state_dict()))


def test_folder_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    network = make_network()
    with pytest.raises(CheckpointError, match="Training was not started"):
        run(network, out_dir=tmp_path / "file" / "run")
    assert_same(dict(network.state_dict()), dict(make_network().state_dict()))


@pytest.mark.parametrize("damage", ["truncated", "altered", "text", "missing"])
def test_damaged_checkpoint_is_named(tmp_path, damage):
    run(out_dir=tmp_path, max_steps=3)
    path = tmp_path / "last.ckpt"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content[:200] + b"\0" * 400 + content[600:])
    elif damage == "text":
        path.write_text("no checkpoint at all")
    else:
        path = tmp_path / "nowhere.ckpt"
    with pytest.raises(CheckpointError, match=path.name):
        run(resume=path)


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"state_dict": {}, "manifold_diffusion": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError):
        run(resume=tmp_path / "evil.ckpt")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifold": None}, "manifold: the checkpoint has 'Sphere"),
        ({"fingerprint": {"process": "b"}}, "process: the checkpoint has 'a', this run has 'b'"),
        ({"lr": 1e-4}, "lr: the checkpoint has 0.002"),
        ({"batch_size": 8}, "batch_size: the checkpoint has 16"),
        ({"warmup_steps": 1}, "warmup_steps: the checkpoint has None"),
        ({"final_fraction": 0.5}, "final_fraction: the checkpoint has 0.01"),
        ({"network": nn.Linear(3, 3)}, "network.0.weight: the checkpoint has shape"),
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, change, message):
    options = {"manifold": Sphere(2), "fingerprint": {"process": "a"}, "max_steps": 3}
    run(out_dir=tmp_path, **options)
    with pytest.raises(CheckpointError, match=message):
        run(out_dir=tmp_path, resume=True, **{**options, **change})


def test_folder_that_holds_a_run_is_not_overwritten_unasked(tmp_path):
    run(out_dir=tmp_path, max_steps=3)
    with pytest.raises(CheckpointError, match="holds a run already"):
        run(out_dir=tmp_path, max_steps=3)
    assert run(out_dir=tmp_path, max_steps=4, overwrite=True).steps == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "all"}, "keep must be"),
        ({"max_steps": 0}, "max_steps must be an integer of at least 1"),
        ({"max_steps": 2.5}, "max_steps must be an integer"),
        ({"checkpoint_every": 0}, "checkpoint_every must be an integer"),
        ({"gradient_clip": -1.0}, "gradient_clip must be positive"),
        ({"out_dir": "runs", "resume": True, "overwrite": True}, "give one of them"),
        ({"schedule": "step"}, "schedule must be"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"betas": (1.5, 0.9)}, "betas must be two decay rates"),
        ({"ema_decay": 1.0}, "decay must lie in"),
        ({"patience": 3}, "patience needs validation points"),
        ({"val_metric": lambda network: 0.0}, "val_metric needs validation points"),
        ({"resume": True}, "give out_dir"),
        ({"objective": object()}, "must have a method loss"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        run(**options)
