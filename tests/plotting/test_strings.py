"""Strings are drawn on every map, with their energies, and bad ones are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Product, Sphere, Torus
from manifold_diffusion.plotting import plot_strings

from .points import near_origin


@pytest.mark.parametrize("M", [Sphere(2), Torus(3), SO3(), Hyperboloid(2), Product(SO3(), Euclidean(3))], ids=str)
def test_strings_are_drawn_on_every_map(M: Manifold, tmp_path: Path) -> None:
    strings = {name: near_origin(M, 6, seed=k) for k, name in enumerate("ab")}
    energies = {"a": torch.arange(6.0)}
    figure = plot_strings(M, strings, energies=energies, title="Strings", path=tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    profile = figure.axes[1].lines
    assert len(profile) == 1
    gaps = M.dist(strings["a"][:-1], strings["a"][1:]).double()
    assert np.allclose(np.asarray(profile[0].get_xdata())[1:], gaps.cumsum(0), rtol=1e-4)
    assert np.array_equal(profile[0].get_ydata(), np.arange(6.0))


def test_a_string_breaks_at_the_edge_of_the_map_and_lies_over_the_density() -> None:
    M = Torus(2)
    nodes = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [-2.5, 0.0]])
    figure = plot_strings(M, {"s": nodes}, log_prob=lambda x: x[:, 0].cos(), resolution=16)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "s")
    x = np.asarray(line.get_xdata(), dtype=float)
    assert np.isnan(x).sum() == 1
    assert np.nanmax(np.abs(np.diff(x))) < 30
    assert len(figure.axes[0].images) == 1


def test_bad_strings_are_refused() -> None:
    M = Sphere(2)
    with pytest.raises(DataError, match="no string"):
        plot_strings(M, {})
    with pytest.raises(DataError, match="at least two nodes"):
        plot_strings(M, {"s": torch.eye(3)[:1]})
    with pytest.raises(DataError, match="3 nodes and energies"):
        plot_strings(M, {"s": torch.eye(3)}, energies={"s": torch.zeros(2)})
    with pytest.raises(ConfigError, match="charts only"):
        plot_strings(Torus(1), {"s": torch.zeros(3, 1)})
