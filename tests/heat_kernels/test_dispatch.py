"""Every manifold finds its kernel, a user's manifold and a product included."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._errors import CapabilityError
from manifold_diffusion.heat_kernels import HeatKernel, heat_kernel
from manifold_diffusion.heat_kernels._spd_tables import radial_law
from manifold_diffusion.manifolds import (
    SE3,
    SO3,
    SPD,
    ComplexProjective,
    Euclidean,
    Hyperboloid,
    Power,
    Product,
    RealProjective,
    Sphere,
    Torus,
)

from .points import F64, generator


def test_kernels_are_found_cached_and_registered():
    assert heat_kernel(Sphere(2)) is heat_kernel(Sphere(2))

    class Line(Euclidean.__base__):
        def __init__(self):
            super().__init__(1, (1,))

        inner = Euclidean.inner
        to_tangent = Euclidean.to_tangent
        project = Euclidean.project
        exp = Euclidean.exp
        log = Euclidean.log

    with pytest.raises(CapabilityError, match="Sphere"):
        heat_kernel(Line())

    @heat_kernel.register(Line)
    class LineKernel(HeatKernel):
        def __init__(self, manifold):
            self.manifold = manifold

        def sample(self, x0, tau, generator=None):
            return heat_kernel(Euclidean(1)).sample(x0, tau, generator)

        def log_prob(self, x, x0, tau):
            return heat_kernel(Euclidean(1)).log_prob(x, x0, tau)

        def score(self, x, x0, tau):
            return heat_kernel(Euclidean(1)).score(x, x0, tau)

    sample = heat_kernel(Line()).sample_with_score(torch.zeros(3, 1), 0.5, generator())
    torch.testing.assert_close(sample.score, -sample.x / 0.5)


def test_product_is_the_product_of_its_factors():
    M = Product(Sphere(2), SO3(), weights=[2.0, 0.5])
    K, A, B = heat_kernel(M), heat_kernel(Sphere(2)), heat_kernel(SO3())
    x0 = M.origin(dtype=F64).expand(6, 12)
    x = K.sample(x0, 0.4, generator(8))
    (a, b), (a0, b0) = M.split(x), M.split(x0)
    expected = A.log_prob(a, a0, 0.2) + B.log_prob(b, b0, 0.8) - math.log(2.0) - 1.5 * math.log(0.5)
    torch.testing.assert_close(K.log_prob(x, x0, 0.4), expected)
    torch.testing.assert_close(K.score(x, x0, 0.4), M.join(A.score(a, a0, 0.2) / 2, B.score(b, b0, 0.8) / 0.5))
    per_factor = K.log_prob(x, x0, (0.4, torch.full((6,), 0.1, dtype=F64)))
    torch.testing.assert_close(
        per_factor - A.log_prob(a, a0, 0.2) - B.log_prob(b, b0, 0.2),
        expected - A.log_prob(a, a0, 0.2) - B.log_prob(b, b0, 0.8),
    )


FIRST_USE = [Sphere(2), SO3(), ComplexProjective(2), Hyperboloid(2), SPD(2), SPD(3)]
CONTEXTS = {
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,)),
    "grad": lambda f, x, v: torch.func.grad(lambda y: f(y).sum())(x),
    "vjp": lambda f, x, v: torch.func.vjp(f, x)[1](torch.ones(len(x))),
    "inference": lambda f, x, v: torch.inference_mode()(f)(x),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("M", FIRST_USE, ids=str)
def test_tables_are_plain_tensors_whatever_transform_uses_them_first(M, context, monkeypatch):
    monkeypatch.setattr(heat_kernel, "_kernels", {})
    radial_law.cache_clear()
    K, x0 = heat_kernel(M), M.origin().expand(3, *M.point_shape)
    x = M.exp(x0, 0.3 * M.random_tangent(x0, generator(0)))
    CONTEXTS[context](lambda y: K.log_prob(y, x0, 0.4), x, M.random_tangent(x, generator(1)))
    copy.deepcopy(vars(K))
    y = x.clone().requires_grad_()
    K.log_prob(y, x0, 0.4).sum().backward()
    assert y.grad is not None and bool(y.grad.isfinite().all())


MODELS = [
    Sphere(2), Torus(2), SO3(), Hyperboloid(2), SPD(2), SE3(), RealProjective(2), Product(Sphere(2), Torus(1)),
    Power(SO3(), 2),
]  # fmt: skip


@pytest.mark.parametrize("M", MODELS, ids=str)
def test_models_are_pickled_without_their_tables(M):
    x0 = M.origin().expand(8, *M.point_shape)
    model = RiemannianDiffusion(M)
    model.process.fit_prior(M.exp(x0, 0.3 * M.random_tangent(x0, generator(0))))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected = model.sample(4, steps=3, generator=generator(0))
    for other in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), copy.deepcopy(model)):
        assert torch.equal(other.sample(4, steps=3, generator=generator(0)), expected)
    kernel = heat_kernel(M)
    assert pickle.loads(pickle.dumps(kernel)) is copy.deepcopy(kernel) is kernel
    assert len(pickle.dumps(kernel)) < 10_000
