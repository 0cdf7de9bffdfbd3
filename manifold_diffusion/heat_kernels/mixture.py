"""Mixtures of heat kernels: densities whose diffusion is known in closed form at every noise level."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import CapabilityError, ConfigError
from ..manifolds import Compact, Manifold
from .base import brownian_time, heat_kernel
from .pinned import sample_pinned

__all__ = ["HeatKernelMixture", "are_weights", "draw_index"]

_PAIRS = 1 << 18
"""Pairs held at a time: their temporaries stay in cache, and memory doesn't grow with the data."""


class HeatKernelMixture:
    r"""A mixture of heat kernels, and its diffusion.

    .. math::
        p_\tau(x) = \sum_k w_k\, p_{\tau_k + \tau}(x \mid c_k) + \frac{w_0}{V}

    By the semigroup property :math:`p_\tau` is exactly the law at Brownian time :math:`\tau` of a Brownian motion
    started at :math:`p_0`: an oracle for everything that is learned, and (with data points as centres) a kernel density
    estimate. Sums run over chunks of centres in log space, in bounded memory.

    Args:
        manifold: a manifold with a heat kernel.
        centres: ``(K, *point_shape)``.
        tau: Brownian time per centre, ``(K,)``, or one for all; 0 for a point mass, which has a density after an extra
            time only.
        weights: positive weights, ``(K,)``, normalised here; default: equal.
        uniform_weight: weight :math:`w_0` of the uniform law, in [0, 1); the centres share the rest. Only on a
            compact manifold.

    Raises:
        ConfigError: for times or weights out of range, or no centre.
        CapabilityError: if the manifold has no heat kernel, or has no uniform law and ``uniform_weight`` is positive.

    Example:
        >>> import torch
        >>> from manifold_diffusion.heat_kernels import HeatKernelMixture
        >>> from manifold_diffusion.manifolds import Sphere
        >>> p = HeatKernelMixture(Sphere(2), torch.eye(3), tau=0.1, uniform_weight=0.2)
        >>> x = p.sample(5, generator=torch.Generator().manual_seed(0))
        >>> p.log_prob(x).shape, p.score(x, tau=0.5).shape
        (torch.Size([5]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        manifold: Manifold,
        centres: Tensor,
        tau: Tensor | float,
        weights: Tensor | None = None,
        uniform_weight: float = 0.0,
    ) -> None:
        self.manifold = manifold
        self.kernel = heat_kernel(manifold)
        manifold.check_point(centres, "centres")
        if centres.dim() != 1 + len(manifold.point_shape) or len(centres) == 0:
            raise ConfigError(
                f"centres must have shape (K, {', '.join(map(str, manifold.point_shape))}) with K >= 1; "
                f"got {tuple(centres.shape)}."
            )
        self.centres = centres
        self.tau = torch.as_tensor(tau, dtype=centres.dtype, device=centres.device).reshape(-1)
        if not bool((torch.isfinite(self.tau) & (self.tau >= 0)).all()):
            raise ConfigError(f"tau, the Brownian time of a centre, must be finite and >= 0; got {tau}.")
        self._has_masses = bool((self.tau == 0).any())
        if len(self.tau) not in (1, len(centres)):
            raise ConfigError(
                f"tau must be one time or one per centre ({len(centres)}); got shape {tuple(self.tau.shape)}."
            )
        if not 0 <= uniform_weight < 1:
            raise ConfigError(f"uniform_weight must be in [0, 1); got {uniform_weight}.")
        if uniform_weight > 0 and not isinstance(manifold, Compact):
            raise CapabilityError(f"{manifold!r} is not compact: it has no uniform law. Use uniform_weight=0.")
        self.uniform_weight = float(uniform_weight)
        if weights is None:
            self.weights = torch.full((len(centres),), 1 / len(centres), dtype=torch.float64, device=centres.device)
        else:
            w = weights.to(centres.device, torch.float64)
            if not are_weights(w, len(centres)):
                raise ConfigError(
                    f"weights must be one finite number >= 0 per centre ({len(centres)}), not all zero; "
                    f"got shape {tuple(w.shape)}."
                )
            w = w / w.max()  # whose sum is finite
            self.weights = w / w.sum()

    def log_prob(self, x: Tensor, tau: Tensor | float = 0.0) -> Tensor:
        """Log density after the extra Brownian time ``tau >= 0``, a float or ``(*batch,)``; shape ``(*batch,)``."""
        return self.log_prob_and_score(x, tau, want_score=False)[0]

    def score(self, x: Tensor, tau: Tensor | float = 0.0) -> Tensor:
        """Riemannian gradient of :meth:`log_prob`, tangent at ``x``."""
        return self.log_prob_and_score(x, tau)[1]

    def sample(self, n: int, tau: Tensor | float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """``n`` independent points after the extra Brownian time ``tau`` (float or ``(n,)``).

        Raises:
            ConfigError: if ``n`` or ``tau`` is negative.
        """
        device = self.centres.device
        index = draw_index(self.weights.double(), n, generator)
        total = (self.tau[index] if len(self.tau) > 1 else self.tau) + self._extra(tau, self.centres)
        x = self._noised(self.centres[index], total.expand(n), generator)
        if self.uniform_weight > 0 and isinstance(self.manifold, Compact):
            uniform = self.manifold.random_uniform(n, generator=generator, dtype=x.dtype, device=device)
            pick = torch.rand(n, generator=generator, dtype=torch.float64, device=device) < self.uniform_weight
            x = torch.where(pick.reshape(n, *(1,) * len(self.manifold.point_shape)), uniform, x)
        return x

    def sample_reverse(
        self, x: Tensor, tau: Tensor | float, tau0: Tensor | float, generator: torch.Generator | None = None
    ) -> Tensor:
        r"""Points at extra Brownian time ``tau0`` of the motions that are at ``x`` at ``tau >= tau0``: exact.

        The centre k is drawn with probability proportional to :math:`w_k\,p_{\tau_k + \tau}(x \mid c_k)`; between the
        centre and x the motion is pinned (:func:`sample_pinned`). Points of the uniform component move on.

        Args:
            x: points, ``(*batch, *point_shape)``.
            tau: their extra Brownian time, float or ``(*batch,)``.
            tau0: the earlier one, likewise.
            generator: source of randomness.

        Raises:
            ConfigError: if ``tau0`` is not in [0, tau].
            CapabilityError: if pinned motion can't be drawn on the manifold.
        """
        shape, extra = self.manifold.batch_shape(x), len(self.manifold.point_shape)
        late, early = (self._extra(a, x).expand(shape).reshape(-1) for a in (tau, tau0))
        if not bool(((early >= 0) & (early <= late)).all()):
            raise ConfigError("sample_reverse needs 0 <= tau0 <= tau, at every point.")
        flat, result = x.reshape(-1, *self.manifold.point_shape), x.reshape(-1, *self.manifold.point_shape).clone()
        index = self._component(flat, late, generator)
        moving = early < late
        free = (index == len(self.centres)) & moving
        pinned = (index < len(self.centres)) & moving
        if bool(free.any()):  # stationary, hence the same in both directions of time
            result[free] = self.kernel.sample(flat[free], (late - early)[free], generator)
        if bool(pinned.any()):
            k = index[pinned]
            own = (self.tau[k] if len(self.tau) > 1 else self.tau).to(x)
            times = own + early[pinned], (late - early)[pinned]
            start = self.centres[k].to(x)
            away = times[0] > 0  # a point mass at its own time is where it started
            to = times[0][away], times[1][away]
            start[away] = sample_pinned(self.manifold, start[away], flat[pinned][away], *to, generator)
            result[pinned] = start
        return result.reshape(*shape, *x.shape[x.dim() - extra :])

    def _noised(self, x: Tensor, tau: Tensor, generator: torch.Generator | None) -> Tensor:
        """Points moved for the times ``tau >= 0``; those without time stay."""
        if not self._has_masses:
            return self.kernel.sample(x, tau, generator)
        moving = tau > 0
        x = x.clone()
        x[moving] = self.kernel.sample(x[moving], tau[moving], generator)
        return x

    def _component(self, x: Tensor, tau: Tensor, generator: torch.Generator | None) -> Tensor:
        """Index of the centre that each point came from; the number of centres for the uniform law."""
        log_w = (self.weights * (1 - self.uniform_weight)).log().to(x)
        rows = max(1, _PAIRS // len(self.centres))
        chosen = [torch.empty(0, dtype=torch.int64, device=x.device)]
        for start in range(0, len(x), rows):
            times = self.tau.to(x) + tau[start : start + rows, None]
            log_p = log_w + self.kernel.log_prob(x[start : start + rows].unsqueeze(1), self.centres.to(x), times)
            if self.uniform_weight > 0 and isinstance(self.manifold, Compact):
                level = log_p.new_full((len(log_p), 1), math.log(self.uniform_weight) - self.manifold.log_volume)
                log_p = torch.cat([log_p, level], 1)
            chosen.append(torch.multinomial(log_p.softmax(-1), 1, generator=generator).squeeze(-1))
        return torch.cat(chosen)

    def _extra(self, tau: Tensor | float, like: Tensor) -> Tensor:
        if isinstance(tau, Tensor):
            return tau.to(like)
        if not 0 <= tau < math.inf:
            raise ConfigError(f"tau, the extra Brownian time of a mixture, must be finite and >= 0; got {tau}.")
        return torch.tensor(float(tau), dtype=like.dtype, device=like.device)

    def log_prob_and_score(
        self, x: Tensor, tau: Tensor | float = 0.0, want_score: bool = True
    ) -> tuple[Tensor, Tensor]:
        """:meth:`log_prob` and :meth:`score` from one scan; without ``want_score`` the second is not to be used.

        In the dtype of ``x``, computed in that of the centres where that is finer: short times tell them apart.
        """
        shape = self.manifold.batch_shape(x)
        flat = x.reshape(-1, *self.manifold.point_shape).to(torch.promote_types(x.dtype, self.centres.dtype))
        extra = self._extra(tau, flat)
        if self._has_masses:
            extra = brownian_time(extra, flat)
        per_query = extra.dim() > 0 and extra.numel() > 1
        extra = extra.expand(shape).reshape(-1, 1) if per_query else extra.reshape(-1)
        size = max(1, _PAIRS // max(1, math.prod(self.manifold.point_shape) // 4))
        columns = min(len(self.centres), max(512, size // 8 // max(len(flat), 1)))
        rows = max(1, size // columns)
        log_ps, scores = [], []
        for start in range(0, max(len(flat), 1), rows):
            stop = start + rows
            log_p, score = self._chunk(flat[start:stop], extra[start:stop] if per_query else extra, columns, want_score)
            log_ps.append(log_p)
            scores.append(score)
        log_p, score = torch.cat(log_ps).to(x.dtype), torch.cat(scores).to(x.dtype)
        return log_p.reshape(shape), score.reshape(x.shape) if want_score else score

    def _chunk(self, x: Tensor, extra: Tensor, columns: int, want_score: bool) -> tuple[Tensor, Tensor]:
        """Running log-sum-exp over chunks of centres, and the score weighted alike."""
        w0 = self.uniform_weight
        tiny = torch.finfo(x.dtype).min
        top = torch.full_like(x.flatten(1)[:, 0], tiny).detach()
        total, score = torch.zeros_like(top), torch.zeros_like(x)
        if w0 > 0 and isinstance(self.manifold, Compact):
            top, total = torch.full_like(top, math.log(w0) - self.manifold.log_volume), torch.ones_like(total)
        log_w = (self.weights * (1 - w0)).log()
        for start in range(0, len(self.centres), columns):
            block = slice(start, start + columns)
            centres = self.centres[block].to(x)
            own = (self.tau[block] if len(self.tau) > 1 else self.tau).to(x)
            tau = own + extra
            if extra.dim() == 2:
                log_p = self.kernel.log_prob(x.unsqueeze(1), centres, tau) + log_w[block].to(x)
            else:
                log_p = self.kernel.pairwise_log_prob(x, centres, tau) + log_w[block].to(x)
            new = torch.maximum(top, log_p.detach().amax(1))
            fade, terms = (top - new).exp(), (log_p - new.unsqueeze(1)).exp()
            total = total * fade + terms.sum(1)
            top = new
            if want_score:
                if extra.dim() == 2:
                    pairs = self.kernel.score(x.unsqueeze(1), centres, tau)
                    part = (terms.reshape(*terms.shape, *(1,) * len(self.manifold.point_shape)) * pairs).sum(1)
                else:
                    part = self.kernel.weighted_score(x, centres, tau, terms)
                score = score * self._column(fade) + part
        return top + total.log(), score / self._column(total) if want_score else score

    def _column(self, a: Tensor) -> Tensor:
        return a.reshape(-1, *(1,) * len(self.manifold.point_shape))


def draw_index(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """``n`` independent indices with probabilities proportional to ``weights`` ``(k,)``; ``(n,)`` int64.

    Raises:
        ConfigError: if ``n`` is negative.
    """
    if n < 0:
        raise ConfigError(f"A sample needs n >= 0 points; got n = {n}.")
    if n == 0:
        return torch.empty(0, dtype=torch.int64, device=weights.device)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def are_weights(w: Tensor, n: int) -> bool:
    """Whether ``w`` are n finite numbers >= 0 that are not all zero."""
    return w.shape == (n,) and bool((torch.isfinite(w) & (w >= 0)).all()) and bool((w > 0).any())
