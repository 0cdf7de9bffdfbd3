"""A user's manifold has a general figure, and can register views or a figure of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from manifold_diffusion.manifolds import Manifold, Sphere
from manifold_diffusion.plotting import Mollweide, compare, plot, views


class Line(Manifold):
    """A user's manifold: the real line."""

    def __init__(self) -> None:
        super().__init__(1, (1,))

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return x

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return x + v

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return y - x


class Cylinder(Line):
    """Registers views of its own."""


class Graph(Line):
    """Registers a figure of its own."""


def test_unregistered_manifold_has_a_general_figure() -> None:
    figure = compare(Line(), torch.randn(50, 1), torch.randn(50, 1))
    assert figure.axes[0].get_xlabel() == "$x_1$"


def test_user_registers_views() -> None:
    @views.register
    def _(manifold: Cylinder):
        return [Mollweide(name="mine")]

    x = Sphere(2).random_uniform(4, generator=torch.Generator().manual_seed(0))
    cylinder = Cylinder()
    cylinder.point_shape = (3,)
    assert plot(cylinder, x).axes[0].get_title() == "samples, n = 4  ·  mine"


def test_user_registers_a_figure() -> None:
    @plot.register
    def _(manifold: Graph, samples=None, data=None, log_prob=None, *, title=None, path=None):
        return f"{len(samples)} and {len(data)}"

    assert compare(Graph(), torch.zeros(3, 1), torch.zeros(2, 1)) == "2 and 3"
