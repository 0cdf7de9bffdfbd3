"""The program: help, bad usage, exit codes, and a light start."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from manifold_diffusion._errors import CheckpointError
from manifold_diffusion.cli import main


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (
        ["--help"],
        ["fit", "--help"],
        ["sample", "--help"],
        ["evaluate", "-h"],
        ["plot", "--help"],
        ["info", "--help"],
    ):
        assert main(argv) == 0
        assert "usage: manifold-diffusion" in capsys.readouterr().out
    assert main(["--version"]) == 0


def test_bad_usage(fails: Any) -> None:
    assert "did you mean 'sample'?" in fails("sampel")
    assert "Name a command" in fails()
    assert "Unknown option --foo" in fails("--foo")


def test_debug_raises() -> None:
    with pytest.raises(CheckpointError):
        main(["--debug", "sample", "nothing-here"])


def test_interrupt_has_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from manifold_diffusion.cli import sample

    def interrupt(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "open_density", interrupt)
    assert main(["sample", "anything"]) == 130
    assert capsys.readouterr().err == "manifold-diffusion sample: interrupted\n"


def test_startup_is_light() -> None:
    code = (
        "import sys; from manifold_diffusion.cli import main; main(['--help']); assert 'torch' not in sys.modules;"
        "main(['info']);"
        "print([m for m in ('pytorch_lightning', 'lightning', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
