"""Models refuse what they can't use, with the fix, and convert what they can."""

import json
import math

import pytest
import torch

from manifold_diffusion import (
    AnalyticDiffusion,
    CheckpointError,
    ConfigError,
    DataError,
    ManifoldError,
    RiemannianDiffusion,
)
from manifold_diffusion.manifolds import Product, Sphere, Torus
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import ConditionDropout, DenoisingScoreMatching, FlowMatching
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LogSchedule
from manifold_diffusion.solvers import AdaptiveSteps, DormandPrince


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _point(model, **changes):
    return {"x": model.manifold.origin().expand(4, 3), "t": 0.5} | changes


@pytest.mark.parametrize("name", ["score", "velocity"])
def test_score_and_velocity_refuse_what_is_no_point_no_time_or_no_condition(name):
    model = RiemannianDiffusion(Sphere(2))

    def call(model, **options):
        return getattr(model, name)(**options)

    assert call(model, **_point(model)).shape == (4, 3)
    assert call(model, x=model.manifold.origin(), t=0.0).shape == (3,)
    x = model.manifold.origin().expand(4, 3)
    for error, changes, words in (
        (ManifoldError, {"x": 3 * x}, "not on Sphere"),
        (ConfigError, {"x": x.double()}, "float64, the model"),
        (ConfigError, {"x": x.numpy()}, "tensor of points"),
        (ConfigError, {"t": 1.5}, r"in \[0, 1\]"),
        (ConfigError, {"t": math.nan}, r"in \[0, 1\]"),
        (ConfigError, {"t": torch.rand(3)}, "one per point|shape of the batch"),
        (ConfigError, {"cond": torch.zeros(3, 2)}, "row per point"),
    ):
        with pytest.raises(error, match=words):
            call(model, **_point(model, **changes))
    slopes = torch.func.vmap(torch.func.jacrev(lambda q: call(model, x=q, t=torch.tensor(0.5))))(x)
    assert slopes.shape == (4, 3, 3)


def test_an_objective_of_another_process_is_refused():
    process = BrownianMotion(Sphere(2), LogSchedule(1e-3, 7.0))
    other = BrownianMotion(Sphere(2), LogSchedule(1e-1, 7.0))
    for objective in (DenoisingScoreMatching(other), FlowMatching(GeodesicFlow(Sphere(2)))):
        with pytest.raises(ConfigError, match="is not the model's"):
            RiemannianDiffusion(Sphere(2), process, objective=objective)
    same = BrownianMotion(Sphere(2), LogSchedule(1e-3, 7.0))
    RiemannianDiffusion(Sphere(2), process, objective=DenoisingScoreMatching(same))


def test_a_network_that_gives_no_tangent_vectors_fails_before_training():
    class Number(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 1)

        def forward(self, t, x, cond=None):
            return self.linear(x)

    points = Sphere(2).random_uniform(16, generator=seeded())
    with pytest.raises(ConfigError, match=r"tangent vector per point, \(2, 3\); Number gave \(2, 1\)"):
        RiemannianDiffusion(Sphere(2), network=Number()).fit(points, max_steps=1, progress=False)


def test_points_of_another_dtype_are_converted_for_training():
    sphere, options = Sphere(2), {"max_steps": 1, "progress": False}
    points = sphere.random_uniform(16, generator=seeded(), dtype=torch.float64)
    assert RiemannianDiffusion(sphere).fit(points, points[:4], **options).steps == 1
    assert RiemannianDiffusion(sphere).double().fit(sphere.project(points.float()), **options).steps == 1
    with pytest.raises(ManifoldError, match="points is not on"):
        RiemannianDiffusion(sphere).fit(2 * points, **options)


def test_mixed_precision_trains_with_gradient_clipping():
    points = Sphere(2).random_uniform(16, generator=seeded())
    result = RiemannianDiffusion(Sphere(2)).fit(points, max_steps=2, precision="bf16-mixed", progress=False)
    assert result.steps == 2


def test_single_points_have_no_likelihood_of_a_batch():
    model = RiemannianDiffusion(Sphere(2))
    with pytest.raises(DataError, match=r"shape \(n, 3\)"):
        model.log_prob(Sphere(2).origin())


def test_trajectories_of_adaptive_steps_come_in_one_batch():
    model = RiemannianDiffusion(Sphere(2))
    with pytest.raises(ConfigError, match="batch_size >= 6"):
        model.sample(6, steps=AdaptiveSteps(), solver=DormandPrince(), batch_size=4, return_trajectory=True)


def test_a_condition_is_cast_and_its_shape_is_checked():
    process = BrownianMotion(Sphere(2))
    model = RiemannianDiffusion(Sphere(2), process, TangentMLP(process, cond_dim=2, width=8))
    assert model.sample(3, steps=1, cond=torch.zeros(2, dtype=torch.float64)).dtype == torch.float32
    assert model.score(Sphere(2).origin().expand(3, 3), 0.5, torch.zeros(2)).shape == (3, 3)
    for cond in ([0.0, 0.0], torch.zeros(()), torch.zeros(1, 3, 2)):
        with pytest.raises(ConfigError, match="cond must be a tensor"):
            model.sample(3, steps=1, cond=cond)
    dropped = ConditionDropout(DenoisingScoreMatching(process))
    marked = RiemannianDiffusion(Sphere(2), process, TangentMLP(process, cond_dim=3, width=8), dropped)
    x = Sphere(2).random_uniform(5, generator=seeded())
    for trained in (model, marked):  # before anything is written
        for cond in (torch.zeros(5), torch.zeros(5, 1), torch.zeros(5, 3)):
            with pytest.raises(ConfigError, match=r"cond must have shape \(5, 2\)"):
                trained.fit(x, cond=cond, max_steps=1)


def test_metadata_that_cannot_be_saved_is_not_kept(tmp_path):
    model = RiemannianDiffusion(Sphere(2))
    with pytest.raises(ConfigError):
        model.save_pretrained(tmp_path / "a", {"tensor": torch.ones(1)})
    model.save_pretrained(tmp_path / "a", {"words": "fine"})
    assert RiemannianDiffusion.from_pretrained(tmp_path / "a").metadata == {"words": "fine"}
    config = tmp_path / "a/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "metadata": None}))
    with pytest.raises(CheckpointError, match="metadata"):
        RiemannianDiffusion.from_pretrained(tmp_path / "a")


def test_closed_form_models_move_to_another_dtype():
    points = Sphere(2).random_uniform(20, generator=seeded())
    model = AnalyticDiffusion(Sphere(2), points).double()
    x = model.sample(5, generator=seeded())
    assert x.dtype == torch.float64 and bool(model.log_prob(x).isfinite().all())


def test_known_values_of_another_dtype_are_converted():
    pair = Product(Sphere(2), Torus(1))
    known = (None, torch.zeros(1, dtype=torch.float64))
    x = RiemannianDiffusion(pair).inpaint(2, known, n_particles=2, steps=2, generator=seeded())
    assert x.dtype == torch.float32
