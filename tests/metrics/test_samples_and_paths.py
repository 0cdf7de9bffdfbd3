"""Diagnostics of samples and paths: copies, straightness, calibration."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, SPD, Euclidean, Hyperboloid, Torus
from manifold_diffusion.metrics import (
    density_calibration,
    farthest_points,
    ks_uniform,
    memorisation,
    nearest_centre,
    nearest_distance,
    region_calibration,
    straightness,
)

from .points import S2, cloud, generator

# ---------------------------------------------------------------------- copies


@pytest.mark.parametrize("manifold", [S2, Torus(3), SO3(), Hyperboloid(2), SPD(2), Euclidean(2)], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_distance_against_all_pairs(manifold, dtype):
    x, points = cloud(manifold, 40, 1, dtype=dtype), cloud(manifold, 60, dtype=dtype)
    exact = manifold.dist(x.double()[:, None], points.double()).amin(1)
    assert torch.allclose(nearest_distance(manifold, x, points), exact, atol=1e-6)
    assert float(nearest_distance(manifold, points, points).max()) < 1e-7


def law(weight=0.0):
    centres = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], dtype=torch.float64)
    return HeatKernelMixture(S2, centres, torch.tensor([0.05, 0.1, 0.02]), torch.tensor([3.0, 2.0, 1.0]), weight)


def test_copies_are_caught_and_fresh_draws_are_not():
    train, held_out, fresh = law().sample(1500, generator=generator()).split(500)
    assert abs(memorisation(S2, fresh, held_out, train).z) < 4
    copies = HeatKernelMixture(S2, train, 1e-5).sample(500, generator=generator(1))
    found = memorisation(S2, copies, held_out, train)
    assert found.auc.value > 0.85 and found.z > 15 and found.p_value < 1e-10
    partly = torch.cat([copies[:125], fresh[:375]])  # a quarter copies
    assert memorisation(S2, partly, held_out, train).z > 4
    wide = memorisation(S2, S2.random_uniform(500, generator=generator()), held_out, train)
    assert wide.z < -5 and wide.p_value > 0.99  # away from the data: no copies
    assert memorisation(S2, train, held_out, train).auc.value == 1.0


@pytest.mark.slow
def test_p_values_of_fresh_draws_are_uniform_and_the_standard_error_is_right():
    g, values, aucs, errors = generator(), [], [], []
    for _ in range(120):
        train, held_out, fresh = Torus(1).random_uniform(110, generator=g).split([30, 50, 30])
        found = memorisation(Torus(1), fresh, held_out, train)
        values.append(found.p_value)
        aucs.append(found.auc.value)
        errors.append(found.auc.standard_error)
    assert ks_uniform(torch.tensor(values)).p_value > 1e-3
    assert ks_uniform(torch.tensor(values).square()).p_value < 1e-3
    assert float(torch.tensor(aucs).std() / torch.tensor(errors).mean()) == pytest.approx(1, abs=0.25)


def test_ties_count_half_and_shrink_the_variance():
    train = torch.zeros(1, 1)
    held_out = torch.tensor([[1.0], [1.0], [2.0]])
    found = memorisation(Euclidean(1), torch.tensor([[1.0], [0.0]]), held_out, train)
    assert found.auc.value == pytest.approx((1 + 1 + 1 + 0.5 + 0.5 + 1) / 6)
    from scipy.stats import mannwhitneyu

    big = generator(), torch.arange(40.0)
    samples, held_out = (torch.randint(6, (k, 1), generator=big[0]).float() for k in (300, 200))
    p = mannwhitneyu(samples, held_out, alternative="less", use_continuity=False, method="asymptotic").pvalue[0]
    assert memorisation(Euclidean(1), samples, held_out, train - 1).p_value == pytest.approx(p, rel=1e-9)


def test_memorisation_refuses_bad_input():
    x = cloud(S2, 5)
    with pytest.raises(DataError, match="two samples"):
        memorisation(S2, x[:1], x, x)
    with pytest.raises(DataError, match="empty"):
        memorisation(S2, x, x, x[:0])
    with pytest.raises(ManifoldError, match="points"):
        nearest_distance(S2, x, 2 * x)


# ---------------------------------------------------------------------- straightness


def times(steps, dtype=torch.float64):
    return torch.linspace(0, 1, steps + 1, dtype=dtype)


@pytest.mark.parametrize("manifold", [S2, Torus(2), SO3(), Hyperboloid(2), SPD(2)], ids=repr)
def test_geodesics_are_straight_and_a_change_of_speed_is_pacing(manifold):
    """Speed 2 t along a geodesic: energy 4/3 d^2, length d."""
    x, y, t = cloud(manifold, 5), cloud(manifold, 5, 1), times(8)
    d2 = manifold.dist(x, y).square()

    def path(s, rate):
        points = torch.stack([manifold.geodesic(x, y, float(a)) for a in s])
        ends = torch.stack(
            [
                manifold.log(p, y) / (1 - a) if a < 0.5 else -manifold.log(p, x) / a
                for p, a in zip(points, s, strict=True)
            ]
        )
        return straightness(manifold, points, ends * manifold.per_point(rate[:, None]), t)

    even, uneven = path(t, torch.ones_like(t)), path(t.square(), 2 * t)
    assert torch.allclose(even.energy, d2) and torch.allclose(even.length, d2.sqrt())
    assert abs(even.excess.value) < 1e-9 and even.detour == pytest.approx(1)
    assert torch.allclose(uneven.energy, 4 / 3 * d2) and abs(uneven.bending.value) < 1e-9
    assert uneven.pacing.value == pytest.approx(float(d2.mean()) / 3)
    assert uneven.quadrature_error < 1e-9


def test_rotation_bends_by_the_latitude():
    """Angle a about the axis: |v| = a sin(polar), and the ends at the distance of the chord 2 sin(polar) sin(a/2)."""
    x, t, a = S2.random_uniform(50, generator=generator(), dtype=torch.float64), times(8), 2.0
    turn = SO3().exp(
        torch.eye(3, dtype=torch.float64),
        torch.linalg.cross(
            torch.tensor([[0, 0, a]], dtype=torch.float64).expand(3, 3), torch.eye(3, dtype=torch.float64)
        ).mT
        * t[:, None, None],
    )
    points = torch.einsum("kij,nj->kni", turn, x)
    v = torch.linalg.cross(torch.tensor([0, 0, a], dtype=torch.float64).expand_as(points), points)
    found = straightness(S2, points, v, t)
    sine = x[:, :2].norm(dim=1)
    distance = 2 * (sine * math.sin(a / 2)).asin()
    assert torch.allclose(found.energy, (a * sine).square()) and torch.allclose(found.distance, distance)
    assert found.bending.value == pytest.approx(float(((a * sine).square() - distance.square()).mean()))
    assert abs(found.pacing.value) < 1e-12 < found.bending.value


def test_attraction_to_a_pole_in_closed_form():
    """v = k (e - (e.x) x): along meridians, tan(polar_t / 2) = exp(-k t) tan(polar_0 / 2); energy in closed form."""
    k, t = 1.5, times(32)
    polar = torch.tensor([0.4, 1.2, 2.0], dtype=torch.float64)
    angle = 2 * ((-k * t[:, None]).exp() * (polar / 2).tan()).atan()
    points = torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()], -1)
    e = torch.tensor([0, 0, 1.0], dtype=torch.float64)
    found = straightness(S2, points, k * (e - (points @ e).unsqueeze(-1) * points), t)
    # d(cos angle)/dt = k sin^2 = |v|^2 / k
    assert torch.allclose(found.energy, k * (angle[-1].cos() - angle[0].cos()), atol=1e-6)
    assert abs(found.bending.value) < 1e-6 and found.pacing.value > 0.02
    assert (
        abs(float(found.energy.mean() - (k * (angle[-1].cos() - angle[0].cos())).mean())) < 3 * found.quadrature_error
    )


def test_straightness_does_not_depend_on_the_direction_and_refuses_bad_input():
    x, t = cloud(Torus(2), 4), times(4)
    points, v = torch.stack([Torus(2).exp(x, a * x) for a in t]), x.expand(5, 4, 2)
    forth, back = straightness(Torus(2), points, v, t), straightness(Torus(2), points.flip(0), v, t.flip(0))
    assert torch.allclose(forth.energy, back.energy) and torch.allclose(forth.distance, back.distance)
    with pytest.raises(ConfigError, match="multiple of 4"):
        straightness(Torus(2), points[:-1], v[:-1], t[:-1])
    with pytest.raises(ConfigError, match="equidistant"):
        straightness(Torus(2), points, v, t.square())


# ---------------------------------------------------------------------- calibration


def test_farthest_points_and_regions():
    x = torch.cat([torch.zeros(5, 1), torch.ones(2, 1), torch.full((1, 1), 3.0)])
    centres = farthest_points(Euclidean(1), x, 3)
    assert centres[:, 0].tolist() == [0, 3, 1]
    assert len(farthest_points(Euclidean(1), x, 6)) == 3  # there are no more different ones
    assert nearest_centre(Euclidean(1), x, centres).tolist() == [0] * 5 + [2] * 2 + [1]
    with pytest.raises(ConfigError, match="k"):
        farthest_points(Euclidean(1), x, 9)


def test_regions_by_brute_force():
    samples, held_out, centres = cloud(S2, 300), cloud(S2, 200, 1), cloud(S2, 4, 2)
    found = region_calibration(S2, samples, held_out, centres)
    nearest = S2.dist(samples[:, None], centres).argmin(1)
    assert found.sample_counts.tolist() == torch.bincount(nearest, minlength=4).tolist()
    from scipy.stats import chi2_contingency

    table = torch.stack([found.sample_counts, found.held_out_counts]).numpy()
    exact = chi2_contingency(table, correction=False)
    assert found.chi_square == pytest.approx(exact.statistic) and found.p_value == pytest.approx(exact.pvalue)
    assert float((found.z.square() * (1 - (found.sample_counts + found.held_out_counts) / 500)).sum()) == pytest.approx(
        found.chi_square
    )


@pytest.mark.slow
def test_p_values_of_regions_are_uniform_with_rare_regions():
    g, values = generator(), []
    for _ in range(120):
        x, y, train = law(0.02).sample(190, generator=g).split([100, 60, 30])
        values.append(region_calibration(S2, x, y, farthest_points(S2, train, 10)).p_value)
    assert ks_uniform(torch.tensor(values)).p_value > 1e-3
    assert float((torch.tensor(values) < 0.05).double().mean()) < 0.05 + 5 * math.sqrt(0.05 * 0.95 / 120)


def test_regions_find_a_wrong_weight():
    train, held_out, fresh = law().sample(1500, generator=generator()).split(500)
    centres = farthest_points(S2, train, 12)
    assert region_calibration(S2, fresh, held_out, centres).p_value > 1e-3
    wrong = HeatKernelMixture(S2, law().centres, law().tau, torch.tensor([2.0, 2.0, 2.0]))
    found = region_calibration(S2, wrong.sample(500, generator=generator(1)), held_out, centres)
    assert found.p_value < 1e-6 and float(found.z.abs().max()) > 4
    with pytest.raises(DataError, match="too few"):
        region_calibration(S2, fresh[:4], held_out[:4], centres)
    with pytest.raises(ConfigError, match="two centres"):
        region_calibration(S2, fresh, held_out, centres[:1])


def test_density_levels_are_uniform_for_the_law_and_show_too_wide_and_too_narrow_ones():
    model, g = law(), generator()
    own, held_out = model.log_prob(model.sample(4000, generator=g)), model.sample(1000, generator=g)
    good = density_calibration(own, model.log_prob(held_out))
    assert good.test.p_value > 1e-3 and ks_uniform(good.levels).p_value > 1e-4
    assert abs(good.coverage(0.5) - 0.5) < 5 * math.sqrt(0.25 / 1000)
    for factor, side in ((2.5, 1), (0.4, -1)):  # too wide: points near the modes, covered too often
        other = HeatKernelMixture(S2, model.centres, factor * model.tau, model.weights)
        found = density_calibration(other.log_prob(other.sample(4000, generator=g)), other.log_prob(held_out))
        assert found.test.p_value < 1e-6 and side * (found.coverage(0.5) - 0.5) > 0.1


def test_density_levels_in_flat_space_are_the_distribution_of_the_radius():
    """alpha = 1 - exp(-r^2 / 2) for a standard normal law in the plane."""
    x, points = torch.randn(100_000, 2, generator=generator()), torch.tensor([[0.5, 0.0], [0, 2.0]])
    found = density_calibration(-x.square().sum(1) / 2, -points.square().sum(1) / 2)
    assert torch.allclose(found.levels, 1 - (-points.double().square().sum(1) / 2).exp(), atol=5 * 0.5 / 100_000**0.5)


def test_densities_that_are_not_numbers_are_refused_and_zero_density_is_not():
    x = torch.tensor([0.0, 1.0])
    assert density_calibration(x, torch.tensor([-math.inf])).levels.tolist() == [1.0]
    with pytest.raises(NumericsError, match="sample_log_prob"):
        density_calibration(torch.tensor([math.nan]), x)
    with pytest.raises(DataError, match="held_out_log_prob"):
        density_calibration(x, x[:0])
