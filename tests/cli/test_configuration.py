"""Options and files: unknown keys, wrong values, bad files, and which of two settings wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manifold_diffusion.cli import main
from manifold_diffusion.cli._yaml import load_yaml
from manifold_diffusion.cli.arguments import merge

from .options import TINY


def test_unknown_keys_fail_with_the_nearest(places: Path, tmp_path: Path, fails: Any) -> None:
    out = ["--data", str(places), "--out_dir", str(tmp_path / "run")]
    assert "did you mean '--trainer.max_steps'?" in fails("fit", *out, "--trainer.max_stepz", "3")
    assert "TangentMLP has no argument 'widht'; did you mean 'width'?" in fails(
        "fit", *out, "--model.network.widht", "3"
    )
    assert "did you mean 'TangentMLP'?" in fails("fit", *out, "--model.network", "TangentMPL")
    assert "did you mean 'sphere'?" in fails("fit", *out, "--model.manifold", "spere:2")
    assert "did you mean 'gradient_clip_val'" in fails(
        "fit", *out, "--trainer.trainer_options", "{gradient_clip_vall: 1}"
    )
    config = tmp_path / "c.yaml"
    config.write_text("trainer:\n  max_stepz: 3\n")
    assert "'trainer.max_stepz' in " in (line := fails("fit", *out, "--config", str(config)))
    assert "did you mean 'max_steps'?" in line
    config.write_text("max_steps: 3\n")
    assert "did you mean 'trainer.max_steps'?" in fails("fit", *out, "--config", str(config))
    assert not (tmp_path / "run").exists()


def test_wrong_values_fail(places: Path, tmp_path: Path, fails: Any) -> None:
    out = ["--data", str(places), "--out_dir", str(tmp_path / "run"), *TINY]
    assert "trainer.max_steps is 'abc'; expected int or null" in fails("fit", *out, "--trainer.max_steps", "abc")
    assert "'best', 'last'" in fails("fit", *out, "--trainer.keep", "worst")
    assert "needs a value" in fails("fit", *out, "--seed")
    assert "lr" in fails("fit", *out, "--trainer.lr", "-1")
    assert "accelerator" in fails("fit", *out, "--trainer.accelerator", "abacus")
    assert "group of options" in fails("fit", *out, "--trainer", "3")
    line = fails("fit", *out[:4], "--model.density", "LearnedKernelDensity", "--model.density.width", "abc")
    assert "'abc'" in line and len(line) < 200  # without the data
    assert not (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.parametrize("text", ["a: 1\n  b: 2\n", "- 1\n", "a: 1\na: 2\n", "a: !!python/object/apply:os.getcwd []\n"])
def test_bad_yaml_fails(text: str, tmp_path: Path, fails: Any) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert "c.yaml" in fails("fit", "--config", str(tmp_path / "c.yaml"))


def test_missing_files(tmp_path: Path, fails: Any) -> None:
    assert "can't be read" in fails("fit", "--config", str(tmp_path / "c.yaml"))
    assert "can't be read" in fails("fit", "--data", str(tmp_path / "d.csv"), *TINY)
    for command in ("sample", "evaluate", "plot"):
        assert "no folder" in fails(command, "runs/nothing-here")
        assert "folder of a model" in fails(command)


def test_impossible_combinations_fail(places: Path, fails: Any) -> None:
    data = ["--data", str(places)]
    assert "no conditions" in fails("fit", *data, "--model.network.cond_dim", "2")
    assert "Sphere(2)" in fails("fit", "--model.manifold", "torus:2")
    assert "columns" in fails("fit", *data, "--model.manifold", "so3")
    assert "closed-form" in fails(
        "fit", *data, "--model.process.n_steps", "5", "--model.objective", "DenoisingScoreMatching"
    )
    other = '{"class_path": "BrownianMotion", "init_args": {"manifold": "sphere:3"}}'
    assert "Sphere(3)" in fails("fit", *data, "--model.process", other)
    assert "trusted" in fails("fit", *data, "--model.network", "subprocess.Popen")


def test_print_config_can_be_given_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "--model.manifold",
        "product:so3,euclidean:3",
        "--trainer.lr",
        "1e-3",
        "--trainer.gradient_clip",
        "null",
        *TINY,
    ]
    assert main(["fit", *argv, "--print_config"]) == 0
    first = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(first)
    assert main(["fit", "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    config = load_yaml(first, "")
    assert config["trainer"]["lr"] == 1e-3 and config["trainer"]["gradient_clip"] is None
    assert config["model"]["manifold"] == "product:so3,euclidean:3"
    assert [p["init_args"]["manifold"] for p in config["model"]["process"]["init_args"]["processes"]] == [
        "so3",
        "euclidean:3",
    ]


def test_later_files_and_options_win(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(
        "seed: 1\nmodel:\n  network:\n    class_path: TangentMLP\n    init_args: {width: 8, depth: 1}\n"
    )
    (tmp_path / "b.yaml").write_text("seed: 2\nmodel: {network: {width: 16}}\ntrainer: {lr: 1e-4}\n")
    files = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    argv = ["fit", "--seed", "0", *files, "--model.network.init_args.n_frequencies", "4", "--print_config"]
    assert main(argv) == 0
    config = load_yaml(capsys.readouterr().out, "")
    network = config["model"]["network"]["init_args"]
    assert (network["width"], network["depth"], network["n_frequencies"]) == (16, 1, 4)
    assert (config["seed"], config["trainer"]["lr"]) == (2, 1e-4)


def test_arguments_of_another_class_are_dropped() -> None:
    old = {"class_path": "a.A", "init_args": {"x": 1}}
    assert merge({"s": old}, {"s": {"class_path": "a.B", "init_args": {"y": 2}}}) == {
        "s": {"class_path": "a.B", "init_args": {"y": 2}}
    }
    assert merge({"s": old}, {"s": {"init_args": {"y": 2}}})["s"]["init_args"] == {"x": 1, "y": 2}
