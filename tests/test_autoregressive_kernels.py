"""A density on tori angle by angle: exactly normalised, sampled as it is, blind to the point it is asked about."""

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, ManifoldError
from manifold_diffusion.manifolds import Sphere, Torus
from manifold_diffusion.metrics import KernelMixture, c2st
from manifold_diffusion.models import AutoregressiveKernelDensity
from manifold_diffusion.networks import ConditionalKernels
from manifold_diffusion.networks.angles import FIRST, AngleCentres, FirstAngle

TURN = 2 * math.pi


def _surface(n: int, seed: int) -> torch.Tensor:
    """Points of T^4 near a surface: the last two angles follow from the first two."""
    g = torch.Generator().manual_seed(seed)
    a, b = TURN * torch.rand(2, n, generator=g)
    x = torch.stack([a, b, a + b, a - b], -1)
    return Torus(4).project(x + 0.03 * torch.randn(n, 4, generator=g))


def _curve(n: int, seed: int, length: float = TURN) -> torch.Tensor:
    """Points of T^3 near a curve: the second angle twice the first, the third its sine; float64."""
    g = torch.Generator().manual_seed(seed)
    a = TURN * torch.rand(n, generator=g, dtype=torch.float64)
    noise = 0.05 * torch.randn(n, 3, generator=g, dtype=torch.float64)
    x = torch.stack([a, 2 * a, torch.sin(a) + 3], -1) + noise
    return Torus(3, length).project(x * length / TURN)


def _bent(density: ConditionalKernels) -> ConditionalKernels:
    """The density with weights that make all its parts count."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for chain in density.chains:
            for step in chain:
                for p in (step.last.weight, step.last.bias, step.metric):
                    p.add_(0.5 * torch.randn(p.shape, generator=g))
    return density


@pytest.mark.parametrize("periods", [None, (3.0, 10.0)])
def test_integrates_to_one_and_samples_follow_it(periods) -> None:
    M, g, n, k = Torus(2, periods), torch.Generator().manual_seed(0), 10000, 150
    points = M.project(M.random_uniform(1, generator=g) + 0.8 * torch.randn(60, 2, generator=g, dtype=torch.float64))
    model = AutoregressiveKernelDensity(M, points, neighbours=20)
    _bent(model.network)
    with torch.no_grad():  # wide enough for the grid
        for chain in model.network.chains:
            chain[0].last.bias[10:20] += 2
    cells = [length * (torch.arange(k, dtype=torch.float64) + 0.5) / k - length / 2 for length in M.lengths]
    grid = torch.cartesian_prod(*cells)
    p = model.log_prob(grid).exp() * math.exp(M.log_volume) / k**2
    assert p.sum().item() == pytest.approx(1, abs=5e-3)  # the density jumps where the neighbours change
    x, turn = model.sample(n, generator=g), torch.tensor(M.lengths, dtype=torch.float64) / TURN
    assert x.shape == (n, 2) and not M.defect(x).any()
    functions = (lambda a: a[:, 0].cos(), lambda a: (a[:, 1] - a[:, 0]).sin(), lambda a: (3 * a[:, 1]).cos())
    wrong = 0
    for f in functions:
        mean = (p * f(grid / turn)).sum()
        error = ((p * f(grid / turn).square()).sum() - mean**2).sqrt() / math.sqrt(n)
        assert abs(f(x / turn).mean() - mean) < 5 * error + 5e-3
        wrong += abs(f(x.flip(1) / turn).mean() - mean) > 5 * error + 5e-3
    assert wrong  # the axes exchanged


def test_each_conditional_integrates_to_one() -> None:
    density = _bent(ConditionalKernels(Torus(3), _curve(100, 0)))
    around, k = AngleCentres(Torus(3), density.centres), 20000
    side = TURN * torch.arange(k, dtype=torch.float64) / k - math.pi
    for chain in density.chains:
        for step in chain:
            x = _curve(1, 5).repeat(k, 1)
            x[:, step.target] = side
            # A width may be 1e-4 plus a little: the trapezoid is exact only for laws that it resolves.
            with torch.no_grad():
                step.last.bias[len(step.metric) : 2 * len(step.metric)].clamp_(min=-3)
                step.last.weight[len(step.metric) : 2 * len(step.metric)] = 0
            total = step(step.look(around, x), x).exp().mean() * TURN
            assert total.item() == pytest.approx(1, abs=2e-4)


def test_first_angle_is_a_mixture_of_wrapped_normals() -> None:
    M, x = Torus(3), _curve(50, 0)
    around, first = AngleCentres(M, x), FirstAngle(M.lengths, 1)
    first.weights.copy_(torch.linspace(1, 2, len(FIRST) + 1) / 10.5)
    images = TURN * torch.arange(-3, 4, dtype=torch.float64)

    def direct(y: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
        total = torch.full((len(y),), first.weights[-1].item() / TURN, dtype=torch.float64)
        for h, w in zip(FIRST, first.weights, strict=False):
            gap = y[:, None, None] - centres[:, None] - images
            total += w * (-0.5 * (gap / h).square()).exp().sum(-1).mean(1) / (h * math.sqrt(TURN))
        return total

    y = _curve(20, 1)
    torch.testing.assert_close(first(around, y).exp(), direct(y[:, 1], x[:, 1]), rtol=1e-10, atol=1e-12)
    one = torch.cat([direct(x[[i], 1], torch.cat([x[:i, 1], x[i + 1 :, 1]])) for i in range(50)])
    torch.testing.assert_close(first.left_out(around).exp(), one, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("regressions, reach", [(((12, 0.3), (6, 0.1)), 12), ((), 8)])
def test_asks_the_nearest_centres_only(regressions, reach: int) -> None:
    M, x, here = Torus(3), _curve(100, 0), _curve(1, 5)
    density = _bent(ConditionalKernels(M, x, neighbours=8, regressions=regressions))
    for chain in density.chains:
        for step in chain:

            def log_p(centres: torch.Tensor, step=step) -> torch.Tensor:
                return step(step.look(AngleCentres(M, centres), here), here)

            nearest = AngleCentres(M, x).nearest(step.given, here, reach)[0]
            torch.testing.assert_close(log_p(x[nearest]), log_p(x))
            others = torch.ones(len(x), dtype=torch.bool)
            others[nearest[-1]] = False
            assert (log_p(x[others]) - log_p(x)).abs() > 1e-6


def test_a_point_leaves_no_trace_in_its_own_density() -> None:
    points = _curve(90, 0)
    points = torch.cat([points, points[:2]])  # two places twice
    asked = {"neighbours": 16, "regressions": ((16, 0.3), (32, 0.1))}
    density = _bent(ConditionalKernels(Torus(3), points, **asked)).train()
    for i in (0, 5, 91):
        rest = torch.cat([points[:i], points[i + 1 :]])
        without = ConditionalKernels(Torus(3), rest, **asked).eval()
        without.load_state_dict({**density.state_dict(), "centres": rest}, assign=True)
        here = points[i : i + 1]
        torch.testing.assert_close(density(here), without(here), rtol=1e-6, atol=1e-6)
    assert (density(points[5:6]) - density.eval()(points[5:6])).abs() > 0.1  # the point sees itself


def test_follows_a_surface_that_kernels_in_all_dimensions_blur() -> None:
    M = Torus(4)
    train, val, test = (_surface(500, seed) for seed in range(3))
    model = AutoregressiveKernelDensity(M, train, orders=[range(4)])
    result = model.fit(val, max_steps=60, val_every=30, progress=False)
    gain = model.log_prob(test) - KernelMixture.fit(M, train, val).log_prob(test)
    assert result.monitor == "val_loss" and gain.mean() > 5 * gain.std() / len(gain) ** 0.5
    assert result.best_value == pytest.approx(-model.log_prob(val).mean().item(), abs=1e-4)
    drawn = model.sample(500, generator=torch.Generator().manual_seed(0))
    assert c2st(drawn, test, M, generator=torch.Generator().manual_seed(0)).accuracy < 0.62


def test_density_is_that_of_other_units() -> None:
    here = _bent(ConditionalKernels(Torus(3), _curve(100, 0))).eval()
    there = ConditionalKernels(Torus(3, 10.0), _curve(100, 0, 10.0)).eval()
    there.load_state_dict({**here.state_dict(), "centres": there.centres})
    for a, b in zip(here.chains, there.chains, strict=True):
        for one, other in zip(a, b, strict=True):
            other.mean += math.log(10 / TURN)  # of log distances
            torch.testing.assert_close(other.metric, one.metric)
    ratio = there(_curve(50, 1, 10.0)) - here(_curve(50, 1))
    torch.testing.assert_close(
        ratio, torch.full_like(ratio, -3 * math.log(10 / TURN)), rtol=0, atol=5e-2
    )  # but for the width of 1e-4


def test_points_come_and_go_and_the_model_is_saved(tmp_path) -> None:
    train, more = _curve(80, 0), _curve(20, 1)
    orders = [(2, 0, 1)]
    model = AutoregressiveKernelDensity(Torus(3), train, orders, neighbours=16, regressions=[(60, 0.3), (8, 0.1)])
    _bent(model.network)
    before = model.log_prob(more)
    model.add(more)
    assert model.data == 100 and (model.log_prob(more) - before).mean() > 0.1
    model.save_pretrained(tmp_path)
    again = AutoregressiveKernelDensity.from_pretrained(tmp_path)
    assert again.orders == ((2, 0, 1),) and again.regressions == ((40, 0.3), (8, 0.1))
    assert torch.equal(again.log_prob(more), model.log_prob(more))
    model.remove(torch.arange(80, 100))
    assert torch.equal(model.log_prob(more), before)
    assert model.log_prob(more.reshape(4, 5, 3)).shape == (4, 5) and model.log_prob(more[:0]).shape == (0,)
    assert model.sample(0).shape == (0, 3)


def test_repeated_points_have_a_bounded_density() -> None:
    model = AutoregressiveKernelDensity(Torus(3), _curve(20, 0).repeat(4, 1))
    assert model.fit(max_steps=3, progress=False).steps == 3
    assert model.log_prob(_curve(20, 0)).max() < -3 * math.log(1e-4)


def test_where_all_points_are_repeated_new_ones_keep_a_density() -> None:
    M, g = Torus(2), torch.Generator().manual_seed(0)
    train, new = M.random_uniform(80, generator=g), M.random_uniform(40, generator=g)
    model = AutoregressiveKernelDensity(M, train.repeat(2, 1))
    before = model.log_prob(new).mean()
    assert before > -2 * M.log_volume
    model.fit(new, max_steps=60, val_every=30, progress=False)
    assert model.log_prob(new).mean() >= before - 1e-5
    model.fit(max_steps=60, lr=0.1, progress=False)  # nothing says that new points are no copies
    assert model.log_prob(new).min() > 2 * math.log(1e-6) - M.log_volume - 1e-3


def test_bad_input() -> None:
    M, x = Torus(3), _curve(40, 0)
    with pytest.raises(CapabilityError, match="Torus"):
        AutoregressiveKernelDensity(Sphere(2), Sphere(2).random_uniform(20))
    with pytest.raises(ConfigError, match="two angles"):
        AutoregressiveKernelDensity(Torus(1), x[:, :1])
    with pytest.raises(ConfigError, match="permutations"):
        AutoregressiveKernelDensity(M, x, [(0, 1, 1)])
    with pytest.raises(ConfigError, match="neighbours"):
        AutoregressiveKernelDensity(M, x, neighbours=0)
    with pytest.raises(DataError, match="at least 8"):
        AutoregressiveKernelDensity(M, x[:5])
    with pytest.raises(ManifoldError):
        AutoregressiveKernelDensity(M, x + 7)
    model = AutoregressiveKernelDensity(M, x)
    with pytest.raises(DataError, match="fewer than the 40"):
        model.remove(torch.arange(30))
    with pytest.raises(ManifoldError):
        model.log_prob(torch.full((1, 3), math.nan))
    with pytest.raises(ConfigError, match="n = -1"):
        model.sample(-1)
    with pytest.raises(DataError, match="row 0"):
        model.network.train()(_curve(1, 3))


def test_a_density_moves_to_another_dtype():
    x = _surface(60, 0)
    density = AutoregressiveKernelDensity(Torus(4), x)
    known = density.log_prob(x[:5])
    double = density.double()
    torch.testing.assert_close(double.log_prob(x[:5].double()).float(), known, rtol=1e-5, atol=1e-5)
    assert double.sample(3, generator=torch.Generator().manual_seed(0)).dtype == torch.float64
