"""The built-in manifolds, and random points on them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manifold_diffusion.manifolds import Manifold
from manifold_diffusion.testing import instances

F32, F64 = torch.float32, torch.float64
BUILT_IN = [pytest.param(m, id=name) for name, m in instances()]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(m: Manifold, n: int, seed: int = 0, dtype: torch.dtype = F64, spread: float = 1.0) -> Tensor:
    origin = m.origin(dtype=dtype).expand(n, *m.point_shape)
    return m.move(origin, spread * m.random_tangent(origin, generator=seeded(seed)))
