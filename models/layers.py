"""Building blocks shared by encoder, decoders and heads.

Legend: B batch, N tokens or queries, M keys, C concepts, H hidden, I intermediate.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

# Keys and values, each [B, heads, M, width of a head].
KeysValues = tuple[Tensor, Tensor]


class InputProjection(nn.Linear):
    """Queries, keys or values of an attention; a class of its own because its weights start smaller than others."""


class Attention(nn.Module):
    """Multi-head scaled dot-product attention with biases (Vaswani et al. 2017).

    Args:
        own_context: whether it has keys and values of its own; without, `read` is given those of another attention.
    """

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, *, own_context: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = InputProjection(hidden_size, hidden_size)
        self.kv_proj = InputProjection(hidden_size, 2 * hidden_size) if own_context else None
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, queries: Tensor, context: Tensor, keep: Tensor | None = None) -> Tensor:
        """Queries [B, N, H] read a context [B, M, H], both keys and values -> [B, N, H]; `keep` as in `read`."""
        (keys_values,) = keys_and_values([self], context)
        return self.read(queries, keys_values, keep)

    def read(self, queries: Tensor, keys_values: KeysValues, keep: Tensor | None = None) -> Tensor:
        """Queries [B, N, H] read keys and values -> [B, N, H].

        `keep`, bool [B, 1, 1, M], is False where a key is padding; None reads all and allows the flash kernel.
        """
        batch, length, width = queries.shape
        q = self.q_proj(queries).view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(
            q, *keys_values, attn_mask=keep, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))


def keys_and_values(attentions: Sequence[Attention], context: Tensor) -> list[KeysValues]:
    """Keys and values of a context [B, M, H] for several attentions, by one product."""
    projections = [attention.kv_proj for attention in attentions if attention.kv_proj is not None]
    if len(projections) == 1:
        projected = projections[0](context)
    else:
        weight = torch.cat([projection.weight for projection in projections])
        projected = functional.linear(context, weight, torch.cat([projection.bias for projection in projections]))
    batch, length, width = context.shape
    heads = attentions[0].num_heads
    # Taken apart at once and where they lie, so that their gradients are put together by one copy.
    parts = projected.view(batch, length, 2 * len(projections), heads, width // heads).unbind(2)
    return [
        (keys.transpose(1, 2), values.transpose(1, 2)) for keys, values in zip(parts[::2], parts[1::2], strict=True)
    ]


class GatedFeedForward(nn.Module):
    """Wo(dropout(gelu(a) * b)) with (a, b) = split(Wi(x)); exact gelu (Shazeer 2020, GEGLU)."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float) -> None:
        super().__init__()
        self.wi = nn.Linear(hidden_size, 2 * intermediate_size)
        self.wo = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] -> [..., H]."""
        a, b = self.wi(x).chunk(2, dim=-1)
        return self.wo(self.dropout(functional.gelu(a) * b))


class ZeroLinear(nn.Linear):
    """A linear layer whose weights start at zero; a class of its own so that initialisation keeps it there."""


class TimestepEmbedding(nn.Module):
    """Noise level in [0, 1] -> [B, H]: sines, then cosines, then Linear, SiLU, Linear (Ho et al. 2020)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.wi = nn.Linear(hidden_size, 2 * hidden_size)
        self.wo = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, t: Tensor) -> Tensor:
        """t [B] in [0, 1] -> [B, H]."""
        half = self.wi.in_features // 2
        # Computed on each call: transformers leaves a buffer that no checkpoint holds undefined.
        frequency = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device) / half)
        angles = t.float()[:, None] * frequency
        features = torch.cat([torch.sin(angles), torch.cos(angles)], dim=-1)
        return self.wo(functional.silu(self.wi(features.to(self.wi.weight.dtype))))


class FeedForward(nn.Module):
    """dropout(Wo(gelu(Wi(x)))), the decoder's feed-forward layer."""

    def __init__(self, hidden_size: int, intermediate_size: int, dropout: float) -> None:
        super().__init__()
        self.wi = nn.Linear(hidden_size, intermediate_size)
        self.wo = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H] -> [..., H]."""
        return self.dropout(self.wo(functional.gelu(self.wi(x))))


class ConceptEmbedding(nn.Embedding):
    """The learned start of the concept stream; a class of its own because it gets a larger standard deviation."""


def sinusoidal_positions(length: int, width: int) -> Tensor:
    """Interleaved sin/cos positions, base 10,000 (Vaswani et al. 2017): [length, width]."""
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * (-torch.log(torch.tensor(10_000.0)) / width))
    table = torch.zeros(length, width)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency)[:, : width // 2]
    return table


def masked_mean(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Mean over the positions that are not padding: states [B, N, H], attention_mask [B, N] -> [B, H]."""
    if attention_mask is None:
        return states.mean(dim=1)
    weights = attention_mask.to(states.dtype).unsqueeze(-1)
    return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
