"""The tests build their own tables."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def table_cache(tmp_path_factory):
    """Tables are built by the tests themselves, not read from whatever an earlier version left in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANIFOLD_DIFFUSION_CACHE", str(tmp_path_factory.mktemp("tables")))
        yield
