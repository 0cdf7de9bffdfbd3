"""Objectives: their minimiser is the exact score, and they agree with each other."""

import math

import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion._typing import Batch
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Euclidean, Hyperboloid, Product, Sphere, Torus
from manifold_diffusion.objectives import DenoisingScoreMatching, ImplicitScoreMatching, stratified_times
from manifold_diffusion.processes import BrownianMotion, LogSchedule, default_process

SPACES = [Sphere(2), Torus(2), SO3(), Hyperboloid(2)]


def mixture(manifold):
    generator = torch.Generator().manual_seed(3)
    origin = manifold.origin(torch.float64).expand(3, *manifold.point_shape)
    centres = manifold.exp(origin, manifold.random_tangent(origin, generator=generator))
    return HeatKernelMixture(manifold, centres, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))


@pytest.mark.parametrize("weighting", ["likelihood", "balanced"])
@pytest.mark.parametrize("manifold", SPACES, ids=repr)
def test_denoising_is_least_at_the_exact_score(manifold, weighting):
    """Along (1 + a) * exact score the mean loss is a parabola in a with its minimum at 0, within its standard error."""
    process = BrownianMotion(manifold, LogSchedule(1e-2, 4.0))
    law = mixture(manifold)
    objective = DenoisingScoreMatching(process, weighting)
    slopes = []
    for seed in range(40):
        x0 = law.sample(256, generator=torch.Generator().manual_seed(1000 + seed))

        def network(t, x, cond=None, a=0.0):
            return (1 + a) * process.scale(t) * law.score(x, process.schedule.tau(t))

        losses = [
            objective.loss(
                lambda t, x, cond=None, a=a: network(t, x, a=a), Batch(x0), torch.Generator().manual_seed(seed)
            )
            for a in (-0.5, 0.5)
        ]
        slopes.append(losses[1] - losses[0])
    slope = torch.stack(slopes)
    assert abs(slope.mean()) < 5 * slope.std() / math.sqrt(len(slope))
    # Negative control: at 0.6 times the score the slope is not zero.
    off = [
        objective.loss(
            lambda t, x, cond=None, a=a: a * process.scale(t) * law.score(x, process.schedule.tau(t)),
            Batch(law.sample(256, generator=torch.Generator().manual_seed(1000 + s))),
            torch.Generator().manual_seed(s),
        )
        for s in range(20)
        for a in (0.3, 0.9)
    ]
    difference = torch.stack(off).reshape(20, 2).diff(dim=1)[:, 0]
    assert difference.mean() < -5 * difference.std() / math.sqrt(20)


@pytest.mark.parametrize(
    "manifold",
    [*SPACES, Euclidean(2), Product(Sphere(2), Torus(1)), Product(Sphere(2), Torus(1), weights=[3.0, 0.5])],
    ids=repr,
)
def test_implicit_equals_denoising_up_to_a_constant(manifold):
    """E[implicit] - E[denoising] / 2 is the same for any two networks (Stokes)."""
    process = default_process(manifold, 3e-2).double()
    factor_weights = getattr(manifold, "weights", None)
    origin = manifold.origin(torch.float64).expand(4000, *manifold.point_shape)
    x0 = manifold.exp(origin, 0.5 * manifold.random_tangent(origin, generator=torch.Generator().manual_seed(0)))
    frame = torch.randn(manifold.frame_dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def network(t, x, cond=None):
        wave = manifold.embed(x).sum(-1, keepdim=True).sin() + manifold.embed(x)[..., :1].cos()
        return manifold.from_frame(x, frame * wave)

    def zero(t, x, cond=None):
        return torch.zeros_like(x)

    rows = []
    for seed in range(60):
        batch = Batch(x0[torch.randperm(4000, generator=torch.Generator().manual_seed(seed))[:400]])
        implicit = [
            ImplicitScoreMatching(process).loss(f, batch, torch.Generator().manual_seed(seed)) for f in (network, zero)
        ]
        denoising = [
            DenoisingScoreMatching(process).loss(f, batch, torch.Generator().manual_seed(seed)) for f in (network, zero)
        ]
        rows.append(implicit[0] - implicit[1] - (denoising[0] - denoising[1]) / 2)
    gap = torch.stack(rows)
    assert abs(gap.mean()) < 5 * gap.std() / math.sqrt(len(gap)), (gap.mean(), gap.std(), factor_weights)


def test_hutchinson_is_unbiased():
    process = BrownianMotion(Sphere(2), LogSchedule(1e-2, 4.0))
    x0 = mixture(Sphere(2)).sample(64, generator=torch.Generator().manual_seed(0))
    matrix = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def network(t, x, cond=None):
        return Sphere(2).to_tangent(x, x @ matrix)

    gaps = []
    for seed in range(100):
        t = stratified_times(x0, 64, torch.Generator().manual_seed(seed))
        assert ((t * 64).floor() == torch.arange(64)).all()
        losses = [
            objective.loss(network, Batch(x0), torch.Generator().manual_seed(seed))
            for objective in (ImplicitScoreMatching(process), ImplicitScoreMatching(process, "hutchinson", 2))
        ]
        gaps.append(losses[1] - losses[0])
    gap = torch.stack(gaps)
    assert abs(gap.mean()) < 5 * gap.std() / 10


def test_refusals():
    walk = BrownianMotion(Sphere(2), LogSchedule(1e-2, 4.0), n_steps=10)
    with pytest.raises(CapabilityError, match="ImplicitScoreMatching"):
        DenoisingScoreMatching(walk)
    with pytest.raises(ConfigError, match="weighting"):
        DenoisingScoreMatching(BrownianMotion(Sphere(2)), "snr")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="divergence"):
        ImplicitScoreMatching(walk, "exactly")  # pyright: ignore[reportArgumentType]
