"""The report of ``manifold-diffusion probe``: numbers, and what each says in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .._version import __version__
from ..manifolds import Manifold

if TYPE_CHECKING:
    from ..metrics import NoiseProfile
    from ..models import ModelProbe

__all__ = ["Facts", "numbers", "report_text"]

_ALARM = 0.01
"""A p-value below this is worth a warning."""

_CLEAR = 3.0
"""So many standard deviations, likewise."""

_STRAIGHT = 0.01
"""Paths whose energy exceeds that of geodesics by a smaller share are called geodesics."""

_RESOLVED = 0.1
"""Half of the times must give the excess energy with a smaller relative error than this."""

_NAMES = {
    "held_out_dimension": "intrinsic dimension at held-out points",
    "train_dimension": "intrinsic dimension at training points",
    "effective_size": "effective sample size",
    "noise": "mixing of the noise",
    "mismatch": "mismatch with the prior",
    "regions": "mass per region",
    "paths": "straightness of the paths",
}


class Facts(NamedTuple):
    """What was probed.

    Attributes:
        model: its folder or name.
        manifold: where its points live.
        process: class of its process.
        data: name of the data.
        n_train: training points.
        seed: of all randomness.
        command: the words of the command line.
    """

    model: str
    manifold: Manifold
    process: str
    data: str
    n_train: int
    seed: int
    command: str


class Row(NamedTuple):
    """One line of the summary."""

    what: str
    value: str
    reading: str


def report_text(facts: Facts, found: ModelProbe, pictures: Mapping[str, str]) -> str:
    """The report in Markdown: facts, a table of readings, pictures, tables behind them."""
    n_held_out = len(found.held_out_log_prob)
    lines = [
        f"# Probe of {facts.model}",
        "",
        f"{facts.manifold}, {facts.process}; {facts.data}: {facts.n_train:,} training points, {n_held_out:,} held-out "
        f"points, {len(found.samples):,} samples; seed {facts.seed}; manifold_diffusion {__version__}.",
        "",
        f"    {facts.command}",
        "",
        *_table(("what", "value", "reading"), _rows(facts, found)),
    ]
    captions = {
        "noise": "Medians over the points and their middle half. Left: intrinsic dimension from the score, above the "
        "frame at held-out points that a narrow density misses. Right: training points that share in the ideal score.",
        "distances": "Distances to the nearest training point. Copies are training points with the noise of t = 0.",
        "coverage": "Calibration of the density by its own levels.",
        "regions": "Where the model has too much mass (red) and too little (blue); the points are its samples.",
    }
    lines += ["", "## Pictures"]
    for name, file in pictures.items():
        lines += ["", f"![{name}]({file})", "", captions[name]]
    lines += _levels(found) + _regions(found)
    if found.skipped:
        lines += ["", "## Not available", ""]
        lines += [f"- {_NAMES.get(name, name)}: {reason}" for name, reason in found.skipped.items()]
    return "\n".join(lines) + "\n"


def _rows(facts: Facts, found: ModelProbe) -> list[Row]:
    from ..metrics import nll

    rows = [Row("test NLL [nats]", str(nll(found.held_out_log_prob)), "Compare with `manifold-diffusion evaluate`.")]
    memory, copies = found.memorisation, found.copies
    rows.append(Row("copies: AUC of samples", f"{memory.auc} (z = {memory.z:.1f})", _copies(found)))
    fix = "take these held-out points out" if _repeated(found) else "give more points"
    power = "would be seen" if copies.z > 5 else f"would hardly be seen: {fix}"
    rows.append(Row("AUC of real copies", f"{copies.auc} (z = {copies.z:.1f})", f"Copies {power}."))
    if found.regions is not None:
        rows.append(Row("mass per region", str(found.regions), _balance(found)))
    rows.append(Row("levels of the density", str(found.density), _levels_reading(found)))
    rows += [*_dimension(facts, found), *_size(found), *_noise(found)]
    if found.mismatch is not None:
        lost = found.mismatch.kl > max(0.01, 3 * found.mismatch.standard_error)
        rows.append(
            Row(
                "mismatch at t = 1 [nats]",
                f"{found.mismatch.kl:.1e} ± {found.mismatch.standard_error:.0e}",
                "The prior is not the law of the noised data: raise tau_max."
                if lost
                else "The noised data have reached the prior.",
            )
        )
    if found.paths is not None:
        rows.append(Row("paths: excess energy", _short(str(found.paths)), _straight(found)))
    return rows


def _repeated(found: ModelProbe) -> int:
    """Number of held-out points that are training points."""
    return int((found.memorisation.held_out_distances == 0).sum())


def _copies(found: ModelProbe) -> str:
    memory, same = found.memorisation, _repeated(found)
    if memory.z > _CLEAR:
        return "Samples are nearer to training points than held-out points are: copies, or a model too concentrated."
    if same:
        return (
            f"{same:,} of {len(memory.held_out_distances):,} held-out points stand in the training set, so that copies "
            "can't be told: take them out first."
        )
    if memory.z < -_CLEAR:
        return "Samples are farther from training points than held-out points are: too wide, no sign of copies."
    return "Samples are as far from training points as held-out points are: no sign of copies."


def _balance(found: ModelProbe) -> str:
    regions = found.regions
    assert regions is not None
    if regions.p_value >= _ALARM:
        return "The model's mass agrees with the held-out counts."
    number = {int(k): i for i, k in enumerate(regions.held_out_shares.argsort(descending=True, stable=True), 1)}
    parts = []
    for word, k in (("too much", int(regions.z.argmax())), ("too little", int(regions.z.argmin()))):
        if abs(float(regions.z[k])) > 2:
            parts.append(f"{word} mass in region {number[k]} (z = {float(regions.z[k]):+.1f})")
    return f"The mass is off: {', '.join(parts) or 'by a little in many regions'}."


def _levels_reading(found: ModelProbe) -> str:
    density = found.density
    if density.test.p_value >= _ALARM:
        return "Held-out points are at the levels that the model expects."
    middle = float(density.levels.mean())
    if abs(middle - 0.5) < 0.02:
        return "The levels are not uniform, although right on average: see the picture."
    side = "narrow: held-out points have less density" if middle > 0.5 else "wide: held-out points have more density"
    return f"The model is too {side} than its own samples."


def _dimension(facts: Facts, found: ModelProbe) -> list[Row]:
    held_out, train, n = found.held_out_dimension, found.train_dimension, facts.manifold.dim
    if held_out is None or train is None:
        return []
    fine = float(held_out.median[0]), float(train.median[0])
    low = int(held_out.median.argmin())
    noise = math.sqrt(float(held_out.tau[0]))
    if fine[1] < n / 2 and fine[0] > fine[1] + 0.25:
        reading = "The density collapses onto training points: it is point-like there, and misses held-out points."
    elif fine[1] < n - 0.5 and fine[0] < n - 0.5:
        reading = "The model has put the data on a set of lower dimension."
    elif abs(fine[0] - n) < 0.25 and abs(fine[1] - n) < 0.25:
        reading = "At the finest noise the model is a smooth density, at training and at held-out points alike."
    else:
        reading = "The model is neither smooth nor of lower dimension at its finest noise: see the picture."
    scale = "There the held-out points look most like clusters or curves."
    if low == len(held_out.tau) - 1:
        scale = "The largest noise sees the data as one cloud (and curvature adds terms of order tau)."
    value = f"held-out {_two(fine[0])}, training {_two(fine[1])} of {n}"
    least = f"{_two(float(held_out.median[low]))} at noise {math.sqrt(float(held_out.tau[low])):.2g}"
    return [
        Row(f"dimension at noise {noise:.2g}", value, reading),
        Row(
            "least dimension",
            least,
            scale,
        ),
    ]


def _size(found: ModelProbe) -> list[Row]:
    size = found.effective_size
    if size is None:
        return []
    noise, least, at = math.sqrt(float(size.tau[0])), float(size.median[0]), size.crossing(2.0)
    if at is None:
        reading = f"At every noise level several training points share in the score, at the finest {least:.2g}."
    else:
        reading = (
            f"Below noise {math.sqrt(at):.2g} the ideal score knows one training point: there the model is on its own."
        )
    return [Row(f"effective sample size at noise {noise:.2g}", f"{least:.3g} of {found.train_size:,}", reading)]


def _noise(found: ModelProbe) -> list[Row]:
    noise = found.noise
    if noise is None:
        return []
    m = noise.manifold
    enough = noise.tau > m.time.value
    reading = (
        f"The schedule ends at {noise.tau:.3g}, {noise.tau / m.time.value:.2g} mixing times: any data are forgotten."
        if enough
        else f"The schedule ends at {noise.tau:.3g}, before that: raise tau_max unless the data are spread already."
    )
    distance = math.sqrt(noise.chi_square) / 2
    return [
        Row(
            "spectral gap",
            f"{m.gap:.4g}",
            f"The slowest wave falls by a factor e in the Brownian time {1 / m.gap:.3g}.",
        ),
        Row(
            f"mixing time to {m.level:.0%}",
            f"{m.time.value:.4g} ± {m.time.standard_error:.1g} (bound {m.chi_square_time:.4g})",
            reading,
        ),
        Row("distance from uniform at t = 1", f"at most {distance:.1e}", "Total variation from a single data point."),
    ]


def _straight(found: ModelProbe) -> str:
    paths = found.paths
    assert paths is not None
    excess, energy = paths.excess, float(paths.energy.mean())
    if energy == 0:
        return "Nothing moves: the velocity is zero along all paths, and samples are draws of the prior."
    change = 15 * paths.quadrature_error
    if not change <= max(_RESOLVED * excess.value, _STRAIGHT * energy) or paths.detour < 1 - _STRAIGHT:
        return f"With every other time left out the energy changes by {change:.2g}: raise --path_steps."
    if excess.value + 3 * excess.standard_error <= _STRAIGHT * energy:
        return "The paths are geodesics at constant speed: one step samples them."
    if not excess.value > 3 * excess.standard_error:
        return f"The excess is known to ± {excess.standard_error:.2g} only: raise --points."
    share = paths.bending.value / excess.value
    advice = "another clock would remove most of it" if share < 0.5 else "the paths bend, and few steps miss the turns"
    return f"{share:.0%} of the excess is the shape of the paths, the rest their speed: {advice}."


def _two(value: float) -> str:
    """Two decimals, without a minus sign before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _short(text: str) -> str:
    return text.replace("; ", ", ").removeprefix("excess ")


def _levels(found: ModelProbe) -> list[str]:
    columns: dict[str, NoiseProfile] = {
        name: profile
        for name, profile in (
            ("dimension, held-out", found.held_out_dimension),
            ("dimension, training", found.train_dimension),
            ("effective sample size", found.effective_size),
        )
        if profile is not None
    }
    if not columns:
        return []
    tau = next(iter(columns.values())).tau
    rows = [
        (f"{math.sqrt(float(tau[k])):.3g}", *(f"{float(p.median[k]):.3g}" for p in columns.values()))
        for k in range(len(tau))
    ]
    return ["", "## Noise levels (medians)", "", *_table(("noise", *columns), rows)]


def _regions(found: ModelProbe) -> list[str]:
    regions = found.regions
    if regions is None:
        return []
    order = regions.held_out_shares.argsort(descending=True, stable=True).tolist()
    rows = [
        (
            str(i),
            f"{float(regions.held_out_shares[k]):.2%}",
            f"{float(regions.sample_shares[k]):.2%}",
            f"{float(regions.z[k]):+.1f}",
        )
        for i, k in enumerate(order, 1)
    ]
    return ["", "## Regions", "", *_table(("region", "held-out", "model", "z"), rows)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def numbers(facts: Facts, found: ModelProbe) -> dict[str, Any]:
    """The numbers of the report, for a JSON file."""
    out: dict[str, Any] = {
        **{name: getattr(facts, name) for name in ("model", "process", "data", "seed", "command")},
        "manifold": repr(facts.manifold),
        "points": {"train": facts.n_train, "held-out": len(found.held_out_log_prob), "samples": len(found.samples)},
    }
    for name, result in (("memorisation", found.memorisation), ("copies", found.copies)):
        out[name] = {
            "auc": result.auc.value,
            "standard_error": result.auc.standard_error,
            "z": result.z,
            "p_value": result.p_value,
        }
    out["density levels"] = {
        "ks": found.density.test.statistic,
        "p_value": found.density.test.p_value,
        "coverage": {f"{q:g}": found.density.coverage(q) for q in (0.1, 0.25, 0.5, 0.75, 0.9)},
    }
    if found.regions is not None:
        out["regions"] = {
            "chi_square": found.regions.chi_square,
            "degrees_of_freedom": found.regions.degrees_of_freedom,
            "p_value": found.regions.p_value,
            "held-out counts": found.regions.held_out_counts.tolist(),
            "sample counts": found.regions.sample_counts.tolist(),
            "z": found.regions.z.tolist(),
        }
    for name in ("held_out_dimension", "train_dimension", "effective_size"):
        profile = getattr(found, name)
        if profile is not None:
            quantiles = {f"{q:g}": profile.quantile(q).tolist() for q in (0.25, 0.5, 0.75)}
            out[name.replace("_", " ")] = {"tau": profile.tau.tolist(), "quantiles": quantiles}
    if found.noise is not None:
        mixing = found.noise.manifold
        out["noise"] = {
            "spectral gap": mixing.gap,
            "level": mixing.level,
            "mixing time": mixing.time.value,
            "mixing time standard_error": mixing.time.standard_error,
            "chi-square mixing time": mixing.chi_square_time,
            "tau at t = 1": found.noise.tau,
            "chi-square at t = 1": found.noise.chi_square,
        }
    if found.mismatch is not None:
        out["mismatch"] = {"kl": found.mismatch.kl, "standard_error": found.mismatch.standard_error}
    if found.paths is not None:
        parts = {name: getattr(found.paths, name) for name in ("excess", "bending", "pacing")}
        out["paths"] = {k: {"value": e.value, "standard_error": e.standard_error} for k, e in parts.items()}
        out["paths"] |= {"detour": found.paths.detour, "quadrature_error": found.paths.quadrature_error}
    out["skipped"] = dict(found.skipped)
    return out
