"""The flat torus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._safe import safe_norm
from .base import check_size
from .capabilities import LieGroup, Spectral

__all__ = ["Circle", "Torus"]

_TWO_PI = 2 * math.pi
_SAME = 1e-9  # relative gap below which two eigenvalues are one


class Torus(Spectral, LieGroup):
    r"""The flat torus :math:`T^n = \prod_i \mathbb{R} / L_i\mathbb{Z}`; a point is ``n`` numbers, one per circle.

    Coordinates are in :math:`(-L_i/2, L_i/2]`. :math:`\exp_x(v) = x + v` modulo the periods; :math:`\log_x(y)`
    is the difference wrapped to the same interval, so that at the cut locus it goes in the positive direction. Volume
    :math:`\prod_i L_i`. With the default periods :math:`2\pi` the numbers are angles in radians.

    Args:
        n: number of coordinates, at least 1.
        periods: one positive period for all coordinates, or one for each; default :math:`2\pi`.

    Raises:
        ConfigError: if ``n < 1``, or the periods are not positive and finite, or not ``n`` of them.

    Example:
        >>> import torch
        >>> M = Torus(1)
        >>> M.log(torch.tensor([3.0]), torch.tensor([-3.0]))
        tensor([0.2832])
        >>> box = Torus(3, periods=[10.0, 10.0, 25.0])
        >>> box.dist(torch.tensor([4.5, 0.0, 12.0]), torch.tensor([-4.5, 0.0, -12.0]))
        tensor(1.4142)
    """

    isometric = True

    def __init__(self, n: int, periods: float | Sequence[float] | None = None) -> None:
        check_size("Torus(n)", n=n)
        if periods is None or isinstance(periods, int | float):
            lengths = [_TWO_PI if periods is None else float(periods)] * n
        else:
            lengths = [float(p) for p in periods]
        if len(lengths) != n or not all(p > 0 and math.isfinite(p) for p in lengths):
            raise ConfigError(
                f"Torus({n}) needs one positive, finite period for all coordinates or {n} of them; got "
                f"periods={periods}."
            )
        usual = all(p == _TWO_PI for p in lengths)
        super().__init__(n, (n,), *([n] if usual else [n, *lengths]))
        self.n = n
        self.periods = None if usual else tuple(lengths)
        self.lengths = tuple(lengths)
        """The periods, one per coordinate, the default ones included."""
        self._common = lengths[0] if len(set(lengths)) == 1 else None
        self.injectivity_radius = min(lengths) / 2
        self.defect_formula = "|x| - pi" if usual else "|x| - period / 2"

    def __repr__(self) -> str:
        if self.periods is None:
            return f"Torus({self.n})"
        equal = len(set(self.periods)) == 1
        return f"Torus({self.n}, periods={self.periods[0] if equal else list(self.periods)})"

    def period_like(self, x: Tensor) -> Tensor | float:
        """The periods, to be broadcast against points like ``x``: one number where they are equal."""
        if self._common is not None:
            return self._common
        return torch.tensor(self.lengths, dtype=x.dtype, device=x.device)

    def _wrap(self, x: Tensor) -> Tensor:
        """Coordinates modulo their periods in (-L/2, L/2]."""
        period = self.period_like(x)
        half = period / 2
        wrapped = x - period * torch.ceil((x - half) / period)
        # One rounding can leave a value just outside the half-open interval.
        return torch.where(wrapped <= -half, wrapped + period, wrapped)

    def in_box(self, x: Tensor) -> Tensor:
        """Coordinates modulo their periods in [0, L), as periodic trees take them."""
        period = self.period_like(x)
        y = torch.remainder(x, period)
        return torch.where(y >= period, 0.0, y)  # the remainder of a tiny negative number rounds to the period

    def inner(self, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(-1)

    def norm(self, x: Tensor, v: Tensor) -> Tensor:
        return safe_norm(v)

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return v

    def project(self, x: Tensor) -> Tensor:
        return self._wrap(x)

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        return self._wrap(x + v)

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        return self._wrap(y - x)

    def dist(self, x: Tensor, y: Tensor) -> Tensor:
        return safe_norm(self._wrap(y - x))

    def transport(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    def random_tangent(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def tangent_basis(self, x: Tensor) -> Tensor:
        return torch.eye(self.n, dtype=x.dtype, device=x.device).expand(*x.shape, self.n)

    def origin(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return torch.zeros(self.n, dtype=dtype, device=device)

    def log_det_exp(self, x: Tensor, v: Tensor) -> Tensor:
        return torch.zeros(v.shape[:-1], dtype=v.dtype, device=v.device)

    def coordinates(self, x: Tensor) -> Tensor:
        """The coordinates themselves: frequencies are whole numbers of turns, so that every wave is periodic."""
        return x

    def embed(self, x: Tensor) -> Tensor:
        r"""Circles of the right lengths, :math:`\tfrac{L}{2\pi} (\cos, \sin)(2\pi x / L)`: an isometric embedding."""
        if self.periods is None:
            return torch.cat([x.cos(), x.sin()], -1)
        radius = self.period_like(x) / _TWO_PI
        angle = x / radius
        return torch.cat([radius * angle.cos(), radius * angle.sin()], -1)

    def random_frequencies(self, n: int, max_frequency: float, generator: torch.Generator | None = None) -> Tensor:
        r"""Frequencies ``(n, dim)``, :math:`2\pi k / L` with k whole: log-uniform length, few active coordinates.

        For half of them one or two. Such waves are the exact eigenfunctions, with eigenvalue ``|w|^2``.
        """
        unit = _TWO_PI / torch.tensor(self.lengths, dtype=torch.float64)
        lowest = float(unit.min())
        directions = torch.randn(n, self.n, generator=generator, dtype=torch.float64)
        rank = torch.rand(n, self.n, generator=generator, dtype=torch.float64).argsort(1).argsort(1)
        active = 1 + (self.n * torch.rand(n, 1, generator=generator, dtype=torch.float64).square()).floor()
        directions = torch.where(rank < active, directions, torch.zeros_like(directions))
        directions = directions / directions.norm(dim=1, keepdim=True)
        length = lowest * max(max_frequency / lowest, 1.0) ** torch.rand(n, 1, generator=generator, dtype=torch.float64)
        waves = (directions * length / unit).round()
        empty = (waves == 0).all(1, keepdim=True)
        strongest = directions.abs() == directions.abs().amax(1, keepdim=True)
        return (torch.where(empty & strongest, torch.ones_like(waves), waves) * unit).to(torch.get_default_dtype())

    def defect(self, x: Tensor) -> Tensor:
        return (x.abs() - self.period_like(x) / 2).clamp_min(0).amax(-1)

    @property
    def volume(self) -> float:
        return math.prod(self.lengths)

    @property
    def log_volume(self) -> float:
        return math.fsum(map(math.log, self.lengths))

    def random_uniform(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        fraction = torch.rand(n, self.n, generator=generator, dtype=dtype, device=device)
        return self._wrap(self.period_like(fraction) * (fraction - 0.5))

    def compose(self, x: Tensor, y: Tensor) -> Tensor:
        return self._wrap(x + y)

    def inverse(self, x: Tensor) -> Tensor:
        return self._wrap(-x)

    def identity(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
        return self.origin(dtype, device)

    # A level is a set of wave vectors 2 pi k / L of equal length. They are enumerated in a box, which is practical up
    # to n = 4.

    def _levels(self, n_levels: int) -> tuple[Tensor, Tensor, Tensor]:
        """Wave vectors of the first levels, the level of each, and the eigenvalues."""
        unit = _TWO_PI / torch.tensor(self.lengths, dtype=torch.float64)
        if n_levels <= 2:
            # The lowest waves turn once along the longest periods.
            longest = torch.diag(unit)[unit <= unit.min() * (1 + _SAME)]
            zero = torch.zeros(1, self.n, dtype=torch.float64)
            waves = torch.cat([zero, longest, -longest])[: 1 if n_levels == 1 else None]
            values = torch.stack([zero[0, 0], unit.min().square()])[:n_levels]
            return waves, (waves != 0).any(1).long(), values
        if self.n > 4:
            raise CapabilityError(
                f"The levels of {self} are enumerated up to Torus(4) only: their size grows as radius^n. "
                f"Use heat_kernel({self}), which factorises, or a Product of circles."
            )
        radius = float(unit.min())
        while True:
            axes = [torch.arange(-int(radius / u), int(radius / u) + 1) for u in unit.tolist()]
            waves = torch.cartesian_prod(*axes).reshape(-1, self.n) * unit
            squared = waves.square().sum(1)
            inside = squared <= radius * radius * (1 + _SAME)  # complete shells only
            waves, squared = waves[inside], squared[inside]
            values, order = squared.sort()
            # Equal lengths differ by roundings; a level starts where the length grows by more.
            starts = torch.cat([torch.ones(1, dtype=torch.bool), values[1:] > values[:-1] * (1 + _SAME) + 1e-300])
            if int(starts.sum()) >= n_levels:
                level = starts.cumsum(0) - 1
                keep = level < n_levels
                return waves[order[keep]], level[keep], values[starts][:n_levels]
            radius *= 2

    def eigenvalues(self, n_levels: int) -> Tensor:
        return self._levels(n_levels)[2]

    def multiplicities(self, n_levels: int) -> Tensor:
        return torch.bincount(self._levels(n_levels)[1], minlength=n_levels).double()

    def level_sums(self, x: Tensor, y: Tensor, n_levels: int) -> Tensor:
        waves, level, _ = self._levels(n_levels)
        cosines = ((x - y) @ waves.to(x).mT).cos()
        out = torch.zeros(*cosines.shape[:-1], n_levels, dtype=x.dtype, device=x.device)
        return out.index_add(-1, level.to(x.device), cosines) / self.volume


class Circle:
    r"""The circle of circumference ``period`` with an angle (or arc length) as its coordinate: ``Torus(1, period)``.

    A point has shape ``(1,)``. The circle as unit vectors in the plane is ``Sphere(1)``.

    Args:
        period: circumference; default :math:`2\pi`.

    Example:
        >>> Circle(), Circle(24.0)
        (Torus(1), Torus(1, periods=24.0))
    """

    def __new__(cls, period: float = _TWO_PI) -> Torus:  # pyright: ignore[reportInconsistentConstructor]
        return Torus(1, period)

    def __init__(self, period: float = _TWO_PI) -> None:
        """Never runs, as no instance is made; configurations read the names of the arguments here."""
