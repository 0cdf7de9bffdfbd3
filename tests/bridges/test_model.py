"""Bridge matching and the model of learned bridges, against closed forms."""

import math
import shutil
import signal
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from manifold_diffusion._errors import CheckpointError, ConfigError, DataError, ManifoldError
from manifold_diffusion._typing import Batch
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Sphere, Torus
from manifold_diffusion.models import RiemannianDiffusion, SchrodingerBridge
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import BridgeMatching
from manifold_diffusion.processes import BridgeMixture, EmpiricalPrior, SchrodingerCoupling, schrodinger_plan
from manifold_diffusion.training import fit

QUIET = {"progress": False, "accelerator": "cpu", "ema_decay": 0.98}


def small_bridge(manifold, tau, n_frequencies=0):
    """A model with networks that train in seconds."""
    networks = {
        direction: TangentMLP(
            BridgeMixture(manifold, tau, direction=direction), width=64, n_frequencies=n_frequencies, seed=1
        )
        for direction in ("to_0", "to_1")
    }
    return SchrodingerBridge(manifold, tau, **networks)


@pytest.mark.parametrize("direction", ["to_0", "to_1"])
@pytest.mark.parametrize("manifold", [Torus(2), Sphere(2), pytest.param(SO3(), marks=pytest.mark.slow)], ids=repr)
def test_matching_is_least_at_the_drift_of_the_static_bridge(manifold, direction):
    """Along (1 + a) * exact drift the loss is a parabola in a with its minimum at 0, within its standard error."""
    generator = torch.Generator().manual_seed(0)
    origin = manifold.origin(torch.float64).expand(8, *manifold.point_shape)
    x0, x1 = (manifold.exp(origin, 0.7 * manifold.random_tangent(origin, generator=generator)) for _ in range(2))
    plan = schrodinger_plan(manifold, x0, x1, 0.5)
    process = BridgeMixture(manifold, 0.5, direction=direction)
    objective = BridgeMatching(process, paired=True)
    exact = plan.drift_to_1 if direction == "to_1" else plan.drift_to_0

    def slope(seed, at):
        pairs = Batch(torch.stack(plan.sample_pairs(256, torch.Generator().manual_seed(1000 + seed)), 1))

        def loss(a):
            return objective.loss(
                lambda t, x, cond=None: a * process.scale(t) * exact(x, t), pairs, torch.Generator().manual_seed(seed)
            )

        return loss(at + 0.5) - loss(at - 0.5)

    best = torch.stack([slope(seed, 1.0) for seed in range(12)])
    assert abs(best.mean()) < 5 * best.std() / 12**0.5
    off = torch.stack([slope(seed, 0.6) for seed in range(12)])
    assert off.mean() < -5 * off.std() / 12**0.5


def test_batches_of_data_are_paired_by_the_process():
    x1 = 2 + torch.zeros(10, 1)
    process = BridgeMixture(Euclidean(1), 0.5, EmpiricalPrior(x1), direction="to_1")
    batch = Batch(torch.zeros(64, 1))

    def exact(t, x, cond=None):
        return process.scale(t) * (2 - x) / (0.5 * (1 - t)).unsqueeze(1)

    loss = BridgeMatching(process).loss(exact, batch, torch.Generator().manual_seed(0))
    assert float(loss) < 1e-8
    assert float(BridgeMatching(process).loss(lambda t, x, cond: 0 * x, batch, torch.Generator().manual_seed(0))) > 1


@pytest.mark.slow
def test_iterated_fitting_finds_the_coupling_of_the_static_bridge():
    """Gaussian laws on the line, by the closed form and by the static plan of the same data."""
    tau, s0, s1 = 1.0, 0.6, 0.9
    generator = torch.Generator().manual_seed(0)
    x0 = -1 + s0 * torch.randn(4000, 1, generator=generator)
    x1 = 1 + s1 * torch.randn(4000, 1, generator=generator)
    model = small_bridge(Euclidean(1), tau)
    pairs = model.fit(x0, x1, iterations=2, max_steps=300, **QUIET).pairs[..., 0]
    exact = (math.sqrt(4 * s0**2 * s1**2 + tau**2) - tau) / 2
    plan = schrodinger_plan(Euclidean(1), x0[:1000], x1[:1000], tau)
    static = torch.cov(torch.cat(plan.sample_pairs(4000, generator), 1).T)[0, 1]
    learned = float(torch.cov(pairs.T)[0, 1])
    assert abs(float(static) - exact) < 0.06
    # Noise of a covariance of 4,000 pairs: 0.01; the independent coupling has 0.
    assert abs(learned - exact) < 0.05
    assert abs(float(pairs[:, 1].mean()) - 1) < 0.1 and abs(float(pairs[:, 1].std()) - s1) < 0.08
    x = torch.linspace(-1, 1, 9).unsqueeze(1)
    error = (model.drift_to_1(x, 0.5).detach() - plan.drift_to_1(x, 0.5)).abs().mean()
    assert float(error) < 0.25 * float(plan.drift_to_1(x, 0.5).abs().mean())
    # The flow has the same marginals.
    end = model.sample(x0, direction="to_1", method="ode", steps=40)
    assert abs(float(end.mean()) - 1) < 0.1 and abs(float(end.std()) - s1) < 0.1


@pytest.mark.slow
def test_between_a_law_and_its_diffusion_the_learned_drift_vanishes():
    manifold, tau = Torus(1), 1.0
    law = HeatKernelMixture(manifold, torch.tensor([[0.0], [2.0]]), 0.2, torch.tensor([0.7, 0.3]))
    generator = torch.Generator().manual_seed(0)
    x0, x1 = law.sample(4000, generator=generator), law.sample(4000, tau, generator)
    model = small_bridge(manifold, tau, n_frequencies=16)
    model.fit(x0, x1, iterations=2, max_steps=200, **QUIET)
    sizes = []
    for t in (0.2, 0.5):
        x = law.sample(2000, t * tau, generator)
        sizes.append(float(model.drift_to_1(x, t).detach().square().mean().sqrt()))
        back = model.drift_to_0(x, t) - law.score(x, t * tau)
        assert float(back.detach().square().mean().sqrt()) < 0.4
    # The mixture of independent pairs, of which the fitting starts, has this drift.
    independent = small_bridge(manifold, tau, n_frequencies=16)
    pairs = torch.stack([x0, x1[torch.randperm(4000, generator=generator)]], 1)
    fit(independent.to_1, BridgeMatching(independent.process_to_1, paired=True), pairs, max_steps=300, **QUIET)
    x = law.sample(2000, 0.2 * tau, generator)
    before = float(independent.drift_to_1(x, 0.2).detach().square().mean().sqrt())
    assert max(sizes) < 0.1 < 0.3 < before


def test_a_model_trains_samples_and_comes_back(tmp_path):
    manifold = Sphere(2)
    generator = torch.Generator().manual_seed(0)
    x0, x1 = manifold.random_uniform(50, generator=generator), manifold.random_uniform(70, generator=generator)
    model = small_bridge(manifold, 0.5, n_frequencies=8)
    before = [p.clone() for p in model.to_0.parameters()]
    record = model.fit(
        x0, x1, iterations=1, max_steps=5, coupling=SchrodingerCoupling(manifold, 0.5), n_pairs=60, steps=5, **QUIET
    )
    assert record.pairs.shape == (60, 2, 3) and len(record.to_0) == len(record.to_1) == 1
    assert any(bool((a != b).any()) for a, b in zip(before, model.to_0.parameters(), strict=True))
    manifold.check_point(record.pairs)
    for direction in ("to_0", "to_1"):
        for method in ("sde", "ode"):
            x = model.sample(8, direction=direction, method=method, steps=4, generator=generator)
            manifold.check_point(x)
    path = model.sample(x1, steps=4, generator=generator, return_trajectory=True)
    assert path.shape == (5, 70, 3)
    torch.testing.assert_close(path[0], x1)
    assert model.sample(x1[:0], steps=4).shape == (0, 3)

    model.save_pretrained(tmp_path / "bridge", {"seed": 0})
    again = SchrodingerBridge.from_pretrained(tmp_path / "bridge")
    assert again.metadata == {"seed": 0} and again.tau == 0.5
    for name in ("drift_to_0", "drift_to_1", "score", "velocity"):
        torch.testing.assert_close(getattr(again, name)(x0, 0.3), getattr(model, name)(x0, 0.3))
    with pytest.raises(ConfigError, match="Pass the points"):
        again.sample(5)
    with pytest.raises(CheckpointError, match="not a RiemannianDiffusion"):
        RiemannianDiffusion.from_pretrained(tmp_path / "bridge")
    same = [again.sample(x1, steps=3, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    torch.testing.assert_close(*same, rtol=0, atol=0)


def test_a_model_in_double_precision_keeps_it():
    model = SchrodingerBridge(Torus(1), 0.5).double()
    x = model.sample(torch.zeros(3, 1), steps=2, generator=torch.Generator().manual_seed(0))
    assert x.dtype == torch.float64


def test_bad_models_and_data_are_refused():
    with pytest.raises(ConfigError, match="Manifold"):
        SchrodingerBridge("sphere")
    with pytest.raises(ConfigError, match="one manifold"):
        SchrodingerBridge(Sphere(2), 0.5, to_0=TangentMLP(BridgeMixture(Torus(2)), width=8))
    with pytest.raises(ConfigError, match="direction"):
        SchrodingerBridge(Sphere(2), 0.5, to_1=TangentMLP(BridgeMixture(Sphere(2), 0.5, direction="to_0"), width=8))
    model = SchrodingerBridge(Sphere(2), 0.5)
    x = torch.eye(3)
    with pytest.raises(ManifoldError):
        model.fit(2 * x, x)
    with pytest.raises(DataError):
        model.fit(x[:0], x)
    for options in ({"iterations": 0}, {"steps": 0}, {"n_pairs": 0}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            model.fit(x, x, **options)
    with pytest.raises(ConfigError, match="direction"):
        model.sample(x, direction="up")
    with pytest.raises(ConfigError, match="method"):
        model.sample(x, method="pde")
    with pytest.raises(ConfigError, match="BridgeMixture"):
        BridgeMatching("process")
    with pytest.raises(ConfigError, match="EmpiricalPrior"):
        BridgeMatching(BridgeMixture(Sphere(2)))


def test_fit_with_a_folder_goes_on_where_it_was_stopped(tmp_path):
    x0, x1 = (Sphere(2).random_uniform(30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    options = {**QUIET, "max_steps": 3, "steps": 2, "batch_size": 8, "seed": 0}

    def trained(**more):
        model = small_bridge(Sphere(2), 0.5)
        model.fit(x0, x1, iterations=2, **options, **more)
        return torch.cat([p.flatten() for p in model.parameters()])

    straight = trained()
    assert torch.equal(straight, trained(out_dir=tmp_path))
    assert {"0-to_0", "0-to_1", "1-to_0", "1-to_1"} <= {folder.name for folder in tmp_path.iterdir()}
    shutil.rmtree(tmp_path / "1-to_0")  # stopped after the first round
    shutil.rmtree(tmp_path / "1-to_1")
    assert torch.equal(straight, trained(out_dir=tmp_path, resume=True))


def test_an_interrupted_fit_stops_at_once_and_goes_on_where_it_was(tmp_path):
    x0, x1 = (Sphere(2).random_uniform(30, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    options = {**QUIET, "max_steps": 3, "steps": 2, "batch_size": 8, "iterations": 2}
    straight = small_bridge(Sphere(2), 0.5)
    whole = straight.fit(x0, x1, **options)
    assert whole.stopped_by == "max_steps"

    class CtrlC(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if trainer.global_step == 2 and Path(trainer.default_root_dir).name == "0-to_1":
                signal.raise_signal(signal.SIGINT)

    model = small_bridge(Sphere(2), 0.5)
    record = model.fit(x0, x1, out_dir=tmp_path, callbacks=[CtrlC()], **options)
    assert record.stopped_by == "interrupt" and "interrupted" in repr(record)
    assert [fit.steps for fit in (*record.to_0, *record.to_1)] == [3, 2]
    again = small_bridge(Sphere(2), 0.5)
    assert torch.equal(again.fit(x0, x1, out_dir=tmp_path, resume=True, **options).pairs, whole.pairs)
    for a, b in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_bridge_moves_to_another_dtype_with_its_data_and_refuses_fewer_than_no_points():
    x = Sphere(2).random_uniform(20, generator=torch.Generator().manual_seed(0))
    model = small_bridge(Sphere(2), 0.5)
    model.fit(x, x, iterations=1, max_steps=1, steps=2, **QUIET)
    assert model.double().sample(3, steps=2).dtype == torch.float64
    with pytest.raises(ConfigError, match="n >= 0"):
        model.sample(-1, steps=2)
