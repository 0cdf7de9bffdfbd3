"""Saved figures: the format follows the suffix, and a save that fails leaves the old file."""

from __future__ import annotations

from pathlib import Path

import pytest

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.manifolds import Torus
from manifold_diffusion.plotting import plot, save_figure

from .points import near_origin


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plot(Torus(2), near_origin(Torus(2), 5))
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(file, **_: object) -> None:
        Path(file).write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_format_follows_the_suffix(suffix: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    plot(Torus(2), near_origin(Torus(2), 5), path=path)
    assert path.read_bytes().startswith(magic)


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="suffix must be one of"):
        plot(Torus(2), near_origin(Torus(2), 5), path=tmp_path / "a.doc")
