"""Positive definite and correlation matrices: oracles, conventions, singular points, volumes, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.manifolds import SPD, Correlation, Hyperboloid, Manifold, geodesic_symmetry
from manifold_diffusion.manifolds._frechet import dexp, dlog, log_sinhc_pairs
from manifold_diffusion.manifolds._matrix import sym, sym_exp, sym_log
from manifold_diffusion.testing import check_manifold

from .draws import seeded

F32, F64 = torch.float32, torch.float64
METRICS = ["affine", "log_euclidean", "log_cholesky"]
MANIFOLDS = [*(SPD(3, m) for m in METRICS), Correlation(3), Correlation(4)]
every = pytest.mark.parametrize("M", MANIFOLDS, ids=repr)


def points(M: Manifold, n: int, seed: int = 0, spread: float = 0.8) -> Tensor:
    origin = M.origin(dtype=F64).expand(n, *M.point_shape)
    return M.exp(origin, spread * M.random_tangent(origin, seeded(seed)))


def rotations(n: int, size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(torch.randn(n, size, size, generator=seeded(seed), dtype=F64))[0]


# ---------------------------------------------------------------------- oracles and conventions


def test_geomstats_agrees():
    pytest.importorskip("geomstats")
    from geomstats.geometry.full_rank_correlation_matrices import (
        FullRankCorrelationMatrices,
        PolyHyperbolicCholeskyMetric,
    )
    from geomstats.geometry.positive_lower_triangular_matrices import CholeskyMetric, PositiveLowerTriangularMatrices
    from geomstats.geometry.spd_matrices import SPDAffineMetric, SPDLogEuclideanMetric, SPDMatrices

    def check(M: Manifold, metric, to=lambda a: a):
        x, y = points(M, 16, 1), points(M, 16, 2)
        gx, gy = (to(a).numpy() for a in (x, y))
        theirs = torch.as_tensor(np.asarray(metric.dist(point_a=gx, point_b=gy)))
        torch.testing.assert_close(M.dist(x, y), theirs, rtol=1e-10, atol=0)
        if to(x) is x:
            v = 0.5 * M.random_tangent(x, seeded(3))
            pairs = {
                "exp": (M.exp(x, v), metric.exp(tangent_vec=v.numpy(), base_point=gx)),
                "log": (M.log(x, y), metric.log(point=gy, base_point=gx)),
                "transport": (
                    M.transport(x, y, v),
                    metric.parallel_transport(tangent_vec=v.numpy(), base_point=gx, end_point=gy),
                ),
            }
            for name, (ours, other) in pairs.items():
                error = (ours - torch.as_tensor(np.asarray(other))).abs().max() / ours.abs().max()
                assert error <= 1e-10, f"{name} on {M}: {error:.1e}"

    for metric, ours in ((SPDAffineMetric, "affine"), (SPDLogEuclideanMetric, "log_euclidean")):
        space = SPDMatrices(3, equip=False)
        space.equip_with_metric(metric)
        check(SPD(3, ours), space.metric)
    triangles = PositiveLowerTriangularMatrices(3, equip=False)
    triangles.equip_with_metric(CholeskyMetric)
    check(SPD(3, "log_cholesky"), triangles.metric, torch.linalg.cholesky)
    correlations = FullRankCorrelationMatrices(3, equip=False)
    correlations.equip_with_metric(PolyHyperbolicCholeskyMetric)
    x, y = points(Correlation(3), 16, 1), points(Correlation(3), 16, 2)
    theirs = correlations.metric.dist(point_a=x.numpy(), point_b=y.numpy())
    torch.testing.assert_close(Correlation(3).dist(x, y), torch.as_tensor(theirs), rtol=1e-9, atol=0)


def test_the_affine_distance_does_not_see_a_congruence():
    x, y = points(SPD(3), 32, 1), points(SPD(3), 32, 2)
    g = torch.randn(32, 3, 3, generator=seeded(3), dtype=F64)
    torch.testing.assert_close(SPD(3).dist(g @ x @ g.mT, g @ y @ g.mT), SPD(3).dist(x, y), rtol=1e-8, atol=0)


def test_two_by_two_matrices_are_a_line_times_a_hyperbolic_plane():
    M, other = SPD(2), Hyperboloid(2)
    x, y = points(M, 32, 1), points(M, 32, 2)

    def plane(a: Tensor) -> tuple[Tensor, Tensor]:
        det = torch.det(a)
        a = a / det.sqrt()[:, None, None]
        entries = [(a[:, 0, 0] + a[:, 1, 1]) / 2, (a[:, 0, 0] - a[:, 1, 1]) / 2, a[:, 0, 1]]
        return det.log() / math.sqrt(2), torch.stack(entries, -1)

    (s, p), (t, q) = plane(x), plane(y)
    squared = (s - t).square() + 2 * other.dist(p, q).square()
    torch.testing.assert_close(M.dist(x, y), squared.sqrt(), rtol=1e-10, atol=0)


def test_two_correlations_are_as_far_apart_as_their_fisher_transforms():
    rho = torch.tensor([-0.99, -0.3, 0.0, 0.6, 0.9999], dtype=F64)
    x = torch.stack([torch.ones(5, dtype=F64), rho, rho, torch.ones(5, dtype=F64)], -1).reshape(5, 2, 2)
    z = torch.atanh(rho)
    torch.testing.assert_close(Correlation(2).dist(x[:, None], x), (z[:, None] - z).abs(), rtol=1e-11, atol=1e-14)


def test_correlation_of_any_size_obeys_the_laws_of_distances():
    check_manifold(Correlation(5), dtypes=[F64], laws=["exp_log_inverse", "basis_is_orthonormal", "transport_inverse"])
    names = ["exp_log_inverse", "isometries_commute", "laplacian_is_geodesic", "derivatives_are_right"]
    check_manifold(SPD(3, "log_euclidean"), laws=names)


@every
def test_geodesic_symmetry_turns_geodesics_around(M):
    symmetry = geodesic_symmetry(M)
    assert symmetry is not None
    x, y = points(M, 8, 1), points(M, 8, 2)
    v = M.random_tangent(y, seeded(3))
    image, moved = torch.func.jvp(lambda q: M.exp(x, -M.log(x, q)), (y,), (v,))
    torch.testing.assert_close(symmetry(x, y, v), (image, moved), rtol=1e-9, atol=1e-11)


# ---------------------------------------------------------------------- singular points


@every
def test_derivatives_are_right_at_repeated_eigenvalues(M):
    eye = torch.eye(M.point_shape[0], dtype=F64).expand(2, -1, -1)
    x = (2.0 * eye if isinstance(M, SPD) else eye).clone().requires_grad_()
    v = M.to_tangent(x.detach(), torch.randn(x.shape, generator=seeded(), dtype=F64)).requires_grad_()
    y = M.exp(x, 0.3 * v).detach().requires_grad_()
    for f, inputs in ((M.exp, (x, v)), (M.log, (x, y)), (M.dist, (x, y)), (M.norm, (x, v)), (M.log_det_exp, (x, v))):
        if f(*inputs).requires_grad:
            torch.autograd.gradcheck(f, inputs, fast_mode=True, atol=1e-5, rtol=1e-3)
            torch.autograd.gradgradcheck(f, inputs, fast_mode=True, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("spectrum", [[1.0, 1.0, 1.0], [1.0, 1 + 1e-9, 3.0], [1.0, 1.04, 1.08], [0.01, 0.01, 1.0]])
def test_derivatives_of_matrix_functions_are_right_to_third_order(spectrum):
    q = rotations(2, 3)
    a = sym((q * torch.tensor(spectrum, dtype=F64)) @ q.mT)
    u = sym(torch.randn(2, 3, 3, generator=seeded(1), dtype=F64))
    for f, whole, at in ((dexp, sym_exp, sym_log(a)), (dlog, sym_log, a)):
        torch.testing.assert_close(f(at, u), torch.func.jvp(whole, (at,), (u,))[1])
        inputs = (at.clone().requires_grad_(), u.clone().requires_grad_())
        torch.autograd.gradcheck(f, inputs, fast_mode=True, eps=1e-8, rtol=1e-3, atol=1e-4, check_forward_ad=True)
        torch.autograd.gradgradcheck(f, inputs, fast_mode=True, eps=1e-8, rtol=1e-3, atol=1e-3)
    logs = (sym_log(a).requires_grad_(),)
    torch.autograd.gradcheck(log_sinhc_pairs, logs, fast_mode=True)
    torch.autograd.gradgradcheck(log_sinhc_pairs, logs, fast_mode=True)


@pytest.mark.parametrize("metric", METRICS)
def test_condition_number_of_a_million_in_float32(metric):
    M, q = SPD(3, metric), rotations(64, 3)
    x = sym((q * torch.tensor([1e-3, 1.0, 1e3], dtype=F64)) @ q.mT).float()
    other = rotations(64, 3, 1)
    y = sym((other * torch.tensor([1e-3, 1e-3, 1e3], dtype=F64)) @ other.mT).float()
    truth = M.dist(x.double(), y.double())
    assert (M.dist(x, y) / truth - 1).abs().max() < 1e-6
    inputs = x.clone().requires_grad_(), y.clone().requires_grad_()
    for out in (M.dist(*inputs), M.log(*inputs), M.transport(*inputs, x), M.exp(inputs[0], M.log(x, y))):
        grads = torch.autograd.grad(out.sum(), inputs, allow_unused=True)
        assert all(bool(torch.isfinite(g).all()) for g in (out, *grads) if g is not None)


def test_a_matrix_that_is_not_finite_spoils_its_own_row_only():
    x = torch.eye(2).repeat(3, 1, 1)
    x[1, 0, 0] = math.nan
    d = SPD(2).dist(x, 2 * torch.eye(2))
    assert torch.isfinite(d).tolist() == [True, False, True]


# ---------------------------------------------------------------------- volumes, by quadrature


def grid(low: float, high: float, n: int, dims: int) -> tuple[Tensor, float]:
    line = torch.linspace(low, high, n, dtype=F64)
    nodes = torch.cartesian_prod(*[line] * dims)
    return nodes, float(line[1] - line[0]) ** dims


@pytest.mark.parametrize("metric", METRICS)
def test_volume_gives_the_multivariate_gamma_function(metric):
    # The integral of exp(-tr x) det(x)^(a - 3/2) over the entries of 2 x 2 matrices is
    # Gamma_2(a) = sqrt(pi) Gamma(a) Gamma(a - 1/2); the metric's volume is rho times that of the entries.
    M, a = SPD(2, metric), 3.0
    o = M.origin(dtype=F64)
    nodes, cell = grid(-7.0, 7.0, 61, 3)
    v = (M.tangent_basis(o) * nodes[:, :, None, None]).sum(1)
    at = o.expand_as(v)
    x = M.exp(at, v)
    det, lower = torch.det(x), torch.linalg.cholesky(x)
    gap = torch.linalg.eigvalsh(sym_log(x))
    half = ((gap[:, 1] - gap[:, 0]) / 2).clamp_min(1e-9)
    rho = {
        "affine": math.sqrt(2) * det**-1.5,
        "log_euclidean": math.sqrt(2) * det**-1.5 * half / half.sinh(),
        "log_cholesky": lower[:, 0, 0] ** -3 * lower[:, 1, 1] ** -2 / 4,
    }[metric]
    f = (-x.diagonal(dim1=-2, dim2=-1).sum(-1)).exp() * det ** (a - 1.5) / rho
    total = (f * M.log_det_exp(at, v).exp()).sum() * cell
    assert float(total) == pytest.approx(math.sqrt(math.pi) * math.gamma(a) * math.gamma(a - 0.5), rel=2e-6)


def test_volume_of_the_elliptope():
    # The entries of 3 x 3 correlation matrices fill the volume pi^2 / 2; the metric's density is det^(-3/2).
    M = Correlation(3)
    o = M.origin(dtype=F64)
    nodes, cell = grid(-12.0, 12.0, 61, 3)
    nodes = nodes[nodes.square().sum(-1) < 12.0**2]
    v = (M.tangent_basis(o) * nodes[:, :, None, None]).sum(1)
    at = o.expand_as(v)
    f = torch.det(M.exp(at, v)).clamp_min(0) ** 1.5 * M.log_det_exp(at, v).exp()
    assert float(f.sum() * cell) == pytest.approx(math.pi**2 / 2, rel=3e-4)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize("M", [SPD(2), SPD(2, "log_euclidean"), Correlation(2)], ids=repr)
def test_check_point_names_asymmetry_and_eigenvalue(M):
    x = torch.eye(2).repeat(3, 1, 1)
    x[1, 0, 1] += 1e-3
    with pytest.raises(ManifoldError, match=r"asymmetry .* = 1\.0e-03 > 1e-05 \(float32\), first at row 1.*project"):
        M.check_point(x)
    x = torch.eye(2, dtype=F64).repeat(3, 1, 1)
    x[2, 0, 1] = x[2, 1, 0] = 1.03
    with pytest.raises(ManifoldError, match=r"smallest eigenvalue -3\.0e-02, needed > .* 2\.0e\+00 .* row 2.*shrink"):
        M.check_point(x)
    x[2] = torch.ones(2, 2)  # singular: its logarithm is infinite
    with pytest.raises(ManifoldError, match=r"smallest eigenvalue .* first at row 2"):
        M.check_point(x)
    M.check_point(M.project(x))


def test_correlations_have_a_unit_diagonal():
    x = torch.eye(3).repeat(2, 1, 1)
    x[1, 2, 2] = 1.5
    with pytest.raises(ManifoldError, match=r"max \|x_ii - 1\| = 5\.0e-01 .* row 1"):
        Correlation(3).check_point(x)


def test_sizes_and_metrics_are_checked():
    for make in (lambda: SPD(0), lambda: Correlation(1), lambda: SPD(2, "bures")):  # pyright: ignore[reportArgumentType]
        with pytest.raises(ConfigError, match=r"n >= |metric='bures'"):
            make()
    assert repr(SPD(2, "log_cholesky")) == "SPD(2, 'log_cholesky')" and SPD(2) != SPD(2, "log_cholesky")
