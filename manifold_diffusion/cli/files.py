"""Data, models and results as files."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .._errors import CheckpointError, ConfigError, DataError
from .._files import try_writing, write_bytes
from .._typing import Batch
from ..data import PointSet, load_airports, load_csv, load_npz, points_to_latlon, split
from ..manifolds import Euclidean, Manifold, Sphere

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from ..models import GenerativeModel
    from ..models.learned_kernels import LearnedDensity

__all__ = [
    "DATA_DEFAULTS",
    "Data",
    "add_data_options",
    "check_folder",
    "check_least",
    "check_target",
    "draw",
    "load_data",
    "log_density",
    "open_density",
    "open_model",
    "parse_condition",
    "points_text",
    "read_points",
    "write_arrays",
    "write_text",
]

DATA_DEFAULTS: dict[str, Any] = {
    "path": "airports",
    "columns": None,
    "coordinates": "auto",
    "key": None,
    "cond": None,
    "fractions": [0.8, 0.1, 0.1],
    "split_seed": 0,
}

_HELP = {
    "path": "'airports', or a CSV, TSV, NPZ or NPY file; --data FILE is short for this",
    "columns": "columns of a table, in the order of the coordinates: names or numbers, such as lat,lon or [3, 4]",
    "coordinates": "what the columns are: auto, ambient, latlon, degrees or radians",
    "key": "name of the array in an NPZ file",
    "cond": "condition of each point: columns of a table, or the name of an array of the NPZ file",
    "fractions": "of training, validation and test points",
    "split_seed": "seed of the split",
}


class Data(NamedTuple):
    """Points of a data set in its three parts.

    Attributes:
        name: of the data set.
        source: to cite.
        train: training points with their conditions.
        val: validation points.
        test: test points.
        n_duplicates: how many repeated points were dropped.
    """

    name: str
    source: str
    train: Batch
    val: Batch
    test: Batch
    n_duplicates: int

    @property
    def counts(self) -> str:
        """The sizes of the parts, in words."""
        sizes = ", ".join(f"{len(getattr(self, part).x):,} {part}" for part in ("train", "val", "test"))
        return f"{sizes} ({self.n_duplicates} repeated points dropped)"


def add_data_options(parser: ArgumentParser, with_defaults: bool) -> None:
    """Declare ``--data.*``; without defaults they are None, for commands that take them from the model."""
    kinds: dict[str, Any] = {
        "path": str,
        "columns": list[str | int] | int | str,
        "coordinates": str,
        "key": str,
        "cond": list[str | int] | int | str,
        "fractions": list[float],
        "split_seed": int,
    }
    for name, kind in kinds.items():
        default = DATA_DEFAULTS[name] if with_defaults else None
        parser.add_argument(f"--data.{name}", type=kind | None, default=default, help=_HELP[name])


def load_data(options: Mapping[str, Any], manifold: Manifold, cond_dim: int = 0) -> Data:
    """Read, check and split a data set.

    Raises:
        ConfigError: the data are on another manifold, or conditions that don't go with the network.
        DataError: a file that can't be read, or bad rows in it.
    """
    options = {**DATA_DEFAULTS, **{k: v for k, v in options.items() if v is not None}}
    path, cond = str(options["path"]), options["cond"]
    if cond_dim and cond is None:
        raise ConfigError(
            f"The network has cond_dim={cond_dim} and the data have no conditions: name them with --data.cond, or "
            "set cond_dim to 0."
        )
    if cond is not None and not cond_dim:
        raise ConfigError(
            "data.cond names conditions and the network has none: set --model.network.cond_dim to their number."
        )
    if path == "airports":
        if manifold != Sphere(2):
            raise ConfigError(
                f"The airports are points of Sphere(2) and the model is on {manifold}. Name other data with "
                "--data, or another manifold."
            )
        if cond is not None or options["columns"] is not None:
            raise ConfigError("The airports have no columns to choose: leave data.columns and data.cond out.")
        points, conditions = load_airports(), None
    else:
        points = read_points(path, manifold, options)
        conditions = None if cond is None else _conditions(path, cond, cond_dim)
        if conditions is not None and len(conditions) != len(points):
            raise DataError(f"{path}: {len(conditions)} conditions for {len(points)} points.")
    if conditions is None:
        parts = split(points, options["fractions"], options["split_seed"])
        train, val, test = Batch(parts.train), Batch(parts.val), Batch(parts.test)
        return Data(points.name, points.source, train, val, test, parts.n_duplicates)
    rows = torch.arange(len(points), dtype=torch.float64)[:, None]  # row numbers are split, so that pairs stay together
    chosen = split(rows, options["fractions"], options["split_seed"], unique=False)
    index = [rows[:, 0].long() for rows in (chosen.train, chosen.val, chosen.test)]
    train, val, test = (Batch(points.points[i], conditions[i]) for i in index)
    return Data(points.name, points.source, train, val, test, 0)


def read_points(path: str, manifold: Manifold, options: Mapping[str, Any]) -> PointSet:
    """Points of a file, all of them, with the options ``columns``, ``coordinates`` and ``key``.

    Raises:
        ConfigError: options for another kind of file.
        DataError: a file that can't be read, or bad rows in it.
    """
    options = {**DATA_DEFAULTS, **{k: v for k, v in options.items() if v is not None}}
    columns = options["columns"]
    if Path(path).suffix.lower() in (".npz", ".npy"):
        if columns is not None:
            raise ConfigError("data.columns is for tables; an NPZ file has arrays: name one with --data.key.")
        points = load_npz(path, manifold, options["key"], options["coordinates"])
        _check_stated_manifold(path, manifold)
        return points
    if options["key"] is not None:
        raise ConfigError("data.key is for NPZ files; a table has columns: name them with --data.columns.")
    return load_csv(path, manifold, _as_columns(columns), options["coordinates"])


def _check_stated_manifold(path: str, manifold: Manifold) -> None:
    """Compare with the manifold that a file of ``sample`` names: points of one may pass for points of another."""
    import numpy as np

    if Path(path).suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            stated = str(arrays["manifold"]) if "manifold" in arrays.files else repr(manifold)
        if stated != repr(manifold):
            raise DataError(f"{path} holds points of {stated}; the model is on {manifold}.")


def _conditions(path: str, cond: Any, cond_dim: int) -> Tensor:
    space = Euclidean(cond_dim)
    if Path(path).suffix.lower() in (".npz", ".npy"):
        return load_npz(path, space, str(cond)).points
    columns = _as_columns(cond) or []
    if len(columns) != cond_dim:
        raise ConfigError(f"data.cond names {len(columns)} columns and the network has cond_dim={cond_dim}.")
    return load_csv(path, space, columns).points


def _as_columns(columns: Any) -> list[str | int] | None:
    """Columns from a list, or from a text such as ``lat,lon`` or ``3,4``."""
    if columns is None:
        return None
    words = (
        [w.strip() for w in columns.split(",")]
        if isinstance(columns, str)
        else columns
        if isinstance(columns, list)
        else [columns]
    )
    return [int(w) if isinstance(w, str) and w.isdecimal() else w for w in words]


def open_model(folder: str, trusted: Sequence[str] = (), device: str = "cpu") -> GenerativeModel:
    """Saved model in ``folder`` or ``folder/model``, or ``hf://owner/name`` of the Hugging Face Hub.

    Raises:
        CheckpointError: there is none, or it is truncated or altered, or a density without a process.
    """
    from ..models import GenerativeModel

    model = open_density(folder, trusted, device)
    if not isinstance(model, GenerativeModel):
        raise CheckpointError(
            f"{folder} holds a {type(model).__name__}, which has no process. It can be sampled, evaluated and plotted."
        )
    return model


def open_density(folder: str, trusted: Sequence[str] = (), device: str = "cpu") -> GenerativeModel | LearnedDensity:
    """The same, learned kernel densities included.

    Raises:
        CheckpointError: there is none, or it is truncated or altered.
    """
    from ..models import GenerativeModel
    from ..models.learned_kernels import LearnedDensity
    from ..models.pretrained import PretrainedModel

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device} can't be used: {str(error).splitlines()[0]}") from error
    path: str | Path = Path(folder)
    if folder.startswith("hf://"):
        path = folder.removeprefix("hf://")
    elif not path.is_dir():
        raise CheckpointError(
            f"There is no folder {folder}. For a model of the Hugging Face Hub write hf://owner/name."
        )
    elif not (path / "config.json").exists():
        if (path / "model" / "config.json").exists():
            path = path / "model"
        elif (path / "last.ckpt").exists():
            raise CheckpointError(
                f"The run in {folder} is not finished: continue it with `manifold-diffusion fit --out_dir {folder} "
                "--resume`."
            )
    model = PretrainedModel.from_pretrained(path, trusted=trusted, device=device)
    if not isinstance(model, GenerativeModel | LearnedDensity):
        raise CheckpointError(f"{folder} holds a {type(model).__name__}, not a density on a manifold.")
    return model


def draw(
    model: GenerativeModel | LearnedDensity, n: int, generator: torch.Generator, cond: Tensor | None = None, **how: Any
) -> Tensor:
    """Samples of a model.

    Args:
        model: the model.
        n: how many.
        generator: source of the draws.
        cond: conditions; None for none.
        how: options of ``sample``, those that are None or False left out.

    Raises:
        ConfigError: if a solver is chosen for a density that has none.
    """
    from ..models import GenerativeModel

    given = {name: value for name, value in how.items() if value is not None and value is not False}
    if isinstance(model, GenerativeModel):
        return model.sample(n, cond=cond, generator=generator, **given)
    needless = [name for name in ("method", "steps", "return_trajectory") if name in given]
    if needless:
        name = needless[0].removeprefix("return_")
        raise ConfigError(f"A {type(model).__name__} is sampled without a solver: leave out --{name}.")
    return model.sample(n, generator=generator)


def log_density(model: GenerativeModel | LearnedDensity, x: Tensor, cond: Tensor | None = None) -> Tensor:
    """Log density of points, with their conditions if they have some."""
    from ..models import GenerativeModel

    return model.log_prob(x, cond) if isinstance(model, GenerativeModel) else model.log_prob(x)


def parse_condition(text: str | None, model: GenerativeModel | LearnedDensity) -> Tensor | None:
    """Condition ``(cond_dim,)`` from a text such as ``0.5,1``."""
    cond_dim = getattr(model.network, "cond_dim", 0)
    if text is None:
        if cond_dim:
            raise ConfigError(
                f"The model is conditional: give its {cond_dim} numbers, --cond {','.join(['0'] * cond_dim)}."
            )
        return None
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--cond must be numbers separated by commas; got {text!r}.") from None
    if len(values) != cond_dim:
        raise ConfigError(f"--cond has {len(values)} numbers and the model takes {cond_dim}.")
    like = model.like
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def points_text(manifold: Manifold, points: Tensor, log_prob: Tensor | None = None) -> str:
    """Table of points: ``lat,lon`` in degrees on ``Sphere(2)``, else the entries of each point; and the log density."""
    if manifold == Sphere(2):
        names, values = ["lat", "lon"], points_to_latlon(points.double())
    else:
        values = points.flatten(1).double()
        names = [f"x{i}" for i in range(values.shape[1])]
    if log_prob is not None:
        names, values = [*names, "log_prob"], torch.cat([values, log_prob.double()[:, None]], 1)
    digits = 9 if points.dtype == torch.float32 else 17
    lines = [",".join(names), *[",".join(f"{v:.{digits}g}" for v in row) for row in values.tolist()]]
    return "\n".join(lines) + "\n"


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_whole(path, text.encode())


def write_arrays(path: str | Path, **arrays: Any) -> None:
    """Write an NPZ file, whole or not at all."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(path, buffer.getvalue())


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        DataError: it can't be written; a file that was there is unchanged.
    """
    try:
        write_bytes(path, content)
    except OSError as error:
        raise DataError(f"{path} can't be written: {error.strerror or error}.") from error


def check_target(path: str | None, suffixes: Sequence[str]) -> str | None:
    """Suffix of an output file, after a check, made before the work, that it is known and that it can be written."""
    if path is None:
        return None
    suffix = Path(path).suffix.lower()
    if suffixes and suffix not in suffixes:
        raise ConfigError(f"--out {path}: the suffix must be one of {', '.join(suffixes)}.")
    if Path(path).is_dir():
        raise ConfigError(f"--out {path} is a folder; name a file.")
    _check_parent(path)
    try:
        try_writing(path)
    except OSError as error:
        raise ConfigError(f"--out {path} can't be written: {error.strerror or error}.") from error
    return suffix


def check_folder(path: str) -> Path:
    """Folder of output files, after a check, made before the work, that it can be made and written to."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {path} is a file; name a folder.")
    _check_parent(path)
    made = not folder.exists()
    try:
        folder.mkdir(exist_ok=True)
        try:
            try_writing(folder / "report.json")
        finally:
            if made:
                folder.rmdir()
    except OSError as error:
        raise ConfigError(f"--out {path} can't be written: {error.strerror or error}.") from error
    return folder


def _check_parent(path: str) -> None:
    parent = Path(path).absolute().parent
    if not parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {parent}.")


def check_least(option: str, value: int, least: int) -> None:
    """Refuse a number of points that is too small."""
    if value < least:
        raise ConfigError(f"--{option} is {value}; expected at least {least}.")
