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
    count = z.shape[1]
    # Between two elements of the diagonal lie `count` others; a mask instead would make the host wait for the GPU.
    between = (z @ z.transpose(1, 2)).flatten(1)[:, 1:].reshape(len(z), count - 1, count + 1)
    return between[:, :, :-1].flatten(1)


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


@torch.no_grad()
def _all_distances(z: Tensor) -> Tensor:
    """Of all pairs [B, C, C], only to choose among: their gradient would take [B, C, C, H] on a GPU."""
    return torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_length(z: Tensor, ends: Tensor, others: Tensor) -> Tensor:
    """Mean distance of the pairs of concepts `ends` and `others`, both int64 [B, pairs]; it has a gradient."""

    def chosen(indices: Tensor) -> Tensor:
        return z.gather(1, indices.unsqueeze(-1).expand(-1, -1, z.shape[-1]))

    return torch.linalg.vector_norm(chosen(ends) - chosen(others), dim=-1).sum(dim=1).mean() / max(ends.shape[1], 1)


def t_regs_mst(concepts: Tensor) -> Tensor:
    """Minus the mean distance to the nearest other concept on the sphere: a proxy of a spanning tree's length."""
    z = functional.normalize(concepts, dim=-1)
    distance = _all_distances(z)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    nearest = distance.argmin(dim=-1)
    return -_mean_length(z, torch.arange(z.shape[1], device=z.device).expand_as(nearest), nearest)


def spanning_tree(concepts: Tensor) -> Tensor:
    """Minus the mean edge of the minimum spanning tree of a sample's concepts on the sphere: the true tree.

    Prim's algorithm on all samples at once; gradients flow through the lengths of the chosen edges.
    """
    z = functional.normalize(concepts, dim=-1)
    distance = _all_distances(z)
    batch = torch.arange(len(z), device=z.device)
    # Of every concept to the tree, which starts as the first concept; those of the tree itself are infinite.
    nearest = distance[:, 0].index_fill(1, batch.new_zeros(1), torch.inf)
    tree_end = torch.zeros_like(nearest, dtype=torch.int64)
    edges = []
    for _ in range(z.shape[1] - 1):
        chosen = nearest.argmin(dim=1)
        edges.append(torch.stack([chosen, tree_end[batch, chosen]]))
        inside = nearest.isinf().index_put((batch, chosen), torch.ones_like(chosen, dtype=torch.bool))
        tree_end = torch.where(distance[batch, chosen] < nearest, chosen.unsqueeze(1), tree_end)
        nearest = torch.minimum(nearest, distance[batch, chosen]).masked_fill(inside, torch.inf)
    if not edges:
        return z.new_zeros(())
    ends, others = torch.stack(edges, dim=-1)
    return -_mean_length(z, ends, others)
