"""Brownian bridges: exact draws, densities and drifts, and mixtures of them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import CapabilityError, ConfigError, DataError, NumericsError
from manifold_diffusion.heat_kernels import draw_bridge, heat_kernel, pinned
from manifold_diffusion.manifolds import (
    SO3,
    SPD,
    SU,
    ConstantCurvature,
    Euclidean,
    Grassmann,
    Hyperboloid,
    PoincareBall,
    Power,
    Product,
    Quotient,
    RealProjective,
    Sphere,
    Torus,
    gradient,
)
from manifold_diffusion.processes import BridgeMixture, BrownianBridge, EmpiricalPrior

WEIGHTED = Product(Sphere(2), Euclidean(1), weights=[2.0, 1.0])
H2, S2_OF_CURVATURE_4 = Hyperboloid(2), ConstantCurvature(2, 4.0)


def cosine(x, y):
    return (x * y).sum(-1)


# Manifold, total time, an observable of two points and its mean after Brownian time s.
LAWS = [
    (Euclidean(2), 0.7, lambda x, y: (x - y).square().sum(-1), lambda s: 2 * s),
    (Torus(2), 3.0, lambda x, y: (x - y).cos().sum(-1), lambda s: 2 * math.exp(-s / 2)),
    (Torus(1, [3.0]), 0.5, lambda x, y: (2 * math.pi / 3 * (x - y)[..., 0]).cos(), lambda s: math.exp(-2.193245 * s)),
    (Sphere(1), 1.0, cosine, lambda s: math.exp(-s / 2)),
    (Sphere(2), 0.7, cosine, lambda s: math.exp(-s)),
    (SO3(), 1.5, lambda x, y: (x * y).sum((-1, -2)), lambda s: 3 * math.exp(-s)),
    (H2, 0.7, lambda x, y: H2.dist(x, y).cosh(), math.exp),
    (PoincareBall(2), 0.7, lambda x, y: PoincareBall(2).dist(x, y).cosh(), math.exp),
    (S2_OF_CURVATURE_4, 0.2, lambda x, y: (2 * S2_OF_CURVATURE_4.dist(x, y)).cos(), lambda s: math.exp(-4 * s)),
    (RealProjective(2), 0.4, lambda x, y: cosine(x, y).square(), lambda s: 1 / 3 + 2 / 3 * math.exp(-3 * s)),
    (Power(Sphere(2), 2), 0.7, lambda x, y: (x * y).sum((-1, -2)), lambda s: 2 * math.exp(-s)),
    (WEIGHTED, 0.7, lambda x, y: cosine(x[..., :3], y[..., :3]), lambda s: math.exp(-s / 2)),
]


def ends(manifold, tau, n, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0 = manifold.origin(dtype).expand(n, *manifold.point_shape)
    return x0, heat_kernel(manifold).sample(x0, tau, generator), generator


def z_score(values, mean):
    values = values.double()
    return float((values.mean() - mean) / (values.std() / len(values) ** 0.5))


@pytest.mark.parametrize("dtype", [pytest.param(torch.float64, marks=pytest.mark.slow), torch.float32], ids=str)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: repr(law[0]))
def test_bridges_between_ends_of_brownian_motion_are_brownian_motion(law, dtype):
    manifold, tau, observable, mean = law
    x0, x1, generator = ends(manifold, tau, 6000, dtype)
    t = torch.tensor([0.15, 0.5, 0.8], dtype=dtype).repeat_interleave(2000)
    x = BrownianBridge(manifold, tau).sample(x0, x1, t, generator)
    assert x.dtype == dtype
    manifold.check_point(x)
    for i in range(3):
        rows, s = slice(2000 * i, 2000 * (i + 1)), tau * float(t[2000 * i])
        assert abs(z_score(observable(x0[rows], x[rows]), mean(s))) < 5
        assert abs(z_score(observable(x1[rows], x[rows]), mean(tau - s))) < 5
    # Negative control: the geodesic between the ends has another law.
    wrong = manifold.geodesic(x0, x1, t)
    assert abs(z_score(observable(x0[2000:4000], wrong[2000:4000]), mean(tau / 2))) > 5


def sphere_grid(n=120):
    u, w = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(n))
    phi = torch.arange(2 * n, dtype=torch.float64) * math.pi / n
    s = (1 - u * u).sqrt().unsqueeze(1)
    x = torch.stack([s * phi.cos(), s * phi.sin(), u.unsqueeze(1).expand(-1, 2 * n)], -1)
    return x.reshape(-1, 3), (w * math.pi / n).repeat_interleave(2 * n)


@pytest.mark.parametrize("angle", [0.01, 1.5, 3.0, math.pi])
@pytest.mark.parametrize("t", [0.2, 0.5])
def test_a_bridge_of_fixed_ends_has_the_density_by_quadrature(angle, t):
    bridge, (grid, weight), n = BrownianBridge(Sphere(2), 0.15), sphere_grid(), 4000
    x0 = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    x1 = torch.tensor([math.sin(angle), 0.0, math.cos(angle)], dtype=torch.float64)
    p = bridge.log_prob(grid, x0, x1, t).exp() * weight
    assert abs(float(p.sum()) - 1) < 1e-6
    x = bridge.sample(x0.expand(n, 3), x1, t, torch.Generator().manual_seed(1))
    for k in range(3):
        assert abs(z_score(x[:, k], float((p * grid[:, k]).sum()))) < 5
        assert abs(z_score(x[:, k].square(), float((p * grid[:, k].square()).sum()))) < 5
    # Negative control: a later time.
    later = bridge.sample(x0.expand(n, 3), x1, t + 0.3, torch.Generator().manual_seed(1))
    assert abs(z_score(later[:, 1].square(), float((p * grid[:, 1].square()).sum()))) > 5


@pytest.mark.parametrize(
    "manifold, reach",
    [
        (Sphere(1), 3.1),
        (Sphere(2), math.pi),
        (H2, 4.0),
        *(pytest.param(m, r, marks=pytest.mark.slow) for m, r in ((Sphere(7), 3.0), (Hyperboloid(5), 2.0))),
    ],
    ids=repr,
)
def test_envelopes_of_the_rejection_samplers_lie_above_the_bridge(monkeypatch, manifold, reach):
    seen, reject = [], pinned._reject

    def spy(propose, *rest):
        def watched(row):
            x, log_accept = propose(row)
            seen.append(log_accept)
            return x, log_accept

        return reject(watched, *rest)

    monkeypatch.setattr(pinned, "_reject", spy)
    generator, n = torch.Generator().manual_seed(0), 500
    x0 = manifold.origin(torch.float64).expand(n, *manifold.point_shape)
    v = manifold.random_tangent(x0, generator=generator)
    x1 = manifold.exp(
        x0, torch.linspace(0.01, reach, n, dtype=torch.float64)[:, None] * v / manifold.norm(x0, v)[:, None]
    )
    for tau in (0.02, 0.3, 3.0):
        for t in (0.03, 0.5, 0.8):
            BrownianBridge(manifold, tau).sample(x0, x1, t, generator)
    log_accept = torch.cat(seen)
    assert float(log_accept.max()) < 1e-7
    assert float(log_accept.exp().mean()) > 0.04  # and it is not far above


@pytest.mark.parametrize("law", LAWS, ids=lambda law: repr(law[0]))
def test_drifts_are_gradients_and_the_bridge_is_its_own_reversal(law):
    manifold, tau = law[:2]
    x0, x1, generator = ends(manifold, tau, 20)
    bridge = BrownianBridge(manifold, tau)
    x = bridge.sample(x0, x1, 0.4, generator)
    slope = gradient(manifold, lambda p: bridge.log_prob(p, x0, x1, 0.4), x)
    score = bridge.score(x, x0, x1, 0.4)
    assert float(manifold.norm(x, slope - score).max()) < 1e-4 * float(manifold.norm(x, score).max())
    torch.testing.assert_close(bridge.log_prob(x, x0, x1, 0.4), bridge.log_prob(x, x1, x0, 0.6), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(bridge.drift_to_1(x, x1, 0.4), bridge.drift_to_0(x, x1, 0.6))
    flow = 0.5 * tau * (bridge.drift_to_1(x, x1, 0.4) - bridge.drift_to_0(x, x0, 0.4))
    torch.testing.assert_close(bridge.velocity(x, x0, x1, 0.4), flow)


def test_the_density_of_a_bridge_integrates_to_one_and_its_h_transform_is_a_martingale():
    """E[p_r(x_t, x1) / p_tau(x0, x1)] = 1 over Brownian motion from x0: Chapman and Kolmogorov."""
    manifold, tau = Sphere(2), 0.6
    grid, weight = sphere_grid(60)
    x0, x1 = torch.eye(3, dtype=torch.float64)[:2]
    bridge, kernel = BrownianBridge(manifold, tau), heat_kernel(manifold)
    for t in (0.2, 0.7):
        assert abs(float((bridge.log_prob(grid, x0, x1, t).exp() * weight).sum()) - 1) < 1e-8
        # Pairs (x0, x1) ~ p_tau: averaging the bridge density over x1 gives the heat kernel back.
        joint = (bridge.log_prob(x1, x0, grid, t) + kernel.log_prob(grid, x0, tau)).exp() * weight
        torch.testing.assert_close(joint.sum(), kernel.log_prob(x1, x0, tau * t).exp(), rtol=1e-8, atol=0)


def test_ends_and_broadcast_and_empty_batches():
    bridge, generator = BrownianBridge(Sphere(2), 0.5), torch.Generator().manual_seed(0)
    x0, x1 = torch.eye(3)[0], torch.eye(3)[1]
    x = bridge.sample(x0.expand(3, 2, 3), x1, torch.tensor([0.0, 1.0]), generator)
    torch.testing.assert_close(x[:, 0], x0.expand(3, 3))
    torch.testing.assert_close(x[:, 1], x1.expand(3, 3))
    assert bridge.sample(torch.empty(0, 3), torch.empty(0, 3), 0.5, generator).shape == (0, 3)
    for near in (1e-7, 1 - 1e-7):
        assert bool(bridge.sample(x0.expand(50, 3), x1, near, generator).isfinite().all())


@pytest.mark.parametrize("manifold", [Quotient(SO3(), "dihedral:2"), Power(Quotient(SO3(), "cyclic:3"), 2)], ids=repr)
def test_quotients_draw_through_all_images(manifold):
    """Against the heat kernel's own samples, by the mean distance to a fixed point."""
    x0, x1, generator = ends(manifold, 0.8, 4000)
    x = BrownianBridge(manifold, 0.8).sample(x0, x1, 0.5, generator)
    direct = heat_kernel(manifold).sample(x0, 0.4, generator)
    a, b = manifold.dist(x0, x), manifold.dist(x0, direct)
    error = ((a.var() + b.var()) / 4000) ** 0.5
    assert abs(a.mean() - b.mean()) < 5 * error
    assert abs(manifold.dist(x0, x1).mean() - b.mean()) > 5 * error


@pytest.mark.slow
def test_simulated_bridges_are_of_weak_order_one():
    manifold, tau, n, (grid, weight) = Sphere(2), 1.0, 200_000, sphere_grid(60)
    x0 = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    x1 = torch.tensor([math.sin(2.0), 0.0, math.cos(2.0)], dtype=torch.float64)
    mean = float((BrownianBridge(manifold, tau).log_prob(grid, x0, x1, 0.5).exp() * weight * grid[:, 0]).sum())
    errors = []
    for steps in (2, 4, 8):
        bridge = BrownianBridge(manifold, tau, n_steps=steps)
        x = bridge.sample(x0.expand(n, 3), x1, 0.5, torch.Generator().manual_seed(steps))[:, 0]
        errors.append(float(x.mean()) - mean)
    noise = 0.4 / n**0.5
    for coarse, fine in pairwise(errors):
        assert abs(coarse - 2 * fine) < 5 * 5**0.5 * noise + 0.15 * abs(coarse)
    assert abs(errors[0]) > 0.04


def test_a_manifold_without_exact_draw_is_simulated():
    manifold = SU(2)
    with pytest.raises(CapabilityError, match="n_steps=100"):
        BrownianBridge(manifold, 1.0)
    with pytest.raises(CapabilityError, match="no exact draw"):
        BrownianBridge(Product(Sphere(2), SPD(2)), 1.0)
    x0, x1, generator = ends(manifold, 0.5, 200)
    x = BrownianBridge(manifold, 0.5, n_steps=20).sample(x0, x1, 0.7, generator)
    manifold.check_point(x)
    with pytest.raises(CapabilityError, match="heat kernel"):
        BrownianBridge(Grassmann(4, 2), 1.0, n_steps=20)


def test_bad_times_are_refused():
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="tau"):
            BrownianBridge(Sphere(2), tau)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        BrownianBridge(Sphere(2), 1.0).sample(torch.eye(3)[:1], torch.eye(3)[1:2], 1.5)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        BrownianBridge(Sphere(2), 1.0).sample(torch.eye(3)[:1], torch.eye(3)[1:2], math.nan)
    with pytest.raises(ConfigError, match="n_steps"):
        BrownianBridge(Sphere(2), 1.0, n_steps=0)


def test_a_hopeless_rejection_says_what_to_do(monkeypatch):
    monkeypatch.setattr(pinned, "_ROUNDS", 2)
    x0 = H2.origin().expand(5, 3)
    x1 = H2.exp(x0, torch.tensor([0.0, 30.0, 0.0]))
    with pytest.raises(NumericsError, match="n_steps=100"):
        draw_bridge(H2, x0, x1, torch.full((5,), 1e-3), torch.full((5,), 1.0), torch.Generator().manual_seed(0))


# ---------------------------------------------------------------------- mixtures


@pytest.mark.parametrize("direction", ["to_0", "to_1"])
def test_the_target_is_of_unit_scale_and_its_mean_is_the_drift(direction):
    """Pairs of Brownian motion: E|g|^2 = dim at all times, and the forward drift of the reference is zero."""
    manifold, tau, n = Sphere(2), 0.5, 4000
    x0, x1, generator = ends(manifold, tau, n)
    process = BridgeMixture(manifold, tau, direction=direction)
    for time in (0.01, 0.5, 0.99):
        path = process.sample_pairs(x0, x1, torch.full((n,), time, dtype=torch.float64), generator)
        size = manifold.inner(path.x_t, path.target, path.target)
        assert 0.6 * 2 < float(size.mean()) < 1.4 * 2
        axis = manifold.to_tangent(path.x_t, torch.eye(3, dtype=torch.float64)[2].expand(n, 3))
        z = z_score(manifold.inner(path.x_t, path.target, axis), 0.0)
        # Towards 1 the motion is Brownian, without drift; towards 0 it returns to the point where it began.
        assert abs(z) < 5 if direction == "to_1" else z > 5


def test_couplings_choose_the_ends():
    x1 = torch.tensor([[-3.0], [3.0]])

    def nearest(x0, ends, generator):
        return (x0 - ends.mT).abs().argmin(1)

    x0 = torch.tensor([[-1.0], [1.0]]).repeat(500, 1)
    for coupling, correlated in ((nearest, True), (None, False)):
        process = BridgeMixture(Euclidean(1), 0.01, EmpiricalPrior(x1), coupling, direction="to_1")
        path = process.sample(x0, torch.full((1000,), 0.9), torch.Generator().manual_seed(0))
        correlation = float(torch.corrcoef(torch.cat([x0, path.x_t], 1).T)[0, 1])
        assert (correlation > 0.99) is correlated


def test_terms_of_a_mixture():
    manifold, tau = Euclidean(1), 2.0
    forward = BridgeMixture(manifold, tau, direction="to_1")
    backward = BridgeMixture(manifold, tau, direction="to_0")
    t, x = torch.tensor([0.25]), torch.zeros(1, 1)

    def up(t, x, cond=None):
        return torch.ones_like(x)

    def down(t, x, cond=None):
        return -torch.ones_like(x)

    left, gone = (tau * 0.75) ** -0.5, (tau * 0.25) ** -0.5
    torch.testing.assert_close(forward.terms(up).reverse.drift(t, x), torch.tensor([[tau * left]]))
    torch.testing.assert_close(backward.terms(down).reverse.drift(t, x), torch.tensor([[tau * gone]]))
    torch.testing.assert_close(forward.terms(up).reverse.diffusion(t, x), torch.tensor([[tau**0.5]]))
    flow = torch.tensor([[0.5 * tau * (left + gone)]])
    torch.testing.assert_close(forward.terms(up, partner=down).flow.velocity(t, x), flow)
    torch.testing.assert_close(backward.terms(down, partner=up).flow.velocity(t, x), flow)
    torch.testing.assert_close(forward.score(up(t, x), x, t, down(t, x)), torch.tensor([[left - gone]]))
    with pytest.raises(CapabilityError, match="partner"):
        forward.terms(up).flow.velocity(t, x)
    with pytest.raises(CapabilityError, match="closed form"):
        forward.log_transition(x, x, t)


def test_bad_mixtures_and_priors_are_refused():
    with pytest.raises(ConfigError, match="direction"):
        BridgeMixture(Sphere(2), direction="forward")
    with pytest.raises(ConfigError, match="tau_min"):
        BridgeMixture(Sphere(2), 0.1, tau_min=0.2)
    with pytest.raises(ConfigError, match="EmpiricalPrior"):
        BridgeMixture(Sphere(2)).sample(torch.eye(3), torch.full((3,), 0.5))
    for points in (torch.empty(0, 3), torch.full((2, 3), math.nan), torch.zeros(3)):
        with pytest.raises(DataError):
            EmpiricalPrior(points)
    with pytest.raises(CapabilityError, match="HeatKernelMixture"):
        EmpiricalPrior(torch.eye(3)).log_prob(torch.eye(3))
