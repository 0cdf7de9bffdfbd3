"""Subspaces: oracles, derivatives at repeated angles, the cut locus, the uniform law and the volume."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.manifolds import Grassmann, Manifold, Sphere, geodesic_symmetry
from manifold_diffusion.manifolds._frames import complement, orthonormal
from manifold_diffusion.manifolds._matrix import sym, sym_arccos_over_sine, sym_cos_sinc

from .draws import seeded

F32, F64 = torch.float32, torch.float64
SIZES = [(2, 1), (3, 1), (4, 2), (5, 3), (7, 2)]


def with_angles(n: int, p: int, angles: list[float], count: int = 2, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Frames of subspaces, and tangent vectors whose geodesics turn them by the given principal angles."""
    q = Grassmann(n + 1, n).random_uniform(count, generator=seeded(1), dtype=F64)[..., :n, :]
    q = torch.linalg.qr(q)[0]
    inner, outer = (torch.linalg.qr(torch.randn(count, p, p, generator=seeded(s), dtype=F64))[0] for s in (2, 3))
    m = min(p, n - p)
    theta = torch.zeros(n - p, p, dtype=F64)
    theta[range(m), range(m)] = torch.tensor(angles, dtype=F64)
    return (q[..., :p] @ outer).to(dtype), (q[..., p:] @ theta @ inner @ outer).to(dtype)


# ---------------------------------------------------------------------- matrix functions

FUNCTIONS = {
    "cos": (lambda a: sym_cos_sinc(a)[0], lambda e: e.sqrt().cos()),
    "sinc": (lambda a: sym_cos_sinc(a)[1], lambda e: torch.special.sinc(e.sqrt() / math.pi)),
    "arccos / sine": (lambda a: sym_arccos_over_sine(a / 3), lambda e: (e / 3).arccos() / (1 - (e / 3) ** 2).sqrt()),
}
SPECTRA = [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [2.4, 2.4 + 1e-9, 0.3], [0.5, 0.54, 0.58], [2.999, 1.0, 2.2]]


def rotated(spectrum: list[float]) -> Tensor:
    q = torch.linalg.qr(torch.randn(2, 3, 3, generator=seeded(), dtype=F64))[0]
    return sym((q * torch.tensor(spectrum, dtype=F64)) @ q.mT)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
def test_matrix_functions_and_their_derivatives(name: str, spectrum: list[float]) -> None:
    f, scalar = FUNCTIONS[name]
    a = rotated(spectrum).requires_grad_()
    expected = scalar(torch.tensor(spectrum, dtype=F64)).sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(f(a))[0], expected, rtol=1e-13, atol=1e-13)
    torch.autograd.gradcheck(f, (a,), check_forward_ad=True, fast_mode=True)
    torch.autograd.gradgradcheck(f, (a,), fast_mode=True)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0 + 1e-9), (0.999, 1.001), (30.0, 30.05), (0.0, 200.0)])
def test_divided_differences_against_multiprecision(low: float, high: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    from manifold_diffusion.manifolds._matrix import _COS, _SINC

    a, b, c = low, high, (low + high) / 2
    with mpmath.workdps(60):
        for ours, f in ((_COS, lambda s: mpmath.cos(mpmath.sqrt(s))), (_SINC, lambda s: mpmath.sinc(mpmath.sqrt(s)))):

            def first(u, v, f=f):
                return (f(mpmath.mpf(u)) - f(mpmath.mpf(v))) / (mpmath.mpf(u) - mpmath.mpf(v))

            second = (first(a, c) - first(c, b)) / (mpmath.mpf(a) - mpmath.mpf(b))
            args = [torch.tensor(v, dtype=F64) for v in (a, b, c)]
            assert float(ours.first(*args[:2])) == pytest.approx(float(first(a, b)), rel=1e-11, abs=1e-13)
            assert float(ours.second(*args)) == pytest.approx(float(second), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_complement_is_orthonormal_at_any_frame(n: int, p: int) -> None:
    m = Grassmann(n, p)
    special = torch.eye(n, dtype=F64)[:, -p:]
    x = torch.cat(
        [m.random_uniform(20, generator=seeded(), dtype=F64), special[None], -special[None], special.flip(0)[None]]
    )
    frame = torch.cat([x, complement(x)], -1)
    torch.testing.assert_close(frame.mT @ frame, torch.eye(n, dtype=F64).expand(len(x), n, n), atol=1e-14, rtol=0)


def test_orthonormal_is_the_polar_factor() -> None:
    a = torch.randn(50, 5, 3, generator=seeded(), dtype=F64)
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    torch.testing.assert_close(orthonormal(a), u @ vh, atol=1e-10, rtol=0)
    torch.autograd.gradcheck(orthonormal, (torch.eye(4, 2, dtype=F64).requires_grad_(),), fast_mode=True)


# ---------------------------------------------------------------------- oracles


def test_geomstats_agrees() -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.grassmannian import Grassmannian

    m, space = Grassmann(5, 2), Grassmannian(5, 2)
    x = m.random_uniform(16, generator=seeded(1), dtype=F64)
    v = 0.5 * m.random_tangent(x, generator=seeded(2))
    y = m.exp(x, v)

    def projector(a: Tensor) -> Tensor:
        return a @ a.mT

    def lifted(a: Tensor, u: Tensor) -> Tensor:
        return u @ a.mT + a @ u.mT

    gx, gy, gv = (gs.array(a.numpy()) for a in (projector(x), projector(y), lifted(x, v)))
    pairs = {
        "exp": (projector(y), space.metric.exp(tangent_vec=gv, base_point=gx)),
        "log": (lifted(x, m.log(x, y)), space.metric.log(point=gy, base_point=gx)),
    }
    scale = float(space.metric.norm(gv[0], base_point=gx[0])) / float(m.norm(x[0], v[0]))
    pairs["dist"] = (scale * m.dist(x, y), space.metric.dist(point_a=gx, point_b=gy))
    for name, (ours, theirs) in pairs.items():
        error = (ours - torch.as_tensor(gs.to_numpy(theirs))).abs().max() / ours.abs().max()
        assert error <= 1e-10, f"{name}: {error:.1e}"


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_distance_is_the_root_of_squared_principal_angles(n: int, p: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    m = Grassmann(n, p)
    x, y = (m.random_uniform(16, generator=seeded(s), dtype=F64) for s in (1, 2))
    angles = [
        float((linalg.subspace_angles(a.numpy(), b.numpy()) ** 2).sum() ** 0.5) for a, b in zip(x, y, strict=True)
    ]
    torch.testing.assert_close(m.dist(x, y), torch.tensor(angles, dtype=F64), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_closed_forms_agree_with_the_defaults(n: int, p: int) -> None:
    m = Grassmann(n, p)
    x = m.random_uniform(8, generator=seeded(1), dtype=F64)
    u, v = (m.random_tangent(x, generator=seeded(s)) for s in (2, 3))
    v = 0.3 * v
    y = m.exp(x, v) @ torch.linalg.qr(torch.randn(p, p, generator=seeded(4), dtype=F64))[0]
    torch.testing.assert_close(m.transport(x, y, u), Manifold.transport(m, x, y, u), rtol=0, atol=1e-11)
    torch.testing.assert_close(m.log_det_exp(x, v), Manifold.log_det_exp(m, x, v), rtol=0, atol=1e-12)
    assert (m.dist(m.exp(x, v), y) <= 1e-12).all()


def test_lines_are_pairs_of_antipodes() -> None:
    m, sphere = Grassmann(4, 1), Sphere(3)
    x, y = (sphere.random_uniform(32, generator=seeded(s), dtype=F64) for s in (1, 2))
    near = y * torch.sign((x * y).sum(-1, keepdim=True))
    torch.testing.assert_close(m.log(x[..., None], y[..., None])[..., 0], sphere.log(x, near), atol=1e-12, rtol=0)


# ---------------------------------------------------------------------- derivatives and singular points

CUT = math.pi / 2
ANGLES = {
    "generic": [0.7, 0.3],
    "repeated": [0.5, 0.5],
    "one zero": [0.6, 0.0],
    "both zero": [0.0, 0.0],
    "right": [CUT, 0.4],
}


@pytest.mark.parametrize("angles", ANGLES.values(), ids=ANGLES.keys())
@pytest.mark.parametrize(("n", "p"), [(4, 2), (5, 3)])
def test_derivatives_at_special_angles(n: int, p: int, angles: list[float]) -> None:
    m = Grassmann(n, p)
    x, v = with_angles(n, p, angles, 1)
    y = m.exp(x, v)
    inputs = {"exp": (m.exp, x, v), "log_det_exp": (m.log_det_exp, x, v)}
    if CUT not in angles:  # the logarithm and the distance jump or have a kink at the cut
        inputs |= {"log": (m.log, x, y), "squared distance": (lambda a, b: m.dist(a, b).square(), x, y)}
        inputs["transport"] = (lambda a, b: m.transport(a, b, v), x, y)
    for f, *points in inputs.values():
        points = [a.clone().requires_grad_() for a in points]
        torch.autograd.gradcheck(f, points, check_forward_ad=True, fast_mode=True, atol=1e-6)
        if not (f == m.log_det_exp and angles == [0.0, 0.0]):
            torch.autograd.gradgradcheck(f, points, fast_mode=True, atol=1e-5)


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("angles", [[CUT, 0.4], [CUT, CUT], [CUT, 0.0]], ids=str)
@pytest.mark.parametrize(("n", "p"), [(4, 2), (5, 2), (5, 3)])
def test_logarithm_at_the_cut_is_minimal_and_finite(n: int, p: int, angles: list[float], dtype: torch.dtype) -> None:
    m = Grassmann(n, p)
    x, v = with_angles(n, p, angles, 8, dtype)
    y = m.exp(x, v).requires_grad_()
    w = m.log(x.requires_grad_(), y)
    tolerance = 1e-5 if dtype == F32 else 1e-12
    torch.testing.assert_close(m.norm(x, w), torch.full((8,), math.hypot(*angles), dtype=dtype), atol=tolerance, rtol=0)
    assert m.dist(m.exp(x, w), y).max() <= tolerance
    grads = torch.autograd.grad(w.sum() + m.dist(x, y).sum() + m.transport(x, y, v).sum(), (x, y))
    assert all(bool(torch.isfinite(g).all()) for g in grads)


def test_logarithm_at_the_cut_does_not_depend_on_the_frame_of_the_end() -> None:
    m = Grassmann(5, 2)
    x = m.origin(F64).expand(8, 5, 2)
    y = torch.eye(5, dtype=F64)[:, [2, 1]]  # angles pi/2 and 0, exactly
    turns = torch.linalg.qr(torch.randn(8, 2, 2, generator=seeded(), dtype=F64))[0]
    w = m.log(x, y @ turns)
    torch.testing.assert_close(w, w[:1].expand_as(w), atol=1e-12, rtol=0)
    torch.testing.assert_close(w[0], CUT * torch.eye(5, dtype=F64)[:, [2]] @ torch.eye(2, dtype=F64)[:1])


def test_float32_distances_of_close_frames() -> None:
    m = Grassmann(6, 3)
    x, v = with_angles(6, 3, [1e-5, 5e-6, 0.0], 32)
    p, q = x.float(), m.exp(x, v).float()
    assert (m.dist(p, q) / m.dist(p.double(), q.double()) - 1).abs().max() <= 1e-3


def test_symmetry_turns_geodesics_around() -> None:
    m = Grassmann(5, 2)
    x = m.random_uniform(8, generator=seeded(), dtype=F64)
    v = 0.4 * m.random_tangent(x, generator=seeded(1))
    symmetry = geodesic_symmetry(m)
    assert symmetry is not None
    y = m.exp(x, v)
    image, moved = symmetry(x, y, -m.log(y, x))
    assert m.dist(image, m.exp(x, -v)).max() <= 1e-12
    torch.testing.assert_close(moved, -m.log(image, x), atol=1e-10, rtol=0)


# ---------------------------------------------------------------------- representatives, volume, uniform law


@pytest.mark.parametrize(("n", "p"), SIZES)
def test_a_point_is_the_subspace(n: int, p: int) -> None:
    m = Grassmann(n, p)
    x, y = (m.random_uniform(16, generator=seeded(s), dtype=F64) for s in (1, 2))
    turn = torch.linalg.qr(torch.randn(16, p, p, generator=seeded(3), dtype=F64))[0]
    torch.testing.assert_close(m.embed(x @ turn), m.embed(x))
    a = torch.randn(16, m.frame_dim, generator=seeded(4), dtype=F64)
    torch.testing.assert_close(m.from_frame(x @ turn, a), m.from_frame(x, a) @ turn)
    torch.testing.assert_close(m.log(x @ turn, y), m.log(x, y) @ turn)
    torch.testing.assert_close(m.log(x, y @ turn), m.log(x, y))
    torch.testing.assert_close(m.transport(x, y @ turn, m.log(x, y)), -m.log(y @ turn, x))
    chord = (m.embed(x) - m.embed(y)).norm(dim=-1)
    assert (chord <= m.dist(x, y)).all()


def test_volume_is_that_of_the_domain_of_exp() -> None:
    """Integral of the distortion over the vectors with angles below pi/2, uniform in a ball: 2 pi^2 for Gr(4, 2)."""
    m, n = Grassmann(4, 2), 200_000
    x = m.origin(F64).expand(n, 4, 2)
    v, radius = m.random_tangent(x, generator=seeded()), math.pi / math.sqrt(2)
    u = torch.rand(n, generator=seeded(1), dtype=F64) ** 0.25
    v = v * (radius * u / m.norm(x, v))[:, None, None]
    inside = torch.linalg.svdvals(v)[:, 0] < CUT
    weight = torch.where(inside, m.log_det_exp(x, v).exp(), 0.0) * math.pi**2 / 2 * radius**4
    error = weight.std() / math.sqrt(n)
    assert abs(weight.mean() - m.volume) <= 5 * error
    assert error <= 0.01 * m.volume
    assert m.volume == pytest.approx(2 * math.pi**2) and Grassmann(4, 1).volume == pytest.approx(math.pi**2)


def test_uniform_projectors_have_the_moments_of_a_beta_law() -> None:
    m, n = Grassmann(5, 2), 50_000
    x = m.random_uniform(n, generator=seeded(), dtype=F64)
    entry = (x @ x.mT)[:, 3, 3]
    for power, moment in ((1, 2 / 5), (2, 2 * 4 / (5 * 7))):
        sample = entry**power
        assert abs(sample.mean() - moment) <= 5 * sample.std() / math.sqrt(n)
    stretched = torch.randn(n, 5, 2, generator=seeded(), dtype=F64)
    stretched[:, 3] *= 1.1
    entry = m.project(stretched).square().sum(-1)[:, 3]
    assert abs(entry.mean() - 2 / 5) > 5 * entry.std() / math.sqrt(n)


@pytest.mark.parametrize("size", [(3, 0), (3, 3), (2, 4), (1, 1)])
def test_bad_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"1 <= p < n; got n=\d, p=\d|integer p >= 1; got 0"):
        Grassmann(*size)


def test_bad_points_are_named() -> None:
    m = Grassmann(4, 2)
    x = m.random_uniform(3, generator=seeded(), dtype=F64)
    x[1] *= 1.1
    with pytest.raises(ManifoldError, match=r"max \|x\^T x - 1\| = 2.1e-01 .* first at row 1, 1 of 3 points"):
        m.check_point(x)
    m.check_point(m.project(x))
