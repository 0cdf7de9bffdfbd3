"""The data of the comparison: where they live, how they are split, at which resolution they are modelled."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from manifold_diffusion.data import EARTH_FILES, PointSet, load_airports, load_earth, load_rna, split
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import SO3, Manifold, Sphere, Torus


@dataclass(frozen=True)
class Space:
    """One data set.

    Attributes:
        manifold: where it lives.
        parts: training, validation and test points of a seed.
        resolution: length below which the models blur the data: the square root of tau_min of the diffusion, s_min of
            the paths.
        steps: optimiser steps.
        truth: log density, where it is known.
        frequencies: random waves of the networks.
        width: of the networks.
        factor_width: of their perceptrons that see one factor each; 0 for none.
        factor_frequencies: random waves of each of those.
        weight_decay: of the optimiser.
        n_likelihood: test points whose likelihood is taken.
        n_seen: angles that the MMD compares, 0 for all: on T^32 the distances of all pairs of points are alike.
    """

    manifold: Manifold
    parts: Callable[[int], tuple[Tensor, Tensor, Tensor]]
    resolution: float
    steps: int
    truth: Callable[[int], Callable[[Tensor], Tensor]] | None = None
    frequencies: int = 256
    width: int = 128
    factor_width: int = 0
    factor_frequencies: int = 4
    weight_decay: float = 0.0
    n_likelihood: int = 10**6
    n_seen: int = 0

    @property
    def where_seen(self) -> Manifold:
        """Where the points live that the MMD compares."""
        return Torus(self.n_seen) if self.n_seen else self.manifold

    def seen(self, x: Tensor) -> Tensor:
        """What the MMD compares of points."""
        return x[..., : self.n_seen] if self.n_seen else x


def spaces(earth: Path, torsions: Path) -> dict[str, Space]:
    """All data sets; those whose files are absent are left out, with a message."""
    found: dict[str, Space] = {}
    for name, file in EARTH_FILES.items():
        if (earth / file).exists():
            found[name] = Space(Sphere(2), _parts(load_earth(name, earth)), 3e-3, 4000)
        else:
            print(f"{name} is left out: no file {earth / file}; pass --earth FOLDER.")
    found["airports"] = Space(Sphere(2), _parts(load_airports()), 3e-3, 4000)
    if torsions.exists():
        # No waves: on 7,584 points in seven dimensions they memorise (held-out NLL -4.6 with 512 of them).
        found["rna"] = Space(Torus(7), _parts(load_rna(torsions)), 4.5e-3, 4000, None, 0, 512, weight_decay=0.1)
    else:
        print(f"rna is left out: no file {torsions}; pass --torsions FILE.")
    found["rotations"] = Space(SO3(), _drawn(_rotations, 10000), 3e-2, 3000, lambda seed: _rotations(seed).log_prob)
    found |= {f"torus{n}": tori(n) for n in (2, 8, 32, 128)}
    return found


def tori(n: int, points: int = 10_000) -> Space:
    """n independent angles, with a number of training points."""
    return Space(
        Torus(n),
        _drawn(lambda seed: _Angles(n), points),
        3e-2,
        3000,
        lambda seed: _Angles(n).log_prob,
        0,
        factor_width=16,
        n_likelihood=200 if n < 128 else 20,
        n_seen=8 if n > 8 else 0,
    )


def _parts(points: PointSet) -> Callable[[int], tuple[Tensor, Tensor, Tensor]]:
    def parts(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        part = split(points, seed=seed)
        return part.train, part.val, part.test

    return parts


def _drawn(law: Callable, n: int):
    def parts(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        x = law(seed).sample(n + 2000, generator=torch.Generator().manual_seed(100 + seed))
        return x[:n], x[n : n + 1000], x[n + 1000 :]

    return parts


def _rotations(seed: int) -> HeatKernelMixture:
    """32 clusters of rotations, of two sizes."""
    generator = torch.Generator().manual_seed(seed)
    return HeatKernelMixture(
        SO3(), SO3().random_uniform(32, generator=generator), torch.tensor([0.01, 0.05]).repeat(16)
    )


class _Angles:
    """Independent angles, each from the same mixture of two wrapped normals: no loss per dimension is excusable."""

    def __init__(self, n: int) -> None:
        self.n = n
        weights, tau = torch.tensor([0.7, 0.3]), torch.tensor([0.04, 0.16])
        self.one = HeatKernelMixture(Torus(1), torch.tensor([[0.0], [2.0]]), tau, weights)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return self.one.sample(n * self.n, generator=generator).reshape(n, self.n)

    def log_prob(self, x: Tensor) -> Tensor:
        return self.one.log_prob(x.reshape(-1, 1)).reshape(len(x), self.n).sum(1)
