"""Functions of symmetric matrices: values, and derivatives of both orders where eigenvalues repeat or nearly do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manifold_diffusion.manifolds._matrix import sym, sym_exp, sym_inverse_sqrt, sym_log, sym_sqrt

F64 = torch.float64
FUNCTIONS = {"exp": sym_exp, "log": sym_log, "sqrt": sym_sqrt, "inverse sqrt": sym_inverse_sqrt}
SPECTRA = [[1.0, 1.0, 1.0], [2.0, 2.0, 0.5], [1.0, 1.0 + 1e-9, 3.0], [1.0, 1.04, 1.08], [0.5, 1.0, 2.0]]
every = pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def matrices(spectrum: list[float], n: int = 2, dtype: torch.dtype = F64) -> Tensor:
    g = torch.Generator().manual_seed(0)
    size = len(spectrum)
    q = torch.linalg.qr(torch.randn(n, size, size, generator=g, dtype=dtype))[0]
    return sym((q * torch.tensor(spectrum, dtype=F64)) @ q.mH)


@every
@pytest.mark.parametrize("spectrum", SPECTRA, ids=str)
@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=["real", "complex"])
def test_derivatives_are_right_at_repeated_eigenvalues(f: Callable, spectrum: list[float], dtype: torch.dtype) -> None:
    a = matrices(spectrum, dtype=dtype).requires_grad_()
    torch.autograd.gradcheck(f, (a,), check_forward_ad=dtype == F64, fast_mode=True)
    torch.autograd.gradgradcheck(f, (a,), fast_mode=True)


@every
def test_all_modes_of_differentiation_agree(f: Callable) -> None:
    a = matrices([1.0, 1.0, 2.0], 1)[0]

    def energy(x: Tensor) -> Tensor:
        return f(x).pow(3).sum()

    reverse = torch.autograd.functional.hessian(energy, a)
    assert isinstance(reverse, Tensor)
    assert torch.allclose(torch.func.jacfwd(torch.func.jacfwd(energy))(a), reverse, atol=1e-11)
    assert torch.allclose(torch.func.hessian(energy)(a), reverse, atol=1e-11)


def test_values_against_independent_ones() -> None:
    a = matrices([0.01, 0.7, 3.0], 5)
    assert torch.allclose(sym_exp(a), torch.linalg.matrix_exp(a), rtol=1e-12)
    assert torch.allclose(sym_exp(sym_log(a)), a, atol=1e-13)
    assert torch.allclose(sym_sqrt(a) @ sym_sqrt(a), a, atol=1e-13)
    eye = torch.eye(3, dtype=F64).expand_as(a)
    assert torch.allclose(sym_inverse_sqrt(a) @ a @ sym_inverse_sqrt(a), eye, atol=1e-11)


@every
def test_ill_conditioned_matrices_are_finite_in_float32(f: Callable) -> None:
    a = matrices([1e-7, 1e-7, 1.0]).float().requires_grad_()
    out = f(a)
    (gradient,) = torch.autograd.grad(out.sum(), a)
    assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(gradient).all())


def test_vmap_is_a_loop() -> None:
    a = matrices([1.0, 1.0, 2.0], 4)
    assert torch.allclose(torch.vmap(sym_log)(a), torch.stack([sym_log(x) for x in a]), atol=1e-14)
