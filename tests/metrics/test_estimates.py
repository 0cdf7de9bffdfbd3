"""Means with their standard errors, which never mask a value that is not finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifold_diffusion._errors import NumericsError
from manifold_diffusion.metrics import Estimate, nll


def test_nll_and_its_standard_error():
    values = torch.tensor([-1.0, -2.0, -4.0])
    estimate = nll(values)
    assert estimate.value == pytest.approx(7 / 3)
    assert estimate.standard_error == pytest.approx(np.std([1, 2, 4], ddof=1) / 3**0.5)
    assert f"{Estimate(1.23456, 0.01):.2f}" == "1.23 ± 0.01"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nll_never_masks(bad):
    with pytest.raises(NumericsError, match=r"1 of 3 .* row 1"):
        nll(torch.tensor([0.0, bad, 0.0]))
