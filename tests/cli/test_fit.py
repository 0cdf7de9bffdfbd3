"""The command fit: what a run leaves, that it is reproducible, resumed, and not replaced by accident."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion.cli import main
from manifold_diffusion.cli.arguments import read_yaml
from manifold_diffusion.models import GenerativeModel

from .options import TINY


def test_fit_leaves_everything_in_its_folder(run_folder: Path) -> None:
    for name in (
        "config.yaml",
        "last.ckpt",
        "best.ckpt",
        "metrics.csv",
        "figures/step-0000012.png",
        "model/config.json",
    ):
        assert (run_folder / name).exists(), name
    metadata = RiemannianDiffusion.from_pretrained(run_folder / "model").metadata
    assert math.isfinite(metadata["validation NLL"]) and metadata["validation NLL standard error"] > 0
    assert metadata["data"] == "places" and metadata["points"].startswith("120 train, 15 val, 15 test")
    assert metadata["seed"] == 0 and metadata["command"].startswith("manifold-diffusion fit --data")
    assert "prior mismatch" in metadata


def test_flow_matching_and_flow_maps_are_named_by_their_parts(places: Path, tmp_path: Path) -> None:
    """A path process makes a flow, its objective a flow map; a flow map is sampled by jumps or along its flow."""
    for name, parts, kind in (
        ("flow", ["--model.process", "GeodesicFlow"], "RiemannianFlow"),
        ("map", ["--model.process", "GeodesicFlow", "--model.objective", "FlowMapMatching"], "FlowMap"),
    ):
        folder = tmp_path / name
        assert (
            main(["fit", "--data", str(places), *parts, *TINY, "--trainer.max_steps", "3", "--out_dir", str(folder)])
            == 0
        )
        assert type(GenerativeModel.from_pretrained(folder / "model")).__name__ == kind
        methods = [[], ["--method", "ode", "--steps", "2"]] + ([["--method", "map"]] if kind == "FlowMap" else [])
        for method in methods:
            out = tmp_path / "samples.csv"
            assert main(["sample", str(folder / "model"), "--n", "3", *method, "--out", str(out)]) == 0
            assert len(out.read_text().splitlines()) == 4
            out.unlink()


def test_the_saved_configuration_reproduces_the_weights(run_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)  # of no influence
    try:
        assert (
            main(
                ["fit", "--config", str(run_folder / "config.yaml"), "--out_dir", str(tmp_path), "--figure_every", "0"]
            )
            == 0
        )
    finally:
        torch.manual_seed(7_320_508_075)
    one, two = (RiemannianDiffusion.from_pretrained(folder / "model").state_dict() for folder in (run_folder, tmp_path))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    a, b = read_yaml(run_folder / "config.yaml"), read_yaml(tmp_path / "config.yaml")
    assert {**a, "out_dir": 0, "figure_every": 0} == {**b, "out_dir": 0, "figure_every": 0}


def test_interrupted_and_resumed_is_uninterrupted(
    places: Path, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from manifold_diffusion.cli import fit

    def interrupt(network: Any, step: int) -> None:
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_drawing", lambda *a: interrupt)
        options = ["--trainer.max_steps", "12", "--trainer.val_every", "6", "--figure_every", "8"]
        argv = ["fit", "--data", str(places), "--out_dir", str(tmp_path), *TINY, *options]
        assert main(argv) == 130
    assert f"manifold-diffusion fit --out_dir {tmp_path} --resume" in capsys.readouterr().err
    assert (tmp_path / "last.ckpt").exists() and not (tmp_path / "model").exists()
    assert main(["sample", str(tmp_path)]) == 2
    assert "not finished" in capsys.readouterr().err
    assert main(["fit", "--out_dir", str(tmp_path), "--resume", "--figure_every", "0"]) == 0
    one, two = (RiemannianDiffusion.from_pretrained(folder / "model").state_dict() for folder in (run_folder, tmp_path))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_run_is_not_replaced_by_accident(run_folder: Path, places: Path, tmp_path: Path, fails: Any) -> None:
    before = (run_folder / "config.yaml").read_bytes()
    assert "--overwrite" in fails("fit", "--data", str(places), "--out_dir", str(run_folder), *TINY)
    assert "no last.ckpt" in fails("fit", "--data", str(places), "--out_dir", str(tmp_path), "--resume", *TINY)
    assert "one of them" in fails("fit", "--data", str(places), "--out_dir", str(run_folder), "--resume", "--overwrite")
    assert (run_folder / "config.yaml").read_bytes() == before


def test_a_resumed_run_keeps_its_settings(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["fit", "--out_dir", str(run_folder), "--resume", "--model.network.width", "16", "--figure_every", "0"]
    assert main(argv) == 2
    assert "belongs to another run" in capsys.readouterr().err


def test_conditions_of_a_table(tmp_path: Path, fails: Any) -> None:
    rows = torch.rand(60, 3, generator=torch.Generator().manual_seed(0))
    table = tmp_path / "angles.csv"
    table.write_text("a,b,c\n" + "\n".join(",".join(f"{v:.4f}" for v in row) for row in rows.tolist()))
    data = ["--data", str(table), "--data.columns", "a,b", "--data.cond", "c", "--model.manifold", "torus:2"]
    argv = ["fit", *data, "--model.network.cond_dim", "1", "--out_dir", str(tmp_path / "run"), *TINY]
    assert main([*argv, "--trainer.max_steps", "2"]) == 0
    assert (
        main(
            [
                "sample",
                str(tmp_path / "run"),
                "--n",
                "4",
                "--steps",
                "2",
                "--cond",
                "0.5",
                "--out",
                str(tmp_path / "s.npz"),
            ]
        )
        == 0
    )
    assert np.load(tmp_path / "s.npz")["points"].shape == (4, 2)
    assert "--cond 0" in fails("sample", str(tmp_path / "run"))
    assert "takes 1" in fails("sample", str(tmp_path / "run"), "--cond", "1,2")
    assert "cond_dim" in fails("fit", *data, *TINY)
