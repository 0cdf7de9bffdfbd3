"""The tables in Markdown, from the rows that are complete, and their place in a README."""

import statistics
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.likelihood.methods import MEMBERS, METHODS

SEEDS = 5
START, END = "<!-- table -->", "<!-- /table -->"
TRAP = (
    "Test points that stand in the training set too, exactly, let a density with atoms there reach any likelihood: of "
    "raw rows the floor of the bandwidths, 1e-4 rad, decides. Raw volcano is the worst case and no result."
)


@dataclass(frozen=True)
class Published:
    """A row of another paper.

    Attributes:
        method: its name.
        source: where the numbers were read.
        values: text of the cells, per data set.
        mark: "" for numbers read in the paper or its code; else a footnote's sign.
    """

    method: str
    source: str
    values: dict[str, str]
    mark: str = ""


def markdown(rows: Sequence[dict[str, Any]], names: Sequence[str], published: Sequence[Published]) -> str:
    """Likelihoods, sizes and costs.

    Args:
        rows: facts of rows, in any order.
        names: data sets, in the order of the columns.
        published: rows of other papers; they belong to the raw data.
    """
    repeats = {row["data"]: row["n_duplicates"] > 0 for row in rows}
    known = {(row["data"], row["kind"]) for row in rows}
    columns = [(name, kind) for name in names for kind in ("raw", "distinct") if (name, kind) in known]
    titles = [f"{name} {kind}" if repeats[name] else name for name, kind in columns]
    methods = [name for name in METHODS if name not in MEMBERS and any(row["method"] == name for row in rows)]

    def cell(method: str, column: tuple[str, str], show: Callable[[list[dict[str, Any]]], str]) -> str:
        group = [row for row in rows if (row["data"], row["kind"]) == column and row["method"] == method]
        return show(group) if group else ""

    heads = ["test NLL, nats", *titles]
    body = [[f"`{method}`", *[cell(method, column, likelihood) for column in columns]] for method in methods]
    more = [[f"`{method}`", *[cell(method, column, grown) for column in columns]] for method in methods]
    for other in published:
        theirs = [kind == ("raw" if repeats[name] else "distinct") for name, kind in columns]
        cells = [other.values.get(name, "") if on else "" for (name, _), on in zip(columns, theirs, strict=True)]
        if any(cells):
            marked = [f"{value}{other.mark}" if value else "" for value in cells]
            body.append([f"{other.method} ({other.source})", *marked])
    sizes = [["training / validation / test points"], ["test points that stand in the training set"]]
    for column in columns:
        group = [row for row in rows if (row["data"], row["kind"]) == column]
        sizes[0].append("/".join(str(group[0][key]) for key in ("n_train", "n_val", "n_test")) if group else "")
        shares = [row["n_repeated"] / row["n_test"] for row in group]
        sizes[1].append(f"{100 * statistics.mean(shares):.0f} %" if shares else "")
    note = f"Mean ± standard deviation over seeds 0 to {SEEDS - 1}; in parentheses the number of seeds where fewer."
    if any(repeats.values()):
        note = f"{note} {TRAP}"
    cost_heads = ["seconds to fit + to score", *titles, "steps", "evaluations", "change"]
    cost = []
    for method in methods:
        group = [row for row in rows if row["method"] == method and "fit_s" in row]
        if group:
            ends = [_span([row["steps"] for row in group]), _span([row.get("evaluations", 0) for row in group])]
            change = [row["change"] for row in group if "change" in row]
            ends.append(f"{max(change):.4f}" if change else "")
            cost.append([f"`{method}`", *[cell(method, column, seconds) for column in columns], *ends])
    tolerances = sorted({row["tolerance"] for row in rows if "tolerance" in row})
    about = (
        f"Likelihoods along a flow: exact divergence, Dormand-Prince at tolerance {_text(tolerances)} nats a step; "
        "change: the largest change of the mean over 100 test points at a tenth of it."
        if tolerances
        else ""
    )
    more_heads = ["the same with the validation points as further data, all choices made without", *titles]
    further = _lines(more_heads, [line for line in more if any(line[1:])])
    blocks = [_lines(heads, [*body, *sizes]), note, further, _lines(cost_heads, cost), about]
    return "\n\n".join(block for block in blocks if block)


def likelihood(group: Sequence[dict[str, Any]], key: str = "nll") -> str:
    """Mean and standard deviation over seeds, and how many there are if not all."""
    values = [row[key] for row in group if key in row]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}" + (f" ({len(values)})" if len(values) < SEEDS else "")


def grown(group: Sequence[dict[str, Any]]) -> str:
    """The same, with the validation points as further data."""
    return likelihood(group, "grown_nll")


def seconds(group: Sequence[dict[str, Any]]) -> str:
    """Mean times to fit and to score."""
    fit, score = (statistics.mean(row.get(key, 0.0) for row in group) for key in ("fit_s", "score_s"))
    return f"{fit:.0f} + {score:.0f}"


def fill(readme: Path, text: str) -> None:
    """Put tables, and the prose between them in lines of 120, between the markers of a README.

    Raises:
        ValueError: without the markers.
    """
    old = readme.read_text()
    if old.count(START) != 1 or old.count(END) != 1 or old.index(START) > old.index(END):
        raise ValueError(f"{readme} needs one line {START} and below it one line {END}.")
    before, after = old[: old.index(START) + len(START)], old[old.index(END) :]
    lines = [line if line.startswith("|") else textwrap.fill(line, 120) for line in text.splitlines()]
    readme.write_text("\n\n".join([before, "\n".join(lines), after]))


def _lines(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    if not body:
        return ""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *body))


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _text(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
