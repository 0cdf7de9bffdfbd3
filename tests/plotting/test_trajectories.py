"""Trajectories are drawn on every map, and break at its edge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.plotting import plot_trajectory

from .points import near_origin


def test_trajectory_breaks_at_the_edge_of_the_map() -> None:
    angle = torch.linspace(2.5, 4.0, 16)
    path = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
    figure = plot_trajectory(Sphere(2), path.unsqueeze(1))
    segments = figure.axes[0].collections[0].get_segments()
    assert len(segments) == 14
    assert max(np.abs(np.diff(s[:, 0])).max() for s in segments) < 0.5


@pytest.mark.parametrize(
    "manifold", [Torus(3), SO3(), Hyperboloid(2), Euclidean(2), Product(SO3(), Euclidean(3))], ids=str
)
def test_trajectories_are_drawn_on_every_map(manifold: Manifold, tmp_path: Path) -> None:
    x = torch.stack([near_origin(manifold, 4, seed=k) for k in range(6)])
    plot_trajectory(manifold, x, title="Paths", path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_bad_trajectories_are_refused() -> None:
    with pytest.raises(DataError, match=r"batch shape \(5,\)"):
        plot_trajectory(Sphere(2), near_origin(Sphere(2), 5))
    with pytest.raises(ConfigError, match="charts only"):
        plot_trajectory(Torus(1), torch.zeros(3, 2, 1))
