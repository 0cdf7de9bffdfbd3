"""Noise on tokens: Bayes by brute force, and the evidence bound against likelihoods that are known."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError, DataError
from manifold_diffusion._typing import Batch
from manifold_diffusion.objectives import DiscreteDenoising
from manifold_diffusion.objectives.discrete import _bound_rate
from manifold_diffusion.processes import (
    AbsorbingNoise,
    CosineSignal,
    DiscreteNoise,
    LinearSignal,
    SignalSchedule,
    UniformNoise,
)

NOISES = [UniformNoise, AbsorbingNoise]
P0 = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def number(*t: float) -> torch.Tensor:
    return torch.tensor(t, dtype=torch.float64)


class Cubic(SignalSchedule):
    """A schedule of a user: alpha only."""

    def alpha(self, t):
        return 1 - t**3


def words(n: int, length: int) -> torch.Tensor:
    """All sequences, ``(n ** length, length)``."""
    return torch.tensor(list(itertools.product(range(n), repeat=length)))


def joint_law(k: int, length: int, seed: int = 0) -> torch.Tensor:
    """A law of dependent tokens, over :func:`words`."""
    return (1.5 * torch.randn(k**length, generator=seeded(seed), dtype=torch.float64)).softmax(0)


class Truth:
    """The exact network for a law of sequences: log p(x_0^l | the other tokens of x_t)."""

    def __init__(self, process: DiscreteNoise, law: torch.Tensor, length: int) -> None:
        self.process, self.law, self.words = process, law, words(process.n_categories, length)

    def __call__(self, t, x, cond=None):
        clean = torch.nn.functional.one_hot(self.words, self.process.n_categories).double()
        noisy = self.process.marginal(clean[None].expand(len(x), -1, -1, -1).flatten(0, 1), self._times(t))
        noisy = noisy.unflatten(0, (len(x), -1))  # q(. | x_0), (batch, words, length, states)
        seen = noisy.gather(-1, x[:, None, :, None].expand(-1, len(self.words), -1, 1)).squeeze(-1)
        logits = []
        for position in range(x.shape[1]):
            others = [i for i in range(x.shape[1]) if i != position]
            weights = self.law * seen[:, :, others].prod(-1)
            logits.append((weights[:, :, None] * clean[:, position]).sum(1).log())
        return torch.stack(logits, 1)

    def _times(self, t):
        return t.double().repeat_interleave(len(self.words))


# ------------------------------------------------------------------ signals


@pytest.mark.parametrize("signal", [LinearSignal(), CosineSignal(), Cubic()], ids=lambda s: type(s).__name__)
def test_signal_falls_from_one_to_zero_and_has_the_right_derivative(signal):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha = signal.alpha(t)
    assert alpha[0] == 1 and alpha[-1] == 0 and bool((alpha.diff() < 0).all())
    torch.testing.assert_close(alpha + signal.noise(t), torch.ones_like(t), rtol=0, atol=1e-15)
    inside, h = t[1:-1], 1e-5
    slope = (signal.alpha(inside + h) - signal.alpha(inside - h)) / (2 * h)
    torch.testing.assert_close(signal.rate(inside), slope, rtol=0, atol=1e-9)


def test_small_noise_keeps_its_digits_in_single_precision():
    t = torch.tensor([1e-6])
    assert LinearSignal().noise(t) == t
    assert abs(float(CosineSignal().noise(t)) / (math.pi / 2 * 1e-6) ** 2 - 1) < 1e-6
    assert float(1 - CosineSignal().alpha(t)) == 0  # the difference would have lost it


# ------------------------------------------------------------------ the chain


@pytest.mark.parametrize("signal", [LinearSignal(), CosineSignal()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("noise", NOISES)
def test_transitions_are_those_of_a_markov_chain(noise, signal):
    process, zero = noise(6, signal), number(0.0)
    s, t = number(0.2, 0.5, 0.3), number(0.7, 0.6, 1.0)
    later = process.transition_matrix(s, t)
    torch.testing.assert_close(later.sum(-1), torch.ones(3, process.n_states, dtype=torch.float64), rtol=0, atol=1e-15)
    product = process.transition_matrix(zero, s) @ later
    torch.testing.assert_close(product, process.transition_matrix(zero, t), rtol=0, atol=1e-15)
    torch.testing.assert_close(
        process.transition_matrix(zero, number(1.0))[0],
        process.terminal(P0).expand(process.n_states, -1),
        rtol=0,
        atol=1e-15,
    )
    same = process.transition_matrix(t, t)
    assert torch.equal(same, torch.eye(process.n_states, dtype=torch.float64).expand_as(same))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noise", NOISES)
def test_posterior_is_that_of_bayes(noise, dtype):
    """q(x_s | x_t) by matrices, for every state and pair of times, the end points included."""
    process = noise(6, CosineSignal())
    for s, t in [(0.2, 0.7), (0.0, 0.4), (0.5, 0.5), (0.9, 1.0), (0.0, 1.0), (1e-3, 2e-3)]:
        start = torch.nn.functional.pad(P0, (0, process.n_states - 6))
        at_s = start @ process.transition_matrix(number(0.0), number(s))[0]
        joint = at_s[:, None] * process.transition_matrix(number(s), number(t))[0]  # (x_s, x_t)
        zero_t = start[:, None] * process.transition_matrix(number(0.0), number(t))[0]  # (x_0, x_t)
        states = torch.arange(process.n_states)[joint.sum(0) > 0]
        exact = (joint / joint.sum(0)).T[states]
        p = (zero_t / zero_t.sum(0)).T[states, :6].unsqueeze(1).to(dtype)
        times = [torch.full((len(states),), a, dtype=dtype) for a in (s, t)]
        got = process.posterior(states[:, None], p, *times).squeeze(1)
        tolerance = 2e-15 if dtype == torch.float64 else 2e-6
        torch.testing.assert_close(got, exact.to(dtype), rtol=0, atol=tolerance)
        got = process.denoise(P0.log().to(dtype).expand(len(states), 1, 6), states[:, None], times[1])
        torch.testing.assert_close(got, p, rtol=0, atol=tolerance)


def test_a_ratio_of_posterior_means_is_not_the_posterior():
    """Six states: plugging p(x_0 | x_t) into the formula for a known x_0 gives 0.607 where the truth is 0.448."""
    alpha_s, alpha_t, top = 0.589, 0.2543, 3
    process, s, t = UniformNoise(6), number(1 - alpha_s), number(1 - alpha_t)
    x = torch.tensor([[top]])
    p = process.denoise(P0.log().expand(1, 1, 6), x, t)
    truth = process.posterior(x, p, s, t)[0, 0]

    def ratio(x0):
        backward = process.transition_matrix(s, t)[0, :, top]
        return backward * process.marginal(x0, s)[0, 0] / process.marginal(x0, t)[0, 0, top]

    assert (round(float(ratio(p)[top]), 3), round(float(truth[top]), 3)) == (0.607, 0.448)
    assert int(truth.argmax()) == top
    torch.testing.assert_close(ratio(P0.expand(1, 1, 6)), truth, rtol=0, atol=1e-15)  # exact for the law without x_t


@pytest.mark.parametrize("noise", NOISES)
def test_samples_follow_log_prob(noise):
    process, t, n = noise(4), torch.tensor(0.6), 20000
    x0 = torch.tensor([[1, 3]]).expand(n, 2)
    x_t = process.sample(x0, t.expand(n), seeded())
    every = words(process.n_states, 2)
    counts = (x_t[:, None] == every).all(-1).sum(0).double()

    def chi_square(at):
        expected = n * process.log_prob(every, torch.tensor([[1, 3]]).expand(len(every), 2), number(at)).exp()
        used = expected > 0
        assert bool((counts[~used] == 0).all()) and abs(float(expected.sum()) - n) < 1e-6
        value, freedom = ((counts - expected)[used].square() / expected[used]).sum(), int(used.sum()) - 1
        return float((value - freedom) / math.sqrt(2 * freedom))

    assert chi_square(0.6) < 5 < chi_square(0.57)


@pytest.mark.parametrize("noise", NOISES)
def test_denoise_is_bayes_for_dependent_tokens(noise):
    """Logits of the other tokens, plus the token's own evidence: p(x_0 | x_t) by enumeration."""
    process, law, x0 = noise(3), joint_law(3, 2), words(3, 2)
    x_t, t = words(process.n_states, 2), number(0.35)
    got = process.denoise(Truth(process, law, 2)(t.expand(len(x_t)), x_t), x_t, t.expand(len(x_t)))
    for row, p in zip(x_t, got, strict=True):
        weights = law * process.log_prob(row.expand_as(x0), x0, t.expand(len(x0))).exp()
        exact = torch.stack([weights[x0[:, i] == k].sum() for i in range(2) for k in range(3)]).reshape(2, 3)
        if weights.sum() > 0:
            torch.testing.assert_close(p, exact / weights.sum(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("noise", NOISES)
def test_the_end_points_are_finite_in_single_precision(noise):
    process, logits = noise(5), torch.randn(2, 4, 5, generator=seeded())
    x0 = torch.randint(5, (2, 4), generator=seeded())
    for t in (0.0, 1e-7, 1 - 1e-7, 1.0):
        time = torch.full((2,), t)
        x_t = process.sample(x0, time, seeded())
        p = process.denoise(logits, x_t, time)
        assert bool(p.isfinite().all()) and torch.allclose(p.sum(-1), torch.ones(2, 4))
        if t == 0:
            assert torch.equal(x_t, x0) and bool((p.argmax(-1) == x0).all())
        else:
            assert bool(process.posterior(x_t, p, time / 2, time).isfinite().all())
    prior = process.sample_prior((1000, 2), seeded())
    assert prior.shape == (1000, 2) and bool((process.terminal(logits)[prior] > 0).all())


def test_bad_input_says_what_to_do():
    process, t = UniformNoise(3), torch.tensor([0.5])
    with pytest.raises(DataError, match="from 0 to 2"):
        process.sample(torch.tensor([[3]]), t)
    with pytest.raises(DataError, match=r"x\.long\(\)"):
        process.sample(torch.tensor([[1.0]]), t)
    with pytest.raises(DataError, match="from 0 to 1"):
        AbsorbingNoise(2).log_prob(torch.tensor([[2]]), torch.tensor([[2]]), t)  # a mask is no data
    with pytest.raises(ConfigError, match=r"\*batch, length, 3"):
        process.marginal(torch.zeros(1, 1, 4), t)
    with pytest.raises(ConfigError, match="s <= t"):
        process.posterior(torch.tensor([[0]]), torch.full((1, 1, 3), 1 / 3), t + 0.1, t)
    with pytest.raises(ConfigError, match="s <= t"):
        process.transition_matrix(torch.tensor([0.7]), torch.tensor([0.2]))
    x, p = torch.tensor([[0]]), torch.full((1, 1, 3), 1 / 3)
    for noise, bad in itertools.product((process, AbsorbingNoise(3)), (math.nan, -0.1, 1.1)):
        time = torch.full((1,), bad)
        calls = [
            (noise.sample, x), (noise.marginal, p), (noise.denoise, p, x), (noise.transition_matrix, t),
            (noise.posterior, x, p, t),
        ]  # fmt: skip
        for call, *arguments in calls:
            with pytest.raises(ConfigError, match="Times"):
                call(*arguments, time)
    with pytest.raises(ConfigError, match="n_categories >= 2"):
        UniformNoise(1)

    class Half(SignalSchedule):
        def alpha(self, t):
            return 1 - t / 2

    with pytest.raises(ConfigError, match=r"from 1 to 0\.5"):
        AbsorbingNoise(3, Half())


@pytest.mark.parametrize("noise", NOISES)
def test_a_process_is_saved_by_its_arguments(noise):
    copy = from_config(to_config(noise(7, CosineSignal())))
    assert type(copy) is noise and copy.n_categories == 7 and copy.signal == CosineSignal()


# ------------------------------------------------------------------ the evidence bound


def bound_gap(process, network, law, length, n_steps=None, seed=0, n=4000):
    """z-score of the mean over the noise of the bound plus log p(x_0), for data of that law."""
    every = words(process.n_categories, length)
    index = torch.multinomial(law, n, replacement=True, generator=seeded(seed))
    objective = DiscreteDenoising(process, n_steps)
    bounds = objective.bounds(network, Batch(every[index]), seeded(seed + 1))
    gap = bounds.double() + law[index].log()
    return float(gap.mean() / (gap.std() / math.sqrt(n))), float(gap.mean())


@pytest.mark.parametrize("signal", [LinearSignal(), CosineSignal()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("noise", NOISES)
def test_the_exact_denoiser_reaches_the_entropy_in_continuous_time(noise, signal):
    """Dependent tokens too: in continuous time they jump one at a time. A tempered denoiser does not reach it."""
    process, law = noise(3, signal), joint_law(3, 2)
    truth = Truth(process, law, 2)
    z, _ = bound_gap(process, truth, law, 2)
    assert abs(z) < 5
    z, gap = bound_gap(process, lambda t, x, cond=None: 0.3 * truth(t, x), law, 2)
    assert z > 5 and gap > 0.05


@pytest.mark.parametrize("noise", NOISES)
def test_the_bound_holds_with_equality_word_by_word(noise):
    """Not only on average: the bound of each sequence is its negative log-likelihood."""
    process, law = noise(2), joint_law(2, 2, seed=1)
    truth = Truth(process, law, 2)
    objective = DiscreteDenoising(process)
    for word, log_p in zip(words(2, 2), law.log(), strict=True):
        bounds = objective.bounds(truth, Batch(word.expand(4000, 2)), seeded(3)).double()
        assert abs(float((bounds.mean() + log_p) / (bounds.std() / math.sqrt(4000)))) < 5


@pytest.mark.parametrize("noise", NOISES)
def test_in_steps_the_bound_pays_for_the_dependence_of_tokens(noise):
    process = noise(3)
    one, two = joint_law(3, 1), joint_law(3, 2)
    assert abs(bound_gap(process, Truth(process, one, 1), one, 1, n_steps=3)[0]) < 5  # a single token: exact
    z, few = bound_gap(process, Truth(process, two, 2), two, 2, n_steps=2, n=8000)
    assert z > 5
    _, many = bound_gap(process, Truth(process, two, 2), two, 2, n_steps=20, n=8000)
    assert many < few / 2


def test_the_masked_estimate_has_bounded_weights():
    """One forced mask: the estimate for a uniform guess is length * log K whatever is drawn."""
    objective = DiscreteDenoising(AbsorbingNoise(4))
    bounds = objective.bounds(
        lambda t, x, cond=None: torch.zeros(*x.shape, 4), Batch(torch.zeros(500, 5, dtype=torch.int64)), seeded()
    )
    torch.testing.assert_close(bounds, torch.full((500,), 5 * math.log(4)))


@pytest.mark.parametrize("noise", NOISES)
def test_loss_and_gradient_are_finite_and_agree_in_single_precision(noise):
    process = noise(5, CosineSignal())
    x0 = torch.randint(5, (6, 4), generator=seeded())
    logits = torch.randn(6, 4, 5, generator=seeded(1), dtype=torch.float64)
    t = torch.tensor([0.0, 1e-7, 1e-3, 0.5, 1 - 1e-4, 1.0])
    rates, slopes = [], []
    for dtype in (torch.float64, torch.float32):
        weights = logits.to(dtype).clone().requires_grad_()
        rate = _bound_rate(process, lambda t, x, c, w=weights: w, Batch(x0), t.to(dtype), seeded(2))
        rate.sum().backward()
        rates.append(rate.detach())
        slopes.append(weights.grad)
        weights.grad = None
        p = DiscreteDenoising(process, 7).loss(lambda t, x, c, w=weights: w, Batch(x0), seeded(2))
        p.backward()
        assert bool(weights.grad.isfinite().all())
    if noise is UniformNoise:  # draws in another precision are others for absorbing noise
        assert bool(rates[1].isfinite().all()) and bool(slopes[1].isfinite().all())
    assert all(bool(a.isfinite().all()) for a in (*rates, *slopes))


def test_single_and_double_precision_give_the_same_uniform_bound():
    """Near t = 1 the divergence is of second order in alpha: without care single precision would lose it."""
    process = UniformNoise(5)
    f = torch.randn(200, 3, 5, generator=seeded(), dtype=torch.float64)
    x0 = torch.randint(5, (200, 3), generator=seeded(1))
    x_t = torch.randint(5, (200, 3), generator=seeded(2))
    process.sample = lambda x, t, generator=None: x_t  # the same draw in both
    t = 1 - torch.logspace(-6, -0.5, 200)
    a, b = (
        _bound_rate(process, lambda t, x, c, d=d: f.to(d), Batch(x0), t.to(d), seeded()) for d in (t.dtype, f.dtype)
    )
    torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-6)


def test_objective_refuses_what_it_cannot_bound():
    class Own(DiscreteNoise):
        n_states = 3

        def sample(self, x0, t, generator=None):
            return x0

        def terminal(self, like):
            return like

        def _jump(self, probabilities, stay, leave):
            return probabilities

        def _clean(self, logits, x_t, t):
            return logits

        def _posterior(self, x_t, p, s, t):
            return p

    with pytest.raises(CapabilityError, match="n_steps=1000"):
        DiscreteDenoising(Own(3))
    with pytest.raises(ConfigError, match="n_steps"):
        DiscreteDenoising(UniformNoise(3), 0)
    with pytest.raises(ConfigError, match="DenoisingScoreMatching"):
        DiscreteDenoising("uniform")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="int64"):
        DiscreteDenoising(UniformNoise(3)).loss(lambda t, x, c: x, Batch(torch.zeros(2, 2)))
