"""Noised data at the limits of what may be given: weights, dtypes, changes from outside, queries that are no points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError
from manifold_diffusion.heat_kernels import Evaluator, NoisedData, heat_kernel
from manifold_diffusion.manifolds import Euclidean, Manifold, Sphere, Torus

from .points import F64, generator, spread

EVALUATORS: tuple[Evaluator, ...] = ("full", "golden", "cells", "spectral")


def direct(M: Manifold, points: torch.Tensor, weights: torch.Tensor, x: torch.Tensor, tau: float) -> torch.Tensor:
    terms = heat_kernel(M).log_prob(x.double().unsqueeze(1), M.project(points.double()), tau)
    w = weights.double() / weights.double().max()
    return torch.logsumexp(terms + (w / w.sum()).log(), 1)


def test_the_circle_has_a_series() -> None:
    M = Sphere(1)
    points, x = spread(M, 50), spread(M, 5, 1)
    value = NoisedData(M, points, rtol=1e-12).evaluate(x, 0.3, evaluator="spectral")
    assert value.score is not None
    torch.testing.assert_close(value.log_prob, direct(M, points, torch.ones(50), x, 0.3), rtol=0, atol=1e-9)
    assert float((value.score - NoisedData(M, points).score(x, 0.3, evaluator="full")).norm()) < 1e-7


def test_a_point_without_weight_is_not_seen() -> None:
    M = Torus(2)
    points = torch.rand(3000, 2, generator=generator(0), dtype=F64) * 0.1 + 1
    points[0] = -1.0
    weights = torch.ones(3000, dtype=F64)
    weights[0] = 0
    x = torch.tensor([[-1.0, -1.001]], dtype=F64).expand(100, -1)
    value = NoisedData(M, points, weights).evaluate(x, 1e-4)
    torch.testing.assert_close(value.log_prob, direct(M, points, weights, x, 1e-4), rtol=1e-9, atol=0)


@pytest.mark.parametrize("weight", [1e-50, 1e39, 1e300])
def test_weights_are_not_rounded_to_the_dtype_of_the_points(weight: float) -> None:
    M = Sphere(2)
    points, w = M.project(spread(M, 50).float()), torch.ones(50, dtype=F64)
    w[0] = weight
    for evaluator in ("full", "golden", "cells"):
        x = M.project(points[:1].double())
        log_p = NoisedData(M, points, w).log_prob(x, 1e-4, evaluator=evaluator)
        torch.testing.assert_close(log_p, direct(M, points, w, x, 1e-4), rtol=0, atol=1e-5)


def test_float32_queries_meet_float64_data_in_float64() -> None:
    M = Euclidean(2)
    points = 100 * torch.randn(200, 2, generator=generator(0), dtype=F64)
    x = (points[:40] + 1e-3 * torch.randn(40, 2, generator=generator(1), dtype=F64)).float()
    value = NoisedData(M, points).evaluate(x, 1e-6)
    assert value.score is not None and value.log_prob.dtype == value.score.dtype == torch.float32
    error = (value.log_prob - direct(M, points, torch.ones(200), x, 1e-6)).abs()
    assert bool((error <= value.log_prob_error).all())


def test_moments_are_made_anew_where_most_of_the_weight_has_gone() -> None:
    M = Sphere(2)
    points, x, w = spread(M, 200), spread(M, 20, 1), torch.ones(200, dtype=F64)
    w[0] = 1e20
    data = NoisedData(M, points, w, evaluator="spectral", rtol=1e-12)
    data.evaluate(x, 0.3)
    data.remove(torch.tensor([0]))
    log_p = data.evaluate(x, 0.3).log_prob
    torch.testing.assert_close(log_p, direct(M, points[1:], w[1:], x, 0.3), rtol=0, atol=1e-9)


def test_points_that_change_behind_its_back_are_refused() -> None:
    M, points = Sphere(2), spread(Sphere(2), 500)
    data, weights = NoisedData(M, points), torch.ones(500, dtype=F64)
    weighted = NoisedData(M, points.clone(), weights, evaluator="full")
    x, before = points[:3].clone(), weighted.log_prob(points[:3], 0.3)
    weights[0] = 100
    torch.testing.assert_close(weighted.log_prob(x, 0.3), before, rtol=0, atol=0)
    points.neg_()
    for use in (lambda: data.log_prob(x, 0.3), lambda: data.add(x), lambda: data.remove(torch.tensor([0]))):
        with pytest.raises(DataError, match="in place"):
            use()
    array = spread(M, 500).numpy().copy()
    read = NoisedData(M, array)
    array[123] = math.nan
    for evaluator in ("full", "spectral"):
        with pytest.raises(ManifoldError, match="have changed"):
            read.evaluate(x, 0.3, evaluator=evaluator)


def test_added_points_of_another_dtype_are_on_the_manifold() -> None:
    M = Sphere(2)
    data = NoisedData(M, spread(M, 100))
    data.add(M.project(spread(M, 3, 1).float()))
    M.check_point(torch.as_tensor(data.points), "points")


def test_data_of_inference_mode_have_derivatives() -> None:
    M = Sphere(2)
    with torch.inference_mode():
        data = NoisedData(M, spread(M, 200))
        data.add(spread(M, 3, 1))
        data.remove(torch.tensor([0]))
    for evaluator in EVALUATORS:
        x = spread(M, 2, 2).requires_grad_()
        (grad,) = torch.autograd.grad(data.log_prob(x, 0.05, evaluator=evaluator).sum(), x)
        assert float(M.to_tangent(x.detach(), grad).norm()) > 0


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_queries_are_checked(evaluator: Evaluator) -> None:
    M, x = Sphere(2), spread(Sphere(2), 6)
    data = NoisedData(M, spread(M, 300, 1))
    bad = x.clone()
    bad[2] = math.nan
    for query, match in ((bad, "NaN"), (2 * x, "not on"), (torch.ones(2, 3).long(), "dtype")):
        with pytest.raises(ManifoldError, match=match):
            data.evaluate(query, 0.05, evaluator=evaluator)
    with pytest.raises(ConfigError, match="batch shape"):
        data.evaluate(x, torch.tensor([0.1, 0.2]), evaluator=evaluator)


def test_what_is_added_or_removed_is_checked() -> None:
    M, points = Sphere(2), spread(Sphere(2), 20)
    data = NoisedData(M, points)
    data.remove(torch.tensor([]))
    assert len(data) == 20
    for bad in (torch.zeros(20, dtype=torch.float32), torch.ones(19, dtype=torch.bool), torch.tensor([20])):
        with pytest.raises(DataError, match="mask"):
            data.remove(bad)
    data.remove(torch.tensor([3], dtype=torch.uint8))
    assert len(data) == 19
    with pytest.raises(DataError, match="tensor"):
        data.add(np.ones((1, 3)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(DataError, match="weights"):
        data.add(points[:0], torch.ones(3))
    with pytest.raises(DataError, match="range"):
        NoisedData(M, points, torch.full((20,), 1e308, dtype=F64))
