"""The transformer: derivatives in forward mode, the exact local evidence, deterministic weights, refusals."""

import pytest
import torch

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.networks import TokenTransformer
from manifold_diffusion.processes import TokenPath

PATH = TokenPath(5, 3)


def network(dtype=torch.float64, **options):
    """With weights that leave nothing at zero."""
    net = TokenTransformer(PATH, width=16, depth=2, heads=2, **options).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return net


def inputs(n=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    t = 0.3 + 0.6 * torch.rand(n, generator=generator, dtype=dtype)
    to = t * torch.rand(n, generator=generator, dtype=dtype)
    return t, torch.randn(n, 3, 5, generator=generator, dtype=dtype), to


def test_jvp_is_the_finite_difference():
    net = network()
    t, x, to = inputs()
    dt, dx, dto = torch.full_like(t, 0.7), inputs(6)[1].flip(0), torch.full_like(t, -0.4)

    def law(a, y, b):
        return net(a, y, to=b).softmax(-1)

    def ends(step):
        return law(t + step * dt, x + step * dx, to + step * dto)

    _, slope = torch.func.jvp(law, (t, x, to), (dt, dx, dto))
    assert slope.abs().max() > 1e-2
    assert (slope - (ends(1e-5) - ends(-1e-5)) / 2e-5).abs().max() < 1e-6


def test_second_derivatives_in_forward_mode():
    """Where layer_norm of torch fails silently."""
    net = network()
    t, x, to = inputs()
    dx = x.flip(0)

    def first(y):
        return torch.func.jvp(lambda a: net(t, a, to=to), (y,), (dx,))[1]

    second = torch.func.jvp(first, (x,), (dx,))[1]
    assert (second - (first(x + 1e-5 * dx) - first(x - 1e-5 * dx)) / 2e-5).abs().max() < 1e-5 * second.abs().max()


def test_untrained_it_is_the_exact_denoiser_of_independent_tokens():
    t, x, _ = inputs()
    each = torch.eye(5, dtype=torch.float64)
    residual = x[..., None, :] - (1 - t)[:, None, None, None] * each
    truth = (-residual.square().sum(-1) / (2 * t.square())[:, None, None]).softmax(-1)
    law = TokenTransformer(PATH, width=16).double()(t, x).softmax(-1)
    assert (law - truth).abs().max() < 2e-3  # the evidence is capped at t = 0.01, which is felt a little
    assert (law - truth.roll(1, -1)).abs().max() > 0.1  # negative control


def test_one_time_is_two_equal_times():
    t, x, to = inputs()
    net = network()
    assert (net(t, x) - net(t, x, to=t)).abs().max() < 1e-12
    assert (net(t, x) - net(t, x, to=to)).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_are_independent_and_dtype_is_kept(dtype):
    t, x, to = inputs(dtype=dtype)
    net = network(dtype, cond_dim=2)
    cond = torch.ones(6, 2, dtype=dtype)
    logits = net(t, x, cond, to=to)
    assert logits.shape == x.shape and logits.dtype == dtype
    assert torch.allclose(net(t[2], x[2], cond[2], to=to[2]), logits[2], atol=1e-4)
    assert net(t * 0, x, cond, to=to * 0).isfinite().all()
    assert net(t * 0 + 1, x, cond, to=to * 0).isfinite().all()


def test_positions_are_told_apart():
    t, x, _ = inputs()
    net = network()
    rolled = net(t, x.roll(1, 1)).roll(-1, 1)
    assert (rolled - net(t, x)).abs().max() > 1e-3


def test_weights_follow_from_the_seed_alone():
    before = torch.random.get_rng_state()
    a, b, c = (TokenTransformer(PATH, width=16, seed=s) for s in (0, 0, 1))
    assert (torch.random.get_rng_state() == before).all()
    assert all((p == q).all() for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert (a.lift.weight != c.lift.weight).any()


def test_refusals():
    with pytest.raises(ConfigError, match="multiple of 2 heads"):
        TokenTransformer(PATH, width=10, heads=4)
    with pytest.raises(ConfigError, match="cond_dim=0"):
        TokenTransformer(PATH, width=16)(*inputs(dtype=torch.float32)[:2], torch.ones(6, 2))
