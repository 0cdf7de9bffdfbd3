"""With the exact denoiser of two phrases every rule has the exact flow map as its solution; losses, and training."""

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion._typing import Batch
from manifold_diffusion.networks import TokenTransformer
from manifold_diffusion.objectives import (
    DenoisingScoreMatching,
    TokenFlow,
    TokenFlowMap,
    eulerian_target,
    lagrangian_target,
    semigroup_target,
)

from .two_phrases import PATH, PHRASES, TOKENS, delta, denoiser, exact_network, flow, sign, valid

RULES = {
    "semigroup": lambda d, x, t, via, to: semigroup_target(PATH, d, x, t, via, to),
    "lagrangian": lambda d, x, t, via, to: lagrangian_target(PATH, d, denoiser, x, t, to),
    "eulerian": lambda d, x, t, via, to: eulerian_target(PATH, d, denoiser, x, t, to),
}


def points(n=24):
    generator = torch.Generator().manual_seed(0)
    t = 0.3 + 0.7 * torch.rand(n, generator=generator, dtype=torch.float64)
    x = PATH.sample(PHRASES[torch.randint(2, (n,), generator=generator)], t, generator).x_t
    u = torch.rand(2, n, generator=generator, dtype=torch.float64)
    to = t * (0.1 + 0.6 * u[0])
    return x, t, to + (t - to) * (0.2 + 0.6 * u[1]), to


@pytest.mark.parametrize("rule", RULES)
def test_exact_map_is_the_fixed_point(rule):
    x, t, via, to = points()
    truth = delta(t, to, x)
    assert (RULES[rule](delta, x, t, via, to) - truth).abs().max() < 1e-6
    # Negative control: a denoiser held from t, Euler's step, is not a solution of any of them.
    assert (RULES[rule](denoiser, x, t, via, to) - denoiser(t, to, x)).abs().max() > 1e-2


@pytest.mark.parametrize("rule", RULES)
def test_targets_are_finite_at_the_ends(rule):
    """From pure noise, to the data, and where the times meet."""
    network = TokenTransformer(PATH, width=16).double()
    torch.nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(0))

    def learned(a, b, x):
        return network(a, x, to=b).softmax(-1)

    x = PATH.prior.sample(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([1.0, 1.0, 0.5, 0.5], dtype=torch.float64)
    to = torch.tensor([0.0, 1.0, 0.0, 0.5], dtype=torch.float64)
    target = RULES[rule](learned, x, t, (t + to) / 2, to).detach()
    assert target.isfinite().all()
    assert (target.sum(-1) - 1).abs().max() < 1e-12
    met = t == to  # no time in between: the diagonal
    expected = learned(t, t, x) if rule == "semigroup" else denoiser(t, t, x)
    assert (target - expected)[met].abs().max() < 1e-12


def test_exact_flow_decides_by_the_sign():
    n = 200
    x = PATH.prior.sample(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = torch.ones(n, dtype=torch.float64)
    tokens = flow(one, 0.02 * one, x).argmax(-1)
    assert valid(tokens) == 1
    assert (tokens[:, 0] == torch.where(sign(x), 0, 2)).all()


def batches(n, count):
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        yield Batch(PHRASES[torch.randint(2, (n,), generator=generator)]), generator


def test_cross_entropy_is_least_at_the_exact_denoiser():
    """Along a * (exact logits) the mean loss has its minimum at a = 1, within the standard error."""

    def slopes(centre):
        rows = []
        for batch, generator in batches(256, 30):
            state = generator.get_state()
            ends = []
            for a in (centre - 0.2, centre + 0.2):
                generator.set_state(state)

                def network(t, x, cond=None, to=None, a=a):
                    # Tempered between the two phrases; the impossible tokens stay impossible.
                    p = (exact_network(t, x)[..., :1, :1].exp().clamp(1e-12, 1 - 1e-12)).logit()
                    p = (a * p).sigmoid()
                    return (p * PHRASES[0] + (1 - p) * PHRASES[1] + 1e-300).log()

                ends.append(TokenFlow(PATH).loss(network, batch, generator))
            rows.append(ends[1] - ends[0])
        rows = torch.stack(rows)
        return float(rows.mean() / rows.std() * math.sqrt(len(rows)))

    # The difference of the loss at 1 +- 0.2 has a cubic term besides the slope: small beside the control's.
    assert slopes(0.6) < -5
    assert slopes(1.6) > 5
    assert abs(slopes(1.0)) < min(-slopes(0.6), slopes(1.6)) / 2


@pytest.mark.parametrize("rule", RULES)
def test_loss_vanishes_at_the_exact_map(rule):
    batch, _ = next(batches(16, 1))
    loss = TokenFlowMap(PATH, rule, exact_network).loss(exact_network, batch, torch.Generator().manual_seed(0))
    assert -1e-12 < loss < 1e-7

    def held(t, x, cond=None, to=None):
        return exact_network(t, x)

    control = TokenFlowMap(PATH, rule, exact_network).loss(held, batch, torch.Generator().manual_seed(0))
    assert control > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_self_distillation_trains_every_parameter_and_only_the_student(rule, dtype):
    network = TokenTransformer(PATH, width=16, depth=1).to(dtype)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    batch = Batch(PATH.points(TOKENS).to(dtype))
    loss = TokenFlowMap(PATH, rule).loss(network, batch, generator)
    assert loss.dtype == dtype
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name
    teacher = TokenTransformer(PATH, width=16, depth=1).to(dtype)
    TokenFlowMap(PATH, rule, teacher).loss(network, batch, generator).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_same_seed_same_loss_and_the_diagonal_has_a_weight():
    network = TokenTransformer(PATH, width=16)

    def loss(seed, **options):
        return TokenFlowMap(PATH, **options).loss(network, Batch(TOKENS), torch.Generator().manual_seed(seed))

    assert loss(0) == loss(0) != loss(1)
    off, once, twice = (loss(0, diagonal=w) for w in (0.0, 1.0, 2.0))
    assert torch.allclose(twice - once, once - off, rtol=1e-4) and once > off


def test_refusals():
    with pytest.raises(ConfigError, match="rule"):
        TokenFlowMap(PATH, "mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="diagonal"):
        TokenFlowMap(PATH, diagonal=-1.0)
    with pytest.raises((CapabilityError, ConfigError), match="TokenPath"):
        DenoisingScoreMatching(PATH)  # its network gives no score
