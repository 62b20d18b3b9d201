"""The one task loss: weighted cross-entropy over labelled positions, fused with the LM head.

Logits exist for one chunk of positions at a time, and each chunk's gradients are made as soon as its logits are, so
nothing is computed twice. Legend: M labelled positions, H hidden, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows of logits in memory at once.
CHUNK_ROWS = 512


class _FusedCrossEntropy(torch.autograd.Function):
    """Weighted sum of cross-entropies of `states @ weight.T`, whose gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, token_weights: Tensor | None, smoothing: float
    ) -> Tensor:
        """states [M, H] and weight [V, H] of one dtype, targets [M], token_weights [M] -> scalar, at least float32."""
        wants_states, wants_weight = ctx.needs_input_grad[:2]
        exact = torch.promote_types(states.dtype, torch.float32)
        total = states.new_zeros((), dtype=exact)
        states_gradient = torch.empty_like(states) if wants_states else None
        weight_gradient = torch.zeros_like(weight, dtype=exact) if wants_weight else None
        for start in range(0, len(targets), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            part, target = states[rows], targets[rows, None]
            factor = None if token_weights is None else token_weights[rows, None].to(exact)
            scores = torch.log_softmax((part @ weight.T).to(exact), dim=-1)
            losses = scores.gather(1, target) * (smoothing - 1.0)
            if smoothing:
                losses -= smoothing * scores.mean(dim=-1, keepdim=True)
            total += (losses if factor is None else losses * factor).sum()
            if not (wants_states or wants_weight):
                continue
            # d loss / d logits = softmax - (1 - smoothing) * one-hot - smoothing / V; the token's factor comes after.
            slopes = scores.exp_()
            slopes.scatter_add_(1, target, torch.full_like(losses, smoothing - 1.0))
            if smoothing:
                slopes -= smoothing / len(weight)
            slopes = slopes.to(weight.dtype)
            if states_gradient is not None:
                gradient = slopes @ weight
                states_gradient[rows] = gradient if factor is None else gradient * factor
            if weight_gradient is not None:
                weighted = part if factor is None else (part * factor).to(weight.dtype)
                if weight_gradient.dtype == weight.dtype:
                    weight_gradient.addmm_(slopes.T, weighted)
                else:
                    weight_gradient += slopes.T @ weighted
        ctx.save_for_backward(states_gradient, weight_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The stored gradients times that of the sum."""
        states, weight = ctx.saved_tensors
        return None if states is None else states * gradient, None if weight is None else weight * gradient, *[None] * 3


def summed_cross_entropy(
    states: Tensor,
    lm_weight: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    token_weights: Tensor | None = None,
) -> Tensor:
    """Weighted sum of the cross-entropies of M positions, in nats.

    Differentiable once, with respect to `states` and `lm_weight`. Under autocast the products are in its precision;
    the softmax, the sum over chunks and the gradient of the weight are in float32.

    Args:
        states: [M, H] decoded states.
        lm_weight: [V, H] weight of the LM head (no bias).
        targets: [M] token ids, none of them ignored.
        label_smoothing: share of the probability spread over the vocabulary.
        token_weights: [M] factors, constants; None counts every position once.

    Returns:
        A float32 scalar; zero for M = 0.
    """
    if not torch.is_grad_enabled():  # else gradients that nobody asks for are made of a weight that wants them
        states, lm_weight = states.detach(), lm_weight.detach()
    device = states.device.type
    if torch.is_autocast_enabled(device):
        precision = torch.get_autocast_dtype(device)
        states, lm_weight = states.to(precision), lm_weight.to(precision)
    with torch.autocast(device, enabled=False):
        return _FusedCrossEntropy.apply(states, lm_weight, targets, token_weights, label_smoothing)
