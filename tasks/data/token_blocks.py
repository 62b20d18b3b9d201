"""Reading a prepared corpus: blocks from a memory map, the order of an epoch, and corrupted micro-batches.

The order of samples is a pure function of (seed, epoch); a step takes the next `global_batch_size` samples of the
endless stream of epochs, for any number of processes.
Legend: B samples of a micro-batch, N tokens.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from models.family import IGNORE_INDEX, OBJECTIVES
from models.labels import LabelBudget, grown, locate_labels
from models.objectives import CorruptedSample, CorruptionSettings, sample_generator, uncorrupted

# Blocks of unequal length are sorted within windows of this many global batches.
GROUPING_WINDOW = 50
# The label budget comes from the labels of this many samples, whose noise has a stream of its own.
BUDGET_SAMPLES, BUDGET_STREAM = 256, 3


class TokenBlocks:
    """The blocks of one side (`train` or `held_out`) of a prepared corpus."""

    def __init__(self, corpus: Path, side: str) -> None:
        self._opened = corpus, side
        facts = json.loads((corpus / "corpus.json").read_text(encoding="utf-8"))
        dtype = np.uint16 if facts["vocab_size"] <= 2**16 else np.uint32
        self.tokens = np.memmap(corpus / side / "tokens.bin", dtype=dtype, mode="r")
        self.starts, self.lengths = np.load(corpus / side / "blocks.npy", mmap_mode="r")
        self.equal_lengths = facts["blocks"] == "concat"

    def __reduce__(self) -> tuple[Any, ...]:
        """A process of the loader opens the files itself: pickled, a map would become all of its tokens."""
        return TokenBlocks, self._opened

    def __len__(self) -> int:
        return len(self.starts)

    def block(self, index: int) -> np.ndarray:
        """Token ids of a block as int64."""
        start = int(self.starts[index])
        return self.tokens[start : start + int(self.lengths[index])].astype(np.int64)


def epoch_order(blocks: TokenBlocks, seed: int, epoch: int, global_batch_size: int) -> np.ndarray:
    """All block indices in the order of an epoch; blocks of unequal length are grouped by similar length."""
    generator = np.random.default_rng((seed, epoch))
    order = generator.permutation(len(blocks))
    if blocks.equal_lengths:
        return order
    window = GROUPING_WINDOW * global_batch_size
    lengths = np.asarray(blocks.lengths)
    parts = [order[start : start + window] for start in range(0, len(order), window)]
    order = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    whole = len(order) // global_batch_size * global_batch_size
    batches = order[:whole].reshape(-1, global_batch_size)
    return np.concatenate([batches[generator.permutation(len(batches))].ravel(), order[whole:]])


Change = Callable[[np.ndarray, int], np.ndarray]
# A batch as `PretrainingStep` takes it; `attention_mask` is None where nothing is hidden or padded.
Batch = dict[str, Any]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device, without waiting until it is there."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)


def pad_samples(samples: list[CorruptedSample], pad_token_id: int) -> Batch:
    """Stack samples into input_ids, labels, attention_mask, noisy_ids, loss_weights [B, N], t [B], read_positions.

    The last four depend on the objective; all samples of a batch come from the same one. `read_positions` [B, R] are
    as `ConceptEncoder` takes them.
    """
    longest = max(len(sample.input_ids) for sample in samples)

    def stack(parts: list[np.ndarray], padding: float, dtype: Any) -> np.ndarray:
        table = np.full((len(parts), longest), padding, dtype=dtype)
        for row, part in enumerate(parts):
            table[row, : len(part)] = part
        return table

    masks = [(sample, sample.attention_mask) for sample in samples]
    mask = stack([np.ones(len(sample.input_ids)) if own is None else own for sample, own in masks], 0, np.int64)
    labels = stack([sample.labels for sample in samples], IGNORE_INDEX, np.int64)
    batch: dict[str, Any] = {
        "input_ids": stack([sample.input_ids for sample in samples], pad_token_id, np.int64),
        "labels": labels,
        "attention_mask": None if mask.all() else mask,
    }
    if samples[0].noisy_ids is not None:
        noisy = stack([np.asarray(sample.noisy_ids) for sample in samples], pad_token_id, np.int64)
        for row, sample in enumerate(samples):
            _mask_padding(sample, noisy[row], labels[row], pad_token_id)
        batch |= {"noisy_ids": noisy, "t": np.array([sample.t for sample in samples], dtype=np.float32)}
    if samples[0].loss_weights is not None:
        batch["loss_weights"] = stack([np.asarray(sample.loss_weights) for sample in samples], 0.0, np.float32)
    if samples[0].attention_mask is not None:  # what is hidden need not be read
        counts = mask.sum(axis=1)
        order = np.argsort(mask == 0, axis=1, kind="stable")[:, : counts.max()]
        batch["read_positions"] = np.where(np.arange(counts.max()) < counts[:, None], order, -1)
    return {name: None if value is None else torch.from_numpy(value) for name, value in batch.items()}


def _mask_padding(sample: CorruptedSample, noisy: np.ndarray, labels: np.ndarray, pad_token_id: int) -> None:
    """Mask padding with probability t and label it, in place, if the objective requires it."""
    if sample.padding_noise is None or sample.t is None:
        return
    length = len(sample.input_ids)
    masked = sample.labels != IGNORE_INDEX
    hidden = sample.padding_noise.random(len(noisy) - length) < sample.t
    noisy[length:][hidden] = np.asarray(sample.noisy_ids)[masked][0]  # the mask token; every sample has at least one
    labels[length:][hidden] = pad_token_id


def spread_evenly(blocks: TokenBlocks, count: int) -> np.ndarray:
    """Indices of at most `count` blocks, spread evenly over the corpus rather than taken from its beginning."""
    return np.linspace(0, len(blocks) - 1, min(count, len(blocks))).round().astype(np.int64)


def clean_batches(
    blocks: TokenBlocks, count: int, batch_size: int, pad_token_id: int, change: Change | None = None
) -> Iterator[Batch]:
    """input_ids and attention_mask of at most `count` blocks, transformed by `change(ids, index)` if given."""
    chosen = spread_evenly(blocks, count)
    for start in range(0, len(chosen), batch_size):
        indices = chosen[start : start + batch_size].tolist()
        texts = [blocks.block(index) if change is None else change(blocks.block(index), index) for index in indices]
        batch = pad_samples([uncorrupted(text) for text in texts], pad_token_id)
        del batch["labels"]
        yield batch


@dataclass(frozen=True)
class BatchPlan:
    """How the blocks of a corpus become batches.

    Attributes:
        objective: row of `models.family.OBJECTIVES`.
        seed: of the order of the blocks and of their corruption.
        global_batch_size: samples of a training step, over all ranks.
        per_device_batch_size: samples of a forward pass.
        fixed_shapes: labels fill a budget, so that all batches have the shapes of one compiled graph.
    """

    objective: str
    settings: CorruptionSettings
    pad_token_id: int
    seed: int
    global_batch_size: int
    per_device_batch_size: int
    rank: int = 0
    world_size: int = 1
    fixed_shapes: bool = False


class _CorruptedBatches(Dataset):
    """Batches of corrupted blocks; a subclass states which blocks stand in which batch."""

    def __init__(self, blocks: TokenBlocks, plan: BatchPlan) -> None:
        self.blocks, self.plan, self._corrupt = blocks, plan, OBJECTIVES[plan.objective].load()
        drawn = range(BUDGET_SAMPLES if plan.fixed_shapes else 0)
        samples = [*self._corrupted(BUDGET_STREAM, (divmod(number, len(blocks)) for number in drawn))]
        self._labels = [int((sample.labels != IGNORE_INDEX).sum()) for sample in samples]
        self._reads = [int(sample.attention_mask.sum()) for sample in samples if sample.attention_mask is not None]

    def _corrupted(self, stream: int, places: Iterable[tuple[int, int]]) -> Iterator[CorruptedSample]:
        """The corrupted blocks at (epoch, index); `stream` keeps training, evaluation and the budget apart."""
        plan = self.plan
        for epoch, index in places:
            generator = sample_generator(stream, plan.seed, epoch, index)
            yield self._corrupt(self.blocks.block(index), generator, plan.settings)

    def _batch(self, stream: int, places: list[tuple[int, int]], *, weighted: bool) -> Batch:
        """Corrupt and stack blocks; without `weighted` all labels count the same."""
        batch = pad_samples([*self._corrupted(stream, places)], self.plan.pad_token_id)
        weights, budget = batch.pop("loss_weights", None), None
        if self._labels:
            budget = LabelBudget(_room(self._labels, 1, 6.0, 8), _room(self._labels, len(places), 4.0, 64))
        if self._reads:
            read, length = batch["read_positions"], batch["input_ids"].shape[1]
            width = min(grown(_room(self._reads, 1, 6.0, 8), read.shape[1]), length)
            batch["read_positions"] = functional.pad(read, (0, width - read.shape[1]), value=-1)
        batch["labels"] = locate_labels(batch["labels"], weights if weighted else None, budget)
        return batch


def _room(counts: list[int], samples: int, deviations: float, multiple: int) -> int:
    """Room for what so many samples hold together, that many standard deviations above what was drawn."""
    needed = samples * float(np.mean(counts)) + deviations * samples**0.5 * float(np.std(counts))
    return multiple * max(1, math.ceil(needed / multiple))


def micro_batches_per_step(global_batch_size: int, per_device_batch_size: int, world_size: int) -> int:
    """Into how many micro-batches each rank cuts its share of a step."""
    largest_share = -(-global_batch_size // world_size)
    return min(-(-largest_share // per_device_batch_size), global_batch_size // world_size)


class MicroBatches(_CorruptedBatches):
    """All micro-batches of one rank, from the first step to the last.

    Item `k` is micro-batch `k % per_step` of step `k // per_step`. The samples of a step are dealt out to the ranks and
    then split evenly into micro-batches, so any global batch size fits any number of processes; where it does not
    divide, a micro-batch may hold one sample more than `per_device_batch_size`.

    Raises:
        ValueError: a step has fewer samples than there are processes.
    """

    def __init__(self, blocks: TokenBlocks, plan: BatchPlan, steps: int) -> None:
        super().__init__(blocks, plan)
        if plan.global_batch_size < plan.world_size:
            raise ValueError(f"global_batch_size {plan.global_batch_size} is less than the {plan.world_size} processes")
        self.steps = steps
        self.per_step = micro_batches_per_step(plan.global_batch_size, plan.per_device_batch_size, plan.world_size)
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.steps * self.per_step

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # A step may straddle two epochs, never three.
            self._orders = {other: order for other, order in self._orders.items() if other >= epoch - 1}
            self._orders[epoch] = epoch_order(self.blocks, self.plan.seed, epoch, self.plan.global_batch_size)
        return self._orders[epoch]

    def __getitem__(self, item: int) -> Batch:
        step, part = divmod(item, self.per_step)
        first = step * self.plan.global_batch_size
        mine = np.arange(first + self.plan.rank, first + self.plan.global_batch_size, self.plan.world_size)
        places = [divmod(int(position), len(self.blocks)) for position in np.array_split(mine, self.per_step)[part]]
        return self._batch(0, [(epoch, int(self._order(epoch)[offset])) for epoch, offset in places], weighted=True)

    def tokens(self, step: int) -> int:
        """Tokens of a step without padding, over all ranks."""
        places = range(step * self.plan.global_batch_size, (step + 1) * self.plan.global_batch_size)
        return sum(
            int(self.blocks.lengths[self._order(epoch)[offset]])
            for epoch, offset in (divmod(place, len(self.blocks)) for place in places)
        )


class HeldOutBatches(_CorruptedBatches):
    """Fixed corrupted batches of held-out text for the evaluation loss; the same at every evaluation and world size.

    Its losses are plain nats, so the objective's token weights are left out.
    """

    def __init__(self, blocks: TokenBlocks, plan: BatchPlan, max_blocks: int) -> None:
        super().__init__(blocks, plan)
        chosen = spread_evenly(blocks, max_blocks)[plan.rank :: plan.world_size]
        size = plan.per_device_batch_size
        self.batches = [chosen[start : start + size] for start in range(0, len(chosen), size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Batch:
        return self._batch(1, [(0, int(index)) for index in self.batches[item]], weighted=False)
