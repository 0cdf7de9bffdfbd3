"""Minimum-energy paths that are known, their symmetry, flows, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError, NumericsError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SE3N, SO3, SPD, Euclidean, Manifold, Power, Product, Sphere, Torus
from manifold_diffusion.solvers import ConstantSteps, DiffusionString, GeodesicRK4, find_saddle, integrate

from .flows import GROWTH, brownian_time, conformal, seeded
from .valleys import TH0, B, bent_start, colatitude, latitude_energy, latitude_force, latitude_string


@pytest.mark.parametrize(("n", "error"), [(20, 1e-5), (40, 3e-6), (80, 3e-6)])
def test_the_path_is_the_circle_of_latitude(n: int, error: float) -> None:
    path = latitude_string().relax(bent_start(), step=0.01, n_nodes=n)
    assert path.converged and path.spacing < 1e-4
    assert float((colatitude(path.nodes) - TH0).abs().max()) < error
    assert path.saddle is not None and max(abs(b - 2 * B) for b in path.saddle.barriers) < 1e-6
    assert abs(path.saddle.position - (n - 1) / 2) < 1e-3
    assert abs(path.length / (math.pi * math.sin(TH0)) - 1) < 0.15 / n**2
    assert path.history[-1] < 1e-7 < path.history[0]


def test_piecewise_geodesics_cut_the_corner() -> None:
    """The control: order 1 leaves an error of second order in the spacing."""
    string = DiffusionString(Sphere(2), score=latitude_force, order=1)
    errors = [
        float((colatitude(string.relax(bent_start(), step=0.01, n_nodes=n).nodes) - TH0).abs().max()) for n in (40, 80)
    ]
    assert errors[0] > 3e-4 > 2 * errors[1] / 2 > 1e-4


def test_float32_and_free_ends() -> None:
    start = bent_start().float()
    start = Sphere(2).geodesic(start, start[1].expand(3, 3), 0.1)  # the ends are not at the minima
    path = latitude_string().relax(start, step=0.01, n_nodes=40, free_ends=True)
    assert path.nodes.dtype == torch.float32 and path.converged and path.spacing < 1e-4
    assert float((colatitude(path.nodes) - TH0).abs().max()) < 2e-5
    assert path.saddle is not None and max(abs(b - 2 * B) for b in path.saddle.barriers) < 2e-5


def turned(x: Tensor, turn: Tensor) -> Tensor:
    return x @ turn.mT


def test_a_turned_problem_has_the_turned_path() -> None:
    M, turn = Sphere(2), SO3().random_uniform(1, generator=seeded(), dtype=torch.float64)[0]
    other = DiffusionString(
        M,
        score=lambda t, x: turned(latitude_force(t, turned(x, turn.mT)), turn),
        log_prob=lambda x: -latitude_energy(turned(x, turn.mT)),
    )
    here = latitude_string().relax(bent_start(), step=0.01, n_nodes=30, max_iterations=48)
    there = other.relax(turned(bent_start(), turn), step=0.01, n_nodes=30, max_iterations=48)
    assert torch.allclose(turned(here.nodes, turn), there.nodes, atol=1e-8)
    assert here.energy is not None and there.energy is not None
    assert torch.allclose(here.energy, there.energy, atol=1e-8)


def two_wells(M: Manifold, distance: float, tau: float) -> tuple[HeatKernelMixture, Tensor]:
    """Equal kernels about two points; all is symmetric about the geodesic through them, which the path must be."""
    x = M.origin(torch.float64)
    v = M.random_tangent(x, generator=seeded(1))
    v = distance * v / M.per_point(M.norm(x, v))
    along = torch.linspace(0, 1, 4001, dtype=torch.float64)
    line = M.exp(x.expand(4001, *M.point_shape), M.per_point(along) * v)
    return HeatKernelMixture(M, torch.stack([line[0], line[-1]]), tau), line


@pytest.mark.parametrize(
    ("M", "distance", "tau"),
    [(Sphere(2), 2.0, 0.15), (Torus(2), 2.0, 0.15), pytest.param(SO3(), 1.6, 0.12, marks=pytest.mark.slow)],
    ids=str,
)
def test_two_wells(M: Manifold, distance: float, tau: float) -> None:
    """Barrier of a mixture, against the energy along the symmetric geodesic."""
    law, line = two_wells(M, distance, tau)
    string = DiffusionString(M, score=lambda t, x: law.score(x), log_prob=law.log_prob)
    middle = line[2000]
    side = M.exp(middle, 0.15 * M.tangent_basis(middle)[0])  # not the geodesic to start with
    path = string.relax(torch.stack([line[0], side, line[-1]]), step=0.1, n_nodes=24, free_ends=True)
    energy = -law.log_prob(line)
    barrier = float(energy.max() - energy.min())
    assert path.converged and path.saddle is not None and barrier > 0.5
    assert max(abs(b - barrier) for b in path.saddle.barriers) < 1e-6
    assert float(M.dist(path.saddle.x, middle)) < 1e-4
    assert float(M.dist(path.nodes.unsqueeze(1), line[::10]).amin(1).max()) < 3e-3  # half a step of the comparison


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("M", [SE3N(2), SPD(2), Power(Torus(1), 3), Product(Sphere(2), Euclidean(2))], ids=str)
def test_strings_fall_onto_a_geodesic_of_a_quadratic_valley(M: Manifold, dtype: torch.dtype) -> None:
    """V = d(x, c)^2 / 2 pulls everything to c: the path between opposite points is the geodesic through c."""
    c = M.origin(dtype)
    v = M.random_tangent(c, generator=seeded(2))
    v = 0.8 * v / M.per_point(M.norm(c, v))
    w = M.random_tangent(c, generator=seeded(5))
    side = M.exp(c, 0.3 * w / M.per_point(M.norm(c, w)))
    string = DiffusionString(
        M, score=lambda t, x: M.log(x, c.expand_as(x)), log_prob=lambda x: -M.dist(x, c.expand_as(x)).square() / 2
    )
    start = torch.stack([M.exp(c, -v), side, M.exp(c, v)])
    path = string.relax(start, step=0.3, n_nodes=11)
    assert path.converged and path.saddle is not None
    line = M.exp(c.expand(11, *M.point_shape), M.per_point(torch.linspace(-1, 1, 11, dtype=dtype)) * v)
    assert float(M.dist(path.nodes, line).max()) < (1e-4 if dtype == torch.float64 else 2e-3)
    assert path.saddle.index in (0, 10) and abs(min(path.saddle.barriers)) < 1e-6


def test_without_score_the_string_is_the_image_of_the_geodesic() -> None:
    flow = conformal()
    M, x = flow.manifold, flow.x
    path = DiffusionString(M, velocity=flow.term.velocity).evolve(x[0], x[1], n_nodes=40, steps=60)
    assert torch.allclose(path.nodes[[0, -1]], x[:2], atol=1e-14) and path.spacing < 1e-4
    assert path.energy is None and path.converged is None
    with pytest.raises(ConfigError, match="no energies"):
        path.barriers  # noqa: B018
    ends = integrate(flow.term, M, x[:2], 0.0, 1.0, GeodesicRK4(), ConstantSteps(200)).x
    s = torch.linspace(0, 1, 4001, dtype=torch.float64)
    line = M.geodesic(ends[:1].expand(4001, 3), ends[1:].expand(4001, 3), s)
    image = integrate(flow.term, M, line, 1.0, 0.0, GeodesicRK4(), ConstantSteps(200)).x
    near = M.dist(path.nodes.unsqueeze(1), image).argmin(1).clamp(1, 3999)
    a, b = image[near - 1], image[near + 1]
    normal = M.project(torch.linalg.cross(a, b))
    assert float((path.nodes * normal).sum(-1).abs().max()) < 2e-6  # distance from the image


def diffusing(M: Manifold, law: HeatKernelMixture) -> DiffusionString:
    """Velocity and score of the exact diffusion of a mixture."""

    def score(t: Tensor, x: Tensor) -> Tensor:
        return law.score(x, brownian_time(t))

    def velocity(t: Tensor, x: Tensor) -> Tensor:
        return -M.per_point(GROWTH * brownian_time(t) / 2) * score(t, x)

    return DiffusionString(M, velocity, score, lambda x: law.log_prob(x, brownian_time(torch.tensor(0.0))))


@pytest.mark.slow
def test_strong_score_leads_to_the_path_of_the_data() -> None:
    """From noise to data with large g: close to the static path between the same points, transport is not."""
    M = Sphere(2)
    centres = M.project(torch.tensor([[1.0, 0.0, 0.3], [0.0, 1.0, -0.2], [-0.5, 0.5, 0.7]], dtype=torch.float64))
    law = HeatKernelMixture(M, centres, 0.1, torch.tensor([0.4, 0.4, 0.2]))
    string = diffusing(M, law)
    still = string.relax(centres[:2], step=0.05, n_nodes=16)
    assert still.saddle is not None

    def g(t: Tensor, x: Tensor) -> Tensor:
        return M.per_point((20 * GROWTH * (brownian_time(t) + 0.01)).sqrt())

    far = {}
    for name, strength in (("transport", 0.0), ("strong", g)):
        path = string.evolve(centres[0], centres[1], n_nodes=16, steps=60, g=strength)
        assert torch.allclose(path.nodes[[0, -1]], centres[:2], atol=1e-14)
        far[name] = float(M.dist(path.nodes, still.nodes).max())
        if name == "strong":
            assert path.saddle is not None and abs(path.saddle.barriers[0] - still.saddle.barriers[0]) < 1e-2
    assert far["strong"] < 0.03 < 0.06 < far["transport"]


def test_via_chooses_the_way_round() -> None:
    """Two modes of a torus that are nearer to each other the other way round once they are noise."""
    M = Torus(2)
    ends = torch.tensor([[-0.9, 0.0], [0.9, 0.0]], dtype=torch.float64)
    string = diffusing(M, HeatKernelMixture(M, torch.cat([ends, ends.mean(0, keepdim=True)]), 0.05))
    lengths = [string.evolve(*ends, n_nodes=9, steps=20, via=via).length for via in (None, torch.zeros(1, 2).double())]
    assert lengths[0] > 4 > 2 > lengths[1]


def test_the_ends_are_the_given_points_and_the_seed_decides() -> None:
    law, line = two_wells(Torus(2), 2.0, 0.15)
    string = diffusing(law.manifold, law)
    runs = [
        string.evolve(
            *line[[0, -1]], n_nodes=8, steps=6, g=1.0, temperature=1.0, n_walkers=4, generator=seeded(s)
        ).nodes
        for s in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.allclose(runs[0], runs[2])
    assert torch.allclose(runs[2][[0, -1]], line[[0, -1]], atol=1e-14)


def test_too_large_a_step_is_told() -> None:
    string = latitude_string()
    for step, limit, words in ((0.05, 200, "step is too large"), (0.1, 64, "still moves"), (1.0, 64, "fell apart")):
        with pytest.raises(NumericsError, match=words):
            string.relax(bent_start(), step=step, n_nodes=40, max_iterations=limit)
    assert string.relax(bent_start(), step=1e-4, n_nodes=40, max_iterations=20).converged is False


def test_nan_is_raised_with_its_place() -> None:
    def broken(t: Tensor, x: Tensor) -> Tensor:
        force = latitude_force(t, x)
        return torch.where(((colatitude(x) - TH0).abs() < 0.1)[..., None], torch.nan, force)

    with pytest.raises(NumericsError, match=r"Node \d+ of 10 became NaN or infinite at iteration \d"):
        DiffusionString(Sphere(2), score=broken).relax(_beyond(), step=0.01, n_nodes=10)
    for value in (math.nan, math.inf):
        string = DiffusionString(Sphere(2), score=latitude_force, log_prob=lambda x, v=value: x[:, 2] - v)
        with pytest.raises(NumericsError, match=r"energy is (nan|inf) at 10 of 10 points .*first at row 0"):
            string.relax(bent_start(), step=0.01, n_nodes=10)


@pytest.mark.parametrize("top", [0.05, 0.95])
def test_a_top_next_to_an_end_is_found(top: float) -> None:
    nodes = torch.linspace(0, 1, 5, dtype=torch.float64).unsqueeze(-1)
    saddle = find_saddle(Euclidean(1), nodes, lambda x: -10 * (-(((x[:, 0] - top) / 0.06) ** 2)).exp())
    assert abs(saddle.energy - 10) < 0.01 and abs(float(saddle.x) - top) < 1e-3
    slope = find_saddle(Euclidean(1), nodes, lambda x: x[:, 0])
    assert slope.position == 0 and slope.barriers == (0.0, 1.0)


def _beyond() -> Tensor:
    x = bent_start()
    return Sphere(2).geodesic(x, x.new_tensor([0.0, 0.0, -1.0]).expand(3, 3), 0.2)


def test_bad_input_is_refused() -> None:
    M, string, x = Sphere(2), latitude_string(), bent_start()
    flow = DiffusionString(M, velocity=lambda t, x: torch.zeros_like(x))
    both = DiffusionString(M, lambda t, x: torch.zeros_like(x), latitude_force)
    with pytest.raises(ManifoldError, match="start is not on"):
        string.relax(1.1 * x, step=0.01)
    with pytest.raises(ConfigError, match="at least 3 nodes"):
        string.relax(x, step=0.01, n_nodes=2)
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="step > 0"):
            string.relax(x, step=step)
    with pytest.raises(ConfigError, match=r"whole number; got 24\.0"):
        string.relax(x, step=0.01, n_nodes=24.0)  # pyright: ignore[reportArgumentType]
    for t in (5.0, -0.1, math.nan):
        with pytest.raises(ConfigError, match=r"time in \[0, 1\]"):
            string.relax(x, step=0.01, t=t)
    with pytest.raises(ConfigError, match="temperature must be"):
        string.relax(x, step=0.01, temperature=-1.0)
    with pytest.raises(ConfigError, match=r"rate in \(0, 1\]"):
        string.relax(x, step=0.01, temperature=1.0, rate=0.0)
    with pytest.raises(ConfigError, match="tolerance"):
        string.relax(x, step=0.01, tolerance=0.0)
    with pytest.raises(ManifoldError, match=r"score has shape \(50, 2\)"):
        DiffusionString(M, score=lambda t, x: x[..., :2]).relax(x, step=0.01)
    with pytest.raises(ManifoldError, match="not tangent"):
        DiffusionString(M, score=lambda t, x: x).relax(x, step=0.01)
    with pytest.raises(ConfigError, match=r"log_prob must give one number per point"):
        DiffusionString(M, score=latitude_force, log_prob=lambda x: x).relax(x, step=0.01, n_nodes=10)
    law = HeatKernelMixture(Torus(2), torch.zeros(1, 2), 0.1)
    with pytest.raises(ConfigError, match=r"belongs to Torus\(2\)"):
        DiffusionString(M, score=latitude_force, log_prob=law.log_prob)
    with pytest.raises(ConfigError, match="velocity, a score or both"):
        DiffusionString(M)
    with pytest.raises(ConfigError, match="order must be"):
        DiffusionString(M, score=latitude_force, order=4)
    with pytest.raises(CapabilityError, match="needs a velocity"):
        string.evolve(x[0], x[2])
    with pytest.raises(CapabilityError, match="pure transport only"):
        flow.evolve(x[0], x[2], g=1.0)
    with pytest.raises(CapabilityError, match="needs a score"):
        flow.relax(x, step=0.01)
    with pytest.raises(ConfigError, match="has no effect with g=0"):
        both.evolve(x[0], x[2], temperature=1.0)
    with pytest.raises(ConfigError, match="g must be finite"):
        both.evolve(x[0], x[2], g=-1.0)
    with pytest.raises(ConfigError, match="single point"):
        both.evolve(x, x[2])
    with pytest.raises(ConfigError, match="coincide"):
        both.evolve(x[0], x[0])
    with pytest.raises(ConfigError, match=r"via has shape \(3,\)"):
        both.evolve(x[0], x[2], via=x[1])
    with pytest.raises(ConfigError, match="steps >= 1"):
        both.evolve(x[0], x[2], steps=0)
