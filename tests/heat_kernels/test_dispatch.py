"""Every manifold finds its kernel, a user's manifold and a product included."""

from __future__ import annotations

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError
from manifold_diffusion.heat_kernels import HeatKernel, heat_kernel
from manifold_diffusion.manifolds import SO3, Euclidean, Product, Sphere

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
