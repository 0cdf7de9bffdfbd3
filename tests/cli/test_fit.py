"""The command fit: what a run leaves, that it is reproducible, resumed, and not replaced by accident."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifold_diffusion import AutoregressiveKernelDensity, LearnedKernelDensity, RiemannianDiffusion
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_resumed_is_uninterrupted(
    places: Path,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    from manifold_diffusion.cli import fit

    def interrupt(network: Any, step: int) -> None:
        signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "_drawing", lambda *a: interrupt)
        options = ["--trainer.max_steps", "12", "--trainer.val_every", "6", "--figure_every", "8"]
        argv = ["fit", "--data", str(places), "--out_dir", str(tmp_path), *TINY, *options]
        if number == signal.SIGINT:
            assert main(argv) == 130
        else:
            with pytest.raises(SystemExit) as stop:
                main(argv)
            assert stop.value.code == 143
    assert f"manifold-diffusion fit --out_dir {tmp_path} --resume" in capsys.readouterr().err
    assert (tmp_path / "last.ckpt").exists() and not (tmp_path / "model").exists()
    assert main(["sample", str(tmp_path)]) == 2
    assert "not finished" in capsys.readouterr().err
    assert main(["fit", "--out_dir", str(tmp_path), "--resume", "--figure_every", "0"]) == 0
    one, two = (RiemannianDiffusion.from_pretrained(folder / "model").state_dict() for folder in (run_folder, tmp_path))
    assert all(torch.equal(one[k], two[k]) for k in one)


DENSITY = ("--trainer.progress", "false", "--trainer.accelerator", "cpu", "--trainer.max_steps", "4")


def test_learned_densities_are_fitted_and_resumed(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from manifold_diffusion.cli import fit

    def interrupt(network: Any, step: int) -> None:
        signal.raise_signal(signal.SIGINT)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    argv = ["fit", "--data", str(places), "--model.density", "LearnedKernelDensity", *DENSITY]
    argv += ["--model.density.components", "2", "--trainer.val_every", "2"]
    assert main([*argv, "--figure_every", "4", "--out_dir", str(whole)]) == 0
    assert (whole / "figures/step-0000004.png").exists()
    with monkeypatch.context() as patch:
        patch.setattr(fit, "_drawing", lambda *a: interrupt)
        assert main([*argv, "--figure_every", "3", "--out_dir", str(parts)]) == 130
    assert main(["fit", "--out_dir", str(parts), "--resume", "--figure_every", "0"]) == 0
    one, two = (LearnedKernelDensity.from_pretrained(folder / "model") for folder in (whole, parts))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    assert one.components == 2 and one.data == 120 and math.isfinite(one.metadata["validation NLL"])
    trainer = read_yaml(whole / "config.yaml")["trainer"]
    assert trainer["lr"] == LearnedKernelDensity.defaults["lr"] and trainer["batch_size"] == 15
    capsys.readouterr()
    assert main(["info", str(whole)]) == 0
    assert "LearnedKernelDensity on 120 points" in capsys.readouterr().out
    assert main(["fit", "--config", str(whole / "config.yaml"), "--out_dir", str(tmp_path / "again")]) == 0
    three = LearnedKernelDensity.from_pretrained(tmp_path / "again" / "model")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), three.state_dict().values(), strict=True))


def test_a_density_of_angles(tmp_path: Path) -> None:
    rows = torch.rand(60, 2, generator=torch.Generator().manual_seed(0))
    table, folder = tmp_path / "angles.csv", tmp_path / "run"
    table.write_text("a,b\n" + "\n".join(",".join(f"{v:.4f}" for v in row) for row in rows.tolist()))
    density = ["--model.density.neighbours", "8", "--model.density", "AutoregressiveKernelDensity"]
    density += ["--model.density.regressions", "[[12, 0.3], [6, 0.1]]"]
    argv = ["fit", "--data", str(table), "--model.manifold", "torus:2", *density, *DENSITY, "--figure_every", "0"]
    assert main([*argv, "--out_dir", str(folder)]) == 0
    model = AutoregressiveKernelDensity.from_pretrained(folder / "model")
    assert model.neighbours == 8 and model.regressions == ((12, 0.3), (6, 0.1)) and model.data == 48
    assert main(["sample", str(folder), "--n", "3", "--out", str(tmp_path / "x.csv")]) == 0


def test_a_density_has_no_other_parts(places: Path, tmp_path: Path, fails: Any) -> None:
    argv = ["fit", "--data", str(places), "--out_dir", str(tmp_path / "run"), *DENSITY]
    name = ["--model.density", "LearnedKernelDensity"]
    assert "no process" in fails(*argv, *name, "--model.process", "BrownianMotion")
    assert "leave out model.density.data" in fails(*argv, *name, "--model.density.data", "20")
    assert "no argument 'width_'" in fails(*argv, *name, "--model.density.width_", "20")
    assert "no class 'KernelDensity'" in fails(*argv, "--model.density", "KernelDensity")
    assert "got RiemannianDiffusion" in fails(*argv, "--model.density", "RiemannianDiffusion")
    assert "needs a Torus" in fails(*argv, "--model.density", "AutoregressiveKernelDensity")
    assert "at most half" in fails(*argv, *name, "--trainer.batch_size", "100")
    assert not (tmp_path / "run").exists()


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
