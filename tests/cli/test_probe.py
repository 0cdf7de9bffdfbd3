"""The command probe: its report, its numbers, its pictures, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from manifold_diffusion import AnalyticDiffusion, RiemannianFlow
from manifold_diffusion.cli import main
from manifold_diffusion.cli.files import points_text
from manifold_diffusion.cli.probe_report import _straight
from manifold_diffusion.manifolds import Sphere, Torus
from manifold_diffusion.metrics import Straightness
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LogSchedule

FEW = ("--n", "60", "--points", "6", "--levels", "3", "--regions", "4", "--path-steps", "4", "--steps", "4")
PICTURES = {"coverage.png", "distances.png", "noise.png", "regions.png"}


def test_probe_with_the_split_of_the_training(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report"
    assert main(["probe", str(run_folder), *FEW, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "[1/8] samples" in printed.err and "[8/8] paths" in printed.err
    assert {p.name for p in out.iterdir()} == PICTURES | {"report.md", "report.json"}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    text, numbers = (out / "report.md").read_text(), json.loads((out / "report.json").read_text())
    assert "120 training points, 15 held-out points, 60 samples; seed 0; manifold_diffusion" in text
    assert text.split("\n## ")[0].rstrip() in printed.out
    for words in ("copies: AUC", "levels of the density", "dimension at noise", "spectral gap", "excess energy"):
        assert words in text
    assert numbers["points"] == {"train": 120, "held-out": 15, "samples": 60}
    assert numbers["noise"]["spectral gap"] == 1.0 and len(numbers["held out dimension"]["tau"]) == 3
    assert numbers["command"].startswith("manifold-diffusion probe") and numbers["versions"]["torch"]


@pytest.fixture
def memorising(tmp_path: Path) -> list[str]:
    """A model that returns its training points, and two files of points of the uniform law."""
    M, g = Sphere(2), torch.Generator().manual_seed(0)
    paths = [tmp_path / f"{name}.csv" for name in ("train", "test")]
    points = [M.random_uniform(100, generator=g, dtype=torch.float64) for _ in paths]
    for path, x in zip(paths, points, strict=True):
        path.write_text(points_text(M, x))
    AnalyticDiffusion(M, points[0], BrownianMotion(M, LogSchedule(1e-6, 14.0))).save_pretrained(tmp_path / "model")
    few = FEW[: FEW.index("--steps")]  # an exact model draws without steps
    return ["probe", str(tmp_path / "model"), "--train", str(paths[0]), "--test", str(paths[1]), *few]


def test_probe_finds_a_model_that_memorises(memorising: list[str], tmp_path: Path) -> None:
    assert main([*memorising, "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "copies, or a model too concentrated" in text and "too narrow" in text
    assert "collapses onto training points" in text and "knows one training point" in text
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert numbers["memorisation"]["z"] > 8 and numbers["density levels"]["p_value"] < 1e-6


def test_probe_can_not_judge_copies_by_held_out_points_of_the_training_set(
    memorising: list[str], tmp_path: Path
) -> None:
    (tmp_path / "test.csv").write_text((tmp_path / "train.csv").read_text())
    assert main([*memorising, "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "60 of 60 held-out points stand in the training set" in text and "no sign of copies" not in text
    assert "hardly be seen: take these" in text


@pytest.mark.parametrize(
    ("energy", "length", "distance", "error", "reading"),
    [
        ([1.0, 4.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0], 1e-9, "one step samples them"),
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 2e-8, 0.0], 0.0, "Nothing moves"),
        ([1e26, 2e26, 1e24], [1e13, 1e13, 1e12], [5.0, 9.0, 7.0], 7e24, "raise --path_steps"),
        ([1.0, 1.0, 1.0], [0.8, 0.8, 0.8], [1.0, 1.0, 1.0], 1e-9, "raise --path_steps"),  # shorter than geodesics
        ([1.1, 2.5, 4.0], [1.0, 1.1, 1.2], [1.0, 1.0, 1.0], 1e-3, "raise --points"),
        ([2.0, 2.1, 1.9], [1.1, 1.1, 1.1], [1.0, 1.0, 1.0], 1e-3, "21% of the excess"),
    ],
)
def test_the_reading_of_paths_follows_from_their_sizes(
    energy: list[float], length: list[float], distance: list[float], error: float, reading: str
) -> None:
    paths = Straightness(torch.tensor(energy), torch.tensor(length), torch.tensor(distance), error)
    found: Any = SimpleNamespace(paths=paths)
    assert reading in _straight(found) and len(str(paths)) < 120
    assert paths.detour > 0.9 or "raise --path_steps" in reading


@pytest.mark.slow
def test_probe_repeats_with_its_seed(memorising: list[str], tmp_path: Path) -> None:
    found = []
    for seed, name in (("1", "a"), ("1", "b"), ("2", "c")):
        assert main([*memorising, "--seed", seed, "--out", str(tmp_path / name)]) == 0
        found.append(json.loads((tmp_path / name / "report.json").read_text()))
        del found[-1]["command"]
    assert found[0] == found[1] and found[0]["paths"] != found[2]["paths"]


def test_probe_says_what_a_flow_does_not_offer(tmp_path: Path) -> None:
    M = Torus(2)
    RiemannianFlow(M, network=TangentMLP(GeodesicFlow(M), width=8, depth=1, n_frequencies=4)).save_pretrained(
        tmp_path / "model"
    )
    paths = [tmp_path / f"{name}.csv" for name in ("train", "test")]
    for path in paths:
        path.write_text(points_text(M, M.random_uniform(40, generator=torch.Generator().manual_seed(len(path.name)))))
    files = [
        "--train",
        str(paths[0]),
        "--test",
        str(paths[1]),
        "--data.columns",
        "x0,x1",
        "--data.coordinates",
        "radians",
    ]
    report = tmp_path / "report"
    report.mkdir()
    for name in ("noise.png", "other.png"):  # of an earlier report of another kind of model; of somebody else
        (report / name).write_text("")
    assert main(["probe", str(tmp_path / "model"), *files, *FEW, "--out", str(report)]) == 0
    text = (report / "report.md").read_text()
    assert not (report / "noise.png").exists() and (report / "other.png").exists()
    assert "## Not available" in text and "velocity, not a score" in text and "noise.png" not in text


def test_probe_refuses_bad_usage_before_work(run_folder: Path, places: Path, tmp_path: Path, fails: Any) -> None:
    run, table = str(run_folder), str(places)
    (tmp_path / "file").write_text("")
    assert "is a file" in fails("probe", run, "--out", str(tmp_path / "file"))
    assert "no folder" in fails("probe", run, "--out", str(tmp_path / "a" / "b"))
    assert "go together" in fails("probe", run, "--train", table)
    assert "same file" in fails("probe", run, "--train", table, "--test", table)
    other = tmp_path / "other.csv"
    other.symlink_to(places)
    assert "same file" in fails("probe", run, "--train", table, "--test", str(other))
    other.unlink()
    other.write_text(places.read_text())
    files = ("--train", table, "--test", str(other))
    assert "Give either" in fails("probe", run, *files, "--data", table)
    assert "multiple of 4" in fails("probe", run, "--path-steps", "6", "--out", str(tmp_path / "r"))
    assert "n_samples" in fails("probe", run, "--n", "1", "--out", str(tmp_path / "r"))
    assert "Unknown option --trian" in fails("probe", run, "--trian", table)
    assert "no folder" in fails("probe", str(tmp_path / "nothing"))
    other.write_text("name,lat,lon\np,1.0,oops\n")
    assert "oops" in fails("probe", run, *files)
    assert not (tmp_path / "r").exists()
