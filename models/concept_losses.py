"""Losses on the concepts that work against collapse. A new one is one function here and one row of
`models.family.CONCEPT_LOSSES`.

All take concepts [B, C, H] and give a scalar. z is a concept of length one, S = z z^T per sample.
Legend: B batch, C concepts, H hidden.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .family import SOFT_MARGIN


def _off_diagonal(concepts: Tensor) -> Tensor:
    """Cosines of all pairs of different concepts of a sample: [B, C * (C - 1)]."""
    z = functional.normalize(concepts, dim=-1)
    similarity = z @ z.transpose(1, 2)
    count = concepts.shape[1]
    different = ~torch.eye(count, dtype=torch.bool, device=concepts.device)
    return similarity[:, different]


def _rows(concepts: Tensor) -> Tensor:
    return concepts.reshape(-1, concepts.shape[-1])


def orthogonality(concepts: Tensor) -> Tensor:
    """Mean squared cosine; zero only for orthogonal concepts, impossible when C > H."""
    return _off_diagonal(concepts).square().mean()


def soft_orthogonality(concepts: Tensor) -> Tensor:
    """Mean squared excess of |cosine| over 0.1."""
    return functional.relu(_off_diagonal(concepts).abs() - SOFT_MARGIN).square().mean()


def uniformity(concepts: Tensor) -> Tensor:
    """Mean of exp(-2 d^2) over pairs on the sphere (after Wang & Isola 2020, without the logarithm)."""
    return torch.exp(-2.0 * (2.0 - 2.0 * _off_diagonal(concepts))).mean()


def variance(concepts: Tensor) -> Tensor:
    """Hinge on the standard deviation of every dimension over all B * C rows (Bardes et al. 2022)."""
    return functional.relu(1.0 - torch.sqrt(_rows(concepts).var(dim=0) + 1e-4)).mean()


def covariance(concepts: Tensor) -> Tensor:
    """Sum of squared off-diagonal covariances of all B * C rows, divided by H (Bardes et al. 2022)."""
    rows = _rows(concepts)
    centred = rows - rows.mean(dim=0)
    matrix = centred.T @ centred / (len(rows) - 1)
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / rows.shape[1]


def vicreg(concepts: Tensor) -> Tensor:
    """variance + covariance."""
    return variance(concepts) + covariance(concepts)


def combined(concepts: Tensor) -> Tensor:
    """variance + uniformity."""
    return variance(concepts) + uniformity(concepts)


def t_regs_mst(concepts: Tensor) -> Tensor:
    """Minus the mean distance to the nearest other concept on the sphere: a proxy of a spanning tree's length."""
    z = functional.normalize(concepts, dim=-1)
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    return -distance.masked_fill(itself, torch.inf).amin(dim=-1).mean()


def spanning_tree(concepts: Tensor) -> Tensor:
    """Minus the mean edge of the minimum spanning tree of a sample's concepts on the sphere: the true tree.

    Prim's algorithm on all samples at once; gradients flow through the lengths of the chosen edges.
    """
    z = functional.normalize(concepts, dim=-1)
    distance = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    count, batch = z.shape[1], torch.arange(len(z), device=z.device)
    nearest = distance[:, 0]  # of every concept to the tree, which starts as the first concept
    outside = torch.ones_like(nearest, dtype=torch.bool)
    outside[:, 0] = False
    total = z.new_zeros(len(z))
    for _ in range(count - 1):
        chosen = nearest.detach().masked_fill(~outside, torch.inf).argmin(dim=1)
        total = total + nearest[batch, chosen]
        outside = outside.index_put((batch, chosen), outside.new_zeros(()))
        nearest = torch.minimum(nearest, distance[batch, chosen])
    return -(total / max(count - 1, 1)).mean()
