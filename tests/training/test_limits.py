"""What ends a run, which weights it keeps, and the learning rate on the way."""

from __future__ import annotations

import math
import os
import signal

import pytest
from torch import nn

from manifold_diffusion.training import LearningRateSchedule

from .runs import VAL, Call, Fit, assert_same, make_network, run


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
