"""The laws hold on every manifold, and each fails where it must."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifold_diffusion._errors import CapabilityError
from manifold_diffusion._safe import safe_norm
from manifold_diffusion.manifolds import Manifold, Sphere, WithBoundary
from manifold_diffusion.testing import LAWS, Law, LawError, check_manifold, instances
from manifold_diffusion.testing.sampling import reach

from .draws import BUILT_IN, F32, F64, points, seeded

CASES = [
    pytest.param(
        m,
        law,
        dtype,
        id=f"{name}-{law.name}-{str(dtype)[6:]}",
    )
    for name, m in instances()
    for law in LAWS.values()
    for dtype in (F64, F32)
    if law.applies(m, dtype)
]


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize(("manifold", "law", "dtype"), CASES)
def test_law(manifold: Manifold, law: Law, dtype: torch.dtype) -> None:
    law(manifold, dtype, seeded())


SHAPES = st.sampled_from([(), (1,), (4,), (2, 3), (0,), (1, 2, 2)])


@pytest.mark.parametrize("m", BUILT_IN)
@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), fraction=st.floats(1e-6, 0.95), shape=SHAPES)
def test_log_inverts_exp_at_any_radius_and_batch_shape(
    m: Manifold, seed: int, fraction: float, shape: tuple[int, ...]
) -> None:
    generator = seeded(seed)
    origin = m.origin(dtype=F64).expand(*shape, *m.point_shape)
    bounded = isinstance(m, WithBoundary)  # points and geodesics that stay away from the boundary
    step = m.random_tangent(origin, generator=generator)
    x = m.exp(origin, m.per_point(reach(m) / m.norm(origin, step)) * step if bounded else step)
    v = m.random_tangent(x, generator=generator)
    v = m.per_point(fraction * (reach(m) if bounded else min(m.injectivity_radius, 4.0)) / m.norm(x, v)) * v
    y = m.exp(x, v)
    assert m.dist(x, y).shape == shape
    torch.testing.assert_close(m.log(x, y), v, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("m", BUILT_IN)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), t=st.floats(0, 1))
def test_geodesic_runs_backwards(m: Manifold, seed: int, t: float) -> None:
    x, y = points(m, 8, seed, spread=0.4), points(m, 8, seed + 1, spread=0.4)
    assert m.dist(m.geodesic(x, y, t), m.geodesic(y, x, 1 - t)).max() <= 1e-7


# ---------------------------------------------------------------------- laws that must fail


def _broken_tangent(m: Manifold):
    return lambda x, generator=None: 1.03 * m.to_tangent(x, torch.randn(x.shape, generator=generator, dtype=x.dtype))


CONTROLS = {
    "random_tangent_is_standard_normal": lambda m: {"random_tangent": _broken_tangent(m)},
    "divergence_theorem": lambda m: {
        "random_uniform": lambda n, generator=None, dtype=None, device=None: m.project(
            torch.randn(n, 3, generator=generator, dtype=dtype) + torch.tensor([0.3, 0, 0], dtype=dtype)
        )
    },
    "uniform_law_has_no_waves": lambda m: {
        "random_uniform": lambda n, generator=None, dtype=None, device=None: m.project(
            torch.randn(n, 3, generator=generator, dtype=dtype) + torch.tensor([0.3, 0, 0], dtype=dtype)
        )
    },
    "volume_is_an_integral": lambda m: {"log_det_exp": lambda x, v: 0 * v.sum(-1)},
    "level_sums_reproduce": lambda m: {"level_sums": lambda x, y, n: 1.05 * type(m).level_sums(m, x, y, n)},
    "level_sums_are_eigenfunctions": lambda m: {"eigenvalues": lambda n: torch.arange(n, dtype=F64) ** 2},
    "transport_of_velocity": lambda m: {"transport": lambda x, y, v: m.to_tangent(y, v)},
    "transport_isometry": lambda m: {"transport": lambda x, y, v: m.to_tangent(y, v)},
    "short_distances": lambda m: {"dist": lambda x, y: (x * y).sum(-1).clamp(-1, 1).acos()},
    "singular_points_are_finite": lambda m: {"norm": lambda x, v: v.square().sum(-1).sqrt()},
    "log_det_exp_definition": lambda m: {"log_det_exp": lambda x, v: 0 * v.sum(-1)},
    "laplacian_is_geodesic": lambda m: {"tangent_basis": lambda x: 1.01 * type(m).tangent_basis(m, x)},
    "gradient_of_squared_distance": lambda m: {"log": lambda x, y: 1.01 * type(m).log(m, x, y)},
    "batch_is_a_loop": lambda m: {"norm": lambda x, v: v.norm()},
    "isometries_commute": lambda m: {
        "exp": lambda x, v: m.project(x + v * torch.tensor([1.0, 1.0, 1.1], dtype=x.dtype))
    },
    # torch 2.13 takes the factors of slogdet as constants in forward mode.
    "derivatives_nest": lambda m: {
        "log_det_exp": lambda x, v: torch.linalg.slogdet(torch.eye(3).to(x) + x[..., None] * v[..., None, :])[1]
    },
    "derivatives_at_zero": lambda m: {"exp": lambda x, v: m.project(x + v * (1 + safe_norm(v, keepdim=True).sqrt()))},
}


@pytest.mark.parametrize("name", CONTROLS)
def test_law_fails_where_it_must(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    for method, wrong in CONTROLS[name](m).items():
        monkeypatch.setattr(m, method, wrong)
    with pytest.raises(LawError, match=name):
        check_manifold(m, laws=[name])


def test_check_manifold_lists_every_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    monkeypatch.setattr(m, "transport", lambda x, y, v: v)
    monkeypatch.setattr(m, "log_det_exp", lambda x, v: 1 / 0)
    with pytest.raises(LawError) as error:
        check_manifold(
            m,
            dtypes=[F64],
            laws=["transport_isometry", "transport_inverse", "vectors_are_tangent", "log_det_exp_definition"],
        )
    lines = str(error.value).splitlines()
    assert lines[0] == "Sphere(2) breaks 2 of 4 laws:"
    assert "log_det_exp_definition (float64): ZeroDivisionError" in lines[1]
    assert "transport_isometry (float64): Sphere(2) breaks transport_isometry: normal part of T u is" in lines[2]


def test_check_manifold_knows_its_laws() -> None:
    with pytest.raises(CapabilityError, match="no_such_law"):
        check_manifold(Sphere(2), laws=["no_such_law"])
