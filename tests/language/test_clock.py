"""The decoding clock: against independent quadratures and closed forms, its inverse, its derivative."""

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import log_ndtr

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.processes import DecodingClock, decoding_clock

SIZES = [2, 3, 28, 1000, 50_000]


@pytest.mark.parametrize("k", [28, 50_000])
def test_error_is_that_of_adaptive_quadrature(k):
    times = [0.05, 0.2, 0.5]
    errors = DecodingClock(k).error(torch.tensor(times, dtype=torch.float64))
    with mpmath.workdps(20):
        for t, error in zip(times, errors.tolist(), strict=True):
            m = mpmath.mpf((1 - t) / t)

            def wrong(z, m=m):
                above = mpmath.erfc((z + m) / mpmath.sqrt(2)) / 2
                return mpmath.npdf(z) * -mpmath.expm1((k - 1) * mpmath.log1p(-above))

            truth = float(mpmath.quad(wrong, mpmath.linspace(-m / 2 - 12, 12, 9), maxdegree=5) * k / (k - 1))
            assert error == pytest.approx(truth, rel=2e-8), t


@pytest.mark.parametrize("k", [2, 28, 1000])
def test_error_is_that_of_gauss_hermite(k):
    """Gauss-Hermite, as published; with 50,000 tokens it would need more than its 256 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(256)
    t = np.linspace(0.15, 1, 40)
    p = np.exp((k - 1) * log_ndtr(nodes + ((1 - t) / t)[:, None])) @ (weights / weights.sum())
    assert DecodingClock(k).error(torch.tensor(t)).numpy() == pytest.approx(k / (k - 1) * (1 - p), abs=1e-8)


def test_two_tokens_have_a_closed_form():
    t = torch.linspace(0.03, 1, 500, dtype=torch.float64)
    truth = torch.special.erfc((1 - t) / t / 2)  # 2 - 2 Phi(m / sqrt 2)
    assert (DecodingClock(2).error(t) / truth - 1).abs().max() < 1e-9


def test_error_is_the_frequency_of_wrong_decodings():
    k, n = 28, 40_000
    t = torch.full((n,), 0.3, dtype=torch.float64)
    noise = torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wrong = ((0.7 * torch.eye(k, dtype=torch.float64)[0] + 0.3 * noise).argmax(-1) != 0).double()
    scale = k / (k - 1)

    def z(error):
        return abs(float(scale * wrong.mean() - error) / float(scale * wrong.std() / n**0.5))

    assert z(DecodingClock(k).error(t[0])) < 5
    assert z(DecodingClock(k + 6).error(t[0])) > 5  # negative control: six more tokens are seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", SIZES)
def test_inverse_and_monotone(k, dtype):
    clock = DecodingClock(k)
    error = torch.linspace(0, 1, 20_001, dtype=torch.float64).to(dtype)
    t = clock.time(error)
    assert t.dtype == dtype and t[0] == 0 and t[-1] == 1
    assert (clock.error(t) - error).abs().max() < 1e-6
    t = clock.time(error.double())
    assert (t.diff() > 0).all()
    even = torch.linspace(0.03, 1, 20_001, dtype=torch.float64)
    assert (clock.error(even).diff() > 0).all()
    assert (clock.time(clock.error(even)) - even).abs().max() < 1e-6


def test_ends_and_tail():
    clock = DecodingClock(28)
    ends = clock.error(torch.tensor([0.0, 1e-30, 1e-3, 1.0], dtype=torch.float64))
    assert ends.tolist() == [0, 0, 0, 1]
    tiny = torch.tensor([1e-300, 1e-100, 1e-20], dtype=torch.float64)
    t = clock.time(tiny)
    assert (t.diff() > 0).all() and t[0] > 0
    assert (clock.error(t[1:]) / tiny[1:] - 1).abs().max() < 1e-6
    assert clock.error(torch.rand(2, 3)).shape == (2, 3)


def test_derivative():
    clock = DecodingClock(28)
    t = torch.linspace(0.05, 0.99, 200, dtype=torch.float64)
    _, slope = torch.func.jvp(clock.error, (t,), (torch.ones_like(t),))
    assert (slope - (clock.error(t + 1e-5) - clock.error(t - 1e-5)) / 2e-5).abs().max() < 1e-6
    for dtype in (torch.float32, torch.float64):
        zero = torch.zeros(1, dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(clock.error(zero).sum(), zero)
        assert gradient == 0


def test_refusal():
    with pytest.raises(ConfigError, match="n_tokens >= 2"):
        DecodingClock(1)


def test_the_table_may_be_made_inside_a_transform():
    """The first call of all, in nested forward mode: nothing of the transform is kept."""
    decoding_clock._arrays.cache_clear()
    clock, t, one = DecodingClock(37), torch.tensor(0.3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    jvp = torch.func.jvp
    second = jvp(lambda s: jvp(clock.error, (s,), (one,))[1], (t,), (one,))[1]
    assert torch.isfinite(second) and torch.isfinite(clock.error(t)) and torch.isfinite(clock.time(t))
    assert second.item() == jvp(lambda s: jvp(clock.error, (s,), (one,))[1], (t,), (one,))[1].item()
