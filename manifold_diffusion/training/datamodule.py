"""Points of a manifold, from memory or from a file, as a LightningDataModule."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor

from .._errors import ConfigError, DataError
from .._typing import Batch
from .loader import EvaluationLoader, TrainingLoader

if TYPE_CHECKING:
    from ..data import Coordinates
    from ..manifolds import Manifold

__all__ = ["ManifoldDataModule", "as_data_module"]

ENDLESS = 1 << 40
_MAX_DEVICE_BYTES = 2 << 30


class ManifoldDataModule(LightningDataModule):
    """Batches of points that are checked to lie on their manifold before training starts.

    The data stay in memory and whole batches are indexed at once. Their order follows from ``seed`` only;
    the position in it is part of the checkpoint, so that a resumed run continues with the next batch.

    Args:
        data: points ``(n, *point_shape)`` as a tensor or an array, a :class:`~manifold_diffusion.data.PointSet`, a
            :class:`~manifold_diffusion.data.Split`, or the path of a CSV or NPZ file (then ``manifold`` is needed).
        manifold: where the points must lie; None to check only that they are finite.
        val: validation points, if they are not split off ``data``.
        cond: a condition per point of ``data``, ``(n, cond_dim)``, or None.
        val_cond: a condition per point of ``val``.
        fractions: of training, validation and test points to split ``data`` into; None for all training. Repeated
            points are dropped first, unless there are conditions.
        split_seed: seed of the split.
        batch_size: points per step, over all processes together.
        eval_batch_size: points per batch of validation.
        seed: seed of the order of training batches.
        steps_per_epoch: batches per epoch of a trainer; None for one endless epoch if the trainer has no limit of
            epochs, and for one pass over the data otherwise.
        columns: columns to take from a CSV file, see :func:`~manifold_diffusion.data.load_csv`.
        coordinates: what the columns are, for files.
        key: name of the array in an NPZ file.
        dtype: dtype of arrays and files; tensors keep theirs.

    Raises:
        ConfigError: arguments that can't be combined.

    Example:
        >>> data = ManifoldDataModule(torch.rand(100, 2), fractions=(0.8, 0.2, 0.0), batch_size=16)
        >>> data.setup("fit")
        >>> len(data.points("train")), len(data.points("val"))
        (80, 20)
        >>> next(iter(data.train_dataloader())).x.shape
        torch.Size([16, 2])
    """

    def __init__(
        self,
        data: Any,
        manifold: Manifold | None = None,
        *,
        val: Any = None,
        cond: Tensor | None = None,
        val_cond: Tensor | None = None,
        fractions: Sequence[float] | None = None,
        split_seed: int = 0,
        batch_size: int = 512,
        eval_batch_size: int = 4096,
        seed: int = 0,
        steps_per_epoch: int | None = None,
        columns: Sequence[str | int] | None = None,
        coordinates: Coordinates = "auto",
        key: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if val is not None and fractions is not None:
            raise ConfigError("give either val or fractions, not both: fractions split validation points off data.")
        if val_cond is not None and val is None:
            raise ConfigError("val_cond goes with val, which is missing.")
        if val is not None and (cond is None) != (val_cond is None):
            raise ConfigError("give both cond and val_cond, or neither.")
        if isinstance(data, str | Path) and manifold is None:
            raise ConfigError(f"reading {str(data)!r} needs the manifold its points lie on: pass manifold=.")
        self.data, self.val, self.cond, self.val_cond = data, val, cond, val_cond
        self.manifold, self.fractions, self.split_seed = manifold, fractions, split_seed
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        self.steps_per_epoch, self.dtype = steps_per_epoch, dtype
        self.columns, self.coordinates, self.key = columns, coordinates, key
        self._parts: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._loader: TrainingLoader | None = None
        self._resume_from: dict[str, Any] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read, split and check the data.

        Raises:
            DataError: no points, points or conditions that are not finite, or conditions that don't match.
            ManifoldError: a point is off the manifold, with its row and by how much.
        """
        if self._parts:
            return
        parts = self._split()
        for name, (points, cond) in parts.items():
            if name == "train" and len(points) == 0:
                raise DataError("there are no training points. Check the data and the fractions.")
            self._check(name, points, cond)
        self._parts = parts

    def points(self, part: Literal["train", "val", "test"]) -> Tensor:
        """Return the points of a part; an empty tensor if there is no such part."""
        self.setup()
        return self._parts[part][0]

    def conditions(self, part: Literal["train", "val", "test"]) -> Tensor | None:
        """Return the conditions of the points of a part, None where there are none."""
        self.setup()
        return self._parts[part][1]

    def digest(self, part: Literal["train", "val", "test"]) -> str | None:
        """Return the number of points of a part and a hash of them and their conditions, None where there are none."""
        points, cond = self.points(part), self.conditions(part)
        if len(points) == 0:
            return None
        state = hashlib.sha256()
        for values in (points,) if cond is None else (points, cond):
            state.update(values.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return f"{len(points)} points, SHA-256 {state.hexdigest()[:16]}"

    @property
    def has_validation(self) -> bool:
        """Whether there are validation points."""
        return len(self.points("val")) > 0

    def train_dataloader(self) -> TrainingLoader:
        """Return the stateful loader of shuffled batches, at the position of the checkpoint if there is one."""
        self.setup()
        trainer = self._own_trainer()
        steps = self.steps_per_epoch
        if steps is None and trainer is not None and trainer.max_epochs == -1:
            steps = ENDLESS
        points, cond = self._on_device("train")
        self._loader = TrainingLoader(
            points,
            cond,
            batch_size=self.batch_size,
            seed=self.seed,
            rank=trainer.global_rank if trainer is not None else 0,
            world_size=trainer.world_size if trainer is not None else 1,
            steps_per_epoch=steps,
        )
        if self._resume_from is not None:
            self._loader.load_state_dict(self._resume_from)
            self._resume_from = None
        return self._loader

    def val_dataloader(self) -> EvaluationLoader | list[Any]:
        """Return the validation batches; every process evaluates all, so that values don't depend on their number."""
        return self._evaluation("val")

    def test_dataloader(self) -> EvaluationLoader | list[Any]:
        """Return the test batches."""
        return self._evaluation("test")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch; one that is there already costs nothing."""
        if not isinstance(batch, Batch):
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        cond = None if batch.cond is None else batch.cond.to(device, non_blocking=True)
        return Batch(batch.x.to(device, non_blocking=True), cond)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the training data."""
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the position at which the next training loader starts."""
        self._resume_from = state_dict

    def _split(self) -> dict[str, tuple[Tensor, Tensor | None]]:
        from ..data import Split, split  # lazily: a run on tensors needs no data layer

        if isinstance(self.data, Split):
            if self.cond is not None or self.val is not None or self.fractions is not None:
                raise ConfigError("data is a Split already: cond, val and fractions can't be given as well.")
            return {part: (getattr(self.data, part), None) for part in ("train", "val", "test")}
        points = self._read(self.data, "data")
        self._check_cond("cond", points, self.cond)
        nothing = points[:0], None if self.cond is None else self.cond[:0]
        if self.fractions is None:
            val = nothing if self.val is None else (self._read(self.val, "val"), self.val_cond)
            if self.val is not None and len(val[0]) == 0:
                raise DataError("val has no points. Leave it out to train without validation.")
            self._check_cond("val_cond", val[0], val[1])
            return {"train": (points, self.cond), "val": val, "test": nothing}
        self._check("data", points, None)
        if self.cond is None:
            parts = split(points, self.fractions, self.split_seed)
            return {part: (getattr(parts, part), None) for part in ("train", "val", "test")}
        rows = torch.arange(len(points), dtype=torch.float64)[:, None]  # split the row numbers, to keep pairs together
        parts = split(rows, self.fractions, self.split_seed, unique=False)
        index = {part: getattr(parts, part)[:, 0].long() for part in ("train", "val", "test")}
        return {part: (points[chosen], self.cond[chosen]) for part, chosen in index.items()}

    def _read(self, data: Any, name: str) -> Tensor:
        from ..data import PointSet, load_csv, load_npz

        if isinstance(data, PointSet):
            return data.points
        if isinstance(data, Tensor):
            return data.detach()
        if isinstance(data, str | Path):
            manifold, coordinates = cast("Manifold", self.manifold), cast("Coordinates", self.coordinates)
            if Path(data).suffix.lower() in (".npz", ".npy"):
                return load_npz(data, manifold, self.key, coordinates, dtype=self.dtype).points
            return load_csv(data, manifold, self.columns, coordinates, dtype=self.dtype).points
        try:
            return torch.as_tensor(data, dtype=self.dtype)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{name} must be a tensor, an array, a PointSet, a Split or a path, got {type(data).__name__}: {error}."
            ) from error

    def _check(self, name: str, points: Tensor, cond: Tensor | None) -> None:
        if points.dim() < 1 or len(points) == 0:
            if name == "data":
                raise DataError(f"there are no points: data has shape {tuple(points.shape)}.")
            return
        if self.manifold is not None:
            self.manifold.check_point(points, f"{name} points")
            shape = tuple(self.manifold.point_shape)
            if points.dim() != 1 + len(shape):
                raise DataError(f"{name} points must have shape (n, *{shape}), got {tuple(points.shape)}.")
        _check_finite(f"{name} points", points)
        if cond is not None:
            _check_finite(f"{name} conditions", cond)

    @staticmethod
    def _check_cond(name: str, points: Tensor, cond: Tensor | None) -> None:
        if cond is not None and (not isinstance(cond, Tensor) or cond.dim() < 1 or len(cond) != len(points)):
            got = tuple(cond.shape) if isinstance(cond, Tensor) else type(cond).__name__
            raise DataError(f"{name} must be a tensor with one row per point, ({len(points)}, cond_dim), got {got}.")

    def _evaluation(self, part: Literal["val", "test"]) -> EvaluationLoader | list[Any]:
        if len(self.points(part)) == 0:
            return []
        return EvaluationLoader(*self._on_device(part), batch_size=self.eval_batch_size)

    def _on_device(self, part: str) -> tuple[Tensor, Tensor | None]:
        """Small data live where the network is, which spares a transfer every step."""
        points, cond = self._parts[part]
        trainer = self._own_trainer()
        n_bytes = points.nbytes + (0 if cond is None else cond.nbytes)
        if trainer is None or n_bytes > _MAX_DEVICE_BYTES:
            return points, cond
        device = trainer.strategy.root_device
        return points.to(device), None if cond is None else cond.to(device)

    def _own_trainer(self) -> Trainer | None:
        return getattr(self, "trainer", None)


def _check_finite(name: str, values: Tensor) -> None:
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(-1)
    if bad.any():
        row = int(bad.nonzero()[0])
        raise DataError(
            f"{name}: row {row} is not finite ({values[row].tolist()}), {int(bad.sum())} rows in all. Drop them."
        )


def as_data_module(
    data: Any, manifold: Manifold | None, *, seed: int, batch_size: int | None = None, **own: Any
) -> ManifoldDataModule:
    """A :class:`ManifoldDataModule` of the data, or the one that was given, checked against the other arguments.

    Args:
        data: a data module, or what its first argument may be.
        manifold: where points must lie; None to check only that they are finite.
        seed: of a new module.
        batch_size: of a new module; None for its default.
        own: further arguments of a new module; None where they are left out.

    Raises:
        ConfigError: if arguments are given beside a data module, or it is on another manifold.
    """
    given = {name: value for name, value in {**own, "batch_size": batch_size}.items() if value is not None}
    if not isinstance(data, ManifoldDataModule):
        return ManifoldDataModule(data, manifold, seed=seed, **given)
    if given:
        raise ConfigError(f"{', '.join(given)}: these belong to the data module that was given; set them there.")
    if manifold is not None and data.manifold not in (None, manifold):
        raise ConfigError(f"The data module's points are on {data.manifold}, the model is on {manifold}.")
    return data
