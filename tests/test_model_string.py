"""Strings of trained and untrained models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Euclidean, Sphere, Torus
from manifold_diffusion.models import RiemannianDiffusion, RiemannianFlow, string_of
from manifold_diffusion.processes import BrownianMotion, GeodesicFlow, LinearPath, LogSchedule, WrappedNormal


class ExactScore(nn.Module):
    """The score of a mixture in the units of a process, as a network."""

    def __init__(self, process: BrownianMotion, law: HeatKernelMixture) -> None:
        super().__init__()
        self.process, self.law = process, law
        self.register_buffer("like", torch.empty(0, dtype=law.centres.dtype))

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.process.scale(t) * self.law.score(x, self.process.schedule.tau(t))


def exact_model() -> tuple[RiemannianDiffusion, HeatKernelMixture]:
    M = Sphere(2)
    process = BrownianMotion(M, LogSchedule(0.05, 7.0))
    law = HeatKernelMixture(M, torch.eye(3, dtype=torch.float64)[:2], 0.1)
    return RiemannianDiffusion(M, process, ExactScore(process, law)), law


@pytest.mark.slow
def test_energy_profile_is_the_likelihood() -> None:
    """Two equal modes: the string is the great circle between them, and its barrier that of the noised mixture."""
    model, law = exact_model()
    path = model.string(*law.centres, strength=30.0, n_nodes=7, steps=50)
    assert torch.allclose(path.nodes[[0, -1]], law.centres, atol=1e-12)
    assert float(path.nodes[:, 2].abs().max()) < 1e-10
    assert path.energy is not None and path.saddle is not None
    assert torch.allclose(path.energy, -law.log_prob(path.nodes, 0.05), atol=3e-3)
    middle = (law.centres.sum(0) / 2**0.5)[None]
    barrier = float(law.log_prob(law.centres[:1], 0.05) - law.log_prob(middle, 0.05))
    assert barrier > 1 and max(abs(b - barrier) for b in path.saddle.barriers) < 3e-3
    assert float(Sphere(2).dist(path.saddle.x, middle[0])) < 1e-3


def test_strength_one_at_temperature_one_is_the_reverse_diffusion() -> None:
    model, _ = exact_model()
    x, t = Sphere(2).random_uniform(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.rand(4)
    t = t.double()
    string = string_of(model)
    assert string.velocity is not None and string.score is not None
    g2 = model.process.schedule.rate(t)[:, None] / 2  # strength 1
    reverse = model.process.terms(model.network).reverse
    assert reverse is not None
    drift = string.velocity(t, x) - g2 * string.score(t, x)
    assert torch.allclose(drift, reverse.drift(t, x), rtol=1e-12)
    assert torch.allclose((2 * g2).sqrt(), reverse.diffusion(t, x))


def test_a_flow_is_transport_only() -> None:
    M = Torus(2)
    model, ends = RiemannianFlow(M), torch.tensor([[0.1, 0.2], [1.0, -2.0]])
    path = model.string(*ends, n_nodes=5, steps=10, energy=False)
    assert torch.allclose(path.nodes[[0, -1]], ends, atol=1e-6) and path.energy is None
    with pytest.raises(CapabilityError, match="pure transport"):
        model.string(*ends, strength=1.0)
    with pytest.raises(CapabilityError, match="has no score"):
        model.string(*ends, g=1.0)
    plane = Euclidean(2)
    flat = RiemannianFlow(plane, GeodesicFlow(plane, LinearPath(s_min=0.1), WrappedNormal(plane)))
    assert flat.string(*ends, g=0.1, n_nodes=5, steps=10, energy=False).spacing < 1e-4


def test_conditions_and_bad_input() -> None:
    model, law = exact_model()
    a, b = law.centres
    with pytest.raises(ManifoldError, match="x_b is not on Sphere"):
        model.string(a, 2 * b)
    with pytest.raises(ConfigError, match="not both"):
        model.string(a, b, strength=1.0, g=1.0)
    with pytest.raises(ConfigError, match="cond_dim"):
        model.string(a, b, cond=torch.zeros(2, 3))
    from manifold_diffusion.networks import TangentMLP

    M = Sphere(2)
    process = BrownianMotion(M)
    conditional = RiemannianDiffusion(M, process, TangentMLP(process, width=16, cond_dim=2))
    path = conditional.string(
        *torch.eye(3)[:2], cond=torch.ones(2), strength=1.0, temperature=0.5, n_walkers=2, n_nodes=3, steps=5
    )
    assert path.energy is not None and path.nodes.dtype == torch.float32
