"""The seed alone decides the result, and a run leaves the global state and the terminal alone."""

from __future__ import annotations

import logging
import signal
import warnings

import torch

from .runs import VAL, assert_same, make_network, run, sphere_points


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
