"""How many directions the concepts use, and whether they tell texts apart: streaming figures in float64.

Ranks of the concepts as they are. `nuclear_rank_of_mean` is the "Eff. Rank" of the lab's log: sum(S) / max(S) of the
uncentred mean concept matrix. `effective_rank_*` is Roy & Vetterli 2007: exp of the entropy of the normalised singular
values, of the mean matrix and of each sample's own.

Figures of collapse. The ratio above is full for orthogonal concepts that are the same for every text, and falls to
nearly 1 when a large vector is added to all concepts. What matters is how the vector z of a slot differs from text to
text. With m the mean of a slot over the texts and g the mean of all vectors,

    z[b, c] = g  +  (m[c] - g)  +  (z[b, c] - m[c])
            offset    constant       input

the offset is left out everywhere, and the figures are

- `input_variance_share`: mean square of the input part / that of constant and input part. 0: the text decides nothing.
  The same of each slot on its own: `_slot_mean`, `_slot_min`.
- `centred_effective_rank`: effective rank of the input part alone, laid out with one row per slot and again with one
  row per dimension; the smaller of the two. At most min(C, H); 1 when all slots say the same, or all in one direction;
  0 when nothing varies. It counts the ways in which the concepts vary, not how much: read it beside the share.
- `same_slot_similarity`: mean cosine of a slot's vectors of two texts. 1: constant. An offset raises it, so
  `same_slot_similarity_centred` is the same of z - g.
- `retrieval_top_1`: how often the concepts of a text with tokens left out are nearest to those of the whole text, by
  cosine of the flattened matrices less their mean. A tie is no hit, so constant concepts find nothing. Beside it
  `retrieval_chance`, 1 / n.

Legend: B batch, n texts, C concepts, H hidden.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Percentiles of per-sample ranks come from a histogram, so that memory does not grow with the number of samples.
RANK_BINS_PER_UNIT = 100
# A variation smaller than this, relative to the vectors, is the rounding of 32-bit floats and counts as none.
ROUNDING = 1e-6
_TINY = torch.finfo(torch.float64).tiny


def nuclear_rank(singular_values: Tensor) -> Tensor:
    """sum(S) / max(S) over the last axis, of float64 [..., K] -> [...]."""
    return singular_values.sum(-1) / singular_values.amax(-1).clamp(min=_TINY)


def effective_rank(singular_values: Tensor) -> Tensor:
    """exp of the entropy of the normalised values over the last axis, of float64 [..., K] -> [...]."""
    p = singular_values / singular_values.sum(-1, keepdim=True).clamp(min=_TINY)
    return torch.exp(-torch.xlogy(p, p).sum(-1))


class GeometryStream:
    """Collects concepts batch by batch; memory does not depend on the number of samples."""

    def __init__(self, num_concepts: int, hidden_size: int) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64)

        self.num_concepts, self.hidden_size = num_concepts, hidden_size
        self.samples = 0
        self.sum = zeros(num_concepts, hidden_size)
        self.outer = zeros(hidden_size, hidden_size)
        self.similarity_sum = zeros(num_concepts, num_concepts)
        self.cosine_sum = self.cosine_absolute = self.cosine_square = self.uniformity = 0.0
        self.cosine_max = -1.0
        self.norm_sum = self.norm_square = 0.0
        self.norm_min, self.norm_max = torch.inf, 0.0
        self.rank_sum = 0.0
        self.rank_histogram = zeros(num_concepts * RANK_BINS_PER_UNIT + 1)
        # Sums of squares are taken about the means of the first batch, so that large constants cost no digits.
        self.first_mean: Tensor | None = None  # [H], of all vectors
        self.first_slot_means = zeros(num_concepts, hidden_size)
        self.input_sum = zeros(num_concepts, hidden_size)
        self.input_by_slot = zeros(num_concepts, num_concepts)
        self.input_by_dimension = zeros(hidden_size, hidden_size)
        self.unit_sum = zeros(num_concepts, hidden_size)
        self.unit_square = zeros(num_concepts)
        self.square = 0.0

    def update(self, concepts: Tensor) -> None:
        """Add concepts [B, C, H]."""
        z = concepts.detach().to("cpu", torch.float64)
        if self.first_mean is None:
            self.first_mean, self.first_slot_means = z.mean(dim=(0, 1)), z.mean(dim=0)
        self.samples += len(z)
        self.sum += z.sum(dim=0)
        self.square += z.square().sum().item()
        rows = z.reshape(-1, self.hidden_size) - self.first_mean
        self.outer += rows.T @ rows
        x = z - self.first_slot_means
        self.input_sum += x.sum(dim=0)
        by_slot, by_dimension = x.transpose(0, 1).flatten(1), x.flatten(0, 1)
        self.input_by_slot += by_slot @ by_slot.T
        self.input_by_dimension += by_dimension.T @ by_dimension
        norms = z.norm(dim=-1)
        self.norm_sum += norms.sum().item()
        self.norm_square += norms.square().sum().item()
        self.norm_min = min(self.norm_min, norms.min().item())
        self.norm_max = max(self.norm_max, norms.max().item())
        self._add_cosines(functional.normalize(z, dim=-1))
        ranks = effective_rank(torch.linalg.svdvals(z))
        self.rank_sum += ranks.sum().item()
        bins = (ranks * RANK_BINS_PER_UNIT).round().long().clamp(0, len(self.rank_histogram) - 1)
        self.rank_histogram += torch.bincount(bins, minlength=len(self.rank_histogram)).double()

    def _add_cosines(self, unit: Tensor) -> None:
        """Add vectors of length 1, [B, C, H]: cosines of the slots of a text, and of a slot's vectors."""
        self.unit_sum += unit.sum(dim=0)
        self.unit_square += unit.square().sum(dim=(0, 2))
        similarity = unit @ unit.transpose(1, 2)
        self.similarity_sum += similarity.sum(dim=0)
        cosines = similarity[:, ~torch.eye(self.num_concepts, dtype=torch.bool)]
        if cosines.numel():
            self.cosine_sum += cosines.sum().item()
            self.cosine_absolute += cosines.abs().sum().item()
            self.cosine_square += cosines.square().sum().item()
            self.cosine_max = max(self.cosine_max, cosines.max().item())
            self.uniformity += torch.exp(-2.0 * (2.0 - 2.0 * cosines)).sum().item()

    def singular_values(self) -> Tensor:
        """Singular values of the uncentred mean concept matrix, largest first: [min(C, H)]."""
        return torch.linalg.svdvals(self.sum / self.samples)

    def mean_similarity(self) -> Tensor:
        """Mean cosine of every pair of concepts: [C, C]."""
        return self.similarity_sum / self.samples

    def figures(self) -> dict[str, float]:
        """All figures of the concepts as they are, under the names of the lab's earlier reports, and of collapse.

        Raises:
            ValueError: no concepts were added.
        """
        if self.first_mean is None:
            raise ValueError("no concepts were added")
        singular = self.singular_values()
        energy = singular.square() / singular.square().sum()
        rows = self.samples * self.num_concepts
        offset = self.sum.sum(dim=0) / rows - self.first_mean
        covariance = (self.outer - rows * torch.outer(offset, offset)) / max(rows - 1, 1)
        eigenvalues = torch.linalg.eigvalsh(covariance).clamp(min=1e-8)
        deviation = covariance.diagonal().clamp(min=0).sqrt()
        pairs = max(self.samples * self.num_concepts * (self.num_concepts - 1), 1)
        rank = nuclear_rank(singular).item()
        participation = (eigenvalues.sum().square() / eigenvalues.square().sum()).item()
        collapsed = int((deviation < 1e-4).sum())
        return {
            "nuclear_rank_of_mean": rank,
            "effective_rank_of_mean": effective_rank(singular).item(),
            "effective_rank_per_sample_mean": self.rank_sum / self.samples,
            "effective_rank_per_sample_p5": self._rank_percentile(0.05),
            "effective_rank_per_sample_p95": self._rank_percentile(0.95),
            "effective_rank": rank,
            "effective_rank_normalized": rank / min(self.num_concepts, self.hidden_size),
            "global_effective_rank": rank,
            "dimensions_for_95_variance": int((energy.cumsum(0) < 0.95).sum()) + 1,
            "top_1_variance_ratio": energy[0].item(),
            "top_5_variance_ratio": energy[:5].sum().item(),
            "max_concept_similarity": self.cosine_max,
            "mean_concept_similarity": self.cosine_absolute / pairs,
            "std_concept_similarity": _unbiased_std(self.cosine_sum, self.cosine_square, pairs),
            "uniformity_loss": self.uniformity / pairs,
            "isotropy": (eigenvalues.min() / eigenvalues.max()).item(),
            "participation_ratio": participation,
            "participation_ratio_normalized": participation / self.hidden_size,
            "mean_dimension_std": deviation.mean().item(),
            "min_dimension_std": deviation.min().item(),
            "max_dimension_std": deviation.max().item(),
            "collapsed_dimensions": collapsed,
            "collapsed_dimensions_ratio": collapsed / self.hidden_size,
            "mean_concept_norm": self.norm_sum / rows,
            "std_concept_norm": _unbiased_std(self.norm_sum, self.norm_square, rows),
            "min_concept_norm": self.norm_min,
            "max_concept_norm": self.norm_max,
            **self._collapse_figures(),
        }

    def _collapse_figures(self) -> dict[str, float]:
        """Rank and share of the input part, and the similarity as it is. One sample shows no variation."""
        offset = self.input_sum / self.samples
        slots = self.input_by_slot - self.samples * offset @ offset.T
        dimensions = self.input_by_dimension - self.samples * offset.T @ offset
        rounding = ROUNDING**2 * self.square / (self.samples * len(slots))
        varying = slots.diagonal() / self.samples
        varying = torch.where(varying > rounding, varying, 0.0)
        mean = self.first_slot_means + offset
        constant = (mean - mean.mean(dim=0)).square().sum(dim=-1)
        shares = varying / (varying + constant).clamp(min=_TINY)
        total = (varying.sum() + constant.sum()).clamp(min=_TINY)
        varies = bool(varying.any())
        return {
            "centred_effective_rank": min(_rank(slots), _rank(dimensions)) if varies else 0.0,
            "input_variance_share": (varying.sum() / total).item(),
            "input_variance_share_slot_mean": shares.mean().item(),
            "input_variance_share_slot_min": shares.min().item(),
            "same_slot_similarity": _mean_cosine(self.unit_sum, self.unit_square, self.samples) if varies else 1.0,
        }

    def _rank_percentile(self, share: float) -> float:
        position = int(torch.searchsorted(self.rank_histogram.cumsum(0), share * self.samples))
        return min(position, len(self.rank_histogram) - 1) / RANK_BINS_PER_UNIT


def compare_texts(whole: Tensor, part: Tensor) -> dict[str, float]:
    """The figures of collapse that need the concepts of all texts side by side.

    Args:
        whole: [n, C, H], concepts of n different texts.
        part: [n, C, H], concepts of the same texts with tokens left out of each.
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


def _unbiased_std(total: float, squares: float, count: int) -> float:
    return max((squares - total * total / count) / max(count - 1, 1), 0.0) ** 0.5


def _unit(vectors: Tensor, rounding: float) -> Tensor:
    """Vectors of length 1, and of length 0 where there is nothing but rounding."""
    norms = vectors.norm(dim=-1, keepdim=True)
    return torch.where(norms > rounding, vectors / norms, 0.0)


def _mean_cosine(unit_sum: Tensor, unit_square: Tensor, samples: int) -> float:
    """Mean cosine over pairs of different samples, from the sums of unit vectors [C, H] and of their squares [C]."""
    return ((unit_sum.square().sum(dim=-1) - unit_square) / (samples * (samples - 1))).mean().item()


def _rank(gram: Tensor) -> float:
    """Effective rank of a matrix X from X X^T."""
    eigenvalues = torch.linalg.eigvalsh(gram)
    # Their roots are the singular values, in which rounding would weigh much more.
    eigenvalues = eigenvalues[eigenvalues > ROUNDING**2 * eigenvalues.max()]
    return effective_rank(eigenvalues.sqrt()).item()
