"""The one task loss: weighted cross-entropy over labelled positions, without ever building [B, N, V].

Legend: M labelled positions, H hidden, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100
# Rows of logits in memory at once; larger inputs are recomputed chunk by chunk in the backward pass.
CHUNK_ROWS = 2048


def _summed_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    logits = functional.linear(states, weight).float()
    return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


def summed_cross_entropy(states: Tensor, lm_weight: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum of the cross-entropies of M positions, in nats.

    Args:
        states: [M, H] decoded states.
        lm_weight: [V, H] weight of the LM head (no bias).
        targets: [M] token ids, none of them ignored.
        label_smoothing: share of the probability spread over the vocabulary.

    Returns:
        A float32 scalar; zero for M = 0.
    """
    if len(targets) <= CHUNK_ROWS or not torch.is_grad_enabled():
        return _summed_cross_entropy(states, lm_weight, targets, label_smoothing)
    parts = [
        checkpoint(_summed_cross_entropy, part, lm_weight, part_targets, label_smoothing, use_reentrant=False)
        for part, part_targets in zip(states.split(CHUNK_ROWS), targets.split(CHUNK_ROWS), strict=True)
    ]
    return torch.stack(parts).sum()
