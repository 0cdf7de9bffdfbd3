"""Arrays that are costly to compute, kept on disk under the hash of what determines them."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .._files import replacing

__all__ = ["cache_directory", "cached_arrays"]

_warned = False


def cache_directory() -> Path:
    """``$MANIFOLD_DIFFUSION_CACHE``, else ``manifold_diffusion`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    own = os.environ.get("MANIFOLD_DIFFUSION_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "manifold_diffusion"


def cached_arrays(name: str, key: dict[str, Any], build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays that ``build()`` returns, from disk if they are there.

    The file is ``<name>-<hash of key and of nothing else>.npz``; put a version number into ``key`` and raise it when
    the method changes.
    Writing is atomic. A cache that can't be read or written costs a warning, once per process, and the time of
    ``build``; nothing else.

    Args:
        name: readable start of the file's name.
        key: everything that the arrays depend on, JSON-serialisable.
        build: computes the arrays; all must be finite.

    Returns:
        The arrays by name.
    """
    text = json.dumps(key, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    try:
        path = cache_directory() / f"{name}-{digest}.npz"
        found = _read(path, text)
    except (OSError, RuntimeError) as error:  # no home directory, no permission
        _warn(f"The table cache can't be read ({error}).")
        return build()
    if found is not None:
        return found
    arrays = build()
    try:
        _write(path, text, arrays)
    except OSError as error:
        _warn(f"The table cache {path.parent} can't be written ({error}).")
    return arrays


def _read(path: Path, text: str) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
        digest = str(arrays.pop("digest"))
        if str(arrays.pop("key")) != text or digest != _digest(arrays):
            raise ValueError("its content is not what was written")
        return arrays
    except Exception as error:  # zipfile, zlib, numpy and struct each raise their own class for a damaged file
        _warn(f"The cached table {path} is damaged ({error}); it is computed again.")
        return None


def _write(path: Path, text: str, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    members: dict[str, Any] = {**arrays, "key": np.array(text), "digest": np.array(_digest(arrays))}
    with replacing(path) as draft, open(draft, "wb") as file:
        np.savez(file, **members)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    state = hashlib.sha256()
    for k in sorted(arrays):
        state.update(f"{k} {arrays[k].dtype.str} {arrays[k].shape}".encode())
        state.update(np.ascontiguousarray(arrays[k]).tobytes())
    return state.hexdigest()


def _warn(message: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"{message} Tables are computed in memory instead. "
            "Set MANIFOLD_DIFFUSION_CACHE to a writable folder to keep them.",
            RuntimeWarning,
            stacklevel=2,
        )
