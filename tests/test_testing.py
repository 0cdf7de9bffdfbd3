"""The tools of manifold_diffusion.testing: kernels' laws hold and can fail, properties find counterexamples, slopes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernel, heat_kernel
from manifold_diffusion.manifolds import Ball, Grassmann, Manifold, Sphere
from manifold_diffusion.testing import (
    KERNEL_LAWS,
    PROPERTIES,
    Law,
    LawError,
    check_all,
    check_heat_kernel,
    check_manifold,
    check_properties,
    convergence_slope,
    draws,
    instances,
)
from manifold_diffusion.testing.kernels import has_kernel

F32, F64 = torch.float32, torch.float64


# ---------------------------------------------------------------------- heat kernels


CASES = [pytest.param(m, law, id=f"{law}-{name}") for name, m in instances() if has_kernel(m) for law in KERNEL_LAWS]


@pytest.mark.parametrize(("manifold", "law"), CASES)
def test_kernel_law(manifold: Manifold, law: str) -> None:
    check_heat_kernel(manifold, laws=[law])


def _scaled(name: str, factor: float) -> Callable[[HeatKernel], Callable]:
    return lambda k: lambda *args, **kwargs: factor * getattr(type(k), name)(k, *args, **kwargs)


def _wrong_time(name: str, factor: float) -> Callable[[HeatKernel], Callable]:
    return lambda k: lambda x, x0, tau: getattr(type(k), name)(k, x, x0, factor * tau)


CONTROLS: dict[str, dict[str, Callable[[HeatKernel], Callable]]] = {
    "kernel_has_mass_one": {"log_prob": lambda k: lambda x, x0, tau: type(k).log_prob(k, x, x0, tau) + 0.02},
    "kernel_samples_have_the_density": {
        "sample": lambda k: lambda x0, tau, generator=None: type(k).sample(k, x0, 1.1 * tau, generator)
    },
    "kernel_is_a_semigroup": {"log_prob": _wrong_time("log_prob", 1.15)},
    "kernel_solves_the_heat_equation": {"log_prob": lambda k: lambda x, x0, tau: type(k).log_prob(k, x, x0, tau**1.01)},
    "score_is_the_gradient": {"score": _scaled("score", 1.01)},
    "score_of_a_sample": {"score": _scaled("score", 1.01)},
    "kernel_is_symmetric": {
        "log_prob": lambda k: lambda x, x0, tau: type(k).log_prob(k, x, x0, tau) + 0.1 * (x - x0)[..., 0]
    },
    "kernel_of_pairs": {"pairwise_log_prob": _scaled("pairwise_log_prob", 1.1)},
    "kernel_batch_is_a_loop": {
        "score": lambda k: lambda x, x0, tau: type(k).score(k, x, x0, tau) * (1 + 0.01 * x.mean())
    },
    "kernel_is_finite_on_the_grid": {
        "log_prob": lambda k: lambda x, x0, tau: type(k).log_prob(k, x, x0, tau) + 0 * (x * x0).sum(-1).acos()
    },
    "kernel_in_float32": {
        "log_prob": lambda k: lambda x, x0, tau: type(k).log_prob(k, x, x0, tau) + (1e-2 if x.dtype == F32 else 0.0)
    },
}


@pytest.mark.parametrize("name", KERNEL_LAWS)
def test_kernel_law_fails_where_it_must(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = heat_kernel(Sphere(2))
    for method, wrong in CONTROLS[name].items():
        monkeypatch.setattr(kernel, method, wrong(kernel))
    with pytest.raises(LawError, match=name):
        check_heat_kernel(Sphere(2), laws=[name])


def test_kernel_laws_need_a_kernel() -> None:
    with pytest.raises(CapabilityError, match=r"Grassmann\(4, 2\) has no heat kernel"):
        check_heat_kernel(Grassmann(4, 2))
    with pytest.raises(CapabilityError, match="no_such_law"):
        check_heat_kernel(Sphere(2), laws=["no_such_law"])


# ---------------------------------------------------------------------- skipped laws


def test_a_skipped_law_keeps_its_reason_and_has_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    monkeypatch.setattr(m, "transport", lambda x, y, v: v)
    laws = ["transport_isometry", "exp_log_inverse"]
    records = check_manifold(m, dtypes=[F64], laws=laws, skip={"transport_isometry": "no transport yet"})
    assert {r.law: (r.passed, r.skipped) for r in records} == {
        "transport_isometry": (False, "no transport yet"),
        "exp_log_inverse": (True, ""),
    }


def test_a_skipped_law_needs_a_reason_and_a_name() -> None:
    with pytest.raises(CapabilityError, match="give one"):
        check_manifold(Sphere(2), skip={"exp_log_inverse": " "})
    with pytest.raises(CapabilityError, match="no_such_law"):
        check_manifold(Sphere(2), skip={"no_such_law": "a reason"})


# ---------------------------------------------------------------------- everything in one call


def test_one_call_checks_laws_kernel_and_properties(monkeypatch: pytest.MonkeyPatch) -> None:
    m, kernel = Sphere(2), heat_kernel(Sphere(2))
    records = check_all(m, dtypes=[F64], examples=3, skip={"log_inverts_exp": "an example"})
    assert {r.law for r in records} >= {*KERNEL_LAWS, *PROPERTIES} - {"kernel_in_float32"}
    assert [r.law for r in records if not r.passed] == ["log_inverts_exp"]
    monkeypatch.setattr(kernel, "score", _scaled("score", 1.01)(kernel))
    monkeypatch.setattr(m, "transport", lambda x, y, v: v)
    with pytest.raises(LawError, match=r"(?s)transport_isometry.*score_is_the_gradient"):
        check_all(m, dtypes=[F64], examples=3)
    with pytest.raises(CapabilityError, match="no_such_law"):
        check_all(m, skip={"no_such_law": "a reason"})


def test_one_call_leaves_out_a_kernel_that_is_not_there() -> None:
    assert not {r.law for r in check_all(Ball(2), dtypes=[F64], examples=2)} & set(KERNEL_LAWS)


# ---------------------------------------------------------------------- properties


QUICK = {"Euclidean(3)", "Sphere(2)", "Torus(3)", "SO3()", "Hyperboloid(2)", "Product(SO3(), Euclidean(3))"}
EACH = [pytest.param(m, id=name, marks=[] if name in QUICK else [pytest.mark.slow]) for name, m in instances()]


@pytest.mark.parametrize("m", EACH)
def test_properties_hold(m: Manifold) -> None:
    records = check_properties(m, examples=8)
    assert len(records) == 2 * len(PROPERTIES) and all(r.passed for r in records)


BROKEN: dict[str, dict[str, Callable[[Manifold], Callable]]] = {
    "log_inverts_exp": {"log": lambda m: lambda x, y: 1.001 * type(m).log(m, x, y)},
    "distance_is_the_length": {"dist": lambda m: lambda x, y: 1.001 * type(m).dist(m, x, y)},
    "distance_is_symmetric": {"dist": lambda m: lambda x, y: type(m).dist(m, x, y) * (1 + 0.01 * x[..., 0])},
    "geodesic_splits_its_length": {"geodesic": lambda m: lambda x, y, t: m.project(0.7 * x + 0.3 * y)},
    "transport_keeps_lengths": {"transport": lambda m: lambda x, y, v: m.to_tangent(y, v)},
    "points_are_projected_onto_themselves": {"exp": lambda m: lambda x, v: x + v},
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_property_finds_its_counterexample(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    for method, wrong in BROKEN[name].items():
        monkeypatch.setattr(m, method, wrong(m))
    with pytest.raises(LawError, match=rf"{name} \(float64\): .* at x = "):
        check_properties(m, properties=[name])


def test_a_method_that_raises_breaks_its_property(monkeypatch: pytest.MonkeyPatch) -> None:
    m = Sphere(2)
    monkeypatch.setattr(m, "log", lambda x, y: 1 / 0)
    with pytest.raises(LawError, match="ZeroDivisionError"):
        check_properties(m, dtypes=[F64], properties=["log_inverts_exp"])


def test_properties_need_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(CapabilityError, match="pip install"):
        check_properties(Sphere(2))
    with pytest.raises(CapabilityError, match="pip install"):
        draws(Sphere(2))


def test_unknown_property() -> None:
    with pytest.raises(CapabilityError, match="no_such"):
        check_properties(Sphere(2), properties=["no_such"])


# ---------------------------------------------------------------------- slopes


def test_slope_of_a_power_is_exact() -> None:
    steps = [0.4, 0.2, 0.1, 0.05]
    slope = convergence_slope([3 * h**2.5 for h in steps], steps)
    assert abs(slope.order - 2.5) < 1e-12 and slope.standard_error < 1e-7 and abs(slope.constant - 3) < 1e-12


def test_standard_error_of_a_slope_is_calibrated() -> None:
    generator = torch.Generator().manual_seed(0)
    steps, std = [2.0**-k for k in range(6)], 0.05
    z = {"scatter": [], "stated": []}
    for _ in range(400):
        noise = torch.randn(6, generator=generator, dtype=F64) * std
        errors = [h**2 * math.exp(float(n)) for h, n in zip(steps, noise, strict=True)]
        plain = convergence_slope(errors, steps)
        stated = convergence_slope(errors, steps, [std * e for e in errors])
        z["scatter"].append((plain.order - 2) / plain.standard_error)
        z["stated"].append((stated.order - 2) / stated.standard_error)
    student = torch.tensor(z["scatter"])  # four degrees of freedom: variance 2
    assert abs(float(student.mean())) <= 5 * (2 / 400) ** 0.5 and 1.2 < float(student.var()) < 3.5
    assert 0.5 < float(torch.tensor(z["stated"]).var()) < 1.1  # the larger of two estimates is cautious


def test_two_steps_have_no_scatter() -> None:
    slope = convergence_slope([0.1, 0.05], [0.2, 0.1])
    assert abs(slope.order - 1) < 1e-12 and math.isnan(slope.standard_error)
    stated = convergence_slope([0.1, 0.05], [0.2, 0.1], [0.001, 0.0005])
    assert abs(stated.standard_error - 0.01 * math.sqrt(2) / math.log(2)) < 1e-12


@pytest.mark.parametrize(
    ("errors", "steps", "std"),
    [([1.0], [1.0], None), ([1.0, 2.0], [1.0, 1.0], None), ([1.0, 0.0], [1.0, 2.0], None), ([1, 2], [1, 2], [1, 0])],
)
def test_slopes_of_nothing_are_refused(errors: list, steps: list, std: list | None) -> None:
    with pytest.raises(ConfigError):
        convergence_slope(errors, steps, std)


# ---------------------------------------------------------------------- torch.compile


@pytest.mark.parametrize("m", EACH)
def test_geometry_compiles_without_graph_breaks(m: Manifold) -> None:
    """``fullgraph=True`` fails at a graph break."""

    def methods(x: Tensor, y: Tensor, v: Tensor) -> dict[str, Tensor]:
        return {
            "exp": m.exp(x, v),
            "log": m.log(x, y),
            "dist": m.dist(x, y),
            "transport": m.transport(x, y, v),
            "to_tangent": m.to_tangent(x, v),
            "inner": m.inner(x, v, v),
            "norm": m.norm(x, v),
            "project": m.project(y),
            "geodesic": m.geodesic(x, y, 0.3),
            "tangent_basis": m.tangent_basis(x),
            "log_det_exp": m.log_det_exp(x, v),
            "random_tangent": m.random_tangent(x),
        }

    generator = torch.Generator().manual_seed(0)
    origin = m.origin(dtype=F64).expand(4, *m.point_shape)
    x, y = (m.exp(origin, 0.4 * m.random_tangent(origin, generator=generator)) for _ in range(2))
    v = 0.3 * m.random_tangent(x, generator=generator)
    torch._dynamo.reset()
    with torch.random.fork_rng():
        got = torch.compile(methods, fullgraph=True, backend="eager")(x, y, v)
    noise, expected = got.pop("random_tangent"), methods(x, y, v)
    m.check_tangent(x, noise)
    torch.testing.assert_close(got, {k: expected[k] for k in got})


def test_gradients_compile_without_graph_breaks() -> None:
    m = Sphere(2)

    def loss(x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return (m.dist(m.exp(x, v), y) + m.norm(y, m.transport(x, y, v - m.log(x, y)))).sum()

    generator = torch.Generator().manual_seed(0)
    x, y = (m.random_uniform(4, generator=generator, dtype=F64) for _ in range(2))
    inputs = [a.requires_grad_() for a in (x, y, 0.3 * m.random_tangent(x, generator=generator))]
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(
        torch.autograd.grad(compiled(*inputs), inputs), torch.autograd.grad(loss(*inputs), inputs)
    )


def test_every_kernel_law_has_a_control() -> None:
    assert set(CONTROLS) == set(KERNEL_LAWS) and set(BROKEN) == set(PROPERTIES)
    assert all(isinstance(entry, Law) and entry.statement for entry in KERNEL_LAWS.values())
