"""Laws of exp, log, distance, transport and bases."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import LieGroup, Manifold
from .isometries import random_isometry
from .laws import law, require_small, require_zero_mean
from .sampling import random_points, random_vectors, reach

__all__: list[str] = []

_N = 64
_SCALES = (1e-6, 1e-3, 0.1, 0.5, 0.9, 1.0)


def _gap(manifold: Manifold, x: Tensor, y: Tensor) -> Tensor:
    """Difference of points or vectors, largest entry, relative to the size of ``x``."""
    batch = manifold.batch_shape(x)
    return (x - y).abs().reshape(*batch, -1).amax(-1) / (1 + x.abs().reshape(*batch, -1).amax(-1))


def _normal_part(manifold: Manifold, x: Tensor, v: Tensor) -> Tensor:
    return _gap(manifold, v, manifold.to_tangent(x, v)) / (1 + x.abs().amax()) ** 2


def _is_tangent_everywhere(manifold: Manifold, x: Tensor, v: Tensor) -> bool:
    """Whether vectors tangent at one point are tangent at the others, to single precision."""
    other = x.roll(1, 0)
    return float((_normal_part(manifold, other, v)).max()) < 1e-5


@law()
def points_stay_on_the_manifold(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``exp``, ``geodesic`` and ``project`` give points; ``check_point`` and ``check_tangent`` accept them."""
    x = random_points(manifold, _N, dtype, generator)
    v = random_vectors(manifold, x, generator, 0, 3)
    y = manifold.exp(x, v)
    for point in (x, y, manifold.geodesic(x, y, 0.3), manifold.project(y), manifold.origin(dtype=dtype)):
        manifold.check_point(point)
    for vector in (v, manifold.log(x, y), manifold.random_tangent(x, generator=generator)):
        manifold.check_tangent(x, vector)


@law()
def project_is_idempotent(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``project`` fixes the points of the manifold and sends points close to it onto it."""
    x = random_points(manifold, _N, dtype, generator)
    require_small(manifold, "project_is_idempotent", _gap(manifold, x, manifold.project(x)), "|x - project(x)|")
    near = manifold.project(x + 1e-2 * torch.randn(x.shape, generator=generator, dtype=dtype))
    require_small(
        manifold, "project_is_idempotent", _gap(manifold, near, manifold.project(near)), "|p - project(p)|, p projected"
    )


@law()
def to_tangent_is_a_projection(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``to_tangent`` is a linear projection, orthogonal in the Euclidean metric where ``isometric`` is False.

    Where the tangent space is the same at all points it may be orthogonal in the manifold's own metric instead.
    """
    x = random_points(manifold, _N, dtype, generator)
    a, b = (torch.randn(x.shape, generator=generator, dtype=dtype) for _ in range(2))
    pa, pb = manifold.to_tangent(x, a), manifold.to_tangent(x, b)
    name = "to_tangent_is_a_projection"
    require_small(manifold, name, _gap(manifold, pa, manifold.to_tangent(x, pa)), "|P a - P P a|")
    require_small(
        manifold, name, _gap(manifold, pa - 2 * pb, manifold.to_tangent(x, a - 2 * b)), "|P a - 2 P b - P (a - 2 b)|"
    )
    if not manifold.isometric:
        skew = (pa * b - a * pb).reshape(_N, -1).sum(-1).abs()
        size = (pa * b).reshape(_N, -1).abs().sum(-1)
        if float((skew / (1 + size)).max()) > 1e-2 and _is_tangent_everywhere(manifold, x, pa):
            skew = (manifold.inner(x, pa, b) - manifold.inner(x, a, pb)).abs()
            size = manifold.inner(x, pa, pa) + manifold.inner(x, pb, pb)
        require_small(manifold, name, skew / (1 + size), "|P a . b - a . P b|")


@law()
def metric_is_an_inner_product(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``inner`` is symmetric, bilinear and positive on tangent vectors, and ``norm`` is its root."""
    x = random_points(manifold, _N, dtype, generator)
    u, v, w = (random_vectors(manifold, x, generator, 0.1, 2) for _ in range(3))
    name = "metric_is_an_inner_product"
    require_small(manifold, name, (manifold.inner(x, u, v) - manifold.inner(x, v, u)).abs(), "|<u, v> - <v, u>|")
    linear = manifold.inner(x, u, v - 2 * w) - manifold.inner(x, u, v) + 2 * manifold.inner(x, u, w)
    require_small(manifold, name, linear.abs(), "|<u, v - 2 w> - <u, v> + 2 <u, w>|")
    require_small(manifold, name, (manifold.norm(x, v).square() - manifold.inner(x, v, v)).abs(), "| |v|^2 - <v, v> |")
    require_small(manifold, name, -manifold.inner(x, v, v), "-<v, v>", limit=-1e-3)


@law()
def exp_log_inverse(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``log(x, exp(x, v)) = v`` for vectors shorter than the injectivity radius, from 1e-6 to close to the cut."""
    x = random_points(manifold, _N, dtype, generator)
    for scale in _SCALES:
        length = scale * reach(manifold)
        v = random_vectors(manifold, x, generator, 0.5 * length, length)
        error = manifold.norm(x, manifold.to_tangent(x, manifold.log(x, manifold.exp(x, v)) - v))
        # Close to the cut an error of the end point is magnified by 1 / sin.
        limit = None if scale < 0.95 else 30 * {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
        require_small(manifold, "exp_log_inverse", error, f"|log_x(exp_x(v)) - v| for |v| up to {length:.1e}", limit)


@law()
def log_exp_inverse(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``exp(x, log(x, y)) = y`` for any two points."""
    x, y = (random_points(manifold, _N, dtype, generator) for _ in range(2))
    require_small(
        manifold, "log_exp_inverse", manifold.dist(manifold.exp(x, manifold.log(x, y)), y), "d(exp_x(log_x(y)), y)"
    )


@law()
def dist_is_norm_of_log(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``dist(x, y) = |log(x, y)|``, and the length of a short geodesic is that of its velocity."""
    x, y = (random_points(manifold, _N, dtype, generator) for _ in range(2))
    d = manifold.dist(x, y)
    require_small(
        manifold, "dist_is_norm_of_log", (d - manifold.norm(x, manifold.log(x, y))).abs() / (1 + d), "relative gap"
    )
    v = random_vectors(manifold, x, generator, 0, reach(manifold))
    error = (manifold.dist(x, manifold.exp(x, v)) - manifold.norm(x, v)).abs()
    require_small(manifold, "dist_is_norm_of_log", error, "|d(x, exp_x(v)) - |v||")


@law()
def dist_is_a_metric(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``dist`` is symmetric, zero at coincident points, positive elsewhere, and obeys the triangle inequality."""
    x, y, z = (random_points(manifold, _N, dtype, generator) for _ in range(3))
    name, d = "dist_is_a_metric", manifold.dist(x, y)
    require_small(manifold, name, (d - manifold.dist(y, x)).abs(), "|d(x, y) - d(y, x)|")
    require_small(manifold, name, manifold.dist(x, x), "d(x, x)", limit=1e-6 if dtype == torch.float64 else 2e-3)
    require_small(manifold, name, -d, "-d(x, y)", limit=-1e-6)
    require_small(manifold, name, manifold.dist(x, z) - d - manifold.dist(y, z), "d(x, z) - d(x, y) - d(y, z)")


@law()
def geodesic_has_constant_speed(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The geodesic from x to y ends in them, and d(g(s), g(t)) = |s - t| d(x, y)."""
    x = random_points(manifold, _N, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0, 0.8 * reach(manifold)))
    d, name = manifold.dist(x, y), "geodesic_has_constant_speed"
    for s, t in ((0.0, 0.25), (0.25, 0.7), (0.7, 1.0), (0.0, 1.0)):
        error = (manifold.dist(manifold.geodesic(x, y, s), manifold.geodesic(x, y, t)) - (t - s) * d).abs()
        require_small(manifold, name, error, f"|d(g({s}), g({t})) - {t - s:.2f} d|")
    times = torch.rand(_N, generator=generator, dtype=dtype)
    error = (manifold.dist(x, manifold.geodesic(x, y, times)) - times * d).abs()
    require_small(manifold, name, error, "|d(x, g(t)) - t d|, one time per point")
    require_small(manifold, name, manifold.dist(y, manifold.geodesic(x, y, 1.0)), "d(g(1), y)")


@law()
def transport_isometry(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Parallel transport is linear, keeps inner products and gives tangent vectors."""
    x = random_points(manifold, _N, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0, 0.8 * reach(manifold)))
    u, v = (random_vectors(manifold, x, generator, 0.1, 2) for _ in range(2))
    tu, tv = manifold.transport(x, y, u), manifold.transport(x, y, v)
    error = (manifold.inner(y, tu, tv) - manifold.inner(x, u, v)).abs()
    require_small(manifold, "transport_isometry", error, "|<T u, T v> - <u, v>|")
    linear = manifold.norm(y, manifold.to_tangent(y, manifold.transport(x, y, u - 2 * v) - tu + 2 * tv))
    require_small(manifold, "transport_isometry", linear, "|T (u - 2 v) - T u + 2 T v|")
    require_small(manifold, "transport_isometry", _normal_part(manifold, y, tu), "normal part of T u")


@law()
def transport_of_velocity(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Transport takes the velocity of a geodesic to its velocity: ``transport(x, y, log(x, y)) = -log(y, x)``."""
    x = random_points(manifold, _N, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0, 0.8 * reach(manifold)))
    end = manifold.transport(x, y, manifold.log(x, y)) + manifold.log(y, x)
    require_small(
        manifold, "transport_of_velocity", manifold.norm(y, manifold.to_tangent(y, end)), "|T log_x(y) + log_y(x)|"
    )


@law()
def transport_inverse(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Transport there and back is the identity."""
    x = random_points(manifold, _N, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0, 0.8 * reach(manifold)))
    v = random_vectors(manifold, x, generator, 0.1, 1)
    back = manifold.transport(y, x, manifold.transport(x, y, v)) - v
    require_small(manifold, "transport_inverse", manifold.norm(x, manifold.to_tangent(x, back)), "|T' T v - v|")


@law()
def vectors_are_tangent(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``log``, ``random_tangent``, ``tangent_basis``, ``from_frame`` and derivatives of ``exp`` are tangent."""
    x, y = (random_points(manifold, _N, dtype, generator) for _ in range(2))
    v = random_vectors(manifold, x, generator, 0, reach(manifold))
    vectors = {"log": manifold.log(x, y), "random_tangent": manifold.random_tangent(x, generator=generator)}
    coefficients = torch.randn(_N, manifold.frame_dim, generator=generator, dtype=dtype)
    vectors["from_frame"] = manifold.from_frame(x, coefficients)
    for name, vector in vectors.items():
        require_small(manifold, "vectors_are_tangent", _normal_part(manifold, x, vector), f"normal part of {name}")
    basis = manifold.tangent_basis(x)
    at = x.unsqueeze(1).expand_as(basis)
    require_small(manifold, "vectors_are_tangent", _normal_part(manifold, at, basis), "normal part of tangent_basis")
    end, image = torch.func.jvp(lambda w: manifold.exp(x, w), (v,), (manifold.random_tangent(x, generator=generator),))[
        :2
    ]
    # On a quotient the derivative of exp may turn the representative too: that moves no point, hence no embed.
    normal = image - manifold.to_tangent(end, image)
    moved = torch.func.jvp(manifold.embed, (end,), (normal,))[1].abs().amax(-1)
    size = 1 + end.abs().reshape(_N, -1).amax(-1)
    require_small(
        manifold,
        "vectors_are_tangent",
        moved / size / (1 + end.abs().amax()) ** 2,
        "motion by the normal part of d exp",
    )


@law()
def basis_is_orthonormal(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``tangent_basis`` has ``dim`` orthonormal vectors that span: a tangent vector is the sum of its coefficients."""
    x = random_points(manifold, _N, dtype, generator)
    basis = manifold.tangent_basis(x)
    at = x.unsqueeze(1).unsqueeze(1).expand(_N, manifold.dim, manifold.dim, *manifold.point_shape)
    gram = manifold.inner(at, basis.unsqueeze(1).expand_as(at), basis.unsqueeze(2).expand_as(at))
    require_small(
        manifold, "basis_is_orthonormal", (gram - torch.eye(manifold.dim, dtype=dtype)).abs(), "|<e_i, e_j> - delta_ij|"
    )
    v = random_vectors(manifold, x, generator, 0.1, 1)
    coefficients = manifold.inner(at[:, 0], basis, v.unsqueeze(1).expand_as(basis))
    error = _gap(manifold, v, (manifold.per_point(coefficients) * basis).sum(1))
    require_small(manifold, "basis_is_orthonormal", error, "|v - sum <v, e_i> e_i|")


@law(dtypes=(torch.float64,))
def random_tangent_is_standard_normal(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The coefficients of ``random_tangent`` have mean 0, covariance 1, fourth moment 3, by their standard errors."""
    n = 20_000
    x = random_points(manifold, 1, dtype, generator).expand(n, *manifold.point_shape)
    basis = manifold.tangent_basis(x[:1]).expand(n, manifold.dim, *manifold.point_shape)
    v = manifold.random_tangent(x, generator=generator).unsqueeze(1).expand_as(basis)
    c = manifold.inner(x.unsqueeze(1).expand_as(basis), basis, v)
    name = "random_tangent_is_standard_normal"
    require_zero_mean(manifold, name, c, "the mean of the coefficients")
    second = c.unsqueeze(1) * c.unsqueeze(2) - torch.eye(manifold.dim, dtype=dtype)
    require_zero_mean(manifold, name, second, "the covariance of the coefficients minus the identity")
    require_zero_mean(manifold, name, c**4 - 3, "the fourth moment of the coefficients minus 3")


@law()
def frame_is_onto(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``from_frame`` is linear and reaches every tangent vector."""
    (x,) = random_points(manifold, 1, dtype, generator)
    columns = manifold.from_frame(x.expand(manifold.frame_dim, *x.shape), torch.eye(manifold.frame_dim, dtype=dtype))
    matrix = columns.reshape(manifold.frame_dim, -1)
    a = torch.randn(manifold.frame_dim, generator=generator, dtype=dtype)
    require_small(
        manifold, "frame_is_onto", (a @ matrix - manifold.from_frame(x, a).reshape(-1)).abs(), "|F a - sum a_i F e_i|"
    )
    basis = manifold.tangent_basis(x).reshape(manifold.dim, -1)
    reached = basis @ torch.linalg.pinv(matrix, rtol=1e-4) @ matrix
    require_small(
        manifold, "frame_is_onto", (reached - basis).abs(), "distance of a basis vector to the range of from_frame"
    )


@law()
def isometries_commute(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """A random isometry (rotation, shift, boost, translation) commutes with ``exp``, ``log`` and ``dist``."""
    isometry = random_isometry(manifold, dtype, generator)
    if isometry is None:
        return
    x = random_points(manifold, _N, dtype, generator)
    v = random_vectors(manifold, x, generator, 0, 0.8 * reach(manifold))
    y, name = manifold.exp(x, v), "isometries_commute"
    image, moved = torch.func.jvp(isometry, (x,), (v,))[:2]
    require_small(
        manifold, name, (manifold.dist(image, isometry(y)) - manifold.dist(x, y)).abs(), "|d(F x, F y) - d(x, y)|"
    )
    require_small(manifold, name, manifold.dist(manifold.exp(image, moved), isometry(y)), "d(exp_Fx(dF v), F exp_x(v))")
    error = manifold.norm(image, manifold.to_tangent(image, manifold.log(image, isometry(y)) - moved))
    require_small(
        manifold, name, error, "|log_Fx(F y) - dF log_x(y)|", 10 * {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
    )


@law(LieGroup)
def group_axioms(manifold: LieGroup, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Neutral element, inverse, associativity; translations and the inverse are isometries."""
    x, y, z = (random_points(manifold, _N, dtype, generator) for _ in range(3))
    one = manifold.identity(dtype=dtype).expand_as(x)
    name, d = "group_axioms", manifold.dist(x, y)
    gaps = {
        "d(x 1, x)": manifold.dist(manifold.compose(x, one), x),
        "d(1 x, x)": manifold.dist(manifold.compose(one, x), x),
        "d(x x^-1, 1)": manifold.dist(manifold.compose(x, manifold.inverse(x)), one),
        "d((x y) z, x (y z))": manifold.dist(
            manifold.compose(manifold.compose(x, y), z), manifold.compose(x, manifold.compose(y, z))
        ),
        "|d(z x, z y) - d(x, y)|": (manifold.dist(manifold.compose(z, x), manifold.compose(z, y)) - d).abs(),
        "|d(x z, y z) - d(x, y)|": (manifold.dist(manifold.compose(x, z), manifold.compose(y, z)) - d).abs(),
        "|d(x^-1, y^-1) - d(x, y)|": (manifold.dist(manifold.inverse(x), manifold.inverse(y)) - d).abs(),
    }
    for what, error in gaps.items():
        require_small(manifold, name, error, what)
