"""The likelihood tables: rows are measured once, mixtures are those of the library, the Markdown is right."""

from __future__ import annotations

import statistics
from dataclasses import fields

import pytest
import torch

from experiments.likelihood import methods
from experiments.likelihood.rows import Rows, kinds
from experiments.likelihood.table import END, START, TRAP, Published, fill, markdown
from manifold_diffusion import AnalyticDiffusion, RiemannianDiffusion
from manifold_diffusion.data import PointSet, split
from manifold_diffusion.manifolds import Sphere, Torus
from manifold_diffusion.metrics import (
    AdaptiveKernelDensity,
    DensityMixture,
    KernelDensity,
    KernelMixture,
    TangentKernelMixture,
    nll,
)
from manifold_diffusion.models import LearnedKernelDensity

M = Torus(1)


def points() -> PointSet:
    """200 angles, 40 of them twice."""
    x = M.project(0.5 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    x = torch.cat([x, x[:40]])
    return PointSet(M, x, n_duplicates=40)


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Rows of two kernel densities and their mixture, which count how often they are fitted."""
    fits = []

    def counted(name, kind):
        def fit(train, val, seed, manifold, steps, folder):
            fits.append(name)
            return kind.fit(manifold, train, val)

        return fit

    closed = {
        "kde-mixture": counted("kde-mixture", KernelMixture),
        "tangent": counted("tangent", AdaptiveKernelDensity),
    }
    monkeypatch.setattr("experiments.likelihood.rows.CLOSED", closed)
    monkeypatch.setattr(methods, "CLOSED", closed)
    return Rows({"angles": points()}, tmp_path, steps=2), fits


def test_a_mixture_is_that_of_the_library_and_nothing_is_fitted_twice(rows):
    rows, fits = rows
    facts = rows.row("angles", "distinct", "closed-mixture", 3)
    assert fits == ["kde-mixture", "tangent"]
    assert rows.row("angles", "distinct", "closed-mixture", 3) == facts
    single = rows.row("angles", "distinct", "kde-mixture", 3)
    assert fits == ["kde-mixture", "tangent"] and len(rows.all()) == 3

    part = split(points(), seed=3)
    members = [kind.fit(M, part.train, part.val) for kind in (KernelMixture, AdaptiveKernelDensity)]
    mixture = DensityMixture.fit(members, part.val)
    estimate = nll(mixture.log_prob(part.test))
    assert facts["nll"] == pytest.approx(estimate.value, abs=1e-9)
    assert facts["standard_error"] == pytest.approx(estimate.standard_error, abs=1e-9)
    assert list(facts["weights"].values()) == pytest.approx(mixture.weights, abs=1e-9)
    grown = DensityMixture(tuple(methods.grown(member, part.val) for member in members), mixture.weights)
    assert facts["grown_nll"] == pytest.approx(nll(grown.log_prob(part.test)).value, abs=1e-9)
    assert single["nll"] == pytest.approx(nll(members[0].log_prob(part.test)).value, abs=1e-9)
    assert (facts["n_train"], facts["n_val"], facts["n_test"], facts["n_repeated"]) == (160, 20, 20, 0)


def test_a_grown_density_has_more_points_and_the_choices_of_before():
    part = split(points(), seed=0)
    everything = torch.cat([part.train, part.val])
    simple = [kind.fit(M, part.train, part.val) for kind in (KernelDensity, KernelMixture, TangentKernelMixture)]
    for density in simple:
        choices = {f.name: getattr(density, f.name) for f in fields(density) if f.name not in ("manifold", "centres")}
        same = type(density)(M, everything, **choices)
        torch.testing.assert_close(methods.grown(density, part.val).log_prob(part.test), same.log_prob(part.test))
    adaptive = AdaptiveKernelDensity.fit(M, part.train, part.val)
    grown = methods.grown(adaptive, part.val)
    assert (grown.k, grown.factor, len(grown.bandwidths)) == (adaptive.k, adaptive.factor, len(everything))
    learned, more = (LearnedKernelDensity(M, x) for x in (part.train, everything))
    more.network.load_state_dict({**learned.network.state_dict(), "centres": everything})
    torch.testing.assert_close(methods.grown(learned, part.val).log_prob(part.test), more.log_prob(part.test))
    diffusion = methods.grown(AnalyticDiffusion(M, part.train), part.val)
    torch.testing.assert_close(diffusion.log_prob(part.test), AnalyticDiffusion(M, everything).log_prob(part.test))


def test_raw_rows_say_how_many_test_points_stand_in_the_training_set(rows):
    rows, _ = rows
    facts = rows.row("angles", "raw", "kde-mixture", 0)
    part = split(points(), seed=0, unique=False)
    shared = sum(bool((part.train == x).any()) for x in part.test)
    assert facts["n_repeated"] == shared > 0
    assert kinds(points()) == ("raw", "distinct") and kinds(points().deduplicated()) == ("raw", "distinct")
    assert kinds(PointSet(M, points().points[:200])) == ("distinct",)


def test_a_killed_command_goes_on_where_it_was_stopped(rows, monkeypatch):
    rows, fits = rows
    done = rows.row("angles", "distinct", "kde-mixture", 0)
    with monkeypatch.context() as patch:  # killed after the scores of the next row, before its facts
        patch.setattr("experiments.likelihood.rows.json.dumps", lambda facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rows.row("angles", "distinct", "tangent", 0)
    assert rows.all() == [done]
    mixture = rows.row("angles", "distinct", "closed-mixture", 0)
    assert fits == ["kde-mixture", "tangent", "tangent"] and mixture["val_nll"] <= done["val_nll"] + 1e-9


def fact(data, kind, method, seed, value, **more):
    sizes = {"n_train": 80, "n_val": 10, "n_test": 10, "n_repeated": 0 if kind == "distinct" else 7}
    known = {"data": data, "kind": kind, "method": method, "seed": seed, "nll": value, "n_duplicates": 5}
    return {**known, **sizes, "fit_s": 2.0, "score_s": 1.0, "steps": 0, **more}


def cells(text: str, start: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown():
    values = [0.1, 0.2, 0.3, 0.4, 0.75]
    facts = [fact("flood", "raw", "kde", seed, value) for seed, value in enumerate(values)]
    facts += [fact("flood", "distinct", "network", 0, -1.0, steps=9, tolerance=1e-3, evaluations=50, change=2e-4)]
    facts += [fact("angles", "distinct", "copies", 0, 1e5)]
    facts += [fact("angles", "distinct", "kde", seed, 2.0 + seed, n_duplicates=0, grown_nll=seed) for seed in (0, 1)]
    published = [
        Published("theirs", "source", {"flood": "0.5", "angles": "-3.0"}, " †"),
        Published("elsewhere", "source", {"quakes": "1.0"}),
    ]
    text = markdown(facts, ["flood", "quakes", "angles"], published)
    assert cells(text, "test NLL") == ["test NLL, nats", "flood raw", "flood distinct", "angles"]
    kde, network = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:4]]
    assert kde == ["`kde`", f"0.350 ± {statistics.stdev(values):.3f}", "", "2.500 ± 0.707 (2)"]
    assert network == ["`network`", "", "-1.000 (1)", ""]
    assert cells(text, "theirs") == ["theirs (source)", "0.5 †", "", "-3.0 †"]
    assert "copies" not in text and "elsewhere" not in text and TRAP in text
    assert cells(text, "test points") == ["test points that stand in the training set", "70 %", "0 %", "0 %"]
    assert text.splitlines()[-3].split("|")[1:-1] == [" `network` ", "  ", " 2 + 1 ", "  ", " 9 ", " 50 ", " 0.0002 "]
    assert "tolerance 0.001 nats" in text
    table = text.split("| the same with")[1].splitlines()
    assert table[2:4] == ["| `kde` |  |  | 0.500 ± 0.707 (2) |", ""]  # and no row of what has no such number
    assert TRAP not in markdown(facts[-2:], ["angles"], [])


def test_the_table_goes_between_its_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"Before.\n\n{START}\n\nold\n\n{END}\n\nAfter.\n")
    for text in ("first", "| a |\n| --- |"):
        fill(readme, text)
        assert readme.read_text() == f"Before.\n\n{START}\n\n{text}\n\n{END}\n\nAfter.\n"
    fill(readme, f"| {'wide ' * 50}|\n\n{TRAP}")
    lines = readme.read_text().splitlines()
    assert max(len(line) for line in lines if not line.startswith("|")) <= 120 and len(lines[4]) > 250
    assert TRAP in " ".join(lines)
    readme.write_text("no markers")
    with pytest.raises(ValueError, match="needs one line"):
        fill(readme, "text")
    assert readme.read_text() == "no markers"


def test_torsions_have_methods_of_their_own(monkeypatch):
    own, members = {"copies", "chain", "second-network"}, set(methods.members_of("hybrid", Torus(7)))
    assert own <= members < set(methods.methods_of(Torus(7))) and "flow" not in members
    assert not own & set(methods.methods_of(Sphere(2))) and "flow" in methods.members_of("hybrid", Sphere(2))
    assert methods.members_of("network", Torus(7)) == ()
    g = torch.Generator().manual_seed(0)
    x = M.random_uniform(200, generator=g, dtype=torch.float64)
    twins = M.project(x[:100] + 5e-4 * torch.randn(100, 1, generator=g, dtype=torch.float64))
    assert 2e-4 < methods.copies(M, x, twins).bandwidth < 2e-3
    assert methods.copies(M, x, M.random_uniform(100, generator=g, dtype=torch.float64)).bandwidth < 3e-3


def test_the_network_is_trained_again_with_the_validation_points(tmp_path, monkeypatch):
    trained = []

    def fit(train, val, seed, manifold, steps, folder):
        trained.append((len(train), val is None, folder.name))
        return RiemannianDiffusion(M)

    monkeypatch.setattr("experiments.likelihood.rows.LEARNED", {"network": fit})
    rows = Rows({"angles": points()}, tmp_path, steps=2, tolerance=0.1, limit=10, again=True)
    facts = rows.row("angles", "distinct", "network", 0)
    assert trained == [(10, False, "angles-distinct-network-0"), (20, True, "angles-distinct-network-0-grown")]
    assert facts["grown_nll"] == pytest.approx(facts["nll"], abs=1e-6)  # neither was trained
