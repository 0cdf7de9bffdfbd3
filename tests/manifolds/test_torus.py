"""Tori of any period: scaling from the usual torus, kernel, spectrum, networks, readers, configuration."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import ConfigError, DataError
from manifold_diffusion.cli.names import manifold_name, normalise
from manifold_diffusion.data import load_csv
from manifold_diffusion.data.arrays import point_set
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import Circle, Torus, geodesic_symmetry
from manifold_diffusion.plotting import views

from .draws import seeded

F32, F64 = torch.float32, torch.float64
BOX = Torus(2, periods=[3.0, 20.0])


def test_a_torus_of_one_period_is_the_usual_one_scaled() -> None:
    scale = 5.0 / (2 * math.pi)
    m, usual = Torus(3, periods=5.0), Torus(3)
    x, y = (
        usual.random_uniform(64, generator=seeded(1), dtype=F64),
        usual.random_uniform(64, generator=seeded(2), dtype=F64),
    )
    torch.testing.assert_close(m.dist(scale * x, scale * y), scale * usual.dist(x, y))
    torch.testing.assert_close(m.log(scale * x, scale * y), scale * usual.log(x, y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(m.embed(scale * x), scale * usual.embed(x))
    assert m.volume == pytest.approx(125.0)
    torch.testing.assert_close(m.eigenvalues(8), usual.eigenvalues(8) / scale**2)
    assert torch.equal(m.multiplicities(8), usual.multiplicities(8))
    for tau in (1e-6, 1e-3, 0.3, 4.0):
        k, unit = heat_kernel(m), heat_kernel(usual)
        log_p = unit.log_prob(x, y, tau / scale**2) - 3 * math.log(scale)
        torch.testing.assert_close(k.log_prob(scale * x, scale * y, tau), log_p, rtol=1e-10, atol=1e-10)
        score = unit.score(x, y, tau / scale**2) / scale
        torch.testing.assert_close(k.score(scale * x, scale * y, tau), score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "bound"), [(F64, 1e-12), (F32, 1e-5)])
def test_kernel_is_the_sum_over_the_lattice(dtype: torch.dtype, bound: float) -> None:
    g = seeded(3)
    x, y = (BOX.random_uniform(50, generator=g, dtype=F64).to(dtype).double() for _ in range(2))
    for tau in (0.01, 0.3, 3.0, 40.0):
        shifts = torch.cartesian_prod(torch.arange(-40, 41) * 3.0, torch.arange(-12, 13) * 20.0).double()
        d = (x - y)[:, None] + shifts
        logs = -d.square().sum(-1) / (2 * tau) - math.log(2 * math.pi * tau)
        score = -(torch.softmax(logs, 1).unsqueeze(-1) * d).sum(1) / tau
        k = heat_kernel(BOX)
        log_p = k.log_prob(x.to(dtype), y.to(dtype), tau).double()
        assert float(((log_p - logs.logsumexp(1)).abs() / (1 + logs.logsumexp(1).abs())).max()) < bound
        error = (k.score(x.to(dtype), y.to(dtype), tau).double() - score).abs().max()
        assert float(error) < 10 * bound * (1 + float(score.abs().max()))


def test_the_spectrum_is_that_of_the_lattice() -> None:
    unit = (2 * math.pi / 3, 2 * math.pi / 20)
    all_values = sorted((unit[0] * i) ** 2 + (unit[1] * j) ** 2 for i in range(-4, 5) for j in range(-30, 31))
    values, counts = BOX.eigenvalues(12), BOX.multiplicities(12)
    expanded = np.repeat(values.numpy(), counts.numpy().astype(int))
    np.testing.assert_allclose(expanded, all_values[: len(expanded)], rtol=1e-12, atol=1e-12)
    assert BOX.multiplicities(2).tolist() == [1, 2]
    assert BOX.eigenvalues(2)[1].item() == pytest.approx(unit[1] ** 2)


def test_eigenfunction_series_is_the_kernel() -> None:
    x, y = BOX.random_uniform(20, generator=seeded(4), dtype=F64), BOX.origin(dtype=F64)
    tau = 8.0
    series = (BOX.level_sums(x, y.expand_as(x), 60) * (-BOX.eigenvalues(60) * tau / 2).exp()).sum(-1)
    torch.testing.assert_close(series.log(), heat_kernel(BOX).log_prob(x, y, tau), rtol=1e-9, atol=1e-9)


def test_waves_of_networks_are_periodic() -> None:
    w = BOX.random_frequencies(300, 20.0, seeded(5)).double()
    turns = w * torch.tensor(BOX.lengths, dtype=F64) / (2 * math.pi)
    torch.testing.assert_close(turns, turns.round(), rtol=0, atol=1e-4)
    assert float(w.norm(dim=1).min()) < 0.4 and float(w.norm(dim=1).max()) > 10
    assert bool((turns.round().abs().sum(1) > 0).all())


def test_the_default_is_unchanged_and_circles_are_tori() -> None:
    assert repr(Torus(2)) == "Torus(2)" == repr(Torus(2, periods=2 * math.pi))
    assert Torus(2) == Torus(2, periods=[2 * math.pi] * 2) != Torus(2, periods=1.0)
    assert Circle() == Torus(1) and Circle(3.0) == Torus(1, periods=3.0)
    assert to_config(Torus(2)) == {"class_path": "manifold_diffusion.manifolds.Torus", "init_args": {"n": 2}}


@pytest.mark.parametrize("m", [Torus(3), BOX, Torus(2, periods=1.5), Circle(24.0)], ids=repr)
def test_configuration_round_trip(m: Torus) -> None:
    assert from_config(to_config(m)) == m
    assert normalise("manifold", manifold_name(to_config(m))) == to_config(m)
    circle = {"class_path": "manifold_diffusion.manifolds.Circle", "init_args": {"period": 24.0}}
    assert from_config(circle) == Circle(24.0)


def test_readers_know_the_period(tmp_path: Path) -> None:
    file = tmp_path / "box.csv"
    file.write_text("a,b\n1.0,-9.5\n2.5,19.0\n")
    points = load_csv(file, BOX).points
    torch.testing.assert_close(points, torch.tensor([[1.0, -9.5], [-0.5, -1.0]]))
    with pytest.raises(DataError, match="outside one period"):
        point_set([[4.0, 0.0]], BOX)
    with pytest.raises(ConfigError, match="periods of 2 pi"):
        point_set([[1.0, 0.0]], BOX, "degrees")


@pytest.mark.parametrize("m", [BOX, Torus(2, periods=4.0), Circle(24.0)], ids=repr)
def test_picture_and_model(m: Torus, tmp_path: Path) -> None:
    from manifold_diffusion.plotting import plot

    kinds = {type(v).__name__ for v in views(m)}
    assert kinds == ({"CircularHistogram"} if m.n == 1 else {"Plane"})
    model = RiemannianDiffusion(m)
    centre = m.origin().expand(200, m.n)
    data = heat_kernel(m).sample(centre, 0.05, seeded(6))
    model.fit(data, max_steps=20, batch_size=64, progress=False)
    plot(m, samples=data, log_prob=model.log_prob if m.n == 1 else None, path=tmp_path / "picture.png", resolution=16)
    assert bool(torch.isfinite(model.log_prob(data[:4])).all())


def test_symmetry_turns_around() -> None:
    x, y = (BOX.random_uniform(20, generator=seeded(s), dtype=F64) for s in (7, 8))
    symmetry = geodesic_symmetry(BOX)
    assert symmetry is not None
    image = symmetry(x, y, torch.zeros_like(x))[0]
    torch.testing.assert_close(
        BOX.dist(image, BOX.exp(x, -BOX.log(x, y))), torch.zeros(20, dtype=F64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("periods", [0.0, -1.0, math.inf, math.nan, [1.0], [1.0, 0.0], []])
def test_impossible_periods_are_refused(periods: object) -> None:
    with pytest.raises(ConfigError, match=r"Torus\(2\) needs one positive, finite period"):
        Torus(2, periods=periods)  # pyright: ignore[reportArgumentType]
