"""The one task loss: weighted cross-entropy over labelled positions, without ever building [B, N, V].

Legend: M labelled positions, H hidden, V vocabulary.
"""

from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# Rows of logits in memory at once; larger inputs are recomputed chunk by chunk in the backward pass.
CHUNK_ROWS = 2048


def _summed_cross_entropy(
    states: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None, smoothing: float
) -> Tensor:
    logits = functional.linear(states, weight).float()
    if token_weights is None:
        return functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    return (
        functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing) * token_weights
    ).sum()


def summed_cross_entropy(
    states: Tensor,
    lm_weight: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the cross-entropies of M positions, in nats.

    Args:
        states: [M, H] decoded states.
        lm_weight: [V, H] weight of the LM head (no bias).
        targets: [M] token ids, none of them ignored.
        label_smoothing: share of the probability spread over the vocabulary.
        token_weights: [M] factors; None counts every position once.

    Returns:
        A float32 scalar; zero for M = 0.
    """
    if len(targets) <= CHUNK_ROWS or not torch.is_grad_enabled():
        return _summed_cross_entropy(states, lm_weight, targets, token_weights, label_smoothing)
    weights = [None] * len(targets) if token_weights is None else token_weights.split(CHUNK_ROWS)
    parts = [
        checkpoint(_summed_cross_entropy, *part, label_smoothing, use_reentrant=False)
        for part in zip(states.split(CHUNK_ROWS), repeat(lm_weight), targets.split(CHUNK_ROWS), weights, strict=False)
    ]
    return torch.stack(parts).sum()
