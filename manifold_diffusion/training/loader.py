"""Batches of a data set that fits in memory: whole index batches, a known order, and a position that can be saved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._errors import CheckpointError, ConfigError
from .._typing import Batch
from ._seeds import stream_seed

__all__ = ["EvaluationLoader", "TrainingLoader"]


class TrainingLoader:
    """An endless stream of shuffled batches, cut into epochs only where the caller wants them.

    The stream is the concatenation of one random permutation of the data after the other; the permutation of pass p
    depends on ``(seed, p)`` only. Batch b is items ``b * batch_size`` to ``(b + 1) * batch_size`` of the stream, so
    that every batch is full, every point is seen equally often, a data set may be smaller than a batch, and the
    position is one integer. With several processes each takes its slice of the same joint batch: the data that a step
    sees don't depend on the number of processes.

    It is a stateful loader in Lightning's sense (``state_dict`` / ``load_state_dict``).

    Args:
        points: points, ``(n, *point_shape)``.
        cond: conditions, ``(n, cond_dim)``, or None.
        batch_size: points per step, over all processes together.
        seed: seed of the permutations.
        rank: index of this process.
        world_size: number of processes; must divide ``batch_size``.
        steps_per_epoch: ``len`` of the loader; None for one pass over the data, at least 1.

    Raises:
        ConfigError: the batch size is not positive or not a multiple of the number of processes.

    Example:
        >>> loader = TrainingLoader(torch.arange(6.0)[:, None], batch_size=4, seed=1)
        >>> batches = [batch.x.flatten() for _ in range(3) for batch in loader]
        >>> sorted(torch.cat(batches).tolist()) == sorted(2 * list(range(6)))
        True
    """

    def __init__(
        self,
        points: Tensor,
        cond: Tensor | None = None,
        *,
        batch_size: int = 512,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        steps_per_epoch: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            nearest = max(1, round(batch_size / world_size)) * world_size
            raise ConfigError(
                f"batch_size={batch_size} must be a positive multiple of the number of processes, {world_size}: "
                f"it is the size of the joint batch. Use for example {nearest}."
            )
        self.points, self.cond = points, cond
        self.batch_size, self.seed = batch_size, seed
        self.steps_per_epoch = steps_per_epoch if steps_per_epoch is not None else max(1, len(points) // batch_size)
        self.position = 0
        local = batch_size // world_size
        self._slice = slice(rank * local, (rank + 1) * local)
        self._resumed_mid_epoch = False
        self._pass, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        done = self.position % self.steps_per_epoch if self._resumed_mid_epoch else 0
        self._resumed_mid_epoch = False
        for _ in range(self.steps_per_epoch - done):
            batch = self._batch(self.position)
            self.position += 1  # before the yield: what was handed out counts as used
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream, and what must agree for it to mean the same."""
        return {"position": self.position, **self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the batch after the last one that was handed out.

        Raises:
            CheckpointError: the data set, the batch size or the seed is another one.
        """
        for name, value in self._identity().items():
            if state_dict[name] != value:
                raise CheckpointError(
                    f"can't continue in the middle of the data: the checkpoint has {name}={state_dict[name]}, "
                    f"this run has {name}={value}. Resume with the same data and settings, or start a new run."
                )
        self.position = state_dict["position"]
        self._resumed_mid_epoch = True

    def _identity(self) -> dict[str, int]:
        return {"n_points": len(self.points), "batch_size": self.batch_size, "seed": self.seed}

    def _batch(self, position: int) -> Batch:
        start = position * self.batch_size + self._slice.start
        stop = position * self.batch_size + self._slice.stop
        pieces = []
        while start < stop:  # a batch may reach over the end of a pass
            index, offset = divmod(start, len(self.points))
            piece = self._permutation(index)[offset : offset + stop - start]
            pieces.append(piece)
            start += len(piece)
        rows = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return Batch(self.points[rows], None if self.cond is None else self.cond[rows])

    def _permutation(self, index: int) -> Tensor:
        if index != self._pass:
            # Always drawn on the CPU, so that the order is the same on every device.
            generator = torch.Generator().manual_seed(stream_seed(self.seed, index))
            order = torch.randperm(len(self.points), generator=generator)
            self._pass, self._order = index, order.to(self.points.device)
        return self._order


class EvaluationLoader:
    """The points in their own order, each once; the last batch may be short.

    Args:
        points: points, ``(n, *point_shape)``.
        cond: conditions, ``(n, cond_dim)``, or None.
        batch_size: points per batch.
    """

    def __init__(self, points: Tensor, cond: Tensor | None = None, *, batch_size: int = 4096) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        self.points, self.cond, self.batch_size = points, cond, batch_size

    def __len__(self) -> int:
        return -(-len(self.points) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for start in range(0, len(self.points), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield Batch(self.points[rows], None if self.cond is None else self.cond[rows])
