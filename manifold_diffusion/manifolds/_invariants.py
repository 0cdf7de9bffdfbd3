"""Smooth functions that a finite group of isometries leaves unchanged and that separate its orbits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Harmonics", "OrbitFeatures", "landmark_count", "spread"]


class Harmonics:
    """The function ``sum_k P_l(R a_k . s)`` of s in an orthonormal basis, ``(*batch, 3, 3) -> (*batch, 2 l + 1)``."""

    def __init__(self, directions: Tensor, degree: int) -> None:
        n = 2 * degree + 2
        height = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # half a sphere: P_l is even or odd
        turn = math.pi * (1 + math.sqrt(5)) * torch.arange(n, dtype=torch.float64)
        radius = (1 - height.square()).sqrt()
        self.degree = degree
        self.points = torch.stack([radius * turn.cos(), radius * turn.sin(), height], -1)
        values, vectors = torch.linalg.eigh(_legendre(self.points @ self.points.mT, degree))
        self.basis = vectors[:, -(2 * degree + 1) :] / values[-(2 * degree + 1) :].sqrt()
        self.directions = directions.mT.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        cosines = self.points.to(x) @ (x @ self.directions.to(x))
        return _legendre(cosines, self.degree).sum(-1) @ self.basis.to(x)


def _legendre(c: Tensor, degree: int) -> Tensor:
    last, value = torch.ones_like(c), c
    for k in range(1, degree):
        last, value = value, ((2 * k + 1) * c * value - k * last) / (k + 1)
    return value


class OrbitFeatures:
    r"""Mean over an orbit of the features of the kernel :math:`e^{\beta (b(x) \cdot b(y) - |b|^2)}`, projected.

    With the kernel's feature map :math:`\varphi`, :math:`|\varphi(x) - \varphi(y)|^2 = 2 - 2k(x, y) \le \beta\,
    d(x, y)^2`; the mean over an orbit and orthogonal projection shorten chords. Orbits with the same mean are equal,
    and the projection onto the span of 2 dim + 1 landmarks in general position separates them (Dym and Gortler,
    *Low dimensional invariant embeddings for universal geometric learning*, 2022, arXiv:2205.02956). Divided by
    :math:`\sqrt\beta` chords are no longer than distances.

    Args:
        images: all images of the landmarks, embedded, ``(order, landmarks, k)``.
        least_displacement: of the group; the kernel resolves a quarter of it.
    """

    def __init__(self, images: Tensor, least_displacement: float) -> None:
        self.beta = 16 / min(least_displacement, math.pi) ** 2
        self.landmarks = images.flatten(0, 1)
        self.count = images.shape[1]
        self.square = float(images[0, 0].square().sum())
        gram = self._means(images[0])
        values, vectors = torch.linalg.eigh((gram + gram.mT) / 2)
        keep = values > 1e-5 * values[-1]
        self.basis = vectors[:, keep] / (values[keep] * self.beta).sqrt()

    def _terms(self, b: Tensor) -> Tensor:
        return (self.beta * (b @ self.landmarks.to(b).mT - self.square)).exp()

    def _means(self, b: Tensor) -> Tensor:
        return self._terms(b).unflatten(-1, (-1, self.count)).mean(-2)

    def __call__(self, b: Tensor) -> Tensor:
        """Features of embedded points."""
        return self._means(b) @ self.basis.to(b)

    def gradient(self, b: Tensor, a: Tensor) -> Tensor:
        """Gradient in ``b`` of the features times ``a``."""
        terms = self._terms(b).unflatten(-1, (-1, self.count))
        slopes = (a @ self.basis.to(b).mT).unsqueeze(-2) * terms * (self.beta / terms.shape[-2])
        return slopes.flatten(-2) @ self.landmarks.to(b)


def spread(n: int, k: int) -> Tensor:
    """Points ``(n, k)`` that are spread evenly modulo 1: Kronecker's sequence of the generalised golden ratio."""
    ratio = 2.0
    for _ in range(64):
        ratio = (1 + ratio) ** (1 / (k + 1))
    steps = ratio ** -torch.arange(1, k + 1, dtype=torch.float64)
    return 0.5 + torch.arange(1, n + 1, dtype=torch.float64).unsqueeze(-1) * steps


def landmark_count(dim: int, volume: float, displacement: float) -> int:
    """Landmarks that cover a volume at the resolution of the features."""
    return max(16 * dim, min(512, math.ceil(volume * (3 / min(displacement, math.pi)) ** dim)))
