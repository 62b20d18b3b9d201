"""The training step against a textbook concept encoder, and the loss against plain cross-entropy.

Run: `python benchmarks/step.py [--rows perceiver_mlm_L2,...] [--rounds 5] [--output FILE.json]`
H512 C128 V50,368 N512 in fp32 with dropout 0.1 and the optimizer, one thread. Both sides take a step in turn; a ratio
is that of the CPU-seconds of a pair, > 1 where ours is faster. Results stand in docs/benchmarks.md.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from textbook import TextbookEncoder
from torch import Tensor
from torch.nn import functional

from models.autoencoder import ConceptModelForMaskedLM
from models.configuration import ConceptConfig
from models.family import OBJECTIVES, VARIANTS
from models.labels import locate_labels
from models.losses import summed_cross_entropy
from models.objectives import CorruptionSettings, sample_generator
from models.pretraining_step import PretrainingStep
from tasks.data.token_blocks import pad_samples

VOCABULARY, WIDTH, INNER, LENGTH = 50_368, 512, 2048, 512
MASK, PAD, SPECIAL = 3, 0, (0, 1, 2, 3)
# name -> variant, layers, BiXT
ROWS = {
    "perceiver_mlm_L2": ("perceiver_mlm", 2, False),
    "perceiver_mlm_L6": ("perceiver_mlm", 6, False),
    "perceiver_posonly_mlm_L2": ("perceiver_posonly_mlm", 2, False),
    "tsdae_L6": ("tsdae", 6, False),
    "tsdae_bixt_L6": ("tsdae", 6, True),
    "diffusion_L2": ("diffusion", 2, False),
    "diffusion_L6": ("diffusion", 6, False),
}
LABELS = (4096, 32768)

Step = Callable[[], None]


def corrupted_batch(variant: str, size: int) -> dict[str, Any]:
    """A batch of random tokens, corrupted as the variant's training corrupts its text."""
    settings = CorruptionSettings(0.15, MASK, VOCABULARY, SPECIAL, t_min=0.1)
    corrupt = OBJECTIVES[VARIANTS[variant].objective].load()
    ids = np.random.default_rng(0).integers(len(SPECIAL), VOCABULARY, size=(size, LENGTH))
    return pad_samples([corrupt(row, sample_generator(0, 0, 0, n), settings) for n, row in enumerate(ids)], PAD)


def our_step(variant: str, layers: int, bixt: bool, size: int) -> Step:
    """A step of `models/` as the training loop takes it."""
    row = VARIANTS[variant]
    config = ConceptConfig(
        vocab_size=VOCABULARY,
        num_layers=layers,
        use_bixt=bixt,
        decoder_type=row.decoder,
        tie_word_embeddings=row.tied,
        mask_token_id=MASK,
    )
    module = PretrainingStep(ConceptModelForMaskedLM(config), {}, "fixed", row.label_smoothing).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    batch = corrupted_batch(variant, size)
    batch["labels"] = locate_labels(batch["labels"])
    count = batch["labels"].total.float()

    def step() -> None:
        module(**batch, num_items_in_batch=count, share=1.0)["total"].backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def textbook_step(variant: str, layers: int, bixt: bool, size: int, careful: bool) -> Step:
    """The same step as a textbook would write it: labels [B, N], a mask in every batch."""
    decoder = VARIANTS[variant].decoder
    module = TextbookEncoder(decoder, VOCABULARY, WIDTH, layers, INNER, LENGTH, bixt, careful).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    given = corrupted_batch(variant, size)
    batch = {name: given.get(name) for name in ("input_ids", "attention_mask", "labels", "noisy_ids", "t")}
    if batch["attention_mask"] is None:
        batch["attention_mask"] = torch.ones(size, LENGTH, dtype=torch.int64)

    def step() -> None:
        module(**batch).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def cpu_seconds(step: Step) -> float:
    """CPU-seconds of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def paired(ours: Step, theirs: Step, rounds: int) -> dict[str, Any]:
    """Both in turn after one unmeasured step: medians, and the median and range of the ratio of each pair."""
    ours(), theirs()
    pairs = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(rounds)]
    ratios = sorted(other / own for own, other in pairs)
    return {
        "ours_s": round(statistics.median(own for own, _ in pairs), 3),
        "theirs_s": round(statistics.median(other for _, other in pairs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "from": round(ratios[0], 3),
        "to": round(ratios[-1], 3),
    }


def loss_step(labels: int, vocabulary: int, fused: bool) -> Step:
    """Loss and gradients of that many labelled positions."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(labels, WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, WIDTH, generator=generator) * 0.05).requires_grad_()
    targets = torch.randint(vocabulary, (labels,), generator=generator)

    def plain() -> Tensor:
        return functional.cross_entropy(functional.linear(states, weight), targets, reduction="sum")

    def step() -> None:
        states.grad = weight.grad = None
        (summed_cross_entropy(states, weight, targets) if fused else plain()).backward()

    return step


def peak_megabytes(labels: int, vocabulary: int, fused: bool) -> int:
    """Peak memory of the loss step alone, measured in a process of its own (Linux)."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torch, step; "
        f"torch.set_num_threads(1); run = step.loss_step({labels}, {vocabulary}, {fused}); "
        "before = step.peak_kilobytes(); run(); print((step.peak_kilobytes() - before) // 1024)"
    )
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def peak_kilobytes() -> int:
    """Peak memory of this process; `getrusage` would begin with that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def loss_figures(labels: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Speed and memory of the fused loss against plain cross-entropy."""
    speed = paired(loss_step(labels, vocabulary, True), loss_step(labels, vocabulary, False), rounds)
    return speed | {
        "ours_mb": peak_megabytes(labels, vocabulary, True),
        "theirs_mb": peak_megabytes(labels, vocabulary, False),
    }


def main() -> None:
    """Measure the rows and print one line for each."""
    losses = [f"loss_{labels}_V{vocabulary}" for labels in LABELS for vocabulary in (4096, VOCABULARY)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join([*ROWS, *losses]))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8, help="sequences of a step")
    parser.add_argument(
        "--logits", choices=["all", "labelled"], default="all", help="what the textbook's LM head reads"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = {}
    for name in options.rows.split(","):
        torch.manual_seed(0)
        if name in ROWS:
            row = (*ROWS[name], options.batch)
            sides = our_step(*row), textbook_step(*row, options.logits == "labelled")
            figures[name] = paired(*sides, options.rounds)
        else:
            labels, vocabulary = (int(part.lstrip("V")) for part in name.split("_")[1:])
            figures[name] = loss_figures(labels, vocabulary, options.rounds)
        print(name, json.dumps(figures[name]), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
