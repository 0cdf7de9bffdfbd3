"""Quotients by finite groups and their heat kernels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError
from manifold_diffusion.heat_kernels import HeatKernelMixture, heat_kernel
from manifold_diffusion.manifolds import (
    SO3,
    Hyperboloid,
    Manifold,
    Quotient,
    RealProjective,
    Spectral,
    Sphere,
    Torus,
    geodesic_symmetry,
    rotation_group,
)
from manifold_diffusion.testing import LAWS

from .draws import seeded

F32, F64 = torch.float32, torch.float64
ORDERS = {
    "cyclic:1": 1, "cyclic:2": 2, "cyclic:5": 5, "dihedral:1": 2, "dihedral:2": 4, "dihedral:3": 6, "dihedral:6": 12,
    "tetrahedral": 12, "octahedral": 24, "icosahedral": 60,
}  # fmt: skip
HALF_TURNS = [[math.pi * a, math.pi * b] for a in (0, 1) for b in (0, 1)]


def lens(p: int, q: int) -> list[list[list[float]]]:
    """The cyclic group whose quotient of the three-sphere is the lens space L(p; q)."""
    out = []
    for k in range(p):
        (a, b), (c, d) = ((math.cos(t), math.sin(t)) for t in (2 * math.pi * k / p, 2 * math.pi * k * q / p))
        out.append([[a, -b, 0, 0], [b, a, 0, 0], [0, 0, c, -d], [0, 0, d, c]])
    return out


QUOTIENTS = [
    *[Quotient(SO3(), name) for name in ORDERS],
    Quotient(Sphere(3), lens(5, 2)),
    Quotient(Sphere(2), [torch.eye(3).tolist(), (-torch.eye(3)).tolist()]),
    Quotient(Torus(2), HALF_TURNS),
]
quotients = pytest.mark.parametrize("M", QUOTIENTS, ids=lambda M: f"{M.base}/{M.action.order}")
FEW = [QUOTIENTS[-5], *QUOTIENTS[-3:]]
few = pytest.mark.parametrize("M", FEW, ids=lambda M: f"{M.base}/{M.action.order}")


def uniform(M: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    return M.random_uniform(n, generator=seeded(seed), dtype=dtype)  # pyright: ignore[reportAttributeAccessIssue]


def moved(M: Quotient, x: Tensor, seed: int = 7) -> Tensor:
    """The same points by other representatives."""
    index = torch.randint(M.action.order, (len(x),), generator=seeded(seed))
    return M.action.move(M.action.pick(index, x), x)


# ---------------------------------------------------------------------- groups


@pytest.mark.parametrize("name", ORDERS)
def test_rotation_groups_have_their_order_and_close(name):
    group = rotation_group(name)
    assert group.shape == (ORDERS[name], 3, 3)
    assert torch.equal(group[0], torch.eye(3, dtype=F64))
    assert (group.mT @ group - torch.eye(3)).abs().max() < 1e-14 and (torch.linalg.det(group) - 1).abs().max() < 1e-14
    products = (group[:, None] @ group[None]).reshape(-1, 1, 3, 3)
    assert (products - group).abs().amax((-2, -1)).amin(-1).max() < 1e-13
    inner = (group.reshape(-1, 9) @ group.reshape(-1, 9).mT) / 3  # 1 for equal elements only
    assert int((inner > 1 - 1e-9).sum()) == len(group)


def test_the_least_rotation_angle_halved_is_the_injectivity_radius():
    for name, angle in {"cyclic:5": 72, "tetrahedral": 120, "octahedral": 90, "icosahedral": 72}.items():
        assert Quotient(SO3(), name).injectivity_radius == pytest.approx(math.radians(angle) / 2)
    assert Quotient(Torus(2), HALF_TURNS).injectivity_radius == pytest.approx(math.pi / 2)
    # L(5; 2) moves the points of both axis circles by 2 pi / 5, and no point less.
    assert Quotient(Sphere(3), lens(5, 2)).injectivity_radius == pytest.approx(math.pi / 5)


def test_bad_groups_are_refused():
    turn = rotation_group("cyclic:4")
    cases = [
        (SO3(), "cubic", "no rotation group 'cubic'"),
        (SO3(), "cyclic:0", "order n >= 1"),
        (SO3(), turn[:3], "not a group: the product of elements 1 and 2"),
        (SO3(), torch.cat([turn, turn[1:2]]), r"elements \[1, 4\] twice"),
        (SO3(), 1.1 * turn, "Element 0 of the group is not orthogonal"),
        (SO3(), [torch.eye(3).tolist(), (-torch.eye(3)).tolist()], "Element 1 of the group is a reflection"),
        (Sphere(2), turn, "does not act freely: element 1"),
        (Sphere(2), "octahedral", "needs a list of matrices"),
        (Sphere(3), turn, "list of 4 x 4 matrices"),
        (Torus(1), [[0.0], [1.0]], "not a group"),
        (Torus(2), [[0.0]], "list of shifts of 2 angles"),
    ]
    for base, group, message in cases:
        with pytest.raises(ConfigError, match=message):
            Quotient(base, group)
    with pytest.raises(CapabilityError, match="compact"):
        Quotient(Hyperboloid(2), "octahedral")  # pyright: ignore[reportArgumentType]
    with pytest.raises(CapabilityError, match="no action of a finite group on RealProjective"):
        Quotient(RealProjective(2), [[1.0]])


# ---------------------------------------------------------------------- geometry


@pytest.mark.parametrize("law", ["log_exp_inverse", "dist_is_a_metric", "transport_inverse", "vectors_are_tangent",
                                 "isometries_commute", "log_is_minimal_at_the_cut", "singular_points_are_finite",
                                 "level_sums_on_the_diagonal", "level_sums_are_eigenfunctions"])  # fmt: skip
@pytest.mark.parametrize("name", ["octahedral", "icosahedral"])
def test_laws_hold_for_the_large_groups(law, name):
    LAWS[law](Quotient(SO3(), name), F64, seeded(3))


@quotients
def test_distance_is_that_to_the_nearest_image(M):
    x, y = uniform(M, 60, 1), uniform(M, 60, 2)
    expected = M.base.dist(x, M.images(y)).amin(0)
    torch.testing.assert_close(M.dist(x, y), expected, rtol=1e-9, atol=1e-9)
    assert M.dist(x, moved(M, x)).max() < 1e-7
    assert M.volume == pytest.approx(M.base.volume / M.action.order)


@quotients
def test_nothing_depends_on_the_representative(M):
    x, y = uniform(M, 60, 1), uniform(M, 60, 2)
    p, q, v = moved(M, x), moved(M, y, 8), M.random_tangent(x, seeded(3))
    torch.testing.assert_close(M.log(x, q), M.log(x, y), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(M.embed(p), M.embed(x), rtol=1e-10, atol=1e-10)
    a = torch.randn(60, M.frame_dim, generator=seeded(4), dtype=F64)
    pairs = {
        "log": (x, M.log(x, y), p, M.log(p, y)),
        "transport": (y, M.transport(x, y, v), q, M.transport(x, q, v)),
        "from_frame": (x, M.from_frame(x, a), p, M.from_frame(p, a)),
    }
    for name, (x1, v1, x2, v2) in pairs.items():
        assert M.dist(M.exp(x1, 0.2 * v1), M.exp(x2, 0.2 * v2)).max() < 1e-7, name


def test_body_frame_would_depend_on_the_representative():
    M = Quotient(SO3(), "octahedral")
    x, a = uniform(M, 60, 1), torch.tensor([0.3, 0.1, -0.2], dtype=F64)
    p = moved(M, x)
    assert M.dist(M.exp(x, x @ SO3.hat(a)), M.exp(p, p @ SO3.hat(a))).max() > 0.1


@quotients
def test_embedding_separates_orbits_and_does_not_lengthen(M):
    x, y = uniform(M, 4000, 1), uniform(M, 4000, 2)
    v = M.random_tangent(x, seeded(3))
    near = M.exp(x, M.per_point(0.5 * M.injectivity_radius / M.norm(x, v)) * v)
    for other in (y, near):
        ratio = (M.embed(x) - M.embed(other)).norm(dim=-1) / M.dist(x, other)
        assert float(ratio.max()) <= 1 + 1e-9
        assert float(ratio.min()) > (0.4 if isinstance(M.base, SO3) else 0.1)


@pytest.mark.parametrize("name", ["tetrahedral", "octahedral", "icosahedral"])
def test_embedding_of_polyhedral_quotients_is_isometric(name):
    M = Quotient(SO3(), name)
    x = uniform(M, 5, 1)
    jacobian = torch.stack([torch.func.jvp(M.embed, (x,), (e,))[1] for e in M.tangent_basis(x).unbind(1)], 1)
    torch.testing.assert_close(jacobian @ jacobian.mT, torch.eye(3, dtype=F64).expand(5, 3, 3), rtol=1e-9, atol=1e-9)


def test_groups_may_be_given_as_matrices_in_any_orientation():
    turn = SO3().random_uniform(1, generator=seeded(1), dtype=F64)[0]
    M = Quotient(SO3(), turn @ rotation_group("dihedral:3") @ turn.mT)
    x, y = uniform(M, 50, 1), uniform(M, 50, 2)
    torch.testing.assert_close(M.dist(x @ turn.mT, y @ turn.mT), Quotient(SO3(), "dihedral:3").dist(x, y))
    assert float(((M.embed(x) - M.embed(y)).norm(dim=-1) / M.dist(x, y)).min()) > 0.4


def test_ties_between_images_are_broken_the_same_way_in_a_batch():
    M = Quotient(SO3(), "octahedral")
    turn = SO3().exp(torch.eye(3, dtype=F64), SO3.hat(torch.tensor([0.0, 0.0, math.pi / 4], dtype=F64)))  # halfway
    x = uniform(M, 200, 1)
    body = (x.mT @ M.log(x, x @ turn)).abs()
    torch.testing.assert_close(body, body[:1].expand_as(body), rtol=1e-6, atol=1e-6)
    one = torch.stack([M.log(p, p @ turn) for p in x])
    assert torch.equal(M.log(x, x @ turn), M.log(x, x @ turn))
    torch.testing.assert_close(one, M.log(x, x @ turn), rtol=1e-6, atol=1e-6)


def test_homogeneous_quotients_are_spectral():
    M = Quotient(SO3(), "octahedral")
    assert isinstance(M, Spectral)
    assert M.eigenvalues(4).tolist() == [0, 20, 42, 72]  # l = 0, 4, 6, 8
    assert M.multiplicities(4).tolist() == [1, 9, 13, 17]
    assert not isinstance(Quotient(Sphere(3), lens(5, 2)), Spectral)


def test_configuration_round_trip():
    for M in (Quotient(SO3(), "octahedral"), Quotient(Sphere(3), lens(5, 2)), Quotient(Torus(2), HALF_TURNS)):
        assert from_config(to_config(M)) == M
    assert repr(Quotient(SO3(), "octahedral")) == "Quotient(SO3(), 'octahedral')"
    assert Quotient(SO3(), "octahedral") != Quotient(SO3(), "tetrahedral")


def test_geodesic_symmetry_exists_on_tori_only():
    assert geodesic_symmetry(Quotient(SO3(), "octahedral")) is None
    M = Quotient(Torus(2), HALF_TURNS)
    x, y = uniform(M, 20, 1), uniform(M, 20, 2)
    image, _ = geodesic_symmetry(M)(x, y, y)  # pyright: ignore[reportOptionalCall]
    assert M.dist(image, M.exp(x, -M.log(x, y))).max() < 1e-7


# ---------------------------------------------------------------------- heat kernel


@pytest.mark.parametrize("M", [q for q in QUOTIENTS if isinstance(q, Spectral)][2::2], ids=repr)
@pytest.mark.parametrize("tau", [0.15, 0.8])
def test_kernel_agrees_with_the_level_sums(M, tau):
    x, x0 = uniform(M, 20, 1), uniform(M, 20, 2)
    levels = 8
    while float(M.eigenvalues(levels)[-1]) * tau / 2 < 34:
        levels += 4
    weights = (-M.eigenvalues(levels) * tau / 2).exp()
    expected = (weights * M.level_sums(x, x0, levels)).sum(-1)
    # Where the density is small the series cancels: compare densities with their largest value.
    torch.testing.assert_close(
        heat_kernel(M).log_prob(x, x0, tau).exp(), expected, rtol=1e-7, atol=1e-9 * float(expected.max())
    )


@pytest.mark.parametrize("tau", [1e-6, 1e-3, 0.1, 2.0])
def test_a_circle_by_a_rotation_is_a_shorter_circle(tau):
    M = Quotient(Torus(1), [[2 * math.pi * k / 3] for k in range(3)])
    d = torch.linspace(0, 1, 9, dtype=F64)[:, None] * min(math.pi / 3, 8 * math.sqrt(tau))
    x0 = torch.full_like(d, 0.4)
    short, K = heat_kernel(Torus(1)), heat_kernel(M)
    expected = short.log_prob(3 * d, torch.zeros_like(d), 9 * tau) + math.log(3)
    torch.testing.assert_close(K.log_prob(M.exp(x0, d), x0, tau), expected, rtol=1e-9, atol=1e-9)
    score = 3 * short.score(3 * d, torch.zeros_like(d), 9 * tau)
    torch.testing.assert_close(K.score(M.exp(x0, d), x0, tau), score, rtol=1e-9, atol=1e-9 * float(score.abs().max()))


def test_antipodal_quotient_of_the_sphere_is_the_projective_plane():
    M, P = QUOTIENTS[-2], RealProjective(2)
    x, y = uniform(M, 50, 1), uniform(M, 50, 2)
    torch.testing.assert_close(M.dist(x, y), P.dist(x, y))
    for tau in (1e-4, 0.1, 1.0):
        torch.testing.assert_close(heat_kernel(M).log_prob(x, y, tau), heat_kernel(P).log_prob(x, y, tau))
        torch.testing.assert_close(heat_kernel(M).score(x, y, tau), heat_kernel(P).score(x, y, tau))


@pytest.mark.parametrize("tau", [0.02, 0.3])
@few
def test_total_mass_by_monte_carlo(M, tau):
    # Importance sampling from the kernel at a longer time, which covers the density.
    x0 = M.origin(dtype=F64).expand(20_000, *M.point_shape)
    K = heat_kernel(M)
    x = K.sample(x0, 2 * tau, seeded(1))
    ratio = (K.log_prob(x, x0, tau) - K.log_prob(x, x0, 2 * tau)).exp()
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(len(x))
    assert abs(float(ratio.mean()) * 1.1 - 1) > 5 * float(ratio.std()) / math.sqrt(len(x))


@pytest.mark.parametrize("tau", [1e-4, 0.05, 0.6])
@few
def test_score_is_the_gradient_of_log_prob_and_batched_forms_agree(M, tau):
    K, x0 = heat_kernel(M), uniform(M, 10, 1)
    x = moved(M, K.sample(x0, tau, seeded(2)))
    v = M.random_tangent(x, seeded(3))
    zero = torch.zeros(10, dtype=F64)
    slope = torch.func.jvp(lambda t: K.log_prob(M.exp(x, M.per_point(t) * v), x0, tau), (zero,), (zero + 1,))[1]
    score = K.score(x, x0, tau)
    M.check_tangent(x, score)
    size = float(M.norm(x, score).max())
    torch.testing.assert_close(slope, M.inner(x, score, v), rtol=1e-6, atol=1e-6 * size)
    loop = torch.stack([K.log_prob(x[i], x0, tau) for i in range(10)])
    for times in (torch.full((10,), tau, dtype=F64), torch.tensor([tau], dtype=F64)):
        torch.testing.assert_close(K.pairwise_log_prob(x, x0, times), loop, rtol=1e-7, atol=1e-7)
    mixture = HeatKernelMixture(M, x0, tau)
    field = torch.func.jvp(lambda t: mixture.log_prob(M.exp(x, M.per_point(t) * v)), (zero,), (zero + 1,))[1]
    torch.testing.assert_close(M.inner(x, mixture.score(x), v), field, rtol=1e-6, atol=1e-6 * size)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_samples_have_the_moment_of_the_first_level(dtype):
    M, tau, n = Quotient(SO3(), "octahedral"), 0.08, 20_000
    x0 = M.origin(dtype=dtype).expand(n, 3, 3)
    draw = heat_kernel(M).sample_with_score(moved(M, x0), tau, seeded(4))
    level = M.level_sums(draw.x.double(), x0.double(), 2)[:, 1] / float(M.multiplicities(2)[1] / M.volume)
    error = float(level.std()) / math.sqrt(n)
    assert abs(float(level.mean()) - math.exp(-20 * tau / 2)) < 5 * error
    assert abs(float(level.mean()) - math.exp(-20 * 1.05 * tau / 2)) > 5 * error
    M.check_point(draw.x)
    torch.testing.assert_close(draw.score, heat_kernel(M).score(draw.x, x0, tau), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
@few
def test_kernel_is_finite_everywhere_and_becomes_uniform(M, dtype):
    x0 = M.origin(dtype=dtype).expand(6, *M.point_shape)
    r = M.injectivity_radius * torch.tensor([0.0, 1e-6, 0.5, 1 - 1e-7, 1.0, 1.5], dtype=dtype)
    x = M.exp(x0, M.per_point(r) * M.tangent_basis(x0)[:, -1])
    K, y = heat_kernel(M), x.clone().requires_grad_()
    for tau in (1e-6, 1e-3, 0.1, 1.0, 30.0):
        log_p, score = K.log_prob(y, x0, tau), K.score(y, x0, tau)
        (gradient,) = torch.autograd.grad(log_p.sum() + score.sum(), y)
        assert all(bool(torch.isfinite(a).all()) for a in (log_p, score, gradient))
    even = torch.full((6,), -math.log(M.volume), dtype=dtype)
    torch.testing.assert_close(K.log_prob(x, x0, 30.0), even, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("M", [FEW[0], FEW[1]], ids=lambda M: f"{M.base}/{M.action.order}")
def test_a_model_trains_and_its_likelihood_does_not_see_the_representative(M, tmp_path):
    x0 = M.origin().expand(256, *M.point_shape)
    data = moved(M, heat_kernel(M).sample(x0, 0.02, seeded(1)))
    model = RiemannianDiffusion(M)
    model.fit(data, max_steps=20, batch_size=32, out_dir=tmp_path / "run")
    a = model.log_prob(data[:4], tolerance=1e-3)
    b = model.log_prob(moved(M, data[:4], 3), tolerance=1e-3)
    assert torch.isfinite(a).all()
    torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
