"""Two-sample tests: discrepancies against brute force, p-values against known laws, classifiers."""

from __future__ import annotations

import math
import sys
import time

import pytest
import torch

from manifold_diffusion._errors import ConfigError, DataError, ManifoldError, NumericsError
from manifold_diffusion.data import load_airports, split
from manifold_diffusion.metrics import (
    ChordalGaussian,
    Energy,
    Estimate,
    HeatGram,
    c2st,
    ks_uniform,
    mmd2_biased,
    mmd2_unbiased,
    mmd_permutation_test,
    mmd_published,
    pairwise,
    real_vs_real_floor,
)

from .points import S2, cloud, generator

TESTS = {
    "biased": lambda x, y: mmd2_biased(x, y, ChordalGaussian(S2)),
    "unbiased": lambda x, y: mmd2_unbiased(x, y, HeatGram(S2)),
    "published": lambda x, y: mmd_published(x, y, S2),
    "permutation": lambda x, y: mmd_permutation_test(x, y, HeatGram(S2), 5),
    "c2st": lambda x, y: c2st(x, y, S2),
}


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
def test_points_off_the_manifold_are_refused(test):
    x, y = cloud(S2, 30), cloud(S2, 30, 1)
    bad = x.clone()
    bad[7, 1] = math.nan
    for pair, name in (((bad, y), "x"), ((y, bad), "y")):
        with pytest.raises(ManifoldError, match=rf"^{name} has 1 of 30 points with NaN.*7"):
            test(*pair)
    with pytest.raises(ManifoldError, match="x is not on"):
        test(3 * x, y)
    with pytest.raises(ManifoldError, match="x has 1 of 30"):
        HeatGram.from_data(S2, bad)


# ---------------------------------------------------------------------- MMD


def test_energy_distance_against_brute_force():
    x, y = cloud(S2, 7), cloud(S2, 5, 1)

    def mean(a, b, distinct):
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (distinct and i == j)]
        return sum(float((a[i] - b[j]).norm()) for i, j in pairs) / len(pairs)

    brute = 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)
    assert mmd2_unbiased(x, y, Energy(S2)) == pytest.approx(brute, abs=1e-7)
    brute = 2 * mean(x, y, False) - mean(x, x, False) - mean(y, y, False)
    assert mmd2_biased(x, y, Energy(S2)) == pytest.approx(brute, abs=1e-7)


def test_published_estimator_against_brute_force():
    x, y = cloud(S2, 7), cloud(S2, 5, 1)
    k = lambda a, b: float((-S2.dist(a[:, None], b[None]).square()).exp().mean())  # noqa: E731
    assert mmd_published(x, y, S2) == pytest.approx(math.sqrt(k(x, x) + k(y, y) - 2 * k(x, y)), abs=1e-9)


def test_blocks_do_not_change_the_statistic(monkeypatch):
    x, y = cloud(S2, 50), cloud(S2, 40, 1)
    whole = mmd2_unbiased(x, y, HeatGram(S2)), mmd_permutation_test(x, y, HeatGram(S2), 20, generator())
    monkeypatch.setattr(pairwise, "_BLOCK", 123)
    parts = mmd2_unbiased(x, y, HeatGram(S2)), mmd_permutation_test(x, y, HeatGram(S2), 20, generator())
    assert parts[0] == pytest.approx(whole[0], abs=1e-10)
    assert parts[1].mmd2 == pytest.approx(whole[1].mmd2, abs=1e-7)


@pytest.mark.parametrize("gram", [HeatGram(S2), ChordalGaussian(S2), Energy(S2)], ids=repr)
def test_mmd2_is_unbiased_and_the_v_statistic_is_not(gram):
    draws = S2.random_uniform(300 * 50, generator=generator(), dtype=torch.float64).reshape(300, 50, 3)
    unbiased = Estimate.mean(torch.tensor([mmd2_unbiased(x[:20], x[20:], gram) for x in draws]))
    biased = Estimate.mean(torch.tensor([mmd2_biased(x[:20], x[20:], gram) for x in draws]))
    assert abs(unbiased.value) <= 5 * unbiased.standard_error
    assert biased.value > 20 * biased.standard_error


def test_permutation_test_agrees_with_the_statistic_and_repeats():
    x, y = cloud(S2, 60, dtype=torch.float32), cloud(S2, 45, 1, dtype=torch.float32)
    a = mmd_permutation_test(x, y, HeatGram(S2), 100, generator(7))
    assert a.mmd2 == pytest.approx(mmd2_unbiased(x, y, HeatGram(S2)), abs=1e-6)
    assert a == mmd_permutation_test(x, y, HeatGram(S2), 100, generator(7))
    assert abs(a.null_mean) < 5 * a.null_std / 100**0.5


def test_permutation_p_values_are_uniform_under_the_null_and_small_under_an_alternative():
    g, null, other = generator(), [], []
    for _ in range(150):
        x, y = S2.random_uniform(30, generator=g), S2.random_uniform(20, generator=g)
        null.append(mmd_permutation_test(x, y, HeatGram(S2), 99, g).p_value)
    for seed in range(5):
        x = cloud(S2, 60, seed, 0.6, torch.float32)
        other.append(mmd_permutation_test(x, S2.random_uniform(60, generator=g), HeatGram(S2), 199, g).p_value)
    assert ks_uniform(torch.tensor(null)).p_value > 1e-3
    assert max(other) < 0.01
    assert ks_uniform(torch.tensor(null).square()).p_value < 1e-3  # the check does see other laws


def test_two_sample_statistics_check_their_input():
    x = cloud(S2, 5)
    with pytest.raises(DataError, match="at least two"):
        mmd2_unbiased(x, x[:1], Energy(S2))
    for statistic in (mmd2_unbiased, mmd_permutation_test):
        with pytest.raises(NumericsError, match="finite"):
            statistic(x * math.nan, x, lambda x, y: x @ y.mT)
    with pytest.raises(DataError, match="does not fit"):
        mmd_permutation_test(x.expand(10_000, 5, 3).reshape(-1, 3), x, Energy(S2))


def test_real_vs_real_floor_uses_disjoint_samples():
    data = torch.arange(40.0)[:, None]
    seen = []

    def statistic(a, b):
        seen.append((set(a.flatten().tolist()), set(b.flatten().tolist())))
        return float(len(seen))

    floor = real_vs_real_floor(data, 15, 20, statistic=statistic, n_repeats=6, generator=generator())
    assert all(len(a) == 15 and len(b) == 20 and not a & b for a, b in seen)
    assert len(floor.values) == 6 and floor.mean == pytest.approx(3.5)
    with pytest.raises(DataError, match="can't be drawn"):
        real_vs_real_floor(data, 21, statistic=statistic)


# ---------------------------------------------------------------------- classifier two-sample test


@pytest.mark.parametrize("classifier", ["boosting", "mlp", "logistic"])
def test_c2st_knows_equal_from_different(classifier):
    pytest.importorskip("sklearn")
    x, y = cloud(S2, 400, 0), cloud(S2, 500, 1)
    same = c2st(x, y, S2, classifier, generator())
    assert same.n_test == 400 and abs(same.accuracy - 0.5) <= 5 * same.standard_error and same.p_value > 1e-4
    shifted = S2.project(y + torch.tensor([0.5, 0.0, 0.0]))
    assert c2st(x, shifted, S2, classifier, generator()).p_value < 1e-4


def test_c2st_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ConfigError, match="manifold-diffusion\\[metrics\\]"):
        c2st(cloud(S2, 40), cloud(S2, 40, 1), S2)


# ---------------------------------------------------------------------- airports


@pytest.mark.slow
def test_permutation_test_of_5000_against_2829_points():
    parts = split(load_airports())
    start = time.process_time()
    same = mmd_permutation_test(parts.train[:5000], parts.test, HeatGram(S2), generator=generator())
    assert time.process_time() - start < 40
    assert same.p_value > 0.01
    uniform = S2.random_uniform(5000, generator=generator())
    assert mmd_permutation_test(uniform, parts.test, HeatGram(S2), generator=generator()).p_value < 0.01
