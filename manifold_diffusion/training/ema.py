"""An exponential moving average of the weights, with bias correction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from .._errors import CheckpointError, ConfigError

__all__ = ["EMA"]


class EMA(Callback):
    r"""Averages the weights of ``module.network`` as training goes; validation sees the average.

    After step k, with decay d and weights :math:`\theta_1, \dots, \theta_k`, the average is

    .. math::
        \bar\theta_k = \frac{1 - d}{1 - d^k} \sum_{i=1}^{k} d^{\,k - i}\, \theta_i
                     = \bar\theta_{k-1} + \frac{1 - d}{1 - d^k}\, (\theta_k - \bar\theta_{k-1}),

    which is Adam's bias correction: the average has no memory of the initial weights, so it is useful from the first
    step on. Averages are kept in at least float32. Buffers of the network are not averaged.

    Args:
        decay: decay d per step, in [0, 1); 0 for no averaging.
        apply_at_end: whether to leave the averaged weights in the network when training has ended.

    Raises:
        ConfigError: the decay is out of range.

    Example:
        >>> ema = EMA(decay=0.5)
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> for value in (1.0, 4.0):
        ...     _ = nn.init.constant_(layer.weight, value)
        ...     ema.update(layer)
        >>> ema.ema_state_dict(layer)["weight"].item()
        3.0

    References:
        Acceleration of Stochastic Approximation by Averaging, 1992; Adam: A Method for Stochastic Optimization, 2014
        (arXiv 1412.6980), for the correction.
    """

    def __init__(self, decay: float = 0.999, *, apply_at_end: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay must lie in [0, 1), got {decay}.")
        self.decay = decay
        self.apply_at_end = apply_at_end
        self.n_updates = 0
        self._names: list[str] = []
        self._averages: list[Tensor] = []
        self._saved: list[Tensor] | None = None
        self._seen_step = 0
        self._tracked: tuple[nn.Module, list[nn.Parameter]] | None = None

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the present weights of the network into the average."""
        parameters = self._parameters(network)
        self.n_updates += 1
        # (1 - d) / (1 - d^k) without cancellation for d close to 1; exactly 1 for the first update.
        weight = 1.0
        if self.n_updates > 1 and self.decay > 0:
            weight = (1.0 - self.decay) / -math.expm1(self.n_updates * math.log(self.decay))
        same = all(p.dtype == a.dtype for p, a in zip(parameters, self._averages, strict=True))
        values: list[Tensor] = [*parameters]
        if not same:
            values = [p.to(a.dtype) for p, a in zip(parameters, self._averages, strict=True)]
        torch._foreach_lerp_(self._averages, values, weight)

    def ema_state_dict(self, network: nn.Module) -> dict[str, Tensor]:
        """Return the state of the network with averaged weights in place of the present ones.

        Args:
            network: the network whose weights were averaged.

        Returns:
            A state dict of copies, for ``network.load_state_dict``.
        """
        state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if self.n_updates:
            for name, average in zip(self._names, self._averages, strict=True):
                state[name] = average.to(state[name]).clone()
        return state

    @contextmanager
    def averaged(self, network: nn.Module) -> Iterator[nn.Module]:
        """Put the averaged weights in the network within a ``with`` block."""
        swapped = self._swap_in(network)
        try:
            yield network
        finally:
            if swapped:
                self._swap_out(network)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages and their number of updates."""
        return {
            "decay": self.decay,
            "n_updates": self.n_updates,
            "averages": dict(zip(self._names, self._averages, strict=True)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages.

        Raises:
            CheckpointError: the averages were made with another decay.
        """
        if state_dict["decay"] != self.decay:
            raise CheckpointError(
                f"the checkpoint averages its weights with decay {state_dict['decay']}, this run with {self.decay}. "
                "Resume with the same decay."
            )
        self.n_updates = state_dict["n_updates"]
        self._names = list(state_dict["averages"])
        self._averages = [value.clone() for value in state_dict["averages"].values()]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring restored averages to the device of the network."""
        self._parameters(_network(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where training starts."""
        self._seen_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average after every optimiser step; a batch of an accumulated gradient is not a step."""
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self.update(_network(pl_module))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the averaged weights."""
        self._swap_in(_network(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the weights that are trained."""
        self._swap_out(_network(pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Go back to the weights that are trained when validation was broken off."""
        self._swap_out(_network(pl_module))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the averaged weights in the network."""
        if self.apply_at_end:
            self._swap_in(_network(pl_module))
            self._saved = None

    def _parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """Return what is averaged, and make room for the averages or bring them to its device."""
        if self._tracked is None or self._tracked[0] is not network:
            self._tracked = network, self._track(network)
        parameters = self._tracked[1]
        if self._averages and self._averages[0].device != parameters[0].device:
            self._averages = [a.to(p.device) for a, p in zip(self._averages, parameters, strict=True)]
        return parameters

    def _track(self, network: nn.Module) -> list[nn.Parameter]:
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        if not self._names:
            self._names = list(named)
            self._averages = [
                torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in named.values()
            ]
        shapes = {name: average.shape for name, average in zip(self._names, self._averages, strict=True)}
        if shapes != {name: p.shape for name, p in named.items()}:
            raise CheckpointError(
                f"the averages are of other parameters ({len(self._names)}) than the network's ({len(named)}). "
                "Resume with the network that the checkpoint was made with, and use one EMA per network."
            )
        return list(named.values())

    @torch.no_grad()
    def _swap_in(self, network: nn.Module) -> bool:
        if not self.n_updates or self._saved is not None:
            return False
        parameters = self._parameters(network)
        self._saved = [p.clone() for p in parameters]
        for parameter, average in zip(parameters, self._averages, strict=True):
            parameter.copy_(average)
        return True

    @torch.no_grad()
    def _swap_out(self, network: nn.Module) -> None:
        if self._saved is None:
            return
        for parameter, saved in zip(self._parameters(network), self._saved, strict=True):
            parameter.copy_(saved)
        self._saved = None


def _network(module: LightningModule) -> nn.Module:
    network = module.network
    if not isinstance(network, nn.Module):
        raise ConfigError(f"EMA averages module.network, which is a {type(network).__name__}; it must be an nn.Module.")
    return network
