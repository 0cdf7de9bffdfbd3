"""Weighted particles: posteriors and evidence that quadrature knows."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, NumericsError
from manifold_diffusion.manifolds import Euclidean, Sphere
from manifold_diffusion.processes import BrownianMotion, Glimpse, LogSchedule
from manifold_diffusion.solvers import particle_filter, sample_twisted
from manifold_diffusion.solvers.particles import _systematic

from .posteriors import Posterior, caps, moments, seeded, sphere, squares, torus, waves, z_scores

CASES = {"sphere": (sphere, moments, caps), "torus": (torus, waves, squares)}


def twisted(case: Posterior, n_chains: int, n_particles: int, steps: int = 40, seed: int = 0, **options):
    options = {"width": case.width, "dtype": case.points.dtype, **options}
    return sample_twisted(
        case.process,
        case.network,
        case.log_likelihood,
        n_chains,
        n_particles,
        steps=steps,
        generator=seeded(seed),
        **options,
    )


@pytest.mark.parametrize("name", ["sphere", pytest.param("torus", marks=pytest.mark.slow)])
def test_particles_have_the_moments_of_the_posterior_and_guidance_alone_has_not(name):
    make, features, cells = CASES[name]
    case = make()
    exact = case.mean(features)
    draws = twisted(case, 200, 12).draw(seeded(1))
    assert z_scores(features(draws), exact).max() <= 5 and case.chi_square(draws, cells) <= 5
    alone = twisted(case, 1500, 1)
    draws = alone.draw(seeded(1))
    assert z_scores(features(draws), exact).max() > 5 and case.chi_square(draws, cells) > 5
    # Weighted by their evidence, the same guided paths are a sample of the posterior.
    weights = alone.pooled_weights().flatten()
    values = features(alone.x[:, 0])
    error = (weights @ values - exact) / (weights.square() @ (values - exact).square()).sqrt()
    assert error.abs().max() <= 5


@pytest.mark.slow
def test_the_bias_falls_with_the_number_of_particles():
    """Without a twist, where it is large: by about n_particles, and to the noise."""
    case, errors = sphere(), []
    exact = case.mean(moments)
    for n in (4, 16, 128):
        result = twisted(case, 6400 // n, n, seed=4, scale=0.0)
        means = (result.log_weights.exp().unsqueeze(-1) * moments(result.x)).sum(1)
        errors.append(float((means.mean(0) - exact).norm()))
        noise = float((means.var(0) / len(means)).sum().sqrt())
    assert 0.5 < math.log(errors[0] / errors[1]) / math.log(4) < 1.3
    assert errors[2] < 3 * noise < errors[1]


@pytest.mark.parametrize(
    ("name", "n_particles"),
    [
        ("sphere", 1),
        ("torus", 8),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("sphere", 8), ("torus", 1))),
    ],
)
def test_evidence_is_unbiased_for_any_number_of_particles(name, n_particles):
    case = CASES[name][0]()
    evidence = twisted(case, 1200 // n_particles, n_particles, seed=2).log_evidence.exp()
    assert z_scores(evidence, case.evidence) <= 5 < z_scores(evidence, 1.5 * case.evidence)


def test_the_limit_is_the_discretised_process_for_any_twist():
    """Two long steps, some beyond the cut locus: far from the continuous process, the same for all twists."""
    case = sphere(kappa=2.0)
    runs = {
        options: twisted(case, 3000, 2, steps=2, seed=3, scale=options[0], width=options[1]).log_evidence.exp()
        for options in ((0.0, None), (1.0, 0.5), (0.7, 0.2))
    }
    plain = runs[0.0, None]
    for evidence in runs.values():
        gap = evidence.mean() - plain.mean()
        assert abs(gap) <= 5 * ((evidence.var() + plain.var()) / len(plain)).sqrt()
        assert z_scores(evidence, case.evidence) > 5


def gaussian(steps: int):
    """A normal law seen through a normal likelihood: the exact twist is known, and the weights are all but equal."""
    M, y, spread, noise = Euclidean(2), torch.tensor([1.5, -0.5], dtype=torch.float64), 0.5, 0.1
    process = BrownianMotion(M, LogSchedule(1e-3, 2000.0))

    def log_normal(error, variance):
        return -error.square().sum(-1) / (2 * variance) - torch.log(2 * math.pi * variance)

    def twist(t, x, cond):
        tau = process.schedule.tau(t)
        shrink = (spread + 1e-3) / (spread + tau)
        variance = noise + (spread + 1e-3) * (tau - 1e-3) / (spread + tau)
        error, shrink = y - shrink.unsqueeze(-1) * x, shrink.unsqueeze(-1)
        output = -x * process.scale(t) / (spread + tau).unsqueeze(-1)
        return Glimpse(output, log_normal(error, variance), shrink * error / variance.unsqueeze(-1))

    g = seeded()
    x = math.sqrt(spread + 2000.0) * torch.randn(20, 10, 2, generator=g, dtype=torch.float64)
    times = [1 - k / steps for k in range(steps + 1)]
    variance = torch.tensor(noise, dtype=torch.float64)
    result = particle_filter(process, twist, lambda x: log_normal(y - x, variance), x, times, generator=g)
    return result, float(log_normal(y, variance + spread + 1e-3))


def test_with_the_exact_twist_the_evidence_converges_path_by_path():
    """At the rate of the strong error, the root of the step; unlike the mean, which is right at every step size."""
    errors = []
    for steps in (50, 800):
        result, exact = gaussian(steps)
        errors.append(float((result.log_evidence - exact).square().mean().sqrt()))
    assert errors[1] < 0.04 and abs(errors[1] / errors[0] - 0.25) < 0.12
    assert result.ess.min() > 9.5


def test_systematic_resampling_keeps_each_particle_in_proportion():
    w = torch.tensor([0.05, 0.5, 0.15, 0.3], dtype=torch.float64).expand(4000, 4)
    yes = torch.ones(4000, dtype=torch.bool)
    counts = torch.nn.functional.one_hot(_systematic(w.log(), yes, seeded()), 4).sum(1).double()
    assert ((counts - 4 * w).abs() < 1).all()
    assert z_scores(counts[:, [0, 2, 3]], (4 * w[0])[[0, 2, 3]]).max() <= 5
    assert (_systematic(w.log(), ~yes, seeded()) == torch.arange(4)).all()


def test_chains_have_their_own_likelihood_condition_and_randomness():
    case = sphere(dtype=torch.float32)
    poles = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    seen = []

    def network(t, x, cond):
        seen.append(cond)
        return case.network(t, x)

    def likelihood(x):
        return 20 * (x * poles.unsqueeze(1)).sum(-1)

    runs = [
        sample_twisted(
            case.process,
            network,
            likelihood,
            2,
            32,
            width=0.05,
            steps=20,
            cond=torch.tensor([[1.0], [2.0]]),
            generator=seeded(s),
        )
        for s in (0, 0, 1)
    ]
    assert (runs[0].draw(seeded()) * poles).sum(-1).min() > 0.5
    assert torch.equal(runs[0].x, runs[1].x) and not torch.equal(runs[0].x, runs[2].x)
    assert runs[0].x.dtype == runs[0].log_weights.dtype == runs[0].log_evidence.dtype == torch.float32
    assert seen[0].shape == (2, 32, 1) and (seen[0][1] == 2).all()
    assert torch.allclose(runs[0].log_weights.exp().sum(-1), torch.ones(2))
    Sphere(2).check_point(runs[0].x)


def test_an_event_is_a_likelihood_of_unguided_particles():
    case = sphere()

    def north(x):
        return torch.where(x[..., 2] > 0, 0.0, -math.inf).to(x.dtype)

    result = sample_twisted(
        case.process,
        case.network,
        north,
        200,
        8,
        width=None,
        scale=0.0,
        steps=40,
        generator=seeded(),
        dtype=torch.float64,
    )
    assert (result.draw(seeded())[:, 2] > 0).all()
    exact = float((case.prior * (case.points[:, 2] > 0)).sum())
    assert z_scores(result.log_evidence.exp(), exact) <= 5


def test_bad_input_is_refused_with_the_fix():
    case = sphere()
    good = {"width": case.width, "steps": 5}
    for bad, match in (
        ({"n_particles": 0}, "n_particles"),
        ({"n_chains": 0}, "n_chains"),
        ({"steps": 0}, "steps"),
        ({"ess_threshold": 1.5}, "ess_threshold"),
        ({"scale": -1.0}, "scale"),
        ({"scale": math.nan}, "scale"),
        ({"width": 0.0}, "width"),
        ({"cond": torch.zeros(7, 2)}, "cond must be one"),
    ):
        with pytest.raises(ConfigError, match=match):
            sample_twisted(
                case.process, case.network, case.log_likelihood, **{"n_chains": 2, "n_particles": 4, **good, **bad}
            )
    for scale in (0.0, 1.0):
        with pytest.raises(ConfigError, match=r"\(2, 4\)"):
            sample_twisted(case.process, case.network, lambda x: x.sum(), 2, 4, scale=scale, **good)
    with pytest.raises(NumericsError, match=r"first at t = 1"):
        sample_twisted(case.process, case.network, lambda x: x[..., 0] * math.nan, 2, 4, **good)
    with pytest.raises(NumericsError, match=r"raise n_particles"):
        sample_twisted(case.process, case.network, lambda x: x[..., 0] - math.inf, 2, 4, scale=0.0, **good)
