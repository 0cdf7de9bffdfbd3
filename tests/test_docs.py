"""The code of the documentation runs: every Python block of a page, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

# A page may use a model and points without defining them: the test gives it small ones.
PAGES = sorted(
    str(page.relative_to(ROOT))
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if BLOCK.search(page.read_text())
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
    names = {"torch": torch, "train_points": points, "test_points": points[:5], "points": points[:5]}
    names["RiemannianDiffusion"], names["model"] = RiemannianDiffusion, RiemannianDiffusion(Sphere(2))
    if "sharing" in page:
        names["model"].save_pretrained("earth/")
    for block in BLOCK.findall((ROOT / page).read_text()):
        exec(compile(_small(block), page, "exec"), names)


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
