"""The loss (`models/losses.py`) against plain cross-entropy: forward and backward, time and memory.

Plain cross-entropy of 32,768 labels and 50,368 tokens needs some 20 GB, so it is not measured.
"""

import torch
from torch.nn import functional

from benchmarks.measuring import Step, fresh, in_turn, peak_bytes, ratio
from models.losses import summed_cross_entropy

TITLE = "The loss"
WIDTH = 512
SIZES = [(4096, 50_368), (32_768, 4096), (4096, 4096), (32_768, 50_368)]
MOST_LOGITS = 2**30


def loss_step(labels: int, vocabulary: int, fused: bool) -> Step:
    """Loss and gradients of that many labelled positions."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(labels, WIDTH, generator=generator).requires_grad_()
    weight = (torch.randn(vocabulary, WIDTH, generator=generator) * 0.05).requires_grad_()
    targets = torch.randint(vocabulary, (labels,), generator=generator)

    def step() -> None:
        states.grad = weight.grad = None
        if fused:
            loss = summed_cross_entropy(states, weight, targets)
        else:
            loss = functional.cross_entropy(functional.linear(states, weight), targets, reduction="sum")
        loss.backward()

    return step


def memory(labels: int, vocabulary: int, fused: bool) -> float:
    """Peak of a step beside its inputs, in MB; in a process of its own."""
    step = loss_step(labels, vocabulary, fused)
    before = peak_bytes()
    step()
    return (peak_bytes() - before) / 1e6


def times(labels: int, vocabulary: int, kinds: dict[str, bool], rounds: int) -> dict[str, list[float]]:
    """CPU-seconds of each kind, in turn."""
    return in_turn({name: loss_step(labels, vocabulary, fused) for name, fused in kinds.items()}, rounds)


def rows(quick: bool) -> list[dict[str, object]]:
    """A row for each number of labels and size of the vocabulary."""
    table = []
    for labels, vocabulary in [(256, 512)] if quick else SIZES:
        kinds = {"ours": True, "plain": False} if labels * vocabulary < MOST_LOGITS else {"ours": True}
        seconds = fresh(times, labels, vocabulary, kinds, 1 if quick else 5)
        megabytes = {name: fresh(memory, labels, vocabulary, fused) for name, fused in kinds.items()}
        table.append(
            {
                "labels": labels,
                "V": vocabulary,
                "plain's time over ours": ratio(seconds["plain"], seconds["ours"]) if "plain" in kinds else None,
                "MB, ours": megabytes["ours"],
                "MB, plain": megabytes.get("plain"),
            }
        )
    return table
