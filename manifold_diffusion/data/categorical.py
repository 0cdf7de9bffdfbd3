r"""Categorical data as points of spheres: the metric of Fisher and Rao."""

from __future__ import annotations

import torch
from torch import Tensor

from .._errors import DataError

__all__ = ["points_to_probabilities", "points_to_tokens", "probabilities_to_points", "tokens_to_points"]


def tokens_to_points(tokens: Tensor, n_categories: int, dtype: torch.dtype | None = None) -> Tensor:
    r"""Sequences of categories as points of ``Power(Sphere(K - 1), L)``: category k is the k-th unit vector.

    The square root :math:`p \mapsto \sqrt p` maps the simplex with the metric of Fisher and Rao (over 4) isometrically
    to the positive part of the sphere; a category is a corner. Flows and flow maps start from uniform points of the
    *whole* spheres: from the centre of the simplex all sequences would look alike. Source: Davis et al., *Fisher flow
    matching for generative modeling over discrete data*, 2024, arXiv:2405.14664; Cheng et al., *Categorical flow
    matching on statistical manifolds*, 2024, arXiv:2405.16441.

    Args:
        tokens: integers in [0, K), ``(*batch, L)``.
        n_categories: the number K of categories.
        dtype: of the points; default torch's.

    Returns:
        Points ``(*batch, L, K)``.

    Raises:
        DataError: if a token is not an integer in [0, K).

    Example:
        >>> import torch
        >>> tokens_to_points(torch.tensor([[0, 2]]), 3)
        tensor([[[1., 0., 0.],
                 [0., 0., 1.]]])
    """
    if tokens.is_floating_point() or n_categories < 2:
        raise DataError(
            f"tokens must be integers and n_categories at least 2; got {tokens.dtype}, n_categories={n_categories}."
        )
    if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < n_categories):
        raise DataError(
            f"tokens must be in [0, {n_categories}); got {int(tokens.min())} to {int(tokens.max())}. Raise "
            "n_categories."
        )
    return torch.nn.functional.one_hot(tokens.long(), n_categories).to(dtype or torch.get_default_dtype())


def points_to_probabilities(points: Tensor) -> Tensor:
    """Probabilities ``x^2`` of points of a sphere, whatever their signs, ``(*batch, K)``."""
    return points.square()


def probabilities_to_points(probabilities: Tensor) -> Tensor:
    """Points of the positive part of a sphere, the square roots of probabilities ``(*batch, K)``.

    Raises:
        DataError: if a probability is negative, or they don't sum to one.
    """
    total = probabilities.sum(-1)
    if bool((probabilities < 0).any()) or not bool(torch.allclose(total, torch.ones_like(total), atol=1e-5)):
        raise DataError("probabilities must be non-negative and sum to one along the last axis.")
    return (probabilities / total.unsqueeze(-1)).sqrt()


def points_to_tokens(points: Tensor) -> Tensor:
    """Most probable categories ``(*batch, L)`` of points of spheres ``(*batch, L, K)``."""
    return points.square().argmax(-1)
