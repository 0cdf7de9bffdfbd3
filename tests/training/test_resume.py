"""A run that is killed and resumed ends where the uninterrupted one ends, bit for bit."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from manifold_diffusion._errors import CheckpointError
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching, ImplicitScoreMatching
from manifold_diffusion.processes import BrownianMotion
from manifold_diffusion.training import EMA, AtomicCheckpointIO, ManifoldDataModule, TrainingModule, read_checkpoint

from .runs import LONG, ROOT, Call, Denoise, assert_same, make_network, run, sphere_points


def training_state(path: Path) -> dict:
    """What must be equal at the end: all of a checkpoint but clocks and loop counters of parts already done."""
    state = read_checkpoint(path)
    ours = state["manifold_diffusion"]
    timings = ("elapsed", "samples_per_s")
    history = [{k: v for k, v in row.items() if k not in timings} for row in ours["history"]]
    return {
        "weights": state["state_dict"],
        "optimizer": state["optimizer_states"],
        "schedule": state["lr_schedulers"],
        "callbacks": state["callbacks"],
        "data": state["ManifoldDataModule"],
        "step": state["global_step"],
        "seed": ours["seed"],
        "history": history,
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    network = make_network()
    result = run(network, out_dir=folder, **LONG)
    return network.state_dict(), result, training_state(folder / "last.ckpt")


@pytest.mark.parametrize("step", [7, 8, 15, 16, 29])
def test_stopped_and_resumed_run_ends_where_the_uninterrupted_one_ends(uninterrupted, tmp_path, capsys, step):
    weights, whole, state = uninterrupted
    ctrl_c = Call(step, lambda: os.kill(os.getpid(), signal.SIGINT))
    first = run(out_dir=tmp_path, callbacks=[ctrl_c], **LONG)
    assert first.stopped_by == "interrupt" and first.steps == step
    assert "resume=True" in capsys.readouterr().err
    network = make_network(seed=5)  # whatever it starts from is replaced
    second = run(network, out_dir=tmp_path, resume=True, **LONG)
    assert second.steps == 30 and second.best_step == whole.best_step
    assert_same(dict(network.state_dict()), dict(weights))
    assert_same(training_state(tmp_path / "last.ckpt"), state)


def test_run_interrupted_within_a_step_resumes_from_its_last_checkpoint(uninterrupted, tmp_path):
    weights, _, state = uninterrupted

    class Interrupted(Denoise):
        calls = 0

        def loss(self, network, batch, generator=None):
            self.calls += 1
            if self.calls == 15:
                raise KeyboardInterrupt
            return super().loss(network, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        run(objective=Interrupted(), out_dir=tmp_path, **LONG)
    network = make_network(seed=5)
    run(network, out_dir=tmp_path, resume=True, **LONG)
    assert_same(dict(network.state_dict()), dict(weights))
    assert_same(training_state(tmp_path / "last.ckpt"), state)


def test_run_terminated_by_a_scheduler_saves_and_resumes(uninterrupted, tmp_path):
    weights, _, state = uninterrupted
    with pytest.raises(SystemExit) as stop:
        run(out_dir=tmp_path, callbacks=[Call(12, lambda: os.kill(os.getpid(), signal.SIGTERM))], **LONG)
    assert stop.value.code == 143
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 12
    network = make_network(seed=5)
    run(network, out_dir=tmp_path, resume=True, **LONG)
    assert_same(dict(network.state_dict()), dict(weights))
    assert_same(training_state(tmp_path / "last.ckpt"), state)


def test_run_killed_by_sigkill_resumes_bit_for_bit(uninterrupted, tmp_path):
    weights, _, state = uninterrupted
    script = tmp_path / "killed.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, signal, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import torch
        torch.set_num_threads(1)
        import training.runs as t
        kill = t.Call(13, lambda: os.kill(os.getpid(), signal.SIGKILL))
        t.run(out_dir={str(tmp_path / "run")!r}, callbacks=[kill], **t.LONG)
        """)
    )
    process = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 10
    network = make_network(seed=5)
    run(network, out_dir=tmp_path / "run", resume=True, **LONG)
    assert_same(dict(network.state_dict()), dict(weights))
    assert_same(training_state(tmp_path / "run" / "last.ckpt"), state)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"data": sphere_points(50, seed=2)}, "training points"),
        ({"data": sphere_points(40)}, "training points"),
        ({"val": sphere_points(20, seed=3)}, "validation points"),
        ({"cond": torch.arange(50.0)[:, None].flip(0), "val_cond": torch.ones(20, 1)}, "training points"),
    ],
)
def test_a_run_resumes_on_its_own_points_only(tmp_path, changed, named):
    own = {"cond": torch.arange(50.0)[:, None], "val_cond": torch.ones(20, 1)} if "cond" in changed else {}
    short = {**LONG, "max_steps": 4, **own}
    run(out_dir=tmp_path, **short)
    before = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=rf"{named}: the checkpoint has '\d+ points, SHA-256 \w+', this run has"):
        run(out_dir=tmp_path, resume=True, **{**short, "max_steps": 8, **changed})
    assert (tmp_path / "last.ckpt").read_bytes() == before
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)  # of a version that did not say
    state["manifold_diffusion"]["fingerprint"] = {
        name: value for name, value in state["manifold_diffusion"]["fingerprint"].items() if "points" not in name
    }
    torch.save(state, tmp_path / "last.ckpt")
    assert run(out_dir=tmp_path, resume=True, **{**short, "max_steps": 8}).steps == 8


def test_metrics_file_of_a_resumed_run_has_every_row_once(tmp_path):
    ctrl_c = Call(15, lambda: os.kill(os.getpid(), signal.SIGINT))
    run(out_dir=tmp_path, callbacks=[ctrl_c], **LONG)
    run(out_dir=tmp_path, resume=True, **LONG)
    with open(tmp_path / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    train = [int(row["step"]) for row in rows if row["train_loss"]]
    assert train == [3, 6, 9, 12, 15, 18, 21, 24, 27, 30]
    assert [int(row["step"]) for row in rows if row["val_loss"]] == [8, 16, 24, 30]


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 10])
def test_trainer_with_epochs_resumes_bit_for_bit(tmp_path, stop):
    # 50 points in batches of 10: five steps an epoch, stopped within an epoch, at its end, and at the next one's start.
    def trainer(**options):
        return Trainer(
            max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, plugins=[AtomicCheckpointIO()], callbacks=[EMA(0.9)], **options,
        )  # fmt: skip

    def parts():
        return TrainingModule(make_network(), Denoise(), seed=3), ManifoldDataModule(sphere_points(50), batch_size=10)

    whole, data = parts()
    trainer().fit(whole, datamodule=data)
    module, data = parts()
    first = trainer()
    first.callbacks.append(Call(stop, lambda: first.save_checkpoint(tmp_path / "stop.ckpt")))
    first.fit(module, datamodule=data)
    module, data = parts()
    trainer().fit(module, datamodule=data, ckpt_path=str(tmp_path / "stop.ckpt"))
    assert module.global_step == whole.global_step == 15
    assert_same(dict(module.state_dict()), dict(whole.state_dict()))


def test_finished_run_can_be_trained_longer(tmp_path):
    options = {**LONG, "schedule": "constant", "warmup_steps": 2}
    whole = make_network()
    run(whole, out_dir=tmp_path / "whole", **options)
    run(out_dir=tmp_path / "parts", **{**options, "max_steps": 16})
    network = make_network(seed=5)
    run(network, out_dir=tmp_path / "parts", resume=True, **options)
    assert_same(training_state(tmp_path / "parts" / "last.ckpt"), training_state(tmp_path / "whole" / "last.ckpt"))


@pytest.mark.parametrize("objective", [DenoisingScoreMatching, ImplicitScoreMatching])
def test_score_model_on_the_sphere_trains_validates_and_resumes(tmp_path, objective):
    process = BrownianMotion(Sphere(2))

    def parts() -> tuple[nn.Module, object]:
        torch.manual_seed(0)
        return TangentMLP(process, width=16, depth=1, n_frequencies=16), objective(process)

    options = {**LONG, "manifold": Sphere(2), "data": sphere_points(50).abs()}
    with torch.random.fork_rng():
        whole, stopped, resumed = parts(), parts(), parts()
    run(*whole, **options)
    ctrl_c = Call(13, lambda: os.kill(os.getpid(), signal.SIGINT))
    run(*stopped, out_dir=tmp_path, callbacks=[ctrl_c], **options)
    run(*resumed, out_dir=tmp_path, resume=True, **options)
    assert_same(dict(resumed[0].state_dict()), dict(whole[0].state_dict()))
