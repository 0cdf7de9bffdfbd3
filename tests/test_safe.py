"""Scalar functions at their removable singularities against mpmath, norms of tiny and huge vectors, determinants."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from manifold_diffusion import _safe
from manifold_diffusion._safe import (
    cos_sinc,
    cosh_sinhc,
    dot,
    log_abs_det,
    safe_norm,
    safe_sqrt,
    sinc,
    sinhc,
    solve,
    x_over_sinh,
)

THRESHOLD = math.sqrt(_safe._LIMIT)
POINTS = [0.0, 1e-9, 1e-4, THRESHOLD - 1e-9, THRESHOLD, THRESHOLD + 1e-9, 0.7, 2.5]


def _power_series(sign: int, offset: int) -> Callable:
    """sum_k (sign s)^k / (2k + offset)!, entire, so that mpmath differentiates it anywhere."""
    return lambda s: mpmath.nsum(lambda k: (sign * s) ** int(k) / mpmath.factorial(2 * int(k) + offset), [0, 30])


FUNCTIONS = {
    "sinc": (sinc, lambda x: _power_series(-1, 1)(x * x)),
    "sinhc": (sinhc, lambda x: _power_series(1, 1)(x * x)),
    "x_over_sinh": (x_over_sinh, lambda x: 1 / _power_series(1, 1)(x * x)),
    "cos of root": (lambda s: cos_sinc(s)[0], _power_series(-1, 0)),
    "sinc of root": (lambda s: cos_sinc(s)[1], _power_series(-1, 1)),
    "cosh of root": (lambda s: cosh_sinhc(s)[0], _power_series(1, 0)),
    "sinhc of root": (lambda s: cosh_sinhc(s)[1], _power_series(1, 1)),
}


def _derivatives(f: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    value = f(x)
    (first,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return [value.detach(), first.detach(), second]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_two_derivatives_agree_with_mpmath(name: str) -> None:
    f, reference = FUNCTIONS[name]
    points = [p * p for p in POINTS] if "root" in name else POINTS
    got = _derivatives(f, torch.tensor(points, dtype=torch.float64))
    with mpmath.workdps(40):
        taylor = [mpmath.taylor(reference, mpmath.mpf(p), 2) for p in points]
    # A closed form just above the threshold loses eps / s^k in its k-th derivative.
    for order, limit in enumerate((1e-15, 1e-13, 1e-10)):
        expected = torch.tensor([float(t[order] * math.factorial(order)) for t in taylor], dtype=torch.float64)
        error = ((got[order] - expected).abs() / (1 + expected.abs())).max()
        assert error <= limit, f"derivative {order} of {name}: {error:.1e}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_is_right_to_rounding(name: str) -> None:
    f, _ = FUNCTIONS[name]
    x = torch.cat([torch.zeros(1), torch.logspace(-9, 0.3, 400)])
    got, expected = _derivatives(f, x), _derivatives(f, x.double())
    for order, limit in enumerate((3e-7, 1e-4)):
        assert ((got[order] - expected[order]).abs() / (1 + expected[order].abs())).max() <= limit


@pytest.mark.parametrize("name", FUNCTIONS)
def test_forward_mode_and_vmap(name: str) -> None:
    f, _ = FUNCTIONS[name]
    x = torch.tensor(POINTS, dtype=torch.float64)
    _, slope = torch.func.jvp(f, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(slope, _derivatives(f, x)[1])
    torch.testing.assert_close(torch.vmap(f)(x), f(x))


@pytest.mark.parametrize("f", [sinc, sinhc, x_over_sinh])
def test_even(f: Callable[[Tensor], Tensor]) -> None:
    x = torch.tensor(POINTS, dtype=torch.float64)
    assert torch.equal(f(x), f(-x))


@pytest.mark.parametrize(
    ("dtype", "smallest", "largest"), [(torch.float32, 1e-18, 1e18), (torch.float64, 1e-150, 1e150)]
)
def test_norm_keeps_its_accuracy_over_its_range(dtype: torch.dtype, smallest: float, largest: float) -> None:
    for scale in (smallest, 1e-8, 1.0, 1e8, largest):
        v = torch.tensor([3.0, 0.0, -4.0], dtype=dtype) * scale
        torch.testing.assert_close(safe_norm(v) / scale, torch.tensor(5.0, dtype=dtype), rtol=1e-5, atol=0)


def test_vector_below_the_range_counts_as_zero() -> None:
    v = torch.full((3,), 1e-30, requires_grad=True)
    norm = safe_norm(v)
    (grad,) = torch.autograd.grad(norm, v)
    assert norm.item() == 0
    assert torch.equal(grad, torch.zeros(3))


def test_half_precision_norm_does_not_underflow() -> None:
    v = torch.full((4,), 1e-5, dtype=torch.float16)
    assert safe_norm(v).dtype == torch.float16
    torch.testing.assert_close(safe_norm(v).float(), torch.tensor(2e-5), rtol=2e-2, atol=0)


@pytest.mark.parametrize("f", [safe_norm, lambda v: safe_sqrt(v).sum(-1)])
def test_derivatives_at_the_zero_vector_are_zero_or_finite(f: Callable[[Tensor], Tensor]) -> None:
    v = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(f(v).sum(), v, create_graph=True)
    assert torch.isfinite(grad).all()
    if grad.requires_grad:
        (second,) = torch.autograd.grad(grad.sum(), v)
        assert torch.isfinite(second).all()
    _, slope = torch.func.jvp(f, (v.detach(),), (torch.ones(2, 3),))
    assert torch.isfinite(slope).all()


def test_norm_dim_and_keepdim() -> None:
    v = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(safe_norm(v, 1), v.norm(dim=1))
    assert safe_norm(v, 1, keepdim=True).shape == (4, 1, 2)
    torch.testing.assert_close(torch.vmap(safe_norm)(v), v.norm(dim=-1))


def test_sqrt_of_negative_numbers_is_zero() -> None:
    x = torch.tensor([-1.0, 0.0, 4.0], requires_grad=True)
    root = safe_sqrt(x)
    (grad,) = torch.autograd.grad(root.sum(), x)
    assert root.tolist() == [0, 0, 2]
    assert grad.tolist() == [0, 0, 0.25]


@pytest.mark.parametrize(
    "function", [log_abs_det, lambda a: solve(a, a[:, :1].sin()).sum()], ids=["log_abs_det", "solve"]
)
def test_second_derivatives_of_matrix_functions_agree_in_every_mode(function: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    a, u, v = torch.randn(3, 4, 4, generator=generator, dtype=torch.float64).unbind(0)
    a, forward = a + 4 * torch.eye(4, dtype=torch.float64), torch.func.jvp
    reverse = torch.func.grad(lambda p: (torch.func.grad(function)(p) * u).sum())
    expected = (reverse(a) * v).sum()
    both = forward(lambda p: forward(function, (p,), (u,))[1], (a,), (v,))[1]
    mixed = (torch.func.grad(lambda p: forward(function, (p,), (u,))[1])(a) * v).sum()
    torch.testing.assert_close((both, mixed), (expected, expected))
    torch.testing.assert_close(log_abs_det(a), torch.linalg.slogdet(a)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("rows", [3, 2000])
def test_inner_products_of_few_and_of_many_vectors(size: int, rows: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 1, size, generator=g, dtype=dtype, requires_grad=True)
    y = torch.randn(5, size, generator=g, dtype=dtype)
    exact = (x.detach().double() * y.double()).sum(-1)
    assert (dot(x, y) - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
    assert torch.equal(dot(x, y, keepdim=True).squeeze(-1), dot(x, y))
    plain = x.detach()  # no graph: by BLAS where there are many
    assert (dot(plain, y) - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
    assert torch.equal(dot(plain, y, keepdim=True).squeeze(-1), dot(plain, y))
    dot(x, y).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, y.sum(0).expand_as(x))
    x.grad = None
    dot(y, x).square().sum().backward()
    torch.testing.assert_close(x.grad, (2 * (x.detach() * y).sum(-1, keepdim=True) * y).sum(1, keepdim=True))
    with torch.autocast("cpu", torch.bfloat16):  # geometry is not for half precision
        for z in (x, plain):
            assert (dot(z, y) - exact).abs().max() < 8 * torch.finfo(dtype).eps * exact.abs().max()
