"""How straight the paths of a flow are: their energy beyond that of geodesics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._errors import ConfigError
from ..manifolds import Manifold, cast_points
from .estimate import Estimate

__all__ = ["Straightness", "straightness"]


@dataclass(frozen=True)
class Straightness:
    r"""Energy, length and end-to-end distance of paths over one unit of time.

    Attributes:
        energy: :math:`\int |v|^2 dt` of each path, ``(n,)`` float64.
        length: :math:`\int |v|\,dt`, ``(n,)``.
        distance: geodesic distance of the two ends, ``(n,)``.
        quadrature_error: mean change of the energy when every other time is left out, over 15: about the error of the
            mean energy.
    """

    energy: Tensor
    length: Tensor
    distance: Tensor
    quadrature_error: float

    @property
    def excess(self) -> Estimate:
        r"""Mean of :math:`\int |v|^2 dt - d^2`: zero for minimal geodesics at constant speed, positive otherwise."""
        return Estimate.mean(self.energy - self.distance.square())

    @property
    def bending(self) -> Estimate:
        """Mean of length squared minus distance squared: what the shape of the paths costs."""
        return Estimate.mean(self.length.square() - self.distance.square())

    @property
    def pacing(self) -> Estimate:
        """Mean of energy minus length squared: what the changes of speed cost; another clock removes it."""
        return Estimate.mean(self.energy - self.length.square())

    @property
    def detour(self) -> float:
        """Mean length over mean distance, at least 1; 1 for paths that stand still, infinite for loops."""
        length, distance = float(self.length.mean()), float(self.distance.mean())
        if length == 0:  # the distance is rounding
            return 1.0
        return length / distance if distance > 0 else math.inf

    def __str__(self) -> str:
        return f"excess {self.excess} = bending {self.bending} + pacing {self.pacing}; detour {self.detour:#.4g}"


def straightness(manifold: Manifold, trajectory: Tensor, velocity: Tensor, times: Tensor) -> Straightness:
    r"""Curvature of sampled paths of a flow :math:`\dot x = v(t, x)`.

    .. math::
        \mathrm{E}\int_0^1 |v|^2 dt - \mathrm{E}\, d(x_0, x_1)^2
        = \underbrace{\mathrm{E}\,[L^2 - d^2]}_{\text{bending}}
        + \underbrace{\mathrm{E}\Big[\int_0^1 |v|^2 dt - L^2\Big]}_{\text{pacing}}, \qquad L = \int_0^1 |v|\, dt

    Both parts are non-negative. In flat space the sum is the straightness of rectified flows,
    :math:`\mathrm{E}\int |v - (x_1 - x_0)|^2 dt`. A flow of excess zero is sampled in one step. Integrals are taken by
    Simpson's rule.

    Args:
        manifold: the manifold.
        trajectory: points of the paths, ``(k + 1, n, *point_shape)``, k a multiple of 4.
        velocity: dx/dt there, of the same shape.
        times: ``(k + 1,)``, equidistant, from 0 to 1 or from 1 to 0.

    Raises:
        ConfigError: shapes or times that don't fit.

    Example:
        Rotation by a right angle: the equator is a geodesic, its parallels are not.

        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> t = torch.linspace(0, 1, 9)
        >>> a, polar = t[:, None] * torch.pi / 2, torch.tensor([torch.pi / 2, torch.pi / 4])
        >>> x = torch.stack([polar.sin() * a.cos(), polar.sin() * a.sin(), polar.cos().expand(9, 2)], -1)
        >>> v = torch.linalg.cross(torch.tensor([0.0, 0.0, torch.pi / 2]).expand_as(x), x)
        >>> found = straightness(Sphere(2), x, v, t)
        >>> (found.energy - found.distance.square()).round(decimals=4)
        tensor([0.0000, 0.1371], dtype=torch.float64)

    References:
        Liu et al., *Flow straight and fast: learning to generate and transfer data with rectified flow*, 2022,
        arXiv:2209.03003.
    """
    steps = len(times) - 1
    times = times.detach().double().cpu()
    if steps < 4 or steps % 4 or trajectory.shape != velocity.shape or len(trajectory) != steps + 1:
        raise ConfigError(
            "straightness needs points and velocities of one shape at k + 1 times, k a multiple of 4; got "
            f"{tuple(trajectory.shape)}, {tuple(velocity.shape)} and {len(times)} times."
        )
    even = torch.linspace(float(times[0]), float(times[-1]), steps + 1, dtype=torch.float64)
    if not bool((times - even).abs().max() < 1e-6) or sorted((float(times[0]), float(times[-1]))) != [0.0, 1.0]:
        raise ConfigError(f"times must be equidistant, from 0 to 1 or from 1 to 0; got {times.tolist()}.")
    manifold.check_point(trajectory, "trajectory")
    x, v = cast_points(manifold, trajectory.detach(), torch.float64), velocity.detach().double()
    square = manifold.inner(x, v, v)
    energy, length = _simpson(square), _simpson(square.sqrt())
    error = abs(float((energy - _simpson(square[::2])).mean())) / 15
    return Straightness(energy.cpu(), length.cpu(), manifold.dist(x[0], x[-1]).cpu(), error)


def _simpson(values: Tensor) -> Tensor:
    """Integral over a unit interval of values at an odd number of equidistant times."""
    weights = values.new_full((len(values),), 2.0)
    weights[1::2] = 4.0
    weights[0] = weights[-1] = 1.0
    return weights @ values.reshape(len(values), -1) / (3 * (len(values) - 1))
