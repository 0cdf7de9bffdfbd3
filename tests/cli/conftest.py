"""A table of places, a finished run on it, and commands that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from manifold_diffusion.cli import main

from .options import TINY


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 150 places around two towns."""
    generator = torch.Generator().manual_seed(0)
    around = torch.tensor([[48.0, 8.0], [-10.0, -60.0]]).repeat(75, 1)
    latlon = around + 12 * torch.randn(150, 2, generator=generator)
    path = tmp_path_factory.mktemp("data") / "places.csv"
    path.write_text("name,lat,lon\n" + "".join(f"p{i},{a:.6f},{b:.6f}\n" for i, (a, b) in enumerate(latlon.tolist())))
    return path


@pytest.fixture(scope="session")
def run_folder(places: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "places"
    options = ["--trainer.max_steps", "12", "--trainer.val_every", "6", "--figure_every", "12"]
    assert main(["fit", "--data", str(places), "--out_dir", str(folder), *TINY, *options]) == 0
    return folder


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command that must end with code 2 and one line on standard error; return the line."""

    def check(*argv: str) -> str:
        assert main(list(argv)) == 2
        captured = capsys.readouterr()
        lines = captured.err.splitlines()
        assert len(lines) == 1 and "error: " in lines[0] and "Traceback" not in lines[0]
        return lines[0]

    return check
