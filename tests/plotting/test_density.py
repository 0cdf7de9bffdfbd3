"""The picture of a density says what the density says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, NumericsError
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Manifold, Sphere, Torus
from manifold_diffusion.plotting import plot, views

from .points import bump, lightness_at, near_origin


@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), Hyperboloid(2), Euclidean(2)], ids=str)
def test_density_is_brighter_where_it_is_higher(manifold: Manifold) -> None:
    x = near_origin(manifold, 400)
    figure = plot(manifold, samples=x, log_prob=bump(manifold), resolution=60)
    ax = figure.axes[1]
    origin = views(manifold)[0].plane(manifold.origin().unsqueeze(0))[0]
    near, between, far = (origin + np.array([0, d]) for d in _steps(manifold))
    assert lightness_at(figure, ax, near) > lightness_at(figure, ax, between) + 20
    assert lightness_at(figure, ax, between) > lightness_at(figure, ax, far) + 5


def _steps(manifold: Manifold) -> tuple[float, float, float]:
    if manifold == Torus(2):
        return 4.0, 45.0, 120.0
    if manifold == Sphere(2):
        return -0.05, -0.6, -1.8
    if manifold == Hyperboloid(2):
        return 0.03, 0.36, 0.9
    return 0.05, 0.7, 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("manifold", [Sphere(2), Torus(2), Hyperboloid(2), Euclidean(2)], ids=str)
def test_density_grid_is_on_the_manifold_and_in_the_dtype_of_the_points(manifold: Manifold, dtype: torch.dtype) -> None:
    seen = []

    def log_prob(x: Tensor) -> Tensor:
        seen.append(x)
        return bump(manifold)(x)

    plot(manifold, near_origin(manifold, 10, dtype=dtype), log_prob=log_prob, resolution=40, batch_size=300)
    assert len(seen) > 1
    assert max(len(x) for x in seen) == 300
    for x in seen:
        assert x.dtype == dtype
        manifold.check_point(x)


def test_density_pixels_show_the_density_at_their_own_place() -> None:
    """The image inverts the map: where the log density is the longitude, its colours are the map's own longitudes."""
    x = near_origin(Sphere(2), 5)
    figure = plot(Sphere(2), x, log_prob=lambda p: torch.atan2(p[:, 1], p[:, 0]), resolution=120)
    image = figure.axes[1].get_images()[0]
    picture, (left, right, bottom, top) = np.asarray(image.get_array()), image.get_extent()
    u = left + (np.arange(picture.shape[1]) + 0.5) * (right - left) / picture.shape[1]
    v = bottom + (np.arange(picture.shape[0]) + 0.5) * (top - bottom) / picture.shape[0]
    uu, vv = np.meshgrid(u, v)
    inside = (uu / (2 * math.sqrt(2))) ** 2 + (vv / math.sqrt(2)) ** 2 < 0.98
    lon = picture[inside] - math.log(4 * math.pi)
    half_width = np.sqrt(8 * (1 - vv[inside] ** 2 / 2))
    kept = lon > picture[inside].min() - math.log(4 * math.pi) + 0.1
    np.testing.assert_allclose(lon[kept], (math.pi * uu[inside] / half_width)[kept], atol=2e-3)


def test_flat_density_looks_flat() -> None:
    """Numerical noise of 1e-6 nats must not be stretched over the colour map."""
    noise = torch.Generator().manual_seed(0)
    figure = plot(Sphere(2), log_prob=lambda x: 1e-6 * torch.randn(len(x), generator=noise), resolution=24)
    low, high = figure.axes[0].get_images()[0].get_clim()
    assert high - low >= 0.5


def test_zero_density_is_drawn() -> None:
    figure = plot(Sphere(2), log_prob=lambda x: torch.where(x[:, 2] > 0, 0.0, -math.inf), resolution=40)
    assert lightness_at(figure, figure.axes[0], (0.1, 1)) > lightness_at(figure, figure.axes[0], (0.1, -1)) + 20


def test_colours_ignore_the_tail_of_the_density() -> None:
    def log_prob(x: Tensor) -> Tensor:
        return 3 * x[:, 2] - 1e4 * (x[:, 2] < -0.9)

    low, high = plot(Sphere(2), log_prob=log_prob, resolution=60).axes[0].get_images()[0].get_clim()
    assert high - low < 10


def test_bad_densities_are_refused() -> None:
    x = near_origin(Sphere(2), 5)
    with pytest.raises(NumericsError, match="log_prob is nan at"):
        plot(Sphere(2), x, log_prob=lambda p: p[:, 2].sqrt())
    with pytest.raises(ConfigError, match="one number per point"):
        plot(Sphere(2), x, log_prob=lambda p: p)
    with pytest.raises(ConfigError, match="give samples or data"):
        plot(SO3(), log_prob=lambda p: p[:, 0, 0])
    with pytest.raises(ConfigError, match="give samples or data"):
        plot(Euclidean(2), log_prob=lambda p: p[:, 0])
