"""The disk cache keeps tables, repairs them, and does without when the disk fails."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from manifold_diffusion.heat_kernels import _cache
from manifold_diffusion.heat_kernels._compact_tables import CompactTables


def build() -> dict[str, np.ndarray]:
    return {"a": np.arange(6.0).reshape(2, 3)}


def test_cache_keeps_and_repairs(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path / "tables"))
    _cache.cached_arrays("t", {"v": 1}, build)
    (file,) = (tmp_path / "tables").iterdir()

    def never() -> dict[str, np.ndarray]:
        raise AssertionError("built again")

    np.testing.assert_array_equal(_cache.cached_arrays("t", {"v": 1}, never)["a"], build()["a"])
    content = bytearray(file.read_bytes())
    for damaged in (content[: len(content) // 2], b"", bytes(content[:200]) + b"\x01" * 40 + bytes(content[240:])):
        file.write_bytes(damaged)
        monkeypatch.setattr(_cache, "_warned", False)
        with pytest.warns(RuntimeWarning, match="damaged"):
            np.testing.assert_array_equal(_cache.cached_arrays("t", {"v": 1}, build)["a"], build()["a"])
        np.testing.assert_array_equal(_cache.cached_arrays("t", {"v": 1}, never)["a"], build()["a"])


def test_cache_that_cannot_be_written_warns_once(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(blocker / "tables"))
    monkeypatch.setattr(_cache, "_warned", False)
    with pytest.warns(RuntimeWarning, match="MANIFOLD_DIFFUSION_CACHE"):
        np.testing.assert_array_equal(_cache.cached_arrays("t", {}, build)["a"], build()["a"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _cache.cached_arrays("t", {}, build)


def test_full_disk_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(_cache, "_warned", False)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_cache.np, "savez", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        np.testing.assert_array_equal(_cache.cached_arrays("t", {}, build)["a"], build()["a"])
    assert list(tmp_path.iterdir()) == []


def test_xdg_cache_home(monkeypatch, tmp_path):
    monkeypatch.delenv("MANIFOLD_DIFFUSION_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _cache.cache_directory() == tmp_path / "manifold_diffusion"


def test_a_table_from_disk_equals_a_built_one(tmp_path, monkeypatch):
    monkeypatch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path))
    from manifold_diffusion.heat_kernels._compact_law import RotationLaw

    first, second = CompactTables(RotationLaw(), "so3"), CompactTables(RotationLaw(), "so3")
    a, b = first.arrays(), second.arrays()
    assert len(list(tmp_path.iterdir())) == 1
    assert all(np.array_equal(a[k], b[k]) for k in a)
