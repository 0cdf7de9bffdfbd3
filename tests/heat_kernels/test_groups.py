"""Heat kernels of SO(n), U(n), SU(n) and rigid motions against multiprecision sums, identities and exact moments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CapabilityError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.heat_kernels._group_law import GroupLaw
from manifold_diffusion.manifolds import SO, SO3, SU, Sphere, U, divergence
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion

from .points import generator

F64 = torch.float64
Group = SO | SU | U
SMALL = [SO(2), SO(3), SO(4), SO(5), U(1), U(2), SU(2), SU(3)]
LARGE = [SO(6), SU(5), U(3)]


def element(group: Group, angles: list[float]) -> Tensor:
    """Block rotation or diagonal matrix with the given angles."""
    if isinstance(group, SO):
        omega = torch.zeros(group.n, group.n, dtype=F64)
        for k, a in enumerate(angles):
            omega[2 * k, 2 * k + 1], omega[2 * k + 1, 2 * k] = -a, a
        return torch.linalg.matrix_exp(omega)
    diagonal = torch.tensor(angles, dtype=F64)
    return group.from_matrix(torch.diag(torch.polar(torch.ones_like(diagonal), diagonal)))


def images(group: Group, angles: list[float], tau: float) -> float:
    """Log density by the sum over the unit lattice in several hundred digits, a hair off the walls."""
    law = GroupLaw(group)
    m, reach = law.roots.shape[1], 1 if tau < 0.2 else 2
    with mpmath.workdps(60 + 30 * len(law.roots)):
        hair = [mpmath.mpf(10) ** -25 * (k + 1) ** 2 for k in range(m)]
        theta = [mpmath.mpf(a) + h for a, h in zip(angles, hair, strict=True)]
        if isinstance(group, SU):
            mean = mpmath.fsum(theta) / m
            theta = [a - mean for a in theta]
        total, metric, time = mpmath.mpf(0), mpmath.mpf(law.metric), mpmath.mpf(tau)
        for k in itertools.product(range(-reach, reach + 1), repeat=m):
            if isinstance(group, SU) and sum(k):
                continue
            h = [a + 2 * mpmath.pi * j for a, j in zip(theta, k, strict=True)]
            factor = mpmath.exp(-metric * mpmath.fsum(a * a for a in h) / (2 * time))
            for root in law.roots.tolist():
                alpha = mpmath.fsum(int(c) * a for c, a in zip(root, h, strict=True)) / 2
                factor *= alpha / mpmath.sin(alpha)
            total += factor
        total *= mpmath.exp(law.rho_squared * time / 2) * (2 * mpmath.pi * time) ** (-mpmath.mpf(group.dim) / 2)
        return float(mpmath.log(total))


def so4_by_characters(a: float, b: float, tau: float) -> float:
    """Log density on SO(4) = (SU(2) x SU(2)) / {1, -1}: products of two sums over spins."""
    with mpmath.workdps(300):
        left, right = mpmath.mpf(a) + mpmath.mpf(b) + mpmath.mpf(10) ** -60, mpmath.mpf(a) - mpmath.mpf(b)
        right += mpmath.mpf(10) ** -61

        def spins(angle: Any, sign: int) -> Any:
            terms = (
                sign**k * (k + 1) * mpmath.sin((k + 1) * angle / 2) * mpmath.exp(-k * (k + 2) * mpmath.mpf(tau) / 4)
                for k in range(int(40 / math.sqrt(tau)))
            )
            return mpmath.fsum(terms) / mpmath.sin(angle / 2)

        total = sum(spins(left, s) * spins(right, s) for s in (1, -1)) / 2
        return float(mpmath.log(total / SO(4).volume))


def at_angles(group: Group, rows: list[list[float]], tau: float) -> Tensor:
    x = torch.stack([element(group, row) for row in rows])
    return heat_kernel(group).log_prob(x, group.identity(dtype=F64).expand_as(x), tau)


def close(got: Tensor, expected: list[float], limit: float = 1e-9) -> None:
    reference = torch.tensor(expected, dtype=F64)
    error = ((got - reference).abs() / (1 + reference.abs())).max()
    assert error <= limit, f"{float(error):.1e}"


# ---------------------------------------------------------------------- references


PI = math.pi
WALLS = {
    SO(4): [[0.0, 0.0], [0.7, 0.7], [2.0, 0.5], [PI, 0.3], [PI, PI], [1.0, 1.0 - 1e-7], [3.0, 0.1]],
    SO(5): [[0.0, 0.0], [0.9, 0.9], [PI, 0.0], [PI, PI], [2.9, 2.9]],
    SU(3): [[0.0, 0.0, 0.0], [0.5, 0.5, -1.0], [2 * PI / 3, 2 * PI / 3, -4 * PI / 3], [PI, -PI, 0.0], [2.0, 1.0, -3.0]],
    SU(2): [[0.0, 0.0], [PI, -PI], [3.1, -3.1]],
    U(2): [[0.0, 0.0], [PI, PI], [PI, 1.0], [2.0, 2.0]],
}


@pytest.mark.parametrize("tau", [1e-6, 0.02, 0.35])
@pytest.mark.parametrize("group", WALLS, ids=repr)
def test_images_against_multiprecision_at_repeated_eigenvalues(group: Group, tau: float) -> None:
    close(at_angles(group, WALLS[group], tau), [images(group, row, tau) for row in WALLS[group]])


@pytest.mark.parametrize("group", [SO(6), SU(4)], ids=repr)
def test_images_of_larger_groups(group: Group) -> None:
    rows = [[0.0] * 3, [1.0, 1.0, 0.0], [PI, PI, 0.5]]
    if isinstance(group, SU):
        rows = [[0.0] * 4, [PI / 2, PI / 2, PI / 2, -1.5 * PI], [1.0, 1.0, -1.0, -1.0]]
    close(at_angles(group, rows, 0.05), [images(group, row, 0.05) for row in rows])


@pytest.mark.parametrize("tau", [0.05, 0.99, 1.01, 4.0])
def test_so4_against_spins(tau: float) -> None:
    rows = [[0.0, 0.0], [0.7, 0.7], [2.0, 0.5], [PI, PI]]
    close(at_angles(SO(4), rows, tau), [so4_by_characters(a, b, tau) for a, b in rows])


@pytest.mark.parametrize("group", SMALL + LARGE, ids=repr)
def test_images_and_characters_agree_around_the_cross_over(group: Group) -> None:
    law = GroupLaw(group)
    log = group.spectral_log(group.identity(dtype=F64), group.random_uniform(30, generator=generator(), dtype=F64))
    angles = log.angles.sort(-1, descending=True).values[..., : law.weights.shape[1]]
    angles = torch.cat([angles, torch.zeros_like(angles[:1]), angles[:1] * 1e-7])
    for factor in (0.9, 1.0, 1.1):
        tau = torch.full((len(angles),), factor * law.cross_over, dtype=F64)
        assert (law.images(angles, tau) - law.series(angles, tau)).abs().max() <= 1e-11


@pytest.mark.parametrize("tau", [1e-6, 0.5, 3.0])
def test_so3_of_two_kinds_agree(tau: float) -> None:
    x, y = SO(3).random_uniform(64, generator=generator(), dtype=F64).chunk(2)
    ours, theirs = heat_kernel(SO(3)), heat_kernel(SO3())
    near = SO3().geodesic(x, y, 0.3)
    close(ours.log_prob(near, x, tau), theirs.log_prob(near, x, tau).tolist(), 1e-8)
    gap = ours.score(near, x, tau) - theirs.score(near, x, tau)
    assert (gap.abs() / theirs.score(near, x, tau).abs().amax((-2, -1), keepdim=True)).max() <= 1e-8


@pytest.mark.parametrize("tau", [0.1, 0.6, 3.0])
def test_su2_is_the_sphere(tau: float) -> None:
    x, y = SU(2).random_uniform(64, generator=generator(), dtype=F64).chunk(2)
    p, q = x[:, 0].flatten(1), y[:, 0].flatten(1)  # the first row of a matrix of SU(2) is a point of S^3
    close(heat_kernel(SU(2)).log_prob(x, y, tau), heat_kernel(Sphere(3)).log_prob(p, q, tau).tolist(), 1e-8)


def test_float32_agrees_with_float64() -> None:
    for group in (SO(4), SU(3)):
        kernel, x0 = heat_kernel(group), group.random_uniform(200, generator=generator())
        for tau in (1e-4, 1e-2, 0.3, 2.0):
            x = kernel.sample(x0, tau, generator(1))
            log_p, score = kernel.log_prob(x, x0, tau), kernel.score(x, x0, tau)
            exact, slope = kernel.log_prob(x.double(), x0.double(), tau), kernel.score(x.double(), x0.double(), tau)
            assert ((log_p - exact).abs() / (1 + exact.abs())).max() <= 1e-4
            assert (group.norm(x, score - slope.float()) / group.norm(x, slope.float())).median() <= 1e-5


# ---------------------------------------------------------------------- identities


@pytest.mark.parametrize("tau", [1e-3, 0.2, 2.0])
@pytest.mark.parametrize("group", [SO(2), SO(4), SO(5), SU(3), U(1), U(2)], ids=repr)
def test_heat_equation_and_score(group: Group, tau: float) -> None:
    kernel, x0 = heat_kernel(group), group.random_uniform(4, generator=generator(), dtype=F64)
    x = kernel.sample(x0, tau, generator(1))
    x[0] = x0[0]  # all eigenvalues repeat
    score, laplacian = divergence(group, lambda p: kernel.score(p, x0, tau), x)
    (slope,) = torch.autograd.grad(kernel.log_prob(leaf := x.clone().requires_grad_(), x0, tau).sum(), leaf)
    assert group.norm(x, group.to_tangent(x, 2 * slope) - score).max() <= 1e-9 / tau
    h = 1e-4 * tau
    rate = (kernel.log_prob(x, x0, tau + h) - kernel.log_prob(x, x0, tau - h)) / (2 * h)
    square = group.inner(x, score, score)
    assert ((rate - (laplacian + square) / 2).abs() / (1 + laplacian.abs() + square)).max() <= 1e-7


@pytest.mark.parametrize("group", [SO(4), U(2)], ids=repr)
def test_second_derivatives_of_log_prob(group: Group) -> None:
    x0 = group.random_uniform(1, generator=generator(), dtype=F64)
    x = heat_kernel(group).sample(x0, 0.3, generator(1)).requires_grad_()
    log_prob: Callable[[Tensor], Tensor] = lambda p: heat_kernel(group).log_prob(p, x0, 0.3)  # noqa: E731
    torch.autograd.gradcheck(log_prob, x, fast_mode=True, atol=1e-5)
    torch.autograd.gradgradcheck(log_prob, x, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("group", [SO(4), SU(3)], ids=repr)
def test_total_mass_and_semigroup(group: Group) -> None:
    """Under the uniform law the density times the volume has mean 1; a product of two has the mean of the semigroup."""
    kernel, one = heat_kernel(group), group.identity(dtype=F64)
    x = group.random_uniform(8000, generator=generator(3), dtype=F64)
    y = group.exp(one, 0.5 * group.tangent_basis(one)[0])
    tau = 0.8 / GroupLaw(group).rho_squared ** 0.5
    p, q = (kernel.log_prob(x, c, tau).exp() * group.volume for c in (one, y))
    both = (kernel.log_prob(y, one, 2 * tau).exp() * group.volume).item()
    for value, exact in ((p, 1.0), (p * q, both)):
        assert abs(value.mean() - exact) <= 5 * value.std() / len(x) ** 0.5


def test_score_at_repeated_eigenvalues_is_the_limit() -> None:
    for group, angles in ((SO(4), [0.7, 0.7]), (SU(3), [0.5, 0.5, -1.0]), (SO(4), [0.0, 0.0])):
        x0, x = group.identity(dtype=F64), element(group, angles)
        near = group.exp(x, 1e-7 * group.random_tangent(x, generator()))
        kernel = heat_kernel(group)
        assert (kernel.score(x, x0, 0.2) - kernel.score(near, x0, 0.2)).abs().max() <= 1e-5


# ---------------------------------------------------------------------- samples


def moments(group: Group, x: Tensor) -> dict[float, Tensor]:
    """Characters of the defining representation and of the adjoint one over their dimensions, by eigenvalue."""
    a, n = group.matrix(x), group.n
    trace = a.diagonal(0, -2, -1).sum(-1)
    if isinstance(group, SO):
        square = (a @ a).diagonal(0, -2, -1).sum(-1)
        return {n - 1.0: trace / n, 2 * (n - 2.0): (trace**2 - square) / (n * (n - 1))}
    standard = 2 * n * 1.0 if isinstance(group, U) else 2 * (n - 1 / n)
    return {standard: trace.real / n, 4.0 * n: (trace.abs() ** 2 - 1) / (n * n - 1)}


@pytest.mark.parametrize("tau", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("group", [SO(4), SO(6), SU(3), U(2)], ids=repr)
def test_samples_have_exact_moments(group: Group, tau: float) -> None:
    one = group.identity(dtype=F64).expand(4000, *group.point_shape)
    x = heat_kernel(group).sample(one, tau, generator(5))
    group.check_point(x)
    for eigenvalue, character in moments(group, x).items():
        z = (character.mean() - math.exp(-eigenvalue * tau / 2)) / (character.std() / 4000**0.5)
        assert abs(z) <= 5, f"eigenvalue {eigenvalue}: z = {float(z):.1f}"


def test_a_gaussian_without_rejection_fails_the_moments() -> None:
    group, tau = SO(4), 0.3
    one = group.identity(dtype=F64).expand(10_000, 4, 4)
    x = group.exp(one, tau**0.5 * group.random_tangent(one, generator(5)))
    scores = [abs(c.mean() - math.exp(-e * tau / 2)) / (c.std() / 100) for e, c in moments(group, x).items()]
    assert max(scores) > 5


def test_samples_of_mixed_times_and_shapes() -> None:
    group = SO(4)
    x0 = group.random_uniform(6, generator=generator()).reshape(2, 3, 4, 4)
    tau = torch.tensor([[1e-6, 1e-3, 0.1], [0.5, 2.0, 9.0]])
    x = heat_kernel(group).sample(x0, tau, generator(1))
    assert x.shape == x0.shape and x.dtype == x0.dtype
    assert group.dist(x, x0)[0, 0] < 0.02
    assert heat_kernel(group).sample(x0[:0], 0.1).shape == (0, 3, 4, 4)


# ---------------------------------------------------------------------- use


@pytest.mark.parametrize("group", [SO(4), SU(3)], ids=repr)
def test_a_model_trains_on_it(group: Group, tmp_path) -> None:
    x = group.random_uniform(64, generator=generator())
    process = BrownianMotion(group)
    model = RiemannianDiffusion(group, process, TangentMLP(process, width=32, depth=2))
    model.fit(x, max_steps=3, batch_size=32, out_dir=tmp_path)
    group.check_point(model.sample(2, generator=generator()))
    assert bool(torch.isfinite(model.log_prob(x[:2], tolerance=1e-2)).all())


@pytest.mark.parametrize("group", [SO(7), SU(7), U(5)], ids=repr)
def test_sizes_that_are_not_verified_are_refused(group: Group) -> None:
    with pytest.raises(CapabilityError, match="n <= "):
        heat_kernel(group)
