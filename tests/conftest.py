"""What every test stands on: tables of its own, one thread per worker, one seed, and torch's globals as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

# A seed that no code would choose: another one after the test means that something called torch.manual_seed.
GUARD_SEED = 7_320_508_075

# geomstats has one backend per process. Here it is an oracle, on NumPy; tests that need another one start a process.
os.environ["GEOMSTATS_BACKEND"] = os.environ.get("CASES_BACKEND", "numpy")

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

# The same examples in every run: a failure is then a property of the change, not of the day.
hypothesis.settings.register_profile("default", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("default")


# Instances whose laws run with the slow tests: the costly ones, and second sizes of a family.
RARE = {
    *(
        "Correlation(3)",
        "Grassmann(5, 3)",
        "SO(4)",
        "U(2)",
        "SU(3)",
        "SPD(3)",
        "SPD(2, 'log_euclidean')",
        "Stiefel(4, 2)",
    ),
    *("Euclidean(1)", "Sphere(1)", "Sphere(7)", "Torus(1)", "Hyperboloid(1)", "Hyperboloid(5)", "PoincareBall(1)"),
    *("ConstantCurvature(3, 0.0)", "ConstantCurvature(2, 2.5)", "Power(Hyperboloid(2), 3)", "RealProjective(1)"),
    *("ComplexProjective(1)", "Product(Sphere(2), Torus(1), weights=[2.0, 0.5])", "SE3N(3, True)"),
}


@pytest.hookimpl(tryfirst=True)  # before the marks choose
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the laws of the instances of :data:`RARE` as slow."""
    for item in items:
        if getattr(item, "originalname", "") in ("test_law", "test_kernel_law"):
            parameters = item.callspec.params  # pyright: ignore[reportAttributeAccessIssue]
            if repr(parameters["manifold"]) in RARE:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def table_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tables are built by the tests themselves, not read from whatever an earlier version left in the user's cache.

    The workers of one run share them.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANIFOLD_DIFFUSION_CACHE", str(folder / "tables"))
        yield


def _globals() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "global seed": torch.initial_seed(),
    }


@pytest.fixture(autouse=True)
def torch_globals_guard() -> Iterator[None]:
    """Seed the default generator before the test, and fail the test if it leaves torch's global state changed.

    Weights are drawn from the default generator, so that seeding it here makes a test independent of the tests
    before it. A test that needs another seed takes a `torch.Generator` or works inside `torch.random.fork_rng()`.
    """
    torch.manual_seed(GUARD_SEED)
    before = _globals()
    yield
    after = _globals()
    changed = [f"{name}: {before[name]} before, {after[name]} after" for name in before if before[name] != after[name]]
    if changed:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
        pytest.fail("the test changed torch's global state (" + "; ".join(changed) + ")", pytrace=False)
