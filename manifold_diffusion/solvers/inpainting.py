"""Some factors of a product are known: samples of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from .._typing import Network
from ..heat_kernels import heat_kernel
from ..manifolds import WithBoundary
from ..processes import Denoised, LookAhead, NoiseProcess, ProductProcess
from .base import expand_time
from .particles import ParticleSample, check_counts, particle_filter, per_particle, reverse_step

__all__ = ["inpaint"]


def inpaint(
    process: NoiseProcess,
    network: Network,
    known: Sequence[Tensor | None],
    n_chains: int,
    n_particles: int = 64,
    *,
    steps: int = 100,
    cond: Tensor | None = None,
    ess_threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> ParticleSample:
    r"""Samples of the unknown factors of a product given the known ones, :math:`p_0(x_B \mid x_A = a)`.

    The last step of the reverse process from :math:`t_1` to 0 moves the factors independently, so that the density of
    the known values is that of one step, :math:`q(a \mid x_{t_1})`: the likelihood of a particle filter that runs down
    to :math:`t_1`. Before, the twist is the heat kernel about the estimate of the data,

    .. math:: \log\psi_t(x) = \sum_{i \in A} \log p^{(i)}_{v_i(t)}\big(a_i \mid \hat x_0^{(i)}(x, t)\big)

    In the limit of many particles the samples have the law of the discretised reverse process given that its known
    factors end at a. Nothing is replaced by noised copies of a, which would be biased.

    Args:
        process: a process per factor.
        network: ``(t, x, cond) -> tangent vector at x``, the score of all factors together.
        known: one entry per factor: its value, ``point_shape`` or one per chain ``(n_chains, *point_shape)``, or None
            where it is unknown.
        n_chains: number of independent particle filters: one conditional sample each.
        n_particles: particles per filter.
        steps: steps of the reverse process, at least 2.
        cond: condition of the network, ``(cond_dim,)`` or ``(n_chains, cond_dim)``.
        ess_threshold: resample a chain when its effective number of particles falls below this fraction.
        generator: source of all randomness.

    Returns:
        Weighted points of the product, the known factors at their values. The evidence is the model's marginal density
        of the known values, with respect to the volumes of their factors (unweighted).

    Raises:
        CapabilityError: if the process has not one process per factor, or a known factor has a boundary or no heat
            kernel.
        ConfigError: if ``known`` does not fit the factors, or an argument is out of range.
        ManifoldError: if a known value is not a point of its factor.
        NumericsError: if weights stop being finite.

    Example:
        >>> import torch
        >>> from manifold_diffusion.heat_kernels import HeatKernelMixture
        >>> from manifold_diffusion.manifolds import Product, Torus
        >>> from manifold_diffusion.processes import BrownianMotion, LogSchedule
        >>> angles = ProductProcess(*[BrownianMotion(Torus(1), LogSchedule(1e-2, 14.0)) for _ in range(2)])
        >>> law = HeatKernelMixture(angles.manifold, torch.tensor([[-1.0, -2.0], [1.0, 2.0]]), tau=0.1)
        >>> def score(t, x, cond=None):
        ...     return angles.scale(t) * law.score(x, 1e-2 * 1400**t)
        >>> g = torch.Generator().manual_seed(0)
        >>> inpaint(angles, score, [torch.tensor([1.0]), None], 4, 32, steps=30, generator=g).draw(g).sign()
        tensor([[1., 1.],
                [1., 1.],
                [1., 1.],
                [1., 1.]])

    References:
        Wu et al., *Practical and asymptotically exact conditional sampling in diffusion models*, 2023,
        arXiv:2306.17775; Trippe et al., *Diffusion probabilistic modeling of protein backbones in 3D for the
        motif-scaffolding problem*, 2022, arXiv:2206.04119 (which conditions on a noised path of the known part).
    """
    product = _checked_process(process)
    values = _checked_values(product, known, n_chains)
    check_counts(n_chains, n_particles, steps, ess_threshold)
    if steps < 2:
        raise ConfigError(f"inpaint needs steps >= 2, the last of which ends at the known values; got {steps}.")
    kernels = {i: heat_kernel(product.manifold.factors[i]) for i in values}
    split, last = product.manifold.split, 1 / steps
    times = [1 - k / steps for k in range(steps - 1)] + [last]
    each = per_particle(cond, n_chains, n_particles)
    parts = [p for p in product.processes if isinstance(p, NoiseProcess)]

    def potential(estimate: Denoised) -> Tensor:
        xs = split(estimate.x)
        rows = [k.log_prob(values[i], xs[i], estimate.variance[..., i]) for i, k in kernels.items()]
        return torch.stack(rows).sum(0)

    def last_step(x: Tensor) -> tuple[Tensor, Tensor]:
        time = expand_time(product.manifold, last, x)
        return reverse_step(product, network(time, x, each), x, time, -last)

    def log_density(x: Tensor) -> Tensor:
        """Of the known values after the last step from ``x``."""
        xs, means = split(x), split(last_step(x)[0])
        time, total = expand_time(product.manifold, last, x), x.new_zeros(x.shape[:2])
        for i, a in values.items():
            factor = product.manifold.factors[i]
            variance = (last * parts[i].drift_and_rate(xs[i], time)[1]).reshape(total.shape)
            v = factor.log(xs[i], a)
            error = v - means[i]
            total = total - factor.inner(xs[i], error, error) / (2 * variance) - factor.log_det_exp(xs[i], v)
            total = total - factor.dim / 2 * torch.log(2 * math.pi * variance)
        return total

    like = next(iter(values.values()))
    x = process.prior.sample(n_chains * n_particles, generator=generator, dtype=like.dtype, device=like.device)
    x = x.reshape(n_chains, n_particles, *product.manifold.point_shape)
    twist = LookAhead(product, network, potential)
    result = particle_filter(product, twist, log_density, x, times, cond, ess_threshold, generator)
    with torch.no_grad():
        mean, amplitude = last_step(result.x)
        noise = product.manifold.random_tangent(result.x, generator=generator)
        ends = split(product.manifold.move(result.x, mean + amplitude * noise))
        return replace(result, x=product.manifold.join(*[values.get(i, y) for i, y in enumerate(ends)]))


def _checked_process(process: NoiseProcess) -> ProductProcess:
    if not isinstance(process, ProductProcess) or any(isinstance(p, ProductProcess) for p in process.processes):
        raise CapabilityError(
            "inpaint needs a process with one part per factor, none of them a product itself: "
            f"ProductProcess(BrownianMotion(SO3()), Langevin(Euclidean(3))); got a {type(process).__name__} on "
            f"{process.manifold}."
        )
    return process


def _checked_values(process: ProductProcess, known: Sequence[Tensor | None], n_chains: int) -> dict[int, Tensor]:
    """Known values by the number of their factor, shaped to broadcast against ``(n_chains, n_particles)``."""
    factors = process.manifold.factors
    if len(known) != len(factors) or all(a is None for a in known) or all(a is not None for a in known):
        raise ConfigError(
            f"known needs one entry per factor of {process.manifold} ({len(factors)}), a value or None, and at least "
            f"one of each; got {['None' if a is None else tuple(a.shape) for a in known]}."
        )
    values = {}
    for i, (a, factor) in enumerate(zip(known, factors, strict=True)):
        if a is None:
            continue
        if isinstance(factor, WithBoundary):
            raise CapabilityError(
                f"known[{i}] is on {factor}, which has a boundary: the density of a reflected step is not known. Use "
                "sample_twisted with a likelihood of the factor, such as its heat kernel about the value."
            )
        factor.check_point(a, f"known[{i}]")
        batch = factor.batch_shape(a)
        if batch not in ((), (n_chains,)):
            raise ConfigError(
                f"known[{i}] must be one point of {factor}, of shape {factor.point_shape}, or one per chain, "
                f"{(n_chains, *factor.point_shape)}; got {tuple(a.shape)}."
            )
        values[i] = a if batch == () else a.unsqueeze(1)
    return values
