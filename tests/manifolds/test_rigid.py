"""SE(3) and chains of frames: layout, group, centring, heat kernels and bad input."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.manifolds import SE3, SE3N, SO3, Euclidean, LieGroup, Product, divergence, geodesic_symmetry
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.processes import BrownianMotion, LogSchedule
from manifold_diffusion.testing import check_manifold

from .draws import seeded

F64 = torch.float64
MANIFOLDS = [SE3(), SE3N(3), SE3N(3, centred=True)]
Poses = SE3 | SE3N
every = pytest.mark.parametrize("M", MANIFOLDS, ids=repr)


def poses(M: Poses, n: int, seed: int = 0) -> torch.Tensor:
    origin = M.origin(dtype=F64).expand(n, *M.point_shape)
    return M.exp(origin, 1.3 * M.random_tangent(origin, seeded(seed)))


def test_laws_of_the_uncentred_chain() -> None:
    check_manifold(SE3N(2), dtypes=(F64,))


def test_geometry_is_that_of_the_product() -> None:
    M, product = SE3(), Product(SO3(), Euclidean(3))
    x, y = poses(M, 20), poses(M, 20, 1)
    v = M.random_tangent(x, seeded(2))
    for name, args in {"exp": (x, v), "log": (x, y), "dist": (x, y), "transport": (x, y, v), "norm": (x, v)}.items():
        torch.testing.assert_close(getattr(M, name)(*args), getattr(product, name)(*args))


def test_homogeneous_matrices_are_a_homomorphism() -> None:
    M = SE3()
    x, y = poses(M, 5), poses(M, 5, 1)
    a, b = M.to_homogeneous(x), M.to_homogeneous(y)
    torch.testing.assert_close(M.to_homogeneous(M.compose(x, y)), a @ b)
    torch.testing.assert_close(M.to_homogeneous(M.inverse(x)), torch.linalg.inv(a))
    assert torch.equal(M.from_homogeneous(a), x)
    torch.testing.assert_close(M.compose(x, M.inverse(x)), M.identity(dtype=F64).expand_as(x))


def test_left_translations_are_isometries_and_right_ones_are_not() -> None:
    M = SE3()
    x, y, z = poses(M, 5), poses(M, 5, 1), poses(M, 5, 2)
    torch.testing.assert_close(M.dist(M.compose(z, x), M.compose(z, y)), M.dist(x, y))
    assert (M.dist(M.compose(x, z), M.compose(y, z)) - M.dist(x, y)).abs().min() > 1e-3
    assert not isinstance(M, LieGroup)  # which promises a bi-invariant metric


def test_a_chain_moves_rigidly() -> None:
    M, motion = SE3N(4), poses(SE3(), 1)[0]
    x, y = poses(M, 3), poses(M, 3, 1)
    torch.testing.assert_close(M.dist(M.compose(motion, x), M.compose(motion, y)), M.dist(x, y))


def test_the_centre_of_mass_stays() -> None:
    M = SE3N(4, centred=True)
    x = poses(M, 6)
    path = heat_kernel(M).sample_with_score(x, 0.3, seeded())
    v = M.from_frame(x, torch.randn(6, M.frame_dim, dtype=F64, generator=seeded()))
    for part in (path.x, path.score, v, M.log(x, path.x), M.tangent_basis(x)[:, 0], M.project(torch.randn_like(x))):
        assert M.split(part)[1].mean(-2).abs().max() <= 1e-14
    assert M.dim == M.tangent_basis(x).shape[1] == 21


@every
def test_symmetry_is_the_geodesic_one(M: Poses) -> None:
    symmetry = geodesic_symmetry(M)
    assert symmetry is not None
    x = poses(M, 4)
    y = M.exp(x, 0.4 * M.random_tangent(x, seeded(1)))
    u = M.random_tangent(y, seeded(2))
    image, vector = symmetry(x, y, u)
    torch.testing.assert_close(image, M.exp(x, -M.log(x, y)))
    M.check_tangent(image, vector)
    torch.testing.assert_close(M.norm(image, vector), M.norm(y, u))


# ---------------------------------------------------------------------- heat kernels


@pytest.mark.parametrize("tau", [1e-3, 0.3, 4.0])
@every
def test_heat_equation_and_score(M: Poses, tau: float) -> None:
    kernel, x0 = heat_kernel(M), poses(M, 3)
    path = kernel.sample_with_score(x0, tau, seeded(1))
    score, laplacian = divergence(M, lambda p: kernel.score(p, x0, tau), path.x)
    (slope,) = torch.autograd.grad(kernel.log_prob(leaf := path.x.clone().requires_grad_(), x0, tau).sum(), leaf)
    scale = torch.cat([torch.full((9,), 2.0, dtype=F64), torch.ones(3, dtype=F64)])  # the metric halves the entries
    assert M.norm(path.x, M.to_tangent(path.x, scale * slope) - score).max() <= 1e-6 / tau
    assert M.norm(path.x, path.score - score).max() <= 1e-6 / tau
    h = 1e-4 * tau
    rate = (kernel.log_prob(path.x, x0, tau + h) - kernel.log_prob(path.x, x0, tau - h)) / (2 * h)
    square = M.inner(path.x, score, score)
    assert ((rate - (laplacian + square) / 2).abs() / (1 + laplacian.abs() + square)).max() <= 1e-5


def test_density_is_that_of_the_product() -> None:
    x, x0 = poses(SE3N(3), 4), poses(SE3N(3), 4, 1)
    product = heat_kernel(Product(SO3(), Euclidean(3))).log_prob(x, x0, 0.4).sum(-1)
    torch.testing.assert_close(heat_kernel(SE3N(3)).log_prob(x, x0, 0.4), product)


def test_centred_density_is_the_other_without_the_centre() -> None:
    """p(x) = p(x - mean) N(mean; 0, tau / n) n^{-3/2}: the shift by a mean m has length sqrt(n) |m|."""
    free, centred, tau, n = SE3N(3), SE3N(3, centred=True), 0.4, 3
    x, x0 = poses(free, 4), poses(centred, 4, 1)
    mean = free.split(x)[1].mean(-2)
    shift = n * mean.square().sum(-1) / (2 * tau) + 1.5 * math.log(2 * math.pi * tau)
    inner = heat_kernel(centred).log_prob(centred.project(x), x0, tau)
    torch.testing.assert_close(heat_kernel(free).log_prob(x, x0, tau), inner - shift)


@every
def test_samples_have_exact_moments(M: Poses) -> None:
    n, tau = 20_000, 0.4
    x0 = poses(M, 1).expand(n, *M.point_shape)
    x = heat_kernel(M).sample(x0, torch.full((n,), tau, dtype=F64), seeded(2))
    (r, p), (r0, p0) = M.split(x), M.split(x0)
    trace = (r * r0).sum((-2, -1)) / 3 - math.exp(-tau)
    flat = M.dim - 3 * (math.prod(M.point_shape) // 12)
    square = (p - p0).square().flatten(1).sum(-1) / (flat * tau) - 1
    for values in (trace.reshape(n, -1).mean(-1), square):
        assert abs(values.mean()) <= 5 * values.std() / n**0.5
    wrong = square + 1 - 1.1
    assert abs(wrong.mean()) > 5 * wrong.std() / n**0.5


@every
def test_a_model_trains_on_it(M: Poses, tmp_path) -> None:
    x = poses(M, 64).float()
    process = BrownianMotion(M, LogSchedule(1e-3, 5.0))
    model = RiemannianDiffusion(M, process, TangentMLP(process, width=32, depth=2))
    model.fit(x, max_steps=3, batch_size=32, out_dir=tmp_path)
    M.check_point(model.sample(2, generator=seeded()))
    assert bool(torch.isfinite(model.log_prob(x[:2], tolerance=1e-2)).all())


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("n", "centred"), [(0, False), (1, True), (2.0, False), (True, False)])
def test_bad_sizes_are_refused(n: object, centred: bool) -> None:
    with pytest.raises(ConfigError, match="n_residues >="):
        SE3N(n, centred=centred)  # pyright: ignore[reportArgumentType]


def test_points_off_the_space_are_named() -> None:
    x = poses(SE3N(3), 2)
    with pytest.raises(ManifoldError, match=r"mean of the translations.*project"):
        SE3N(3, centred=True).check_point(x)
    x[1, 2, 0] += 0.1
    with pytest.raises(ManifoldError, match="row 1"):
        SE3N(3).check_point(x)
    with pytest.raises(ManifoldError, match=r"\(\.\.\., 4, 4\)"):
        SE3().from_homogeneous(torch.eye(3))
