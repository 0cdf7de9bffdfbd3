"""Likelihoods of the seven backbone torsions of RNA: every method, five splits.

python experiments/torsions/run.py [--smoke] [--files FILE] [--methods NAME ...] [--seeds N ...] [--steps N]
    [--out FOLDER] [--readme]

Every row is written when it is done; the same command goes on where it was stopped, then writes the tables of all rows
that are there to table.md in the folder of --out, and with --readme into the README.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from experiments.likelihood.command import run
from experiments.likelihood.table import Published
from manifold_diffusion.data import PointSet, load_rna
from manifold_diffusion.heat_kernels import HeatKernelMixture
from manifold_diffusion.manifolds import Torus

PUBLISHED = (
    Published("Riemannian diffusion model", "Huang et al. 2022", {"rna": "-3.70 ± 0.592"}, " †"),
    Published("Riemannian flow matching", "arXiv:2302.03660", {"rna": "-5.20 ± 0.067"}, " †"),
    Published("Riemannian flow matching, rerun", "2026, spectral alignment, table 3", {"rna": "-4.780 ± 0.196"}),
    Published("the same with spectral alignment", "2026, spectral alignment, table 3", {"rna": "-5.167 ± 0.083"}),
    Published("TDM", "arXiv:2405.16381, told by Zhang, Zhao, Ma 2026, table 2", {"rna": "-6.86"}, " † ‡"),
    Published("WKBC", "Zhang, Zhao, Ma 2026, table 2", {"rna": "-8.86"}, " ‡"),
)


def load(file: Path) -> dict[str, PointSet]:
    """The torsions, if the file is there."""
    if file.exists():
        return {"rna": load_rna(file, torch.float64)}
    print(f"rna is left out: no file {file}; pass --files FILE, see the README.")
    return {}


def smoke() -> dict[str, PointSet]:
    """Angles from a mixture of heat kernels: the data are not ours to ship."""
    M, generator = Torus(7), torch.Generator().manual_seed(0)
    centres = M.random_uniform(8, generator=generator, dtype=torch.float64)
    return {"rna": PointSet(M, HeatKernelMixture(M, centres, 0.05).sample(400, generator=generator))}


if __name__ == "__main__":
    run(
        __file__, __doc__ or "", Path("data/torsions/rna.tsv"), load, smoke, ("rna",), PUBLISHED, steps=4000, again=True
    )
