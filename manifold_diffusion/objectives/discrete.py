"""The evidence bound of a denoiser of tokens."""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor, nn

from .._errors import CapabilityError, ConfigError
from .._typing import Batch, Network
from ..processes import AbsorbingNoise, DiscreteNoise, UniformNoise
from .base import Objective, stratified_times

__all__ = ["DiscreteDenoising"]


class DiscreteDenoising(Objective):
    r"""An unbiased estimate of the evidence bound :math:`-\log p_\theta(x_0) \le L`, in nats per sequence.

    With ``n_steps=None`` the bound of sampling in continuous time. For absorbing noise it is a weighted cross-entropy
    of the masked tokens, for uniform noise a divergence of jump rates, :math:`r_y = q(y \mid x_0)/q(x_t \mid x_0)` of
    the truth against :math:`\hat r_y = \sum_{x_0} p_\theta(x_0 \mid x_t)\, q(y \mid x_0)/q(x_t \mid x_0)`, summed over
    tokens:

    .. math::
        L = E\int_0^1 \frac{-\alpha'}{1 - \alpha} \sum_{x_t = \text{mask}} -\log p_\theta(x_0 \mid x_t)\,dt, \qquad
        L = E\int_0^1 \frac{-\alpha'}{K\alpha} \sum_{y \ne x_t}
        \Big(\hat r_y - r_y + r_y \log\frac{r_y}{\hat r_y}\Big)\,dt

    In continuous time one token jumps at a time, so that with the exact denoiser both are equal to
    :math:`-\log p(x_0)`, whatever the tokens' dependence; neither depends on the schedule. With ``n_steps=T`` it is
    the bound of ancestral sampling in T equal steps, :math:`T\,\mathrm{KL}(q(x_s \mid x_t, x_0) \,\|\,
    p_\theta(x_s \mid x_t))`: larger when tokens depend on each other, because a step draws them independently.

    The masked cross-entropy divided by :math:`1 - \alpha` has infinite variance. The estimate masks one random token
    for sure, the others with probability :math:`1 - \alpha(t)`, and divides by the number l of masked tokens:
    :math:`-\alpha'(t)\,(\text{length}/l) \sum_{\text{masked}} -\log p_\theta`. Same mean, bounded weights. For uniform
    noise half of the draws change one random token for sure, and the weight is that of the mixture of both draws.

    Args:
        process: noise on tokens.
        n_steps: steps of the sampler whose bound it is; None for continuous time.

    Raises:
        ConfigError: for fewer than one step.
        CapabilityError: in continuous time, for a process of your own.

    Example:
        >>> import torch
        >>> from manifold_diffusion._typing import Batch
        >>> from manifold_diffusion.processes import AbsorbingNoise
        >>> objective = DiscreteDenoising(AbsorbingNoise(4))
        >>> network = lambda t, x, cond=None: torch.zeros(*x.shape, 4)  # uniform: 3 log 4 nats for three tokens
        >>> objective.loss(network, Batch(torch.zeros(1000, 3, dtype=torch.int64)), torch.Generator().manual_seed(0))
        tensor(4.1589)

    References:
        Campbell et al., *A continuous time framework for discrete denoising models*, 2022, arXiv:2205.14987; Shi et
        al., *Simplified and generalized masked diffusion for discrete data*, 2024, arXiv:2406.04329; Sahoo et al.,
        *The diffusion duality*, 2025, arXiv:2506.10892.
    """

    def __init__(self, process: DiscreteNoise, n_steps: int | None = None) -> None:
        if not isinstance(process, DiscreteNoise):
            raise ConfigError(
                f"DiscreteDenoising needs noise on tokens, such as AbsorbingNoise(K); got {type(process).__name__}. "
                "On a manifold use DenoisingScoreMatching."
            )
        if n_steps is not None and (isinstance(n_steps, bool) or not isinstance(n_steps, int) or n_steps < 1):
            raise ConfigError(f"n_steps must be an integer >= 1, or None for continuous time; got {n_steps!r}.")
        if n_steps is None and _bound_rate.dispatch(type(process)) is _bound_rate.dispatch(object):
            raise CapabilityError(
                f"The bound in continuous time is known for AbsorbingNoise and UniformNoise; got "
                f"{type(process).__name__}. Use n_steps=1000."
            )
        self.process, self.n_steps = process, n_steps

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        return self.bounds(network, batch, generator).mean()

    def bounds(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        """One unbiased estimate per sequence, ``(batch,)``."""
        self.process.check_tokens(batch.x, "the batch")
        like = torch.empty((), dtype=_float_type(network), device=batch.x.device)
        u = stratified_times(like, len(batch.x), generator)
        u = u[torch.randperm(len(u), generator=generator, device=u.device)]  # no sequence has a stratum of its own
        if self.n_steps is None:
            return _bound_rate(self.process, network, batch, u, generator)
        return self._step_bound(network, batch, u, self.n_steps, generator)

    def _step_bound(
        self, network: Network, batch: Batch, u: Tensor, n_steps: int, generator: torch.Generator | None
    ) -> Tensor:
        index = (u * n_steps).floor().clamp_max(n_steps - 1)
        s, t = index / n_steps, (index + 1) / n_steps
        x_t = self.process.sample(batch.x, t, generator)
        p = self.process.denoise(network(t, x_t, batch.cond), x_t, t)
        truth = torch.nn.functional.one_hot(batch.x, self.process.n_categories).to(p)
        q, model = self.process.posterior(x_t, truth, s, t), self.process.posterior(x_t, p, s, t)
        safe = torch.where(q > 0, model, 1.0)  # the derivative of the logarithm must be finite where q = 0
        return n_steps * (torch.xlogy(q, q) - q * safe.log()).sum((-1, -2))


@singledispatch
def _bound_rate(
    process: DiscreteNoise, network: Network, batch: Batch, t: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Integrand of the bound at times t, one draw per sequence."""
    raise NotImplementedError


@_bound_rate.register
def _(process: AbsorbingNoise, network: Network, batch: Batch, t: Tensor, generator: torch.Generator | None) -> Tensor:
    x0 = batch.x
    x_t = process.sample(x0, t, generator)
    forced = torch.randint(x0.shape[-1], (len(x0), 1), generator=generator, device=x0.device)
    x_t = x_t.scatter(-1, forced, process.mask)
    masked = x_t == process.mask
    log_p = network(t, x_t, batch.cond).log_softmax(-1).gather(-1, x0.unsqueeze(-1)).squeeze(-1)
    mean = torch.where(masked, -log_p, 0.0).sum(-1) / masked.sum(-1)
    return -process.signal.rate(t) * x0.shape[-1] * mean


@_bound_rate.register
def _(process: UniformNoise, network: Network, batch: Batch, t: Tensor, generator: torch.Generator | None) -> Tensor:
    x0, k, n = batch.x, process.n_categories, batch.x.shape[-1]
    x_t = process.sample(x0, t, generator)
    position = torch.randint(n, (len(x0), 1), generator=generator, device=x0.device)
    shift = torch.randint(1, k, (len(x0), 1), generator=generator, device=x0.device)
    changed = x_t.scatter(-1, position, (x0.gather(-1, position) + shift) % k)
    x_t = torch.where(torch.rand((len(x0), 1), generator=generator, device=x0.device) < 0.5, changed, x_t)
    # At t = 0 the smallest noise whose inverse is a float: forced changes have the weight of its size.
    noise = process.signal.noise(t).clamp_min(torch.finfo(t.dtype).eps ** 3)
    expected, found = n * noise * (k - 1) / k, (x_t != x0).sum(-1)
    weight = torch.where(found > 0, 2 * expected / (expected + found), 2.0)

    f = network(t, x_t, batch.cond).softmax(-1)
    alpha, rest = process.signal.alpha(t)[:, None, None], noise[:, None, None] / k
    clean = torch.nn.functional.one_hot(x0, k).to(f)
    here = x_t.unsqueeze(-1)
    f_x, clean_x = f.gather(-1, here), clean.gather(-1, here)
    # The sum over p(x_0 | x_t) of the ratios is the ratio of the sums over the logits' own law f.
    below, below_clean = alpha * f_x + rest, alpha * clean_x + rest
    r, r_hat = (alpha * clean + rest) / below_clean, (alpha * f + rest) / below
    # (r_hat - r) / alpha without cancellation: what is left of the divergence near t = 1, where both are near 1.
    slope = alpha * (f * clean_x - clean * f_x) + rest * ((f - clean) - (f_x - clean_x))
    slope = slope / (below * below_clean)
    near = (alpha * slope).abs() < 0.5 * r
    u = torch.where(near, alpha * slope / r, 0.0)
    far = r_hat - r + r * (r.log() - r_hat.log())
    gap = torch.where(near, r * (u - torch.log1p(u)), far)
    rate = -process.signal.rate(t) / (k * alpha[:, 0, 0].clamp_min(torch.finfo(t.dtype).tiny))
    return rate * weight * gap.sum((-1, -2))


def _float_type(network: Network) -> torch.dtype:
    """Type of the times: that of the network's weights, or torch's default."""
    for p in network.parameters() if isinstance(network, nn.Module) else ():
        if p.is_floating_point():
            return p.dtype
    return torch.get_default_dtype()
