"""SO(n), U(n), SU(n): oracles, conventions, known volumes, repeated eigenvalues, the cut locus and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError, ManifoldError
from manifold_diffusion.manifolds import SO, SO3, SU, Sphere, U
from manifold_diffusion.manifolds._characters import irreps

from .draws import seeded

F32, F64 = torch.float32, torch.float64
Group = SO | SU | U
PI = math.pi


def conjugated(group: Group, angles: list[float], seed: int = 0) -> Tensor:
    """A random conjugate of the element with given angles of rotation, or eigenangles."""
    q = group.random_uniform(1, generator=seeded(seed), dtype=F64)[0]
    omega = torch.zeros(group.n, group.n, dtype=F64)
    if isinstance(group, SO):
        for k, a in enumerate(angles):
            omega[2 * k, 2 * k + 1], omega[2 * k + 1, 2 * k] = -a, a
        element = torch.linalg.matrix_exp(omega)
    else:
        diagonal = torch.tensor(angles, dtype=F64)
        element = group.from_matrix(torch.diag(torch.polar(torch.ones_like(diagonal), diagonal)))
    return group.compose(group.compose(q, element), group.inverse(q))


# ---------------------------------------------------------------------- oracles and conventions


@pytest.mark.parametrize("n", [3, 4, 5])
def test_geomstats_agrees(n: int) -> None:
    pytest.importorskip("geomstats")
    import geomstats.backend as gs
    from geomstats.geometry.special_orthogonal import SpecialOrthogonal

    group, space = SO(n), SpecialOrthogonal(n=n)
    x = group.random_uniform(8, generator=seeded(1), dtype=F64)
    v = 0.7 * group.random_tangent(x, seeded(2))
    y = group.exp(x, v)
    gx, gy, gv = (gs.array(a.numpy()) for a in (x, y, v))
    pairs = {
        "exp": (y, space.metric.exp(tangent_vec=gv, base_point=gx)),
        "log": (group.log(x, y), space.metric.log(point=gy, base_point=gx)),
    }
    for name, (ours, theirs) in pairs.items():
        error = (ours - torch.as_tensor(gs.to_numpy(theirs))).abs().max()
        assert error <= 1e-10, f"{name}: {error:.1e}"


@pytest.mark.parametrize("group", [SO(5), U(3), SU(4)], ids=repr)
def test_scipy_agrees(group: Group) -> None:
    x = group.identity(dtype=F64)
    v = 0.4 * group.random_tangent(x, seeded())
    y = group.exp(x, v)
    omega, element = (group.matrix(a).numpy() for a in (v, y))
    np.testing.assert_allclose(element, scipy.linalg.expm(omega), atol=1e-14)
    np.testing.assert_allclose(group.matrix(group.log(x, y)).numpy(), scipy.linalg.logm(element), atol=1e-12)


def test_so3_of_two_kinds_agree() -> None:
    a, b = SO(3), SO3()
    x, y, z = b.random_uniform(300, generator=seeded(), dtype=F64).chunk(3)
    v = b.log(x, z)
    torch.testing.assert_close(a.log(x, y), b.log(x, y), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(a.dist(x, y), b.dist(x, y), atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(a.exp(x, v), b.exp(x, v), atol=1e-13, rtol=0)
    torch.testing.assert_close(a.transport(x, y, v), b.transport(x, y, v), atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(a.log_det_exp(x, v), b.log_det_exp(x, v), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(a.level_sums(x, y, 4), b.level_sums(x, y, 4), atol=1e-11, rtol=0)


def test_su2_is_the_unit_sphere() -> None:
    group, sphere = SU(2), Sphere(3)
    x, y = group.random_uniform(40, generator=seeded(), dtype=F64).chunk(2)
    p, q = x[:, 0].flatten(1), y[:, 0].flatten(1)
    torch.testing.assert_close(group.dist(x, y), sphere.dist(p, q))
    torch.testing.assert_close(group.log(x, y)[:, 0].flatten(1), sphere.log(p, q))
    assert torch.equal(group.eigenvalues(5), sphere.eigenvalues(5))
    assert torch.equal(group.multiplicities(5), sphere.multiplicities(5))


def test_volumes() -> None:
    expected = {
        SO(2): 2 * PI, SO(3): SO3().volume, SO(4): 2 * PI * 4 * PI * 2 * PI**2, SU(2): 2 * PI**2,
        U(1): 2 * PI / math.sqrt(2), U(2): 2 * PI**3, SU(3): math.sqrt(3) * PI**5,
    }  # fmt: skip
    for group, volume in expected.items():
        assert group.volume == pytest.approx(volume, rel=1e-13), group


@pytest.mark.parametrize("group", [SO(4), SO(5), SU(3), U(2)], ids=repr)
def test_spectrum_and_volume_agree_with_the_short_time_expansion(group: Group) -> None:
    """The sum of multiplicity e^{-c t/2} is V (2 pi t)^{-d/2} e^{|rho|^2 t/2} up to exp(-2 pi^2 / t)."""
    t, rho_squared = 0.35, {SO(4): 1.0, SO(5): 2.5, SU(3): 4.0, U(2): 1.0}[group]
    reps = irreps(group.family, group.n, 350.0)
    trace = (reps.copies * reps.dimension**2 * np.exp(-reps.casimir * t / 2)).sum()
    assert trace == pytest.approx(
        group.volume * (2 * PI * t) ** (-group.dim / 2) * math.exp(rho_squared * t / 2), rel=1e-9
    )


# ---------------------------------------------------------------------- repeated eigenvalues and the cut locus

REPEATED = [
    (SO(4), [0.7, 0.7], math.hypot(0.7, 0.7)),
    (SO(4), [0.7, -0.7], math.hypot(0.7, 0.7)),
    (SO(5), [2.0, 2.0], math.hypot(2, 2)),
    (SU(3), [0.9, 0.9, -1.8], math.sqrt((0.81 * 2 + 3.24) / 2)),
    (U(3), [2.5, 2.5, 2.5], math.sqrt(2.5**2 * 1.5)),
    (SO(6), [0.0, 0.0, 1e-9], 1e-9),
]


@pytest.mark.parametrize(("group", "angles", "length"), REPEATED, ids=str)
def test_derivatives_at_repeated_eigenvalues(group: Group, angles: list[float], length: float) -> None:
    x = group.random_uniform(1, generator=seeded(3), dtype=F64)
    y = group.compose(x, conjugated(group, angles))
    assert float(group.dist(x, y)) == pytest.approx(length, rel=1e-6)
    x, y = x.requires_grad_(), y.detach().requires_grad_()
    torch.autograd.gradcheck(group.log, (x, y), fast_mode=True, check_forward_ad=True, atol=1e-5)
    torch.autograd.gradgradcheck(group.log, (x, y), fast_mode=True, atol=1e-5)


CUT = [
    (SO(2), [PI], PI),
    (SO(3), [PI], PI),
    (SO(4), [PI, PI], math.sqrt(2) * PI),
    (SO(4), [PI, 0.4], math.hypot(PI, 0.4)),
    (SO(5), [PI, 0.0], PI),
    (SO(6), [PI, PI, PI], math.sqrt(3) * PI),
    (SO(6), [PI, PI - 1e-5, 1.0], math.sqrt(PI**2 + (PI - 1e-5) ** 2 + 1)),
    (U(2), [PI, PI], PI),
    (U(3), [PI, 1.0, 1.0], math.sqrt((PI**2 + 2) / 2)),
    (SU(2), [PI, PI], PI),
    (SU(3), [2 * PI / 3] * 3, math.sqrt(24 / 18) * PI),
    (SU(4), [PI] * 4, math.sqrt(2) * PI),
    (SU(4), [PI / 2] * 4, math.sqrt((3 / 4 + 9 / 4) / 2) * PI),
]


@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize(("group", "angles", "length"), CUT, ids=str)
def test_logarithm_at_the_cut_is_minimal_and_finite(
    group: Group, angles: list[float], length: float, dtype: torch.dtype
) -> None:
    x = group.random_uniform(1, generator=seeded(3), dtype=F64)[0]
    y = group.compose(x, conjugated(group, angles, seed=1)).to(dtype)
    x, y = x.to(dtype).requires_grad_(), y.requires_grad_()
    v, limit = group.log(x, y), 1e-6 if dtype == F64 else 2e-3
    group.check_tangent(x, v)
    assert group.norm(x, v).item() == pytest.approx(length, abs=limit)
    assert group.dist(group.exp(x, v), y).item() <= limit
    assert torch.equal(v, group.log(x, y))
    gradients = torch.autograd.grad(v.sum() + group.dist(x, y), (x, y))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6, 1e-7])
def test_accuracy_close_to_the_cut(gap: float) -> None:
    """The error of exp(log) stays at rounding although the plane of rotation is known to rounding / gap only."""
    group, x = SO(4), SO(4).identity(dtype=F64)
    y = conjugated(group, [PI - gap, PI - 2 * gap], seed=2)
    assert float(group.dist(group.exp(x, group.log(x, y)), y)) <= 1e-12
    assert float(group.dist(x, y)) == pytest.approx(math.hypot(PI - gap, PI - 2 * gap), rel=1e-9)


def test_the_logarithm_of_su_has_trace_zero_and_is_the_shortest() -> None:
    group = SU(4)
    x, y = group.random_uniform(400, generator=seeded(), dtype=F64).chunk(2)
    angles = group.spectral_log(x, y).angles
    assert angles.sum(-1).abs().max() <= 1e-12
    for i in range(4):  # no exchange of a turn between two eigenvalues is shorter
        for j in range(4):
            other = angles.clone()
            other[:, i] += 2 * PI
            other[:, j] -= 2 * PI
            assert (other.square().sum(-1) - angles.square().sum(-1)).min() >= -1e-9


def test_uniform_law_has_the_moments_of_haar_measure() -> None:
    for group, second in ((SO(4), 1.0), (U(3), 1.0), (SU(3), 1.0)):
        a = group.matrix(group.random_uniform(20_000, generator=seeded(4), dtype=F64))
        trace = a.diagonal(0, -2, -1).sum(-1)
        group.check_point(group.from_matrix(a))
        for values, exact in ((trace.real, 0.0), (trace.abs() ** 2, second)):
            assert abs(values.mean() - exact) <= 5 * values.std() / 20_000**0.5


def test_long_walks_stay_on_the_group() -> None:
    for group in (SO(4), SU(3)):
        x = group.random_uniform(16, generator=seeded())
        for k in range(100):
            x = group.exp(x, 0.3 * group.random_tangent(x, seeded(k)))
        group.check_point(x)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(("make", "bad"), [(SO, 1), (SO, 2.0), (SO, True), (SU, 1), (U, 0), (U, "2")])
def test_bad_sizes_are_refused(make: type[Group], bad: object) -> None:
    with pytest.raises(ConfigError, match="needs an integer n >="):
        make(bad)  # pyright: ignore[reportArgumentType]


def test_points_off_the_group_are_named() -> None:
    x = SO(4).random_uniform(3, generator=seeded())
    x[1, 0] *= -1  # a reflection: orthonormal, determinant -1
    with pytest.raises(ManifoldError, match=r"not on SO\(4\).*row 1"):
        SO(4).check_point(x)
    phase = U(2).random_uniform(3, generator=seeded(), dtype=F64)
    with pytest.raises(ManifoldError, match=r"det R - 1"):
        SU(2).check_point(phase)
    SU(2).check_point(SU(2).project(phase))
