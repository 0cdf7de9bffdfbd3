"""Strings of a whole protein, SE(3)^214 of dimension 1284: rotations near pi, equal distances, both precisions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion.manifolds import SE3N, SO3
from manifold_diffusion.solvers import DiffusionString, GeodesicEuler

from .flows import seeded

M = SE3N(214)
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 2e-5)]


def opposite(angle: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A chain, a tangent vector there that turns each frame by ``angle`` / 2, and the ends to both sides of it."""
    r = SO3().random_uniform(214, generator=seeded(1), dtype=torch.float64)
    p = 10 * torch.randn(214, 3, generator=seeded(2), dtype=torch.float64)
    axis = torch.nn.functional.normalize(torch.randn(214, 3, generator=seeded(3), dtype=torch.float64), dim=-1)
    shift = 3 * torch.randn(214, 3, generator=seeded(4), dtype=torch.float64)
    c = M.join(r, p).to(dtype)
    v = M.from_frame(c, torch.cat([angle / 2 * axis, shift], -1).flatten().to(dtype))
    return c, v, torch.stack([M.exp(c, -v), M.exp(c, v)])


@pytest.mark.parametrize(("dtype", "error"), PRECISIONS, ids=str)
def test_without_a_score_it_is_the_geodesic(dtype: torch.dtype, error: float) -> None:
    """Frames that turn by 0.002 less than pi on the way: the geodesic goes through the chain in the middle."""
    c, v, ends = opposite(math.pi - 2e-3, dtype)
    string = DiffusionString(M, score=lambda t, x: torch.zeros_like(x), solver=GeodesicEuler())
    path = string.relax(ends, step=1.0, n_nodes=17)
    assert path.converged and path.spacing < 1e-4 and path.nodes.dtype == dtype
    length = float(M.dist(ends[0], ends[1]))
    assert abs(path.length / length - 1) < 1e-6 and abs(length / float(2 * M.norm(c, v)) - 1) < 1e-6
    scale = float(path.nodes.abs().max())
    # An axis near a half turn is known to rounding over what is left of the turn.
    assert float((path.nodes[8] - c).abs().max()) < error * scale * (10 if dtype == torch.float32 else 1)
    M.check_point(path.nodes, "nodes")


@pytest.mark.parametrize(("dtype", "error"), PRECISIONS, ids=str)
def test_a_bent_string_falls_into_a_valley(dtype: torch.dtype, error: float) -> None:
    """V = d(x, c)^2 / 2: from a detour the string comes to the geodesic through c; frames turn by 2.8 on the way."""
    c, _, ends = opposite(2.8, dtype)
    w = M.random_tangent(c.double(), generator=seeded(5)).to(dtype)
    side = M.exp(c, 0.1 * w)
    start = torch.stack([ends[0], side, ends[1]])
    string = DiffusionString(M, score=lambda t, x: M.log(x, c.expand_as(x)), solver=GeodesicEuler())
    path = string.relax(start, step=0.5, n_nodes=15)
    assert path.converged and path.spacing < 1e-4
    away = M.dist(
        path.nodes, M.geodesic(ends[:1].expand_as(path.nodes), ends[1], path.arc_length.to(dtype) / path.length)
    )
    assert float(away.max()) < max(1e-6, 10 * error) * path.length
    assert float(M.dist(side, c)) > 1  # the control: where it was
