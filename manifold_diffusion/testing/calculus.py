"""Laws of gradients, divergences, volumes and spectra."""

from __future__ import annotations

import torch
from torch import Tensor

from ..manifolds import Compact, Manifold, Spectral, divergence, gradient, hutchinson_divergence
from .laws import law, require_mean, require_small, require_zero_mean
from .sampling import normal_vectors, random_field, random_function, random_points, random_vectors, reach

__all__: list[str] = []

_DOUBLE = (torch.float64,)
_LEVELS = 4


@law()
def log_det_exp_definition(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``log_det_exp`` is the logarithm of the determinant of the derivative of ``exp`` in orthonormal bases."""
    x = random_points(manifold, 16, dtype, generator)
    for low, high in ((0.0, 1e-3), (0.1, 0.9 * reach(manifold))):
        v = random_vectors(manifold, x, generator, low, high)
        error = (manifold.log_det_exp(x, v) - Manifold.log_det_exp(manifold, x, v)).abs()
        require_small(
            manifold, "log_det_exp_definition", error, f"|log_det_exp - log |det d exp|| for |v| up to {high:.1e}"
        )


@law()
def gradient_of_squared_distance(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The gradient of half the squared distance to y is ``-log(x, y)``: metric, distance and logarithm agree."""
    x = random_points(manifold, 16, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0.05, 0.8 * reach(manifold)))
    slope = gradient(manifold, lambda p: manifold.dist(p, y).square() / 2, x)
    error = manifold.norm(x, manifold.to_tangent(x, slope + manifold.log(x, y)))
    require_small(manifold, "gradient_of_squared_distance", error, "|grad d(x, y)^2 / 2 + log_x(y)|")


@law(dtypes=_DOUBLE)
def laplacian_is_geodesic(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The divergence of the gradient of f is the sum of its second derivatives along ``dim`` orthonormal geodesics.

    Differences along geodesics know the metric through ``exp`` alone, so that this checks ``divergence`` in any metric,
    its correction included.
    """
    x, f = random_points(manifold, 8, dtype, generator), random_function(manifold, dtype, generator)
    _, laplacian = divergence(manifold, lambda p: gradient(manifold, f, p), x)
    basis = manifold.tangent_basis(x)
    at, h = x.unsqueeze(1).expand_as(basis), 1e-2
    value = {k: f(manifold.exp(at, k * h * basis)) for k in (-2, -1, 0, 1, 2)}
    second = (16 * (value[1] + value[-1]) - (value[2] + value[-2]) - 30 * value[0]) / (12 * h * h)
    error = (laplacian - second.sum(1)).abs() / (1 + laplacian.abs())
    require_small(manifold, "laplacian_is_geodesic", error, "relative gap of the Laplacian")


@law(dtypes=_DOUBLE)
def divergence_is_linear_in_functions(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``div (f v) = f div v + v[f]``."""
    x = random_points(manifold, 8, dtype, generator)
    f, v = random_function(manifold, dtype, generator), random_field(manifold, dtype, generator)
    value, div = divergence(manifold, v, x)
    _, product = divergence(manifold, lambda p: manifold.per_point(f(p)) * v(p), x)
    slope = torch.func.jvp(f, (x,), (value,))[1]
    error = (product - f(x) * div - slope).abs() / (1 + div.abs())
    require_small(manifold, "divergence_is_linear_in_functions", error, "relative gap", limit=1e-9)


@law(dtypes=_DOUBLE)
def hutchinson_is_unbiased(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The mean of ``hutchinson_divergence`` over probes is ``divergence``, by its standard error."""
    x, v = random_points(manifold, 4, dtype, generator), random_field(manifold, dtype, generator)
    _, div = divergence(manifold, v, x)
    _, estimates = hutchinson_divergence(manifold, v, x, 2000, generator=generator)
    require_zero_mean(manifold, "hutchinson_is_unbiased", estimates - div, "the mean estimate minus the divergence")


@law(Compact, dtypes=_DOUBLE)
def divergence_theorem(manifold: Compact, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The divergence of a smooth field has mean 0 under ``random_uniform``, by its standard error.

    It ties the uniform law, the metric and the divergence together: a law that is not uniform breaks it.
    """
    x = manifold.random_uniform(20_000, generator=generator, dtype=dtype)
    for _ in range(2):
        _, div = divergence(manifold, random_field(manifold, dtype, generator), x)
        require_zero_mean(manifold, "divergence_theorem", div, "the mean divergence")


@law(Compact, dtypes=_DOUBLE)
def volume_is_an_integral(manifold: Compact, dtype: torch.dtype, generator: torch.Generator) -> None:
    r"""``volume`` times the mean of :math:`e^{-d^2/2s}` is its integral over minimal geodesics with ``log_det_exp``.

    The distances d are those of ``random_uniform`` from a point, the geodesics normal tangent vectors of variance s
    there, and s is such that both are of about one length.
    """
    x = random_points(manifold, 1, dtype, generator).expand(4000, *manifold.point_shape)
    square = manifold.dist(x, manifold.random_uniform(len(x), generator=generator, dtype=dtype)).square()
    s = square.mean() / manifold.dim
    log_mass = manifold.log_volume - manifold.dim / 2 * (2 * torch.pi * s).log()
    v, _, _, minimal = normal_vectors(manifold, x, s, generator)
    mass = torch.where(minimal, manifold.log_det_exp(x, v).exp(), 0.0)
    # Independent draws: the difference of the pairs has the standard error of the difference of the means.
    difference = (log_mass - square / (2 * s)).exp() - mass
    scale = mass.mean().clamp_min(1e-300)
    require_mean(manifold, "volume_is_an_integral", difference / scale, "the relative error of the volume", 0.1)


@law(Spectral, dtypes=_DOUBLE)
def spectrum_is_ordered(manifold: Spectral, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Eigenvalues ascend from 0, which is simple; multiplicities are positive integers."""
    values, counts = manifold.eigenvalues(6), manifold.multiplicities(6)
    name = "spectrum_is_ordered"
    require_small(
        manifold,
        name,
        torch.stack([values[0].abs(), (counts[0] - 1).abs()]),
        "eigenvalue 0 and its multiplicity minus 1",
    )
    require_small(manifold, name, values[:-1] - values[1:], "a step down in the eigenvalues", limit=-1e-6)
    require_small(
        manifold, name, (counts - counts.round()).abs() + (counts < 1), "a multiplicity that is no positive integer"
    )
    for n in range(1, 6):
        if len(manifold.eigenvalues(n)) != n or len(manifold.multiplicities(n)) != n:
            require_small(manifold, name, torch.ones(1), f"the number of levels for n_levels={n}", limit=0.0)


@law(Spectral)
def level_sums_on_the_diagonal(manifold: Spectral, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``level_sums(x, x)`` is multiplicity / volume and the largest value of its level; level sums are symmetric."""
    x, y = (random_points(manifold, 64, dtype, generator) for _ in range(2))
    diagonal = (manifold.multiplicities(_LEVELS) / manifold.volume).to(dtype)
    name, sums = "level_sums_on_the_diagonal", manifold.level_sums(x, y, _LEVELS)
    require_small(
        manifold, name, (manifold.level_sums(x, x, _LEVELS) / diagonal - 1).abs(), "relative error of level_sums(x, x)"
    )
    require_small(manifold, name, sums.abs() / diagonal - 1, "level_sums(x, y) / level_sums(x, x) - 1")
    require_small(manifold, name, (sums - manifold.level_sums(y, x, _LEVELS)).abs() / diagonal, "relative asymmetry")


@law(Spectral, dtypes=_DOUBLE)
def level_sums_are_eigenfunctions(manifold: Spectral, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The Laplacian of level_sums(., y) is minus the eigenvalue times it."""
    x = random_points(manifold, 4, dtype, generator)
    y = manifold.exp(x, random_vectors(manifold, x, generator, 0.3, 0.7 * reach(manifold)))
    values = manifold.eigenvalues(_LEVELS)
    diagonal = manifold.multiplicities(_LEVELS) / manifold.volume
    for k in range(_LEVELS):

        def f(p: Tensor, k: int = k) -> Tensor:
            return manifold.level_sums(p, y, _LEVELS)[..., k]

        _, laplacian = divergence(manifold, lambda p, f=f: gradient(manifold, f, p), x)
        error = (laplacian + values[k] * f(x)).abs() / (diagonal[k] * (1 + values[k]))
        require_small(manifold, "level_sums_are_eigenfunctions", error, f"relative gap of level {k}")


@law(Spectral, dtypes=_DOUBLE)
def level_sums_reproduce(manifold: Spectral, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Levels are orthonormal: the integral of S_k(x, z) S_l(z, y) over z is delta_kl S_k(x, y), by Monte Carlo."""
    x, y = random_points(manifold, 2, dtype, generator)
    z = manifold.random_uniform(20_000, generator=generator, dtype=dtype)
    left, right = manifold.level_sums(x.expand_as(z), z, _LEVELS), manifold.level_sums(z, y.expand_as(z), _LEVELS)
    target = torch.diag_embed(manifold.level_sums(x, y, _LEVELS))
    samples = manifold.volume * left.unsqueeze(-1) * right.unsqueeze(-2) - target
    keep = samples.std(0) > 1e-12  # level 0 is constant
    require_zero_mean(manifold, "level_sums_reproduce", samples[:, keep], "the integral of S_k S_l minus delta_kl S_k")
    require_small(manifold, "level_sums_reproduce", samples.mean(0)[~keep].abs(), "the integral of constants")


@law(Spectral, dtypes=_DOUBLE)
def uniform_law_has_no_waves(manifold: Spectral, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The eigenfunctions above the constants have mean 0 under ``random_uniform``, by their standard errors."""
    y = random_points(manifold, 1, dtype, generator)
    x = manifold.random_uniform(20_000, generator=generator, dtype=dtype)
    sums = manifold.level_sums(x, y.expand_as(x), _LEVELS)[:, 1:]
    require_zero_mean(manifold, "uniform_law_has_no_waves", sums, "the mean of a level sum")
