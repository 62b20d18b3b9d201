"""How many directions the concepts really use: streaming figures in float64.

Three ranks are reported, each under its own name. `nuclear_rank_of_mean` is the "Eff. Rank" of the lab's log:
sum(S) / max(S) of the uncentred mean concept matrix. `effective_rank_*` is Roy & Vetterli 2007: exp of the entropy of
the normalised singular values, of the mean matrix and of each sample's own.
Legend: B batch, C concepts, H hidden.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Percentiles of per-sample ranks come from a histogram, so that memory does not grow with the number of samples.
RANK_BINS_PER_UNIT = 100


def nuclear_rank(singular_values: Tensor) -> Tensor:
    """sum(S) / max(S) over the last axis."""
    return singular_values.sum(-1) / singular_values.amax(-1).clamp(min=torch.finfo(singular_values.dtype).tiny)


def effective_rank(singular_values: Tensor) -> Tensor:
    """exp of the entropy of the normalised singular values over the last axis (Roy & Vetterli 2007)."""
    p = singular_values / singular_values.sum(-1, keepdim=True).clamp(min=torch.finfo(singular_values.dtype).tiny)
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
        self.shift: Tensor | None = None

    def update(self, concepts: Tensor) -> None:
        """Add concepts [B, C, H]."""
        z = concepts.detach().to("cpu", torch.float64)
        if self.shift is None:
            # Sums of squares are taken about a typical row, so that a large common offset costs no digits.
            self.shift = z.mean(dim=(0, 1))
        self.samples += len(z)
        self.sum += z.sum(dim=0)
        rows = z.reshape(-1, self.hidden_size) - self.shift
        self.outer += rows.T @ rows
        norms = z.norm(dim=-1)
        self.norm_sum += norms.sum().item()
        self.norm_square += norms.square().sum().item()
        self.norm_min = min(self.norm_min, norms.min().item())
        self.norm_max = max(self.norm_max, norms.max().item())
        unit = functional.normalize(z, dim=-1)
        similarity = unit @ unit.transpose(1, 2)
        self.similarity_sum += similarity.sum(dim=0)
        different = ~torch.eye(self.num_concepts, dtype=torch.bool)
        cosines = similarity[:, different]
        if cosines.numel():
            self.cosine_sum += cosines.sum().item()
            self.cosine_absolute += cosines.abs().sum().item()
            self.cosine_square += cosines.square().sum().item()
            self.cosine_max = max(self.cosine_max, cosines.max().item())
            self.uniformity += torch.exp(-2.0 * (2.0 - 2.0 * cosines)).sum().item()
        ranks = effective_rank(torch.linalg.svdvals(z))
        self.rank_sum += ranks.sum().item()
        bins = (ranks * RANK_BINS_PER_UNIT).round().long().clamp(0, len(self.rank_histogram) - 1)
        self.rank_histogram += torch.bincount(bins, minlength=len(self.rank_histogram)).double()

    def singular_values(self) -> Tensor:
        """Singular values of the uncentred mean concept matrix, largest first: [min(C, H)]."""
        return torch.linalg.svdvals(self.sum / self.samples)

    def mean_similarity(self) -> Tensor:
        """Mean cosine of every pair of concepts: [C, C]."""
        return self.similarity_sum / self.samples

    def figures(self) -> dict[str, float]:
        """All figures under the names of the lab's earlier reports, and the three ranks."""
        if not self.samples:
            raise ValueError("no concepts were added")
        singular = self.singular_values()
        energy = singular.square() / singular.square().sum()
        largest = min(self.num_concepts, self.hidden_size)
        rows = self.samples * self.num_concepts
        assert self.shift is not None
        offset = self.sum.sum(dim=0) / rows - self.shift
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
            "effective_rank_normalized": rank / largest,
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
        }

    def _rank_percentile(self, share: float) -> float:
        position = int(torch.searchsorted(self.rank_histogram.cumsum(0), share * self.samples))
        return min(position, len(self.rank_histogram) - 1) / RANK_BINS_PER_UNIT


def _unbiased_std(total: float, squares: float, count: int) -> float:
    return max((squares - total * total / count) / max(count - 1, 1), 0.0) ** 0.5


def concept_geometry(concepts: Tensor) -> dict[str, float]:
    """The figures of one tensor of concepts [B, C, H]."""
    stream = GeometryStream(concepts.shape[1], concepts.shape[2])
    stream.update(concepts)
    return stream.figures()
