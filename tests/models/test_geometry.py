"""The geometry and collapse figures: known answers, and what must hold of them for any concepts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from models.geometry import RANK_BINS_PER_UNIT, GeometryStream, compare_texts
from tasks.plots import plot_live_geometry

RANKS = (
    "nuclear_rank_of_mean",
    "effective_rank_of_mean",
    "effective_rank_per_sample_mean",
    "effective_rank_per_sample_p5",
    "effective_rank_per_sample_p95",
)


def concept_geometry(concepts: Tensor, sizes: list[int] | None = None) -> dict[str, float]:
    """The figures of one tensor of concepts [n, C, H], added in batches of these sizes."""
    stream = GeometryStream(*concepts.shape[1:])
    for batch in concepts.split(sizes or [len(concepts)]):
        stream.update(batch)
    return stream.figures()


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
    streamed, at_once = concept_geometry(concepts, sizes), concept_geometry(concepts)
    assert streamed.keys() == at_once.keys()
    for name, value in at_once.items():
        collapse = name in NOTHING
        assert streamed[name] == pytest.approx(value, rel=1e-6 if collapse else 1e-7, abs=1e-9), name


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
    figures = concept_geometry(concepts, [7, 7, 7, 7, 7, 5])
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


def collapse_figures(whole: Tensor, part: Tensor | None = None, sizes: list[int] | None = None) -> dict[str, float]:
    """All figures of collapse of concepts [n, C, H]; `part` defaults to the same with a little noise."""
    if part is None:
        generator = torch.Generator().manual_seed(len(whole))
        spread = (whole - whole.mean(dim=0)).std()
        part = whole + 0.1 * spread * torch.randn(whole.shape, generator=generator, dtype=whole.dtype)
    figures = concept_geometry(whole, sizes) | compare_texts(whole, part)
    return {name: figures[name] for name in (*NOTHING, "retrieval_chance")}


NOTHING = {
    "centred_effective_rank": 0.0,
    "input_variance_share": 0.0,
    "input_variance_share_slot_mean": 0.0,
    "input_variance_share_slot_min": 0.0,
    "same_slot_similarity": 1.0,
    "same_slot_similarity_centred": 1.0,
    "retrieval_top_1": 0.0,
}
# Raw cosine is reported as it is; every other figure leaves a shared offset out.
OFFSET_FREE = (*(name for name in NOTHING if name != "same_slot_similarity"), "retrieval_chance")


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 6), st.booleans(), st.floats(1e-3, 1e3))
def test_constant_concepts_score_nothing(seed: int, texts: int, count: int, orthogonal: bool, scale: float) -> None:
    """Whatever the constants are, and with what 32-bit floats make of them from batch to batch."""
    generator = torch.Generator().manual_seed(seed)
    constant = torch.eye(count, 8) if orthogonal else torch.randn(count, 8, generator=generator)
    noise = 1 + 1e-7 * torch.randn(2, texts, count, 8, generator=generator)
    whole, part = scale * constant * noise
    assert collapse_figures(whole, part) == {**NOTHING, "retrieval_chance": 1 / texts}


@pytest.mark.parametrize("constant", [torch.zeros(4, 8), torch.ones(4, 8)])
def test_one_constant_for_all_slots_scores_nothing_too(constant: Tensor) -> None:
    whole = constant.expand(5, 4, 8)
    assert collapse_figures(whole, whole) == {**NOTHING, "retrieval_chance": 0.2}


@given(st.integers(0, 1000), st.integers(30, 60))
def test_concepts_that_are_the_text_score_high(seed: int, texts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    figures = collapse_figures(torch.randn(texts, 5, 9, generator=generator, dtype=torch.float64))
    assert figures["centred_effective_rank"] > 4.8
    assert figures["input_variance_share_slot_min"] > 0.9
    assert abs(figures["same_slot_similarity"]) < 0.1 and abs(figures["same_slot_similarity_centred"]) < 0.1
    assert figures["retrieval_top_1"] == 1.0


@given(st.integers(0, 1000), st.integers(2, 20), st.floats(1e-2, 1e3))
def test_a_shared_offset_changes_nothing(seed: int, texts: int, length: float) -> None:
    concepts = draw(seed, texts)
    generator = torch.Generator().manual_seed(seed)
    part = concepts + 0.3 * torch.randn(concepts.shape, generator=generator, dtype=torch.float64)
    offset = length * torch.randn(9, generator=generator, dtype=torch.float64)
    before, after = collapse_figures(concepts, part), collapse_figures(concepts + offset, part + offset)
    for name in OFFSET_FREE:
        assert after[name] == pytest.approx(before[name], rel=1e-6, abs=1e-9), name


@given(st.integers(0, 1000), st.integers(2, 20), st.floats(1e-6, 1e6))
def test_figures_of_collapse_do_not_change_by_rotation_and_scaling(seed: int, texts: int, scale: float) -> None:
    concepts = draw(seed, texts)
    generator = torch.Generator().manual_seed(seed + 1)
    part = concepts + 0.3 * torch.randn(concepts.shape, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(9, 9, generator=generator, dtype=torch.float64))
    after = collapse_figures(scale * concepts @ rotation, scale * part @ rotation)
    assert after == pytest.approx(collapse_figures(concepts, part), rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000), st.lists(st.integers(1, 4), min_size=1, max_size=6), st.sampled_from([0.0, 1e3]))
def test_figures_of_collapse_do_not_depend_on_batches(seed: int, sizes: list[int], offset: float) -> None:
    concepts = draw(seed, sum(sizes)) + offset
    assert collapse_figures(concepts, sizes=sizes) == pytest.approx(collapse_figures(concepts), rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000), st.integers(2, 20))
def test_the_figures_of_collapse_are_what_they_are_said_to_be(seed: int, texts: int) -> None:
    """Against the definitions, written with loops and whole matrices."""
    concepts = draw(seed, texts)
    part = concepts + 0.8 * torch.randn(concepts.shape, generator=torch.Generator().manual_seed(seed)).double()
    figures = collapse_figures(concepts, part)
    z, queries = concepts.numpy(), part.numpy()
    slot_mean, grand_mean = z.mean(axis=0), z.mean(axis=(0, 1))
    varying, about = ((z - slot_mean) ** 2).sum(-1).mean(0), ((z - grand_mean) ** 2).sum(-1).mean(0)
    assert figures["input_variance_share"] == pytest.approx(varying.sum() / about.sum())
    assert figures["input_variance_share_slot_mean"] == pytest.approx((varying / about).mean())
    assert figures["input_variance_share_slot_min"] == pytest.approx((varying / about).min())
    ranks = []
    for rows in ((z - slot_mean).swapaxes(0, 1).reshape(5, -1), (z - slot_mean).reshape(-1, 9)):
        p = np.linalg.svd(rows, compute_uv=False)
        p = p[p > 1e-9 * p[0]] / p.sum()
        ranks.append(np.exp(-(p * np.log(p)).sum()))
    assert figures["centred_effective_rank"] == pytest.approx(min(ranks), rel=1e-6)
    for name, vectors in (("same_slot_similarity", z), ("same_slot_similarity_centred", z - grand_mean)):
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        cosines = [unit[a, c] @ unit[b, c] for a in range(texts) for b in range(a) for c in range(5)]
        assert figures[name] == pytest.approx(np.mean(cosines), rel=1e-6, abs=1e-9)
    index = [(row - slot_mean).ravel() / np.linalg.norm(row - slot_mean) for row in z]
    best = [int(np.argmax([(query - slot_mean).ravel() @ one for one in index])) for query in queries]
    assert figures["retrieval_top_1"] == pytest.approx(np.mean(np.array(best) == np.arange(texts)))
    assert figures["retrieval_chance"] == 1 / texts


def test_large_constants_cost_no_digits_of_the_input_part() -> None:
    concepts = draw(3, samples=40)
    whole, shifted = collapse_figures(concepts), collapse_figures(concepts + 5e5, sizes=[7, 7, 26])
    for name in OFFSET_FREE:
        assert shifted[name] == pytest.approx(whole[name], rel=1e-7, abs=1e-9), name


@pytest.mark.parametrize("lost", ["slots", "directions"])
def test_collapse_onto_one_slot_or_one_direction_has_rank_one(lost: str) -> None:
    varying = draw(1, 30, 1, 9) if lost == "slots" else draw(1, 30, 5, 1) * draw(2, 1, 1, 9)
    figures = collapse_figures(torch.eye(5, 9, dtype=torch.float64) + varying)
    assert figures["centred_effective_rank"] == pytest.approx(1.0, abs=1e-9)
    assert figures["input_variance_share"] > 0.1


def test_one_number_told_by_all_concepts_finds_no_text() -> None:
    """Ranks see full variation; the flattened matrices differ by length and sign alone."""
    numbers = draw(4, 40, 1, 1)
    figures = collapse_figures(numbers * draw(5, 1, 5, 9), 1.01 * numbers * draw(5, 1, 5, 9))
    assert figures["retrieval_top_1"] == 0.0 and figures["centred_effective_rank"] > 3


def test_the_old_ratio_ranks_wrongly_and_the_new_figures_rightly() -> None:
    """Constants of full rank, good concepts, and the same with an offset."""
    constant = torch.eye(8, 16, dtype=torch.float64).expand(50, 8, 16)
    good = draw(7, 50, 8, 16)
    shifted = good + 20.0
    old = [concept_geometry(z)["nuclear_rank_of_mean"] for z in (constant, good, shifted)]
    assert old[0] == pytest.approx(8.0) and old[0] > old[1] > 2 * old[2]
    new = [collapse_figures(z) for z in (constant, good, shifted)]
    for name in ("centred_effective_rank", "input_variance_share", "retrieval_top_1"):
        values = [figures[name] for figures in new]
        assert values[0] == 0.0 and values[1] > 0.4 and values[2] == pytest.approx(values[1], rel=1e-6), name


def test_a_dead_slot_shows_in_the_smallest_share() -> None:
    concepts = draw(0, 30)
    concepts[:, 2] = concepts[0, 2].clone()
    figures = collapse_figures(concepts)
    assert figures["input_variance_share_slot_min"] == 0.0 and figures["input_variance_share"] > 0.2


def test_one_text_shows_no_variation() -> None:
    assert collapse_figures(torch.ones(1, 1, 4), torch.ones(1, 1, 4)) == {**NOTHING, "retrieval_chance": 1.0}


def test_curves_without_the_centred_rank_are_still_drawn(tmp_path: Path) -> None:
    """A training that was begun before the figure was there goes on with it."""
    old = dict.fromkeys(("nuclear_rank_of_mean", "effective_rank_of_mean", "effective_rank_per_sample_mean"), 2.0)
    plot_live_geometry([{"step": 1, **old}, {"step": 2, **old, "centred_effective_rank": 1.5}], 4, tmp_path / "r.png")
    assert (tmp_path / "r.png").stat().st_size > 1000
