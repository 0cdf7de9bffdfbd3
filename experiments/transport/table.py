"""The tables of the comparison, from the rows that are on disk."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path


def markdown(folder: Path, columns: Sequence[str]) -> str:
    """Likelihoods with standard errors over the seeds, and MMD over its floor (ratio of means) in the last columns."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        cells.setdefault((row["data"], row["method"]), []).append(row)
    heads = ["data", "method", "seeds", "steps", "test NLL", "KDE mixture", "truth", "ms/step", "floor", *columns]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for (data, method), group in sorted(cells.items()):
        floor = statistics.mean(row["floor"] for row in group)
        ratios = [_mean_ratio([row["mmd"].get(k) for row in group], floor) for k in columns]
        lines.append(
            f"| {data} | {method} | {len(group)} | {'/'.join(sorted({str(row['steps']) for row in group}))} "
            f"| {_mean([row['nll'] for row in group])} "
            f"| {_mean([row.get('kde') for row in group])} | {_mean([row.get('truth') for row in group])} "
            f"| {1e3 * statistics.mean(row['training_s'] / row['steps'] for row in group):.1f} | {floor:.3f} | "
            + " | ".join(ratios)
            + " |"
        )
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return ""
    error = f" ± {statistics.stdev(known) / len(known) ** 0.5:.3f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.3f}{error}"


def _mean_ratio(values: Sequence[float | None], floor: float) -> str:
    known = [v for v in values if v is not None]
    return f"{statistics.mean(known) / floor:.2f}" if known else ""
