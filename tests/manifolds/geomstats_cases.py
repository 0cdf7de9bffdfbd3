"""Spaces of geomstats on its pytorch backend: tests/manifolds/test_geomstats.py runs this file in its own process."""

from __future__ import annotations

import copy
import math
import pickle
import re
from pathlib import Path

import pytest
import torch

from manifold_diffusion._config import from_config, to_config
from manifold_diffusion._errors import CapabilityError, ConfigError, ManifoldError
from manifold_diffusion.manifolds import GeomstatsManifold, Hyperboloid, Manifold, Sphere, divergence, from_geomstats
from manifold_diffusion.manifolds._geomstats_space import load_geomstats
from manifold_diffusion.testing import LawError, check_manifold

GEOMETRY, INFORMATION = "geomstats.geometry", "geomstats.information_geometry"
F64 = torch.float64

CUT = "geomstats divides by the sine of the distance, which is zero at antipodes"
NORM = "geomstats squares a square root: no derivative at the zero vector"
ACOS = "geomstats differentiates an arc cosine at 1, and divides by zero at antipodes"
EIGEN = "the derivative of torch.linalg.eigh is singular at repeated eigenvalues; entries overflow at distance 20"
SERIES = "geomstats takes the quotient of tanh and its argument as constant: 0.1 % wrong at length 1e-6"
CHART = "geomstats maps through the unit ball, where points at distance 20 are on the boundary"

SPACES = {
    "sphere": (f"{GEOMETRY}.hypersphere.Hypersphere", {"dim": 2}),
    "covariances": (f"{GEOMETRY}.spd_matrices.SPDMatrices", {"n": 2}),
    "log-euclidean": (
        f"{GEOMETRY}.spd_matrices.SPDMatrices",
        {"n": 2},
        f"{GEOMETRY}.spd_matrices.SPDLogEuclideanMetric",
    ),
    "normal": (f"{INFORMATION}.normal.UnivariateNormalDistributions",),
    "product": (
        f"{GEOMETRY}.product_manifold.ProductManifold",
        {
            "factors": [
                {"path": f"{GEOMETRY}.hypersphere.Hypersphere", "arguments": {"dim": 2}},
                {"path": f"{GEOMETRY}.euclidean.Euclidean", "arguments": {"dim": 1}},
            ]
        },
    ),
    "lines": (f"{GEOMETRY}.grassmannian.Grassmannian", {"n": 3, "p": 1}),
}

SKIPPED: dict[str, dict[str, str]] = {
    "sphere": {
        "derivatives_at_zero": NORM,
        "singular_points_are_finite": ACOS,
        "log_is_minimal_at_the_cut": CUT,
    },
    "covariances": {"derivatives_at_zero": EIGEN, "singular_points_are_finite": EIGEN},
    "log-euclidean": {"singular_points_are_finite": EIGEN},
    "normal": {"exp_log_inverse": SERIES, "derivatives_at_zero": NORM, "singular_points_are_finite": CHART},
    "product": {
        "derivatives_at_zero": NORM,
        "singular_points_are_finite": ACOS,
        "log_is_minimal_at_the_cut": CUT,
    },
    "lines": {},
}

SLOW = {"lines", "log-euclidean", "product", "normal", "sphere"}
NAMES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in SPACES]


@pytest.fixture(autouse=True)
def backend() -> None:
    assert load_geomstats() == "pytorch", "run through tests/manifolds/test_geomstats.py"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(m: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64) -> torch.Tensor:
    origin = m.origin(dtype=dtype).expand(n, *m.point_shape)
    return m.exp(origin, 0.5 * m.random_tangent(origin, generator=generator(seed)))


# ---------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", NAMES)
def test_laws(name: str) -> None:
    records = check_manifold(from_geomstats(*SPACES[name]), skip=SKIPPED[name])
    assert {r.law for r in records if not r.passed} == set(SKIPPED[name])
    assert sum(r.passed for r in records) > 40


@pytest.mark.parametrize("name", [n for n in SPACES if SKIPPED[n]])
def test_what_is_skipped_does_fail(name: str) -> None:
    m = from_geomstats(*SPACES[name])
    for law in SKIPPED[name]:
        with pytest.raises(LawError, match=law):
            check_manifold(m, laws=[law])


def test_minkowski_projection_becomes_the_euclidean_one() -> None:
    """geomstats projects orthogonally in the Minkowski metric; the divergence needs the Euclidean projection."""
    m = from_geomstats(f"{GEOMETRY}.hyperboloid.Hyperboloid", {"dim": 2})
    check_manifold(
        m,
        dtypes=[F64],
        skip={"singular_points_are_finite": "geomstats refuses to project points on the light cone, by an error"},
    )
    ours, x = Hyperboloid(2), sample(m, 8)

    def field(p: torch.Tensor) -> torch.Tensor:
        return ours.to_tangent(p, p.roll(1, -1).sin())

    torch.testing.assert_close(divergence(m, field, x)[1], divergence(ours, field, x)[1])


def test_a_space_that_contradicts_itself_is_found() -> None:
    """In geomstats 2.8 the exponential map of diagonal normal laws is not that of their metric."""
    m = from_geomstats(f"{INFORMATION}.normal.DiagonalNormalDistributions", {"sample_dim": 2})
    with pytest.raises(LawError, match="gradient_of_squared_distance"):
        check_manifold(m, dtypes=[F64], laws=["gradient_of_squared_distance"])


# ---------------------------------------------------------------------- agreement


def test_sphere_agrees_with_ours() -> None:
    m, ours = from_geomstats(*SPACES["sphere"]), Sphere(2)
    x, y = ours.random_uniform(2 * 64, generator=generator(), dtype=F64).split(64)
    v = 0.5 * ours.random_tangent(x, generator=generator())
    torch.testing.assert_close(m.exp(x, v), ours.exp(x, v), rtol=0, atol=1e-12)
    torch.testing.assert_close(m.log(x, y), ours.log(x, y), rtol=0, atol=1e-9)
    torch.testing.assert_close(m.transport(x, y, v), ours.transport(x, y, v), rtol=0, atol=1e-9)


def test_matrix_logarithm_has_second_derivatives() -> None:
    """On rotations geomstats takes the logarithm by scipy, whose derivative torch can't see."""
    m = from_geomstats(f"{GEOMETRY}.special_orthogonal.SpecialOrthogonal", {"n": 3})
    x, y = sample(m, 3, 1), sample(m, 3, 2)
    check = {"fast_mode": True, "atol": 1e-6}
    inputs = (x.clone().requires_grad_(), y.clone().requires_grad_())
    assert torch.autograd.gradcheck(m.log, inputs, check_forward_ad=True, **check)
    assert torch.autograd.gradgradcheck(m.log, inputs, **check)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_batch_shape_and_dtype_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    m = from_geomstats(*SPACES["covariances"])
    x = sample(m, math.prod(shape), dtype=dtype).reshape(*shape, 2, 2)
    v = m.random_tangent(x, generator=generator())
    y = m.exp(x, v)
    for point in (y, m.log(x, y), m.project(y), m.transport(x, y, v)):
        assert (point.shape, point.dtype) == (x.shape, dtype)
    assert (m.dist(x, y).shape, m.dist(x, y).dtype) == (shape, dtype)
    assert m.defect(y).shape == shape


def test_no_global_state_changes() -> None:
    seed, dtype = torch.initial_seed(), torch.get_default_dtype()
    m = from_geomstats(*SPACES["sphere"])
    m.exp(m.random_point(3, dtype=torch.float32), torch.zeros(3, 3))
    assert (torch.initial_seed(), torch.get_default_dtype()) == (seed, dtype) == (seed, torch.float32)


def test_random_points_follow_the_generator() -> None:
    m = from_geomstats(*SPACES["normal"])
    a, b, c = (m.random_point(5, generator=generator(s)) for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)
    m.check_point(a)


def test_points_outside_are_refused() -> None:
    m = from_geomstats(*SPACES["normal"])  # an open set, onto which geomstats does not project
    with pytest.raises(ManifoldError, match="row 1"):
        m.check_point(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
    with pytest.raises(ManifoldError, match="Project first"):
        from_geomstats(*SPACES["sphere"]).check_point(torch.tensor([[1.0, 0.1, 0.0]]))


# ---------------------------------------------------------------------- a value


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_saved_by_name_and_arguments(name: str) -> None:
    m = from_geomstats(*SPACES[name])
    same = from_geomstats(m.space)
    for other in (same, from_config(to_config(m)), pickle.loads(pickle.dumps(m)), copy.deepcopy(m)):
        assert other == m and hash(other) == hash(m) and isinstance(other, GeomstatsManifold)
    assert from_geomstats(*SPACES["sphere"][:1], {"dim": 3}) != m


def test_a_space_without_a_name_is_not_saved() -> None:
    from geomstats.geometry.hypersphere import Hypersphere

    class Mine(Hypersphere):
        pass

    m = from_geomstats(Mine(dim=2))
    assert m == copy.deepcopy(m) and m != from_geomstats(Mine(dim=2))
    with pytest.raises(ConfigError, match="can't be saved"):
        to_config(m)


def test_bad_spaces() -> None:
    from geomstats.geometry.hermitian_matrices import HermitianMatrices
    from geomstats.geometry.hypersphere import Hypersphere
    from geomstats.geometry.minkowski import Minkowski

    with pytest.raises(ManifoldError, match="has no dim"):
        from_geomstats(Hypersphere)
    with pytest.raises(ManifoldError, match="equip_with_metric"):
        from_geomstats(Hypersphere(dim=2, equip=False))
    with pytest.raises(ManifoldError, match="signature"):
        from_geomstats(Minkowski(dim=2))
    with pytest.raises(ManifoldError, match="complex"):
        from_geomstats(HermitianMatrices(n=2))
    with pytest.raises(ConfigError, match="go with an import path"):
        from_geomstats(Hypersphere(dim=2), {"dim": 2})
    for path in ("os.system", "geomstats.datasets.utils.load_cities", f"{GEOMETRY}.hypersphere.NoSuch", "Hypersphere"):
        with pytest.raises(ConfigError, match="path"):
            from_geomstats(path)
    with pytest.raises(ConfigError, match="can't be built"):
        from_geomstats(f"{GEOMETRY}.hypersphere.Hypersphere", {"n": 2})


def test_what_geomstats_lacks_is_said() -> None:
    m = from_geomstats(f"{GEOMETRY}.spd_matrices.SPDMatrices", {"n": 2}, f"{GEOMETRY}.spd_matrices.SPDEuclideanMetric")
    x = m.random_point(2)
    m.space.metric.log = lambda point, base_point: None
    with pytest.raises(CapabilityError, match="no logarithm"):
        m.log(x, x.flip(0))


def test_a_derivative_that_leaves_torch_is_refused() -> None:
    m = from_geomstats(f"{GEOMETRY}.spd_matrices.SPDMatrices", {"n": 2}, f"{GEOMETRY}.spd_matrices.LieCholeskyMetric")
    x = m.random_point(2)
    m.check_point(m.exp(x, m.random_tangent(x, generator=generator())))
    with pytest.raises(CapabilityError, match="outside autograd"):
        torch.autograd.grad(m.exp(x.requires_grad_(), torch.ones_like(x)).sum(), x)


def test_metrics_that_differentiate_inside_have_values() -> None:
    """The Fisher metric of beta laws integrates its geodesics, with Christoffel symbols from derivatives."""
    m = from_geomstats(f"{INFORMATION}.beta.BetaDistributions")
    x = torch.tensor([[2.0, 3.0]], dtype=F64)
    v = 0.2 * m.random_tangent(x, generator=generator())
    assert float(m.norm(x, m.log(x, m.exp(x, v)) - v)) <= 1e-3 * float(m.norm(x, v))


def test_a_stated_radius_is_used() -> None:
    assert from_geomstats(*SPACES["sphere"][:2], radius=1.0).injectivity_radius == 1.0
    assert from_geomstats(*SPACES["product"]).injectivity_radius == pytest.approx(math.pi)
    with pytest.raises(ConfigError, match="positive"):
        from_geomstats(*SPACES["sphere"][:2], radius=0.0)


# ---------------------------------------------------------------------- training


@pytest.mark.slow
def test_it_trains_without_a_kernel(tmp_path: Path) -> None:
    from manifold_diffusion import RiemannianDiffusion
    from manifold_diffusion.networks import TangentMLP
    from manifold_diffusion.objectives import ImplicitScoreMatching
    from manifold_diffusion.processes import Langevin, LogSchedule
    from manifold_diffusion.training import fit

    m = from_geomstats(*SPACES["normal"])
    points = sample(m, 128, dtype=torch.float32)
    process = Langevin(m, LogSchedule(1e-2, 1.0), sigma=0.6, n_steps=3)
    network = TangentMLP(process, width=16, n_frequencies=8)
    options = {"max_steps": 15, "batch_size": 32, "log_every": 1, "progress": False}
    result = fit(network, ImplicitScoreMatching(process), points, manifold=m, **options)
    losses = [row.train_loss for row in result.history if row.train_loss is not None]
    assert sum(losses[-5:]) < sum(losses[:5])
    model = RiemannianDiffusion(m, process, network)
    x = model.sample(5, generator=generator(), steps=5)
    m.check_point(x)
    assert bool(torch.isfinite(model.log_prob(x, tolerance=1e-2)).all())
    model.save_pretrained(tmp_path)
    assert RiemannianDiffusion.from_pretrained(tmp_path).manifold == m


def test_the_code_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs/manifolds/geomstats.md"
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(page), "exec"), names)
