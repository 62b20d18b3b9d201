"""The training step of every variant against a textbook concept encoder: time and memory.

fp32 with dropout 0.1 and the optimizer. The careful textbook encoder computes logits at labelled positions only.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from benchmarks.measuring import Step, fresh, in_turn, peak_bytes, ratio, spread
from benchmarks.textbook import TextbookEncoder
from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import IGNORE_INDEX, OBJECTIVES, VARIANTS
from models.labels import locate_labels
from models.objectives import CorruptionSettings, sample_generator
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import pad_samples

TITLE = "The training step"
MASK, PAD, SPECIAL = 3, 0, (0, 1, 2, 3)
# name -> variant, layers, BiXT
TRAININGS = {
    "perceiver_mlm L2": ("perceiver_mlm", 2, False),
    "perceiver_mlm L6": ("perceiver_mlm", 6, False),
    "perceiver_posonly_mlm L2": ("perceiver_posonly_mlm", 2, False),
    "tsdae L6": ("tsdae", 6, False),
    "tsdae L6 with BiXT": ("tsdae", 6, True),
    "diffusion L2": ("diffusion", 2, False),
    "diffusion L6": ("diffusion", 6, False),
}


class Size(NamedTuple):
    """What every step of a table shares: 128 concepts, heads 64 wide, feed-forward layers of 4H."""

    width: int = 512
    vocabulary: int = 50_368
    length: int = 512
    batch: int = 8
    rounds: int = 5


SMALL = Size(64, 512, 32, 2, 1)


def corrupted(variant: str, texts: Sequence[np.ndarray], size: Size) -> dict[str, Any]:
    """A batch of texts, corrupted as the variant's training corrupts them."""
    settings = CorruptionSettings(0.15, MASK, size.vocabulary, SPECIAL, t_min=0.1)
    corrupt = OBJECTIVES[VARIANTS[variant].objective].load()
    return pad_samples([corrupt(row, sample_generator(0, 0, 0, n), settings) for n, row in enumerate(texts)], PAD)


def corrupted_batch(variant: str, size: Size) -> dict[str, Any]:
    """A batch of random tokens."""
    ids = np.random.default_rng(0).integers(len(SPECIAL), size.vocabulary, size=(size.batch, size.length))
    return corrupted(variant, ids, size)


def optimized(module: torch.nn.Module, optimizer: torch.optim.Optimizer, loss: Step) -> Step:
    """A step: the loss, its gradients clipped, the optimizer."""

    def step() -> None:
        loss().backward()  # type: ignore[attr-defined]
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_config(variant: str, size: Size, **model: Any) -> ConceptConfig:
    """Of a variant; `model` are further arguments."""
    row = VARIANTS[variant]
    return ConceptConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_attention_heads=size.width // 64,
        intermediate_size=4 * size.width,
        max_sequence_length=size.length,
        decoder_type=row.decoder,
        tie_word_embeddings=row.tied,
        mask_token_id=MASK,
        **model,
    )


def our_step(variant: str, size: Size, batch: Mapping[str, Any] | None = None, **model: Any) -> Step:
    """A step of `models/` as the training loop takes it; `model` are arguments of its configuration."""
    torch.manual_seed(0)
    built = ConceptModelForMaskedLM(our_config(variant, size, **model))
    module = PretrainingStep(built, {}, "fixed", VARIANTS[variant].label_smoothing).train()
    batch = dict(batch or corrupted_batch(variant, size))
    batch["labels"] = locate_labels(batch["labels"])
    count = batch["labels"].total.float()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    return optimized(module, optimizer, lambda: module(**batch, num_items_in_batch=count, share=1.0)["total"])


def textbook_step(
    variant: str, layers: int, bixt: bool, size: Size, careful: bool, given: Mapping[str, Any] | None = None
) -> Step:
    """The same step as a textbook would write it: labels [B, N], rows padded to N, a mask in every batch."""
    torch.manual_seed(0)
    decoder = VARIANTS[variant].decoder
    module = TextbookEncoder(
        decoder, size.vocabulary, size.width, layers, 4 * size.width, size.length, bixt, careful
    ).train()
    batch = dict.fromkeys(("input_ids", "attention_mask", "labels", "noisy_ids", "t"))
    batch |= {name: value for name, value in (given or corrupted_batch(variant, size)).items() if name in batch}
    rest = size.length - batch["input_ids"].shape[1]
    if batch["attention_mask"] is None:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    for name, filler in {"input_ids": PAD, "attention_mask": 0, "labels": IGNORE_INDEX}.items():
        batch[name] = functional.pad(batch[name], (0, rest), value=filler)
    return optimized(module, torch.optim.AdamW(module.parameters(), lr=1e-4), lambda: module(**batch))


def side(name: str, kind: str, size: Size) -> Step:
    """A step of ours, of the textbook's or of the careful one's."""
    variant, layers, bixt = TRAININGS[name]
    if kind == "ours":
        return our_step(variant, size, num_layers=layers, use_bixt=bixt)
    return textbook_step(variant, layers, bixt, size, kind == "careful")


def memory(name: str, kind: str, size: Size) -> float:
    """Peak of the second step, with weights and the optimizer's state, in MB; in a process of its own."""
    before, step = peak_bytes(), side(name, kind, size)
    step(), step()
    return (peak_bytes() - before) / 1e6


def times(name: str, size: Size) -> dict[str, list[float]]:
    """CPU-seconds of all three, in turn."""
    return in_turn({kind: side(name, kind, size) for kind in ("ours", "textbook", "careful")}, size.rounds)


def rows(quick: bool) -> list[dict[str, object]]:
    """A row for each variant."""
    size = SMALL if quick else Size()
    table = []
    for name in list(TRAININGS)[: 1 if quick else None]:
        seconds, megabytes = fresh(times, name, size), partial(fresh, memory, name, size=size)
        table.append(
            {
                "step": name,
                "ours, s": spread(seconds["ours"]),
                "textbook over ours": ratio(seconds["textbook"], seconds["ours"]),
                "careful over ours": ratio(seconds["careful"], seconds["ours"]),
                "MB, ours": megabytes("ours"),
                "MB, textbook": megabytes("textbook"),
                "MB, careful": megabytes("careful"),
            }
        )
    return table
