"""Points and vectors that are refused by row and amount, empty batches, and limits."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ManifoldError
from manifold_diffusion.manifolds import (
    SO3,
    SPD,
    Euclidean,
    Hyperboloid,
    Manifold,
    PoincareBall,
    Sphere,
    Torus,
    WithBoundary,
)
from manifold_diffusion.testing import instances

from .draws import BUILT_IN, F64, points, seeded


@pytest.mark.parametrize("m", BUILT_IN)
def test_check_point_names_the_row_of_a_nan(m: Manifold) -> None:
    x = points(m, 5)
    x[3].view(-1)[-1] = math.nan
    with pytest.raises(ManifoldError, match=r"x has 1 of 5 points with NaN or infinite entries, first at row 3"):
        m.check_point(x)


@pytest.mark.parametrize("m", [m for _, m in instances() if not isinstance(m, Euclidean | SPD)], ids=repr)
def test_check_point_names_row_and_amount_off_the_manifold(m: Manifold) -> None:
    x = points(m, 5)
    large = isinstance(getattr(m, "base", m), Torus | PoincareBall)  # bounded coordinates
    x[2] = x[2] + (10 if large else -10 if isinstance(m, WithBoundary) else 0.5)
    with pytest.raises(
        ManifoldError,
        match=r"data is not on .* = \d\.\de[+-]\d\d > 1e-09 \(float64\), first at row 2, 1 of 5 points.*Project first",
    ):
        m.check_point(x, name="data")


def test_the_entry_that_is_farthest_off_is_named() -> None:
    for m, x, entry in (
        (SPD(3), torch.tensor([[1.0, 0.0, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), r"\(0, 2\): 1\.0e-01"),
        (SO3(), torch.diag(torch.tensor([1.0, 0.0, 1.0])), r"\(1, 1\): 1\.0e\+00"),
        (Hyperboloid(2), torch.tensor([3.0, 0.0, 0.0]), r"0: 2\.0e\+00"),
    ):
        with pytest.raises(ManifoldError, match=f"most in entry {entry} from its projection"):
            m.check_point(x)


def test_amount_off_the_manifold_is_measured() -> None:
    with pytest.raises(
        ManifoldError, match=r"\| \|x\|\^2 - 1 \| = 3\.0e\+00 > 1e-05 \(float32\), it is the only point"
    ):
        Sphere(2).check_point(torch.tensor([2.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, 0.0, 0.0], "must be a torch.Tensor; got list"),
        (torch.tensor([1, 0, 0]), "floating dtype; got int64"),
        (torch.ones(2, 4), r"shape \(2, 4\); points of Sphere\(2\) have shape \(\*batch, 3\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        (torch.zeros(2, 3), "not on"),
    ],
)
def test_check_point_refuses(x: object, message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        Sphere(2).check_point(x)  # pyright: ignore[reportArgumentType]


def test_check_tangent_names_row_and_shape() -> None:
    m, x = Sphere(2), points(Sphere(2), 4)
    v = m.random_tangent(x, generator=seeded())
    m.check_tangent(x, v)
    v[1] = v[1] + x[1]
    with pytest.raises(ManifoldError, match=r"u is not tangent to Sphere\(2\) at x: .* first at row 1"):
        m.check_tangent(x, v, name="u")
    with pytest.raises(ManifoldError, match=r"v has shape \(2, 3\); .* \(4, 3\)"):
        m.check_tangent(x, v[:2])
    v[2] = math.inf
    with pytest.raises(ManifoldError, match="row 2"):
        m.check_tangent(x, v)


@pytest.mark.parametrize("m", BUILT_IN)
def test_an_empty_batch_is_a_valid_batch(m: Manifold) -> None:
    x = m.origin(dtype=F64).expand(0, *m.point_shape)
    m.check_point(x)
    m.check_tangent(x, m.random_tangent(x, generator=seeded()))


def test_level_enumeration_has_a_limit() -> None:
    with pytest.raises(CapabilityError, match="Torus"):
        Torus(9).eigenvalues(5)
    assert Torus(9).multiplicities(2).tolist() == [1, 18]
