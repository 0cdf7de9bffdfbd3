"""Noised data in closed form: the law and the score of points that diffuse, at every price.

``data`` is the front; ``_evaluators`` chooses among the full scan, the nearest points (``_golden``, ``_retrieval``),
cells of a tree (``_cells``, ``_cell_jets``, ``_cell_tree``, ``_zonal_jet``) and eigenfunctions (``_spectral``,
``_series``, and a file of harmonics for each kind of space).
"""

from .data import EVALUATORS, Evaluator, NoisedData, NoisedValue

__all__ = ["EVALUATORS", "Evaluator", "NoisedData", "NoisedValue"]
