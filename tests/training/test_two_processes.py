"""A run on two processes has the gradients of the joint batch, noise of its own and one set of weights."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from pytorch_lightning import Callback

from .runs import ROOT, VAL, Fit, assert_same, make_network, run

pytestmark = pytest.mark.slow  # two more processes that import torch


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Gradients, noise and weights of a run on two processes, and of one that was resumed there."""
    folder = tmp_path_factory.mktemp("ddp")
    script = folder / "two.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import torch
        torch.set_num_threads(1)
        import training.runs as t
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
