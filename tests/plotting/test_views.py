"""Maps, angles and histograms keep what they promise to keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Sphere, Torus
from manifold_diffusion.plotting import Mollweide, PoincareDisk, Ramachandran, RotationMap, plot, views

from .points import near_origin


def test_mollweide_preserves_area() -> None:
    """Uniform points on the sphere are uniform on the ellipse: |(u / 2, v)|^2 / 2 is uniform on [0, 1]."""
    x = Sphere(2).random_uniform(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, v = Mollweide().plane(x).T
    squared = ((u / 2) ** 2 + v**2) / 2
    for q in (0.1, 0.5, 0.9):
        assert abs((squared < q).mean() - q) < 5 * math.sqrt(q * (1 - q) / len(squared))
    # The plain cylindrical longitude and latitude would fail.
    plain = (torch.atan2(x[:, 1], x[:, 0]) / math.pi).square() + (x[:, 2].asin() / (math.pi / 2)).square()
    assert abs((plain < 0.5).double().mean() - 0.5) > 5 * math.sqrt(0.25 / len(plain))


def test_poincare_disk_keeps_the_distance_to_the_origin() -> None:
    x = near_origin(Hyperboloid(2), 50, dtype=torch.float64)
    radius = np.linalg.norm(PoincareDisk().plane(x), axis=-1)
    np.testing.assert_allclose(2 * np.arctanh(radius), Hyperboloid(2).dist(Hyperboloid(2).origin(torch.float64), x))


def test_rotation_map_separates_direction_and_turn() -> None:
    manifold = SO3()
    identity = manifold.identity(torch.float64)
    turns = torch.linspace(-3, 3, 7, dtype=torch.float64)
    zero = torch.zeros_like(turns)
    about_z = manifold.exp(identity.expand(7, 3, 3), manifold.hat(torch.stack([zero, zero, turns], -1)))
    tilt = manifold.exp(identity, manifold.hat(torch.tensor([0.3, 0.9, 0.0], dtype=torch.float64)))
    view, x = RotationMap(), tilt @ about_z
    np.testing.assert_allclose(view.hue(x), turns.rad2deg(), atol=1e-9)
    np.testing.assert_allclose(view.plane(x), np.tile(view.plane(x[:1]), (7, 1)), atol=1e-9)


def test_ramachandran_axes_are_degrees() -> None:
    figure = plot(Torus(2), near_origin(Torus(2), 5))
    ax = figure.axes[0]
    assert ax.get_xlim() == (-180, 180)
    assert list(ax.get_yticks()) == [-180, -90, 0, 90, 180]
    np.testing.assert_allclose(Ramachandran().plane(torch.tensor([[math.pi / 2, -1.0]])), [[90, -57.29578]], rtol=1e-5)


def test_histogram_areas_are_probabilities() -> None:
    figure = plot(Euclidean(1), data=near_origin(Euclidean(1), 500), samples=near_origin(Euclidean(1), 300, seed=1))
    for steps in figure.axes[0].patches:
        values, edges, _ = steps.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1.0)


def test_reference_law_of_the_rotation_angle_is_normalised() -> None:
    angles = views(SO3())[1]
    w = np.linspace(0, 180, 20_001)
    assert np.trapezoid(angles.reference(w), w) == pytest.approx(1.0, abs=1e-6)


def test_reference_law_of_the_angle_between_points_of_a_sphere_is_normalised() -> None:
    angles = views(Sphere(9))[-1]
    w = np.linspace(0, 180, 20_001)
    assert np.trapezoid(angles.reference(w), w) == pytest.approx(1.0, abs=1e-6)
