"""Strings at a temperature: cells, principal curves that are known, and the law that walkers have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Manifold, Sphere, Torus
from manifold_diffusion.processes import SDETerm
from manifold_diffusion.solvers import DiffusionString, equal_arc_length
from manifold_diffusion.solvers._walkers import follow, walk_in_cells

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
    for _ in range(300):
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
        assert shift < 1e-4 < 3e-4 < control


def test_principal_curve_of_a_latitude_valley() -> None:
    """theta = theta_0 + (T/K) cot theta_0: the volume element pushes away from the pole."""
    T, n, walkers, rate, step = 4.0, 12, 64, 0.01, 2e-3
    curve = latitude_string().relax(
        bent_start(),
        step=step,
        n_nodes=n,
        temperature=T,
        n_walkers=walkers,
        rate=rate,
        max_iterations=700,
        generator=seeded(),
    )
    assert curve.converged is None and curve.spacing < 1e-4
    error = math.sqrt(T / K * rate / (step * K) / (walkers * (n - 4)))
    theta = float(colatitude(curve.nodes)[2:-2].mean())
    assert abs(theta - TH0 - T / K / math.tan(TH0)) < 3 * error < 5 * error < abs(theta - TH0)


@pytest.mark.slow
def test_principal_curve_at_temperature_one_and_near_zero() -> None:
    n, walkers, rate, step = 16, 128, 4e-3, 5e-4
    valley = latitude_string().relax(bent_start(), step=0.01, n_nodes=n)
    for T in (1.0, 1e-4):
        curve = latitude_string().relax(
            valley.nodes,
            step=step,
            n_nodes=n,
            temperature=T,
            n_walkers=walkers,
            rate=rate,
            max_iterations=1200 if T == 1.0 else 300,
            generator=seeded(),
        )
        error = math.sqrt(T / K * rate / (step * K) / (walkers * (n - 4)))
        theta = float(colatitude(curve.nodes)[2:-2].mean())
        if T == 1.0:
            assert abs(theta - TH0 - T / K / math.tan(TH0)) < 3 * error < 5 * error < abs(theta - TH0)
        else:
            assert float((colatitude(curve.nodes) - TH0).abs().max()) < 1e-3


def evolving(M: Manifold, law: HeatKernelMixture) -> DiffusionString:
    def score(t: Tensor, x: Tensor) -> Tensor:
        return law.score(x, brownian_time(t))

    return DiffusionString(M, lambda t, x: -M.per_point(GROWTH * brownian_time(t) / 2) * score(t, x), score)


@pytest.mark.slow
@pytest.mark.parametrize("M", [Sphere(2), Torus(2)], ids=str)
def test_nodes_are_the_means_of_the_data_in_their_cells(M: Sphere | Torus) -> None:
    """At T = 1 walkers have the law of the model: its samples in a cell have the node as their mean across the string.

    It fails for a wrong sign of the time, of the score, or a wrong noise.
    """
    x = M.origin(torch.float64)
    e1, e2 = M.tangent_basis(x)
    centres = torch.stack([x, M.exp(x, 0.9 * e1 + 0.7 * e2), M.exp(x, 1.6 * e1)])
    law = HeatKernelMixture(M, centres, 0.1)
    string, data = evolving(M, law), law.sample(40_000, 1e-3, seeded(3))

    def g(scale: float):
        return lambda t, x: M.per_point((scale * GROWTH * (brownian_time(t) + 0.02)).sqrt())

    def offset(temperature: float, scale: float) -> Tensor:
        curve = string.evolve(
            x,
            centres[2],
            n_nodes=7,
            steps=150,
            g=g(scale),
            temperature=temperature,
            n_walkers=64,
            rate=0.05,
            generator=seeded(),
        ).nodes
        owner = M.dist(data.unsqueeze(1), curve).argmin(1)
        means = torch.stack([M.log(curve[k], data[owner == k]).mean(0) for k in range(1, 6)])
        tangent = M.log(curve[1:-1], curve[2:]) - M.log(curve[1:-1], curve[:-2])
        tangent = tangent / tangent.norm(dim=-1, keepdim=True)
        return (means - (means * tangent).sum(-1, keepdim=True) * tangent).norm(dim=-1)

    print(M, offset(1.0, 4.0), offset(0.1, 4.0), offset(0.0, 4.0))


def test_equal_spacing_survives_noise() -> None:
    M = Torus(2)
    line = torch.linspace(-1, 1, 30, dtype=torch.float64).unsqueeze(-1) * torch.tensor([1.0, 0.5])
    noisy = line + 0.02 * torch.randn(30, 2, generator=seeded(), dtype=torch.float64)
    gaps = M.dist(*(lambda x: (x[:-1], x[1:]))(equal_arc_length(M, noisy)))
    assert float((gaps / gaps.mean() - 1).abs().max()) < 1e-4
