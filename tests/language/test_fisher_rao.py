"""Sequences of categories on products of spheres: conversions, and the two phrases in one step."""

import pytest
import torch

from manifold_diffusion._errors import DataError
from manifold_diffusion.data import points_to_tokens, probabilities_to_points, tokens_to_points
from manifold_diffusion.manifolds import Power, Sphere
from manifold_diffusion.models import FlowMap
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import FlowMapMatching
from manifold_diffusion.processes import GeodesicFlow, LinearPath

from .two_phrases import TOKENS, valid


def test_tokens_become_corners_and_come_back():
    tokens = torch.randint(5, (7, 3), generator=torch.Generator().manual_seed(0))
    points = tokens_to_points(tokens, 5)
    Power(Sphere(4), 3).check_point(points)
    assert torch.equal(points_to_tokens(-points), tokens)
    assert torch.equal(probabilities_to_points(points), points)
    for bad in (tokens.float(), tokens - 1, tokens + 1):
        with pytest.raises(DataError):
            tokens_to_points(bad, 5)
    with pytest.raises(DataError, match="sum to one"):
        probabilities_to_points(torch.tensor([0.5, 0.4]))


def test_the_embedding_is_the_metric_of_fisher_and_rao():
    """Length of a curve of probabilities: (1/2) sqrt(sum dp^2 / p)."""
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    dp = torch.tensor([0.1, -0.3, 0.2], dtype=torch.float64)
    length = Sphere(2).norm(p.sqrt(), dp / (2 * p.sqrt()))
    assert length.item() == pytest.approx(0.5 * (dp.square() / p).sum().sqrt().item(), rel=1e-12)
    h = 1e-6
    step = Sphere(2).dist(probabilities_to_points(p - h * dp), probabilities_to_points(p + h * dp)) / (2 * h)
    assert step.item() == pytest.approx(length.item(), rel=1e-6)


@pytest.mark.slow
def test_one_step_of_a_map_on_spheres_draws_pairs_that_belong_together():
    """Phrases are valid jointly; the same tokens drawn independently of each other are valid half of the time."""
    manifold = Power(Sphere(3), 2)
    points = tokens_to_points(TOKENS, 4).repeat(500, 1, 1)
    process = GeodesicFlow(manifold, LinearPath())
    network = TangentMLP(process, width=64, n_frequencies=0, two_times=True)
    model = FlowMap(manifold, process, network, FlowMapMatching(process, pair_fraction=1.0, one_step=0.5))
    model.fit(points, max_steps=1500, batch_size=256, progress=False)
    drawn = points_to_tokens(model.sample(4000, steps=1, generator=torch.Generator().manual_seed(0)))
    assert valid(points_to_tokens(model.sample(4000, steps=4, generator=torch.Generator().manual_seed(0)))) >= 0.99
    shuffled = torch.stack([drawn[:, 0], drawn[torch.randperm(4000, generator=torch.Generator().manual_seed(1)), 1]], 1)
    assert valid(drawn) >= 0.95
    assert 0.45 < valid(shuffled) < 0.55
