"""The tables of the comparison, from the rows that are on disk."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path


def markdown(folder: Path, evaluations: Sequence[int]) -> str:
    """One table of likelihoods and one of MMD over its floor, mean and standard error over the seeds."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["data"], row["method"]), []).append(row)
    lines = ["| data | method | seeds | test NLL | KDE mixture | truth | ms per step | floor of MMD | "]
    lines[0] += " | ".join(f"{k}" for k in evaluations) + " |"
    lines.append("| --- |" * 1 + " --- |" * (lines[0].count("|") - 2))
    for (data, method), group in sorted(cells.items()):
        floor = statistics.mean(row["floor"] for row in group)
        ratios = [statistics.mean(row["mmd"][str(k)] for row in group) / floor for k in evaluations]
        lines.append(
            f"| {data} | {method} | {len(group)} | {_mean([row['nll'] for row in group])} "
            f"| {_mean([row['kde'] for row in group])} | {_mean([row.get('truth') for row in group])} "
            f"| {statistics.mean(row['step_time'] for row in group):.3f} | {floor:.3f} | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios)
            + " |"
        )
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    error = f" ± {statistics.stdev(known) / len(known) ** 0.5:.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{error}"
