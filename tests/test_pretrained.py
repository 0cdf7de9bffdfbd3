"""A saved model is the same model, and a folder that is not one is refused without running anything that is in it."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manifold_diffusion import RiemannianDiffusion
from manifold_diffusion._config import differences, from_config, to_config
from manifold_diffusion._errors import CheckpointError, ConfigError
from manifold_diffusion.manifolds import SO3, Euclidean, Manifold, Product, Sphere, Torus
from manifold_diffusion.models import pretrained
from manifold_diffusion.networks import TangentMLP
from manifold_diffusion.objectives import DenoisingScoreMatching
from manifold_diffusion.processes import BrownianMotion, LinearSchedule, default_process


def small_model(manifold: Manifold, **options: Any) -> RiemannianDiffusion:
    process = default_process(manifold)
    model = RiemannianDiffusion(manifold, process, TangentMLP(process, width=8, depth=1, n_frequencies=4, **options))
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained head is zero, which would hide everything before it
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any], seal: bool = True) -> None:
    """Change config.json as an attacker would, with checksums that fit."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    if seal:
        config["config_sha256"] = pretrained._config_digest(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    small_model(Sphere(2)).save_pretrained(tmp_path / "model", {"data": "none"})
    return tmp_path / "model"


@pytest.mark.parametrize(
    "manifold", [Sphere(2), Torus(2), SO3(), Product(SO3(), Euclidean(2), weights=[1.0, 4.0])], ids=repr
)
def test_round_trip_is_bit_for_bit(manifold: Manifold, tmp_path: Path) -> None:
    model = small_model(manifold)
    model.save_pretrained(tmp_path, {"data": "none", "nll": 0.5})
    again = RiemannianDiffusion.from_pretrained(tmp_path)
    x = model.sample(5, steps=3, generator=generator())
    assert torch.equal(x, again.sample(5, steps=3, generator=generator()))
    t = torch.full((5,), 0.4)
    assert torch.equal(model.score(x, t), again.score(x, t))
    assert again.metadata == {"data": "none", "nll": 0.5}
    assert to_config(again) == to_config(model)


def test_log_prob_survives(saved: Path) -> None:
    a, b = (RiemannianDiffusion.from_pretrained(saved) for _ in range(2))
    x = a.sample(4, steps=3, generator=generator())
    assert torch.equal(a.log_prob(x), b.log_prob(x))


def test_double_precision_survives(tmp_path: Path) -> None:
    model = small_model(Sphere(2)).double()
    model.save_pretrained(tmp_path)
    again = RiemannianDiffusion.from_pretrained(tmp_path)
    x = again.sample(3, steps=2, generator=generator())
    assert x.dtype == torch.float64
    assert torch.equal(x, model.sample(3, steps=2, generator=generator()))
    assert all(p.requires_grad for p in again.network.parameters())


def test_swapped_parts_survive(tmp_path: Path) -> None:
    process = BrownianMotion(Sphere(3), LinearSchedule(1e-2, 3.0))
    network = TangentMLP(process, width=8, depth=3, n_frequencies=0, time_embedding="fourier", cond_dim=2)
    RiemannianDiffusion(Sphere(3), process, network, DenoisingScoreMatching(process, "balanced")).save_pretrained(
        tmp_path
    )
    again = RiemannianDiffusion.from_pretrained(tmp_path)
    assert (again.process.schedule.tau_max, again.network.depth, again.network.cond_dim) == (3.0, 3, 2)
    assert again.objective.weighting == "balanced"


def test_nothing_is_unpickled(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    RiemannianDiffusion.from_pretrained(saved)


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights(saved: Path, size: int) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[:size])
    with pytest.raises(CheckpointError, match="truncated or altered"):
        RiemannianDiffusion.from_pretrained(saved)


def test_one_flipped_bit(saved: Path) -> None:
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="truncated or altered"):
        RiemannianDiffusion.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"not safetensors at all", b"\xff" * 64, pickle.dumps({"a": 1})])
def test_weights_that_are_no_safetensors(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    rewrite(saved, lambda c: c.update(sha256=hashlib.sha256(content).hexdigest()))
    with pytest.raises(CheckpointError, match="can't be read"):
        RiemannianDiffusion.from_pretrained(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff\xfe", b"{}", b"[" * 100_000])
def test_config_that_is_none(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        RiemannianDiffusion.from_pretrained(saved)


def test_altered_config(saved: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["model"]["init_args"]["process"]["init_args"]["schedule"]["init_args"]["tau_max"] = 5.0

    rewrite(saved, change, seal=False)
    with pytest.raises(CheckpointError, match="was altered"):
        RiemannianDiffusion.from_pretrained(saved)


def test_metadata_may_be_edited(saved: Path) -> None:
    rewrite(saved, lambda c: c["metadata"].update(note="by hand"), seal=False)
    assert RiemannianDiffusion.from_pretrained(saved).metadata["note"] == "by hand"


def test_weights_of_another_network(saved: Path) -> None:
    rewrite(saved, lambda c: c["model"]["init_args"]["network"]["init_args"].update(width=16))
    with pytest.raises(CheckpointError, match="don't fit"):
        RiemannianDiffusion.from_pretrained(saved)


def test_missing_file(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        RiemannianDiffusion.from_pretrained(saved)
    with pytest.raises(CheckpointError, match="no folder"):
        RiemannianDiffusion.from_pretrained(tmp_path / "nowhere" / "at" / "all")


def test_newer_format(saved: Path) -> None:
    rewrite(saved, lambda c: c.update(format=99))
    with pytest.raises(CheckpointError, match="format 99"):
        RiemannianDiffusion.from_pretrained(saved)


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.exec",
        "manifold_diffusion_evil.Net",
        "manifold_diffusion.models.pretrained.os.system",
        "manifold_diffusion.models.pretrained.Path",
        "manifold_diffusion.models.pretrained.save_model",
        "manifold_diffusion.training.CSVLog",
        "torch.nn.Linear",
        "system",
        7,
    ],
)
def test_class_that_is_not_trusted(saved: Path, path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(os, "system", lambda *a: ran.append(a))
    evil = {"class_path": path, "init_args": {"command": "echo"}}
    rewrite(saved, lambda c: c["model"]["init_args"].update(network=evil))
    with pytest.raises(ConfigError, match="class_path"):
        RiemannianDiffusion.from_pretrained(saved)
    assert not ran


def test_unknown_key_is_named_with_the_nearest(saved: Path) -> None:
    rewrite(saved, lambda c: c["model"]["init_args"]["network"]["init_args"].update(widht=3))
    with pytest.raises(ConfigError, match="no argument 'widht'; did you mean 'width'"):
        RiemannianDiffusion.from_pretrained(saved)


@pytest.mark.parametrize("bad", [{"init_args": [1]}, {"class_pth": 1}])
def test_malformed_part(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        from_config({"class_path": "manifold_diffusion.manifolds.Sphere", "init_args": {"n": 2}} | bad)


def test_wrong_value_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="Sphere"):
        from_config({"class_path": "manifold_diffusion.manifolds.Sphere", "init_args": {"n": "two"}})


@pytest.mark.parametrize("where", ["open", "fsync", "replace"])
def test_full_disk_leaves_the_old_model(saved: Path, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    full = OSError(errno.ENOSPC, "No space left on device")
    real, calls = os.replace, []

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise full

    def fail_at_last(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 3:
            raise full
        real(source, target)

    with monkeypatch.context() as patch:
        if where == "open":
            patch.setattr("builtins.open", fail)
        else:
            patch.setattr(os, where, fail if where == "fsync" else fail_at_last)
        with pytest.raises(CheckpointError, match="No space left"):
            small_model(Sphere(2)).save_pretrained(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before
    RiemannianDiffusion.from_pretrained(saved)


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="can't be saved"):
        small_model(Sphere(2)).save_pretrained(tmp_path / "taken")


def test_metadata_must_be_plain(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Metadata"):
        small_model(Sphere(2)).save_pretrained(tmp_path, {"weights": torch.ones(2)})
    assert not list(tmp_path.iterdir())


class UsersNetwork(nn.Module):
    """A network as a user writes it."""

    def __init__(self, manifold: Manifold, width: int = 4) -> None:
        super().__init__()
        self.manifold, self.width = manifold, width
        size = manifold.point_shape[0]
        self.layers = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, size))

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.manifold.to_tangent(x, self.layers(x))


def test_a_users_network_needs_trust(tmp_path: Path) -> None:
    model = RiemannianDiffusion(Sphere(2), network=UsersNetwork(Sphere(2)))
    model.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="trusted="):
        RiemannianDiffusion.from_pretrained(tmp_path)
    again = RiemannianDiffusion.from_pretrained(tmp_path, trusted=(__name__,))
    x = again.sample(3, steps=2, generator=generator())
    assert torch.equal(x, model.sample(3, steps=2, generator=generator()))


def test_given_arguments_fill_gaps_only() -> None:
    config = {"class_path": "manifold_diffusion.processes.BrownianMotion", "init_args": {}}
    assert from_config(config, given={"manifold": Sphere(2)}).manifold == Sphere(2)
    config["init_args"] = {"manifold": to_config(Torus(2))}
    assert from_config(config, given={"manifold": Sphere(2)}).manifold == Torus(2)


def test_options_that_a_checkpoint_is_older_than_do_not_bar_it():
    process = BrownianMotion(Torus(2))
    plain, wider = (to_config(TangentMLP(process, width=8, factor_width=w)) for w in (0, 4))
    old = copy.deepcopy(plain)
    del old["init_args"]["factor_width"], old["init_args"]["factor_frequencies"]
    assert differences(old, plain, "network") == []
    assert differences(old, wider, "network") == [("network.factor_width", 0, 4)]
    old["init_args"]["gone"] = 3
    assert differences(old, plain, "network") == [("network.gone", 3, None)]
    other = to_config(TangentMLP(BrownianMotion(Torus(3)), width=8))
    assert ("network.process.manifold.n", 2, 3) in differences(plain, other, "network")
