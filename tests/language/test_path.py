"""The path of tokens: score, velocity and transition agree with each other and with autograd; input is checked."""

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.processes import TokenPath

from .two_phrases import PATH, PHRASES, TOKENS, exact_network


def draws(n=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = 0.1 + 0.8 * torch.rand(n, generator=generator, dtype=torch.float64)
    x0 = PHRASES[torch.randint(2, (n,), generator=generator)]
    return t, x0, PATH.sample(x0, t, generator).x_t


def test_score_is_the_gradient_of_the_log_density():
    t, _, x = draws()
    x.requires_grad_()
    each = torch.stack([PATH.log_transition(x, phrase.expand_as(x), t) for phrase in PHRASES])
    (gradient,) = torch.autograd.grad(torch.logsumexp(each, 0).sum(), x)
    score = PATH.score(exact_network(t, x.detach()), x.detach(), t)
    assert ((gradient - score).abs() / (1 + gradient.abs())).max() < 1e-10


def test_velocity_is_that_of_the_probability_flow():
    t, _, x = draws()
    logits = exact_network(t, x)
    drift, rate = PATH.drift_and_rate(x, t)
    assert (PATH.velocity(logits, x, t) - (drift - rate / 2 * PATH.score(logits, x, t))).abs().max() < 1e-10
    terms = PATH.terms(exact_network)
    assert (terms.flow.velocity(t, x) - PATH.velocity(logits, x, t)).abs().max() == 0
    # The flow is halfway between the SDE and its reverse.
    assert (2 * terms.flow.velocity(t, x) - drift - terms.reverse.drift(t, x)).abs().max() < 1e-9


def test_transition_is_normal_and_its_end_the_prior():
    t, x0, x = draws()
    s = t[:, None, None]
    truth = torch.distributions.Normal((1 - s) * x0, s).log_prob(x).sum((-2, -1))
    assert (PATH.log_transition(x, x0, t) - truth).abs().max() < 1e-10
    one = torch.ones_like(t)
    assert (PATH.log_transition(x, x0, one) - PATH.prior.log_prob(x)).abs().max() < 1e-10
    assert PATH.prior_mismatch(x0).kl == 0


def test_draws_have_the_mean_and_spread_of_the_path():
    n, s = 20_000, 0.3
    x0 = PHRASES[:1].expand(n, 2, 4)
    x = PATH.sample(x0, torch.full((n,), s, dtype=torch.float64), torch.Generator().manual_seed(0)).x_t
    z = (x.mean(0) - (1 - s) * x0[0]) / (s / math.sqrt(n))
    assert z.abs().max() < 5
    assert ((x.mean(0) - (0.98 - s) * x0[0]) / (s / math.sqrt(n))).abs().max() > 5  # negative control
    assert abs(float(x.std(0).mean()) / s - 1) < 5 / math.sqrt(2 * x.numel())


def test_move_of_a_constant_denoiser_is_the_flow():
    """dx/dlog t = x - D with D constant: x - D shrinks as t."""
    t, x0, x = draws()
    to = 0.4 * t
    moved = PATH.move(x, t, to, x0)
    assert ((moved - x0) / to[:, None, None] - (x - x0) / t[:, None, None]).abs().max() < 1e-12
    assert (PATH.move(x, t, torch.zeros_like(t), x0) == x0).all()


def test_points_follow_the_dtype_of_the_path():
    assert PATH.points(TOKENS).dtype == torch.float32
    assert TokenPath(4, 2).double().points(TOKENS).dtype == torch.float64
    assert (PATH.points(TOKENS) == PHRASES).all()
    assert PATH.points(PHRASES) is PHRASES
    PATH.manifold.check_point(PATH.points(TOKENS))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(3, 2), "integers"),
        ([[0, 1]], "integers"),
        (torch.zeros(3, 5, dtype=torch.int64), r"shape \(n, 2\), got \(3, 5\)"),
        (torch.zeros(2, dtype=torch.int64), r"shape \(n, 2\)"),
        (torch.tensor([[0, 1], [0, 4]]), r"row 1 has a token outside \[0, 4\): 4"),
        (torch.tensor([[0, -1]]), "row 0 has a token outside"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(DataError, match=message):
        PATH.check_tokens(tokens)


def test_bad_sizes_are_refused():
    with pytest.raises(ConfigError, match="n_tokens >= 2"):
        TokenPath(1, 3)
    with pytest.raises(ConfigError, match="length >= 1"):
        TokenPath(3, 0)
