"""The command line, run in this process through ``main``."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import to_config
from manifold_diffusion._errors import CheckpointError, ConfigError
from manifold_diffusion.cli import main
from manifold_diffusion.cli.arguments import load_yaml, merge, read_yaml
from manifold_diffusion.cli.build import build_model, model_section
from manifold_diffusion.cli.names import manifold_name, normalise, parse_manifold
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Product, Sphere, Torus
from manifold_diffusion.testing import instances

TINY = (
    *("--model.network.width", "8", "--model.network.depth", "1", "--model.network.n_frequencies", "4"),
    *("--trainer.progress", "false", "--trainer.accelerator", "cpu", "--figure_every", "0"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 150 places around two towns."""
    generator = torch.Generator().manual_seed(0)
    around = torch.tensor([[48.0, 8.0], [-10.0, -60.0]]).repeat(75, 1)
    latlon = around + 12 * torch.randn(150, 2, generator=generator)
    path = tmp_path_factory.mktemp("data") / "places.csv"
    path.write_text("name,lat,lon\n" + "".join(f"p{i},{a:.6f},{b:.6f}\n" for i, (a, b) in enumerate(latlon.tolist())))
    return path


@pytest.fixture(scope="module")
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


# ---------------------------------------------------------------------- fit


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


# ---------------------------------------------------------------------- configuration


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


# ---------------------------------------------------------------------- names and parts


@pytest.mark.parametrize(
    ("name", "manifold"),
    [
        ("sphere:2", Sphere(2)),
        ("torus:7", Torus(7)),
        ("so3", SO3()),
        ("hyperboloid:3", Hyperboloid(3)),
        ("euclidean:3", Euclidean(3)),
        ("product:so3,euclidean:3", Product(SO3(), Euclidean(3))),
    ],
)
def test_short_names_round_trip(name: str, manifold: Any) -> None:
    assert parse_manifold(name) == manifold
    assert manifold_name(to_config(manifold)) == name


@pytest.mark.parametrize("manifold", [m for _, m in instances()], ids=repr)
def test_every_manifold_has_a_written_form(manifold: Any) -> None:
    written = manifold_name(to_config(manifold))
    assert normalise("manifold", written) == to_config(manifold)


@pytest.mark.parametrize(
    "text", ["sphere", "sphere:x", "sphere:0", "so3:2", "product:", "product:so3,product:so3", "cube:3", ""]
)
def test_bad_short_names(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_manifold(text)


@pytest.mark.parametrize("name", ["euclidean:2", "sphere:2", "product:sphere:1,euclidean:2"])
def test_a_model_is_rebuilt_from_its_section(name: str) -> None:
    network = {"width": 8, "depth": 1, "n_frequencies": 4}
    model = build_model({"manifold": name, "network": network}, seed=3)
    again = build_model(model_section(model), seed=3)
    assert to_config(again) == to_config(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_parts_of_a_product_get_their_factors() -> None:
    manifold = {"class_path": "Product", "init_args": {"factors": ["so3", "euclidean:2"], "weights": [1.0, 3.0]}}
    processes = [{"class_path": "BrownianMotion", "schedule": {"class_path": "LinearSchedule"}}, {"sigma": 2.0}]
    process = {"class_path": "ProductProcess", "init_args": {"processes": processes}}
    model = build_model({"manifold": manifold, "process": process, "network": {"width": 8, "n_frequencies": 4}}, seed=0)
    assert model.manifold == Product(SO3(), Euclidean(2), weights=[1.0, 3.0]) == model.process.manifold
    assert type(model.process.processes[0].schedule).__name__ == "LinearSchedule"
    assert model.process.processes[1].sigma == 2.0


# ---------------------------------------------------------------------- sample, evaluate, plot, info


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
    assert "n=-1" in fails("sample", run, "--n", "-1")
    assert "--device" in fails("sample", run, "--device", "abacus")
    assert "Unexpected argument" in fails("sample", run, "another")
    assert "Unknown option --methode" in fails("sample", run, "--methode", "sde")


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


# ---------------------------------------------------------------------- the program


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

    monkeypatch.setattr(sample, "open_model", interrupt)
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
