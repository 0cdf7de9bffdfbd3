"""Kernels that a network shapes: a density, blind to what it is asked about, that moves with the data."""

import math

import pytest
import torch

from manifold_diffusion._errors import CheckpointError, ConfigError, DataError, ManifoldError
from manifold_diffusion._typing import Batch
from manifold_diffusion.manifolds import Euclidean, Sphere, Torus
from manifold_diffusion.metrics import AdaptiveKernelDensity
from manifold_diffusion.models import LearnedKernelDensity
from manifold_diffusion.networks import KernelField
from manifold_diffusion.objectives import LogLikelihood


def _curve(n: int, seed: int) -> torch.Tensor:
    """Points near a wave around the equator, float64."""
    g = torch.Generator().manual_seed(seed)
    a = 2 * math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    z = 0.3 * torch.sin(3 * a) + 0.01 * torch.randn(n, generator=g, dtype=torch.float64)
    return Sphere(2).project(torch.stack([a.cos(), a.sin(), z], -1))


def _bent(field: KernelField) -> KernelField:
    """The field with weights that make all its parts count."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in (field.last.weight, field.last.bias):
            p.add_(0.5 * torch.randn(p.shape, generator=g))
    return field


def test_integrates_to_one_and_samples_follow_it() -> None:
    M, g, n = Torus(2), torch.Generator().manual_seed(0), 20000
    points = 0.5 * torch.randn(30, 2, generator=g, dtype=torch.float64) + torch.tensor([3.0, 0.0], dtype=torch.float64)
    model = LearnedKernelDensity(M, M.project(points))
    _bent(model.network)
    with torch.no_grad():  # kernels of width 1e-2 are too narrow for the grid
        model.network.last.weight[-3:], model.network.last.bias[-3:] = 0, -60
    side = 2 * math.pi * torch.arange(400, dtype=torch.float64) / 400 - math.pi
    grid = torch.cartesian_prod(side, side)
    p = model.log_prob(grid).exp() * (2 * math.pi / 400) ** 2
    assert -1e-6 < p.sum().item() - 1 < 1e-12  # what is beyond the injectivity radius is lost
    x = model.sample(n, generator=g)
    functions = (lambda y: y[:, 0].cos(), lambda y: (y[:, 1] - y[:, 0]).sin(), lambda y: (3 * y[:, 1]).cos())
    for f in functions:
        mean = (p * f(grid)).sum()
        error = ((p * f(grid).square()).sum() - mean**2).sqrt() / math.sqrt(n)
        assert abs(f(x).mean() - mean) < 5 * error
        assert abs(f(x.flip(1)).mean() - mean) > 5 * error  # the axes exchanged


def test_weights_add_up_and_each_point_has_a_kernel_for_its_copies() -> None:
    x = _curve(40, 0)
    kernels = _bent(KernelField(Sphere(2), x)).kernels()
    total = torch.cat([kernels.log_weights.flatten(), kernels.log_uniform.reshape(1)]).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)
    for j, width in zip((-3, -2, -1), (1e-2, 1e-3, 1e-4), strict=True):
        narrow = kernels.factors[:, j]
        expected = width * torch.eye(2, dtype=narrow.dtype).expand_as(narrow)
        torch.testing.assert_close(narrow, expected, rtol=1e-9, atol=0)
        assert (kernels.means[:, j] == 0).all()
    assert (kernels.factors[:, :-3].diagonal(dim1=-2, dim2=-1) > 1e-4).all()


def test_left_out_points_leave_no_trace() -> None:
    points = _curve(90, 0)
    points = torch.cat([points, points[:2], points[:2]])  # two places three times
    field = _bent(KernelField(Sphere(2), points, scales=(3, 6), nearest=10**6)).train()
    batch = points[[0, 0, 1, *range(40, 50)]]
    rest = torch.cat([points[2:40], points[50:90], points[[0, 1, 1]]])  # of each place as many as the batch lacks
    without = KernelField(Sphere(2), rest, scales=(3, 6)).eval()
    without.load_state_dict({**field.state_dict(), "centres": rest}, assign=True)
    torch.testing.assert_close(field(batch), without(batch), rtol=1e-6, atol=1e-6)
    assert (field.eval()(batch) - without(batch)).abs().max() > 0.1  # the points see themselves


def test_validation_keeps_no_graph() -> None:
    points, new = _curve(100, 0).float(), _curve(10, 1).float()
    model = LearnedKernelDensity(Sphere(2), points)
    seen: dict[bool, torch.Tensor] = {}
    model.network.register_forward_hook(lambda field, _, out: seen.update({field.training: out}))
    result = model.fit(new, max_steps=1, progress=False)
    train, val = seen[True], seen[False]
    assert train.requires_grad and not val.requires_grad
    losses = [row.val_loss for row in result.history if row.val_loss is not None]
    assert losses[-1] == pytest.approx(-val.mean().item(), abs=1e-6)
    assert -val.mean().item() == pytest.approx(-model.log_prob(new).mean().item(), abs=1e-6)
    assert LogLikelihood().loss(model.network.eval(), Batch(new)).requires_grad  # whoever wants a gradient has it


def test_moves_with_the_data() -> None:
    M, g = Sphere(2), torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64))[0]
    points, x = _curve(100, 0), M.random_uniform(20, generator=g, dtype=torch.float64)
    here = _bent(KernelField(M, points)).eval()
    there = KernelField(M, points @ rotation.T).eval()
    there.load_state_dict({**here.state_dict(), "centres": points @ rotation.T}, assign=True)
    torch.testing.assert_close(here(x), there(x @ rotation.T), rtol=1e-4, atol=1e-4)


def test_predicts_new_points_better_than_bandwidths_alone() -> None:
    train, val, test = _curve(400, 0).float(), _curve(200, 1).float(), _curve(4000, 2).float()
    model = LearnedKernelDensity(Sphere(2), train)
    before = model.log_prob(test).mean()
    result = model.fit(val, max_steps=150, progress=False)
    after = model.log_prob(test)
    gain = after - AdaptiveKernelDensity.fit(Sphere(2), train, val).log_prob(test)
    assert result.monitor == "val_loss" and result.steps == 150
    assert after.mean() > before + 0.1
    assert gain.mean() > 5 * gain.std() / len(gain) ** 0.5
    assert result.best_value == pytest.approx(-model.log_prob(val).mean().item(), abs=1e-4)


@pytest.mark.parametrize("manifold", [Euclidean(2), Sphere(3)], ids=str)
def test_gradients_and_samples_in_other_spaces(manifold) -> None:
    g = torch.Generator().manual_seed(0)
    x = manifold.project(torch.randn(40, *manifold.point_shape, generator=g))
    field = KernelField(manifold, x).train()
    field(x[:5]).sum().backward()
    assert all(torch.isfinite(p.grad).all() and (p.grad != 0).any() for p in field.parameters())
    assert field.sample(3, g).shape == (3, *manifold.point_shape)


def test_points_come_and_go_and_the_model_is_saved(tmp_path) -> None:
    train, more = _curve(80, 0), _curve(20, 1)
    model = LearnedKernelDensity(Sphere(2), train, scales=(3, 6))
    _bent(model.network)
    before = model.log_prob(more)
    model.add(more)
    assert model.data == 100 and (model.log_prob(more) - before).mean() > 0.1
    model.save_pretrained(tmp_path)
    again = LearnedKernelDensity.from_pretrained(tmp_path)
    assert torch.equal(again.log_prob(more), model.log_prob(more))
    model.remove(torch.arange(80, 100))
    assert torch.equal(model.log_prob(more), before)


def test_repeated_points_have_a_bounded_density() -> None:
    x = _curve(20, 0).repeat(4, 1)
    model = LearnedKernelDensity(Sphere(2), x)
    assert model.log_prob(x).max() < -2 * math.log(1e-4)
    assert model.fit(max_steps=3, progress=False).steps == 3


def test_where_all_points_are_repeated_gradients_are_finite() -> None:
    M = Sphere(2)
    x = M.random_uniform(100, generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    field = _bent(KernelField(M, x)).train()
    field(x[[*range(5), *range(100, 105)]]).sum().backward()  # both copies are left out, which none of the centres saw
    assert all(torch.isfinite(p.grad).all() for p in field.parameters() if p.grad is not None)


def test_weights_before_training_are_kept_where_none_predict_held_out_points_better() -> None:
    M, g = Sphere(2), torch.Generator().manual_seed(0)
    train, val = M.random_uniform(200, generator=g).split(100)
    model = LearnedKernelDensity(M, train.repeat(4, 1), narrow=(1e-4,))
    before = model.log_prob(val)
    result = model.fit(val, max_steps=30, lr=0.1, progress=False)
    assert result.best_step == 0 and result.best_value == pytest.approx(-before.mean().item(), abs=1e-6)
    assert torch.equal(model.log_prob(val), before)


def test_a_run_resumes_on_its_own_centres_only(tmp_path) -> None:
    M, points, val = Sphere(2), _curve(60, 0), _curve(20, 1)
    changed = torch.cat([_curve(1, 3), points[1:]])
    options = {"out_dir": tmp_path, "progress": False}
    LearnedKernelDensity(M, points).fit(val, max_steps=2, **options)
    with pytest.raises(CheckpointError, match=r"training points: the checkpoint has '60 points, SHA-256 "):
        LearnedKernelDensity(M, changed).fit(val, max_steps=4, resume=True, **options)
    with pytest.raises(CheckpointError, match=r"validation points: the checkpoint has '20 points"):
        LearnedKernelDensity(M, points).fit(val[:19], max_steps=4, resume=True, **options)
    assert LearnedKernelDensity(M, points).fit(val, max_steps=4, resume=True, **options).steps == 4


def test_bad_input() -> None:
    x = _curve(40, 0)
    with pytest.raises(DataError, match="at least 8"):
        LearnedKernelDensity(Sphere(2), x[:5])
    with pytest.raises(ManifoldError):
        LearnedKernelDensity(Sphere(2), 2 * x)
    with pytest.raises(ConfigError, match="scales"):
        LearnedKernelDensity(Sphere(2), x, scales=())
    with pytest.raises(ConfigError, match="narrow"):
        LearnedKernelDensity(Sphere(2), x, narrow=(1e-2, 1e-5))
    model = LearnedKernelDensity(Sphere(2), x)
    with pytest.raises(ConfigError, match="batch_size"):
        model.fit(batch_size=30)
    with pytest.raises(DataError, match="fewer than the 24"):
        model.remove(torch.arange(30))
    with pytest.raises(ManifoldError):
        model.log_prob(torch.full((1, 3), math.nan))


@pytest.mark.parametrize("shape", [(3,), (2, 4, 3)])
def test_points_to_add_are_a_list(shape) -> None:
    model = LearnedKernelDensity(Sphere(2), _curve(40, 0))
    with pytest.raises(DataError, match=r"shape \(n, \*\(3,\)\)"):
        model.add(_curve(8, 1)[: math.prod(shape) // 3].reshape(shape))


@pytest.mark.parametrize(
    "which", [torch.tensor([40]), torch.tensor([0.0]), torch.ones(39, dtype=torch.bool)], ids=["index", "float", "mask"]
)
def test_what_is_removed_is_there(which) -> None:
    model = LearnedKernelDensity(Sphere(2), _curve(40, 0))
    with pytest.raises(DataError, match="which must be"):
        model.remove(which)
    model.remove(torch.tensor([]))
    model.remove(torch.tensor([0, 1, 1], dtype=torch.uint8))
    assert model.data == 38
