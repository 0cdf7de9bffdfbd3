"""Energies whose minimum-energy paths and principal curves are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifold_diffusion.manifolds import Sphere
from manifold_diffusion.solvers import DiffusionString

K, B, TH0 = 60.0, 1.0, math.pi / 3


def on_sphere(theta: float, phi: float) -> Tensor:
    return torch.tensor(
        [math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)], dtype=torch.float64
    )


def colatitude(x: Tensor) -> Tensor:
    return torch.atan2(x[..., :2].norm(dim=-1), x[..., 2])


def latitude_energy(x: Tensor) -> Tensor:
    """V = K/2 (theta - theta_0)^2 + B cos 2 phi: its valley is a circle of latitude, which is no geodesic."""
    return K / 2 * (colatitude(x) - TH0) ** 2 + B * (x[..., 0] ** 2 - x[..., 1] ** 2) / x[..., :2].square().sum(-1)


def latitude_force(t: Tensor, x: Tensor) -> Tensor:
    """-grad V, with unit vectors towards the south pole and along the circle."""
    a, b = x[..., 0], x[..., 1]
    r = torch.sqrt(a * a + b * b)
    south = torch.stack([a * x[..., 2] / r, b * x[..., 2] / r, -r], -1)
    east = torch.stack([-b / r, a / r, torch.zeros_like(r)], -1)
    return -K * (colatitude(x) - TH0)[..., None] * south + (4 * B * a * b / r**3)[..., None] * east


def latitude_string() -> DiffusionString:
    return DiffusionString(Sphere(2), score=latitude_force, log_prob=lambda x: -latitude_energy(x))


def bent_start() -> Tensor:
    """From minimum to minimum through a point beyond the valley; the geodesic would run over the pole."""
    half = math.pi / 2
    return torch.stack([on_sphere(TH0, -half), on_sphere(TH0 + 0.3, 0.0), on_sphere(TH0, half)])
