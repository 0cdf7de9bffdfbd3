"""Short names of manifolds, and models that are built from their section of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from manifold_diffusion._config import to_config
from manifold_diffusion._errors import ConfigError
from manifold_diffusion.cli.build import build_model, model_section
from manifold_diffusion.cli.names import SHORT_NAMES, manifold_name, normalise, parse_manifold
from manifold_diffusion.manifolds import (
    SE3N,
    SO3,
    SPD,
    ConstantCurvature,
    Euclidean,
    Hyperboloid,
    Product,
    Sphere,
    Stiefel,
    Torus,
)
from manifold_diffusion.testing import instances


@pytest.mark.parametrize(
    ("name", "manifold"),
    [
        ("sphere:2", Sphere(2)),
        ("torus:7", Torus(7)),
        ("so3", SO3()),
        ("hyperboloid:3", Hyperboloid(3)),
        ("euclidean:3", Euclidean(3)),
        ("product:so3,euclidean:3", Product(SO3(), Euclidean(3))),
        ("constantcurvature:2:-0.5", ConstantCurvature(2, -0.5)),
        ("spd:3:log_euclidean", SPD(3, "log_euclidean")),
        ("se3n:4:true", SE3N(4, True)),
        ("stiefel:4:2", Stiefel(4, 2)),
    ],
)
def test_short_names_round_trip(name: str, manifold: Any) -> None:
    assert parse_manifold(name) == manifold
    assert manifold_name(to_config(manifold)) == name


def test_each_example_names_a_manifold_and_is_its_short_name() -> None:
    for example in SHORT_NAMES:
        assert manifold_name(to_config(parse_manifold(example))) == example


@pytest.mark.parametrize("manifold", [m for _, m in instances()], ids=repr)
def test_every_manifold_has_a_written_form(manifold: Any) -> None:
    written = manifold_name(to_config(manifold))
    assert normalise("manifold", written) == to_config(manifold)


@pytest.mark.parametrize(
    "text", ["sphere", "sphere:x", "sphere:0", "so3:2", "product:", "product:so3,product:so3", "cube:3", ""]
)
def test_bad_short_names(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_manifold(text)


@pytest.mark.parametrize("name", ["euclidean:2", "sphere:2", "product:sphere:1,euclidean:2"])
def test_a_model_is_rebuilt_from_its_section(name: str) -> None:
    network = {"width": 8, "depth": 1, "n_frequencies": 4}
    model = build_model({"manifold": name, "network": network}, seed=3)
    again = build_model(model_section(model), seed=3)
    assert to_config(again) == to_config(model)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_parts_of_a_product_get_their_factors() -> None:
    manifold = {"class_path": "Product", "init_args": {"factors": ["so3", "euclidean:2"], "weights": [1.0, 3.0]}}
    processes = [{"class_path": "BrownianMotion", "schedule": {"class_path": "LinearSchedule"}}, {"sigma": 2.0}]
    process = {"class_path": "ProductProcess", "init_args": {"processes": processes}}
    model = build_model({"manifold": manifold, "process": process, "network": {"width": 8, "n_frequencies": 4}}, seed=0)
    assert model.manifold == Product(SO3(), Euclidean(2), weights=[1.0, 3.0]) == model.process.manifold
    assert type(model.process.processes[0].schedule).__name__ == "LinearSchedule"
    assert model.process.processes[1].sigma == 2.0
