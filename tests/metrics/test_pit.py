"""The probability integral transform of the distance."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import ConfigError
from manifold_diffusion.heat_kernels import heat_kernel
from manifold_diffusion.metrics import distance_pit, ks_uniform

from .points import S2, generator


@pytest.mark.parametrize("tau", [1e-4, 0.16, 1.0])
def test_pit_is_the_integral_of_the_heat_kernel(tau):
    r = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64) * tau**0.5
    nodes, weights = (torch.as_tensor(a) for a in np.polynomial.legendre.leggauss(200))
    theta = (nodes + 1) / 2 * r[:, None]
    north = S2.origin(dtype=torch.float64)
    x = torch.stack([theta.sin(), torch.zeros_like(theta), theta.cos()], -1)
    density = heat_kernel(S2).log_prob(x, north, tau).exp()
    mass = (density * theta.sin() * weights).sum(1) * math.pi * r
    ends = torch.stack([r.sin(), torch.zeros_like(r), r.cos()], -1)
    assert torch.allclose(distance_pit(ends, north, tau), mass, atol=1e-6)


def test_pit_accepts_the_sampler_and_rejects_a_wrong_time():
    x0 = S2.project(torch.tensor([1.0, -2.0, 0.5]))
    x = heat_kernel(S2).sample(x0.expand(4000, 3), 0.16, generator())
    assert ks_uniform(distance_pit(x, x0, 0.16)).p_value > 1e-3
    assert ks_uniform(distance_pit(x, x0, 0.46**2)).p_value < 1e-10
    with pytest.raises(ConfigError, match="tau"):
        distance_pit(x, x0, 0.0)
