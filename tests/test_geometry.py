"""The geometry figures: known answers, and what must hold of them for any concepts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from models.geometry import RANK_BINS_PER_UNIT, GeometryStream, concept_geometry

RANKS = (
    "nuclear_rank_of_mean", "effective_rank_of_mean", "effective_rank_per_sample_mean", "effective_rank_per_sample_p5",
    "effective_rank_per_sample_p95",
)  # fmt: skip


def draw(seed: int, samples: int = 12, concepts: int = 5, width: int = 9) -> Tensor:
    """Random concepts with a shared part, so that their mean is not just noise."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(concepts, width, generator=generator, dtype=torch.float64)
    return shared + torch.randn(samples, concepts, width, generator=generator, dtype=torch.float64)


def test_known_answers(golden: Path) -> None:
    expected = json.loads((golden / "geometry/expected.json").read_text())
    figures = concept_geometry(load_file(golden / "geometry/expected.safetensors")["concepts"])
    entropy_rank = next(name for name in expected if name.startswith("entropy_effective_rank_of_mean"))
    assert figures["effective_rank_of_mean"] == pytest.approx(expected.pop(entropy_rank), abs=1e-5)
    assert figures["nuclear_rank_of_mean"] == pytest.approx(expected["global_effective_rank"], abs=1e-5)
    assert len(expected) > 20
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-5), name


@given(st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_any_split_into_batches_gives_the_same_figures(seed: int, sizes: list[int]) -> None:
    concepts = draw(seed, sum(sizes))
    stream = GeometryStream(5, 9)
    for batch in concepts.split(sizes):
        stream.update(batch)
    at_once = concept_geometry(concepts)
    streamed = stream.figures()
    assert streamed.keys() == at_once.keys()
    for name, value in at_once.items():
        assert streamed[name] == pytest.approx(value, rel=1e-7, abs=1e-9), name


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
def test_ranks_do_not_change_by_rotation_and_scaling(seed: int, scale: float) -> None:
    concepts = draw(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    rotation, _ = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))
    before, after = concept_geometry(concepts), concept_geometry(scale * concepts @ rotation)
    for name in RANKS:
        # Percentiles come from a histogram, where a value on an edge may change its bin.
        assert after[name] == pytest.approx(before[name], abs=1.01 / RANK_BINS_PER_UNIT if "_p" in name else 1e-8), name
    for name in ("mean_concept_similarity", "max_concept_similarity", "uniformity_loss", "participation_ratio"):
        assert after[name] == pytest.approx(before[name], rel=1e-6, abs=1e-8), name


@given(st.integers(1, 8), st.integers(1, 5), st.floats(0.01, 100))
def test_constant_orthogonal_concepts_have_full_rank_everywhere(count: int, samples: int, scale: float) -> None:
    """As the log's figure has it, although such concepts carry nothing of the text."""
    figures = concept_geometry(scale * torch.eye(count, 8, dtype=torch.float64).expand(samples, count, 8))
    for name in RANKS:
        assert figures[name] == pytest.approx(count, abs=0.01 if "_p" in name else 1e-9), name
    assert figures["effective_rank_normalized"] == pytest.approx(1.0)
    assert figures["mean_concept_similarity"] == 0.0


@given(st.integers(0, 1000), st.integers(2, 6))
def test_collapsed_concepts_have_rank_one(seed: int, count: int) -> None:
    one = draw(seed, 1, 1, 9)
    figures = concept_geometry(one.expand(4, count, 9))
    for name in RANKS:
        assert figures[name] == pytest.approx(1.0, abs=1e-6), name
    assert figures["mean_concept_similarity"] == pytest.approx(1.0)
    assert figures["max_concept_similarity"] == pytest.approx(1.0)
    assert figures["uniformity_loss"] == pytest.approx(1.0)
    assert figures["collapsed_dimensions"] == 9 and figures["collapsed_dimensions_ratio"] == 1.0
    assert figures["dimensions_for_95_variance"] == 1


def test_a_large_common_offset_costs_no_digits() -> None:
    concepts = draw(3, samples=40) * 1e-2 + 1e4
    rows = concepts.reshape(-1, 9).numpy()
    stream = GeometryStream(5, 9)
    for batch in concepts.split(7):
        stream.update(batch)
    figures = stream.figures()
    assert figures["mean_dimension_std"] == pytest.approx(rows.std(axis=0, ddof=1).mean(), rel=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows, rowvar=False))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert figures["participation_ratio"] == pytest.approx(expected, rel=1e-5)


def test_a_mean_of_samples_that_cancel_hides_nothing_of_the_samples() -> None:
    """Averaging first hides per-sample collapse: each sample has rank one, their mean has a high one."""
    samples = torch.zeros(4, 4, 4, dtype=torch.float64)
    for number in range(4):
        samples[number, :, number] = torch.tensor([1.0, 0, 0, 0]).roll(number) + 1e-3
    figures = concept_geometry(samples)
    assert figures["effective_rank_of_mean"] > 3.9
    assert figures["effective_rank_per_sample_mean"] == pytest.approx(1.0)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 60))
def test_percentiles_of_the_rank_are_those_of_the_samples(seed: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(samples, 5, 1, generator=generator, dtype=torch.float64) ** 4 + 1e-3
    concepts = scales * torch.randn(samples, 5, 9, generator=generator, dtype=torch.float64)
    ranks = []
    for sample in concepts:
        p = torch.linalg.svdvals(sample)
        p = p / p.sum()
        ranks.append(float(torch.exp(-(p * p.log()).sum())))
    figures = concept_geometry(concepts)
    assert figures["effective_rank_per_sample_mean"] == pytest.approx(np.mean(ranks), rel=1e-9)
    for name, share in (("p5", 0.05), ("p95", 0.95)):
        exact = np.quantile(ranks, share, method="inverted_cdf")
        assert figures[f"effective_rank_per_sample_{name}"] == pytest.approx(exact, abs=0.51 / RANK_BINS_PER_UNIT)


def test_one_concept_of_one_sample_has_figures_too() -> None:
    figures = concept_geometry(torch.ones(1, 1, 4))
    assert all(np.isfinite(value) for value in figures.values())
    assert figures["nuclear_rank_of_mean"] == pytest.approx(1.0)


def test_memory_does_not_grow_with_the_samples() -> None:
    def size(stream: GeometryStream) -> int:
        return sum(value.numel() for value in vars(stream).values() if isinstance(value, Tensor))

    stream = GeometryStream(5, 9)
    stream.update(draw(0, 3))
    before = size(stream)
    stream.update(draw(1, 300))
    assert size(stream) == before and stream.samples == 303


def test_without_samples_there_are_no_figures() -> None:
    with pytest.raises(ValueError, match="no concepts"):
        GeometryStream(4, 4).figures()
