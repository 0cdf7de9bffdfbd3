"""Pictures of diagnostics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import DataError
from manifold_diffusion.manifolds import SO3, SPD, Product, Sphere, Torus
from manifold_diffusion.plotting import (
    NoisePanel,
    plot_coverage,
    plot_noise_panels,
    plot_regions,
    plot_training_distances,
)


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_medians_are_drawn_against_the_noise_level() -> None:
    tau, values = torch.tensor([1e-4, 1e-2, 1.0]), 1 + rand(3, 51)
    panel = NoisePanel("number", {"points": (tau, values), "others": (tau, 2 * values)}, {"all": 4.0}, log=True)
    figure = plot_noise_panels([panel, panel], title="t")
    ax = figure.axes[0]
    line, other, mark = ax.lines
    assert np.allclose(line.get_xdata(), [1e-2, 0.1, 1.0]) and np.allclose(line.get_ydata(), values.median(1).values)
    assert np.allclose(other.get_ydata(), 2 * values.median(1).values) and np.allclose(mark.get_ydata(), 4.0)
    assert ax.get_xscale() == ax.get_yscale() == "log" and len(figure.axes) == 2
    with pytest.raises(DataError, match="curve"):
        plot_noise_panels([NoisePanel("number", {})])


def test_coverage_of_calibrated_levels_is_the_diagonal() -> None:
    levels = (torch.arange(100) + 0.5) / 100
    ax = plot_coverage(levels, 400).axes[0]
    curve = ax.lines[1]
    assert np.abs(np.asarray(curve.get_xdata()) - np.asarray(curve.get_ydata())).max() <= 0.011
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == 1.0
    with pytest.raises(DataError, match="level"):
        plot_coverage(torch.zeros(0), 10)


@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), SPD(2)], ids=repr)
def test_regions_are_numbered_by_their_share(manifold, tmp_path: Path) -> None:
    origin = manifold.origin(torch.float64).expand(40, *manifold.point_shape)
    x = manifold.exp(origin, 0.5 * manifold.random_tangent(origin, torch.Generator().manual_seed(0)))
    own, data = torch.tensor([0.3, 0.6, 0.1]), torch.tensor([0.2, 0.7, 0.1])
    z, path = torch.tensor([2.5, -2.5, 0.0]), tmp_path / "r.png"
    figure = plot_regions(manifold, x[:3], own, data, z, 100, points=x, title="t", path=path)
    bars = figure.axes[-1].patches
    assert np.allclose([bar.get_height() for bar in bars], [60, 30, 10]) and path.stat().st_size > 1000
    with pytest.raises(DataError, match="centres"):
        plot_regions(manifold, x[:3], own[:2], data, z, 100)


@pytest.mark.parametrize(
    ("manifold", "caption"),
    [(SO3(), "direction of the rotated z axis"), (Product(Sphere(2), Torus(1)), "Sphere(2), Mollweide")],
    ids=repr,
)
def test_the_map_of_regions_says_which_projection_it_is(manifold, caption: str) -> None:
    x = manifold.random_uniform(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.tensor([1.0, 0.0])
    figure = plot_regions(manifold, x, shares, shares, torch.zeros(2), 20)
    assert caption in figure.axes[0].get_title()
    (bars,) = figure.axes[1].containers[1].lines[2]
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert np.allclose(ends, [[100 * 20 / 21, 100], [0, 100 / 21]])  # Wilson's intervals of 20 and of 0 in 20


def test_distances_of_zero_are_counted_in_the_legend() -> None:
    held_out, copies = rand(200) + 0.1, torch.cat([torch.zeros(50), 0.01 * rand(50)])
    ax = plot_training_distances({"held-out": held_out, "copies": copies}).axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["held-out", "copies (50 % at 0)"]
    heights = [patch.get_data().values.sum() for patch in ax.patches]
    assert np.allclose(heights, [100, 50])
    with pytest.raises(DataError, match="positive"):
        plot_training_distances({"copies": torch.zeros(3)})
