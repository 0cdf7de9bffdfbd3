"""Laws of heat kernels, on any manifold: ``check_heat_kernel(M)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..heat_kernels import HeatKernel, heat_kernel
from ..manifolds import Compact, Manifold
from .laws import Law, LawError, LawRecord, check_laws, law, require_mean, require_small
from .sampling import normal_vectors, random_points, reach

__all__ = ["KERNEL_LAWS", "check_heat_kernel", "has_kernel"]

KERNEL_LAWS: dict[str, Law] = {}
"""All laws of heat kernels by name."""

_DOUBLE = (torch.float64,)
_TAUS = (0.003, 0.05, 0.4)
_GRID = (1e-6, 1e-4, 1e-2, 0.3, 3.0, 30.0)
_N = 20_000


def check_heat_kernel(
    manifold: Manifold,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seed: int = 0,
    laws: Sequence[str] | None = None,
    skip: Mapping[str, str] | None = None,
) -> list[LawRecord]:
    """Check every law of heat kernels on ``heat_kernel(manifold)``, yours or a built-in one.

    Integrals are estimated from random points, with standard errors; a law fails at more than five of them, and also if
    the errors are too large for the estimate to mean anything.

    Args:
        manifold: a manifold with a heat kernel.
        dtypes: dtypes to check.
        seed: seed of the generators, one per law.
        laws: names of the laws to check; default all of :data:`KERNEL_LAWS`.
        skip: names of laws that the kernel is known to break, each with the reason; their records carry it.

    Returns:
        One record per law and dtype.

    Raises:
        LawError: if a law does not hold; the message lists all that don't.
        CapabilityError: if the manifold has no heat kernel, or a name is unknown.

    Example:
        >>> from manifold_diffusion.manifolds import Sphere
        >>> from manifold_diffusion.testing import check_heat_kernel
        >>> [r.passed for r in check_heat_kernel(Sphere(2), laws=["kernel_is_symmetric"])]
        [True, True]
    """
    heat_kernel(manifold)
    return check_laws(KERNEL_LAWS, manifold, dtypes, seed, laws, skip)


def has_kernel(manifold: Manifold) -> bool:
    """Whether ``heat_kernel(manifold)`` is there."""
    try:
        heat_kernel(manifold)
    except CapabilityError:
        return False
    return True


# ---------------------------------------------------------------------- points


def _starts(manifold: Manifold, n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return random_points(manifold, n, dtype, generator)


def _pairs(
    kernel: HeatKernel, n: int, tau: float, dtype: torch.dtype, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Points and starting points at the distances that the kernel itself gives."""
    x0 = _starts(kernel.manifold, n, dtype, generator)
    return kernel.sample(x0, tau, generator), x0


def _weighted(kernel: HeatKernel, x0: Tensor, tau: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    r"""Squared distances from ``x0`` over tau, and weights that make an average an integral against the density.

    ``v`` is normal with variance ``1.3 tau`` in the tangent space, and the weight is :math:`p(\exp v)\,|\det d\exp|`
    over the density of ``v``, or zero where ``v`` is no minimal geodesic.
    """
    m, wide = kernel.manifold, 1.3 * tau
    v, x, square, minimal = normal_vectors(m, x0, wide, generator)
    log_normal = -square / (2 * wide) - m.dim / 2 * torch.log(torch.tensor(2 * torch.pi * wide, dtype=x0.dtype))
    weight = (kernel.log_prob(x, x0, tau) + m.log_det_exp(x0, v) - log_normal).exp()
    return square / tau, torch.where(minimal, weight, 0.0)


# ---------------------------------------------------------------------- laws


@law(dtypes=_DOUBLE, registry=KERNEL_LAWS)
def kernel_has_mass_one(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The density integrates to 1 in the Riemannian volume."""
    kernel = heat_kernel(manifold)
    for tau in _TAUS:
        x0 = _starts(manifold, 1, dtype, generator).expand(_N, *manifold.point_shape)
        _, weight = _weighted(kernel, x0, tau, generator)
        require_mean(manifold, "kernel_has_mass_one", weight, f"the mass minus 1 at tau = {tau}", 0.02, 1.0)
    if isinstance(manifold, Compact):
        x = manifold.random_uniform(_N, generator=generator, dtype=dtype)
        x0 = manifold.random_uniform(1, generator=generator, dtype=dtype).expand_as(x)
        mass = kernel.log_prob(x, x0, 2.0).exp() * manifold.volume
        require_mean(manifold, "kernel_has_mass_one", mass, "the mass minus 1 at tau = 2", 0.05, 1.0)


@law(dtypes=_DOUBLE, registry=KERNEL_LAWS)
def kernel_samples_have_the_density(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Functions of the distance have the same mean under ``sample`` as in an integral against ``log_prob``."""
    kernel, name = heat_kernel(manifold), "kernel_samples_have_the_density"
    for tau in _TAUS:
        x0 = _starts(manifold, 1, dtype, generator).expand(_N, *manifold.point_shape)
        square, weight = _weighted(kernel, x0, tau, generator)
        drawn = manifold.dist(x0, kernel.sample(x0, tau, generator)).square() / tau
        for what, f in (("exp(-d^2/2 tau)", lambda s: (-s / 2).exp()), ("d^2/tau", lambda s: s / manifold.dim)):
            # Independent draws: the difference of the pairs has the standard error of the difference of the means.
            require_mean(manifold, name, f(drawn) - weight * f(square), f"the mean of {what} at tau = {tau}", 0.03)


@law(dtypes=_DOUBLE, registry=KERNEL_LAWS)
def kernel_is_a_semigroup(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Brownian motion for s, then for t, is Brownian motion for s + t: the mean of p_t(y | z) over z is p_{s+t}."""
    kernel = heat_kernel(manifold)
    for s, t in ((0.02, 0.03), (0.1, 0.3)):
        x0 = _starts(manifold, 1, dtype, generator)
        y = manifold.exp(x0, 0.5 * (s + t) ** 0.5 * manifold.random_tangent(x0, generator=generator))
        z = kernel.sample(x0.expand(_N, *manifold.point_shape), s, generator)
        ratio = (kernel.log_prob(y.expand_as(z), z, t) - kernel.log_prob(y, x0, s + t)).exp()
        require_mean(manifold, "kernel_is_a_semigroup", ratio, f"the ratio minus 1 for {s} + {t}", 0.05, 1.0)


@law(dtypes=_DOUBLE, registry=KERNEL_LAWS)
def kernel_solves_the_heat_equation(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    r"""``d log p / d tau = (Laplacian of log p + |grad log p|^2) / 2``, by differences along geodesics."""
    kernel = heat_kernel(manifold)
    for tau in _TAUS:
        x, x0 = _pairs(kernel, 16, tau, dtype, generator)
        # Where neither the radius of the polar coordinates nor the cut locus is within a step.
        d, h, longest = manifold.dist(x, x0), 0.02 * tau**0.5, 0.9 * reach(manifold)
        keep = (d > 0.2 * tau**0.5) & (d < longest)
        x, x0 = x[keep], x0[keep]
        basis = manifold.tangent_basis(x)
        at, start = x.unsqueeze(1).expand_as(basis), x0.unsqueeze(1).expand_as(basis)
        f = {k: kernel.log_prob(manifold.exp(at, k * h * basis), start, tau) for k in (-2, -1, 0, 1, 2)}
        first = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
        second = (16 * (f[1] + f[-1]) - (f[2] + f[-2]) - 30 * f[0]) / (12 * h * h)
        g = {k: kernel.log_prob(x, x0, tau * (1 + 0.01 * k)) for k in (-2, -1, 1, 2)}
        rate = (8 * (g[1] - g[-1]) - (g[2] - g[-2])) / (0.12 * tau)
        size = second.abs().sum(1) + first.square().sum(1)
        error = (rate - (second.sum(1) + first.square().sum(1)) / 2).abs() / size
        require_small(
            manifold, "kernel_solves_the_heat_equation", error, f"relative residual at tau = {tau}", limit=1e-4
        )


@law(registry=KERNEL_LAWS)
def score_is_the_gradient(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``score`` is tangent, and its inner product with a vector is the derivative of ``log_prob`` along it."""
    kernel, limit = heat_kernel(manifold), 1e-6 if dtype == torch.float64 else 3e-3
    for tau in _TAUS:
        x, x0 = _pairs(kernel, 32, tau, dtype, generator)
        v = manifold.random_tangent(x, generator=generator)

        def along(s: Tensor, x: Tensor = x, v: Tensor = v, x0: Tensor = x0, tau: float = tau) -> Tensor:
            return kernel.log_prob(manifold.exp(x, manifold.per_point(s) * v), x0, tau)

        zero = torch.zeros(len(x), dtype=dtype)
        slope = torch.func.jvp(along, (zero,), (torch.ones_like(zero),))[1]
        score = kernel.score(x, x0, tau)
        manifold.check_tangent(x, score, "score")
        size = tau**-0.5 + manifold.norm(x, score) * manifold.norm(x, v)
        error = (slope - manifold.inner(x, score, v)).abs() / size
        require_small(manifold, "score_is_the_gradient", error, f"relative gap at tau = {tau}", limit=limit)


@law(registry=KERNEL_LAWS)
def score_of_a_sample(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``sample_with_score`` gives points of the manifold and ``score`` at them, or a target with that mean."""
    kernel, x0 = heat_kernel(manifold), _starts(manifold, 256, dtype, generator)
    if not kernel.exact_targets:
        return _target_has_mean_score(kernel, dtype, generator)
    tau = torch.logspace(-2.5, 0, 256, dtype=dtype)
    drawn = kernel.sample_with_score(x0, tau, generator)
    manifold.check_point(drawn.x)
    manifold.check_tangent(drawn.x, drawn.score, "score")
    error = manifold.norm(drawn.x, drawn.score - kernel.score(drawn.x, x0, tau))
    # A rounding of x by eps, stretched by the size of its entries, turns the score by eps / tau.
    entries = 1 + x0.abs().reshape(256, -1).amax(-1).square() * drawn.x.abs().reshape(256, -1).amax(-1).square()
    allowed = 1e-4 * tau**-0.5 + 100 * torch.finfo(dtype).eps * entries / tau
    require_small(manifold, "score_of_a_sample", error / allowed, "gap over what rounding allows", limit=1.0)


def _target_has_mean_score(kernel: HeatKernel, dtype: torch.dtype, generator: torch.Generator) -> None:
    """The score is the mean of the target given the sample: their difference is orthogonal to the score in the mean."""
    manifold = kernel.manifold
    for tau in _TAUS:
        x0 = _starts(manifold, 1, dtype, generator).expand(_N, *manifold.point_shape)
        drawn = kernel.sample_with_score(x0, tau, generator)
        manifold.check_point(drawn.x)
        manifold.check_tangent(drawn.x, drawn.score, "score")
        score = kernel.score(drawn.x, x0, tau)
        product = tau * manifold.inner(drawn.x, drawn.score - score, score)
        # Far from what folds the paths the target is the score, and their difference rounding, which has a bias.
        rounding = 1e-6 if dtype == torch.float64 else 1e-2
        product = torch.where(product.abs() < rounding, 0.0, product)
        if not bool(product.any()):
            continue
        require_mean(manifold, "score_of_a_sample", product, f"<target - score, score> tau at tau = {tau}", 0.05)


@law(registry=KERNEL_LAWS)
def kernel_is_symmetric(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``log_prob(x, x0) = log_prob(x0, x)``."""
    kernel, limit = heat_kernel(manifold), 1e-6 if dtype == torch.float64 else 2e-2
    for tau in _TAUS:
        x, x0 = _pairs(kernel, 32, tau, dtype, generator)
        gap = (kernel.log_prob(x, x0, tau) - kernel.log_prob(x0, x, tau)).abs()
        require_small(manifold, "kernel_is_symmetric", gap, f"gap in nats at tau = {tau}", limit=limit)


@law(registry=KERNEL_LAWS)
def kernel_of_pairs(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """``pairwise_log_prob`` and ``weighted_score`` are ``log_prob`` and the weighted sum of ``score``, pair by pair."""
    kernel, limit = heat_kernel(manifold), 1e-6 if dtype == torch.float64 else 2e-2
    x, centres = _starts(manifold, 6, dtype, generator), _starts(manifold, 5, dtype, generator)
    tau, weights = torch.full((5,), 0.3, dtype=dtype), torch.rand(6, 5, generator=generator, dtype=dtype)
    one = torch.stack([kernel.log_prob(x, c.expand_as(x), 0.3) for c in centres], 1)
    gap = (kernel.pairwise_log_prob(x, centres, tau) - one).abs() / (1 + one.abs())
    require_small(manifold, "kernel_of_pairs", gap, "relative gap of pairwise_log_prob", limit=limit)
    scores = torch.stack([kernel.score(x, c.expand_as(x), 0.3) for c in centres], 1)
    total = (manifold.per_point(weights) * scores).sum(1)
    gap = manifold.norm(x, kernel.weighted_score(x, centres, tau, weights) - total) / (1 + manifold.norm(x, total))
    require_small(manifold, "kernel_of_pairs", gap, "relative gap of weighted_score", limit=limit)


@law(registry=KERNEL_LAWS)
def kernel_batch_is_a_loop(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """A batch gives what its points give one by one; so does ``vmap``; an empty batch gives an empty one."""
    kernel, limit = heat_kernel(manifold), 1e-9 if dtype == torch.float64 else 1e-4
    x, x0 = _pairs(kernel, 6, 0.2, dtype, generator)
    for name, method in (("log_prob", kernel.log_prob), ("score", kernel.score)):
        whole = method(x, x0, 0.2)
        tau = torch.full((6,), 0.2, dtype=dtype)
        others = {
            "a loop": torch.stack([method(p, q, 0.2) for p, q in zip(x, x0, strict=True)]),
            "vmap": torch.vmap(method)(x, x0, tau),
            "a (2, 3) batch": method(
                x.reshape(2, 3, *manifold.point_shape), x0.reshape(2, 3, *manifold.point_shape), 0.2
            ).reshape(whole.shape),
        }
        for what, other in others.items():
            gap = (other - whole).abs() / (1 + whole.abs())
            require_small(manifold, "kernel_batch_is_a_loop", gap, f"relative gap of {name} in {what}", limit=limit)
        if method(x[:0], x0[:0], 0.2).shape != whole[:0].shape:
            raise LawError(f"{manifold} breaks kernel_batch_is_a_loop: {name} of no points has another shape.")


@law(registry=KERNEL_LAWS)
def kernel_is_finite_on_the_grid(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Samples, log densities, scores, gradients are finite for tau from 1e-6 to 3 (30 if compact), to distance 3."""
    kernel = heat_kernel(manifold)
    origin = manifold.origin(dtype=dtype)
    basis = manifold.tangent_basis(origin)
    ends = [0.0, 1e-6, 1e-3, 0.1, 1.0, reach(manifold)]
    if manifold.injectivity_radius < 1e6:
        ends.append(manifold.injectivity_radius)
    vectors = torch.cat([r * basis for r in ends])
    x0 = origin.expand_as(vectors)
    # Without a bound, points of tau = 30 may be too far away for float32: at distance 90 on a hyperboloid.
    for tau in _GRID if isinstance(manifold, Compact) else _GRID[:-1]:
        x = manifold.exp(x0, vectors).detach().requires_grad_()
        try:
            log_p = kernel.log_prob(x, x0, tau)
        except ConfigError:  # beyond the range that the kernel states
            continue
        (slope,) = torch.autograd.grad(log_p.sum(), x)
        drawn = kernel.sample_with_score(x0, tau, generator)
        named = {"log_prob": log_p, "its gradient": slope, "score": kernel.score(x.detach(), x0, tau)}
        named |= {"a sample": drawn.x, "the score of a sample": drawn.score}
        for what, tensor in named.items():
            if not bool(torch.isfinite(tensor).all()):
                raise LawError(
                    f"{manifold} breaks kernel_is_finite_on_the_grid ({dtype}): {what} is not finite at tau = {tau}."
                )


@law(dtypes=(torch.float32,), registry=KERNEL_LAWS)
def kernel_in_float32(manifold: Manifold, dtype: torch.dtype, generator: torch.Generator) -> None:
    """float32 log densities and scores agree with float64 at the same points, to 1e-4 and what rounding allows."""
    kernel, name, eps = heat_kernel(manifold), "kernel_in_float32", torch.finfo(dtype).eps
    for tau in (1e-4, *_TAUS, 2.0):
        x, x0 = _pairs(kernel, 64, tau, dtype, generator)
        wide_x, wide_x0 = manifold.project(x.double()), manifold.project(x0.double())
        log_p, score = kernel.log_prob(wide_x, wide_x0, tau), kernel.score(wide_x, wide_x0, tau)
        entries = 1 + (wide_x.abs().reshape(64, -1).amax(-1) * wide_x0.abs().reshape(64, -1).amax(-1)).square()
        # The points are rounded by eps times their entries, and d log p = score . dx.
        allowed = 1e-4 * (1 + log_p.abs()) + 10 * eps * entries * (manifold.norm(wide_x, score) + tau**-0.5)
        gap = (kernel.log_prob(x, x0, tau).double() - log_p).abs()
        require_small(manifold, name, gap / allowed, f"gap of log_prob over what is allowed, tau = {tau}", limit=1.0)
        gap = manifold.norm(wide_x, manifold.to_tangent(wide_x, kernel.score(x, x0, tau).double() - score))
        size = manifold.norm(wide_x, score)
        allowed = 1e-4 * (tau**-0.5 + size) + 10 * eps * entries * (1 / tau + size)  # its own entries are rounded too
        require_small(manifold, name, gap / allowed, f"gap of score over what is allowed, tau = {tau}", limit=1.0)
