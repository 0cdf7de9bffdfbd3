"""Spaces of geomstats: on NumPy in this process, on its pytorch backend in another one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from manifold_diffusion._errors import CapabilityError
from manifold_diffusion.manifolds import Sphere, from_geomstats

HYPERSPHERE = "geomstats.geometry.hypersphere.Hypersphere"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("marked", [pytest.param("not slow", id="fast"), pytest.param("slow", marks=pytest.mark.slow)])
def test_on_the_pytorch_backend(marked: str) -> None:
    """The backend is chosen once per process, and other tests of this one have chosen NumPy."""
    cases = ROOT / "tests/manifolds/geomstats_cases.py"
    command = [sys.executable, "-m", "pytest", str(cases), "-m", marked, "-q", "-x"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"CASES_BACKEND": "pytorch", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def test_importing_the_library_does_not_import_geomstats() -> None:
    code = (
        "import sys, manifold_diffusion.manifolds, manifold_diffusion.testing\nassert 'geomstats' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_the_backend_is_chosen_if_nobody_has() -> None:
    code = (
        "import torch\n"
        "from manifold_diffusion.manifolds import from_geomstats\n"
        f"m = from_geomstats({HYPERSPHERE!r}, {{'dim': 2}})\n"
        "import geomstats.backend\n"
        "assert geomstats.backend.__name__ == 'geomstats.pytorch'\n"
        "assert torch.get_default_dtype() == torch.float32\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "GEOMSTATS_BACKEND"} | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_without_geomstats_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "geomstats", None)
    monkeypatch.setitem(sys.modules, "geomstats.backend", None)
    with pytest.raises(CapabilityError, match="pip install"):
        from_geomstats(HYPERSPHERE, {"dim": 2})


# ---------------------------------------------------------------------- the NumPy backend


def points(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = Sphere(2).random_uniform(2 * n, generator=generator).split(n)
    return x, y, 0.5 * Sphere(2).random_tangent(x, generator=generator)


def test_values_go_through_numpy() -> None:
    m, ours = from_geomstats(HYPERSPHERE, {"dim": 2}), Sphere(2)
    x, y, v = points(6)
    for got, expected in (
        (m.exp(x, v), ours.exp(x, v)),
        (m.log(x, y), ours.log(x, y)),
        (m.dist(x, y), ours.dist(x, y)),
        (m.transport(x, y, v), ours.transport(x, y, v)),
        (m.inner(x, v, v), ours.inner(x, v, v)),
        (torch.vmap(m.exp)(x, v), ours.exp(x, v)),
    ):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-6)
    assert m.random_point(4).shape == (4, 3)


def test_random_points_leave_numpys_generator_alone() -> None:
    import numpy

    m = from_geomstats(HYPERSPHERE, {"dim": 2})
    before = numpy.random.get_state()[1].copy()  # noqa: NPY002 - the generator that geomstats uses
    m.random_point(4)
    assert (numpy.random.get_state()[1] == before).all()  # noqa: NPY002


def test_derivatives_are_refused_on_numpy() -> None:
    m = from_geomstats(HYPERSPHERE, {"dim": 2})
    x, y, v = points(2)
    with pytest.raises(CapabilityError, match="GEOMSTATS_BACKEND=pytorch"):
        torch.autograd.grad(m.dist(x.requires_grad_(), y).sum(), x)
    with pytest.raises(CapabilityError, match="GEOMSTATS_BACKEND=pytorch"):
        torch.func.jvp(lambda w: m.exp(x.detach(), w), (v,), (v,))
