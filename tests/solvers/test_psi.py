"""Psi samplers: marginals kept for every kappa, by matrices and by samples, and what a wrong denoiser does."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import Euclidean, Product, Sphere, Torus
from manifold_diffusion.processes import (
    AbsorbingNoise,
    BrownianMotion,
    CosineSignal,
    GeodesicFlow,
    Langevin,
    LogSchedule,
    ProductProcess,
    UniformNoise,
)
from manifold_diffusion.solvers import (
    DiscretePsi,
    MixtureReverse,
    PhasedKappa,
    PredictorCorrector,
    RemaskingKappa,
    ReverseSDE,
    loop_times,
    sample_psi,
)

from .flows import seeded

NOISES = [UniformNoise, AbsorbingNoise]
P0 = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], dtype=torch.float64)
KAPPAS = [0.0, 0.3, 0.95, 1.0, PhasedKappa(0.9), RemaskingKappa(0.2), RemaskingKappa(0.3, "rescaled", CosineSignal())]


def one_token(process, power: float = 1.0) -> DiscretePsi:
    """The exact kernel of a token with law P0; ``power`` tempers its posterior, a bias."""

    def denoiser(t, x):
        p = process.denoise(P0.log().expand(*x.shape, 6), x, t) ** power
        return p / p.sum(-1, keepdim=True)

    return DiscretePsi(process, denoiser, torch.float64)


def evolve(process, kernel: DiscretePsi, law: torch.Tensor, times, kappa) -> torch.Tensor:
    """Law of a token after the steps, by matrices."""
    states = torch.arange(process.n_states)[:, None]
    for t, s in itertools.pairwise(times):
        k = kappa(t, s) if callable(kappa) else kappa
        law = law @ kernel.transition(states, t, s, k).squeeze(1)
    return law


def at(process, t: float) -> torch.Tensor:
    return process.marginal(P0[None], torch.tensor(t, dtype=torch.float64))[0]


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize("kappa", KAPPAS, ids=str)
@pytest.mark.parametrize("signal", [None, CosineSignal()])
@pytest.mark.parametrize("noise", NOISES)
def test_every_kappa_keeps_the_marginals(noise, signal, kappa):
    """To the last digit, in single steps of any length, in a run, and in one that waits at a level."""
    process = noise(6, signal)
    kernel = one_token(process)
    for t, s in [(1.0, 0.9), (1.0, 0.0), (0.7, 0.3), (0.4, 0.4), (0.3, 0.05), (0.2, 0.0)]:
        error = evolve(process, kernel, at(process, t), [t, s], kappa) - at(process, s)
        assert float(error.abs().max()) <= 1e-15
    for times in ([1 - i / 8 for i in range(9)], loop_times(9)):
        error = evolve(process, kernel, process.terminal(P0), times, kappa) - at(process, 0.0)
        assert float(error.abs().max()) <= 1e-14


@pytest.mark.parametrize("noise", NOISES)
def test_the_end_points_of_kappa(noise):
    process = noise(6)
    kernel, x = one_token(process), torch.arange(6)[:, None]
    t, s = (torch.full((6,), a, dtype=torch.float64) for a in (0.6, 0.4))
    p = kernel.denoiser(t, x)
    assert torch.equal(kernel.transition(x, 0.6, 0.4, 1.0), process.posterior(x, p, s, t))
    assert torch.equal(kernel.transition(x, 0.6, 0.4, 0.0), process.marginal(p, s))
    mixed = 0.3 * process.posterior(x, p, s, t) + 0.7 * process.marginal(p, s)
    torch.testing.assert_close(kernel.transition(x, 0.6, 0.4, 0.3), mixed, rtol=0, atol=1e-15)


@pytest.mark.parametrize("mode", ["capped", "rescaled"])
@pytest.mark.parametrize("signal", [None, CosineSignal()])
def test_remasking_kappa_gives_the_remasking_step(signal, mode):
    """ReMDM, written out: a seen token is masked with probability sigma."""
    process = AbsorbingNoise(6, signal)
    kernel, eta, mask = one_token(process), 0.1, process.mask
    for t, s in [(0.9, 0.8), (0.6, 0.4), (0.45, 0.4)]:
        alpha_t, alpha_s = process.signal.alpha(torch.tensor([t, s], dtype=torch.float64)).tolist()
        most = min(1.0, (1 - alpha_s) / alpha_t)
        sigma = min(eta, most) if mode == "capped" else eta * most
        step = kernel.transition(torch.tensor([[2], [mask]]), t, s, RemaskingKappa(eta, mode, signal)(t, s)).squeeze(1)
        seen, masked = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
        seen[2], seen[mask] = 1 - sigma, sigma
        masked[:6] = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t) * P0
        masked[mask] = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
        torch.testing.assert_close(step, torch.stack([seen, masked]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("power, steps", [(0.8, 16), (1.3, 8)])
def test_a_biased_posterior_is_corrected_by_a_smaller_kappa(power, steps):
    """Uniform noise, few steps, a denoiser that is too flat or too sharp: total variation of the final law."""
    process = UniformNoise(6)
    kernel, times = one_token(process, power), [1 - i / steps for i in range(steps + 1)]
    tv = {
        k: 0.5 * float((evolve(process, kernel, process.terminal(P0), times, k) - P0).abs().sum())
        for k in (1.0, 0.8, 0.5)
    }
    assert tv[0.5] < tv[0.8] < tv[1.0]


def test_no_kappa_helps_a_single_masked_token():
    """With absorbing noise a lone token is drawn from the same biased law at every noise level."""
    process = AbsorbingNoise(6)
    kernel, times = one_token(process, 1.3), [1 - i / 16 for i in range(17)]
    laws = [evolve(process, kernel, process.terminal(P0), times, k) for k in (1.0, 0.5)]
    torch.testing.assert_close(laws[0], laws[1], rtol=0, atol=1e-14)
    assert float((laws[0][:6] - P0).abs().sum()) > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noise", NOISES)
def test_samples_of_tokens_follow_the_law(noise, dtype):
    """The driver, with a network: counts of the tokens of sequences against P0, and of a wrong law."""
    process, n = noise(6), 20000

    def network(t, x, cond=None):
        assert t.dtype == dtype and t.shape == x.shape[:-1]
        return P0.log().to(dtype).expand(*x.shape, 6)

    kernel = DiscretePsi(process, process.denoiser(network), dtype)
    x = sample_psi(kernel, process.sample_prior((n, 1), seeded()), 5, 0.6, seeded(1))
    assert x.dtype == torch.int64 and x.shape == (n, 1)
    counts = torch.bincount(x.flatten(), minlength=6).double()

    def excess(p):
        return float((((counts - n * p).square() / (n * p)).sum() - 5) / math.sqrt(10))

    assert excess(P0) < 5 < excess((P0 + 0.01) / 1.06)
    again = sample_psi(kernel, process.sample_prior((n, 1), seeded()), 5, 0.6, seeded(1))
    assert torch.equal(x, again)
    assert sample_psi(kernel, torch.empty(0, 3, dtype=torch.int64), 5, 0.6).shape == (0, 3)


# ------------------------------------------------------------------ manifolds


def test_every_kappa_keeps_the_marginals_on_a_circle():
    """720 cells, heat kernel of the circle, empirical data: the mixture of bridges and the noised prediction."""
    angle = torch.arange(720, dtype=torch.float64) * (2 * math.pi / 720)
    kernel, width = heat_kernel(Torus(1)), 2 * math.pi / 720

    index = torch.arange(720)

    def matrix(tau):
        return (width * kernel.log_prob(angle[:, None], angle[:1], tau).exp())[index[:, None] - index]

    weights = torch.linspace(1, 3, 8, dtype=torch.float64).softmax(0)
    for late, early in [(2.0, 1.0), (0.5, 0.05), (0.05, 0.04)]:
        noise_t, noise_s, between = matrix(late)[::90], matrix(early)[::90], matrix(late - early)
        p_t, p_s = weights @ noise_t, weights @ noise_s
        posterior = weights[:, None] * noise_t / p_t  # p(x_0 | x_t)
        # sum over x_t of p_t(x_t) p(x_0 | x_t) p(x_s | x_t, x_0), the bridge being p_s p_(t - s) / p_t
        bridge = ((posterior * p_t / noise_t) @ between.T) * noise_s
        for kappa in (0.0, 0.5, 0.95, 1.0):
            law = kappa * bridge.sum(0) + (1 - kappa) * (posterior @ p_t) @ noise_s
            assert float((law - p_s).abs().max()) <= 1e-15
    assert float((matrix(0.4) @ matrix(0.1) - matrix(0.5)).abs().max()) <= 1e-15  # what the bridge rests on


SCHEDULE = LogSchedule(1e-3, 7.0)


def sphere_law(dtype=torch.float64) -> HeatKernelMixture:
    centres = Sphere(2).random_uniform(3, generator=seeded(5), dtype=dtype)
    return HeatKernelMixture(Sphere(2), centres, 0.1, torch.tensor([0.2, 0.3, 0.5], dtype=dtype))


def excess_on_the_sphere(x: torch.Tensor, law: HeatKernelMixture, tau: float) -> float:
    """Chi-square of counts in cells of equal area, in standard deviations, against quadrature."""
    fine = 240
    grid = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine
    z, phi = torch.meshgrid(2 * grid - 1, 2 * math.pi * grid - math.pi, indexing="ij")
    rho = (1 - z * z).sqrt()
    points = torch.stack([rho * phi.cos(), rho * phi.sin(), z], -1)
    mass = law.log_prob(points, tau).exp()
    mass = (mass / mass.sum()).reshape(8, 30, 12, 20).sum((1, 3)).flatten()
    row = ((x[:, 2] + 1) / 2 * 8).long().clamp(0, 7)
    column = ((torch.atan2(x[:, 1], x[:, 0]) + math.pi) / (2 * math.pi) * 12).long().clamp(0, 11)
    counts, n = torch.bincount(row * 12 + column, minlength=96).double(), len(x)
    rare = n * mass < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = n * torch.cat([mass[~rare], mass[rare].sum()[None]])
    freedom = len(expected) - 1
    return float((((observed - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize(
    "kappa, depth, dtype",
    [
        (1.0, 1.0, torch.float64),
        (0.95, 1.0, torch.float64),
        (0.5, 1.0, torch.float32),
        (0.0, 1.0, torch.float64),
        (0.3, 0.5, torch.float64),
    ],
)
def test_the_exact_reverse_kernel_gives_the_law_in_three_steps(kappa, depth, dtype):
    """10,000 points of S^2 against the mixture at tau_min; the kernel of a wider mixture does not give it."""
    process, law, n = BrownianMotion(Sphere(2), SCHEDULE), sphere_law(dtype), 10000
    wider = HeatKernelMixture(Sphere(2), law.centres, 0.12, law.weights)
    x = process.prior.sample(n, generator=seeded(), dtype=dtype)
    excess = {}
    for used in (law, wider):
        kernel = PredictorCorrector(process, MixtureReverse(process, used), depth=depth)
        got = sample_psi(kernel, x, 3, kappa, seeded(1))
        assert got.dtype == dtype
        excess[used] = excess_on_the_sphere(got.double(), sphere_law(), 1e-3)
    assert excess[law] < 5 < excess[wider]


@pytest.mark.parametrize("kappa", [1.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_score_gives_the_law_in_the_limit_of_small_steps(kappa):
    """The reverse SDE with the exact score of the mixture; half the score does not give it."""
    process, law, n = BrownianMotion(Sphere(2), SCHEDULE), sphere_law(torch.float32), 8000
    x, scores = process.prior.sample(n, generator=seeded()), {}
    for factor in (1.0, 0.5):

        def network(t, x, cond=None, factor=factor):
            return factor * process.scale(t) * law.score(x, process.schedule.tau(t[:1]))

        kernel = PredictorCorrector(process, ReverseSDE(process, network, max_step=1 / 60))
        got = sample_psi(kernel, x, 60, kappa, seeded(1))
        assert got.dtype == torch.float32
        scores[factor] = excess_on_the_sphere(got.double(), sphere_law(), 1e-3)
    assert scores[1.0] < 5 < scores[0.5]


PROCESSES = [
    BrownianMotion(Sphere(2), SCHEDULE),
    BrownianMotion(Sphere(2), SCHEDULE, n_steps=20),
    Langevin(Euclidean(2), LogSchedule(1e-3, 12.0), sigma=2.0),
    ProductProcess(BrownianMotion(Sphere(2), SCHEDULE), Langevin(Euclidean(1))),
]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__}({p.manifold})")
def test_noise_from_one_time_to_another_composes(process):
    """x_s and then noise from s to t: the law of x_t, seen by the transition density, or by a moment."""
    n, M = 20000, process.manifold
    o = M.origin(torch.float64)
    x0 = M.exp(o, 0.5 * M.random_tangent(o, generator=seeded(7))).expand(n, *M.point_shape)
    s, t = (torch.full((n,), a, dtype=torch.float64) for a in (0.7, 0.85))
    x_s = process.sample(x0, s, seeded()).x_t
    direct = M.dist(x0, process.sample(x0, t, seeded(1)).x_t).square()
    for end, same in ((t, True), (t + 0.1, False)):
        gap = M.dist(x0, process.renoise(x_s, s, end, seeded(2))).square() - direct
        assert (abs(float(gap.mean() / (gap.std() / math.sqrt(n)))) < 5) == same


def test_rows_keep_their_condition():
    """Half of the points go straight, half around, each with its own row of the condition."""
    process = BrownianMotion(Sphere(2), SCHEDULE)
    x = process.prior.sample(400, generator=seeded())
    calls = []

    def reverse(x, t, s, cond, generator):
        calls.append((t, s, x, cond))
        return x

    kernel = PredictorCorrector(process, reverse, cond=x[:, :1], depth=0.5)
    y = kernel.step(x, 0.5, 0.4, 0.5, seeded())
    assert [c[:2] for c in calls] == [(0.5, 0.4), (0.5, 0.2)]
    assert all(torch.equal(c[2][:, :1], c[3]) for c in calls)
    assert len(calls[0][2]) + len(calls[1][2]) == 400 and 140 < len(calls[0][2]) < 260
    same = (y == x).all(-1)
    assert int(same.sum()) == len(calls[0][2])  # the others were noised again
    assert torch.equal(kernel.step(x, 0.3, 0.3, 1.0, seeded()), x)  # nothing to do


def test_bad_input_says_what_to_do():
    process = UniformNoise(6)
    kernel, x = one_token(process), torch.zeros(2, 1, dtype=torch.int64)
    for times in (0, [1.0, 0.5], [0.5, 1.0, 0.0], [1.0], [1.5, 0.0]):
        with pytest.raises(ConfigError, match="times must"):
            sample_psi(kernel, x, times)
    with pytest.raises(ConfigError, match=r"kappa must be in \[0, 1\]; got 1\.5"):
        sample_psi(kernel, x, 4, lambda t, s: 1.5)
    with pytest.raises(NumericsError, match="not finite at t = 1"):
        sample_psi(DiscretePsi(process, lambda t, x: torch.full((2, 1, 6), math.nan)), x, 4)
    brownian = BrownianMotion(Sphere(2), SCHEDULE)
    points = brownian.prior.sample(3, generator=seeded())
    with pytest.raises(NumericsError, match="NaN or infinite"):
        sample_psi(PredictorCorrector(brownian, lambda x, t, s, c, g: x / 0), points, 4)
    with pytest.raises(ConfigError, match="depth"):
        PredictorCorrector(brownian, lambda x, t, s, c, g: x, depth=0.0)
    with pytest.raises(ConfigError, match="max_step"):
        ReverseSDE(brownian, lambda t, x, c: x, max_step=0.0)
    with pytest.raises(CapabilityError, match="no reverse SDE"):
        ReverseSDE(GeodesicFlow(Sphere(2)), lambda t, x, c: x)(points, 1.0, 0.5)
    with pytest.raises(ConfigError, match="lives on"):
        MixtureReverse(brownian, HeatKernelMixture(Torus(1), torch.zeros(1, 1), 0.1))
    with pytest.raises(ConfigError, match="must be a HeatKernelMixture"):
        MixtureReverse(brownian, torch.zeros(1, 3))  # pyright: ignore[reportArgumentType]
    simulated = Langevin(Sphere(2))
    with pytest.raises(CapabilityError, match="can't be run from one time"):
        simulated.renoise(points, torch.zeros(3), torch.ones(3))
    with pytest.raises(ConfigError, match="t_low"):
        PhasedKappa(0.9, t_low=0.6, t_high=0.4)
    with pytest.raises(ConfigError, match="eta"):
        RemaskingKappa(2.0)
    with pytest.raises(ConfigError, match="level"):
        loop_times(1)


def test_kappa_is_saved_by_its_arguments():
    for kappa in (PhasedKappa(0.9, t_high=0.6), RemaskingKappa(0.1, "rescaled", CosineSignal())):
        assert from_config(to_config(kappa)) == kappa


def test_products_of_manifolds_are_sampled_too():
    M = Product(Sphere(2), Torus(1))
    process = BrownianMotion(M, SCHEDULE)
    law = HeatKernelMixture(M, M.random_uniform(2, generator=seeded(), dtype=torch.float64), 0.05)
    x = process.prior.sample(50, generator=seeded(), dtype=torch.float64)
    y = sample_psi(PredictorCorrector(process, MixtureReverse(process, law)), x, loop_times(8), 0.5, seeded())
    M.check_point(y, "y")
    assert float(torch.minimum(*(M.dist(c.expand_as(y), y) for c in law.centres)).max()) < 2.0
