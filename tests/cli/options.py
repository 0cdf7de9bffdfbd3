"""Options that make a run short."""

from __future__ import annotations

TINY = (
    *("--model.network.width", "8", "--model.network.depth", "1", "--model.network.n_frequencies", "4"),
    *("--trainer.progress", "false", "--trainer.accelerator", "cpu", "--figure_every", "0"),
)
