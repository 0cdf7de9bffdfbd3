"""The language model: trains, writes valid phrases in one step, is saved and loaded, refuses bad input."""

import math

import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CheckpointError, ConfigError, DataError, NumericsError
from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.models import FlowMapLanguageModel
from manifold_diffusion.networks import TokenTransformer
from manifold_diffusion.processes import TokenPath

from .two_phrases import PATH, TOKENS, exact_network, sign, valid

QUIET = {"progress": False, "accelerator": "cpu", "batch_size": 16}


class Exact(torch.nn.Module):
    """The exact denoiser and flow map of the two phrases as a network."""

    process = PATH

    def forward(self, t, x, cond=None, to=None):
        return exact_network(t, x, cond, to)


def small(**options):
    return FlowMapLanguageModel(4, 2, TokenTransformer(TokenPath(4, 2), width=16, depth=1, heads=2), **options)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_exact_network_writes_phrases_by_flow_and_by_map():
    model = FlowMapLanguageModel(4, 2, Exact())
    noise = model.process.prior.sample(100, generator=seeded())
    ode = model.sample(100, 64, method="ode", generator=seeded())
    assert valid(ode) == 1
    assert float(((ode[:, 0] == 0) == sign(noise)).double().mean()) > 0.97  # steps of finite size
    x = model.flow_map(noise, 1.0, 0.5)
    assert (x - model.flow_map(model.flow_map(noise, 1.0, 0.7), 0.7, 0.5)).abs().max() < 1e-5
    early = model.denoise(noise, 1.0)  # half and half: its tokens alone are no phrases
    assert (early - model.process.points(TOKENS).mean(0)).abs().max() < 1e-6
    assert torch.allclose(model.velocity(x, 0.5), (x - model.denoise(x, 0.5)) / 0.5)
    assert torch.allclose(model.score(x, 0.5), (0.5 * model.denoise(x, 0.5) - x) / 0.25)


@pytest.mark.slow
def test_trained_map_writes_phrases_in_one_step_where_no_product_of_marginals_can():
    network = TokenTransformer(TokenPath(4, 2), width=32, depth=2, heads=2)
    model = FlowMapLanguageModel(4, 2, network)
    options = {"progress": False, "accelerator": "cpu", "batch_size": 256, "lr": 1e-2}
    model.fit(TOKENS.repeat(256, 1), denoiser_steps=800, map_steps=1200, **options)
    n = 20_000
    for steps in (1, 2, 4):
        assert valid(model.sample(n, steps, generator=seeded(1))) >= 0.99, steps
    noise = model.process.prior.sample(n, generator=seeded(1))
    tokens = model.sample(n, 1, generator=seeded(1))
    assert float(((tokens[:, 0] == 0) == sign(noise)).double().mean()) > 0.95
    with torch.no_grad():
        marginals = model.denoise(noise, 1.0)
    alone = marginals.flatten(0, 1).multinomial(1, generator=seeded(2)).reshape(n, 2)
    assert 0.45 <= valid(alone) <= 0.55


@pytest.mark.parametrize("distil", [True, False])
@pytest.mark.parametrize("rule", ["semigroup", "lagrangian", "eulerian"])
def test_fit_runs_both_phases(rule, distil, tmp_path):
    model = small(rule=rule)
    before = model.network.head.weight.clone()
    folder = tmp_path if distil and rule == "semigroup" else None
    result = model.fit(
        TOKENS.repeat(8, 1), TOKENS, denoiser_steps=2, map_steps=2, distil=distil, out_dir=folder, **QUIET
    )
    assert result.denoiser is not None and result.denoiser.steps == 2 and result.denoiser.val_loss is not None
    assert result.flow_map is not None and result.flow_map.steps == 2 and result.flow_map.kept == "last"
    assert (model.network.head.weight != before).any()
    if folder is not None:
        assert (folder / "denoiser" / "last.ckpt").exists() and (folder / "flow_map" / "last.ckpt").exists()


def test_a_phase_can_be_left_out_and_double_precision_trains():
    model = small().double()
    assert model.fit(TOKENS.int(), denoiser_steps=2, map_steps=0, **QUIET).flow_map is None
    assert model.fit(TOKENS, denoiser_steps=0, map_steps=2, distil=False, **QUIET).denoiser is None
    assert model.network.head.weight.dtype == torch.float64
    assert model.sample(3, 2, generator=seeded()).dtype == torch.int64


def test_samples_follow_from_the_generator():
    model = small()
    a, b, c = (model.sample(50, 3, generator=seeded(s)) for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()
    assert a.shape == (50, 2) and 0 <= a.min() and a.max() < 4
    assert model.sample(0).shape == (0, 2)
    assert model.sample(5, 1, batch_size=2, generator=seeded()).shape == (5, 2)


def test_save_and_load(tmp_path):
    model = small(rule="lagrangian")
    model.fit(TOKENS, denoiser_steps=2, map_steps=2, **QUIET)
    model.save_pretrained(tmp_path / "model", {"alphabet": "abcd"})
    loaded = FlowMapLanguageModel.from_pretrained(tmp_path / "model")
    assert loaded.rule == "lagrangian" and loaded.metadata["alphabet"] == "abcd"
    assert (loaded.sample(20, 4, generator=seeded()) == model.sample(20, 4, generator=seeded())).all()
    assert "alphabet: abcd" in (tmp_path / "model" / "README.md").read_text()
    RiemannianDiffusion(Sphere(2)).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="holds a RiemannianDiffusion"):
        FlowMapLanguageModel.from_pretrained(tmp_path / "other")


def test_bad_arguments_are_refused():
    model = small()
    for options in ({"steps": 0}, {"steps": -1}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match="steps >= 1"):
            model.sample(2, **options)
    with pytest.raises(ConfigError, match="n >= 0"):
        model.sample(-1)
    with pytest.raises(ConfigError, match="method"):
        model.sample(1, method="sde")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="not both 0"):
        model.fit(TOKENS, denoiser_steps=0, map_steps=0)
    with pytest.raises(DataError, match=r"outside \[0, 4\)"):
        model.fit(TOKENS + 1)
    with pytest.raises(DataError, match=r"^val must have shape \(n, 2\)"):
        model.fit(TOKENS, TOKENS[:, :1])
    with pytest.raises(ConfigError, match="rule"):
        FlowMapLanguageModel(4, 2, rule="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="The network belongs to"):
        FlowMapLanguageModel(5, 2, TokenTransformer(PATH, width=16))
    x = torch.zeros(2, 2, 4)
    for t, to in ((0.5, 0.6), (0.0, 0.0), (0.5, -0.1), (1.5, 0.5)):
        with pytest.raises(ConfigError, match="0 <= to <= t <= 1"):
            model.flow_map(x, t, to)


@pytest.mark.parametrize("method", ["map", "ode"])
def test_a_network_that_says_nan_writes_no_tokens(method):
    model = small()
    for parameter in model.network.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    with pytest.raises(NumericsError, match="3 of 3 sequences"):
        model.sample(3, 2, method=method, generator=seeded())
