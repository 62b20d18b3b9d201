"""The order of an epoch and its micro-batches: the same samples and masks for any number of processes."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from factories import labels_of
from hypothesis import given, settings
from hypothesis import strategies as st

from models.family import IGNORE_INDEX, OBJECTIVES
from models.objectives import CorruptedSample, CorruptionSettings, sample_generator
from tasks.data.token_blocks import (
    Batch,
    BatchPlan,
    HeldOutBatches,
    MicroBatches,
    TokenBlocks,
    clean_batches,
    epoch_order,
    pad_samples,
)

PAD, CLS, SEP, MASK = 0, 1, 2, 4
FIRST_WORD = 10
VOCAB = 5000
SETTINGS = CorruptionSettings(0.3, MASK, VOCAB, (PAD, CLS, SEP, 3, MASK))


def write_blocks(folder: Path, lengths: list[int], kind: str) -> TokenBlocks:
    """Blocks that begin [CLS] and a word of their own, so that a sample is known by its second token."""
    (folder / "train").mkdir(parents=True)
    parts = [[CLS, FIRST_WORD + number, *[5] * (length - 3), SEP] for number, length in enumerate(lengths)]
    np.array([token for part in parts for token in part], dtype=np.uint16).tofile(folder / "train/tokens.bin")
    starts = np.cumsum([0, *lengths[:-1]])
    np.save(folder / "train/blocks.npy", np.stack([starts, np.array(lengths)]).astype(np.int64))
    (folder / "corpus.json").write_text(json.dumps({"vocab_size": VOCAB, "blocks": kind}))
    return TokenBlocks(folder, "train")


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> TokenBlocks:
    lengths = np.random.default_rng(0).integers(3, 120, 700).tolist()
    return write_blocks(tmp_path_factory.mktemp("unequal"), lengths, "document")


@pytest.fixture(scope="module")
def equal(tmp_path_factory: pytest.TempPathFactory) -> TokenBlocks:
    return write_blocks(tmp_path_factory.mktemp("equal"), [6] * 50, "concat")


def plan(**changes: Any) -> BatchPlan:
    return replace(BatchPlan("mlm", SETTINGS, PAD, 7, global_batch_size=8, per_device_batch_size=4), **changes)


def micro_batches(blocks: TokenBlocks, steps: int = 3, **changes: Any) -> MicroBatches:
    return MicroBatches(blocks, plan(**changes), steps)


def samples_of(batch: Batch) -> list[tuple[bytes, bytes]]:
    """(corrupted ids, labels) of every sample without its padding."""
    ids, labels, mask = batch["input_ids"], labels_of(batch), batch["attention_mask"]
    kept = torch.ones_like(ids) if mask is None else mask
    assert not kept.diff(dim=1).gt(0).any(), "padding stands at the end"
    assert (ids[kept == 0] == PAD).all() and (labels[kept == 0] == IGNORE_INDEX).all()
    return [
        (row[keep.bool()].numpy().tobytes(), target[keep.bool()].numpy().tobytes())
        for row, target, keep in zip(ids, labels, kept, strict=True)
    ]


def block_numbers(batch: Batch) -> list[int]:
    ids, labels = batch["input_ids"], labels_of(batch)
    return (torch.where(labels == IGNORE_INDEX, ids, labels)[:, 1] - FIRST_WORD).tolist()


# --- the order ---


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(3, 40), min_size=1, max_size=60),
    kind=st.sampled_from(["concat", "document"]),
    seed=st.integers(0, 2**31 - 1),
    epoch=st.integers(0, 5),
    size=st.integers(1, 70),
)
def test_an_epoch_is_a_permutation_of_all_blocks(
    lengths: list[int], kind: str, seed: int, epoch: int, size: int
) -> None:
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        blocks = write_blocks(Path(folder), lengths, kind)
        order = epoch_order(blocks, seed, epoch, size)
        assert sorted(order.tolist()) == list(range(len(lengths)))
        assert np.array_equal(epoch_order(blocks, seed, epoch, size), order)


@pytest.mark.parametrize("kind", ["equal", "unequal"])
def test_another_epoch_or_seed_is_another_order(kind: str, request: pytest.FixtureRequest) -> None:
    blocks = request.getfixturevalue(kind)
    orders = [epoch_order(blocks, seed, epoch, 8) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len({order.tobytes() for order in orders}) == 3


def padding_share(blocks: TokenBlocks, order: np.ndarray, size: int) -> float:
    batches = np.asarray(blocks.lengths)[order[: len(order) // size * size]].reshape(-1, size)
    return 1 - batches.sum() / (batches.max(axis=1) * size).sum()


def test_length_grouping_saves_padding_and_shuffles_the_batches(unequal: TokenBlocks) -> None:
    plain = np.random.default_rng(0).permutation(len(unequal))
    order = epoch_order(unequal, 0, 0, 8)
    assert padding_share(unequal, plain, 8) > 0.3
    assert padding_share(unequal, order, 8) < 0.05
    longest = np.asarray(unequal.lengths)[order[:696]].reshape(-1, 8).max(axis=1)
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.4, "long batches must not all come first"


# --- micro-batches ---


@given(
    count=st.integers(1, 30),
    size=st.integers(1, 24),
    world=st.integers(1, 5),
    per_device=st.integers(1, 9),
    steps=st.integers(1, 5),
)
def test_any_cut_holds_exactly_the_samples_of_the_global_batch(
    count: int, size: int, world: int, per_device: int, steps: int
) -> None:
    world = min(world, size)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        lengths = (np.arange(count) % 5 + 4).tolist()
        blocks = write_blocks(Path(folder), lengths, "document")
        whole = micro_batches(blocks, global_batch_size=size, per_device_batch_size=size, steps=steps)
        ranks = [
            micro_batches(
                blocks,
                global_batch_size=size,
                per_device_batch_size=per_device,
                world_size=world,
                rank=rank,
                steps=steps,
            )
            for rank in range(world)
        ]
        assert len(whole) == steps
        assert {len(rank) for rank in ranks} == {steps * ranks[0].per_step}, "every rank takes part in every step"
        epochs = steps * size // count + 1
        stream = np.concatenate([epoch_order(blocks, 7, epoch, size) for epoch in range(epochs)])
        for step in range(steps):
            expected = stream[step * size : (step + 1) * size]
            assert block_numbers(whole[step]) == expected.tolist()
            found: Counter[tuple[bytes, bytes]] = Counter()
            for rank in ranks:
                parts = [rank[step * rank.per_step + part] for part in range(rank.per_step)]
                sizes = [len(samples_of(part)) for part in parts]
                assert min(sizes) >= 1
                if size % world == 0:
                    assert max(sizes) <= per_device
                for part in parts:
                    found.update(samples_of(part))
            assert found == Counter(samples_of(whole[step]))


def test_a_micro_batch_does_not_depend_on_what_was_read_before(unequal: TokenBlocks) -> None:
    """A resumed run starts in the middle; a worker reads every other item."""
    in_order = micro_batches(unequal, global_batch_size=300, per_device_batch_size=50, steps=6)
    read = [samples_of(in_order[item]) for item in range(len(in_order))]
    for item in (35, 3, 20):
        fresh = micro_batches(unequal, global_batch_size=300, per_device_batch_size=50, steps=6)
        assert samples_of(fresh[item]) == read[item]
        assert samples_of(in_order[item]) == read[item]


def test_every_epoch_masks_anew(equal: TokenBlocks) -> None:
    batches = micro_batches(equal, global_batch_size=50, per_device_batch_size=50, steps=2)
    first, second = samples_of(batches[0]), samples_of(batches[1])
    assert sorted(block_numbers(batches[0])) == sorted(block_numbers(batches[1])) == list(range(50))
    assert set(first) != set(second)


def test_fewer_samples_than_processes_is_refused(equal: TokenBlocks) -> None:
    with pytest.raises(ValueError, match="global_batch_size 2 is less than the 3 processes"):
        micro_batches(equal, global_batch_size=2, world_size=3)


def test_a_full_batch_needs_no_mask(equal: TokenBlocks) -> None:
    assert micro_batches(equal)[0]["attention_mask"] is None
    two = [CorruptedSample(np.array([7, 8]), np.array([-100, 8])), CorruptedSample(np.array([9]), np.array([9]))]
    short = pad_samples(two, PAD)
    assert short["input_ids"].tolist() == [[7, 8], [9, PAD]]
    assert short["labels"].tolist() == [[-100, 8], [9, -100]]
    assert short["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert set(short) == {"input_ids", "labels", "attention_mask"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_padding_is_noise_only_where_the_objective_says_so(objective: str) -> None:
    settings = CorruptionSettings(0.15, MASK, VOCAB, (0, 1, 2, 3, 4), t_min=0.9, elbo=objective == "masked_diffusion")
    texts = [np.arange(5, 45), np.arange(5, 9)]
    samples = [
        OBJECTIVES[objective].load()(text, sample_generator(0, 0, 0, n), settings) for n, text in enumerate(texts)
    ]
    batch = pad_samples(samples, PAD)
    labels, mask = batch["labels"], batch["attention_mask"]
    assert labels is not None and mask is not None
    assert not mask[1, 4:].any() and (batch["input_ids"][1, 4:] == PAD).all()
    noisy = batch.get("noisy_ids")
    assert (noisy is None) == (batch.get("t") is None) == (not objective.startswith("masked_diffusion"))
    if objective == "masked_diffusion_with_padding":
        hidden = noisy[1, 4:] == MASK
        assert hidden.sum() > 20 and (labels[1, 4:][hidden] == PAD).all() and (labels[1, 4:][~hidden] == -100).all()
    else:
        assert (labels[1, 4:] == -100).all()
        assert noisy is None or (noisy[1, 4:] == PAD).all()
    if objective == "masked_diffusion":
        assert not batch["loss_weights"][1, 4:].any()


# --- fixed shapes ---


def shapes(batch: Batch) -> tuple[Any, ...]:
    ids, labels = batch["input_ids"], batch["labels"]
    read = batch.get("read_positions")
    return (ids.shape, None if read is None else read.shape, *(part.shape for part in labels))


@pytest.fixture(scope="module")
def long_texts(tmp_path_factory: pytest.TempPathFactory) -> TokenBlocks:
    return write_blocks(tmp_path_factory.mktemp("long"), [64] * 300, "concat")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_with_fixed_shapes_all_batches_have_one_and_the_same_labels(objective: str, long_texts: TokenBlocks) -> None:
    settings = replace(SETTINGS, t_min=0.1, elbo=True)
    changes: dict[str, Any] = {"objective": objective, "settings": settings, "steps": 40}
    exact, fixed = (micro_batches(long_texts, fixed_shapes=fixed, **changes) for fixed in (False, True))
    seen = set()
    for number in range(len(exact)):
        batch, padded = exact[number], fixed[number]
        assert torch.equal(labels_of(batch), labels_of(padded))
        count = len(batch["labels"].targets)
        assert len(padded["labels"].targets) >= count and not padded["labels"].weights[count:].any()
        assert torch.equal(padded["labels"].weights[:count], batch["labels"].weights)
        assert padded["labels"].total == batch["labels"].total
        if objective == "denoising":
            for read, mask in zip(padded["read_positions"], batch["attention_mask"], strict=True):
                assert read[read >= 0].tolist() == mask.nonzero()[:, 0].tolist(), (
                    "what is not deleted is read, in order"
                )
            assert padded["read_positions"].shape[1] < 64
        seen.add(shapes(padded))
    assert len(seen) == 1, seen
    if objective == "mlm":
        assert len({shapes(exact[number]) for number in range(len(exact))}) > 5, "labels vary in number"
        filled = fixed[0]["labels"]
        assert len(filled.targets) < 2 * float(filled.total) and filled.positions.shape[1] < 64


def test_a_batch_beyond_its_budget_keeps_every_label(long_texts: TokenBlocks) -> None:
    batches = micro_batches(long_texts, fixed_shapes=True)
    batches._labels = [1] * 10  # as if the drawn samples had had next to none
    exact, tight = micro_batches(long_texts)[0], batches[0]
    assert torch.equal(labels_of(exact), labels_of(tight))
    assert len(tight["labels"].targets) == 64 * 2 and tight["labels"].positions.shape[1] == 32


# --- the held-out text ---


def held_out(blocks: TokenBlocks, max_blocks: int = 30, **changes: Any) -> HeldOutBatches:
    return HeldOutBatches(blocks, plan(**changes), max_blocks)


def all_samples(batches: HeldOutBatches) -> list[tuple[bytes, bytes]]:
    return [sample for item in range(len(batches)) for sample in samples_of(batches[item])]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [30, 50, 1000])
def test_held_out_batches_are_dealt_out_to_the_ranks(equal: TokenBlocks, world: int, limit: int) -> None:
    whole = all_samples(held_out(equal, max_blocks=limit))
    assert len(whole) == min(limit, 50) == len(set(whole))
    ranks = [
        held_out(equal, max_blocks=limit, per_device_batch_size=3, rank=rank, world_size=world) for rank in range(world)
    ]
    assert Counter(sample for rank in ranks for sample in all_samples(rank)) == Counter(whole)
    assert all(len(samples_of(rank[item])) <= 3 for rank in ranks for item in range(len(rank)))


def test_held_out_masks_are_always_the_same_and_not_those_of_training(equal: TokenBlocks) -> None:
    batches = held_out(equal, max_blocks=50)
    assert all_samples(batches) == all_samples(batches) == all_samples(held_out(equal, max_blocks=50))
    training = micro_batches(equal, global_batch_size=50, per_device_batch_size=50)[0]
    assert set(samples_of(training)) != set(all_samples(batches))


def test_held_out_blocks_are_spread_over_the_whole_text(unequal: TokenBlocks) -> None:
    numbers = [number for item in range(8) for number in block_numbers(held_out(unequal)[item])]
    assert numbers[0] == 0 and numbers[-1] == len(unequal) - 1
    assert max(np.diff(sorted(numbers))) <= -(-len(unequal) // 29)


def test_changed_texts_keep_their_rows(unequal: TokenBlocks) -> None:
    """Retrieval pairs a text with what is left of it by their place alone."""
    seen: list[int] = []

    def shorten(ids: np.ndarray, index: int) -> np.ndarray:
        seen.append(index)
        return ids[:2]

    whole, short = (
        [row[:2].tolist() for batch in clean_batches(unequal, 23, 5, PAD, change) for row in batch["input_ids"]]
        for change in (None, shorten)
    )
    assert whole == short == [[CLS, FIRST_WORD + index] for index in seen] and len(seen) == 23


# --- the processes of a loader ---


def test_a_process_of_the_loader_gets_the_path_of_the_tokens_and_no_tokens(tmp_path: Path) -> None:
    """Python 3.14, macOS and Windows pickle what a loader's process reads."""
    blocks = write_blocks(tmp_path / "large", [100] * 5000, "document")
    batches = micro_batches(blocks, global_batch_size=4, per_device_batch_size=4)
    here = samples_of(batches[2])
    sent = pickle.dumps(batches)
    assert len(sent) < 200_000 < blocks.tokens.nbytes, "the order of an epoch is sent, the tokens are not"
    there = pickle.loads(sent)
    assert isinstance(there.blocks.tokens, np.memmap) and samples_of(there[2]) == here
    assert len(pickle.dumps(held_out(blocks))) < 20_000
