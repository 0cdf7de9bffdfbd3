"""Sums of waves over many points: the non-uniform fast Fourier transform."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["fold", "fourier_sums"]

_EPS = 1e-14
"""Error of the transform over the size of its result, about."""


def fourier_sums(angles: list[Tensor], weights: Tensor, counts: list[int]) -> Tensor:
    r"""Sums :math:`\sum_i w_i e^{i k\cdot\theta_i}` over points, for all integer vectors k with :math:`|k_j| \le n_j`.

    Points are spread on a grid and transformed there: the cost is a constant for each point, whatever the number of
    waves, and a fast Fourier transform.

    Args:
        angles: one ``(n,)`` for each dimension, up to three, float64, radians.
        weights: ``(n,)``, float64.
        counts: the largest frequencies :math:`n_j`.

    Returns:
        Complex ``(2 n_1 + 1, ...)``, from the lowest frequency to the highest.

    References:
        Barnett, Magland and af Klinteberg, *A parallel non-uniform fast Fourier transform library based on an
        "exponential of semicircle" kernel*, 2019, arXiv:1808.06736.
    """
    import finufft  # here, because it brings an OpenMP runtime of its own

    shape = tuple(2 * k + 1 for k in counts)
    plan = finufft.Plan(1, shape, eps=_EPS, isign=1, nthreads=torch.get_num_threads(), dtype="complex128")
    plan.setpts(*(np.ascontiguousarray(a.numpy()) for a in angles))
    return torch.from_numpy(plan.execute(weights.to(torch.complex128).numpy()))


def fold(sums: Tensor) -> tuple[Tensor, Tensor]:
    r"""Point sources at the nodes :math:`\theta_g = \pi(g + 1/2)/n` of the half circle, in place of points.

    A trigonometric polynomial f of a degree that the sums have, below n, with :math:`f(-\theta) = \pm f(\theta)` has
    :math:`\sum_i w_i f(\theta_i) e^{ik\cdot\phi_i} = \sum_g h_g f(\theta_g)`, where h is the transform of
    :math:`\sum_i w_i e^{i j\theta_i + ik\cdot\phi_i}` over j to the full circle, folded with the sign of f.

    Args:
        sums: :func:`fourier_sums`, the angle :math:`\theta` first.

    Returns:
        The nodes, ``(n,)``, and h for the even and the odd functions, ``(2, n, ...)``.
    """
    count = sums.shape[0] // 2
    n_nodes = count + 1
    j = torch.arange(-count, count + 1, dtype=torch.float64)
    half = torch.exp(-1j * np.pi * j / (2 * n_nodes)).reshape(-1, *[1] * (sums.dim() - 1))
    padded = torch.zeros(2 * n_nodes, *sums.shape[1:], dtype=sums.dtype)
    padded[j.long()] = sums * half / (2 * n_nodes)
    circle = torch.fft.fft(padded, dim=0)
    there, back = circle[:n_nodes], circle.flip(0)[:n_nodes]
    theta = np.pi * (torch.arange(n_nodes, dtype=torch.float64) + 0.5) / n_nodes
    return theta, torch.stack([there + back, there - back])
