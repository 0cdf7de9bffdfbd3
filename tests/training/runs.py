"""Short runs on the sphere and on Euclidean stand-ins, and the comparison of what they leave."""

from __future__ import annotations

from pathlib import Path

import torch
from pytorch_lightning import Callback
from torch import nn

from manifold_diffusion._typing import Batch
from manifold_diffusion.training import fit

ROOT = Path(__file__).resolve().parents[2]


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
