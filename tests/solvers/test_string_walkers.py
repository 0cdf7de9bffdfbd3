"""Strings at a temperature: cells, principal curves that are known, and the law that walkers have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Manifold, RealProjective, Sphere, Torus
from manifold_diffusion.processes import SDETerm
from manifold_diffusion.solvers import DiffusionString, equal_arc_length
from manifold_diffusion.solvers._walkers import alike, follow, walk_in_cells

from .flows import GROWTH, brownian_time, seeded
from .valleys import TH0, K, bent_start, colatitude, latitude_string


@pytest.mark.parametrize("M", [Sphere(2), SO3()], ids=str)
def test_walkers_stay_in_their_cells(M: Manifold) -> None:
    x = M.origin(torch.float64)
    nodes = M.exp(x.expand(6, *M.point_shape), M.random_tangent(x.expand(6, *M.point_shape), generator=seeded()))
    walkers = nodes.unsqueeze(1).expand(6, 50, *M.point_shape)
    noise = SDETerm(lambda t, x: torch.zeros_like(x), lambda t, x: x.new_ones(()))
    g = seeded(1)
    for _ in range(20):
        walkers = walk_in_cells(M, noise, 0.0, 0.05, walkers, nodes, g)
    owner = M.dist(walkers.unsqueeze(2), nodes).argmin(-1)
    assert torch.equal(owner, torch.arange(6).unsqueeze(1).expand(6, 50))
    assert float(M.dist(nodes.unsqueeze(1), walkers).mean()) > 0.1  # they do move
    # A cell that leaves its walkers behind: they come no farther away from it, and back in the end.
    shifted = torch.cat([nodes[1:2], nodes[:1], nodes[2:]])

    def outside(walkers: Tensor) -> Tensor:
        d = M.dist(walkers.unsqueeze(2), shifted)
        return d.diagonal(dim1=0, dim2=2).mT - d.amin(-1)

    before = outside(walkers)
    assert int((before[:2] > 0).sum()) > 90
    for _ in range(200):
        walkers = walk_in_cells(M, noise, 0.0, 0.05, walkers, shifted, g)
        after = outside(walkers)
        assert bool((after <= before + 1e-12)[before > 0].all())
        before = after
    assert float((before > 0).double().mean()) < 0.05


def test_a_curve_with_walkers_on_it_stays() -> None:
    """The mean of an arc is not on the arc: the bend is taken off, whatever the law along the arc."""
    M, n = Sphere(2), 12
    phi = torch.linspace(0, 2.0, n, dtype=torch.float64)
    gap = phi[1]
    at = torch.linspace(-0.5, 0.5, 41, dtype=torch.float64)
    for positions in (at, torch.full_like(at, 0.4)):
        angle = phi[:, None] + gap * positions

        def circle(angle: Tensor) -> Tensor:
            return torch.stack(
                [
                    math.sin(TH0) * angle.cos(),
                    math.sin(TH0) * angle.sin(),
                    torch.full_like(angle, math.cos(TH0)),
                ],
                -1,
            )

        nodes, walkers = circle(phi), circle(angle)
        moved = follow(M, nodes, walkers, 1.0)
        plain = M.exp(nodes, M.log(nodes.unsqueeze(1), walkers).mean(1))
        shift, control = ((colatitude(x) - TH0).abs()[2:-2].max() for x in (moved, plain))
        assert shift < 1e-4
        assert control > 3e-4 or positions is not at


def test_principal_curve_is_shifted_by_the_volume_element() -> None:
    """theta = theta_0 + (T/K) cot theta_0: nodes there are the means of the exact law of their cells."""
    M, T, n = Sphere(2), 1.0, 40
    theta = torch.linspace(TH0 - 1, TH0 + 1, 200_001, dtype=torch.float64)
    weight = (-K * (theta - TH0) ** 2 / (2 * T)).exp()
    share = (torch.arange(400, dtype=torch.float64) + 0.5) / 400

    def quantiles(weight: Tensor) -> Tensor:
        cumulative = weight.cumsum(0) / weight.sum()
        return theta[torch.searchsorted(cumulative, share)]

    phi = torch.linspace(0, math.pi, n, dtype=torch.float64)
    around = phi[:, None] + phi[1] * torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)[None] * 10 / 11

    def points(theta: Tensor, phi: Tensor) -> Tensor:
        parts = torch.broadcast_tensors(theta.sin() * phi.cos(), theta.sin() * phi.sin(), theta.cos())
        return torch.stack(parts, -1)

    for density, exact in ((weight * theta.sin(), T / K / math.tan(TH0)), (weight, 0.0)):
        walkers = points(quantiles(density)[None, :, None], around[:, None, :]).flatten(1, 2)
        for shift in (T / K / math.tan(TH0), 0.0):
            nodes = points(torch.full_like(phi, TH0 + shift), phi)
            change = (colatitude(follow(M, nodes, walkers, 0.01)) - colatitude(nodes))[15:-15] / 0.01
            assert float((change - (exact - shift)).abs().max()) < 4.5e-4 < 0.0096 / 20


def wide_law() -> tuple[DiffusionString, Tensor]:
    """Two kernels that are wide for their distance: by symmetry the principal curve is the geodesic."""
    law = HeatKernelMixture(Sphere(2), torch.eye(3, dtype=torch.float64)[:2], tau=0.2)
    return DiffusionString(Sphere(2), score=lambda t, x: law.score(x), log_prob=law.log_prob), law.centres


@pytest.mark.parametrize(
    ("n", "iterations"), [(50, 100), pytest.param(50, 600, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_a_dense_string_in_a_wide_law_keeps_its_length(n: int, iterations: int) -> None:
    string, ends = wide_law()
    options = {"step": 0.05, "temperature": 1.0, "n_walkers": 16}
    path = string.relax(ends, n_nodes=n, max_iterations=iterations, generator=seeded(), **options)
    exact = string.relax(ends, step=0.05, n_nodes=24)
    assert abs(path.length / exact.length - 1) < 0.02 and abs(path.barriers[0] - exact.barriers[0]) < 0.03


@pytest.mark.parametrize("width", [0.3, 3.0])
def test_a_string_that_evolves_in_a_wide_law_stays_straight(width: float) -> None:
    M, end = Euclidean(2), torch.tensor([-0.5, 0.0], dtype=torch.float64)
    string = DiffusionString(M, lambda t, x: 0 * x, lambda t, x: -x / width**2)
    g = math.sqrt(0.3 * 200) * width
    path = string.evolve(end, -end, n_nodes=12, steps=200, g=g, temperature=1.0, generator=seeded())
    assert abs(path.length - 1) < 0.02


def test_smoothing_damps_all_waves_at_any_spacing() -> None:
    """A ripple of walkers' means in the plane: with the law's width of many spacings the nodes must come back."""
    M, rate = Euclidean(2), 0.1
    for n in (3, 4, 12, 100):
        line = torch.linspace(0, 1, n, dtype=torch.float64)
        for width in (0.05, 0.15, 0.3, 3.0):
            z = width * torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)
            z = z * width / z.square().mean().sqrt()
            y = 1e-3 * torch.randn(n, generator=seeded(), dtype=torch.float64)
            y[0], y[-1] = 0.0, 0.0
            start = float(y.abs().max())
            for _ in range(200):
                bend = torch.zeros_like(y)
                bend[1:-1] = (y[2:] - 2 * y[1:-1] + y[:-2]) * (n - 1) ** 2
                mean = -(width**2) * bend  # of a cell that is wider on the outside of a bend
                walkers = torch.stack([line[:, None].expand(n, 7), mean[:, None] + z], -1)
                moved = follow(M, torch.stack([line, y], -1), walkers, rate)[:, 1]
                y = torch.cat([y[:1], moved[1:-1], y[-1:]])
            assert float(y.abs().max()) < start / 2


def test_neighbours_written_with_unlike_representatives_are_one_string() -> None:
    M = RealProjective(2)
    angle = torch.linspace(0, 1.5, 9, dtype=torch.float64)
    x = torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], -1)
    sign = torch.tensor([1, -1, 1, 1, -1, -1, 1, -1, 1]).unsqueeze(-1)
    assert torch.allclose(alike(M, sign * x)[:-1], x[:-1], atol=1e-12)


@pytest.mark.slow
def test_principal_curve_of_a_latitude_valley() -> None:
    n, walkers, rate, step = 16, 128, 4e-3, 5e-4
    valley = latitude_string().relax(bent_start(), step=0.01, n_nodes=n)
    options = {"step": step, "n_nodes": n, "n_walkers": walkers, "rate": rate}
    curve = latitude_string().relax(valley.nodes, temperature=1.0, max_iterations=1200, generator=seeded(), **options)
    assert curve.converged is None and curve.spacing < 1e-4
    error = math.sqrt(1 / K * rate / (step * K) / (walkers * (n - 4)))
    shift = float(colatitude(curve.nodes)[2:-2].mean()) - TH0
    assert abs(shift - 1 / K / math.tan(TH0)) < 3 * error < 5 * error < abs(shift)
    cold = latitude_string().relax(valley.nodes, temperature=1e-4, max_iterations=300, generator=seeded(), **options)
    assert float((colatitude(cold.nodes) - TH0).abs().max()) < 1e-3


@pytest.mark.slow
def test_nodes_are_the_means_of_the_data_in_their_cells() -> None:
    """At T = 1 walkers have the law of the model: its samples in a cell have the node as their mean across the string.

    The law is a ridge with a lower one beside it, which shifts the means and not the path of least energy.
    """
    M = Sphere(2)
    x = M.origin(torch.float64)
    e1, e2 = M.tangent_basis(x)
    along = (-0.35, 0.0, 0.35, 0.7, 1.05, 1.4, 1.75)
    centres = [M.exp(x, a * e1 + b * e2) for b in (0.0, 0.4) for a in along]
    law = HeatKernelMixture(M, torch.stack(centres), 0.02, torch.tensor([3.0] * 7 + [2.0] * 7))
    ends = [M.exp(x, a * e1 + 0.16 * e2) for a in (0.0, 1.4)]
    data = law.sample(40_000, 1e-3, seeded(3))

    def score(t: Tensor, x: Tensor) -> Tensor:
        return law.score(x, brownian_time(t))

    def g(t: Tensor, x: Tensor) -> Tensor:  # none while the law is wider than the string is long
        tau = brownian_time(t)
        return M.per_point(torch.where(tau < 0.1, 2 * GROWTH * (tau + 0.01), 0.0).sqrt())

    string = DiffusionString(M, lambda t, x: -M.per_point(GROWTH * brownian_time(t) / 2) * score(t, x), score)
    options = {"n_nodes": 7, "steps": 150, "n_walkers": 128, "rate": 0.05}
    offsets = {}
    for T in (1.0, 0.0):
        nodes = string.evolve(*ends, g=g, temperature=T, generator=seeded(), **options).nodes
        owner = M.dist(data.unsqueeze(1), nodes).argmin(1)
        means = torch.stack([M.log(nodes[k], data[owner == k]).mean(0) for k in range(1, 6)])
        normal = M.project(torch.linalg.cross(nodes[1:-1], nodes[2:] - nodes[:-2]))
        offsets[T] = float((means * normal).sum(-1).mean())
    # Walkers forget in 1 / (h g^2 / (tau + 0.02)) steps, and a node averages over 1 / rate: see relax.
    rest = 2 * GROWTH * 0.011 / 150 / 0.021
    error = 0.24 * math.sqrt(0.05 / rest / 128 / 5)
    print(offsets, error)
    assert abs(offsets[1.0]) < 3 * error < 5 * error < abs(offsets[0.0])


def test_equal_spacing_survives_noise() -> None:
    M = Torus(2)
    line = torch.linspace(-1, 1, 30, dtype=torch.float64).unsqueeze(-1) * torch.tensor([1.0, 0.5])
    noisy = line + 0.02 * torch.randn(30, 2, generator=seeded(), dtype=torch.float64)
    gaps = M.dist(*(lambda x: (x[:-1], x[1:]))(equal_arc_length(M, noisy)))
    assert float((gaps / gaps.mean() - 1).abs().max()) < 1e-4
