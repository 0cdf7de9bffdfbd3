"""How fast noise forgets where it started, on a compact manifold with a known spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..manifolds import Manifold, Power, Product, Spectral, Torus
from .estimate import Estimate

__all__ = ["Mixing", "chi_square_from_uniform", "mixing", "total_variation_from_uniform"]

_NEGLIGIBLE = 1e-13
"""Part of the largest term of a series below which its terms are left out."""

_MAX_LEVELS = 4096


@dataclass(frozen=True)
class Mixing:
    r"""Mixing of Brownian motion; all times are Brownian times.

    Attributes:
        gap: spectral gap of the generator :math:`\tfrac12\Delta`: :math:`\lambda_1 / 2`.
        level: total variation that counts as mixed.
        time: when the total variation from uniform has fallen to ``level``, with the error of its quadrature.
        chi_square_time: when its bound :math:`\tfrac12\sqrt{\chi^2}` has: exact, and not before ``time``.
    """

    gap: float
    level: float
    time: Estimate
    chi_square_time: float

    @property
    def relaxation_time(self) -> float:
        """Time in which the slowest wave falls by a factor e: 1 / gap."""
        return 1 / self.gap


@dataclass(frozen=True)
class _Part:
    """A factor whose spectrum is known; Brownian motion on it is slower by the weight of its metric."""

    manifold: Spectral
    weight: float = 1.0

    def levels(self, tau: float) -> int:
        """Number of levels after which the terms m exp(-lambda tau / weight) are negligible."""
        n = 4
        while n <= _MAX_LEVELS:
            terms = self.manifold.multiplicities(n).log() - tau / self.weight * self.manifold.eigenvalues(n)
            if float(terms[-1] - terms[1:].max()) < math.log(_NEGLIGIBLE):
                return n
            n *= 2
        raise ConfigError(
            f"tau = {tau:.3g} is too small for the series of {self.manifold}, which would need more than {_MAX_LEVELS} "
            "levels. Mixing is a matter of large times: raise tau."
        )

    def factors(self, tau: float, n: int) -> Tensor:
        """exp(-lambda tau / weight) of the first ``n`` levels."""
        return (-tau / self.weight * self.manifold.eigenvalues(n)).exp()

    def chi_square(self, tau: float) -> float:
        n = self.levels(tau)
        terms = self.manifold.multiplicities(n) * self.factors(tau, n)
        return float(terms[1:].flip(0).sum())


@singledispatch
def _parts(manifold: Manifold) -> list[_Part]:
    """Factors whose spectra are known."""
    raise CapabilityError(
        f"Mixing times need a known spectrum, and {manifold} has none here. Spheres, tori, matrix groups, projective "
        "spaces, homogeneous quotients and products of them have one."
    )


@_parts.register
def _(manifold: Spectral) -> list[_Part]:
    return [_Part(manifold)]


@_parts.register
def _(manifold: Torus) -> list[_Part]:
    return [_Part(Torus(1, length)) for length in manifold.lengths]


@_parts.register
def _(manifold: Power) -> list[_Part]:
    return _parts(manifold.manifold) * manifold.k


@_parts.register
def _(manifold: Product) -> list[_Part]:
    pairs = zip(manifold.factors, manifold.weights, strict=True)
    return [_Part(part.manifold, part.weight * weight) for factor, weight in pairs for part in _parts(factor)]


def chi_square_from_uniform(manifold: Manifold, tau: float) -> float:
    r"""Chi-square divergence of Brownian motion, started at a point, from the uniform law.

    .. math:: \chi^2(\tau) = V p_{2\tau}(x_0 \mid x_0) - 1 = \sum_{l \ge 1} m_l\, e^{-\lambda_l \tau}

    with the eigenvalues :math:`\lambda_l` of :math:`-\Delta` and their multiplicities; on a product the factors'
    :math:`1 + \chi^2` multiply. It does not depend on the point (the manifolds whose spectrum is known are
    homogeneous). By the inequality of Cauchy and Schwarz the total variation is at most :math:`\tfrac12\sqrt{\chi^2}`,
    and the divergence in nats at most :math:`\log(1 + \chi^2)`.

    Args:
        manifold: a manifold with a known spectrum, or a product of such.
        tau: Brownian time.

    Raises:
        CapabilityError: if the spectrum is not known.
        ConfigError: a time that is not positive, or so small that 4096 levels don't suffice.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> round(chi_square_from_uniform(Sphere(2), 3.0) / 3 * 2.718281828**6, 3)  # 3 e^(-2 tau) and little more
        1.0
    """
    _check_time(tau)
    return math.expm1(math.fsum(math.log1p(part.chi_square(tau)) for part in _parts(manifold)))


def total_variation_from_uniform(
    manifold: Manifold, tau: float, n: int = 20_000, generator: torch.Generator | None = None
) -> Estimate:
    r"""Total variation of Brownian motion, started at a point, from the uniform law U.

    .. math::
        \mathrm{E}_{x \sim U} \big(1 - V p_\tau(x \mid x_0)\big)_+, \qquad
        V p_\tau(x \mid x_0) = 1 + \sum_{l \ge 1} e^{-\lambda_l\tau/2}\, V \sum_s f_{ls}(x) f_{ls}(x_0)

    The density is exact, by level sums; the integral is a mean over uniform points, with its standard error.

    Args:
        manifold: a manifold with a known spectrum, or a product of such.
        tau: Brownian time.
        n: uniform points.
        generator: of the points; default seed 0.

    Raises:
        CapabilityError: if the spectrum is not known.
        ConfigError: a time that is not positive, or so small that 4096 levels don't suffice.
    """
    _check_time(tau)
    return Estimate.mean(_shortfall(_parts(manifold), n, generator)(tau))


def mixing(
    manifold: Manifold, level: float = 0.01, n: int = 20_000, generator: torch.Generator | None = None
) -> Mixing:
    """Spectral gap, and the times at which total variation and its chi-square bound fall to a level.

    Args:
        manifold: a manifold with a known spectrum (spheres, tori, matrix groups, projective spaces, some quotients), or
            a product of such.
        level: total variation that counts as mixed, in (0, 1/2).
        n: uniform points of the integral of the total variation.
        generator: of the points; default seed 0.

    Raises:
        CapabilityError: if the spectrum is not known.
        ConfigError: a level out of range.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> found = mixing(Sphere(2))
        >>> found.gap, round(found.chi_square_time, 2)
        (1.0, 4.46)

    References:
        Levin and Peres, *Markov chains and mixing times*, 2017 (definitions); Saloff-Coste, *Precise estimates on the
        rate at which certain diffusions tend to equilibrium*, 1994.
    """
    if not 0 < level < 0.5:
        raise ConfigError(f"level, a total variation, must be in (0, 1/2); got {level}.")
    parts = _parts(manifold)
    gap = min(float(part.manifold.eigenvalues(2)[1]) / part.weight for part in parts) / 2
    bound = _first_below(lambda tau: math.sqrt(chi_square_from_uniform(manifold, tau)) / 2, level, 1 / gap)
    shortfall = _shortfall(parts, n, generator)
    time = _first_below(lambda tau: float(shortfall(tau).mean()), level, bound)
    step = 1e-3 * time
    slope = float((shortfall(time + step) - shortfall(time - step)).mean()) / (2 * step)
    error = Estimate.mean(shortfall(time)).standard_error / abs(slope)
    return Mixing(gap, level, Estimate(time, error), bound)


def _check_time(tau: float) -> None:
    if not 0 < tau < math.inf:
        raise ConfigError(f"tau, the Brownian time, must be positive and finite; got {tau}.")


def _shortfall(parts: list[_Part], n: int, generator: torch.Generator | None) -> Callable[[float], Tensor]:
    """``tau -> (1 - p / uniform)_+`` at uniform points, the same at every call, ``(n,)``."""
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    draws = [p.manifold.random_uniform(n, generator=generator, dtype=torch.float64) for p in parts]
    sums = [x.new_zeros(n, 0) for x in draws]

    def shortfall(tau: float) -> Tensor:
        log_ratio = draws[0].new_zeros(n)
        for i, (part, x) in enumerate(zip(parts, draws, strict=True)):
            k = part.levels(tau / 2)
            if sums[i].shape[1] < k:
                start = part.manifold.origin(torch.float64).expand_as(x)
                sums[i] = part.manifold.volume * part.manifold.level_sums(x, start, k)
            excess = sums[i][:, 1:k] @ part.factors(tau / 2, k)[1:]
            log_ratio = log_ratio + excess.clamp_min(-1).log1p()  # a density of 0 up to rounding is none below it
        return -log_ratio.expm1().clamp_max(0)

    return shortfall


def _first_below(value: Callable[[float], float], level: float, guess: float) -> float:
    """Where a decreasing function of time crosses ``level``, by bisection to 1e-10 of the time."""
    low = high = guess
    while value(high) > level:
        high *= 2
    while value(low) <= level:
        low /= 2
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) > level else (low, middle)
    return high
