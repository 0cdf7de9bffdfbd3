"""Pictures while training, the mode of the network, and the line of progress."""

from __future__ import annotations

import pytest
from torch import nn

from manifold_diffusion.training import SampleFigure

from .runs import VAL, Call, make_network, run


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
