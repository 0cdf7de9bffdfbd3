"""Every manifold has a figure without overlaps, and matplotlib's global state stays as it was."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import matplotlib
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.plotting import compare, plot, save_figure

from .points import bump, near_origin

MANIFOLDS = [
    Sphere(1),
    Sphere(2),
    Sphere(7),
    Torus(1),
    Torus(2),
    Torus(4),
    SO3(),
    Hyperboloid(1),
    Hyperboloid(2),
    Hyperboloid(4),
    Euclidean(1),
    Euclidean(2),
    Euclidean(5),
    Product(SO3(), Euclidean(3)),
    Product(Torus(1), Sphere(2)),
]


@cache
def drawn(manifold: Manifold):
    """A figure of everything at once."""
    data, samples = near_origin(manifold, 60), near_origin(manifold, 40, seed=1)
    return compare(manifold, data, samples, bump(manifold), title="Title", resolution=24)


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_every_manifold_is_drawn_and_saved(manifold: Manifold, tmp_path: Path) -> None:
    path, figure = tmp_path / "figure.png", drawn(manifold)
    save_figure(figure, path, dpi=60)
    width, height = figure.get_size_inches() * 60
    image = matplotlib.image.imread(path)
    assert abs(image.shape[1] - width) <= 1
    assert abs(image.shape[0] - height) <= 1
    assert image[..., :3].std() > 0.02
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
def test_nothing_is_drawn_outside_the_figure_or_over_another_panel(manifold: Manifold) -> None:
    figure = drawn(manifold)
    renderer = figure.canvas.get_renderer()
    boxes = [ax.get_tightbbox(renderer, for_layout_only=False) for ax in figure.axes]
    title = figure._suptitle.get_window_extent(renderer)
    for box in [*boxes, title]:
        assert box.x0 >= 0 and box.y0 >= 0
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for i, a in enumerate(boxes):
        for b in [*boxes[i + 1 :], title]:
            apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
            assert apart, "two panels overlap"


def test_titles_count_the_points() -> None:
    x = near_origin(Sphere(2), 1234)
    figure = plot(Sphere(2), samples=x[:30], data=x)
    assert [ax.get_title() for ax in figure.axes] == ["data, n = 1,234", "samples, n = 30"]


def test_points_outside_the_frame_are_counted() -> None:
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    x[:3] = 1e4
    ax = plot(Euclidean(2), x).axes[0]
    assert ax.get_xlim()[1] < 10
    assert [t.get_text() for t in ax.texts] == ["3 outside the frame"]


def test_many_views_are_cut_and_the_title_says_so() -> None:
    figure = plot(Torus(12), near_origin(Torus(12), 5), title="Chain")
    assert len(figure.axes) == 6
    assert figure.get_suptitle() == "Chain (first 6 of 11 views)"


def test_draws_on_given_axes() -> None:
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    figure = plot(Sphere(2), near_origin(Sphere(2), 5), ax=ax)
    assert figure is ax.figure
    assert len(ax.collections) == 1


def test_given_axes_must_suit_the_figure() -> None:
    from matplotlib.figure import Figure

    x = near_origin(Sphere(2), 5)
    with pytest.raises(ConfigError, match="one panel, and this figure has 2"):
        plot(Sphere(2), x, x, ax=Figure().add_subplot())
    with pytest.raises(ConfigError, match="needs 'polar'"):
        plot(Torus(1), near_origin(Torus(1), 5), ax=Figure().add_subplot())


def test_bad_points_are_refused() -> None:
    x = near_origin(Sphere(2), 5)
    with pytest.raises(ManifoldError, match="samples has shape"):
        plot(Sphere(2), x[:, :2])
    with pytest.raises(ManifoldError, match="data has 1 of 5 points with NaN"):
        plot(Sphere(2), data=torch.where(torch.arange(15).reshape(5, 3) == 7, math.nan, x))
    with pytest.raises(ManifoldError, match="samples is not on"):
        plot(Sphere(2), 2 * x)
    with pytest.raises(DataError, match="samples is empty"):
        plot(Sphere(2), x[:0])
    with pytest.raises(DataError, match="compare needs samples"):
        compare(Sphere(2), x, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="nothing to draw"):
        plot(Sphere(2))
    with pytest.raises(ConfigError, match="expected a Manifold"):
        plot("sphere", x)  # type: ignore[arg-type]


def test_global_state_of_matplotlib_is_untouched() -> None:
    """In a fresh interpreter, as this one may have imported pyplot. (`dict(rcParams)` itself would import it.)"""
    program = """
import sys
import manifold_diffusion.plotting as p
assert "matplotlib" not in sys.modules, "imported eagerly"
import torch, matplotlib
before = matplotlib.rcParams.copy()
from manifold_diffusion.manifolds import SO3, Sphere, Torus
for M in (Sphere(2), Torus(1), SO3()):
    x = M.random_uniform(20, generator=torch.Generator().manual_seed(0))
    p.compare(M, x, x, lambda y: y.reshape(len(y), -1)[:, 0], resolution=16).canvas.draw()
p.plot_training({"loss": [1.0, 0.5]}).canvas.draw()
assert matplotlib.rcParams.copy() == before, "settings changed"
assert "matplotlib.pyplot" not in sys.modules, "pyplot imported"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_pictures_are_reproducible() -> None:
    def png() -> bytes:
        file = io.BytesIO()
        compare(Sphere(4), near_origin(Sphere(4), 30), near_origin(Sphere(4), 30, seed=1)).savefig(file, format="png")
        return file.getvalue()

    assert png() == png()
