"""One row a file: data set, raw or distinct rows, method, seed; measured once, whatever stops the command."""

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.likelihood.methods import CLOSED, FLOWS, LEARNED, grown, members_of, steps_of
from manifold_diffusion import metrics
from manifold_diffusion.cli.files import write_text, write_whole
from manifold_diffusion.data import PointSet, repeated, split
from manifold_diffusion.models import GenerativeModel


def kinds(points: PointSet) -> tuple[str, ...]:
    """Raw and distinct rows; they are the same where none repeats another."""
    return ("raw", "distinct") if points.n_duplicates else ("distinct",)


@dataclass(frozen=True)
class Rows:
    """The rows of an experiment.

    A row is two files, each written in one step: the log densities of validation and test points, of which mixtures are
    made, then the facts; a row with facts is complete. What a network learns is in a folder of the same name. Densities
    that take points without being chosen or trained again are scored once more ("grown") with the validation points,
    and so are networks, trained again on all with the same settings, where that is asked for.

    Attributes:
        sets: the data, with their repeats, float64.
        folder: of the files.
        steps: optimiser steps.
        tolerance: of the likelihoods along a flow, in nats a step.
        limit: points of each part that are used.
        again: whether to train networks again with the validation points.
    """

    sets: dict[str, PointSet]
    folder: Path
    steps: int
    tolerance: float = 1e-3
    limit: int = 10**9
    again: bool = False

    def row(self, data: str, kind: str, method: str, seed: int) -> dict[str, Any]:
        """The facts of a row, from its file, or measured; those of a mixture's members are measured first."""
        file = self._file(data, kind, method, seed)
        if file.exists():
            return json.loads(file.read_text())
        points = self.sets[data]
        parts = split(points, (0.8, 0.1, 0.1), seed=seed, unique=kind == "distinct")
        train, val, test = (part[: self.limit] for part in (parts.train, parts.val, parts.test))
        facts: dict[str, Any] = {"data": data, "kind": kind, "method": method, "seed": seed}
        facts |= {"n_train": len(train), "n_val": len(val), "n_test": len(test)}
        facts |= {"n_repeated": int(repeated(test, train).sum()), "n_duplicates": points.n_duplicates}
        known = members_of(method, points.manifold)
        if known:
            for name in known:
                self.row(data, kind, name, seed)
            more, scores = _mixed(known, [torch.load(self._scores(data, kind, name, seed)) for name in known])
        else:
            more, scores = self._fitted(points, method, train, val, test, seed, file.with_suffix(""))
        estimate = metrics.nll(scores["test"])
        facts |= {**more, "nll": estimate.value, "standard_error": estimate.standard_error}
        facts["val_nll"] = metrics.nll(scores["val"]).value
        if "grown" in scores:
            facts["grown_nll"] = metrics.nll(scores["grown"]).value
        self.folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(scores, buffer)
        write_whole(self._scores(data, kind, method, seed), buffer.getvalue())
        write_text(file, json.dumps(facts))
        print(f"{data} {kind}, {method}, seed {seed}: NLL {estimate}", flush=True)
        return facts

    def all(self) -> list[dict[str, Any]]:
        """The facts of all rows that are complete."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))]

    def _file(self, data: str, kind: str, method: str, seed: int) -> Path:
        return self.folder / f"{data}-{kind}-{method}-{seed}.json"

    def _scores(self, data: str, kind: str, method: str, seed: int) -> Path:
        return self._file(data, kind, method, seed).with_suffix(".pt")

    def _fitted(
        self, points: PointSet, method: str, train: Tensor, val: Tensor, test: Tensor, seed: int, folder: Path
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        manifold, learned = points.manifold, method in LEARNED
        fit = LEARNED[method] if learned else CLOSED[method]
        if learned:
            train, val, test = (manifold.project(part.float()) for part in (train, val, test))
        start = time.perf_counter()
        steps = steps_of(method, self.steps)
        model = fit(train, val, seed, manifold, steps, folder)
        fitted, facts = time.perf_counter(), dict[str, Any]()
        if method in FLOWS:
            assert isinstance(model, GenerativeModel)
            results = {"val": model.likelihood(val, tolerance=self.tolerance)}
            results["test"] = model.likelihood(test, tolerance=self.tolerance)
            scores = {name: result.log_prob.double() for name, result in results.items()}
            facts["tolerance"], facts["evaluations"] = self.tolerance, results["test"].n_evaluations
            finer = model.log_prob(test[:100], tolerance=self.tolerance / 10).double()
            facts["change"] = abs(float((finer - scores["test"][:100]).mean()))
        else:
            scores = {"val": model.log_prob(val).double(), "test": model.log_prob(test).double()}
        facts |= {"steps": steps, "fit_s": fitted - start, "score_s": time.perf_counter() - fitted}
        if method not in FLOWS:
            scores["grown"] = grown(model, val).log_prob(test).double()
        elif self.again:
            everything = folder.with_name(f"{folder.name}-grown")
            model = fit(torch.cat([train, val]), None, seed, manifold, steps, everything)
            assert isinstance(model, GenerativeModel)
            scores["grown"] = model.log_prob(test, tolerance=self.tolerance).double()
        return facts, scores


def _mixed(names: Sequence[str], scores: list[dict[str, Tensor]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Weights of a mixture, found on validation points, and its log densities."""
    parts = ["val", "test"]
    if all("grown" in score or name in FLOWS for name, score in zip(names, scores, strict=True)):
        parts.append("grown")
    matrices = {part: torch.stack([score.get(part, score["test"]) for score in scores], 1) for part in parts}
    weights, _ = metrics.stacked_weights(matrices["val"])
    log_weights = torch.tensor(weights, dtype=torch.float64).log()
    facts = {"weights": dict(zip(names, weights, strict=True))}
    return facts, {part: torch.logsumexp(matrix + log_weights, 1) for part, matrix in matrices.items()}
