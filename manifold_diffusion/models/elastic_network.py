"""Elastic networks about known structures of a protein: an energy of its backbone frames in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .._errors import ConfigError
from ..data import atoms_from_frames
from ..manifolds import SE3N

__all__ = ["ElasticNetwork"]


class ElasticNetwork:
    r"""The energy of a protein whose known structures are the minima of elastic networks.

    Backbone atoms of different residues that are close in structure s are joined by springs at rest there; the networks
    of several structures are mixed as states in equilibrium:

    .. math:: E(x) = -\epsilon \log \sum_s e^{-E_s(x) / \epsilon}, \qquad
        E_s(x) = \frac{k}{2} \sum_{(i, j):\, d_{ij}(x_s) < c} \big(d_{ij}(x) - d_{ij}(x_s)\big)^2

    with d the distances of the atoms N, CA and C of the frames (:func:`~manifold_diffusion.data.atoms_from_frames`).
    Energies are in units of kT. It knows the given structures and nothing else: no sequence, no solvent, no repulsion
    of atoms that are not joined. Springs don't break: what it is good for are soft directions, not barriers.

    Args:
        manifold: ``SE3N(n_residues)``, translations in ångströms.
        states: the structures, ``(n_states, n_residues, 12)``; superpose them first.
        cutoff: c in ångströms.
        stiffness: k in kT per square ångström.
        mixing: :math:`\epsilon` in kT: states within it of each other are mixed.

    Raises:
        ManifoldError: if a state is not on the manifold.
        ConfigError: if there is no state, two atoms coincide or an argument is not positive.

    Example:
        >>> import torch
        >>> from manifold_diffusion.manifolds import SE3N
        >>> M = SE3N(3)
        >>> p = 3.8 * torch.eye(3)
        >>> x = M.join(torch.eye(3).expand(3, 3, 3), p)
        >>> network = ElasticNetwork(M, x.unsqueeze(0))
        >>> network.energies(x), network.energy(M.join(torch.eye(3), 2 * p)) > 1
        (tensor([0.]), tensor(True))

    References:
        Zheng, Brooks and Hummer, *Protein conformational transitions explored by mixed elastic network models*, 2007,
        Proteins 69, 43; Atilgan et al., *Anisotropy of fluctuation dynamics of proteins with an elastic network model*,
        2001, Biophys. J. 80, 505.
    """

    def __init__(
        self, manifold: SE3N, states: Tensor, cutoff: float = 8.0, stiffness: float = 1.0, mixing: float = 1.0
    ) -> None:
        manifold.check_point(states, "states")
        if states.dim() != 3 or len(states) == 0:
            raise ConfigError(f"states must have shape (n_states, n_residues, 12); got {tuple(states.shape)}.")
        for name, value in (("cutoff", cutoff), ("stiffness", stiffness), ("mixing", mixing)):
            if not 0 < value < math.inf:
                raise ConfigError(f"ElasticNetwork needs {name} > 0; got {value}.")
        self.manifold, self.states = manifold, states.detach()
        self.cutoff, self.stiffness, self.mixing = cutoff, stiffness, mixing
        self._arms = atoms_from_frames(manifold.origin(states.dtype, states.device))[0]
        atoms = atoms_from_frames(self.states).flatten(1, 2)
        distance = torch.cdist(atoms, atoms, compute_mode="donot_use_mm_for_euclid_dist")
        residue = torch.arange(atoms.shape[1], device=states.device) // 3
        apart = residue[:, None] < residue
        if bool((distance[:, apart] == 0).any()):
            raise ConfigError("Two atoms of one state coincide: a spring between them has no direction.")
        self._springs = [((d < cutoff) & apart).nonzero().T for d in distance]
        self._rest = [d[i, j] for d, (i, j) in zip(distance, self._springs, strict=True)]

    def __repr__(self) -> str:
        springs = ", ".join(str(len(rest)) for rest in self._rest)
        return f"ElasticNetwork({self.manifold}, springs of the states: {springs}, cutoff={self.cutoff})"

    def energies(self, x: Tensor) -> Tensor:
        """Energy of each network in kT, ``(*batch, n_states)``."""
        return self._evaluate(x, forces=False)[0]

    def energy(self, x: Tensor) -> Tensor:
        """Energy of the mixture in kT, ``(*batch,)``: minus the log density, up to a constant."""
        return -self.mixing * torch.logsumexp(-self.energies(x) / self.mixing, -1)

    def score(self, x: Tensor) -> Tensor:
        """Minus the Riemannian gradient of :meth:`energy`, ``(*batch, n_residues, 12)``."""
        energies, forces = self._evaluate(x, forces=True)
        share = (-energies / self.mixing).softmax(-1).reshape(-1, len(self.states))
        force = (share.T[:, :, None, None, None] * forces).sum(0)  # (batch, n, 3 atoms, 3)
        r, _ = self.manifold.split(x.reshape(-1, *self.manifold.point_shape))
        torque = torch.linalg.cross(self._arms.to(x).expand_as(force), force @ r).sum(-2)  # in body axes
        twist = torch.cat([torque, force.sum(-2)], -1)
        return self.manifold.from_frame(x, twist.reshape(*self.manifold.batch_shape(x), -1))

    def _evaluate(self, x: Tensor, forces: bool) -> tuple[Tensor, Tensor]:
        """Energies ``(*batch, n_states)``, and forces on the atoms, ``(n_states, batch, n, 3, 3)``, if asked for."""
        batch = self.manifold.batch_shape(x)
        atoms = atoms_from_frames(x.reshape(-1, *self.manifold.point_shape)).flatten(1, 2)
        rows = atoms.movedim(0, 1).contiguous()  # one row per atom: springs take and give whole rows
        energies, pulls = [], []
        for (i, j), rest in zip(self._springs, self._rest, strict=True):
            step = rows[i] - rows[j]  # (springs, batch, 3)
            length = step.norm(dim=-1)
            stretch = length - rest.to(x).unsqueeze(-1)
            energies.append(self.stiffness / 2 * stretch.square().sum(0))
            if forces:
                # Atoms that coincide are at the tip of a cone: zero is one of the subgradients.
                tension = self.stiffness * stretch / torch.where(length > 0, length, 1.0)
                pull = -tension.unsqueeze(-1) * step
                total = torch.zeros_like(rows).index_add_(0, i, pull).index_add_(0, j, -pull)
                pulls.append(total.movedim(0, 1).unflatten(1, (-1, 3)))
        energy = torch.stack(energies, -1).reshape(*batch, len(self.states))
        return energy, torch.stack(pulls) if forces else energy
