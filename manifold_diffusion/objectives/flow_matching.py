"""Flow matching: regression of the conditional velocity."""

from __future__ import annotations

import torch
from torch import Tensor

from .._typing import Batch, Network
from ..processes import PathProcess
from .base import Objective, stratified_times, wrong_process

__all__ = ["FlowMatching"]


class FlowMatching(Objective):
    r"""Regression of the velocity of the conditional paths, in the metric.

    .. math:: E\,|u_\theta(t, x_t) - \tfrac{dx_t}{ds}|^2_{x_t}

    The minimiser is the mean velocity given :math:`x_t`, which carries the data to the prior. On Euclidean space with a
    linear path and independent pairs this is the standard loss :math:`E|u_\theta - (x_1 - x_0)|^2`. Source: Lipman et
    al., *Flow matching for generative modeling*, 2022, arXiv:2210.02747; Chen and Lipman, *Flow matching on general
    geometries*, 2023, arXiv:2302.03660.

    Args:
        process: a path process, such as :class:`~manifold_diffusion.processes.GeodesicFlow`.

    Raises:
        ConfigError: for another kind of process.
    """

    def __init__(self, process: PathProcess) -> None:
        if not isinstance(process, PathProcess):
            raise wrong_process("a path process such as GeodesicFlow", process, self)
        self.process = process

    def loss(self, network: Network, batch: Batch, generator: torch.Generator | None = None) -> Tensor:
        t = stratified_times(batch.x, len(batch.x), generator)
        path = self.process.sample(batch.x, t, generator)
        assert path.target is not None
        error = network(t, path.x_t, batch.cond) - path.target
        return (path.weight * self.process.manifold.inner(path.x_t, error, error)).mean()
