"""The package as a whole: what importing it costs and brings in, and that its metadata tells the truth."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import manifold_diffusion

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("pytorch_lightning", "lightning", "geomstats", "matplotlib", "scipy", "sklearn", "jsonargparse", "tensorboard")

# Where the name to import is not the name to install with "-" for "_".
DISTRIBUTIONS = {
    "MDAnalysis": "mdanalysis",
    "MDAnalysisTests": "mdanalysistests",
    "ot": "pot",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_import_adds_little_to_torch() -> None:
    # Measured after torch in one process, so that the seconds torch itself takes, which vary more, cancel.
    code = "import time, torch; s = time.perf_counter(); import manifold_diffusion; print(time.perf_counter() - s)"
    added = statistics.median(float(_python(code)) for _ in range(3))
    assert added <= 0.3, f"import manifold_diffusion adds {added:.2f} s to import torch"


def test_import_leaves_heavy_packages_alone() -> None:
    code = f"import sys, torch, manifold_diffusion; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert _python(code).strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in manifold_diffusion.__all__:
        assert getattr(manifold_diffusion, name) is not None


def test_version_is_that_of_the_metadata() -> None:
    assert manifold_diffusion.__version__ == importlib.metadata.version("manifold-diffusion")


def test_console_script_is_the_command_line() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="manifold-diffusion")
    assert callable(script.load())


def _third_party_imports(folder: Path) -> set[str]:
    names = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    names -= set(sys.stdlib_module_names) | {"manifold_diffusion"}
    return {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in names}


def _declared(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9_.-]+", line).group().lower() for line in requirements}


def test_imports_and_requirements_agree() -> None:
    project = PYPROJECT["project"]
    core = _declared(project["dependencies"])
    extras = set().union(*(_declared(lines) for lines in project["optional-dependencies"].values())) - {project["name"]}
    used = _third_party_imports(ROOT / "manifold_diffusion")
    # The extra of TensorBoard is used by Lightning's logger, which imports it by itself.
    assert used <= core | extras, f"imported but not declared: {sorted(used - core - extras)}"
    assert core | extras <= used | {"tensorboard"}, f"declared but not imported: {sorted(core | extras - used)}"


def test_typed_marker_is_shipped() -> None:
    assert (Path(manifold_diffusion.__file__).parent / "py.typed").exists()
