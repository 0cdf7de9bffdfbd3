"""Likelihoods, exact and by Hutchinson's estimate, against flows whose density is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.manifolds import Sphere, Torus
from manifold_diffusion.processes import ODETerm
from manifold_diffusion.solvers import (
    AdaptiveSteps,
    ConstantSteps,
    GeodesicRK4,
    integrate_with_log_density,
    log_likelihood,
    sample_with_log_prob,
)

from .flows import (
    FLOWS,
    GROWTH,
    LOW,
    NORTH,
    brownian_time,
    conformal,
    conformal_log_prob,
    mixture,
    seeded,
    uniform_log_prob,
    z_score,
)


@pytest.mark.parametrize(
    ("dtype", "tolerance", "bound"),
    [(torch.float64, 1e-5, 1e-6), (torch.float64, 1e-3, 1e-4), (torch.float32, 1e-5, 1e-5)],
    ids=["float64", "float64-default", "float32"],
)
def test_likelihood_of_the_conformal_flow(dtype, tolerance, bound):
    flow = conformal(200, dtype)
    x = flow.exact(1.0)
    result = log_likelihood(flow.term, flow.manifold, x, uniform_log_prob, 1.0, 0.0, tolerance=tolerance)
    assert float((result.log_prob - conformal_log_prob(x, 1.0)).abs().max()) <= bound
    torch.testing.assert_close(result.x_1, flow.x, rtol=0, atol=bound)
    assert result.standard_error is None
    assert result.log_prob.dtype == dtype


def test_likelihood_by_fixed_steps():
    flow = conformal(200)
    x = flow.exact(1.0)
    result = log_likelihood(
        flow.term, flow.manifold, x, uniform_log_prob, 1.0, 0.0, solver=GeodesicRK4(), controller=ConstantSteps(25)
    )
    assert result.n_evaluations == 100
    assert float((result.log_prob - conformal_log_prob(x, 1.0)).abs().max()) <= 1e-5


@pytest.mark.parametrize("name", list(FLOWS))
def test_density_of_known_flows(name):
    flow = FLOWS[name]()
    start = torch.zeros((), dtype=torch.float64)
    end = integrate_with_log_density(flow.term, flow.manifold, flow.x, start, 0.0, 1.0, tolerance=1e-7)
    torch.testing.assert_close(end.log_prob, -flow.log_det(1.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(end.x, flow.exact(1.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize("M", [Sphere(2), Torus(2)], ids=str)
def test_likelihood_of_a_heat_kernel_mixture(M):
    """The probability flow with the exact score gives the exact density, from the data to the law at tau = 7."""
    law, errors = mixture(M, torch.float32), {}
    x = law.sample(50, tau=LOW, generator=seeded())
    for scale in (1.0, 0.97):
        flow = ODETerm(
            lambda t, x, scale=scale: -scale / 2 * GROWTH * brownian_time(t)[:, None] * law.score(x, brownian_time(t))
        )
        result = log_likelihood(flow, M, x, lambda y: law.log_prob(y, brownian_time(torch.ones(())).item()))
        errors[scale] = float((result.log_prob - law.log_prob(x, LOW)).abs().max())
    assert errors[1.0] <= 5e-3 < errors[0.97]


def test_samples_come_with_their_log_density():
    flow = conformal(200)
    result = sample_with_log_prob(flow.term, flow.manifold, flow.x, uniform_log_prob, 1.0, 0.0, tolerance=1e-6)
    torch.testing.assert_close(result.x, flow.exact(1.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(result.log_prob, conformal_log_prob(result.x, 1.0), rtol=0, atol=1e-6)
    again = log_likelihood(flow.term, flow.manifold, result.x, uniform_log_prob, 1.0, 0.0, tolerance=1e-6)
    torch.testing.assert_close(again.log_prob, result.log_prob, rtol=0, atol=1e-6)


def hutchinson(n: int, n_probes: int, **arguments) -> tuple[Tensor, Tensor]:
    flow = conformal(n)
    x = flow.exact(1.0)
    result = log_likelihood(
        flow.term,
        flow.manifold,
        x,
        uniform_log_prob,
        1.0,
        0.0,
        divergence="hutchinson",
        n_probes=n_probes,
        generator=seeded(3),
        **arguments,
    )
    return result.log_prob - conformal_log_prob(x, 1.0), result.standard_error


RK4 = {"solver": GeodesicRK4(), "controller": ConstantSteps(10)}


@pytest.mark.parametrize("arguments", [RK4, {}], ids=["rk4", "adaptive"])
def test_hutchinson_is_unbiased(arguments):
    error, standard_error = hutchinson(4000, 2, **arguments)
    assert z_score(error, 0.0) <= 5
    assert z_score(error, 0.1) > 5
    assert standard_error.shape == error.shape


def test_hutchinson_standard_error_is_calibrated():
    error, standard_error = hutchinson(3000, 4, **RK4)
    # E[standard_error^2] is the variance of the estimate: the ratio has a mean of 1.
    assert z_score(error.square() / standard_error.square().mean(), 1.0) <= 5
    assert z_score(error.square() / (standard_error / 1.3).square().mean(), 1.0) > 5


def test_one_probe_has_no_standard_error():
    assert hutchinson(5, 1, **RK4)[1] is None


def test_hutchinson_order_is_that_of_the_scheme():
    """Transported probes are smooth along a trajectory: the estimate for given probes converges with order 4."""
    reference = hutchinson(10, 1, solver=GeodesicRK4(), controller=ConstantSteps(48))[0]
    errors = [
        float((hutchinson(10, 1, solver=GeodesicRK4(), controller=ConstantSteps(n))[0] - reference).abs().max())
        for n in (6, 12)
    ]
    assert errors[0] / errors[1] > 2**3


@pytest.mark.parametrize("arguments", [{}, {"divergence": "hutchinson", "n_probes": 3}], ids=["exact", "hutchinson"])
def test_parts_of_the_batch_give_the_same_result(arguments):
    flow = conformal(12)
    x = flow.x.reshape(3, 4, 3)
    whole, parts = (
        log_likelihood(
            flow.term, flow.manifold, x, uniform_log_prob, batch_size=b, generator=seeded(), **RK4, **arguments
        )
        for b in (None, 5)
    )
    assert parts.log_prob.shape == (3, 4)
    torch.testing.assert_close(whole.log_prob, parts.log_prob, rtol=0, atol=1e-12)
    torch.testing.assert_close(whole.x_1, parts.x_1, rtol=0, atol=1e-12)
    assert whole.n_evaluations == parts.n_evaluations


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_likelihood_of_no_points(divergence):
    flow = conformal()
    result = log_likelihood(flow.term, flow.manifold, flow.x[:0], uniform_log_prob, divergence=divergence)
    assert result.log_prob.shape == (0,)


def test_likelihood_is_differentiable_when_asked():
    M, k = Sphere(2), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    term = ODETerm(lambda t, x: k * M.to_tangent(x, NORTH.expand_as(x)))
    x = -NORTH[None]
    log_prob = log_likelihood(term, M, x, uniform_log_prob, **RK4, differentiable=True).log_prob
    (slope,) = torch.autograd.grad(log_prob.sum(), k)
    assert abs(float(slope) - 2) < 1e-6  # the south pole stays where it is, and div v = 2k there
    assert not log_likelihood(term, M, x, uniform_log_prob, **RK4).log_prob.requires_grad


def test_likelihood_checks_its_arguments():
    flow = conformal()
    for arguments, words in (
        ({"divergence": "jacobian"}, "divergence"),
        ({"n_probes": 0}, "n_probes"),
        ({"batch_size": 0}, "batch_size"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"solver": GeodesicRK4(), "controller": AdaptiveSteps()}, "DormandPrince"),
    ):
        with pytest.raises(ConfigError, match=words):
            log_likelihood(flow.term, flow.manifold, flow.x, uniform_log_prob, **arguments)
