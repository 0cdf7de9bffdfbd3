"""Domains whose reflections have a closed form: half-space, hemisphere, box and ball."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._errors import ConfigError
from .._safe import safe_norm
from .base import check_size
from .boundary import Domain
from .capabilities import Compact, exp_or_inf
from .euclidean import Euclidean
from .sphere import Sphere

__all__ = ["Ball", "Box", "HalfSpace", "Hemisphere"]


def _fold_first(x: Tensor) -> Tensor:
    """Mirror image in x_0 = 0 of the points below it."""
    return torch.cat([x[..., :1].abs(), x[..., 1:]], -1)


def _first_axis(x: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(torch.zeros(x.shape[:-1], dtype=torch.long, device=x.device), x.shape[-1]).to(x)


class HalfSpace(Domain):
    r"""The half-space :math:`\{x \in \mathbb{R}^n : x_0 \ge 0\}`.

    A reflected step is the mirror image :math:`|x_0|` of its end; ``project`` is the same mirror. The heat kernel is
    exact, by one image.

    Args:
        n: dimension, at least 1.

    Example:
        >>> import torch
        >>> M = HalfSpace(2)
        >>> M.reflect(torch.tensor([1.0, 0.0]), torch.tensor([-3.0, 1.0]))
        tensor([2., 1.])
    """

    defect_formula = "-x_0"

    def __init__(self, n: int) -> None:
        check_size("HalfSpace(n)", n=n)
        super().__init__(Euclidean(n), n)
        self.n = n

    def project(self, x: Tensor) -> Tensor:
        return _fold_first(x)

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        return _fold_first(x + v)

    def slack(self, x: Tensor) -> Tensor:
        return x[..., :1]

    def slack_gradients(self, x: Tensor) -> Tensor:
        return _first_axis(x).unsqueeze(-2)

    def boundary_distance(self, x: Tensor) -> Tensor:
        return x[..., 0]

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The point (1, 0, ..., 0)."""
        return _first_axis(torch.zeros(self.n, dtype=dtype, device=device))


class Hemisphere(Domain, Compact):
    r"""The hemisphere :math:`\{x \in S^n : x_0 \ge 0\}`.

    A reflected step is the mirror image in the equator of its end, for any length; ``project`` mirrors, too. The heat
    kernel is exact, by one image.

    Args:
        n: dimension, at least 1; n = 1 is a half-circle.

    Example:
        >>> import torch
        >>> M = Hemisphere(2)
        >>> x, v = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([-torch.pi / 6, 0.0, 0.0])
        >>> M.reflect(x, v)
        tensor([0.5000, 0.8660, 0.0000])
    """

    defect_formula = "max(| |x|^2 - 1 |, -x_0)"

    def __init__(self, n: int) -> None:
        check_size("Hemisphere(n)", n=n)
        self._sphere = Sphere(n)
        super().__init__(self._sphere, n)
        self.n = n

    def project(self, x: Tensor) -> Tensor:
        return _fold_first(self.ambient.project(x))

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        return _fold_first(self.ambient.exp(x, v))

    def slack(self, x: Tensor) -> Tensor:
        return x[..., :1]

    def slack_gradients(self, x: Tensor) -> Tensor:
        return self.ambient.to_tangent(x, _first_axis(x)).unsqueeze(-2)

    def boundary_distance(self, x: Tensor) -> Tensor:
        return torch.atan2(x[..., 0], safe_norm(x[..., 1:]))

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The pole (1, 0, ..., 0)."""
        return _first_axis(torch.zeros(self.n + 1, dtype=dtype, device=device))

    @property
    def volume(self) -> float:
        return self._sphere.volume / 2

    @property
    def log_volume(self) -> float:
        return self._sphere.log_volume - math.log(2)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        return _fold_first(self._sphere.random_uniform(n, generator=generator, dtype=dtype, device=device))


class Box(Domain, Compact):
    r"""The box :math:`\{x \in \mathbb{R}^n : l_i \le x_i \le u_i\}`; an interval for n = 1.

    A reflected step is its end, folded into the box in each coordinate; ``project`` folds, too. The heat kernel is
    exact, a product of kernels of intervals.

    Args:
        lower: lower bounds l.
        upper: upper bounds u, above the lower ones.

    Raises:
        ConfigError: for bounds that don't match or leave no inside.

    Example:
        >>> import torch
        >>> M = Box([0.0, 0.0], [1.0, 2.0])
        >>> M.reflect(torch.tensor([0.5, 1.0]), torch.tensor([0.75, -2.5]))
        tensor([0.7500, 1.5000])
    """

    defect_formula = "max(l_i - x_i, x_i - u_i)"

    def __init__(self, lower: Sequence[float], upper: Sequence[float]) -> None:
        low, high = (tuple(float(a) for a in torch.as_tensor(bound).flatten().tolist()) for bound in (lower, upper))
        if (
            len(low) != len(high)
            or not low
            or not all(a < b < math.inf and a > -math.inf for a, b in zip(low, high, strict=False))
        ):
            raise ConfigError(
                f"Box(lower, upper) needs as many finite lower bounds as upper bounds, each below its upper one; got "
                f"{lower} and {upper}."
            )
        super().__init__(Euclidean(len(low)), low, high)
        self.lower, self.upper = low, high
        self.sides = tuple(b - a for a, b in zip(low, high, strict=True))
        self.layer = 0.02 * min(self.sides)

    def bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper bounds in the dtype and on the device of ``x``."""
        return x.new_tensor(self.lower), x.new_tensor(self.upper)

    def project(self, x: Tensor) -> Tensor:
        low, high = self.bounds(x)
        # The distance from the lower bound, modulo twice the side, is a triangle wave.
        d = (x - low).remainder(2 * (high - low))
        folded = torch.minimum(torch.maximum(low + torch.minimum(d, 2 * (high - low) - d), low), high)
        return torch.where((x >= low) & (x <= high), x, folded)

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        return self.project(x + v)

    def slack(self, x: Tensor) -> Tensor:
        low, high = self.bounds(x)
        return torch.cat([x - low, high - x], -1)

    def slack_gradients(self, x: Tensor) -> Tensor:
        eye = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        return torch.cat([eye, -eye]).expand(*x.shape[:-1], 2 * self.dim, self.dim)

    def from_frame(self, x: Tensor, a: Tensor) -> Tensor:
        # The general formula, solved: the faces of one coordinate damp that coordinate, by 1/g + 1/g' of its slacks.
        low, high = self.bounds(x)
        g, h = (x - low).clamp_min(0) / self.layer, (high - x).clamp_min(0) / self.layer
        return a * (g * h) / (g * h + g + h)

    def boundary_distance(self, x: Tensor) -> Tensor:
        return self.slack(x).amin(-1)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The centre."""
        middle = [(a + b) / 2 for a, b in zip(self.lower, self.upper, strict=True)]
        return torch.tensor(middle, dtype=dtype, device=device)

    @property
    def volume(self) -> float:
        return math.prod(self.sides)

    @property
    def log_volume(self) -> float:
        return math.fsum(map(math.log, self.sides))

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        u = torch.rand(n, self.dim, generator=generator, dtype=dtype, device=device)
        low, high = self.bounds(u)
        return torch.minimum(low + (high - low) * u, high)


class Ball(Domain, Compact):
    r"""The ball :math:`\{x \in \mathbb{R}^n : |x| \le r\}`.

    Its billiard has a closed form: the path stays in a plane, all chords after the first reflection are equally long,
    and each turns the place by the angle that it subtends; any number of reflections costs the same. The heat kernel
    has no closed form: the noise is a reflected random walk (``BrownianMotion(Ball(n), n_steps=...)``), trained with
    implicit score matching.

    Args:
        n: dimension, at least 1.
        radius: the radius r.

    Example:
        >>> import torch
        >>> M = Ball(2)
        >>> M.reflect(torch.tensor([0.5, 0.0]), torch.tensor([2.0, 0.0]))
        tensor([-0.5000, 0.0000])
    """

    defect_formula = "|x| - radius"

    def __init__(self, n: int, radius: float = 1.0) -> None:
        check_size("Ball(n, radius)", n=n)
        if not 0 < radius < math.inf:
            raise ConfigError(f"Ball(n, radius) needs a positive radius, and a finite one; got {radius}.")
        super().__init__(Euclidean(n), n, float(radius))
        self.n, self.radius = n, float(radius)
        self.diameter = 2 * self.radius
        self.layer = 0.02 * self.radius

    def project(self, x: Tensor) -> Tensor:
        """Mirror image in the sphere of the points outside, at most the centre."""
        length = safe_norm(x, keepdim=True)
        scale = (2 * self.radius - length).clamp_min(0) / torch.where(length > 0, length, 1.0)
        return torch.where(length > self.radius, scale * x, x)

    def reflect(self, x: Tensor, v: Tensor) -> Tensor:
        r = self.radius
        length = safe_norm(v, keepdim=True)
        e = v / torch.where(length > 0, length, 1.0)
        along = (x * e).sum(-1, keepdim=True)
        room = (r * r - (x * x).sum(-1, keepdim=True)).clamp_min(0)
        root = (along * along + room).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        # Distance to the sphere, -along + root, without cancellation.
        hit = torch.where(along > 0, room / (root + along.clamp_min(0)), root - along)
        p = x + hit * e
        p = p / safe_norm(p, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        # The direction is cosine p + sine q with unit q orthogonal to p. Below 1e-6 it is taken for tangent.
        cosine = (root / r).clamp(1e-6, 1.0)
        q = e - (e * p).sum(-1, keepdim=True) * p
        sine = safe_norm(q, keepdim=True)
        q = q / torch.where(sine > 0, sine, 1.0)
        chord, turn = 2 * r * cosine, 2 * torch.atan2(cosine, sine)
        rest = (length - hit).clamp_min(0)
        count = (rest / chord).floor()
        rest, angle = rest - count * chord, count * turn
        cos, sin = angle.cos(), angle.sin()
        place, ahead = cos * p + sin * q, cos * q - sin * p
        end = (r - rest * cosine) * place + rest * sine * ahead
        return self.project(torch.where(length <= hit, x + v, end))

    def slack(self, x: Tensor) -> Tensor:
        r""":math:`(r^2 - |x|^2) / 2r`, smooth at the centre."""
        return (self.radius**2 - x.square().sum(-1, keepdim=True)) / (2 * self.radius)

    def slack_gradients(self, x: Tensor) -> Tensor:
        return (-x / self.radius).unsqueeze(-2)

    def boundary_distance(self, x: Tensor) -> Tensor:
        return self.radius - safe_norm(x)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        """The centre."""
        return torch.zeros(self.n, dtype=dtype, device=device)

    @property
    def volume(self) -> float:
        return exp_or_inf(self.log_volume)

    @property
    def log_volume(self) -> float:
        return self.n / 2 * math.log(math.pi) - math.lgamma(self.n / 2 + 1) + self.n * math.log(self.radius)

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        direction = torch.randn(n, self.n, generator=generator, dtype=dtype, device=device)
        u = torch.rand(n, 1, generator=generator, dtype=dtype, device=device)
        return self.radius * u ** (1 / self.n) * direction / safe_norm(direction, keepdim=True)
