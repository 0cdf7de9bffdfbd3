"""The code of the documentation runs: every Python block of a page, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

# A page may use a model and points without defining them: the test gives it small ones.
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if BLOCK.search(page.read_text())
    and page.name
    != "geomstats.md"  # needs another backend of geomstats than this process: tests/manifolds/test_geomstats.py
)


def _small(code: str) -> str:
    """The same code with fewer training steps and fewer points."""
    code = re.sub(r"max_steps=\d+", "max_steps=3", code)
    code = re.sub(r"\.sample\(1000?\b", ".sample(10", code)
    return code.replace("data.test[:200]", "data.test[:5]")


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from manifold_diffusion import RiemannianDiffusion
    from manifold_diffusion.manifolds import Sphere

    monkeypatch.chdir(tmp_path)
    points = Sphere(2).random_uniform(40, generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {"train_points": points, "points": points[:5], "model": RiemannianDiffusion(Sphere(2))}
    names["val_points"] = names["test_points"] = points[:5]
    if "sharing" in page:
        names["model"].save_pretrained("earth/")
    for block in BLOCK.findall((ROOT / page).read_text()):
        exec(compile(_small(block), page, "exec"), names)


def test_the_manifold_of_the_docs_trains_without_a_kernel() -> None:
    from manifold_diffusion.networks import TangentMLP
    from manifold_diffusion.objectives import ImplicitScoreMatching
    from manifold_diffusion.processes import Langevin, LogSchedule
    from manifold_diffusion.training import fit

    names: dict[str, Any] = {}
    exec(BLOCK.findall((ROOT / "docs/manifolds/adding.md").read_text())[0], names)
    manifold = names["HalfPlane"]()
    start = torch.tensor([0.5, 1.2]).expand(256, 2)
    points = manifold.exp(start, 0.3 * manifold.random_tangent(start, generator=torch.Generator().manual_seed(0)))
    process = Langevin(manifold, LogSchedule(1e-2, 1.0), sigma=0.5, n_steps=4)
    network = TangentMLP(process, width=16, n_frequencies=8)
    objective = ImplicitScoreMatching(process)
    result = fit(
        network, objective, points, manifold=manifold, max_steps=20, batch_size=64, log_every=1, progress=False
    )
    losses = [row.train_loss for row in result.history if row.train_loss is not None]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_every_page_is_reached_from_the_index() -> None:
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    listed = {"index"}
    for index in (ROOT / "docs").rglob("index.md"):
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", index.read_text(), re.DOTALL):
            for line in tree.splitlines():
                if line and not line.startswith(":"):
                    listed.add(str((index.parent / line.strip()).relative_to(ROOT / "docs")))
    assert {page for page in pages if not page.startswith("_build")} == listed


def test_no_placeholder_is_left() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        assert "<!-- measured" not in page.read_text(), f"{page.relative_to(ROOT)} has a table still to be filled"
