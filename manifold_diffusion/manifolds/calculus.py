"""Differential operators on vector fields."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vjp, vmap

from .._typing import VectorField
from .base import Manifold

__all__ = ["divergence", "divergence_along", "gradient", "hutchinson_divergence", "raise_index"]


def divergence(manifold: Manifold, field: VectorField, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Value and Riemannian divergence of a tangent field, from ``dim`` derivatives in an orthonormal basis.

    :math:`\mathrm{div}\, v = \sum_i \langle P\, D_{e_i} v, e_i\rangle + v[\log\rho]` over an orthonormal basis, with
    :math:`P` the projection onto the tangent space. The second term is zero in a metric that is a constant form of the
    ambient entries (all embedded manifolds, also in Minkowski space) and is not computed there; see
    :meth:`Manifold.divergence_correction`. The field is evaluated once: the ``dim`` derivatives share it, see
    :func:`divergence_along`.

    Args:
        manifold: where the field lives.
        field: maps points ``(*batch, *point_shape)`` to tangent vectors, row by row.
        x: points.

    Returns:
        The field at ``x``, and its divergence ``(*batch,)``.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import Sphere
        >>> M, e = Sphere(2), torch.tensor([0.0, 0.0, 1.0])
        >>> x = M.random_uniform(4, generator=torch.Generator().manual_seed(0))
        >>> _, div = divergence(M, lambda x: M.to_tangent(x, e.expand_as(x)), x)
        >>> torch.allclose(div, -2 * x @ e, atol=1e-6)
        True
    """
    axis = len(manifold.batch_shape(x))
    value, terms = _along(manifold, field, x, manifold.tangent_basis(x).movedim(axis, 0))
    div = terms.sum(0)
    return value, div if manifold.isometric else div + manifold.divergence_correction(x, value)


def hutchinson_divergence(
    manifold: Manifold, field: VectorField, x: Tensor, n_probes: int = 1, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Value of a field and unbiased estimates of its divergence.

    An estimate is :math:`\langle \nabla_\xi v, \xi\rangle` with :math:`\xi` standard normal in the metric.
    The correction of :func:`divergence` for other metrics applies here too.

    Source: Hutchinson, *A stochastic estimator of the trace of the influence matrix*, 1990; Grathwohl et al., *FFJORD*,
    2018, arXiv:1810.01367.

    Returns:
        The field at ``x``, and the estimates of the independent probes, ``(n_probes, *batch)``.
    """
    probes = manifold.random_tangent(x.expand(n_probes, *x.shape), generator=generator)
    return divergence_along(manifold, field, x, probes)


def divergence_along(manifold: Manifold, field: VectorField, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    r"""Value of a field and :math:`\langle P\, D_{\xi} v, \xi\rangle + v[\log\rho]` for given vectors :math:`\xi`.

    Its mean over standard normal :math:`\xi` is the divergence.

    Args:
        manifold: where the field lives.
        field: maps points ``(*batch, *point_shape)`` to tangent vectors, row by row.
        x: points.
        vectors: tangent vectors at ``x``, ``(k, *batch, *point_shape)``.

    Returns:
        The field at ``x``, and one number per vector and point, ``(k, *batch)``.
    """
    value, terms = _along(manifold, field, x, vectors)
    return value, terms if manifold.isometric else terms + manifold.divergence_correction(x, value)


def _along(manifold: Manifold, field: VectorField, x: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    r"""Value of a field, and :math:`\langle P\, D_{\xi} v, \xi\rangle` without the correction.

    Reverse mode: one evaluation, and one product of the transposed derivative with the covector :math:`\langle
    P\,\cdot, \xi\rangle` per vector. Forward mode has the same operation count, but in torch 2.13 every operation
    between a dual and a plain tensor pays 0.3 to 0.7 ms for its implicit zero tangent (1.1 to 3 times slower here), and
    its gradient through ``layer_norm`` is wrong.
    """
    at = x.expand_as(vectors)
    paired, lower = vjp(lambda u: manifold.inner(at, manifold.to_tangent(at, u), vectors), torch.zeros_like(vectors))[
        :2
    ]
    (covectors,) = lower(torch.ones_like(paired))
    value, pull = vjp(field, x)[:2]
    (rows,) = vmap(pull)(covectors)
    return value, (rows * vectors).flatten(1 + len(manifold.batch_shape(x))).sum(-1)


def gradient(manifold: Manifold, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    r"""Riemannian gradient :math:`\sum_i df(e_i)\, e_i` over an orthonormal basis; right in any metric.

    Args:
        manifold: where the function lives.
        function: maps points ``(*batch, *point_shape)`` to ``(*batch,)``, row by row.
        x: points.

    Returns:
        Tangent vectors at ``x``.
    """
    value, pull = vjp(function, x)[:2]
    (slopes,) = pull(torch.ones_like(value))
    return raise_index(manifold, x, slopes)


def raise_index(manifold: Manifold, x: Tensor, slopes: Tensor) -> Tensor:
    """Riemannian gradient of a function with the ambient partial derivatives ``slopes``, tangent at ``x``."""
    axis = len(manifold.batch_shape(x))
    basis = manifold.tangent_basis(x)
    along = (basis * slopes.unsqueeze(axis)).flatten(axis + 1).sum(-1)
    return (manifold.per_point(along) * basis).sum(axis)


def tangent_coordinates(manifold: Manifold, c: Tensor, basis: Tensor, x: Tensor) -> Tensor:
    r"""Coordinates of :math:`\log_c x` in an orthonormal basis at ``c``.

    Args:
        manifold: where the points live.
        c: base points, ``(*batch, *point_shape)``.
        basis: of the tangent spaces there, ``(*batch, dim, *point_shape)``.
        x: points, of a batch that broadcasts against that of ``c``.

    Returns:
        ``(*batch, dim)``.
    """
    v = manifold.log(c, x)
    return manifold.inner(c.unsqueeze(len(manifold.batch_shape(c))), basis, v.unsqueeze(len(manifold.batch_shape(v))))


def from_coordinates(manifold: Manifold, basis: Tensor, coordinates: Tensor) -> Tensor:
    """Tangent vectors from their coordinates ``(*batch, dim)`` in a basis ``(*batch, dim, *point_shape)``."""
    return (manifold.per_point(coordinates) * basis).sum(-1 - len(manifold.point_shape))
