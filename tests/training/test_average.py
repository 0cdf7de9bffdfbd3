"""Averages of the weights: their value, their precision, and who sees them."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback
from torch import nn

from manifold_diffusion.training import EMA

from .runs import VAL, assert_same, make_network, run


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
