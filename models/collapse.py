"""Whether the concepts tell texts apart: figures that constant concepts cannot win and a shared offset cannot lose.

The ratio sum(S) / max(S) of the mean concept matrix is full for orthogonal concepts that are the same for every text,
and falls to nearly 1 when a large vector is added to all concepts. What matters is how the vector z of a slot differs
from text to text. With m the mean of a slot over the texts and g the mean of all vectors,

    z[b, c] = g  +  (m[c] - g)  +  (z[b, c] - m[c])
            offset    constant       input

the offset is left out everywhere, and the figures are

- `input_variance_share`: mean square of the input part / that of constant and input part. 0: the text decides nothing.
  The same of each slot on its own: `_slot_mean`, `_slot_min`.
- `centred_effective_rank`: effective rank (Roy & Vetterli 2007) of the input part alone, laid out with one row per slot
  and again with one row per dimension; the smaller of the two. At most min(C, H); 1 when all slots say the same, or all
  in one direction; 0 when nothing varies. It says in how many ways the concepts vary and not how much: read it beside
  the share.
- `same_slot_similarity`: mean cosine of a slot's vectors of two texts, as it is. 1: constant. An offset raises it, so
  `same_slot_similarity_centred` is the same of z - g.
- `retrieval_top_1`: how often the concepts of a text of which tokens were left out are nearest to those of the whole
  text, by cosine of the flattened matrices less their mean. A tie is no hit, so constant concepts find nothing. Beside
  it `retrieval_chance`, 1 / n.

Legend: B batch, n texts, C concepts, H hidden.
"""

import torch
from torch import Tensor

from .geometry import effective_rank

# A variation smaller than this, relative to the vectors, is the rounding of 32-bit floats and counts as none.
ROUNDING = 1e-6


class CollapseStream:
    """Collects concepts batch by batch in float64; memory does not depend on the number of samples."""

    def __init__(self, num_concepts: int, hidden_size: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        self.samples = 0
        self.sum = zeros(num_concepts, hidden_size)
        self.slots = zeros(num_concepts, num_concepts)
        self.dimensions = zeros(hidden_size, hidden_size)
        self.unit_sum = zeros(num_concepts, hidden_size)
        self.unit_square = zeros(num_concepts)
        self.square = 0.0
        self.shift: Tensor | None = None

    def update(self, concepts: Tensor) -> None:
        """Add concepts [B, C, H]."""
        z = concepts.detach().to("cpu", torch.float64)
        if self.shift is None:
            # Sums are taken about near the mean, so that large constants cost no digits.
            self.shift = z.mean(dim=0)
        self.samples += len(z)
        self.square += z.square().sum().item()
        unit = _unit(z)
        self.unit_sum += unit.sum(dim=0)
        self.unit_square += unit.square().sum(dim=(0, 2))
        x = z - self.shift
        self.sum += x.sum(dim=0)
        by_slot, by_dimension = x.transpose(0, 1).flatten(1), x.flatten(0, 1)
        self.slots += by_slot @ by_slot.T
        self.dimensions += by_dimension.T @ by_dimension

    def figures(self) -> dict[str, float]:
        """Rank and share of the input part, and the similarity as it is. One sample shows no variation."""
        if self.shift is None:
            raise ValueError("no concepts were added")
        offset = self.sum / self.samples
        slots = self.slots - self.samples * offset @ offset.T
        dimensions = self.dimensions - self.samples * offset.T @ offset
        rounding = ROUNDING**2 * self.square / (self.samples * len(slots))
        varying = slots.diagonal() / self.samples
        varying = torch.where(varying > rounding, varying, 0.0)
        mean = self.shift + offset
        constant = (mean - mean.mean(dim=0)).square().sum(dim=-1)
        shares = varying / (varying + constant).clamp(min=torch.finfo(torch.float64).tiny)
        total = (varying.sum() + constant.sum()).clamp(min=torch.finfo(torch.float64).tiny)
        varies = bool(varying.any())
        return {
            "centred_effective_rank": min(_rank(slots), _rank(dimensions)) if varies else 0.0,
            "input_variance_share": (varying.sum() / total).item(),
            "input_variance_share_slot_mean": shares.mean().item(),
            "input_variance_share_slot_min": shares.min().item(),
            "same_slot_similarity": _mean_cosine(self.unit_sum, self.unit_square, self.samples) if varies else 1.0,
        }


def compare_texts(whole: Tensor, part: Tensor) -> dict[str, float]:
    """The figures that need the concepts of all texts side by side.

    Args:
        whole: concepts of n different texts: [n, C, H].
        part: concepts of the same texts, of each of which tokens were left out: [n, C, H].
    """
    z, queries = whole.detach().to("cpu", torch.float64), part.detach().to("cpu", torch.float64)
    rounding = ROUNDING * z.square().sum(dim=-1).mean().sqrt().item()
    varies = (z - z.mean(dim=0)).square().sum(dim=-1).mean().sqrt().item() > rounding
    unit = _unit(z - z.mean(dim=(0, 1)), rounding)
    similarity = _mean_cosine(unit.sum(dim=0), unit.square().sum(dim=(0, 2)), len(z)) if varies else 1.0
    middle, rounding = z.mean(dim=0), rounding * z.shape[1] ** 0.5
    cosines = _unit((queries - middle).flatten(1), rounding) @ _unit((z - middle).flatten(1), rounding).T
    own = cosines.diagonal().clone()
    best_other = cosines.fill_diagonal_(0.0).amax(dim=1)
    return {
        "same_slot_similarity_centred": similarity,
        "retrieval_top_1": (own > best_other + ROUNDING).double().mean().item(),
        "retrieval_chance": 1.0 / len(z),
    }


def _unit(vectors: Tensor, rounding: float = 0.0) -> Tensor:
    """Vectors of length 1, and of length 0 where there is nothing but rounding."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return torch.where(norms > rounding, vectors / norms, 0.0)


def _mean_cosine(unit_sum: Tensor, unit_square: Tensor, samples: int) -> float:
    """Mean cosine over pairs of different samples, from the sums of unit vectors [C, H] and of their squares [C]."""
    return ((unit_sum.square().sum(dim=-1) - unit_square) / (samples * (samples - 1))).mean().item()


def _rank(gram: Tensor) -> float:
    """Effective rank of a matrix X from X X^T."""
    eigenvalues = torch.linalg.eigvalsh(gram)
    # Their roots are the singular values, which would make much of the rounding.
    eigenvalues = eigenvalues[eigenvalues > ROUNDING**2 * eigenvalues.max()]
    return effective_rank(eigenvalues.sqrt()).item()
