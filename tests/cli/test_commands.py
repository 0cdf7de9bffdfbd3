"""The commands that use a finished run: sample, evaluate, plot and info."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifold_diffusion import AnalyticDiffusion, LearnedKernelDensity, RiemannianDiffusion
from manifold_diffusion.cli import main
from manifold_diffusion.cli.build import build_model
from manifold_diffusion.manifolds import Ball, Sphere
from manifold_diffusion.processes import BrownianMotion

from .options import TINY


def test_sample_to_a_table(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.csv"
    assert main(["sample", str(run_folder), "--n", "5", "--steps", "3", "--log-prob", "--out", str(out)]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "lat,lon,log_prob" and len(lines) == 6
    assert main(["sample", str(run_folder / "model"), "--n", "5", "--steps", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.rsplit(",", 1)[0] for line in lines] == printed  # same seed, same points


def test_sample_to_arrays(run_folder: Path, tmp_path: Path, fails: Any) -> None:
    out = tmp_path / "s.npz"
    argv = ["sample", str(run_folder), "--n", "4", "--steps", "3", "--method", "sde", "--trajectory", "--seed", "5"]
    assert main([*argv, "--out", str(out)]) == 0
    arrays = np.load(out, allow_pickle=False)
    assert arrays["points"].shape == (4, 3) and arrays["trajectory"].shape == (4, 4, 3)
    model = RiemannianDiffusion.from_pretrained(run_folder / "model")
    x = model.sample(4, steps=3, method="sde", generator=torch.Generator().manual_seed(5))
    assert np.array_equal(x.numpy(), arrays["points"])
    assert "Euclidean(3)" in fails("fit", "--data", str(out), "--model.manifold", "euclidean:3", *TINY)


def test_sample_refuses_bad_usage(run_folder: Path, tmp_path: Path, fails: Any) -> None:
    run = str(run_folder)
    assert "suffix" in fails("sample", run, "--out", "samples.xlsx")
    assert "no folder" in fails("sample", run, "--out", str(tmp_path / "a" / "s.csv"))
    assert ".npz" in fails("sample", run, "--trajectory", "--out", "s.csv")
    assert "'ode' or 'sde'" in fails("sample", run, "--method", "pde")
    assert "--n is -1" in fails("sample", run, "--n", "-1")
    (tmp_path / "s.csv").mkdir()
    assert "is a folder" in fails("sample", run, "--out", str(tmp_path / "s.csv"))
    assert "--device" in fails("sample", run, "--device", "abacus")
    assert "Unexpected argument" in fails("sample", run, "another")
    assert "Unknown option --methode" in fails("sample", run, "--methode", "sde")


def test_targets_that_can_not_be_written_are_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: Any
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    for command, name in (("sample", "s.csv"), ("evaluate", "e.json"), ("plot", "f.png"), ("probe", "report")):
        line = fails(command, "no-model", "--out", str(tmp_path / name))
        assert f"{name} can't be written: Permission denied." in line
    assert list(tmp_path.iterdir()) == []


def test_evaluate(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "m.json"
    assert (
        main(
            [
                "evaluate",
                str(run_folder),
                "--n",
                "40",
                "--permutations",
                "20",
                "--c2st",
                "--c2st",
                "false",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    table = capsys.readouterr().out
    results = json.loads(out.read_text())
    for name in ("model (exact)", "KDE, one bandwidth", "KDE, mixture", "KDE, adaptive"):
        assert name in table and results["test nll"][name]["standard_error"] > 0
    assert 0 < results["two-sample tests"]["p_value"] <= 1 and "real vs real" in results["two-sample tests"]
    assert results["points"].startswith("120 train, 15 val, 15 test")  # the split of the training
    model = RiemannianDiffusion.from_pretrained(run_folder / "model")
    assert results["test nll"]["uniform"]["value"] == pytest.approx(math.log(4 * math.pi))
    assert model.metadata["data options"] == results["data options"]


def test_a_closed_form_model_is_evaluated_and_drawn(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sphere = Sphere(2)
    points = sphere.random_uniform(50, generator=torch.Generator().manual_seed(0))
    AnalyticDiffusion.cross_validated(sphere, points).save_pretrained(tmp_path / "model")
    model, data = str(tmp_path / "model"), ["--data", str(places)]
    assert main(["evaluate", model, *data, "--n", "20", "--permutations", "10"]) == 0
    table = capsys.readouterr().out
    assert "model (exact)" in table and "20 samples against" in table
    figure = tmp_path / "f.png"
    assert main(["plot", model, *data, "--n", "20", "--resolution", "12", "--out", str(figure)]) == 0
    assert figure.stat().st_size > 10_000


def test_a_model_without_a_heat_kernel_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifold = Ball(2)
    points = manifold.random_uniform(60, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "points.npz", points.numpy())
    RiemannianDiffusion(manifold, BrownianMotion(manifold, n_steps=5)).save_pretrained(tmp_path / "model")
    numbers = tmp_path / "numbers.json"
    argv = ["evaluate", str(tmp_path / "model"), "--data", str(tmp_path / "points.npz"), "--out", str(numbers)]
    assert main([*argv, "--n", "10", "--permutations", "10", "--steps", "3"]) == 0
    assert "no heat kernel: no kernel densities" in capsys.readouterr().out
    found = json.loads(numbers.read_text())
    assert set(found["test nll"]) == {"model (exact)", "uniform"}
    assert found["two-sample tests"]["kernel"] == "chordal Gaussian"


def test_learned_kernels_are_drawn_evaluated_and_plotted(
    places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Any
) -> None:
    points = Sphere(2).random_uniform(50, generator=torch.Generator().manual_seed(0))
    LearnedKernelDensity(Sphere(2), points).save_pretrained(tmp_path / "model")
    model, data = str(tmp_path / "model"), ["--data", str(places)]
    assert main(["evaluate", model, *data, "--n", "20", "--permutations", "10"]) == 0
    table = capsys.readouterr().out
    assert "model (exact)" in table and "20 samples against" in table
    assert main(["sample", model, "--n", "4", "--log_prob", "true"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    figure = tmp_path / "f.png"
    assert main(["plot", model, *data, "--n", "20", "--resolution", "12", "--out", str(figure)]) == 0
    assert figure.stat().st_size > 10_000
    assert "without a solver: leave out --steps" in fails("sample", model, "--steps", "3")
    assert "has no process" in fails("probe", model)
    assert main(["evaluate", model, *data, "--steps", "5"]) == 2
    captured = capsys.readouterr()
    assert "leave out --steps" in captured.err and captured.out == ""


def test_evaluate_on_other_data(run_folder: Path, places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "evaluate",
        str(run_folder),
        "--n",
        "0",
        "--baselines",
        "false",
        "--data.fractions",
        "0,0,1",
        "--data",
        str(places),
    ]
    assert main(argv) == 0
    assert "0 train, 0 val, 150 test" in capsys.readouterr().out


def test_models_of_another_manifold_are_refused(tmp_path: Path, places: Path, fails: Any) -> None:
    build_model({"manifold": "torus:3", "network": {"width": 8, "n_frequencies": 4}}, 0).save_pretrained(tmp_path / "m")
    assert "Torus(3)" in fails("evaluate", str(tmp_path / "m"), "--data", "airports")
    assert "Torus(3)" in fails("evaluate", str(tmp_path / "m"), "--data", str(places))
    assert "name them with --data" in fails("plot", str(tmp_path / "m"))


def test_altered_models_are_refused(run_folder: Path, tmp_path: Path, fails: Any) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((run_folder / "model" / name).read_bytes())
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-10])
    assert "truncated or altered" in fails("sample", str(tmp_path))


def test_plot(run_folder: Path, tmp_path: Path, fails: Any) -> None:
    out = tmp_path / "f.png"
    assert main(["plot", str(run_folder), "--n", "20", "--resolution", "12", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "suffix" in fails("plot", str(run_folder), "--out", "f.txt")
    assert "at least 1" in fails("plot", str(run_folder), "--n", "0")


def test_info(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    table = capsys.readouterr().out
    for name in ("sphere:2", "so3", "hyperboloid:3", "product:so3,euclidean:3"):
        assert name in table
    assert main(["info", "sphere:5"]) == 0
    assert "BrownianMotion" in capsys.readouterr().out
    assert main(["info", str(run_folder)]) == 0
    card = capsys.readouterr().out
    assert "sphere:2" in card and "validation NLL" in card and "TangentMLP" in card
