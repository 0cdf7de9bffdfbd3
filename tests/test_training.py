"""The training layer: data order, noise, averages, checkpoints, and runs that are killed and resumed."""

from __future__ import annotations

import csv
import errno
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

from manifold_diffusion._errors import CheckpointError, ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion._typing import Batch
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching, ImplicitScoreMatching
from manifold_diffusion.processes import BrownianMotion
from manifold_diffusion.training import (
    EMA,
    AtomicCheckpointIO,
    EvaluationLoader,
    LearningRateSchedule,
    ManifoldDataModule,
    SampleFigure,
    TrainingLoader,
    TrainingModule,
    fit,
    read_checkpoint,
)

ROOT = Path(__file__).resolve().parents[1]


class Denoise:
    """A Euclidean stand-in for a real objective: it draws noise, and its loss depends on the noise and the data."""

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> torch.Tensor:
        noise = torch.randn(batch.x.shape, generator=generator, dtype=batch.x.dtype)
        return (network(batch.x + noise) - noise).square().mean()


class Fit:
    """An objective without noise."""

    def loss(self, network: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> torch.Tensor:
        return (network(batch.x) - batch.x.square()).square().mean()


class Call(Callback):
    """Calls a function when a step has ended."""

    def __init__(self, step: int, function) -> None:
        self.step, self.function = step, function

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            self.function()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_network(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 3)).to(dtype)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
    return network


def sphere_points(n: int, seed: int = 0) -> torch.Tensor:
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return x / x.norm(dim=-1, keepdim=True)


def run(network: nn.Module | None = None, objective=None, data=None, **options):
    defaults = {"accelerator": "cpu", "progress": False, "max_steps": 30, "batch_size": 16, "val_every": 8}
    data = sphere_points(50) if data is None else data
    return fit(network or make_network(), objective or Denoise(), data, **{**defaults, **options})


VAL = sphere_points(20, seed=1)
LONG = {"max_steps": 30, "val_every": 8, "checkpoint_every": 5, "log_every": 3, "val": VAL}
"""A run whose end, validations, checkpoints, log rows and passes over the data all fall on different steps."""


def assert_same(a, b, where: str = "") -> None:
    """Assert that two nested states are equal bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            assert_same(left, right, f"{where}/{i}")
    else:
        assert a == b or (a != a and b != b), where


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


# Killed and resumed


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
    with pytest.raises(SystemExit):
        run(out_dir=tmp_path, callbacks=[Call(12, lambda: os.kill(os.getpid(), signal.SIGTERM))], **LONG)
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
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        import torch
        torch.set_num_threads(1)
        import test_training as t
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


# Several processes


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Gradients, noise and weights of a run on two processes, and of one that was resumed there."""
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        import torch
        torch.set_num_threads(1)
        import test_training as t
        folder = t.Path({str(folder)!r})

        class Record(t.Callback):
            gradients = []
            def on_before_optimizer_step(self, trainer, module, optimizer):
                self.gradients.append([p.grad.clone() for p in module.parameters()])

        class Noisy(t.Fit):
            noise = []
            def loss(self, network, batch, generator=None):
                if network.training:
                    self.noise.append(torch.randn(4, generator=generator))
                return super().loss(network, batch, generator)

        two = dict(devices=2, strategy="ddp", max_steps=4, val=t.VAL, val_every=2, warmup_steps=0)
        network = t.make_network()
        result = t.run(network, Noisy(), callbacks=[Record()], **two)
        rank = os.environ.get("LOCAL_RANK", "0")
        values = [row.val_loss for row in result.history if row.val_loss is not None]
        record = dict(gradients=Record.gradients, noise=Noisy.noise, weights=network.state_dict(), val=values)
        torch.save(record, folder / f"rank{{rank}}.pt")

        stop = t.Call(3, lambda: os.kill(os.getpid(), 2))
        again = dict(two, max_steps=14, val_every=7)
        whole = t.make_network()
        t.run(whole, t.Denoise(), **again)
        t.run(t.make_network(), t.Denoise(), out_dir=folder / "run", callbacks=[stop], **again)
        resumed = t.make_network(seed=5)
        t.run(resumed, t.Denoise(), out_dir=folder / "run", resume=True, **again)
        torch.save((whole.state_dict(), resumed.state_dict()), folder / f"resumed{{rank}}.pt")

        timed = t.make_network()
        t.run(timed, t.Denoise(), **dict(two, max_steps=None, max_time=0.5))
        torch.save(timed.state_dict(), folder / f"timed{{rank}}.pt")
        """)
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    process = subprocess.run([sys.executable, str(script)], capture_output=True, timeout=400, env=environment)
    assert process.returncode == 0, process.stderr.decode()[-3000:]
    return folder


def test_two_processes_have_the_gradient_of_the_joint_batch(two_processes):
    class Record(Callback):
        def __init__(self) -> None:
            self.gradients: list[list[torch.Tensor]] = []

        def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
            self.gradients.append([p.grad.clone() for p in pl_module.parameters()])

    record = Record()
    network = make_network()
    result = run(network, Fit(), callbacks=[record], max_steps=4, val=VAL, val_every=2, warmup_steps=0)
    ranks = [torch.load(two_processes / f"rank{rank}.pt") for rank in (0, 1)]
    for rank in ranks:
        for one, two in zip(record.gradients, rank["gradients"], strict=True):
            for left, right in zip(one, two, strict=True):
                torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
        for name, weight in network.state_dict().items():
            torch.testing.assert_close(weight, rank["weights"][name], rtol=1e-4, atol=1e-5)
        assert rank["val"] == pytest.approx([row.val_loss for row in result.history if row.val_loss is not None], 1e-4)
    assert_same(ranks[0]["gradients"], ranks[1]["gradients"])


def test_two_processes_draw_different_noise(two_processes):
    noise = [torch.stack(torch.load(two_processes / f"rank{rank}.pt")["noise"]) for rank in (0, 1)]
    assert len(torch.unique(torch.cat(noise), dim=0)) == 8


def test_two_processes_resume_bit_for_bit(two_processes):
    for rank in (0, 1):
        whole, resumed = torch.load(two_processes / f"resumed{rank}.pt")
        assert_same(dict(resumed), dict(whole))


def test_two_processes_agree_when_time_is_the_limit(two_processes):
    first, second = (torch.load(two_processes / f"timed{rank}.pt") for rank in (0, 1))
    assert_same(dict(first), dict(second))


# Weight averages


def test_average_is_the_bias_corrected_sum():
    decay, layer = 0.9, nn.Linear(3, 2, dtype=torch.float64)
    ema, weights = EMA(decay), []
    for _ in range(25):
        with torch.no_grad():
            layer.weight.normal_()
        weights.append(layer.weight.detach().clone())
        ema.update(layer)
    powers = torch.tensor([decay ** (len(weights) - 1 - i) for i in range(len(weights))], dtype=torch.float64)
    expected = (1 - decay) / (1 - decay**25) * (powers[:, None, None] * torch.stack(weights)).sum(0)
    torch.testing.assert_close(ema.ema_state_dict(layer)["weight"], expected, rtol=1e-12, atol=1e-12)


def test_first_average_is_the_first_weights():
    layer, ema = nn.Linear(3, 2), EMA(0.999)
    ema.update(layer)
    assert_same(ema.ema_state_dict(layer), dict(layer.state_dict()))


def test_average_of_half_precision_weights_is_kept_in_float32():
    layer, ema = nn.Linear(2, 2).bfloat16(), EMA(0.999)
    ema.update(layer)
    assert all(value.dtype == torch.float32 for value in ema.state_dict()["averages"].values())
    assert ema.ema_state_dict(layer)["weight"].dtype == torch.bfloat16


def test_averaged_weights_are_in_the_network_within_the_block_only():
    layer, ema = nn.Linear(2, 2), EMA(0.5)
    ema.update(layer)
    with torch.no_grad():
        layer.weight.add_(1)
    present = layer.weight.detach().clone()
    with ema.averaged(layer):
        assert torch.allclose(layer.weight, present - 1)
    assert torch.equal(layer.weight, present)


def test_validation_sees_averaged_weights_and_training_goes_on_with_its_own():
    with_val, without = make_network(), make_network()
    run(with_val, val=VAL, keep="last")
    run(without, keep="last")
    assert_same(dict(with_val.state_dict()), dict(without.state_dict()))


def test_fit_leaves_the_average_of_the_trajectory():
    trajectory = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            trajectory.append(pl_module.network[0].weight.detach().clone().double())

    network = make_network()
    run(network, max_steps=12, ema_decay=0.7, callbacks=[Record()])
    powers = torch.tensor([0.7 ** (11 - i) for i in range(12)], dtype=torch.float64)
    expected = (powers[:, None, None] * torch.stack(trajectory)).sum(0) / powers.sum()
    torch.testing.assert_close(network[0].weight.double(), expected, rtol=1e-5, atol=1e-6)


# Best weights, limits, schedule


def test_best_weights_are_kept():
    values = iter([3.0, 1.0, 2.0, 5.0])
    seen = []

    def metric(network: nn.Module) -> float:
        seen.append({name: value.clone() for name, value in network.state_dict().items()})
        return next(values)

    network = make_network()
    result = run(network, val=VAL, val_metric=metric, val_every=10, max_steps=40)
    assert (result.best_step, result.best_value, result.kept) == (20, 1.0, "best")
    assert_same(dict(network.state_dict()), seen[1])


def test_patience_stops_without_progress():
    values = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    result = run(val=VAL, val_metric=lambda network: next(values), val_every=5, max_steps=25, patience=2)
    assert (result.stopped_by, result.steps, result.best_step) == ("patience", 15, 5)


def test_patience_goes_on_counting_after_a_resume(tmp_path):
    values = iter([1.0, 2.0, 3.0, 4.0])
    options = {"val": VAL, "val_metric": lambda network: next(values), "val_every": 5, "max_steps": 25, "patience": 2}
    ctrl_c = Call(12, lambda: os.kill(os.getpid(), signal.SIGINT))
    run(out_dir=tmp_path, callbacks=[ctrl_c], **options)
    result = run(out_dir=tmp_path, resume=True, **options)
    assert (result.stopped_by, result.steps, result.best_step) == ("patience", 15, 5)


def test_time_limit_stops_and_validates():
    result = run(val=VAL, max_steps=None, max_time=0.5, val_every=10_000)
    assert result.stopped_by == "max_time" and result.best_step == result.steps


def test_last_step_is_validated():
    result = run(val=VAL, max_steps=11, val_every=4)
    assert [row.step for row in result.history if row.val_loss is not None] == [4, 8, 11]


def test_learning_rate_warms_up_and_decays():
    schedule = LearningRateSchedule(total_steps=1000, warmup_steps=10, final_fraction=0.1)
    factors = [schedule.factor(step) for step in (0, 4, 9, 500, 1000)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 0.55, 0.1], abs=1e-3)


def test_learning_rate_decays_with_time_when_time_is_the_limit():
    schedule = LearningRateSchedule(max_time=60.0, final_fraction=0.0)
    assert schedule.factor(10, elapsed=30.0) == pytest.approx(0.5)


def test_optimizer_uses_the_schedule():
    result = run(max_steps=30, log_every=10, lr=1e-3, warmup_steps=0, final_fraction=0.0)
    rates = [row.learning_rate for row in result.history]
    # The rate of the next step, as everywhere in torch.
    assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * k / 30)) for k in (10, 20, 30)])


def test_training_lowers_the_loss():
    result = run(objective=Fit(), val=VAL, max_steps=200, lr=1e-2, val_every=50)
    losses = [row.val_loss for row in result.history if row.val_loss is not None]
    assert losses[-1] < 0.7 * losses[0]


# Randomness


def test_same_seed_same_weights_and_another_seed_others():
    a, b, c = make_network(), make_network(), make_network()
    run(a, seed=1)
    run(b, seed=1)
    run(c, seed=2)
    assert_same(dict(a.state_dict()), dict(b.state_dict()))
    assert not torch.equal(a[0].weight, c[0].weight)


def test_generator_sets_the_seed():
    a, b = make_network(), make_network()
    run(a, generator=torch.Generator().manual_seed(4))
    run(b, generator=torch.Generator().manual_seed(4))
    assert_same(dict(a.state_dict()), dict(b.state_dict()))


def test_validation_noise_is_the_same_every_time():
    result = run(val=VAL, lr=1e-30, ema_decay=None, max_steps=24)  # weights that don't move
    values = [row.val_loss for row in result.history if row.val_loss is not None]
    assert len(values) == 3 and len(set(values)) == 1


def test_float64_network_trains_in_float64():
    network = make_network(dtype=torch.float64)
    run(network, data=sphere_points(50).double(), val=VAL.double())
    assert network[0].weight.dtype == torch.float64


def test_fit_leaves_global_state_alone():
    network, logger = make_network(), logging.getLogger("pytorch_lightning")
    handler, level, log_filters = signal.getsignal(signal.SIGINT), logger.level, list(logger.filters)
    state, filters = torch.get_rng_state(), list(warnings.filters)
    run(network, val=VAL)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (logger.level, logger.filters) == (level, log_filters)
    assert torch.equal(torch.get_rng_state(), state) and warnings.filters == filters


def test_fit_prints_nothing_without_progress(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(val=VAL)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


# Data


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


# What goes wrong


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
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"schedule": "step"}, "schedule must be"),
        ({"lr": -1.0}, "lr must be positive"),
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


# Pictures and progress


def test_sample_figure_draws_with_averaged_weights(tmp_path):
    from matplotlib.figure import Figure

    modes, weights = [], []

    def draw(network: nn.Module, step: int) -> Figure:
        modes.append(network.training)
        weights.append(network[0].weight.detach().clone())
        return Figure()

    network = make_network()
    run(network, max_steps=10, callbacks=[SampleFigure(draw, every=5, out_dir=tmp_path)], keep="last", ema_decay=0.5)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["step-0000005.png", "step-0000010.png"]
    assert modes == [False, False]


def test_picture_that_fails_does_not_end_the_run():
    def draw(network: nn.Module, step: int) -> None:
        raise ValueError("no samples")

    with pytest.warns(UserWarning, match="no picture of step 5: ValueError: no samples"):
        assert run(max_steps=6, callbacks=[SampleFigure(draw, every=5)]).steps == 6


def test_network_in_evaluation_mode_is_trained_in_training_mode():
    modes = []
    network = make_network().eval()
    run(network, max_steps=2, callbacks=[Call(1, lambda: modes.append(network.training))])
    assert modes == [True] and not network.training


def test_progress_shows_loss_and_validation(capsys):
    run(val=VAL, progress=True)
    err = capsys.readouterr().err
    assert "step 30/30" in err and "val_loss" in err and "best" in err and "points/s" in err
