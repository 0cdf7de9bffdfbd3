"""A manifold of one's own needs five methods; its metric need not be that of an embedding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manifold_diffusion._errors import ConfigError
from manifold_diffusion._safe import cosh_sinhc, safe_norm, x_over_sinh
from manifold_diffusion.manifolds import Euclidean, Manifold, Sphere, divergence, hutchinson_divergence
from manifold_diffusion.testing import LawError, check_manifold

from .draws import F64, points, seeded


class HalfPlane(Manifold):
    """Hyperbolic plane as pairs (a, b), b > 0, with the metric |v|^2 / b^2: a chart, not an isometric embedding."""

    def __init__(self) -> None:
        super().__init__(2, (2,))

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.tensor([0.0, 1.0], dtype=dtype, device=device)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1) / x[..., 1].square()

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return torch.stack([x[..., 0], x[..., 1].clamp_min(1e-6)], -1)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        w = v / x[..., 1:]
        c, k = cosh_sinhc((w * w).sum(-1))
        up, side = k * w[..., 1], k * w[..., 0]
        # 1 / (c - up) without cancellation, as c^2 = 1 + side^2 + up^2.
        b = torch.where(up > 0, (c + up) / (1 + side * side), 1 / (c - torch.where(up > 0, 0.0, up)))
        return x[..., 1:] * torch.stack([side * b, b], -1) + torch.nn.functional.pad(x[..., :1], (0, 1))

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        p = (y - x) / x[..., 1:]
        a, b = p[..., 0], y[..., 1] / x[..., 1]
        space = torch.stack([a / b, (a * a + p[..., 1] * (b + 1)) / (2 * b)], -1)
        return x[..., 1:] * space * x_over_sinh(torch.asinh(safe_norm(space))).unsqueeze(-1)


def test_five_methods_make_a_manifold() -> None:
    records = check_manifold(HalfPlane())
    assert len(records) > 40
    assert all(record.passed for record in records)


def test_constructor_arguments_have_to_be_handed_on() -> None:
    class Forgetful(Euclidean):
        def __init__(self, radius: float) -> None:
            Manifold.__init__(self, 2, (2,))

    with pytest.raises(ConfigError, match=r"point_shape, radius\)"):
        Forgetful(2.0)


def test_divergence_in_a_chart_has_the_change_of_volume() -> None:
    m, x = HalfPlane(), points(HalfPlane(), 64)
    value, div = divergence(m, lambda p: torch.stack([p[..., 0] * p[..., 1], p[..., 1] ** 3], -1), x)
    # div v = d_a v_a + d_b v_b - 2 v_b / b
    torch.testing.assert_close(div, x[:, 1] + 3 * x[:, 1] ** 2 - 2 * x[:, 1] ** 2)
    torch.testing.assert_close(m.divergence_correction(x, value), -2 * value[:, 1] / x[:, 1])
    _, estimates = hutchinson_divergence(m, lambda p: p**2, x[:1].expand(4000, 2), 1, generator=seeded())
    _, exact = divergence(m, lambda p: p**2, x[:1])
    assert (estimates.mean() - exact).abs() <= 5 * estimates.std() / 4000**0.5


def test_divergence_theorem_in_a_chart_by_quadrature() -> None:
    m = HalfPlane()
    # A field that vanishes outside a disk of the half-plane: its divergence integrates to 0 in the measure da db / b^2.
    axis = torch.linspace(-1, 1, 401, dtype=F64)
    x = torch.stack(torch.meshgrid(axis, axis + 2, indexing="ij"), -1).reshape(-1, 2)

    def field(p: Tensor) -> Tensor:
        bump = (1 - p[..., 0] ** 2 - (p[..., 1] - 2) ** 2).clamp_min(0) ** 4
        return bump.unsqueeze(-1) * torch.stack([p[..., 1], p[..., 0] + p[..., 1] ** 2], -1)

    value, div = divergence(m, field, x)
    density = x[:, 1] ** -2
    assert abs((div * density).sum() / (div.abs() * density).sum()) <= 1e-6
    wrong = div - m.divergence_correction(x, value)
    assert abs((wrong * density).sum() / (wrong.abs() * density).sum()) >= 1e-2


def test_calling_a_chart_isometric_breaks_its_laplacian(monkeypatch: pytest.MonkeyPatch) -> None:
    m = HalfPlane()
    monkeypatch.setattr(m, "isometric", True)
    with pytest.raises(LawError, match="laplacian_is_geodesic"):
        check_manifold(m, laws=["laplacian_is_geodesic"])


class ConformalSphere(Manifold):
    """The sphere in the metric exp(2 z) times the round one: a curved surface with codimension one, not isometric."""

    def __init__(self) -> None:
        super().__init__(2, (3,))

    sphere = Sphere(2)

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1) * (2 * x[..., 2]).exp()

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return self.sphere.to_tangent(x, v)

    def project(self, x: Tensor) -> Tensor:
        return self.sphere.project(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError

    log = exp


def test_divergence_on_a_conformal_sphere() -> None:
    m, x = ConformalSphere(), Sphere(2).random_uniform(32, generator=seeded(), dtype=F64)
    e = torch.tensor([0.3, -0.5, 0.8], dtype=F64)
    value, div = divergence(m, lambda p: m.to_tangent(p, e.expand_as(p)), x)
    # The metric is exp(2 z) times the round one, its area exp(2 z): div = div_round + 2 v_z.
    torch.testing.assert_close(div, -2 * (x @ e) + 2 * value[:, 2])
    basis = m.tangent_basis(x)
    gram = m.inner(
        x[:, None, None].expand(-1, 2, 2, -1),
        basis[:, None].expand(-1, 2, -1, -1),
        basis[:, :, None].expand(-1, -1, 2, -1),
    )
    torch.testing.assert_close(gram, torch.eye(2, dtype=F64).expand_as(gram))
